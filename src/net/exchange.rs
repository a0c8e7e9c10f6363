//! One HTTP exchange at a time, for who follows redirects, tries again and shows credentials by rules of its own: registries.
//!
//! A call goes to the address it names and nowhere else. Connections stay open between calls; each is HTTP/1.1, so that
//! layers that are fetched at once do not share one. Where a server sends us is judged by [`Wire::vet`]: a name that leads to
//! an address of a private network is refused unless the server itself is there, and a name that was let pass is connected
//! to by the very addresses that were looked at.
//!
//! What goes to this machine goes there by itself, whatever proxy the environment names. Nobody is waited for without end: an
//! answer that is read whole has a deadline, a long one a lowest speed, and an upload ends when nothing of it is taken.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::{mpsc, Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::blocking::{Body, Client as Http, RequestBuilder, Response};
use reqwest::header::HeaderMap;
use reqwest::{redirect, Method, Url};

use super::pinned_hosts::Pinned;
use super::waits::Waits;
use super::watched::Watched;
use super::world::{make_resolver, Internet, World};
use super::{failure, has_no_address, is_without_tls, NetError};
use crate::policy::is_loopback;
use crate::sys::lock::beat;

/// Connections that wait for their next call, for each server: as many as there are transfers at once.
const IDLE: usize = 16;
/// The slowest upload that is not given up, in bytes a second: a layer of a gigabyte may take four hours and a half. Also the
/// slowest answer that is read whole.
const SLOWEST: u64 = 64 << 10;
/// The fewest bytes a second of an answer that is long.
const SLOWEST_LONG: u64 = 1 << 10;
/// Bytes that are on their way when the last one of an upload was handed to the system.
const IN_FLIGHT: u64 = 4 << 20;
/// Between two looks at an upload.
const LOOK: Duration = Duration::from_millis(200);
/// What is read of the answer to an upload.
const MAX_ANSWER: u64 = 64 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

/// What goes with a call.
pub(crate) enum Payload {
    Empty,
    Bytes(Vec<u8>),
    /// Exactly `size` bytes.
    Stream {
        reader: Box<dyn Read + Send>,
        size: u64,
    },
}

/// One request.
pub(crate) struct Call {
    pub verb: Verb,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Payload,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WirePatience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer, and between two pieces of it.
    pub stall: Duration,
}

/// What went wrong before there was an answer, or while it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody accepts a connection there.
    Unreachable,
    /// The name servers answer that its name has no address.
    Unresolved,
    /// It accepts and says nothing.
    Silent,
    /// The connection broke.
    Broken,
    /// Its certificate is not accepted.
    Untrusted,
    /// It answers without TLS.
    Plain,
    /// This machine cannot do TLS.
    Setup,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{phase}: {source}")]
pub(crate) struct WireError {
    pub trouble: Trouble,
    /// Whether it is that time ran out: no connection, or no answer.
    pub is_late: bool,
    phase: &'static str,
    source: io::Error,
}

/// An answer; reading it reads its body.
pub(crate) struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Box<dyn Read + Send>,
    stall: Duration,
}

/// Makes calls. Cheap to clone, safe to use from several threads.
#[derive(Clone)]
pub(crate) struct Wire {
    /// By the proxies of the environment, past them, and past them without TLS. Each is made at its first call: reading the
    /// certificates of the system takes 40 ms.
    clients: Arc<[OnceLock<Http>; 3]>,
    /// Held while one is made: those that need it at once wait for it instead of making their own.
    making: Arc<Mutex<()>>,
    patience: WirePatience,
    pinned: Arc<Pinned>,
    /// Whether calls to an address go through a proxy, which then looks up names by itself.
    is_proxied: fn(&str) -> bool,
    waits: Waits,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// A wire on which nothing was said yet. `is_proxied` says of an address whether it is reached by a proxy.
    pub(crate) fn new(patience: WirePatience, is_proxied: fn(&str) -> bool) -> Self {
        Self {
            clients: Arc::default(),
            making: Arc::default(),
            patience,
            pinned: Arc::default(),
            is_proxied,
            waits: Waits::default(),
        }
    }

    /// This wire, where `tell` hears for whom a call has waited for some seconds.
    pub(crate) fn telling(self, tell: fn(&str)) -> Self {
        let waits = Waits::new(tell);
        Self { waits, ..self }
    }

