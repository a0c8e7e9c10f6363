//! HTTP for builds: bounded, retried, over TLS with the system's certificates. Knows no disk. Beside it, in files of
//! their own, the forwarding of a run's connections ([`Forwarder`]) and whom they may reach ([`world`]), and single exchanges
//! for registries ([`Wire`]).
//!
//! A request is tried again, with growing pauses, on connection errors, 429 and 5xx; `Retry-After` is honoured up to a
//! bound. What another try cannot mend is not tried again: a certificate nobody vouches for, a redirect from https to
//! http or in a circle. A server that goes silent is given up, however much it sent before. Certificates are those of
//! the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`), proxies those of the environment. Errors name host and path, never
//! user, password or query.

mod credentials;
mod exchange;
mod forward;
mod pinned_hosts;
mod waits;
mod watched;
mod world;

use std::error::Error as _;
use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use crate::policy::Kind;
use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{redirect, StatusCode};

pub(crate) use credentials::{Address, Credentials};
pub(crate) use exchange::{
    is_same_server, trouble_of, Answer, Call, Payload, Trouble, Verb, Wire, WireError, WirePatience,
};
pub(crate) use forward::Forwarder;
pub(crate) use reqwest::Url;
pub(crate) use world::Internet;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For a connection: a server that does not even accept for this long is down.
    connect: Duration,
    /// For an answer, and between two pieces of it: half of it would cut off an index that is made on demand, twice as
    /// much would look like gantry hanging. A slow but steady transfer may take as long as it likes.
    stall: Duration,
    /// Before the second try; doubled each time.
    pause: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(10),
    stall: Duration::from_secs(30),
    pause: Duration::from_millis(200),
};
/// Tries of one request: 0.2 + 0.4 + 0.8 + 1.6 s of pauses, each up to half longer: many builds that a busy server
/// turned away together do not come back together.
const TRIES: u32 = 5;
/// A server may ask for more patience than this; then the request fails, and the caller may come back later.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 5;

/// Makes requests; keeps connections open between them. Safe to use from several threads.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    patience: Patience,
    credentials: Vec<Credentials>,
}

/// Why a request gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The client cannot be set up.
    #[error("set up HTTPS")]
    Setup(#[source] reqwest::Error),
    /// Not an address.
    #[error("fetch {url}: it is no http or https address")]
    Url {
        /// The text, without credentials.
        url: String,
    },
    /// Nobody answered, or the connection broke.
    #[error("fetch {url}: {phase}")]
    Transport {
        /// Address without credentials and query.
        url: String,
        /// What was going on.
        phase: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// It is not who it says it is, or the certificates of this machine do not know it.
    #[error("fetch {url}: its certificate is not accepted")]
    Untrusted {
        /// Address without credentials and query.
        url: String,
        /// The reason.
        source: io::Error,
    },
    /// It sends us where we do not go.
    #[error("fetch {url}: a redirect is refused")]
    Redirect {
        /// Address without credentials and query.
        url: String,
        /// The reason.
        source: io::Error,
    },
    /// The server refused.
    #[error("fetch {url}: the server answers {status}")]
    Status {
        /// Address without credentials and query.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// More than was expected.
    #[error("fetch {url}: the answer is over {limit} bytes")]
    TooLarge {
        /// Address without credentials and query.
        url: String,
        /// What was accepted.
        limit: u64,
    },
}

impl NetError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Transport { .. } => Kind::Unavailable,
            Self::Status { status, .. } if *status == 429 || *status >= 500 => Kind::Unavailable,
            Self::Setup(_)
            | Self::Url { .. }
            | Self::Untrusted { .. }
            | Self::Redirect { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. } => Kind::Failed,
        }
    }
}

impl NetError {
    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 410, .. })
    }
}

/// An answer whose bytes are on their way.
pub struct Body {
    response: Response,
    /// Whether it starts at the byte that was asked for, not at the first.
    pub continues: bool,
}

impl fmt::Debug for Body {
    /// The response would print its address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("status", &self.response.status())
            .field("continues", &self.continues)
            .finish()
    }
}

impl Body {
    /// Bytes of what is on its way, if the server says how many.
    pub fn size(&self) -> Option<u64> {
        self.response.content_length()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.response.read(buffer)
    }
}

