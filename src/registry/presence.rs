//! Whether there is a registry at all: what a host answers at `/v2/` (distribution specification, "Determining Support").

use serde::de::IgnoredAny;

use super::client::{Access, Asked, Registry};
use super::registry_place::Taken;
use super::said::{plain, MAX_WORDS};
use super::RegistryError;
use crate::net::{Answer, Call, Payload, Verb};

/// Where every registry answers.
const V2: &str = "v2/";

/// What a host that is no registry answers where every registry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// The address.
    pub url: String,
    /// The answer, for people.
    pub answer: String,
}

/// Whether a registry takes the credentials, as far as it says without being asked for an image.
pub(crate) fn check_login(registry: &Registry) -> Result<Taken, RegistryError> {
    ask_at_v2(registry, "log in to")?;
    Ok(match registry.has_asked() {
        true => Taken::Accepted,
        false => Taken::Unasked,
    })
}

/// What is there instead of a registry. None for a registry, also for one that wants to know who we are, and when nobody can tell.
pub(crate) fn find_stranger(registry: &Registry) -> Option<Stranger> {
    let answer = match ask_at_v2(registry, "look for a registry at") {
        Ok(answer) => strange(answer)?,
        // Whatever else it says may be said by a registry that is ill, or by what stands before one.
        Err(error) => error
            .status()
            .filter(|status| matches!(status, 404 | 405 | 410 | 501))?
            .to_string(),
    };
    let url = plain(&registry.url(V2));
    Some(Stranger { url, answer })
}

fn ask_at_v2(registry: &Registry, doing: &'static str) -> Result<Answer, RegistryError> {
    let asked = Asked {
        doing,
        url: registry.url(V2),
        access: Access::None,
    };
    registry.repository("").exchange(&asked, &mut |url| Call {
        verb: Verb::Get,
        url,
        headers: Vec::new(),
        payload: Payload::Empty,
    })
}

/// What it is, when it is nothing that a registry says: some say nothing, others `{}`.
fn strange(mut answer: Answer) -> Option<String> {
    if answer.header("docker-distribution-api-version").is_some() {
        return None;
    }
    let is_page = answer
        .header("content-type")
        .is_some_and(|name| name.starts_with("text/html"));
    // What is longer than that, or breaks off, is no word of a registry either.
    let body = answer.bytes(MAX_WORDS).unwrap_or_default();
    let is_word = !is_page && (body.is_empty() || serde_json::from_slice::<IgnoredAny>(&body).is_ok());
    (!is_word).then(|| match is_page {
        true => "a web page".to_owned(),
        false => "something that is no JSON".to_owned(),
    })
}
