//! Downloads from a server that cuts, lies and repeats itself.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::progress::Silent;

fn request_of(stream: &mut TcpStream) -> String {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap().to_lowercase()
}

/// Answers one request after the other and returns them.
fn server(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/file", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let serve = |answer: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let request = request_of(&mut stream);
            stream.write_all(&answer).unwrap();
            request
        };
        answers.into_iter().map(serve).collect()
    });
    (address, thread)
}

fn answer(status: &str, headers: &str, said: usize, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {said}\r\nconnection: close\r\n{headers}\r\n{body}").into_bytes()
}

fn fetch_one(store: &Store, url: &str, contents: &[u8]) -> Result<Vec<File>, FetchError> {
    fetch_by(Client::pausing_little(), store, url, contents)
}

fn fetch_by(client: Client, store: &Store, url: &str, contents: &[u8]) -> Result<Vec<File>, FetchError> {
    let item = FetchItem {
        name: "x".into(),
        url: Address::new(url),
        size: contents.len() as u64,
        sha256: Digest::of(contents),
    };
    fetch(store, || Ok(client.clone()), &[item], &Silent)
}

fn store() -> (tempfile::TempDir, Store) {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    (scratch, store)
}

#[test]
fn goes_on_after_a_cut_and_asks_once() {
    let (_scratch, store) = store();
    let (url, served) = server(vec![
        answer("200 OK", "", 11, "hello "),
        answer("206 Partial Content", "content-range: bytes 6-10/11\r\n", 5, "world"),
    ]);
    let mut text = String::new();
    fetch_one(&store, &url, b"hello world")
        .unwrap()
        .remove(0)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello world");
    assert!(served.join().unwrap()[1].contains("range: bytes=6-"));
    // The server is gone: the second time nothing is asked for.
    assert_eq!(fetch_one(&store, &url, b"hello world").unwrap().len(), 1);
    let digest = Digest::of(b"hello world");
    let item = FetchItem {
        name: "x".into(),
        url: Address::new(&url),
        size: 11,
        sha256: digest,
    };
    let nobody = || -> Result<Client, FetchError> { panic!("there is nothing to connect for") };
    assert_eq!(fetch(&store, nobody, &[item], &Silent).unwrap().len(), 1);
}

#[test]
fn starts_anew_when_the_server_does() {
    let (_scratch, store) = store();
    let (url, _) = server(vec![
        answer("200 OK", "", 11, "hello "),
        answer("200 OK", "", 11, "hello world"),
    ]);
    assert!(fetch_one(&store, &url, b"hello world").is_ok());
}

#[test]
fn refuses_other_bytes_and_keeps_none_of_them() {
    let (_scratch, store) = store();
    let (url, _) = server(vec![answer("200 OK", "", 11, "hello evil!")]);
    let refused = fetch_one(&store, &url, b"hello world").unwrap_err();
    assert!(
        matches!(
            refused,
            FetchError::Store {
                source: StoreError::Digest { .. },
                ..
            }
        ),
        "{refused}"
    );
    let (url, _) = server(vec![answer("200 OK", "", 5, "hello")]);
    let refused = fetch_one(&store, &url, b"hello world").unwrap_err();
    assert!(
        matches!(
            refused,
            FetchError::Store {
                source: StoreError::Size { .. },
                ..
            }
        ),
        "{refused}"
    );
    let (url, _) = server(vec![answer("200 OK", "", 15, "hello world!!!!")]);
    assert!(matches!(
        fetch_one(&store, &url, b"hello world"),
        Err(FetchError::Store { .. })
    ));
    assert!(std::fs::read_dir(store.root().join("partial"))
        .unwrap()
        .next()
        .is_none());
}

#[test]
fn a_stalled_server_is_left_and_what_it_sent_is_kept() {
    let (_scratch, store) = store();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut open = Vec::new();
        for answer in [
            answer("200 OK", "", 11, "hello "),
            answer("206 Partial Content", "content-range: bytes 6-10/11\r\n", 5, "world"),
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            request_of(&mut stream);
            stream.write_all(&answer).unwrap();
            open.push(stream);
        }
        open
    });
    assert!(fetch_by(Client::impatient(), &store, &url, b"hello world").is_ok());
    drop(server.join().unwrap());
}

#[test]
fn gives_up_when_the_connection_breaks_again_and_again_and_keeps_what_came() {
    let (_scratch, store) = store();
    let mut answers = vec![answer("200 OK", "", 11, "hello ")];
    let cut = || answer("206 Partial Content", "content-range: bytes 6-10/11\r\n", 5, "");
    answers.extend((1..RESUMES).map(|_| cut()));
    let (url, served) = server(answers);
    assert!(matches!(
        fetch_one(&store, &url, b"hello world"),
        Err(FetchError::Broken { .. })
    ));
    assert_eq!(served.join().unwrap().len(), RESUMES as usize);
    let digest = Digest::of(b"hello world");
    let task = Task {
        does: "looks",
        progress: &Silent,
    };
    let kept = store.downloads().claim(&digest, 11, task).unwrap();
    assert!(matches!(kept, Download::Partial(partial) if partial.len() == 6));
}

