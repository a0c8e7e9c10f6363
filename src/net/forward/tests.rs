use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Names are what the test says, and nothing is refused but what it says.
#[derive(Default)]
struct Fake {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    refused: Vec<IpAddr>,
    asked: AtomicUsize,
}

impl Fake {
    /// Each answer is given once; the last one for ever.
    fn new(answers: &[&[&str]]) -> Self {
        let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            ..Self::default()
        }
    }

    fn refusing(mut self, texts: &[&str]) -> Self {
        self.refused = texts.iter().map(|text| text.parse().unwrap()).collect();
        self
    }
}

impl World for Fake {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let next = {
            let mut answers = self.answers.lock().unwrap();
            match answers.len() {
                0 => None,
                1 => Some(answers[0].clone()),
                _ => Some(answers.remove(0)),
            }
        };
        match next {
            Some(addresses) => Ok(addresses),
            None => std::future::pending().await,
        }
    }

    fn refusal(&self, address: IpAddr) -> Option<String> {
        self.refused.contains(&address).then(|| "off limits".to_owned())
    }
}

/// A forwarder with one door to `host.example` and the port of `server`.
fn forward(world: Fake, port: u16) -> (Forwarder, SocketAddr, Arc<Fake>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let world = Arc::new(world);
    let to = format!("host.example:{port}").parse().unwrap();
    let forwarder = Forwarder::start(vec![(to, listener)], Arc::clone(&world)).unwrap();
    (forwarder, address, world)
}

fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Until the other side closes or resets.
fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn carries_bytes_both_ways_and_passes_on_each_end_by_itself() {
    let (server, port) = server();
    let (forwarder, address, _) = forward(Fake::new(&[&["127.0.0.1"]]), port);
    let mut inside = TcpStream::connect(address).unwrap();
    let (mut outside, _) = server.accept().unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = inside.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    outside.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    // The other direction is still open.
    outside.write_all(b"answer").unwrap();
    drop(outside);
    let mut answer = String::new();
    inside.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(forwarder.stop(), Vec::<String>::new());
}

#[test]
fn a_refused_address_is_never_connected_to_and_noted_once() {
    let (server, port) = server();
    server.set_nonblocking(true).unwrap();
    let world = Fake::new(&[&["127.0.0.1"]]).refusing(&["127.0.0.1"]);
    let (forwarder, address, world) = forward(world, port);
    for _ in 0..3 {
        let mut inside = TcpStream::connect(address).unwrap();
        let error = inside.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 3);
    assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let expected = format!("egress to host.example:{port}: refused, for its address 127.0.0.1 is off limits");
    assert_eq!(forwarder.stop(), [expected]);
}

#[test]
fn a_mapped_address_is_judged_as_the_one_inside_it() {
    let (server, port) = server();
    server.set_nonblocking(true).unwrap();
    let world = Fake::new(&[&["::ffff:127.0.0.1"]]).refusing(&["127.0.0.1"]);
    let (forwarder, address, _) = forward(world, port);
    assert!(is_closed(&mut TcpStream::connect(address).unwrap()));
    assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(forwarder.stop().len(), 1);
}

#[test]
fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    // A name server that answers something else each time: each connection asks once and goes where that answer said.
    let (server, port) = server();
    let world = Fake::new(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1"]]).refusing(&["127.0.0.2"]);
    let (forwarder, address, world) = forward(world, port);
    let _first = TcpStream::connect(address).unwrap();
    server.accept().unwrap();
    assert!(is_closed(&mut TcpStream::connect(address).unwrap()));
    let _third = TcpStream::connect(address).unwrap();
    server.accept().unwrap();
    assert_eq!(world.asked.load(Ordering::Relaxed), 3);
    let notes = forwarder.stop();
    assert!(notes.len() == 1 && notes[0].contains("127.0.0.2"), "{notes:?}");
}

#[test]
fn a_permitted_address_is_found_behind_refused_and_dead_ones() {
    let (server, port) = server();
    let world = Fake::new(&[&["127.0.0.3", "127.0.0.4", "127.0.0.1"]]).refusing(&["127.0.0.3"]);
    let (forwarder, address, _) = forward(world, port);
    let mut inside = TcpStream::connect(address).unwrap();
    let (mut outside, _) = server.accept().unwrap();
    outside.write_all(b"x").unwrap();
    inside.read_exact(&mut [0]).unwrap();
    assert_eq!(forwarder.stop(), Vec::<String>::new());
}