impl Client {
    /// Sets up TLS with the certificates of the system.
    pub fn new() -> Result<Self, NetError> {
        Self::with_patience(PATIENCE)
    }

    /// For tests: pauses for a moment only.
    #[cfg(test)]
    pub(crate) fn pausing_little() -> Self {
        let pause = Duration::from_millis(1);
        Self::with_patience(Patience { pause, ..PATIENCE }).unwrap()
    }

    /// For tests: gives up a silent server soon, as it does one that a machine under load is slow to run.
    #[cfg(test)]
    pub(crate) fn impatient() -> Self {
        let (stall, pause) = (Duration::from_secs(1), Duration::from_millis(1));
        Self::with_patience(Patience {
            stall,
            pause,
            ..PATIENCE
        })
        .unwrap()
    }

    fn with_patience(patience: Patience) -> Result<Self, NetError> {
        // Fails when it is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = redirect::Policy::custom(|attempt| match refused_redirect(attempt.previous(), attempt.url()) {
            Some(reason) => attempt.error(reason),
            None => attempt.follow(),
        });
        let http = Http::builder()
            .connect_timeout(patience.connect)
            // Of the blocking client: until the answer begins, and then for each read, not for the whole answer.
            .timeout(patience.stall)
            .redirect(policy)
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(NetError::Setup)?;
        Ok(Self {
            http,
            patience,
            credentials: Vec::new(),
        })
    }

    /// Sends each of `credentials` to the server it is for, and after a redirect to nobody else.
    pub fn with_credentials<'a>(self, credentials: impl IntoIterator<Item = &'a Credentials>) -> Self {
        Self {
            credentials: credentials.into_iter().cloned().collect(),
            ..self
        }
    }

    /// The whole answer, at most `limit` bytes; asked for again when it breaks off.
    pub fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, NetError> {
        let mut tried = 0;
        loop {
            let mut bytes = Vec::new();
            let read = self
                .stream(url, 0)?
                .take(limit.saturating_add(1))
                .read_to_end(&mut bytes);
            tried += 1;
            match read {
                Ok(_) if bytes.len() as u64 > limit => return Err(NetError::TooLarge { url: plain(url), limit }),
                Ok(_) => return Ok(bytes),
                Err(_) if tried < TRIES => std::thread::sleep(self.pause(tried)),
                Err(source) => {
                    return Err(NetError::Transport {
                        url: plain(url),
                        phase: "the connection broke",
                        source,
                    })
                }
            }
        }
    }

    /// Starts reading at byte `from`; look at [`Body::continues`], for a server may ignore that.
    pub fn stream(&self, url: &str, from: u64) -> Result<Body, NetError> {
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        let parsed = parsed.ok_or_else(|| NetError::Url { url: plain(url) })?;
        let mut tried = 0;
        loop {
            let (error, asked) = match self.once(&parsed, from) {
                Ok(body) => return Ok(body),
                Err(failed) => failed,
            };
            tried += 1;
            let pause = asked.unwrap_or_else(|| self.pause(tried));
            if tried == TRIES || !error.kind().is_away() || pause > LONGEST_PAUSE {
                return Err(error);
            }
            std::thread::sleep(pause);
        }
    }

    /// The pause after the `tried`th try.
    fn pause(&self, tried: u32) -> Duration {
        let pause = self.patience.pause * 2u32.saturating_pow(tried.saturating_sub(1));
        let mut random = [0];
        // Without randomness the pause is still right, only less polite.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
        pause + pause * u32::from(random[0]) / 512
    }

    fn once(&self, url: &Url, from: u64) -> Result<Body, (NetError, Option<Duration>)> {
        let name = || plain(url.as_str());
        let mut address = url.clone();
        let fitting = self
            .credentials
            .iter()
            .rev()
            .filter_map(|one| Some((one.fit(url)?, one)));
        if let Some((_, credentials)) = fitting.max_by_key(|(shared, _)| *shared) {
            credentials.add_to(&mut address);
        }
        let mut request = self.http.get(address);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().map_err(|error| (failure(name(), error), None))?;
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0 {
            // What is there is longer than what the server has: start anew.
            return self.once(url, 0);
        }
        if !status.is_success() {
            let asked = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok());
            return Err((
                NetError::Status {
                    url: name(),
                    status: status.as_u16(),
                },
                asked.map(Duration::from_secs),
            ));
        }
        let starts_there = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let continues = status == StatusCode::PARTIAL_CONTENT
            && starts_there.is_some_and(|range| range.starts_with(&format!("bytes {from}-")));
        if status == StatusCode::PARTIAL_CONTENT && !continues {
            let source = io::Error::other("it sent another part than was asked for");
            return Err((
                NetError::Transport {
                    url: name(),
                    phase: "the request failed",
                    source,
                },
                None,
            ));
        }
        Ok(Body { response, continues })
    }
}