    /// The client for an address. What is for this machine is for no proxy: a password would leave it in clear text.
    fn client(&self, url: &Url) -> Result<&Http, WireError> {
        let is_here = url.host_str().is_some_and(is_loopback);
        let is_plain = is_here && url.scheme() == "http";
        let [proxied, direct, plain] = &*self.clients;
        let place = match (is_plain, is_here) {
            (true, _) => plain,
            (false, true) => direct,
            (false, false) => proxied,
        };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = place.get() {
            return Ok(client);
        }
        // Fails when it is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Http::builder()
            .connect_timeout(self.patience.connect)
            // Of the blocking client: until the answer begins, and then for each read, not for the whole answer.
            .timeout(self.patience.stall)
            .redirect(redirect::Policy::none())
            .http1_only()
            .pool_max_idle_per_host(IDLE)
            .dns_resolver(Arc::clone(&self.pinned))
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")));
        let builder = if is_here { builder.no_proxy() } else { builder };
        let builder = if is_plain { builder.tls_certs_only([]) } else { builder };
        let made = builder.build().map_err(|error| WireError {
            trouble: Trouble::Setup,
            is_late: false,
            phase: "TLS cannot be set up",
            source: io::Error::other(error),
        })?;
        Ok(place.get_or_init(|| made))
    }

