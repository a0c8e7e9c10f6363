//! Downloads from a server that cuts, lies and repeats itself.

use std::io::Write;
use std::net::TcpListener;

use super::*;

struct Silent;

impl Progress for Silent {
    fn step(&self, _verb: &str, _object: &str) {}
    fn bytes(&self, _done: u64, _total: u64) {}
    fn warn(&self, _text: &str) {}
}

/// Answers one request after the other and returns them.
fn server(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/file", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let serve = |answer: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            stream.write_all(&answer).unwrap();
            String::from_utf8(request).unwrap().to_lowercase()
        };
        answers.into_iter().map(serve).collect()
    });
    (address, thread)
}

fn answer(status: &str, headers: &str, said: usize, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {said}\r\nconnection: close\r\n{headers}\r\n{body}").into_bytes()
}

fn fetch_one(store: &Store, url: &str, contents: &[u8]) -> Result<Vec<File>, FetchError> {
    let item = FetchItem {
        name: "x".into(),
        url: url.into(),
        size: contents.len() as u64,
        sha256: Digest::of(contents),
    };
    fetch(store, &Client::new().unwrap(), &[item], &Silent)
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
