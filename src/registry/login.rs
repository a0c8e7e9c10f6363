//! Who we are to a registry, and what docker's and podman's files say about that (`config.json`, `auth.json`).
//!
//! Reading files and running credential helpers is for others: this is the meaning of the text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use serde::Deserialize;

use super::{LoginError, SaidBy};

/// A user and a password, or a token that stands for both. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// What `docker login` keeps of a registry that hands out tokens of its own.
    Identity(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

impl Login {
    /// The value of an `Authorization` header that shows a user and a password.
    pub(super) fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
    }
}

/// Finds who we are to the registry of a host, for one of its repositories, and who says so.
pub(crate) type FindLogin = Arc<dyn Fn(&str, &str) -> FoundLogin + Send + Sync>;

/// What was found.
pub(crate) type FoundLogin = Result<Option<(Login, SaidBy)>, LoginError>;

/// What a file says about a registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Who we are.
    Login(Login),
    /// `docker-credential-NAME` knows.
    Helper(String),
}

/// A file of docker's or podman's.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct AuthFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    helper: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Reads the text of such a file. An error is not what is in it: that are secrets.
pub(crate) fn read_auth_file(text: &[u8]) -> Result<AuthFile, &'static str> {
    serde_json::from_slice(text).map_err(|_| "it is no JSON as docker and podman write it")
}

/// The text of such a file with a login for `host`; everything else stays.
///
/// # Errors
///
/// The text says what is wrong with the file.
pub(crate) fn with_login(text: &[u8], host: &str, user: &str, password: &str) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "it is no JSON as docker and podman write it";
    let mut file: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).map_err(|_| WRONG)?;
    let auths = file.entry("auths").or_insert_with(|| serde_json::json!({}));
    let auths = auths.as_object_mut().ok_or(WRONG)?;
    // What stood there under another spelling would count as well.
    auths.retain(|key, _| !is_of_host(key, host));
    let auth = BASE64.encode(format!("{user}:{password}"));
    auths.insert(host.to_owned(), serde_json::json!({"auth": auth}));
    let mut text = serde_json::to_vec_pretty(&file).map_err(|_| WRONG)?;
    text.push(b'\n');
    Ok(text)
}

impl AuthFile {
    /// The helper that keeps the credentials for `host`.
    pub(crate) fn helper_of(&self, host: &str) -> Option<&str> {
        let own = self
            .helpers
            .iter()
            .find(|(key, _)| is_of_host(key, host))
            .map(|(_, helper)| helper);
        own.or(self.helper.as_ref()).map(String::as_str)
    }

    /// What it says about `repository` of the registry `host`, the most particular first.
    ///
    /// # Errors
    ///
    /// The text says what is wrong with the entry.
    pub(crate) fn find(&self, host: &str, repository: &str) -> Result<Option<Said>, &'static str> {
        let helper = self.helpers.iter().find(|(key, _)| is_of_host(key, host));
        if let Some((_, helper)) = helper {
            return Ok(Some(Said::Helper(helper.clone())));
        }
        let mut path = repository;
        loop {
            let key = format!("{host}/{path}");
            if let Some(login) = self.auths.get(&key).map(Entry::login).transpose()?.flatten() {
                return Ok(Some(Said::Login(login)));
            }
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
        for entry in self.auths.iter().filter(|(key, _)| is_of_host(key, host)) {
            if let Some(login) = entry.1.login()? {
                return Ok(Some(Said::Login(login)));
            }
        }
        Ok(self.helper.clone().map(Said::Helper))
    }
}

/// Whether a key such as `host`, `https://host` or `https://host/v1/` means `host`.
fn is_of_host(key: &str, host: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (name, path) = bare.split_once('/').unwrap_or((bare, ""));
    name.eq_ignore_ascii_case(host) && matches!(path.trim_end_matches('/'), "" | "v1" | "v2")
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Login::Identity(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let decoded = BASE64
                .decode(auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = pair.ok_or("its `auth` is no user and password in base64")?;
            return Ok(Some(of_pair(user, password.trim_end_matches('\0'))));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) => Ok(Some(of_pair(user, password))),
            _ => Ok(None),
        }
    }
}

/// By the name `<token>` docker and its helpers mean that the password is a token.
pub(crate) fn of_pair(user: &str, password: &str) -> Login {
    match user {
        "<token>" => Login::Identity(password.to_owned()),
        _ => Login::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        },
    }
}

/// What a credential helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Login {
    /// What a credential helper printed for `get`.
    pub(crate) fn of_helper(printed: &[u8]) -> Option<Self> {
        let helped: Helped = serde_json::from_slice(printed).ok()?;
        Some(of_pair(&helped.username, &helped.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Said> {
        let (user, password) = (user.to_owned(), password.to_owned());
        Some(Said::Login(Login::Password { user, password }))
    }

    #[test]
    fn the_most_particular_entry_counts() {
        let auth = |text: &str| BASE64.encode(text);
        let text = serde_json::json!({
            "auths": {
                "a.example": {"auth": auth("host:1")},
                "a.example/team": {"auth": auth("team:2")},
                "a.example/team/x": {"auth": auth("x:3:4")},
                "https://b.example/v1/": {"username": "b", "password": "5"},
                "c.example": {"identitytoken": "i", "auth": auth("c:")},
                "d.example": {},
                "e.example": {"auth": "%"},
                "g.example": {"auth": auth("<token>:t")},
                "http://h.example": {"auth": auth("h:6\0\0")},
            },
            "credHelpers": {"f.example": "pass"},
            "credsStore": "desktop",
            "HttpHeaders": {"X": "y"},
        });
        let file = read_auth_file(text.to_string().as_bytes()).unwrap();
        let find = |host: &str, repository: &str| file.find(host, repository);
        for (host, repository, expected) in [
            ("a.example", "other", password("host", "1")),
            ("a.example", "team", password("team", "2")),
            ("a.example", "team/y", password("team", "2")),
            ("a.example", "team/x", password("x", "3:4")),
            ("a.example", "teams", password("host", "1")),
            ("b.example", "x", password("b", "5")),
            ("c.example", "x", Some(Said::Login(Login::Identity("i".to_owned())))),
            ("g.example", "x", Some(Said::Login(Login::Identity("t".to_owned())))),
            ("h.example", "x", password("h", "6")),
            ("d.example", "x", Some(Said::Helper("desktop".to_owned()))),
            ("f.example", "x", Some(Said::Helper("pass".to_owned()))),
            ("none.example", "x", Some(Said::Helper("desktop".to_owned()))),
        ] {
            assert_eq!(find(host, repository), Ok(expected), "{host}/{repository}");
        }
        assert!(find("e.example", "x").is_err());
        assert_eq!(AuthFile::default().find("a.example", "x"), Ok(None));
        assert!(read_auth_file(b"{\"auths\": 1}").is_err());
    }

    #[test]
    fn a_helpers_answer_is_a_login() {
        let login = Login::of_helper(br#"{"ServerURL":"a.example","Username":"u","Secret":"s"}"#);
        let (user, password) = ("u".to_owned(), "s".to_owned());
        assert_eq!(login, Some(Login::Password { user, password }));
        assert_eq!(Login::of_helper(b"credentials not found in native keychain"), None);
    }
}
