//! The network of a run that has any: a loopback interface that is up, for the run alone; with egress it has one listener
//! per allowed host and port, and nothing else.
//!
//! The listeners are passed to gantry, which stands behind them; `sandbox/addresses.rs` says where they are.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::net::{getsockname, sockopt};

use super::super::addresses::addresses;
use super::super::orders::RoomOrders;
use super::failure::{at, Failure};
use crate::policy::{Host, HostPort, NetworkMode};
use crate::sys::netlink::Netlink;

/// An address that is nobody's (TEST-NET-1, RFC 5737).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Switches the loopback interface on and makes the listeners of the egress, in its order. Makes no system call for a run
/// without a network.
///
/// Needs the capabilities of the network namespace, for the interface and for ports below 1024.
pub(super) fn listen(room: &RoomOrders) -> Result<Vec<OwnedFd>, Failure> {
    let egress = room.egress.as_slice();
    if room.network == NetworkMode::None {
        return Ok(Vec::new());
    }
    let netlink = Netlink::open().map_err(at("open a netlink socket"))?;
    netlink
        .raise_loopback()
        .map_err(at("switch the loopback interface on"))?;
    let literal = |entry: &HostPort| match entry.host {
        Host::Address(address) => Some(address),
        Host::Name(_) => None,
    };
    for address in egress.iter().filter_map(literal).collect::<BTreeSet<_>>() {
        netlink
            .add_loopback_address(address)
            .map_err(|error| (format!("add {address} to the loopback interface"), error))?;
    }
    let bind = |(entry, address): (&HostPort, SocketAddrV4)| {
        let listener = TcpListener::bind(address);
        listener
            .map(OwnedFd::from)
            .map_err(|error| (format!("listen for {entry}"), error))
    };
    egress.iter().zip(addresses(egress)).map(bind).collect()
}

/// Checks, from behind the restrictions, whether `listeners` are those of `egress` and listen, by the kernel's answers.
///
/// They are all there are: nobody else has been in this network namespace. Its table, `/proc/self/net/tcp`, would say the
/// same, but the kernel walks a hash table of the whole machine for it, which takes 10 ms.
pub(super) fn verify(egress: &[HostPort], listeners: &[OwnedFd]) -> Result<(), String> {
    let found: Vec<Option<SocketAddrV4>> = listeners.iter().map(listens_at).collect();
    let wanted: Vec<Option<SocketAddrV4>> = addresses(egress).into_iter().map(Some).collect();
    if found == wanted {
        return Ok(());
    }
    Err(format!("listeners are {found:?}, not {wanted:?}"))
}

/// Checks, from behind the restrictions, whether the loopback interface carries connections, and whether anything else
/// does.
pub(super) fn verify_loopback() -> Result<(), String> {
    let near = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        TcpStream::connect(listener.local_addr()?)
    };
    near().map_err(|error| format!("no connection to 127.0.0.1 can be made: {error}"))?;
    let far = TcpStream::connect((ELSEWHERE, 9)).map(drop);
    if far.as_ref().is_err_and(is_unreachable) {
        return Ok(());
    }
    Err(format!("connecting to {ELSEWHERE} came to {far:?}"))
}

fn is_unreachable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NETUNREACH.raw_os_error())
}

fn listens_at(socket: &OwnedFd) -> Option<SocketAddrV4> {
    let listens = sockopt::socket_acceptconn(socket).ok()?;
    let address = getsockname(socket).ok()?.try_into().ok()?;
    listens.then_some(address)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn egress(texts: &[&str]) -> Vec<HostPort> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_socket_that_does_not_listen_at_the_address_is_found_out() {
        let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let Ok(SocketAddr::V4(address)) = TcpListener::from(listener.try_clone().unwrap()).local_addr() else {
            panic!("bound to IPv4")
        };
        assert_eq!(listens_at(&listener), Some(address));
        let connected = OwnedFd::from(std::net::TcpStream::connect(address).unwrap());
        assert_eq!(listens_at(&connected), None);
        assert_eq!(listens_at(&tempfile::tempfile().unwrap().into()), None);
        let egress = egress(&["a.example:80"]);
        assert!(verify(&egress, &[listener]).unwrap_err().contains("127.77.0.1:80"));
        assert!(verify(&egress, &[]).is_err());
        assert!(verify(&[], &[connected]).is_err());
    }
}
