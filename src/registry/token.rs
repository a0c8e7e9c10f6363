//! Tokens of a registry: each is fetched by one thread at a time, kept until shortly before its end, and forgotten when the
//! registry does not take it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::RegistryError;
use crate::net::{is_same_server, Call, Payload, Url, Verb};
use crate::policy::is_loopback;

/// How long a token lasts that does not say so (token authentication specification of CNCF distribution).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// One that says it lasts for longer is asked for again all the same.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// A longer one fits into no request.
const MOST: usize = 16 << 10;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenFor {
    pub realm: String,
    pub service: Option<String>,
    /// One for each repository that is reached.
    pub scopes: Vec<String>,
}

/// A token, and until when it is used.
#[derive(Clone)]
pub(super) struct Token {
    value: String,
    until: Instant,
}

/// The answer of the place where tokens are had.
#[derive(Deserialize)]
struct Handed {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Token {
    /// As a request carries it.
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// Until when it is used.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The token in an answer that came to a request made at `asked`.
    ///
    /// # Errors
    ///
    /// The text says what is wrong with the answer.
    pub(super) fn parse(answer: &[u8], asked: Instant) -> Result<Self, &'static str> {
        let handed: Handed = serde_json::from_slice(answer).map_err(|_| "its answer is no JSON with a token")?;
        let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
        let value = filled(handed.token)
            .or(filled(handed.access_token))
            .ok_or("its answer holds no token")?;
        if value.len() > MOST || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("its token is none that a request can carry");
        }
        let life = handed.expires_in.filter(|life| life.is_finite() && *life >= 1.0);
        let life = life.map_or(DEFAULT_LIFE, |life| Duration::from_secs_f64(life.min(86_400.0)));
        // A fifth early: what is begun with it shall come to its end.
        let until = asked + life.min(LONGEST_LIFE).mul_f64(0.8);
        Ok(Self { value, until })
    }
}

/// The tokens of one registry.
#[derive(Default)]
pub(super) struct Tokens {
    by_use: Mutex<HashMap<TokenFor, Arc<Mutex<Kept>>>>,
}

/// What came of the last try.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    failed: Option<(Instant, RegistryError)>,
}

impl Tokens {
    /// The tokens that are kept now.
    pub(super) fn values(&self) -> Vec<String> {
        let all = self.by_use.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being fetched was shown to nobody yet.
        let kept = |place: &Arc<Mutex<Kept>>| Some(place.try_lock().ok()?.token.as_ref()?.value.clone());
        all.values().filter_map(kept).collect()
    }