#[test]
fn the_first_failure_ends_the_others() {
    let (_scratch, store) = store();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endless = format!("http://{}/file", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        request_of(&mut stream);
        stream.write_all(&answer("200 OK", "", 1 << 28, "")).unwrap();
        tell.send(()).unwrap();
        // Ends only because the other side goes away.
        while stream.write_all(b"x").is_ok() {}
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let missing = format!("http://{}/file", listener.local_addr().unwrap());
    let refuser = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        request_of(&mut stream);
        told.recv().unwrap();
        stream.write_all(&answer("404 Not Found", "", 0, "")).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let item = |name: &str, url: &str, size: u64| FetchItem {
        name: name.to_owned(),
        url: Address::new(url),
        size,
        sha256: Digest::of(name.as_bytes()),
    };
    let items = [item("endless", &endless, 1 << 28), item("missing", &missing, 1)];
    let error: FetchError = fetch(&store, || Ok(Client::new().unwrap()), &items, &Silent).unwrap_err();
    assert!(
        matches!(&error, FetchError::Net { name, source } if name == "missing" && source.is_not_found()),
        "{error}"
    );
    sender.join().unwrap();
    refuser.join().unwrap();
}

/// Counts those who say that they wait.
#[derive(Default)]
struct Waiters(std::sync::atomic::AtomicUsize);

impl Progress for Waiters {
    fn step(&self, verb: &str, _: &str) {
        self.0
            .fetch_add(usize::from(verb == "Waiting for"), std::sync::atomic::Ordering::SeqCst);
    }
    fn bytes(&self, _: u64, _: u64) {}
    fn warn(&self, _: &str) {}
    fn spent(&self, _: &'static str, _: std::time::Duration) {}
}

/// Closed until it is opened.
#[derive(Clone, Default)]
struct Gate(std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0 .0.lock().unwrap() = true;
        self.0 .1.notify_all();
    }

    fn pass(&self) {
        let open = self.0 .0.lock().unwrap();
        drop(self.0 .1.wait_while(open, |open| !*open).unwrap());
    }
}

/// Serves each file under its own name: `one` and `two` once `files` is open, others once `others` is. `asked` is told of
/// each request.
fn held_server(asked: std::sync::mpsc::Sender<String>, files: &Gate, others: &Gate) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (files, others) = (files.clone(), others.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, asked, files, others) = (stream.unwrap(), asked.clone(), files.clone(), others.clone());
            std::thread::spawn(move || {
                let request = request_of(&mut stream);
                let name = request.split([' ', '/']).nth(2).unwrap().to_owned();
                asked.send(name.clone()).unwrap();
                let is_file = name == "one" || name == "two";
                if is_file { files } else { others }.pass();
                let _ = stream.write_all(&answer("200 OK", "", name.len(), &name));
            });
        }
    });
    address
}

#[test]
fn two_who_fetch_the_same_files_in_opposite_order_both_get_them() {
    let (scratch, store) = store();
    let (tell, asked) = std::sync::mpsc::channel();
    let (files, others_gate) = (Gate::default(), Gate::default());
    let address = held_server(tell, &files, &others_gate);
    let waiters = std::sync::Arc::new(Waiters::default());
    let (done, ended) = std::sync::mpsc::channel();
    let begin = |names: Vec<String>| {
        let items: Vec<FetchItem> = names
            .iter()
            .map(|name| FetchItem {
                name: name.clone(),
                url: Address::new(format!("{address}/{name}")),
                size: name.len() as u64,
                sha256: Digest::of(name.as_bytes()),
            })
            .collect();
        let (store, waiters, done) = (Store::open(store.root()).unwrap(), waiters.clone(), done.clone());
        std::thread::spawn(move || {
            let fetched: Result<_, FetchError> = fetch(&store, || Ok(Client::new().unwrap()), &items, &*waiters);
            done.send(fetched.map(|files| files.len())).unwrap();
        });
    };
    let others = |own: char| (1..PARALLEL).map(move |number| format!("{own}{number}"));
    let list = |first: &str, own: char, last: &str| {
        let mut names = vec![first.to_owned()];
        names.extend(others(own));
        names.push(last.to_owned());
        names
    };
    // Each has its first file under way before it comes to its last one, which is the first one of the other.
    begin(list("one", 'x', "two"));
    while asked.recv_timeout(WATCHDOG).unwrap() != "one" {}
    begin(list("two", 'y', "one"));
    while asked.recv_timeout(WATCHDOG).unwrap() != "two" {}
    others_gate.open();
    let begun = std::time::Instant::now();
    while waiters.0.load(std::sync::atomic::Ordering::SeqCst) < 2 {
        assert!(begun.elapsed() < WATCHDOG, "nobody waits");
        std::thread::yield_now();
    }
    files.open();
    for _ in 0..2 {
        let fetched = ended.recv_timeout(WATCHDOG).expect("they wait for each other");
        assert_eq!(fetched.unwrap(), PARALLEL + 1);
    }
    drop(scratch);
}

/// What takes milliseconds has hung by then.
const WATCHDOG: std::time::Duration = std::time::Duration::from_secs(20);
