//! Tokens of a registry: each is fetched by one thread at a time, kept until shortly before its end, and forgotten when the
//! registry does not take it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::net::{Call, Payload, Url, Verb};

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
    by_use: Mutex<HashMap<TokenFor, Arc<Mutex<Option<Token>>>>>,
}

impl Tokens {
    /// A token for `wanted`, which is not the one that was `refused`. The first that asks fetches it, the others wait for it.
    ///
    /// # Errors
    ///
    /// That of `fetch`; the next one that asks tries again.
    pub(super) fn get<E>(
        &self,
        wanted: &TokenFor,
        refused: Option<&str>,
        fetch: impl FnOnce() -> Result<Token, E>,
    ) -> Result<String, E> {
        let place = {
            let mut all = self.by_use.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(wanted.clone()).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let fine = |token: &&Token| token.until > Instant::now() && Some(token.value.as_str()) != refused;
        if let Some(token) = place.as_ref().filter(fine) {
            return Ok(token.value.clone());
        }
        let token = place.insert(fetch()?);
        Ok(token.value.clone())
    }
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
                        Ok::<_, ()>(token("one", ""))
                    });
                    assert_eq!(got.as_deref(), Ok("one"));
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }

    #[test]
    fn a_token_that_is_old_or_refused_is_fetched_again() {
        let tokens = Tokens::default();
        let get = |refused, value: &str, life: &str| tokens.get(&wanted(), refused, || Ok::<_, ()>(token(value, life)));
        assert_eq!(get(None, "one", ",\"expires_in\":300").as_deref(), Ok("one"));
        assert_eq!(get(None, "two", "").as_deref(), Ok("one"));
        assert_eq!(get(Some("zero"), "two", "").as_deref(), Ok("one"));
        assert_eq!(get(Some("one"), "two", "").as_deref(), Ok("two"));
        let old = Token {
            value: "old".to_owned(),
            until: Instant::now(),
        };
        let other = TokenFor {
            service: Some("s".to_owned()),
            ..wanted()
        };
        assert_eq!(tokens.get(&other, None, || Ok::<_, ()>(old)).as_deref(), Ok("old"));
        assert_eq!(
            tokens.get(&other, None, || Ok::<_, ()>(token("new", ""))).as_deref(),
            Ok("new")
        );
        let failed = tokens.get(&wanted(), Some("two"), || Err("no"));
        assert_eq!(failed, Err("no"));
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