/// Why the redirect to `next` is not followed, if so; `previous` begins with the address that was asked for.
fn refused_redirect(previous: &[Url], next: &Url) -> Option<&'static str> {
    if previous.last().is_some_and(|last| last.scheme() == "https") && next.scheme() != "https" {
        return Some("it leads from https to http");
    }
    (previous.len() > MAX_REDIRECTS).then_some("there are more than 5 of them")
}

/// What a failed request means: whether it is worth another try depends on it.
fn failure(url: String, error: reqwest::Error) -> NetError {
    let phase = if causes_of(&error).any(|cause| cause.to_string() == DNS) {
        "the name of its host cannot be resolved (DNS)"
    } else if error.is_timeout() && !error.is_connect() {
        "the server accepts but does not answer"
    } else if error.is_connect() {
        "nobody answers"
    } else {
        "the request failed"
    };
    let (redirect, untrusted) = (error.is_redirect(), is_certificate_error(&error));
    let source = io::Error::other(without_url(error));
    match (redirect, untrusted) {
        (true, _) => NetError::Redirect { url, source },
        (_, true) => NetError::Untrusted { url, source },
        _ => NetError::Transport { url, phase, source },
    }
}

fn is_certificate_error(error: &reqwest::Error) -> bool {
    let is_one = |cause| matches!(tls_error(cause), Some(rustls::Error::InvalidCertificate(_)));
    causes_of(error).any(is_one)
}

/// Whether the other side answers, and not by TLS, as a server of plain HTTP does.
fn is_without_tls(error: &reqwest::Error) -> bool {
    let is_one = |cause| {
        let tls = tls_error(cause);
        matches!(
            tls,
            Some(rustls::Error::InvalidMessage(
                rustls::InvalidMessage::InvalidContentType
            ))
        )
    };
    causes_of(error).any(is_one)
}

/// The error of TLS that `cause` is, or that travels inside it: an input/output error, which may itself be inside another,
/// does not name what it holds as its source.
fn tls_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut at = cause;
    loop {
        if let Some(tls) = at.downcast_ref() {
            return Some(tls);
        }
        at = at.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

/// The error and its causes, without the address: that may hold a password.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = causes_of(&error).map(|cause| in_words(cause.to_string()));
    reasons([error.to_string()].into_iter().chain(causes).collect())
}

/// What the HTTP library says of a cause that comes behind it, which says more.
const NO_REASON: [&str; 6] = [
    "error sending request",
    "client error (Connect)",
    "client error (SendRequest)",
    DNS,
    "error resolving DNS",
    "tcp connect error",
];

/// `chain` without what only says that a reason follows.
fn reasons(mut chain: Vec<String>) -> String {
    let last = chain.pop();
    chain.retain(|text| !NO_REASON.contains(&text.as_str()));
    chain.extend(last);
    chain.join(": ")
}

/// What the HTTP library says before what the resolver says.
const DNS: &str = "dns error";

/// Whether the name servers answered, and know no address of the host. One that cannot be asked says nothing of a name.
fn has_no_address(error: &reqwest::Error) -> bool {
    let is_of_names = causes_of(error).any(|cause| cause.to_string() == DNS);
    let is_none = |cause: &io::Error| cause.kind() == io::ErrorKind::NotFound;
    is_of_names && causes_of(error).any(|cause| cause.downcast_ref().is_some_and(is_none))
}

fn causes_of<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause: &&'a (dyn std::error::Error + 'static)| {
        (*cause).source()
    })
}

/// A cause without the question that a resolver prints as it lies in memory.
fn in_words(text: String) -> String {
    match text.split_once(" for Query {") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// An address for messages: no user, password, query or fragment.
fn plain(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        Err(_) => "an address that cannot be parsed".to_owned(),
    }
}

#[cfg(test)]
mod tests;
