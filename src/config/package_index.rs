//! `[index]`: where Python packages come from. Passwords are named, never written here.

use std::path::PathBuf;

use serde::Deserialize;

use super::several::several_tables;
use crate::policy::{is_loopback, normalise, Baseline, Time};

/// `[index]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexSection {
    /// Simple index; default: that of the resolver. It holds no user and no password.
    pub(crate) url: Option<String>,
    /// User name there.
    pub(crate) user: Option<String>,
    /// Name of the environment variable that holds the password.
    pub(crate) password_env: Option<String>,
    /// The resolver; default: `uv` on the PATH.
    pub(crate) uv: Option<PathBuf>,
    /// How old the versions may be that requirements were resolved to; default: a day.
    pub(crate) max_age: Option<Time>,
    /// The processors that packages without a wheel are built for.
    pub(crate) baseline: Option<Baseline>,
    /// Further indexes.
    #[serde(deserialize_with = "several_tables")]
    pub(crate) extra: Vec<ExtraSection>,
}

/// `[[index.extra]]`: an index that some packages come from, and they from nowhere else.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraSection {
    /// What messages call it; default: its address.
    pub(crate) name: Option<String>,
    /// Simple index; it holds no user and no password.
    pub(crate) url: String,
    /// User name there.
    pub(crate) user: Option<String>,
    /// Name of the environment variable that holds the password.
    pub(crate) password_env: Option<String>,
    /// Names of the packages.
    pub(crate) packages: Vec<String>,
}

impl IndexSection {
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.url.as_deref().is_none_or(is_address) {
            return Err("index.url: it is no http or https address".to_owned());
        }
        check_place(
            "index",
            self.url.as_deref(),
            self.user.as_deref(),
            self.password_env.as_deref(),
        )?;
        let mut seen = Vec::new();
        for extra in &self.extra {
            let place = "index.extra";
            if !is_address(&extra.url) {
                return Err(format!("{place}.url: it is no http or https address"));
            }
            check_place(
                place,
                Some(&extra.url),
                extra.user.as_deref(),
                extra.password_env.as_deref(),
            )?;
            if extra.packages.is_empty() {
                return Err(format!(
                    "{place}.packages: it lists none, so nothing would come from this index"
                ));
            }
            for package in &extra.packages {
                let name = normalised(package)
                    .ok_or_else(|| format!("{place}.packages: {package:?} is no name of a package"))?;
                if seen.contains(&name) {
                    return Err(format!(
                        "{place}.packages: {package} is listed twice; it comes from one index"
                    ));
                }
                seen.push(name);
            }
        }
        Ok(())
    }
}

fn is_address(url: &str) -> bool {
    let parts = url.split_once("://");
    parts.is_some_and(|(scheme, rest)| matches!(scheme, "https" | "http") && !rest.is_empty() && !rest.starts_with('/'))
}

/// The name of a package as indexes have it (PEP 503); none of a text that is no name (PEP 508).
fn normalised(name: &str) -> Option<String> {
    let is_end = |character: Option<char>| character.is_some_and(|character| character.is_ascii_alphanumeric());
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if !is_end(name.chars().next()) || !is_end(name.chars().next_back()) || !name.chars().all(is_of_name) {
        return None;
    }
    Some(normalise(name))
}

/// Refuses credentials that stand in the address, lack a part, or would be sent in the clear.
fn check_place(place: &str, url: Option<&str>, user: Option<&str>, password: Option<&str>) -> Result<(), String> {
    let (scheme, rest) = url.and_then(|url| url.split_once("://")).unwrap_or_default();
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        let instead = "name them by `user` and `password_env`, the name of a variable";
        return Err(format!("{place}.url: it holds a user or a password; {instead}"));
    }
    if user.is_none() && password.is_none() {
        return Ok(());
    }
    if user.unwrap_or_default().is_empty() || password.unwrap_or_default().is_empty() || url.is_none() {
        return Err(format!(
            "{place}: credentials need `url`, `user` and `password_env`, the name of a variable"
        ));
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if scheme == "https" || (scheme == "http" && (is_loopback(host) || is_loopback(authority))) {
        return Ok(());
    }
    Err(format!(
        "{place}.url: credentials are sent over https, and over http to loopback hosts, only"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> Result<IndexSection, String> {
        let section: IndexSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.check().map(|()| section)
    }

    #[test]
    fn credentials_of_an_index_are_names_only() {
        let index = |text: &str| section(text);
        let whole = "user = \"me\"\npassword_env = \"KEY\"";
        for url in [
            "https://index.example/simple",
            "http://127.0.0.1:8080/simple",
            "http://[::1]/x@y",
        ] {
            assert!(index(&format!("url = \"{url}\"\n{whole}")).is_ok(), "{url}");
        }
        for (text, says) in [
            ("url = \"https://me:hunter2@index.example/simple\"", "index.url"),
            ("url = \"https://token@index.example/simple\"", "index.url"),
            ("url = \"htp://index.example/simple\"", "index.url: it is no http"),
            ("url = \"\"", "index.url: it is no http"),
            ("url = \"https://index.example\"\nuser = \"me\"", "password_env"),
            ("url = \"https://index.example\"\npassword_env = \"KEY\"", "user"),
            (whole, "url"),
            (&format!("url = \"http://index.example\"\n{whole}"), "https"),
            (&format!("url = \"http://127.evil.example\"\n{whole}"), "https"),
        ] {
            let error = index(text).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_package_comes_from_one_further_index_that_is_named_without_credentials() {
        let extra = |text: &str| section(&format!("[[extra]]\n{text}\n"));
        let (url, packages) = ("url = \"https://other.example/simple\"", "packages = [\"torch\"]");
        assert_eq!(
            extra(&format!("name = \"cpu\"\n{url}\n{packages}"))
                .unwrap()
                .extra
                .len(),
            1
        );
        let credentials = "user = \"me\"\npassword_env = \"KEY\"";
        assert!(extra(&format!("{url}\n{packages}\n{credentials}")).is_ok());
        for (text, says) in [
            (url.to_owned(), "packages"),
            (packages.to_owned(), "url"),
            (format!("{url}\npackages = []"), "none"),
            (format!("{url}\npackages = [\"../x\"]"), "no name"),
            (format!("{url}\npackages = [\"-x\"]"), "no name"),
            (format!("{url}\npackages = [\"My_Pkg\", \"my--pkg\"]"), "twice"),
            (format!("{url}\n{packages}\n[[extra]]\n{url}\n{packages}"), "twice"),
            (format!("url = \"other.example\"\n{packages}"), "no http"),
            (format!("url = \"file:///x\"\n{packages}"), "no http"),
            (
                format!("url = \"https://me:hunter2@other.example\"\n{packages}"),
                "index.extra.url",
            ),
            (format!("{url}\n{packages}\nuser = \"me\""), "password_env"),
            (
                format!("url = \"http://other.example\"\n{packages}\n{credentials}"),
                "https",
            ),
            (format!("{url}\n{packages}\nexplicit = true"), "unknown field"),
        ] {
            let error = extra(&text).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