    /// A token for `wanted`, which is not the one that was `refused`. The first that asks fetches it, the others wait for it.
    ///
    /// # Errors
    ///
    /// That of `fetch`, for all that waited for it: a silent server costs its time-out once. The next one that asks tries again.
    pub(super) fn get(
        &self,
        wanted: &TokenFor,
        refused: Option<&str>,
        fetch: impl FnOnce() -> Result<Token, RegistryError>,
    ) -> Result<String, RegistryError> {
        let asked = Instant::now();
        let place = {
            let mut all = self.by_use.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(wanted.clone()).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let fine = |token: &&Token| token.until > Instant::now() && Some(token.value.as_str()) != refused;
        if let Some(token) = place.token.as_ref().filter(fine) {
            return Ok(token.value.clone());
        }
        if let Some((_, error)) = place.failed.as_ref().filter(|(when, _)| *when > asked) {
            return Err(error.clone());
        }
        match fetch() {
            Ok(token) => Ok(place.token.insert(token).value.clone()),
            Err(error) => {
                place.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// Whether our credentials may go to `realm`, which the registry at `origin` names for tokens. `first` is the one that it named
/// first in this process: a registry that is taken over, or a server in front of it, does not gain a password by naming
/// another place.
///
/// # Errors
///
/// The text says why not.
pub(super) fn check_realm(origin: &Url, first: &mut Option<Url>, realm: &Url) -> Result<(), &'static str> {
    if is_same_server(origin, realm) {
        return Ok(());
    }
    if realm.scheme() != "https" {
        return Err("it is reached without TLS, and no credentials go there");
    }
    if realm.host_str().is_none_or(is_loopback) {
        return Err("it is another server of this machine, and no credentials go there");
    }
    if realm.host_str() == origin.host_str() {
        return Ok(());
    }
    match first {
        Some(first) if is_same_server(first, realm) => Ok(()),
        Some(_) => Err("the registry named another place for tokens before, and credentials go to that one alone"),
        None => {
            *first = Some(realm.clone());
            Ok(())
        }
    }
}

/// Whether all that `scope` is about is to pull from the repository `own` and to push to it.
pub(super) fn is_scope_of(scope: &str, own: &str) -> bool {
    scope.split(' ').all(|one| {
        let actions = one
            .strip_prefix("repository:")
            .and_then(|rest| rest.strip_prefix(own))
            .and_then(|rest| rest.strip_prefix(':'));
        actions.is_some_and(|actions| actions.split(',').all(|action| matches!(action, "pull" | "push")))
    })
}

/// The request for a token, with the header that shows who we are, if we are anybody.
pub(super) fn token_call(realm: &Url, wanted: &TokenFor, header: Option<String>) -> Call {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &wanted.service {
            query.append_pair("service", service);
        }
        for scope in &wanted.scopes {
            query.append_pair("scope", scope);
        }
    }
    Call {
        verb: Verb::Get,
        url,
        headers: header.map(|header| ("authorization", header)).into_iter().collect(),
        payload: Payload::Empty,
    }
}

/// The way of OAuth 2, for a token that stands for user and password.
pub(super) fn token_form(realm: &Url, wanted: &TokenFor, identity: &str) -> Call {
    let mut form = realm.clone();
    form.set_query(None);
    {
        let mut pairs = form.query_pairs_mut();
        pairs.append_pair("grant_type", "refresh_token");
        pairs.append_pair("client_id", "gantry");
        pairs.append_pair("service", wanted.service.as_deref().unwrap_or_default());
        pairs.append_pair("scope", &wanted.scopes.join(" "));
        pairs.append_pair("refresh_token", identity);
    }
    Call {
        verb: Verb::Post,
        url: realm.clone(),
        headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
        payload: Payload::Bytes(form.query().unwrap_or_default().as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::retry::Failure;
    use super::*;

    fn wanted() -> TokenFor {
        TokenFor {
            realm: "https://a.example/token".to_owned(),
            service: None,
            scopes: vec!["repository:x:pull".to_owned()],
        }
    }

    fn token(value: &str, life: &str) -> Token {
        let answer = format!("{{\"token\":\"{value}\"{life}}}");
        Token::parse(answer.as_bytes(), Instant::now()).unwrap()
    }

    #[test]
    fn a_token_is_fetched_once_however_many_want_it() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let got = tokens.get(&wanted(), None, || {
                        fetched.fetch_add(1, Ordering::Relaxed);
                        Ok(token("one", ""))
                    });
                    assert_eq!(got.unwrap(), "one");
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }

    #[test]
    fn a_token_that_is_old_or_refused_is_fetched_again() {
        let tokens = Tokens::default();
        let get = |refused, value: &str, life: &str| tokens.get(&wanted(), refused, || Ok(token(value, life))).unwrap();
        assert_eq!(get(None, "one", ",\"expires_in\":300"), "one");
        assert_eq!(get(None, "two", ""), "one");
        assert_eq!(get(Some("zero"), "two", ""), "one");
        assert_eq!(get(Some("one"), "two", ""), "two");
        let old = Token {
            value: "old".to_owned(),
            until: Instant::now(),
        };
        let other = TokenFor {
            service: Some("s".to_owned()),
            ..wanted()
        };
        assert_eq!(tokens.get(&other, None, || Ok(old)).unwrap(), "old");
        assert_eq!(tokens.get(&other, None, || Ok(token("new", ""))).unwrap(), "new");
    }

    #[test]
    fn a_failure_is_that_of_all_who_waited_and_of_nobody_after_them() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        let silent = || {
            RegistryError::broken(
                "get a token from",
                "https://a.example/",
                Failure::Silent,
                "no".to_owned(),
            )
        };
        let (begun, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                tokens.get(&wanted(), None, || {
                    fetched.fetch_add(1, Ordering::Relaxed);
                    begun.send(()).unwrap();
                    // Until the other one waits.
                    while Arc::strong_count(tokens.by_use.lock().unwrap().get(&wanted()).unwrap()) < 3 {
                        std::thread::yield_now();
                    }
                    Err(silent())
                })
            });
            begins.recv().unwrap();
            let second = tokens.get(&wanted(), None, || {
                fetched.fetch_add(1, Ordering::Relaxed);
                Err(silent())
            });
            assert_eq!(second.unwrap_err().failure(), Failure::Silent);
            assert_eq!(first.join().unwrap().unwrap_err().failure(), Failure::Silent);
        });
        assert_eq!(fetched.into_inner(), 1);
        assert_eq!(tokens.get(&wanted(), None, || Ok(token("one", ""))).unwrap(), "one");
    }

