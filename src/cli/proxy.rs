//! Says that an answer which did not come should have come through a proxy: whoever is asked gets the blame otherwise.

use super::error::CommandError;
use crate::config::proxy_of;
use crate::net::NetError;
use crate::policy::causes;
use crate::python::resolve::LockError;

/// What to look at when `error` is a request that nobody answered and that went through a proxy.
pub(super) fn hint(error: &CommandError) -> Option<String> {
    let url = causes(error).find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(NetError::Transport { url, .. }), _) => Some(url.as_str()),
        (_, Some(LockError::Unavailable { explanation } | LockError::UvUnavailable { explanation })) => {
            find_address(explanation)
        }
        _ => None,
    })?;
    of_address(url)
}

/// What to look at when nobody answered a request to `url` that went through a proxy.
pub(super) fn of_address(url: &str) -> Option<String> {
    let (variable, place) = proxy_of(url)?;
    Some(format!(
        "this request goes through the proxy {place}, which {variable} names: does it answer? Unset {variable}, or add the host to NO_PROXY, to go without it"
    ))
}

/// The first address in what uv or pip says.
fn find_address(said: &str) -> Option<&str> {
    let words = said.split(|character: char| character.is_whitespace() || "()<>'\"`".contains(character));
    words
        .into_iter()
        .find(|word| word.starts_with("https://") || word.starts_with("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_uv_or_pip_could_not_reach_is_found_in_its_words() {
        for (said, address) in [
            (
                "error: Request failed\n  cause: Failed to fetch: https://index.example.org/simple/six/",
                Some("https://index.example.org/simple/six/"),
            ),
            (
                "sending request for url (http://127.0.0.1:9/simple/six/)",
                Some("http://127.0.0.1:9/simple/six/"),
            ),
            ("Retrying (Retry(total=4)) after connection broken: /simple/uv/", None),
        ] {
            assert_eq!(find_address(said), address, "{said}");
        }
    }
}
