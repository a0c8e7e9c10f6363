//! A registry in this process that does what it is told: the distribution protocol as it should be, and before it rules
//! that answer requests in any way a server can be wrong.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gantry::oci::{Digest, Manifest};

/// What passes the gate: layers, and no configurations.
const LARGE: usize = 2000;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What is done when the bytes of an answer are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    /// The connection stays open for the next request.
    Go,
    /// It is closed.
    Close,
    /// Nothing comes any more, until the registry ends.
    Stall,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What `Content-Length` says; none for no such header.
    pub length: Option<usize>,
    pub then: Then,
    /// After each byte.
    pub pace: Option<Duration>,
    /// Bytes a second.
    pub rate: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            headers: Vec::new(),
            length: Some(body.len()),
            body,
            then: Then::Go,
            pace: None,
            rate: None,
        }
    }

    /// No answer at all: the connection ends.
    pub fn nothing() -> Self {
        Self::new(0, "").then(Then::Close)
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }

    /// Says all of it and sends `count` bytes.
    pub fn cut(mut self, count: usize, then: Then) -> Self {
        self.body.truncate(count);
        Self { then, ..self }
    }
}

type Rule = Box<dyn FnMut(&Seen, &State) -> Option<Reply> + Send>;

/// A media type and the bytes.
type Document = (String, Vec<u8>);

/// What the registry holds.
#[derive(Default)]
pub struct State {
    pub blobs: Mutex<HashMap<String, Vec<u8>>>,
    /// By repository and tag or digest.
    pub manifests: Mutex<HashMap<(String, String), Document>>,
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    /// Uploads so far.
    begun: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<Vec<Rule>>,
    early: Mutex<Vec<Rule>>,
    gate: Mutex<Option<Arc<Gate>>>,
    is_over: AtomicBool,
}

/// Whether a gate is for a request.
type IsFor = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

