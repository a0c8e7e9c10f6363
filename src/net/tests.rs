//! A server that is busy, silent, wrong or sends us elsewhere.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use super::*;

fn request_of(stream: &mut TcpStream) -> String {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

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
            requests.push(request_of(&mut stream));
            stream.write_all(answer.as_bytes()).unwrap();
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
    Client::pausing_little()
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
    assert!(error.is_not_found() && !error.kind().is_away());
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
        error.kind().is_away() && !format!("{error:?}").contains("secret"),
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

#[test]
fn gives_up_on_a_server_that_goes_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let silent = std::thread::spawn(move || {
        let mut kept = Vec::new();
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello "] {
            let (mut stream, _) = listener.accept().unwrap();
            request_of(&mut stream);
            stream.write_all(answer).unwrap();
            kept.push(stream);
        }
        // Open until the client has gone.
        kept.into_iter().for_each(|mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
    });
    // The first connection says nothing at all and is tried again, the second stops in the middle.
    let mut body = Client::impatient().stream(&url, 0).unwrap();
    let mut text = Vec::new();
    assert!(body.read_to_end(&mut text).is_err());
    assert_eq!(text, b"hello ");
    drop(body);
    silent.join().unwrap();
}

#[test]
fn asks_again_for_a_whole_that_broke_off() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhel".to_owned();
    let (url, served) = server(vec![cut, answer("200 OK", "", "hello")]);
    assert_eq!(client().get(&url, 10).unwrap(), b"hello");
    assert_eq!(served.join().unwrap().len(), 2);
}

#[test]
fn follows_five_redirects_and_asks_no_more_after_the_sixth() {
    let redirect = || answer("302 Found", "location: /next?token=secret\r\n", "");
    let mut answers: Vec<String> = (0..5).map(|_| redirect()).collect();
    answers.push(answer("200 OK", "", "there"));
    let (url, _) = server(answers);
    assert_eq!(client().get(&url, 10).unwrap(), b"there");
    let (url, served) = server((0..6).map(|_| redirect()).collect());
    let error = client().get(&url, 10).unwrap_err();
    assert!(
        matches!(error, NetError::Redirect { .. }) && !error.kind().is_away(),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    assert_eq!(served.join().unwrap().len(), 6);
}

#[test]
fn refuses_a_redirect_that_drops_the_encryption() {
    let url = |text: &str| Url::parse(text).unwrap();
    let secure = [url("https://a.example.org/")];
    assert!(refused_redirect(&secure, &url("http://a.example.org/")).is_some());
    assert!(refused_redirect(&secure, &url("https://b.example.org/")).is_none());
    assert!(refused_redirect(&[url("http://a.example.org/")], &url("http://b.example.org/")).is_none());
}

#[test]
fn pauses_grow_and_vary_by_half() {
    let client = Client::with_patience(PATIENCE).unwrap();
    for (tried, least) in [(1, 200), (2, 400), (4, 1600)] {
        let pause = client.pause(tried).as_millis();
        assert!((least..least + least / 2 + 1).contains(&pause), "{tried}: {pause}");
    }
}

#[test]
fn credentials_go_to_their_server_and_nowhere_else() {
    // The server of the tests' addresses holds a user, too: only the plain address counts here.
    let bare = |url: &str| format!("http://{}", url.split_once('@').unwrap().1);
    let (elsewhere, other) = server(vec![answer("200 OK", "", "far")]);
    let to_other = format!("location: {}\r\n", bare(&elsewhere));
    let (home, served) = server(vec![answer("200 OK", "", "near"), answer("302 Found", &to_other, "")]);
    let (unasked, third) = server(vec![answer("200 OK", "", "third")]);
    let index = bare(&home).replace("http://", "http://me:p%40ss%25@");
    let client = client().with_credentials(Credentials::of(&index).as_ref());
    assert_eq!(client.get(&bare(&home), 10).unwrap(), b"near");
    assert_eq!(client.get(&bare(&home), 10).unwrap(), b"far");
    assert_eq!(client.get(&bare(&unasked), 10).unwrap(), b"third");
    // me:p@ss%
    let sent = "authorization: basic bwu6cebzcyu=";
    for request in served.join().unwrap() {
        assert!(request.to_lowercase().contains(sent), "{request}");
    }
    for request in [other.join().unwrap(), third.join().unwrap()].concat() {
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
        assert!(!request.contains("p%40ss"), "{request}");
    }
}

#[test]
fn credentials_are_for_whom_they_can_be_kept_from_others() {
    for url in [
        "http://me:secret@index.example/simple",
        "ftp://me:secret@index.example/",
        "https://index.example/",
    ] {
        assert_eq!(Credentials::of(url), None, "{url}");
    }
    let credentials = Credentials::of("https://me:secret@index.example/simple").unwrap();
    assert!(!format!("{credentials:?}").contains("secret"));
    let hidden = credentials.hide("GET https://me:secret@index.example/: secret");
    assert_eq!(hidden, "GET https://****@index.example/: ****");
    let url = Credentials::join("https://index.example/simple", "me@home", "a/b%41:é").unwrap();
    assert_eq!(url, "https://me%40home:a%2Fb%2541%3A%C3%A9@index.example/simple");
    for (other, fits) in [
        ("https://index.example/files/x", true),
        ("https://index.example:443/", true),
        ("https://index.example:8443/", false),
        ("http://index.example/", false),
        ("https://files.index.example/", false),
    ] {
        let mut url = Url::parse(other).unwrap();
        credentials.add_to(&mut url);
        assert_eq!(url.password().is_some(), fits, "{other}");
    }
}

#[test]
fn an_error_of_tls_is_found_however_deep_it_travels() {
    let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let once = io::Error::new(io::ErrorKind::InvalidData, unknown());
    let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, unknown()));
    for error in [once, twice] {
        assert_eq!(tls_error(&error), Some(&unknown()));
    }
    assert_eq!(tls_error(&io::Error::other("no")), None);
    assert_eq!(tls_error(&io::Error::from(io::ErrorKind::TimedOut)), None);
}

#[test]
fn a_chain_of_causes_is_said_without_those_that_give_no_reason() {
    let said = |chain: &[&str]| reasons(chain.iter().map(|&text| text.to_owned()).collect());
    let dns = ["error sending request", "client error (Connect)", DNS, "no such name"];
    assert_eq!(said(&dns), "no such name");
    assert_eq!(
        said(&["request failed", "tcp connect error", "refused"]),
        "request failed: refused"
    );
    // Nothing else is known.
    assert_eq!(said(&["error sending request", DNS]), DNS);
}
