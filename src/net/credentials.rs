//! User and password for one server, and for no other.

use std::fmt;

use reqwest::Url;

use crate::policy::is_loopback;

/// A password shorter than this is hidden where it stands in an address only: elsewhere it could be any word.
const LEAST_HIDDEN: usize = 4;

/// An address that may hold a user and a password, and a token in its query. Printed, it shows neither.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Address(String);

impl Address {
    /// The address `url`, as it was written.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// All of it: for whoever connects to it, never for a message.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address without credentials and query.
    pub fn shown(&self) -> String {
        let url = self.0.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = url.split_once("://") else {
            return url.to_owned();
        };
        // A name in front of the address, as in `UV_INDEX=name=https://...`, is none of it.
        let scheme = scheme.rsplit('=').next().unwrap_or_default();
        let (authority, path) = rest
            .find('/')
            .map_or((rest, ""), |at| rest.split_at_checked(at).unwrap_or((rest, "")));
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// User and password of an address; they go to its scheme, host and port alone, and never over a network in the clear.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    url: Url,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those in `url`; none when it has none, or nothing that they may be sent to.
    pub fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let has_some = !url.username().is_empty() || url.password().is_some();
        let is_private = match url.scheme() {
            "https" => true,
            "http" => url.host_str().is_some_and(is_loopback),
            _ => false,
        };
        (has_some && is_private).then_some(Self { url })
    }

    /// `url` with `user` and `password` in it; none when it can have none.
    pub fn join(url: &str, user: &str, password: &str) -> Option<String> {
        let mut url = Url::parse(url).ok()?;
        // Whatever else has to be encoded is; a sign that is one of an encoding already, too.
        let encode = |text: &str| text.replace('%', "%25");
        url.set_username(&encode(user)).ok()?;
        url.set_password(Some(&encode(password))).ok()?;
        Some(url.to_string())
    }

    /// How much of its path `url` shares with the address they are of; none when it is of another server.
    pub(super) fn fit(&self, url: &Url) -> Option<usize> {
        let is_same = url.scheme() == self.url.scheme()
            && url.host_str() == self.url.host_str()
            && url.port_or_known_default() == self.url.port_or_known_default();
        let mut pairs = url.path().bytes().zip(self.url.path().bytes());
        is_same.then(|| pairs.position(|(one, other)| one != other).unwrap_or(usize::MAX))
    }

    /// Puts them into `url` when it is of the same server; the request makes a header of them.
    pub(super) fn add_to(&self, url: &mut Url) {
        if self.fit(url).is_some() && url.username().is_empty() && url.password().is_none() {
            // Neither fails for an address of http.
            let _ = url.set_username(self.url.username());
            let _ = url.set_password(self.url.password());
        }
    }

    /// `text` without them.
    pub fn hide(&self, text: &str) -> String {
        let password = self.url.password().unwrap_or_default();
        let mut text = text.replace(&format!("{}:{password}@", self.url.username()), "****@");
        if password.len() >= LEAST_HIDDEN {
            text = text.replace(password, "****");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_without_its_credentials() {
        for (text, shown) in [
            (
                "https://me:hunter2@index.example/simple?token=hunter2#x",
                "https://index.example/simple",
            ),
            ("name=https://me:hunter2@index.example", "https://index.example"),
            ("https://hunter2@index.example/a@b", "https://index.example/a@b"),
            ("http://index.example:8080/", "http://index.example:8080/"),
        ] {
            let address = Address::new(text);
            assert_eq!(
                (address.to_string(), format!("{address:?}")),
                (shown.to_owned(), format!("{shown:?}"))
            );
            assert_eq!(address.as_str(), text);
        }
    }
}
