//! An API beside the protocol, by which a registry says what it holds: JSON by GET, DELETE, and nothing else.
//!
//! Its address is the configuration's. It gets our secret; a page that is said to be on another server, and a redirect, do not.

use serde::de::DeserializeOwned;

use super::client::{Access, Asked};
use super::error::Problem;
use super::fetching::bounded;
use super::login::Login;
use super::pages::next_page;
use super::redact::Secrets;
use super::said::{failed, plain, refusal};
use super::RegistryError;
use crate::net::{is_same_server, Answer, Call, Payload, Url, Verb, Wire};

/// A page of an API: a hundred entries with all their fields.
const MAX_PAGE: u64 = 4 << 20;
/// Pages of a list.
pub(super) const MAX_PAGES: usize = 100;
/// Entries of a page.
pub(super) const PAGE: usize = 100;

/// How an API is told who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    /// A header of its own.
    Header(&'static str),
    /// `Authorization: Bearer`.
    Bearer,
}

/// An API at its address.
pub(crate) struct Api {
    wire: Wire,
    base: Url,
    secret: Option<(&'static str, String)>,
    /// What it knows of us, and may have put into any text.
    secrets: Secrets,
}

impl Api {
    pub(super) fn new(wire: Wire, base: Url, how: Secret, login: Option<&Login>) -> Self {
        let word = login.map(|login| match login {
            Login::Password { password, .. } => password.clone(),
            Login::Identity(token) => token.clone(),
        });
        let secret = word.map(|word| match how {
            Secret::Header(name) => (name, word),
            Secret::Bearer => ("authorization", format!("Bearer {word}")),
        });
        let mut secrets = Secrets::default();
        login.into_iter().for_each(|login| secrets.add_login(login));
        Self {
            wire,
            base,
            secret,
            secrets,
        }
    }

    /// The address of `path` below that of the API; each part of it is escaped.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// What is at `url`, and the page behind it.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        url: &Url,
    ) -> Result<(T, Option<Url>), RegistryError> {
        self.page(doing, url).map_err(|error| self.redacted(error))
    }

    fn page<T: DeserializeOwned>(&self, doing: &'static str, url: &Url) -> Result<(T, Option<Url>), RegistryError> {
        let mut answer = self.send(doing, Verb::Get, url)?;
        let asked = Asked {
            doing,
            url: url.clone(),
            access: Access::None,
        };
        let next = answer.header("link").and_then(next_page).map(str::to_owned);
        let raw = bounded(&asked, &mut answer, MAX_PAGE)?;
        let value = serde_json::from_slice(&raw).map_err(|error| {
            RegistryError::answer(doing, &plain(url), format!("it is no JSON as the API has it: {error}"))
        })?;
        let refused = |reason: String| RegistryError::new(doing, &plain(url), Problem::Redirect { reason });
        let next = match next {
            Some(next) => Some(url.join(&next).map_err(|error| refused(error.to_string()))?),
            None => None,
        };
        match &next {
            Some(next) if !is_same_server(next, &self.base) => {
                Err(refused(format!("the next page is said to be on {}", plain(next))))
            }
            _ => Ok((value, next)),
        }
    }

    /// Deletes what is at `url`. What is gone is no error.
    pub(super) fn delete(&self, doing: &'static str, url: &Url) -> Result<(), RegistryError> {
        match self.send(doing, Verb::Delete, url) {
            Err(error) if !error.is_not_found() => Err(self.redacted(error)),
            _ => Ok(()),
        }
    }

    fn send(&self, doing: &'static str, verb: Verb, url: &Url) -> Result<Answer, RegistryError> {
        let accept = ("accept", "application/json".to_owned());
        let call = Call {
            verb,
            url: url.clone(),
            headers: self.secret.clone().into_iter().chain([accept]).collect(),
            payload: Payload::Empty,
        };
        let answer = self.wire.send(call).map_err(|error| failed(doing, url, &error))?;
        match answer.status() {
            200..=299 => Ok(answer),
            300..=399 => {
                let reason = "an API is where the configuration says".to_owned();
                Err(RegistryError::new(doing, &plain(url), Problem::Redirect { reason }))
            }
            status => Err(refusal(doing, url, true, status, answer)),
        }
    }

    /// The error of an answer that cannot be meant.
    pub(super) fn wrong(&self, doing: &'static str, reason: String) -> RegistryError {
        self.redacted(RegistryError::answer(doing, &plain(&self.base), reason))
    }

    fn redacted(&self, error: RegistryError) -> RegistryError {
        error.redacted(&|text| self.secrets.redact(text))
    }
}
