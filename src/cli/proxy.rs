//! Says that an answer which did not come should have come through a proxy: whoever is asked gets the blame otherwise.

use super::error::CommandError;
use crate::config::proxy_of;
use crate::net::NetError;
use crate::policy::causes;

/// What to look at when `error` is a request that nobody answered and that went through a proxy.
pub(super) fn hint(error: &CommandError) -> Option<String> {
    let url = causes(error).find_map(|cause| match cause.downcast_ref() {
        Some(NetError::Transport { url, .. }) => Some(url),
        _ => None,
    })?;
    let (variable, place) = proxy_of(url)?;
    Some(format!(
        "this request goes through the proxy {place}, which {variable} names: does it answer? Unset {variable}, or add the host to NO_PROXY, to go without it"
    ))
}
