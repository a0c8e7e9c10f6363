//! What to do about an image that did not get to or from a registry. Used by `hint`.

use super::proxy::of_address;
use crate::oci::Reference;
use crate::registry::{Circumstances, Failure, RegistryError, SaidBy};
use crate::transfer::TransferError;

const NO_CATALOGUE: &str = "this registry does not list its repositories, as the protocol leaves that open; `gantry registries tags HOST/REPOSITORY` lists the tags of one whose name you know";

pub(super) fn of_transfer(error: &TransferError) -> Option<String> {
    let fixed = match error {
        TransferError::Registry { failures, .. } => {
            // What a registry said is more than that another one said nothing.
            let unreachable = || failures.iter().find_map(of_unreachable);
            return failures.iter().find_map(of_registry).or_else(unreachable);
        }
        TransferError::NoTag { reference, .. } => return of_no_tag(reference),
        TransferError::NoRepository { host, .. } => return Some(lists(host)),
        TransferError::NoRegistry { .. } => {
            "check the host and the port in the name: another service listens there. `gantry registries` lists the registries of the configuration"
        }
        TransferError::PullOnly { is_preferred: true, .. } => {
            "`gantry registries prefer --off` ends that it is preferred, `gantry registries prefer HOST --for TIME` prefers one that may be pushed to"
        }
        TransferError::PullOnly { host, verb, .. } => {
            let copied = if *verb == "push to" { "; `gantry copy` brings the image elsewhere" } else { "" };
            return Some(format!(
                "whoever may do that has `role = \"push\"` for {host} under [[registry]] in the configuration{copied}"
            ));
        }
        TransferError::Unlisted { .. } => "`gantry registries` lists those of the configuration",
        TransferError::Immutable { .. } => "push it under another tag, or by its digest: HOST/REPOSITORY@sha256:...",
        TransferError::Companions { .. } => "`--no-referrers` copies the image without what refers to it",
        TransferError::EndsEarly { .. } => "get the archive again: whoever wrote or copied it did not come to its end",
        TransferError::Io { .. }
        | TransferError::NotAFile { .. }
        | TransferError::NotADirectory { .. }
        | TransferError::Document { .. }
        | TransferError::NotFound { .. }
        | TransferError::Login { .. }
        | TransferError::Busy { .. }
        | TransferError::NotAnArchive { .. }
        | TransferError::Entry { .. }
        | TransferError::TooMany { .. }
        | TransferError::Missing { .. }
        | TransferError::ArchivedLayer { .. }
        | TransferError::Kept { .. }
        | TransferError::Referrers { .. }
        | TransferError::Contended { .. }
        | TransferError::Store(_) => return None,
    };
    Some(fixed.to_owned())
}

fn of_registry(error: &RegistryError) -> Option<String> {
    let known = error.circumstances();
    let fixed = match error.failure() {
        Failure::Denied | Failure::Unauthorized => return Some(of_denied(known)),
        Failure::Login => {
            "that is where the password is looked for: `credentials` under [[registry]] in the configuration names another place; without it docker's and podman's files count, and `gantry login HOST --username USER` writes docker's"
        }
        Failure::Untrusted => "SSL_CERT_FILE names certificates that are accepted instead of the system's",
        Failure::Plain => {
            "a registry of this machine, on a loopback address, may be spoken to without TLS: `plain_http = true` beside its `host` under [[registry]] in the configuration; any other one needs TLS"
        }
        Failure::Unresolved => return Some(of_unresolved(known)),
        Failure::NotARegistry => return known.map(|known| of_stranger(&known.host, error.url())),
        Failure::NotFound if error.is_of_catalogue() => NO_CATALOGUE,
        Failure::Refused if error.is_of_catalogue() && error.status() == Some(405) => NO_CATALOGUE,
        Failure::NotFound => return known.map(|known| lists(&known.host)),
        Failure::Refused if error.status() == Some(405) => {
            "the registry does not do that by the protocol. To delete, a registry of the distribution needs `delete: enabled: true` under `storage` in its own configuration; for others `management` under [[registry]] in gantry's names the API"
        }
        Failure::Unreachable
        | Failure::Silent
        | Failure::Broken
        | Failure::ServerError
        | Failure::Elsewhere
        | Failure::Busy
        | Failure::WrongBytes
        | Failure::Redirect
        | Failure::TooLarge
        | Failure::Refused
        | Failure::Setup => return None,
    };
    Some(fixed.to_owned())
}

/// What to look at where nobody answers.
fn of_unreachable(error: &RegistryError) -> Option<String> {
    let host = match error.failure() {
        Failure::Unreachable => &error.circumstances()?.host,
        _ => return None,
    };
    of_address(error.url()).or_else(|| {
        Some(format!(
            "nothing listens at {host}, or this machine does not get there: check the host and the port, and that the registry is up; `gantry registries` shows the state of those of the configuration"
        ))
    })
}

/// Where to find all tags when the one that was typed is none.
fn of_no_tag(reference: &str) -> Option<String> {
    match reference.parse().ok()? {
        Reference::Registry { host, repository, .. } => Some(format!(
            "`gantry registries tags {host}/{repository}` lists all tags that it has"
        )),
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => None,
    }
}

fn lists(host: &str) -> String {
    format!("`gantry registries ls {host}` lists the repositories that the registry shows, `gantry registries tags HOST/REPOSITORY` the tags of one")
}

/// Whom the registry does not accept.
fn of_denied(known: Option<&Circumstances>) -> String {
    let host = known.map_or("HOST", |known| &known.host);
    let log_in = format!("`gantry login {host} --username USER <FILE`");
    match known.and_then(|known| known.login.as_ref()) {
        Some(SaidBy::Configuration(place)) => format!(
            "the password came from {place}, which `credentials` of {host} under [[registry]] in the configuration names: that one counts, and no `gantry login`. It is wrong, or may not do this"
        ),
        Some(SaidBy::File(place)) => format!(
            "the password came from {place}. It is wrong, or may not do this: {log_in} writes another one where docker keeps them, `credentials` under [[registry]] in the configuration names one elsewhere"
        ),
        Some(SaidBy::Caller) => "the user or the password on standard input is wrong, or may not do this".to_owned(),
        None => format!(
            "{log_in} writes credentials where docker keeps them; `credentials` under [[registry]] in the configuration names others. Some registries say so of a repository that is not there"
        ),
    }
}

/// Who answers in the place of the registry, which was asked at `url`.
fn of_stranger(host: &str, url: &str) -> String {
    let (scheme, proxy) = match url.starts_with("http:") {
        true => ("http", "HTTP_PROXY"),
        false => ("https", "HTTPS_PROXY"),
    };
    format!(
        "a portal that wants somebody to log in, or a proxy, may answer in the place of {host}, or the registry is ill: `curl -i {scheme}://{host}/v2/` shows what comes; the proxies of this machine are in {proxy} and NO_PROXY"
    )
}

fn of_unresolved(known: Option<&Circumstances>) -> String {
    let similar = known.and_then(|known| known.similar.as_ref());
    let meant = similar.map_or(String::new(), |similar| format!(" (did you mean {similar}?)"));
    format!(
        "the host is mistyped{meant}, or the name servers of this machine do not know it: `gantry registries` lists those of the configuration"
    )
}
