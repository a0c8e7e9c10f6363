//! HTTP for builds: bounded, retried, over TLS with the system's certificates. Knows no disk.
//!
//! A request is tried again, with growing pauses, on connection errors, 429 and 5xx; `Retry-After` is honoured up to a
//! bound. A redirect from https to http is refused. Errors name host and path, never user, password or query.

use std::io::{self, Read};
use std::time::Duration;

use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{redirect, StatusCode, Url};

/// A server that does not even accept for this long is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that has not come to its end after this long: at 1 MB/s that is a large wheel.
const TIMEOUT: Duration = Duration::from_secs(900);
/// First pause between tries; doubled each time.
const PAUSE: Duration = Duration::from_millis(200);
/// Tries of one request: 0.2 + 0.4 + 0.8 + 1.6 s of pauses.
const TRIES: u32 = 5;
/// A server may ask for more patience than this; then the request fails, and the caller may come back later.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 5;

/// Makes requests; keeps connections open between them. Safe to use from several threads.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    pause: Duration,
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
    /// Whether a later try may work: nobody answered, or the server is busy.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 410, .. })
    }
}

/// An answer whose bytes are on their way.
#[derive(Debug)]
pub struct Body {
    response: Response,
    /// Whether it starts at the byte that was asked for, not at the first.
    pub continues: bool,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.response.read(buffer)
    }
}

impl Client {
    /// Sets up TLS with the certificates of the system.
    pub fn new() -> Result<Self, NetError> {
        Self::with_pause(PAUSE)
    }

    fn with_pause(pause: Duration) -> Result<Self, NetError> {
        // Fails when it is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = redirect::Policy::custom(|attempt| {
            let downgrade = attempt.previous().last().is_some_and(|last| last.scheme() == "https")
                && attempt.url().scheme() != "https";
            if downgrade {
                return attempt.error("a redirect from https to http");
            }
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("too many redirects");
            }
            attempt.follow()
        });
        let http = Http::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(policy)
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(NetError::Setup)?;
        Ok(Self { http, pause })
    }

    /// The whole answer, at most `limit` bytes.
    pub fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, NetError> {
        let body = self.stream(url, 0)?;
        let mut bytes = Vec::new();
        let read = body.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| NetError::Transport {
            url: plain(url),
            phase: "the connection broke",
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(NetError::TooLarge { url: plain(url), limit });
        }
        Ok(bytes)
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
            let pause = asked.unwrap_or(self.pause * 2u32.pow(tried - 1));
            if tried == TRIES || !error.is_unavailable() || pause > LONGEST_PAUSE {
                return Err(error);
            }
            std::thread::sleep(pause);
        }
    }

    fn once(&self, url: &Url, from: u64) -> Result<Body, (NetError, Option<Duration>)> {
        let name = || plain(url.as_str());
        let mut request = self.http.get(url.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().map_err(|error| {
            let phase = if error.is_connect() {
                "nobody answers"
            } else {
                "the request failed"
            };
            let source = io::Error::other(without_url(error));
            (
                NetError::Transport {
                    url: name(),
                    phase,
                    source,
                },
                None,
            )
        })?;
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

/// The error and its causes, without the address: that may hold a password.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
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
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection after the other with the given texts, then stops listening.
    fn server(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!(
            "http://user:secret@{}/file?token=secret",
            listener.local_addr().unwrap()
        );
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                requests.push(String::from_utf8(request).unwrap());
            }
            requests
        });
        (address, thread)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
            body.len()
        )
    }

    fn client() -> Client {
        Client::with_pause(Duration::from_millis(1)).unwrap()
    }

    #[test]
    fn tries_again_when_the_server_is_busy() {
        let (url, served) = server(vec![
            answer("503 Busy", "", ""),
            answer("429 Slow down", "retry-after: 0\r\n", ""),
            answer("200 OK", "", "hello"),
        ]);
        assert_eq!(client().get(&url, 10).unwrap(), b"hello");
        assert_eq!(served.join().unwrap().len(), 3);
    }

    #[test]
    fn does_not_wait_for_longer_than_it_makes_sense() {
        let (url, _) = server(vec![answer("429 Slow down", "retry-after: 3600\r\n", "")]);
        assert!(matches!(
            client().get(&url, 10),
            Err(NetError::Status { status: 429, .. })
        ));
    }

    #[test]
    fn does_not_ask_twice_for_what_is_not_there() {
        let (url, served) = server(vec![answer("404 Not Found", "", "")]);
        let error = client().get(&url, 10).unwrap_err();
        assert!(error.is_not_found() && !error.is_unavailable());
        assert_eq!(served.join().unwrap().len(), 1);
    }

    #[test]
    fn errors_hold_no_secret() {
        let (url, _) = server(vec![answer("403 Forbidden", "", "")]);
        assert!(!client().get(&url, 10).unwrap_err().to_string().contains("secret"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = client()
            .get(&format!("http://user:secret@{closed}/?k=secret"), 10)
            .unwrap_err();
        assert!(
            error.is_unavailable() && !format!("{error:?}").contains("secret"),
            "{error:?}"
        );
    }

    #[test]
    fn bounds_what_it_reads() {
        let (url, _) = server(vec![answer("200 OK", "", "hello world")]);
        assert!(matches!(
            client().get(&url, 5),
            Err(NetError::TooLarge { limit: 5, .. })
        ));
    }

    #[test]
    fn goes_on_where_it_was_cut_and_notices_another_part() {
        let (url, served) = server(vec![answer("206 Partial", "content-range: bytes 6-10/11\r\n", "world")]);
        let mut body = client().stream(&url, 6).unwrap();
        let mut text = String::new();
        body.read_to_string(&mut text).unwrap();
        assert!(body.continues && text == "world");
        assert!(served.join().unwrap()[0].to_lowercase().contains("range: bytes=6-"));
        let wrong = answer("206 Partial", "content-range: bytes 0-4/11\r\n", "hello");
        let (url, _) = server(vec![wrong; TRIES as usize]);
        assert!(client().stream(&url, 6).is_err());
        let (url, _) = server(vec![answer("200 OK", "", "hello world")]);
        assert!(!client().stream(&url, 6).unwrap().continues);
    }
}