#[test]
fn a_name_without_an_address_and_a_port_without_a_server_are_resets() {
    let port = server().1;
    for (answer, says) in [(&[][..], "no address"), (&["127.0.0.1"][..], "no connection")] {
        let (forwarder, address, _) = forward(Fake::new(&[answer]), port);
        let error = TcpStream::connect(address).unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let notes = forwarder.stop();
        assert!(notes.len() == 1 && notes[0].contains(says), "{notes:?}");
    }
}

#[test]
fn one_connection_more_than_the_most_waits_for_one_to_end() {
    let (server, port) = server();
    let (forwarder, address, world) = forward(Fake::new(&[&["127.0.0.1"]]), port);
    let connect = |number: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[u8::try_from(number).unwrap()]).unwrap();
        stream
    };
    let mut inside: Vec<Option<TcpStream>> = (0..=MOST_CONNECTIONS).map(|number| Some(connect(number))).collect();
    let accept = || {
        let mut stream = server.accept().unwrap().0;
        let mut number = [0];
        stream.read_exact(&mut number).unwrap();
        (usize::from(number[0]), stream)
    };
    let mut outside: Vec<(usize, TcpStream)> = (0..MOST_CONNECTIONS).map(|_| accept()).collect();
    assert_eq!(world.asked.load(Ordering::Relaxed), MOST_CONNECTIONS);
    let (number, stream) = outside.remove(0);
    drop(stream);
    inside[number] = None;
    let (waited, _stream) = accept();
    assert!(outside.iter().all(|(number, _)| *number != waited), "{waited}");
    assert_eq!(world.asked.load(Ordering::Relaxed), MOST_CONNECTIONS + 1);
    drop(forwarder);
}

/// The inode of the socket that listens at an address of this machine, if one does.
fn listener(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        panic!("{address}");
    };
    let local = format!("{:08X}:{:04X}", address.ip().to_bits().to_be(), address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = sockets.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let mut listening = rows.filter(|fields| fields[1] == local && fields[3] == "0A");
    listening.next().map(|fields| fields[9].to_owned())
}

#[test]
fn stopping_waits_for_nobody_and_leaves_no_connection() {
    let (server, port) = server();
    // One connection that idles, one whose name is never answered.
    let (idle, idle_address, _) = forward(Fake::new(&[&["127.0.0.1"]]), port);
    let mut idle_inside = TcpStream::connect(idle_address).unwrap();
    let (mut idle_outside, _) = server.accept().unwrap();
    let (hanging, hanging_address, world) = forward(Fake::new(&[]), port);
    let mut hanging_inside = TcpStream::connect(hanging_address).unwrap();
    while world.asked.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    let listening = [idle_address, hanging_address].map(|address| listener(address).unwrap());
    let stopping = Instant::now();
    idle.stop();
    hanging.stop();
    // The name of the second is asked for without an end.
    assert!(stopping.elapsed() < Duration::from_secs(60), "{:?}", stopping.elapsed());
    assert!(is_closed(&mut idle_inside) && is_closed(&mut idle_outside) && is_closed(&mut hanging_inside));
    // Somebody else may listen there by now.
    for (address, listening) in [idle_address, hanging_address].into_iter().zip(listening) {
        assert_ne!(listener(address), Some(listening));
    }
    assert_eq!(Arc::strong_count(&world), 1, "every task is gone");
}

#[test]
fn connections_come_at_a_pace_after_a_burst() {
    let (mut pace, began) = (Pace::default(), Instant::now());
    for _ in 0..CONNECTIONS_A_SECOND {
        assert_eq!(pace.delay(began), Duration::ZERO);
    }
    let gap = Duration::from_secs(1) / CONNECTIONS_A_SECOND;
    assert_eq!((pace.delay(began), pace.delay(began)), (gap, 2 * gap));
    // What was not used counts for one second, not for longer.
    let later = began + Duration::from_secs(3600);
    for _ in 0..CONNECTIONS_A_SECOND {
        assert_eq!(pace.delay(later), Duration::ZERO);
    }
    assert_eq!(pace.delay(later), gap);
}
