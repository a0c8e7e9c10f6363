//! What a registry says when it does not do what it was asked, as far as it can be shown to anybody.

use serde::Deserialize;

use super::error::Problem;
use super::retry::{retry_after, Failure};
use super::RegistryError;
use crate::net::{Answer, Trouble, Url, WireError};

/// What is read of an error, and of an answer with a token.
pub(super) const MAX_WORDS: u64 = 64 << 10;
/// What is shown of it.
const SHOWN: usize = 200;

/// The error of an answer that is no success.
pub(super) fn refusal(doing: &'static str, url: &Url, is_home: bool, status: u16, mut answer: Answer) -> RegistryError {
    let header = answer.header("retry-after").map(str::to_owned);
    let body = answer.bytes(MAX_WORDS).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let failure = match Failure::of_status(status) {
        // A link that the registry gave is good for some minutes: it is asked for another one.
        Failure::Unauthorized | Failure::Denied | Failure::Refused if !is_home => Failure::Elsewhere,
        // A second 401 is no question any more.
        Failure::Unauthorized => Failure::Denied,
        failure => failure,
    };
    let problem = Problem::Status {
        failure,
        status,
        said: said(&body),
        after: retry_after(header.as_deref(), &body),
    };
    RegistryError::new(doing, &plain(url), problem)
}

/// What a registry says of its errors, as far as it can be shown.
fn said(body: &str) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Option<Vec<OneError>>,
        /// As an API says it that is not the protocol's.
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct OneError {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors, message }) = serde_json::from_str(body) else {
        return String::new();
    };
    let errors = errors.unwrap_or_default();
    let all: Vec<String> = errors
        .iter()
        .map(|one| format!("{} {}", one.code, one.message))
        .collect();
    let all = if all.is_empty() {
        message.unwrap_or_default()
    } else {
        all.join("; ")
    };
    let plain = all
        .trim()
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character });
    plain.take(SHOWN).collect()
}

pub(super) fn failed(doing: &'static str, url: &Url, error: &WireError) -> RegistryError {
    let problem = Problem::Wire {
        failure: failure_of(error.trouble),
        text: error.to_string(),
        is_late: error.is_late,
    };
    RegistryError::new(doing, &plain(url), problem)
}

/// What a failure of the network is.
pub(super) fn failure_of(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Unreachable => Failure::Unreachable,
        Trouble::Unresolved => Failure::Unresolved,
        Trouble::Silent => Failure::Silent,
        Trouble::Broken => Failure::Broken,
        Trouble::Untrusted => Failure::Untrusted,
        Trouble::Plain => Failure::Plain,
        Trouble::Setup => Failure::Setup,
    }
}

/// An address for messages: no user, password, query or fragment.
pub(super) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    shown(url.as_str())
}

pub(super) fn shown(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_what_the_registry_says_and_no_more() {
        let errors = r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way","detail":{}},{"code":"X"}]}"#;
        assert_eq!(said(errors), "DENIED no [31m way; X");
        assert_eq!(said("<html>"), "");
        let long = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, "x".repeat(1000));
        assert_eq!(said(&long).len(), SHOWN);
        let url = Url::parse("https://me:pw@a.example/v2/x?token=1#f").unwrap();
        assert_eq!(plain(&url), "https://a.example/v2/x");
    }
}
