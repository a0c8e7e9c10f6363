//! A port that is closed, and stays so.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{bind, getsockname, socket_with, AddressFamily, SocketFlags, SocketType};

/// A port of this machine that nobody listens at: it is taken, so that no other test gets it while this is held.
pub struct ClosedPort {
    /// `127.0.0.1:PORT`.
    pub host: String,
    _taken: OwnedFd,
}

impl ClosedPort {
    pub fn new() -> Self {
        let taken = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = SocketAddrV4::try_from(getsockname(&taken).unwrap()).unwrap();
        Self {
            host: address.to_string(),
            _taken: taken,
        }
    }

    /// Its number.
    pub fn number(&self) -> &str {
        self.host.split(':').nth(1).unwrap()
    }
}