    #[test]
    fn credentials_go_to_one_realm_by_tls_and_to_the_registry() {
        let url = |text: &str| Url::parse(text).unwrap();
        let home = url("https://registry.example.org/");
        let mut first = None;
        let mut check = |home: &Url, realm: &str| check_realm(home, &mut first, &url(realm));
        assert!(check(&home, "https://registry.example.org/token").is_ok());
        assert!(check(&home, "https://registry.example.org:5001/token").is_ok());
        for (realm, says) in [
            ("http://registry.example.org/token", "without TLS"),
            ("http://auth.example.org/token", "without TLS"),
            ("https://127.0.0.1/token", "this machine"),
        ] {
            assert!(check(&home, realm).unwrap_err().contains(says), "{realm}");
        }
        assert!(check(&home, "https://auth.example.org/token").is_ok());
        assert!(check(&home, "https://auth.example.org/other").is_ok());
        for realm in ["https://evil.example/token", "https://auth.example.org:444/token"] {
            assert!(check(&home, realm).unwrap_err().contains("before"), "{realm}");
        }
        let here = url("http://127.0.0.1:5000/");
        let mut first = None;
        let mut check = |realm: &str| check_realm(&here, &mut first, &url(realm));
        assert!(check("http://127.0.0.1:5000/token").is_ok());
        assert!(check("http://127.0.0.1:6000/token").is_err());
        assert!(check("https://127.0.0.1:6000/token").is_err());
    }

    #[test]
    fn a_scope_is_of_one_repository_and_of_two_actions() {
        for scope in [
            "repository:team/a:pull",
            "repository:team/a:pull,push",
            "repository:team/a:push repository:team/a:pull",
        ] {
            assert!(is_scope_of(scope, "team/a"), "{scope}");
        }
        for scope in [
            "",
            "registry:catalog:*",
            "repository:team/a:delete",
            "repository:team/a:*",
            "repository:team/ab:pull",
            "repository:team/b:pull",
            "repository:team/a:pull repository:team/b:pull",
        ] {
            assert!(!is_scope_of(scope, "team/a"), "{scope}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let now = Instant::now();
        for (answer, life) in [
            (r#"{"token":"t"}"#, 48),
            (r#"{"access_token":"t","expires_in":300}"#, 240),
            (r#"{"token":"","access_token":"t","expires_in":0}"#, 48),
            (r#"{"token":"t","expires_in":1e99}"#, 2880),
        ] {
            let token = Token::parse(answer.as_bytes(), now).unwrap();
            assert_eq!(
                (token.value.as_str(), token.until - now),
                ("t", Duration::from_secs(life)),
                "{answer}"
            );
        }
        for answer in [
            "",
            "{}",
            "[]",
            r#"{"token":1}"#,
            r#"{"token":""}"#,
            r#"{"token":"a b"}"#,
            "{\"token\":\"a\\r\\nX: y\"}",
        ] {
            assert!(Token::parse(answer.as_bytes(), now).is_err(), "{answer}");
        }
        let long = format!("{{\"token\":\"{}\"}}", "x".repeat(MOST + 1));
        assert!(Token::parse(long.as_bytes(), now).is_err());
    }

    #[test]
    fn a_token_is_asked_for_with_all_that_the_realm_and_the_registry_say() {
        let wanted = TokenFor {
            realm: String::new(),
            service: Some("a b".to_owned()),
            scopes: vec!["repository:x:pull,push".to_owned(), "repository:y:pull".to_owned()],
        };
        let realm = Url::parse("https://a.example/token?tenant=1").unwrap();
        let call = token_call(&realm, &wanted, None);
        assert_eq!(
            call.url.as_str(),
            "https://a.example/token?tenant=1&service=a+b&scope=repository%3Ax%3Apull%2Cpush&scope=repository%3Ay%3Apull"
        );
        let Payload::Bytes(form) = token_form(&realm, &wanted, "i&d").payload else {
            panic!("a form has bytes")
        };
        let form = String::from_utf8(form).unwrap();
        assert!(
            form.starts_with("grant_type=refresh_token&client_id=gantry&service=a+b&scope=repository"),
            "{form}"
        );
        assert!(form.ends_with("&refresh_token=i%26d"), "{form}");
    }
}
