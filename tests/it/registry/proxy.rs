//! What stands between gantry and a registry: it counts bytes, and can die in the middle of them. It reads nothing: TLS goes
//! through as it is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// A proxy, ended with the test.
pub struct Proxy {
    /// `localhost:PORT`.
    pub host: String,
    line: Arc<Line>,
}

struct Line {
    target: String,
    /// Bytes that went to gantry.
    down: AtomicU64,
    /// After so many it dies.
    dies_after: AtomicU64,
    is_dead: AtomicBool,
}

impl Proxy {
    /// In front of `target`, which is a host and a port.
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let line = Arc::new(Line {
            target: target.replace("localhost", "127.0.0.1"),
            down: AtomicU64::new(0),
            dies_after: AtomicU64::new(u64::MAX),
            is_dead: AtomicBool::new(false),
        });
        let shared = Arc::clone(&line);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_dead.load(Ordering::SeqCst) {
                    return;
                }
                let line = Arc::clone(&shared);
                std::thread::spawn(move || connect(stream, &line));
            }
        });
        Self { host, line }
    }

    /// It dies when it has passed on `bytes` more: all connections end, and there are no new ones.
    pub fn die_after(&self, bytes: u64) {
        self.line.dies_after.store(self.bytes() + bytes, Ordering::SeqCst);
    }

    /// Bytes that it passed on to gantry.
    pub fn bytes(&self) -> u64 {
        self.line.down.load(Ordering::SeqCst)
    }

    pub fn is_dead(&self) -> bool {
        self.line.is_dead.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.is_dead.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.host.replace("localhost", "127.0.0.1"));
    }
}

fn connect(gantry: TcpStream, line: &Arc<Line>) {
    let Ok(registry) = TcpStream::connect(&line.target) else {
        return;
    };
    let (mut up_from, mut up_to) = (gantry.try_clone().unwrap(), registry.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to, mut piece) = (registry, gantry, vec![0; 16 << 10]);
    while let Ok(count) = from.read(&mut piece) {
        if count == 0 || line.is_dead.load(Ordering::SeqCst) || to.write_all(&piece[..count]).is_err() {
            break;
        }
        let down = line.down.fetch_add(count as u64, Ordering::SeqCst) + count as u64;
        if down >= line.dies_after.load(Ordering::SeqCst) && !line.is_dead.swap(true, Ordering::SeqCst) {
            // Wakes the listener, which ends then.
            let own = to.local_addr().unwrap();
            let _ = TcpStream::connect(own);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