    /// Makes one call. An answer of any status is no error.
    pub(crate) fn send(&self, call: Call) -> Result<Answer, WireError> {
        let method = match call.verb {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        };
        let longest = self.patience.connect.max(self.patience.stall);
        let waiting = self.waits.begin(&call.url, longest);
        let mut request = self.client(&call.url)?.request(method, call.url);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        request = match call.payload {
            // Some servers want to be told that there is nothing.
            Payload::Empty if call.verb == Verb::Post => request.header("content-length", "0"),
            Payload::Empty => request,
            Payload::Bytes(bytes) => request.body(bytes),
            Payload::Stream { reader, size } => {
                drop(waiting);
                return self.upload(request, reader, size);
            }
        };
        let response = request.send().map_err(wire_error)?;
        drop(waiting);
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Box::new(response),
            stall: self.patience.stall,
        })
    }

    /// Sends a body from a thread of its own, and looks how much of it is taken. One left behind ends by the call's limit.
    fn upload(&self, request: RequestBuilder, reader: Box<dyn Read + Send>, size: u64) -> Result<Answer, WireError> {
        let stall = self.patience.stall;
        let whole = stall * 2 + Duration::from_secs(size.saturating_add(IN_FLIGHT) / SLOWEST);
        let watched = Watched::new(reader);
        let request = request.timeout(whole).body(Body::sized(watched.clone(), size));
        let (tell, told) = mpsc::channel();
        let (tell_body, told_body) = mpsc::channel();
        let sending = move || match request.send() {
            Ok(mut response) => {
                let _ = tell.send(Ok((response.status().as_u16(), response.headers().clone())));
                let _ = tell_body.send(read_words(&mut response));
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        };
        let broken = |source| WireError {
            trouble: Trouble::Broken,
            is_late: false,
            phase: "the upload cannot be started",
            source,
        };
        std::thread::Builder::new().spawn(sending).map_err(broken)?;
        let (mut had, mut since) = (0, Instant::now());
        loop {
            match told.recv_timeout(LOOK.min(stall)) {
                Ok(answer) => {
                    let (status, headers) = answer.map_err(wire_error)?;
                    // An answer without its words is one all the same.
                    let words = told_body.recv_timeout(stall).unwrap_or_default();
                    return Ok(Answer {
                        status,
                        headers,
                        body: Box::new(io::Cursor::new(words)),
                        stall,
                    });
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(broken(io::Error::other("the thread that sends has ended")));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => beat(),
            }
            let taken = watched.taken();
            let flight = if taken >= size {
                size.min(IN_FLIGHT) / SLOWEST
            } else {
                0
            };
            if taken > had || watched.is_read() {
                (had, since) = (taken, Instant::now());
            } else if since.elapsed() > stall + Duration::from_secs(flight) {
                watched.end();
                let reason = format!("nothing of the upload is taken for {} s", since.elapsed().as_secs());
                return Err(WireError {
                    trouble: Trouble::Silent,
                    is_late: true,
                    phase: "the server does not answer",
                    source: io::Error::new(io::ErrorKind::TimedOut, reason),
                });
            }
        }
    }

    /// Whether a server at `home` may send us to `target`: never from https to http, nor into a network it is not in.
    ///
    /// # Errors
    ///
    /// The text says why not.
    pub(crate) fn vet(&self, home: &Url, target: &Url) -> Result<(), String> {
        let is_plain = home.scheme() == "http" && target.scheme() == "http";
        if target.scheme() != "https" && !(is_plain && target.host_str().is_some_and(is_loopback)) {
            return Err(format!("it leads from {} to {}", home.scheme(), target.scheme()));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err("it holds a user or a password".to_owned());
        }
        let Some(host) = target.host_str() else {
            return Err("it has no host".to_owned());
        };
        if is_same_server(home, target) {
            return Ok(());
        }
        let is_name = literal(host).is_none();
        if is_name && !is_loopback(host) && (self.is_proxied)(target.as_str()) {
            return Ok(());
        }
        let of_home = || {
            let host = home.host_str().unwrap_or_default();
            let addresses = addresses_of(host).unwrap_or_default();
            addresses.iter().find_map(|address| Internet::new().refusal(*address))
        };
        let addresses = addresses_of(host).map_err(|error| format!("its host {host} has no address: {error}"))?;
        for address in &addresses {
            let Some(what) = Internet::new().refusal(*address) else {
                continue;
            };
            let is_fine = of_home().is_some_and(|own| own == what || (own == "loopback" && what == "private"));
            if !is_fine {
                return Err(format!("its host {host} has the address {address}, which is {what}"));
            }
        }
        if is_name {
            self.pinned.pin(host, addresses);
        }
        Ok(())
    }
}

/// Whether two addresses are of one server, to which alone its credentials go.
pub(crate) fn is_same_server(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// The address that `host` is when it is no name.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

fn addresses_of(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Some(address) = literal(host) {
        return Ok(vec![address]);
    }
    if is_loopback(host) {
        return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    }
    // A resolver belongs to the runtime that it was made in.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let found = runtime.block_on(async { make_resolver()?.lookup_ip(host).await.map_err(io::Error::other) })?;
    Ok(found.iter().collect())
}

/// What an answer says in its body, as far as it came.
fn read_words(response: &mut Response) -> Vec<u8> {
    let mut words = Vec::new();
    // What broke off is as good as what is there.
    let _ = response.take(MAX_ANSWER).read_to_end(&mut words);
    words
}

impl Answer {
    /// HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// The first header of that name, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers of that name that are text.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let all = self.headers.get_all(name).iter();
        all.filter_map(|value| value.to_str().ok()).collect()
    }

    /// Bytes of the body, if the server says how many. Of a HEAD: of what a GET would bring.
    pub(crate) fn size(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// At most `most` bytes of the body, all of them within the time that so many may take.
    pub(crate) fn bytes(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let expected = self.size().map_or(most, |size| size.min(most));
        let (began, limit) = (Instant::now(), self.stall + Duration::from_secs(expected / SLOWEST));
        let (mut bytes, mut piece) = (Vec::new(), [0; 8 << 10]);
        while (bytes.len() as u64) < most {
            let count = match self.body.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
            beat();
            if began.elapsed() > limit {
                let reason = format!("it is not there after {} s", limit.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
        }
        bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// Passes over `count` bytes, unless they come too slowly.
    pub(crate) fn pass(&mut self, mut count: u64) -> io::Result<()> {
        let (mut looked, mut came, mut piece) = (Instant::now(), 0_u64, vec![0; 64 << 10]);
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX).min(piece.len());
            let got = match self.body.read(piece.get_mut(..most).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            beat();
            (count, came) = (count - got as u64, came + got as u64);
            let waited = looked.elapsed();
            if waited >= self.stall {
                if came < SLOWEST_LONG.saturating_mul(waited.as_secs().max(1)) {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "it sends less than a kilobyte a second",
                    ));
                }
                (looked, came) = (Instant::now(), 0);
            }
        }
        Ok(())
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

/// What a body that cannot be read any more means.
pub(crate) fn trouble_of(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::TimedOut => Trouble::Silent,
        _ => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
            match inner {
                Some(inner) if inner.is_timeout() => Trouble::Silent,
                _ => Trouble::Broken,
            }
        }
    }
}

fn wire_error(error: reqwest::Error) -> WireError {
    let is_late = error.is_timeout();
    let trouble = match error.is_connect() {
        true if has_no_address(&error) => Trouble::Unresolved,
        true if is_without_tls(&error) => Trouble::Plain,
        true => Trouble::Unreachable,
        false if is_late => Trouble::Silent,
        false => Trouble::Broken,
    };
    let (trouble, phase, source) = match failure(String::new(), error) {
        NetError::Untrusted { source, .. } => (Trouble::Untrusted, "its certificate is not accepted", source),
        NetError::Transport { source, .. } if trouble == Trouble::Plain => {
            (trouble, "it does not speak TLS there", source)
        }
        NetError::Transport { phase, source, .. } => (trouble, phase, source),
        other => (
            Trouble::Broken,
            "the request failed",
            io::Error::other(other.to_string()),
        ),
    };
    WireError {
        trouble,
        is_late,
        phase,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> Wire {
        let second = Duration::from_secs(1);
        let patience = WirePatience {
            connect: second,
            stall: second,
        };
        Wire::new(patience, |_| false)
    }

    #[test]
    fn a_server_may_send_us_into_its_own_network_and_to_the_public_one() {
        let wire = wire();
        let vet = |home: &str, target: &str| wire.vet(&home.parse().unwrap(), &target.parse().unwrap());
        for (home, target) in [
            ("https://1.1.1.1/v2/", "https://8.8.8.8/blob?x=1"),
            ("https://1.1.1.1/v2/", "https://1.1.1.1/other"),
            ("https://10.0.0.1/v2/", "https://10.0.0.2/blob"),
            ("https://10.0.0.1/v2/", "https://8.8.8.8/blob"),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:6000/blob"),
            ("http://localhost:5000/v2/", "http://127.0.0.1:6000/blob"),
            ("http://127.0.0.1:5000/v2/", "https://10.0.0.2/blob"),
            ("http://127.0.0.1:5000/v2/", "https://8.8.8.8/blob"),
        ] {
            assert_eq!(vet(home, target), Ok(()), "{home} -> {target}");
        }
        for (home, target, says) in [
            ("https://1.1.1.1/v2/", "http://1.1.1.1/v2/", "from https to http"),
            ("https://1.1.1.1/v2/", "http://8.8.8.8/blob", "from https to http"),
            ("https://1.1.1.1/v2/", "ftp://8.8.8.8/blob", "from https to ftp"),
            ("https://1.1.1.1/v2/", "file:///etc/passwd", "from https to file"),
            ("https://1.1.1.1/v2/", "https://me:pw@8.8.8.8/", "user or a password"),
            ("https://1.1.1.1/v2/", "https://10.0.0.1/", "private"),
            ("https://1.1.1.1/v2/", "https://127.0.0.1/", "loopback"),
            ("https://1.1.1.1/v2/", "https://[::1]/", "loopback"),
            ("https://1.1.1.1/v2/", "https://localhost/", "loopback"),
            ("https://1.1.1.1/v2/", "https://169.254.169.254/latest", "link-local"),
            ("https://10.0.0.1/v2/", "https://169.254.169.254/", "link-local"),
            ("https://10.0.0.1/v2/", "https://127.0.0.1/", "loopback"),
            ("http://127.0.0.1:5000/v2/", "https://169.254.169.254/", "link-local"),
            ("http://127.0.0.1:5000/v2/", "https://[fe80::1]/", "link-local"),
            (
                "http://127.0.0.1:5000/v2/",
                "http://169.254.169.254/",
                "from http to http",
            ),
            ("http://127.0.0.1:5000/v2/", "http://8.8.8.8/blob", "from http to http"),
        ] {
            let refused = vet(home, target).unwrap_err();
            assert!(refused.contains(says), "{home} -> {target}: {refused}");
        }
    }

    #[test]
    fn a_name_without_an_address_is_refused_unless_a_proxy_looks_it_up() {
        let wire = wire();
        let (home, target) = (
            "https://1.1.1.1/".parse().unwrap(),
            "https://none.invalid/x".parse().unwrap(),
        );
        assert!(wire.vet(&home, &target).unwrap_err().contains("no address"));
        let proxied = Wire {
            is_proxied: |_| true,
            ..wire
        };
        assert_eq!(proxied.vet(&home, &target), Ok(()));
        let literal = "https://10.0.0.1/".parse().unwrap();
        assert!(proxied.vet(&home, &literal).is_err(), "an address needs no looking up");
    }

    #[test]
    fn a_server_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| is_same_server(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://a.example/x", "https://a.example:443/y"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://a.example.evil/"));
    }
}
