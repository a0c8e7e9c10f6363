//! User and password for one server, and for no other.

use std::fmt;

use reqwest::Url;

use crate::policy::is_loopback;

/// A password shorter than this is hidden where it stands in an address only: elsewhere it could be any word.
const LEAST_HIDDEN: usize = 4;

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

    /// Puts them into `url` when it is of the same server; the request makes a header of them.
    pub(super) fn add_to(&self, url: &mut Url) {
        let is_same = url.scheme() == self.url.scheme()
            && url.host_str() == self.url.host_str()
            && url.port_or_known_default() == self.url.port_or_known_default();
        if is_same && url.username().is_empty() && url.password().is_none() {
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
