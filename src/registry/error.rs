//! Why a registry did not do what it was asked: what was asked of it, where, and what came of it. Never a credential.

use std::fmt;
use std::time::Duration;

use super::retry::{Failure, Step};
use crate::policy::{Bytes, Kind};

/// What is done when a registry's list of its repositories is read, which the specification does not have.
pub(super) const READ_CATALOGUE: &str = "list repositories of";

/// Why our credentials for a registry cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("find the credentials for {host}: {reason}")]
pub(crate) struct LoginError {
    /// The registry.
    pub host: String,
    /// What is wrong, and with which file, variable or program.
    pub reason: String,
}

/// Who says who we are to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SaidBy {
    /// The configuration, which names this variable, file or program.
    Configuration(String),
    /// A file of docker's or podman's, or a program that one names.
    File(String),
    /// Whoever typed it just now.
    Caller,
}

/// What is known of the registry that did not do what it was asked, for who decides what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// The registry.
    pub host: String,
    /// Who said who we are; none when nobody did.
    pub login: Option<SaidBy>,
    /// Whether it never answered anything in this process.
    pub is_unheard: bool,
    /// A registry of the configuration that is spelled almost so.
    pub similar: Option<String>,
}

/// Why a registry did not do what it was asked.
#[derive(Debug, Clone)]
pub struct RegistryError {
    /// A verb and its object: `fetch manifest`.
    doing: &'static str,
    /// Address without query, user and password.
    url: String,
    problem: Problem,
    circumstances: Option<Box<Circumstances>>,
}

#[derive(Debug, Clone)]
pub(super) enum Problem {
    /// The network, or TLS.
    Wire {
        failure: Failure,
        text: String,
        /// Whether it is that time ran out.
        is_late: bool,
    },
    /// An answer that says no.
    Status {
        failure: Failure,
        status: u16,
        said: String,
        after: Option<Duration>,
    },
    /// It was not asked: this machine has asked it as often as it may.
    Budget { text: String, after: Duration },
    /// It wants to know who we are, and does not know us, or not like this.
    Denied { reason: String },
    /// An answer that is not what the protocol says, or not what was promised.
    Answer { reason: String },
    /// Something else than what a registry has, such as the page of a portal.
    NotARegistry { wanted: &'static str, found: String },
    /// More than is read.
    TooLarge { limit: u64 },
    /// It sends us where we do not go.
    Redirect { reason: String },
    /// Our own credentials.
    Login(LoginError),
}

impl RegistryError {
    pub(super) fn new(doing: &'static str, url: &str, problem: Problem) -> Self {
        Self {
            doing,
            url: url.to_owned(),
            problem,
            circumstances: None,
        }
    }

    /// The error of a registry of which this is known.
    pub(super) fn of(mut self, circumstances: Circumstances) -> Self {
        self.circumstances = Some(Box::new(circumstances));
        self
    }

    /// What is known of the registry, where it is known.
    pub(crate) fn circumstances(&self) -> Option<&Circumstances> {
        self.circumstances.as_deref()
    }

    /// Whether time ran out without a word of a registry that has said none in this process.
    pub(crate) fn is_unheard(&self) -> bool {
        let is_late = matches!(&self.problem, Problem::Wire { is_late: true, .. });
        is_late && self.circumstances().is_some_and(|known| known.is_unheard)
    }

    /// The error of a body that is not what its digest says, or ends too early.
    pub(crate) fn answer(doing: &'static str, url: &str, reason: String) -> Self {
        Self::new(doing, url, Problem::Answer { reason })
    }

    /// The error of a body that broke off.
    pub(crate) fn broken(doing: &'static str, url: &str, failure: Failure, text: String) -> Self {
        let is_late = failure == Failure::Silent;
        Self::new(doing, url, Problem::Wire { failure, text, is_late })
    }

    /// The error of a registry that may be asked again after some time.
    pub(crate) fn over_budget(host: &str, text: String, after: Duration) -> Self {
        Self::new("pull from", host, Problem::Budget { text, after })
    }

    /// The error of an answer that asks to wait.
    #[cfg(test)]
    pub(crate) fn busy(url: &str, after: Option<Duration>) -> Self {
        let problem = Problem::Status {
            failure: Failure::Busy,
            status: 429,
            said: String::new(),
            after,
        };
        Self::new("fetch", url, problem)
    }

