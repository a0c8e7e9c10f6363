//! One request to a registry: it says who we are when it is asked, follows where it may, and says how it failed.
//!
//! Credentials go to the registry itself and to the realm that it names for tokens ([`check_realm`]), and after a redirect to
//! nobody. Requests
//! for a repository are made of names that were parsed, so no part of an address is a stranger's but what a registry sends
//! in `Location`, and that is judged by [`Wire::vet`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::challenge::{parse_challenges, Challenge};
use super::error::Problem;
use super::login::{FindLogin, FoundLogin, Login};
use super::redact::Secrets;
use super::registry_place::RegistryPlace;
use super::retry::Failure;
use super::said::{failed, failure_of, plain, refusal, shown, MAX_WORDS};
use super::token::{check_realm, is_scope_of, token_call, token_form, Token, TokenFor, Tokens};
use super::{Circumstances, LoginError, RegistryError};
use crate::net::{is_same_server, Answer, Call, Url, Verb, Wire};

const MAX_REDIRECTS: u32 = 5;

/// A registry. Cheap to clone, safe to use from several threads.
#[derive(Clone)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    host: String,
    origin: Url,
    wire: Wire,
    find_login: FindLogin,
    /// By repository; looked for once, as a helper that does not answer takes its time each time.
    logins: Mutex<HashMap<String, FoundLogin>>,
    /// The first place elsewhere that it named for tokens, which is the only one.
    realm: Mutex<Option<Url>>,
    /// What it asks for, as far as that was met.
    asks: Mutex<Option<Asks>>,
    /// The tokens that it asked for itself, by repository and access.
    wanted: Mutex<HashMap<String, TokenFor>>,
    tokens: Tokens,
    /// Whether it, or where it led, said that it was asked too often (429).
    is_limited: AtomicBool,
    /// Whether it ever answered.
    is_heard: AtomicBool,
    similar: Option<String>,
}

#[derive(Clone)]
enum Asks {
    Basic,
    Token { realm: String, service: Option<String> },
}

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access<'a> {
    /// Nothing but to be known.
    None,
    Pull,
    Push,
    /// To delete a manifest.
    Delete,
    /// To list the repositories.
    Catalogue,
    /// To push, and to take from another repository of the registry.
    Mount {
        from: &'a str,
    },
}

/// A repository of a registry.
#[derive(Clone)]
pub(crate) struct Repository {
    registry: Registry,
    name: String,
}

/// A request before it is known where it leads.
pub(super) struct Asked<'a> {
    /// A verb and its object, for errors.
    pub doing: &'static str,
    pub url: Url,
    pub access: Access<'a>,
}

/// What a request showed of us.
enum Shown {
    Basic(String),
    Token(String),
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({}/{})", self.registry.inner.host, self.name)
    }
}