/// Lets nobody pass before as many are there at once as should be. One who has all of an answer is not inside any more.
pub struct Gate {
    wanted: usize,
    /// Whom it is for; none for bytes of layers.
    is_for: Option<IsFor>,
    /// How many are inside, and how many were at most.
    inside: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Gate {
    fn enter(&self) {
        let mut inside = self.inside.lock().unwrap();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        self.changed.notify_all();
        let too_few = |inside: &mut (usize, usize)| inside.1 < self.wanted;
        drop(
            self.changed
                .wait_timeout_while(inside, Duration::from_secs(300), too_few)
                .unwrap(),
        );
    }

    fn leave(&self) {
        self.inside.lock().unwrap().0 -= 1;
    }

    /// How many were inside at most.
    pub fn most(&self) -> usize {
        self.inside.lock().unwrap().1
    }
}

/// Someone inside, who leaves with this.
struct Inside(Arc<Gate>);

impl Inside {
    fn of(gate: Arc<Gate>) -> Self {
        gate.enter();
        Self(gate)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A registry, ended with the test.
pub struct Fake {
    /// `127.0.0.1:PORT`.
    pub host: String,
    pub state: Arc<State>,
}

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let state = Arc::new(State::default());
        let (shared, own_host) = (Arc::clone(&state), host.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, host) = (Arc::clone(&shared), own_host.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &state, &host));
            }
        });
        Self { host, state }
    }

    /// Answers what `rule` has an answer for; a later rule counts over an earlier one.
    pub fn rule(&self, rule: impl FnMut(&Seen, &State) -> Option<Reply> + Send + 'static) {
        self.state.rules.lock().unwrap().insert(0, Box::new(rule));
    }

    /// As [`rule`](Self::rule), by what comes before the body, which is not read then: the connection ends or stays silent.
    pub fn early(&self, rule: impl FnMut(&Seen, &State) -> Option<Reply> + Send + 'static) {
        self.state.early.lock().unwrap().insert(0, Box::new(rule));
    }

    /// Answers the first `count` requests of `method` whose path has `part` with `reply`.
    pub fn first(&self, count: usize, method: &'static str, part: &str, reply: Reply) {
        let (mut left, part) = (count, part.to_owned());
        self.rule(move |seen, _| {
            (left > 0 && seen.is(method, &part)).then(|| {
                left -= 1;
                reply.clone()
            })
        });
    }

    /// From now on nobody gets bytes of a blob, or is done with an upload, before `wanted` of them are at it at once.
    pub fn gate(&self, wanted: usize) -> Arc<Gate> {
        self.gate_of(wanted, None)
    }

    /// From now on nobody of those `is_for` which it is gets an answer before `wanted` of them are there at once.
    pub fn gate_for(&self, wanted: usize, is_for: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Arc<Gate> {
        self.gate_of(wanted, Some(Box::new(is_for)))
    }

    fn gate_of(&self, wanted: usize, is_for: Option<IsFor>) -> Arc<Gate> {
        let gate = Arc::new(Gate {
            wanted,
            is_for,
            inside: Mutex::new((0, 0)),
            changed: Condvar::new(),
        });
        *self.state.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }

    /// `127.0.0.1:PORT/team/a:1`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// Puts the image `digest` of a store there.
    pub fn hold(&self, store: &Path, digest: &str, repository: &str, tag: &str) {
        let blob = |digest: &str| fs::read(store.join("blobs/sha256").join(&digest[7..])).unwrap();
        let raw = blob(digest);
        let manifest: Manifest = serde_json::from_slice(&raw).unwrap();
        let mut blobs = self.state.blobs.lock().unwrap();
        for part in manifest.layers.iter().chain([&manifest.config]) {
            blobs.insert(part.digest.to_string(), blob(&part.digest.to_string()));
        }
        let document = (manifest.media_type.unwrap(), raw);
        let mut manifests = self.state.manifests.lock().unwrap();
        for name in [tag, digest] {
            manifests.insert((repository.to_owned(), name.to_owned()), document.clone());
        }
    }

    /// Loses a blob.
    pub fn lose(&self, digest: &str) {
        self.state.blobs.lock().unwrap().remove(digest).unwrap();
    }

    /// What a tag means there.
    pub fn digest_of(&self, repository: &str, tag: &str) -> Option<String> {
        let manifests = self.state.manifests.lock().unwrap();
        let found = manifests.get(&(repository.to_owned(), tag.to_owned()))?;
        Some(Digest::of(&found.1).to_string())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

fn serve(stream: TcpStream, state: &State, host: &str) {
    // Headers and body are two writes, and the second would wait for the other side's word on the first.
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut out = stream;
    while let Some(mut seen) = read_head(&mut reader) {
        let early = {
            let mut rules = state.early.lock().unwrap();
            rules.iter_mut().find_map(|rule| rule(&seen, state))
        };
        if let Some(reply) = early {
            state.seen.lock().unwrap().push(seen.clone());
            send(&mut out, &seen, &reply, None);
            if reply.then == Then::Stall {
                stall(state);
            }
            return;
        }
        if !read_body(&mut reader, &mut seen) {
            return;
        }
        state.seen.lock().unwrap().push(seen.clone());
        let ruled = {
            let mut rules = state.rules.lock().unwrap();
            rules.iter_mut().find_map(|rule| rule(&seen, state))
        };
        let reply = ruled.unwrap_or_else(|| state.answer(&seen, host));
        let is_large = seen.body.len().max(reply.body.len()) >= LARGE && seen.path.contains("/blobs/");
        let is_for = |gate: &Arc<Gate>| gate.is_for.as_ref().map_or(is_large, |is_for| is_for(&seen));
        let gate = state.gate.lock().unwrap().clone().filter(is_for);
        let sent = send(&mut out, &seen, &reply, gate.map(Inside::of));
        match reply.then {
            Then::Go if sent => {}
            Then::Go | Then::Close => return,
            Then::Stall => return stall(state),
        }
    }
}

fn stall(state: &State) {
    while !state.is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Seen {
        method,
        path,
        headers,
        body: Vec::new(),
    })
}

/// What broke off is no request.
fn read_body(reader: &mut BufReader<TcpStream>, seen: &mut Seen) -> bool {
    seen.body = vec![0; seen.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut seen.body).is_ok()
}

/// Whoever is `inside` leaves before the last byte is sent: the other side may be back by another connection right after it.
fn send(out: &mut TcpStream, seen: &Seen, reply: &Reply, inside: Option<Inside>) -> bool {
    if reply.status == 0 {
        return false;
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    if let Some(length) = reply.length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    } else {
        head.push_str("Connection: close\r\n");
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let body = reply.body.split_last().filter(|_| seen.method != "HEAD");
    let Some((last, body)) = body else {
        drop(inside);
        return out.write_all(head.as_bytes()).is_ok();
    };
    if out.write_all(head.as_bytes()).is_err() {
        return false;
    }
    let sent = match (reply.pace, reply.rate) {
        (None, None) => out.write_all(body).is_ok(),
        (None, Some(rate)) => body.chunks(rate / 100).all(|part| {
            std::thread::sleep(Duration::from_millis(10));
            out.write_all(part).is_ok()
        }),
        (Some(pace), _) => body.iter().all(|byte| {
            std::thread::sleep(pace);
            out.write_all(&[*byte]).is_ok()
        }),
    };
    std::thread::sleep(reply.pace.unwrap_or_default());
    drop(inside);
    sent && out.write_all(&[*last]).is_ok()
}

fn error(status: u16, code: &str) -> Reply {
    Reply::new(
        status,
        format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"no\"}}]}}"),
    )
}

impl State {
    /// Whether it has all blobs of a manifest.
    pub fn has_blobs_of(&self, manifest: &[u8]) -> bool {
        let manifest: Manifest = serde_json::from_slice(manifest).unwrap();
        let blobs = self.blobs.lock().unwrap();
        let mut named = manifest.layers.iter().chain([&manifest.config]);
        named.all(|blob| blobs.contains_key(&blob.digest.to_string()))
    }

    /// Requests so far.
    pub fn seen_count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// What a registry should answer.
    pub fn answer(&self, seen: &Seen, host: &str) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let query = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.into_iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(404, "NOWHERE");
        };
        if rest.is_empty() {
            return Reply::new(200, "{}");
        }
        for (part, what) in [
            ("/blobs/uploads/", "upload"),
            ("/blobs/", "blob"),
            ("/manifests/", "manifest"),
        ] {
            let Some((repository, name)) = rest.split_once(part) else {
                continue;
            };
            return match what {
                "upload" => self.upload(seen, host, repository, name, &query),
                "blob" => self.blob(seen, name),
                _ => self.manifest(seen, repository, name),
            };
        }
        match rest.strip_suffix("/tags/list") {
            Some(repository) => {
                let manifests = self.manifests.lock().unwrap();
                let tags = manifests
                    .keys()
                    .filter(|(of, tag)| of == repository && !tag.contains(':'));
                let tags: Vec<&str> = tags.map(|(_, tag)| tag.as_str()).collect();
                Reply::new(200, serde_json::json!({"name": repository, "tags": tags}).to_string())
            }
            None => error(404, "NOWHERE"),
        }
    }

    fn blob(&self, seen: &Seen, digest: &str) -> Reply {
        let blobs = self.blobs.lock().unwrap();
        let Some(bytes) = blobs.get(digest) else {
            return error(404, "BLOB_UNKNOWN");
        };
        let range = seen
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'));
        match range.map(|(from, end)| (from.parse::<usize>().unwrap(), end.parse().unwrap_or(bytes.len() - 1))) {
            Some((from, end)) if from > end || end >= bytes.len() => error(416, "RANGE"),
            Some((from, end)) => {
                let said = format!("bytes {from}-{end}/{}", bytes.len());
                Reply::new(206, &bytes[from..=end]).with("Content-Range", said)
            }
            None => Reply::new(200, bytes.as_slice())
                .with("Docker-Content-Digest", digest)
                .with("Accept-Ranges", "bytes"),
        }
    }

    fn manifest(&self, seen: &Seen, repository: &str, name: &str) -> Reply {
        let key = (repository.to_owned(), name.to_owned());
        let mut manifests = self.manifests.lock().unwrap();
        if seen.method == "DELETE" {
            let found = manifests
                .get(&key)
                .map(|found| Digest::of(&found.1))
                .filter(|_| name.contains(':'));
            let Some(digest) = found else {
                return error(if name.contains(':') { 404 } else { 400 }, "MANIFEST_UNKNOWN");
            };
            manifests.retain(|(of, _), (_, raw)| of != repository || Digest::of(raw) != digest);
            return Reply::new(202, "");
        }
        if seen.method == "PUT" {
            let digest = Digest::of(&seen.body).to_string();
            let document = (seen.header("content-type").to_owned(), seen.body.clone());
            manifests.insert(key, document.clone());
            manifests.insert((repository.to_owned(), digest.clone()), document);
            return Reply::new(201, "").with("Docker-Content-Digest", digest);
        }
        match manifests.get(&key) {
            Some((name, raw)) => Reply::new(200, raw.as_slice())
                .with("Content-Type", name)
                .with("Docker-Content-Digest", Digest::of(raw).to_string()),
            None => error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn upload(
        &self,
        seen: &Seen,
        host: &str,
        repository: &str,
        id: &str,
        query: &dyn Fn(&str) -> Option<String>,
    ) -> Reply {
        let location = |id: &str| format!("http://{host}/v2/{repository}/blobs/uploads/{id}?_state=x%2Fy");
        let mut uploads = self.uploads.lock().unwrap();
        let finish = |bytes: Vec<u8>| match query("digest") {
            Some(digest) if digest == Digest::of(&bytes).to_string() => {
                self.blobs.lock().unwrap().insert(digest.clone(), bytes);
                Reply::new(201, "").with("Docker-Content-Digest", digest)
            }
            _ => error(400, "DIGEST_INVALID"),
        };
        let has = |bytes: &Vec<u8>| format!("0-{}", bytes.len().max(1) - 1);
        match seen.method.as_str() {
            "POST" => {
                if let Some(digest) = query("mount") {
                    if query("from").is_some() && self.blobs.lock().unwrap().contains_key(&digest) {
                        return Reply::new(201, "").with("Docker-Content-Digest", digest);
                    }
                }
                let id = format!("u{}", self.begun.fetch_add(1, Ordering::Relaxed));
                uploads.insert(id.clone(), Vec::new());
                Reply::new(202, "").with("Location", location(&id)).with("Range", "0-0")
            }
            "PATCH" => {
                let Some(bytes) = uploads.get_mut(id) else {
                    return error(404, "BLOB_UPLOAD_UNKNOWN");
                };
                let begin = seen
                    .header("content-range")
                    .split('-')
                    .next()
                    .and_then(|at| at.parse().ok());
                if begin.is_some_and(|begin: usize| begin != bytes.len()) {
                    return error(416, "RANGE");
                }
                bytes.extend(&seen.body);
                let range = has(bytes);
                Reply::new(202, "").with("Location", location(id)).with("Range", range)
            }
            "GET" => match uploads.get(id) {
                Some(bytes) => Reply::new(204, "")
                    .with("Location", location(id))
                    .with("Range", has(bytes)),
                None => error(404, "BLOB_UPLOAD_UNKNOWN"),
            },
            "PUT" => match uploads.remove(id) {
                Some(mut bytes) => {
                    bytes.extend(&seen.body);
                    finish(bytes)
                }
                None => error(404, "BLOB_UPLOAD_UNKNOWN"),
            },
            _ => error(405, "UNSUPPORTED"),
        }
    }
}