    /// The error with what `redact` makes of each text in it that a registry may have chosen.
    pub(super) fn redacted(mut self, redact: &dyn Fn(&str) -> String) -> Self {
        self.url = redact(&self.url);
        match &mut self.problem {
            Problem::Wire { text, .. } => *text = redact(text),
            Problem::Status { said, .. } => *said = redact(said),
            Problem::Denied { reason: text }
            | Problem::Answer { reason: text }
            | Problem::Redirect { reason: text }
            | Problem::NotARegistry { found: text, .. } => {
                *text = redact(text);
            }
            Problem::TooLarge { .. } | Problem::Login(_) | Problem::Budget { .. } => {}
        }
        self
    }

    /// What sort of failure it is.
    pub(crate) fn failure(&self) -> Failure {
        match &self.problem {
            Problem::Wire { failure, .. } | Problem::Status { failure, .. } => *failure,
            Problem::Budget { .. } => Failure::Busy,
            Problem::Denied { .. } => Failure::Denied,
            Problem::Answer { .. } => Failure::WrongBytes,
            Problem::NotARegistry { .. } => Failure::NotARegistry,
            Problem::TooLarge { .. } => Failure::TooLarge,
            Problem::Redirect { .. } => Failure::Redirect,
            Problem::Login(_) => Failure::Login,
        }
    }

    /// Where it was asked, without query, user and password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether the registry's list of its repositories was asked for.
    pub(crate) fn is_of_catalogue(&self) -> bool {
        self.doing == READ_CATALOGUE
    }

    /// What it calls for.
    pub(crate) fn step(&self) -> Step {
        self.failure().step()
    }

    /// How long it asks to wait, if it does.
    pub(crate) fn after(&self) -> Option<Duration> {
        match &self.problem {
            Problem::Status { after, .. } => *after,
            Problem::Budget { after, .. } => Some(*after),
            _ => None,
        }
    }

    /// The status of the answer, when that is what went wrong.
    pub(crate) fn status(&self) -> Option<u16> {
        match &self.problem {
            Problem::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it is an answer without a word of a registry: one that refuses says why, by the specification, and one that has
    /// what was asked for sends that.
    pub(crate) fn is_wordless(&self) -> bool {
        match &self.problem {
            Problem::Status { failure, said, .. } => {
                said.is_empty() && matches!(failure, Failure::NotFound | Failure::Refused)
            }
            Problem::Answer { .. } => true,
            _ => false,
        }
    }

    /// Whether what was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.failure() == Failure::NotFound
    }

    /// Kind of the error, as a program decides by it.
    pub fn kind(&self) -> Kind {
        match self.failure() {
            // Names inside a network have no address while the way into it is down, so it may help to try again elsewhere.
            Failure::Unreachable
            | Failure::Unresolved
            | Failure::Silent
            | Failure::Broken
            | Failure::ServerError
            | Failure::Elsewhere
            | Failure::NotARegistry
            | Failure::Busy => Kind::Unavailable,
            Failure::Unauthorized
            | Failure::Denied
            | Failure::NotFound
            | Failure::WrongBytes
            | Failure::Untrusted
            | Failure::Plain
            | Failure::Redirect
            | Failure::Login
            | Failure::TooLarge
            | Failure::Refused
            | Failure::Setup => Kind::Failed,
        }
    }

    /// The word for it in reports.
    pub(crate) fn word(&self) -> &'static str {
        match self.failure() {
            Failure::Unreachable | Failure::Broken => "connection",
            Failure::Unresolved => "name",
            Failure::Silent => "timeout",
            Failure::ServerError | Failure::Elsewhere => "server_error",
            Failure::Busy => "rate_limited",
            Failure::Unauthorized | Failure::Denied | Failure::Login => "auth",
            Failure::NotFound => "not_found",
            Failure::WrongBytes => "digest_mismatch",
            Failure::NotARegistry => "not_a_registry",
            Failure::Untrusted
            | Failure::Plain
            | Failure::Redirect
            | Failure::TooLarge
            | Failure::Refused
            | Failure::Setup => "refused",
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.doing, self.url)?;
        match &self.problem {
            Problem::Wire { text, .. } | Problem::Budget { text, .. } => f.write_str(text),
            Problem::Status { status, said, .. } if said.is_empty() => write!(f, "the registry answers {status}"),
            Problem::Status { status, said, .. } => write!(f, "the registry answers {status} ({said})"),
            Problem::Denied { reason } => f.write_str(reason),
            Problem::Answer { reason } => f.write_str(reason),
            Problem::NotARegistry { wanted, found } => {
                write!(f, "it answers with {found}, where {wanted} was asked for")
            }
            Problem::TooLarge { limit } => write!(f, "the answer is over {}", Bytes(*limit)),
            Problem::Redirect { reason } => write!(f, "a redirect is refused: {reason}"),
            Problem::Login(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RegistryError {}