impl Registry {
    /// The registry at `place`. Nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// When its host makes no address.
    pub(crate) fn new(wire: Wire, place: &RegistryPlace, find_login: FindLogin) -> Result<Self, RegistryError> {
        let scheme = if place.is_plain { "http" } else { "https" };
        let origin = Url::parse(&format!("{scheme}://{}/", place.host)).map_err(|error| {
            let text = format!("the host makes no address: {error}");
            RegistryError::new(
                "reach",
                &place.host,
                Problem::Wire {
                    failure: Failure::Setup,
                    text,
                    is_late: false,
                },
            )
        })?;
        let inner = Inner {
            host: place.host.clone(),
            origin,
            wire,
            find_login,
            logins: Mutex::default(),
            realm: Mutex::default(),
            asks: Mutex::default(),
            wanted: Mutex::default(),
            tokens: Tokens::default(),
            is_limited: AtomicBool::default(),
            is_heard: AtomicBool::default(),
            similar: place.similar.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether it asked in this process who we are.
    pub(super) fn has_asked(&self) -> bool {
        let asks = self.inner.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.is_some()
    }

    /// The address of `rest` on it.
    pub(super) fn url(&self, rest: &str) -> Url {
        let mut url = self.inner.origin.clone();
        url.set_path(rest);
        url
    }

    /// Its host.
    pub(crate) fn host(&self) -> &str {
        &self.inner.host
    }

    /// A repository of it.
    pub(crate) fn repository(&self, name: &str) -> Repository {
        Repository {
            registry: self.clone(),
            name: name.to_owned(),
        }
    }
}

impl Repository {
    /// Its registry.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The host of its registry.
    pub(crate) fn host(&self) -> &str {
        self.registry.host()
    }

    /// Whether the registry said in this process that it was asked too often.
    pub(crate) fn is_limited(&self) -> bool {
        self.registry.inner.is_limited.load(Ordering::Relaxed)
    }

    /// What it is called there.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Who we are there, for an API of the registry beside the protocol.
    pub(super) fn own_login(&self) -> Result<Option<Login>, LoginError> {
        let inner = &*self.registry.inner;
        Ok((inner.find_login)(&inner.host, &self.name)?.map(|(login, _)| login))
    }

    /// What goes over the network for it.
    pub(super) fn wire(&self) -> &Wire {
        &self.registry.inner.wire
    }

    /// Host and name, for people.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.host(), self.name)
    }

    /// The address of `rest` below it.
    pub(super) fn url(&self, rest: &str) -> Url {
        let mut url = self.registry.inner.origin.clone();
        // Names, digests and tags consist of what needs no escape.
        url.set_path(&format!("v2/{}/{rest}", self.name));
        url
    }

    /// Resolves what a registry sent as `Location` for an upload: on itself, or where it may send us.
    pub(super) fn location(&self, asked: &Asked<'_>, location: Option<&str>) -> Result<Url, RegistryError> {
        let refused = |reason| RegistryError::new(asked.doing, &plain(&asked.url), Problem::Redirect { reason });
        let Some(location) = location else {
            let reason = "it says not where to upload to (Location)".to_owned();
            return Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason));
        };
        let url = asked.url.join(location).map_err(|error| refused(error.to_string()))?;
        let vetted = self.registry.inner.wire.vet(&self.registry.inner.origin, &url);
        vetted.map_err(|reason| self.redacted(refused(reason)))?;
        Ok(url)
    }

    /// `error` without what the registry knows of our credentials: it may have chosen any text in it.
    pub(super) fn redacted(&self, error: RegistryError) -> RegistryError {
        let secrets = self.secrets();
        error.redacted(&|text| secrets.redact(text))
    }

    /// `text` of the registry without our credentials.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.secrets().redact(text)
    }

    fn secrets(&self) -> Secrets {
        let inner = &*self.registry.inner;
        let mut secrets = Secrets::default();
        let logins = inner.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins
            .values()
            .flatten()
            .flatten()
            .for_each(|(login, _)| secrets.add_login(login));
        drop(logins);
        inner.tokens.values().iter().for_each(|token| secrets.add(token));
        secrets
    }

    /// Makes the request; `make` makes the call for an address, once more for each redirect and for the first challenge.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] for every answer that is no success.
    pub(super) fn exchange(
        &self,
        asked: &Asked<'_>,
        make: &mut dyn FnMut(Url) -> Call,
    ) -> Result<Answer, RegistryError> {
        self.follow(asked, make).map(|(answer, _)| answer)
    }

    /// As [`exchange`](Self::exchange), with the address that answered.
    pub(super) fn follow(
        &self,
        asked: &Asked<'_>,
        make: &mut dyn FnMut(Url) -> Call,
    ) -> Result<(Answer, Url), RegistryError> {
        self.ask(asked, make).map_err(|error| self.told(error))
    }

    /// `error` without our credentials, and with what is known of the registry.
    pub(super) fn told(&self, error: RegistryError) -> RegistryError {
        self.redacted(error).of(self.circumstances())
    }

    fn circumstances(&self) -> Circumstances {
        let inner = &*self.registry.inner;
        let logins = inner.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let login = logins.get(&self.name).and_then(|found| found.as_ref().ok()?.as_ref());
        Circumstances {
            host: inner.host.clone(),
            login: login.map(|(_, said_by)| said_by.clone()),
            is_unheard: !inner.is_heard.load(Ordering::Relaxed),
            similar: inner.similar.clone(),
        }
    }

    fn ask(&self, asked: &Asked<'_>, make: &mut dyn FnMut(Url) -> Call) -> Result<(Answer, Url), RegistryError> {
        let inner = &*self.registry.inner;
        let mut url = asked.url.clone();
        let (mut redirects, mut was_challenged) = (0, false);
        // Who may read without a token does not depend on where tokens are had: it is asked as at the first time.
        let is_read = matches!(asked.access, Access::None | Access::Pull);
        let (mut shown, mut no_token) = match self.known(asked) {
            Err(error) if is_read && error.failure() != Failure::Login => (None, Some(error)),
            known => (known?, None),
        };
        loop {
            let is_home = is_same_server(&inner.origin, &url);
            let mut call = make(url.clone());
            if let Some(shown) = shown.as_ref().filter(|_| is_home) {
                call.headers.push(("authorization", shown.header()));
            }
            let is_reading = matches!(call.verb, Verb::Get | Verb::Head);
            let answer = inner
                .wire
                .send(call)
                .map_err(|error| failed(asked.doing, &url, &error))?;
            inner.is_heard.store(true, Ordering::Relaxed);
            match answer.status() {
                200..=299 => return Ok((answer, url)),
                301 | 302 | 303 | 307 | 308 => {
                    let refused =
                        |reason: String| RegistryError::new(asked.doing, &plain(&url), Problem::Redirect { reason });
                    if !is_reading {
                        return Err(refused(
                            "an upload goes where the registry said at its beginning".to_owned(),
                        ));
                    }
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(refused(format!("there are more than {MAX_REDIRECTS} of them")));
                    }
                    let location = answer
                        .header("location")
                        .ok_or_else(|| refused("it says not where to".to_owned()))?;
                    let next = url.join(location).map_err(|error| refused(error.to_string()))?;
                    inner.wire.vet(&inner.origin, &next).map_err(refused)?;
                    url = next;
                }
                401 if is_home && !was_challenged => {
                    was_challenged = true;
                    // A silent server costs its time-out once. Whom it denied may be known by what is asked for now.
                    if let Some(error) = no_token.take().filter(|error| error.failure() != Failure::Denied) {
                        return Err(error);
                    }
                    let challenges = parse_challenges(&answer.headers("www-authenticate"));
                    shown = Some(self.answer(asked, &challenges, shown.as_ref())?);
                }
                401 if is_home => {
                    let who = if shown.is_some() {
                        "the credentials are"
                    } else {
                        "anonymous access is"
                    };
                    return Err(self.denied(asked, format!("{who} not accepted (401)")));
                }
                status => {
                    if status == 429 {
                        inner.is_limited.store(true, Ordering::Relaxed);
                    }
                    return Err(refusal(asked.doing, &url, is_home, status, answer));
                }
            }
        }
    }

    /// What to show before being asked, as far as it is known what is asked for.
    fn known(&self, asked: &Asked<'_>) -> Result<Option<Shown>, RegistryError> {
        let asks = self
            .registry
            .inner
            .asks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match asks {
            None => Ok(None),
            Some(Asks::Basic) => self.basic(asked),
            Some(Asks::Token { realm, service }) => {
                let all = self
                    .registry
                    .inner
                    .wanted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let known = all.get(&self.purpose(asked)).cloned();
                drop(all);
                let wanted = known.unwrap_or_else(|| self.token_for(asked, realm, service, None));
                self.token(asked, &wanted, None).map(|token| Some(Shown::Token(token)))
            }
        }
    }

    fn answer(
        &self,
        asked: &Asked<'_>,
        challenges: &[Challenge],
        refused: Option<&Shown>,
    ) -> Result<Shown, RegistryError> {
        let mut denied = None;
        for challenge in challenges {
            match challenge {
                Challenge::Bearer { realm, service, scope } => {
                    self.asks(Asks::Token {
                        realm: realm.clone(),
                        service: service.clone(),
                    });
                    let wanted = self.token_for(asked, realm.clone(), service.clone(), scope.as_deref());
                    let mut all = self
                        .registry
                        .inner
                        .wanted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    all.insert(self.purpose(asked), wanted.clone());
                    drop(all);
                    let refused = match refused {
                        Some(Shown::Token(token)) => Some(token.as_str()),
                        _ => None,
                    };
                    match self.token(asked, &wanted, refused) {
                        // It may take the password itself.
                        Err(error) if error.failure() == Failure::Denied => denied = Some(error),
                        other => return other.map(Shown::Token),
                    }
                }
                // Shown already, and not accepted.
                Challenge::Basic if matches!(refused, Some(Shown::Basic(_))) => {
                    return Err(self.denied(asked, "the credentials are not accepted (401)".to_owned()));
                }
                Challenge::Basic => {
                    self.asks(Asks::Basic);
                    if let Some(shown) = self.basic(asked)? {
                        return Ok(shown);
                    }
                    let reason = format!(
                        "the registry wants a user and a password, and there are none for {}",
                        self.host()
                    );
                    return Err(self.denied(asked, reason));
                }
            }
        }
        Err(denied.unwrap_or_else(|| {
            let reason = "the registry wants to know who we are in a way that gantry does not know (401)".to_owned();
            self.denied(asked, reason)
        }))
    }

    /// What a token is wanted for, as it stays from request to request.
    fn purpose(&self, asked: &Asked<'_>) -> String {
        format!("{} {:?}", self.name, asked.access)
    }

    fn asks(&self, asks: Asks) {
        *self.registry.inner.asks.lock().unwrap_or_else(PoisonError::into_inner) = Some(asks);
    }

    fn login(&self, asked: &Asked<'_>) -> Result<Option<Login>, RegistryError> {
        let inner = &*self.registry.inner;
        // Held while it is found: a helper is run once.
        let mut logins = inner.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let found = logins
            .entry(self.name.clone())
            .or_insert_with(|| (inner.find_login)(&inner.host, &self.name));
        let wrong = |error| RegistryError::new(asked.doing, &plain(&asked.url), Problem::Login(error));
        Ok(found.clone().map_err(wrong)?.map(|(login, _)| login))
    }

    fn basic(&self, asked: &Asked<'_>) -> Result<Option<Shown>, RegistryError> {
        Ok(match self.login(asked)? {
            Some(Login::Password { user, password }) => Some(Shown::Basic(Login::basic(&user, &password))),
            Some(Login::Identity(token)) => Some(Shown::Basic(Login::basic("<token>", &token))),
            None => None,
        })
    }

    fn token_for(&self, asked: &Asked<'_>, realm: String, service: Option<String>, scope: Option<&str>) -> TokenFor {
        let own = &self.name;
        let mut scopes = match asked.access {
            Access::None => Vec::new(),
            Access::Pull => vec![format!("repository:{own}:pull")],
            Access::Push => vec![format!("repository:{own}:pull,push")],
            Access::Delete => vec![format!("repository:{own}:pull,delete")],
            Access::Catalogue => vec!["registry:catalog:*".to_owned()],
            Access::Mount { from } => vec![format!("repository:{own}:pull,push"), format!("repository:{from}:pull")],
        };
        // What the registry misses counts over what we think, as long as it is about this repository.
        if let Some(scope) = scope.filter(|scope| !scopes.iter().any(|known| known == scope)) {
            let is_less = scope == format!("repository:{own}:push") || scope == format!("repository:{own}:pull");
            if !is_less && is_scope_of(scope, own) {
                scopes.insert(0, scope.to_owned());
            }
        }
        TokenFor { realm, service, scopes }
    }

    fn token(&self, asked: &Asked<'_>, wanted: &TokenFor, refused: Option<&str>) -> Result<String, RegistryError> {
        let login = self.login(asked)?;
        self.registry
            .inner
            .tokens
            .get(wanted, refused, || self.fetch_token(wanted, login.as_ref()))
    }

    /// Fetches a token. It is refused with whatever status: one registry says 404 to a wrong password.
    fn fetch_token(&self, wanted: &TokenFor, login: Option<&Login>) -> Result<Token, RegistryError> {
        const DOING: &str = "get a token from";
        let (inner, asked) = (&*self.registry.inner, Instant::now());
        let denied = |reason| RegistryError::new(DOING, &shown(&wanted.realm), Problem::Denied { reason });
        let realm = Url::parse(&wanted.realm).map_err(|error| denied(format!("that is no address: {error}")))?;
        inner.wire.vet(&inner.origin, &realm).map_err(denied)?;
        if login.is_some() {
            let mut first = inner.realm.lock().unwrap_or_else(PoisonError::into_inner);
            check_realm(&inner.origin, &mut first, &realm).map_err(|reason| denied(reason.to_owned()))?;
        }
        let answer = match login {
            Some(Login::Identity(token)) => {
                let answer = self.send_token_call(DOING, &realm, token_form(&realm, wanted, token))?;
                match answer.status() {
                    // It knows the older way alone.
                    404 | 405 => {
                        let header = Login::basic("<token>", token);
                        self.send_token_call(DOING, &realm, token_call(&realm, wanted, Some(header)))?
                    }
                    _ => answer,
                }
            }
            Some(Login::Password { user, password }) => {
                let header = Login::basic(user, password);
                self.send_token_call(DOING, &realm, token_call(&realm, wanted, Some(header)))?
            }
            None => self.send_token_call(DOING, &realm, token_call(&realm, wanted, None))?,
        };
        let mut answer = answer;
        match answer.status() {
            200..=299 => {
                let words = answer.bytes(MAX_WORDS).map_err(|error| {
                    let failure = failure_of(crate::net::trouble_of(&error));
                    RegistryError::new(
                        DOING,
                        &plain(&realm),
                        Problem::Wire {
                            failure,
                            text: error.to_string(),
                            is_late: failure == Failure::Silent,
                        },
                    )
                })?;
                Token::parse(&words, asked).map_err(|reason| denied(reason.to_owned()))
            }
            301..=399 => {
                let reason = "credentials do not go to another place than it names itself".to_owned();
                Err(RegistryError::new(DOING, &plain(&realm), Problem::Redirect { reason }))
            }
            status => {
                let error = refusal(DOING, &realm, true, status, answer);
                match error.failure() {
                    Failure::Busy | Failure::ServerError => Err(error),
                    _ if login.is_none() => {
                        Err(denied(format!("it answers {status} to a request without credentials")))
                    }
                    _ => Err(denied(format!(
                        "it does not accept the credentials for {} ({status})",
                        self.host()
                    ))),
                }
            }
        }
    }

    fn send_token_call(&self, doing: &'static str, realm: &Url, call: Call) -> Result<Answer, RegistryError> {
        self.registry
            .inner
            .wire
            .send(call)
            .map_err(|error| failed(doing, realm, &error))
    }

    fn denied(&self, asked: &Asked<'_>, reason: String) -> RegistryError {
        RegistryError::new(asked.doing, &plain(&asked.url), Problem::Denied { reason })
    }
}

impl Shown {
    fn header(&self) -> String {
        match self {
            Self::Basic(header) => header.clone(),
            Self::Token(token) => format!("Bearer {token}"),
        }
    }
}
