//! The init's half of the egress: a loopback interface with one listener per allowed host and port, and nothing else.
//!
//! The listeners are passed to gantry, which stands behind them; `sandbox/addresses.rs` says where they are.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{getsockname, sockopt};

use super::super::addresses::addresses;
use super::failure::{at, Failure};
use crate::policy::{Host, HostPort};
use crate::sys::netlink::Netlink;

/// The contents of `/etc/hosts`.
pub(super) fn hosts_file(egress: &[HostPort]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    let mut written = BTreeSet::new();
    for (entry, address) in egress.iter().zip(addresses(egress)) {
        if let Host::Name(name) = &entry.host {
            if written.insert(name) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{} {name}", address.ip());
            }
        }
    }
    text
}

/// Makes the listeners of `egress`, in its order. Makes no system call when there are none.
///
/// Needs the capabilities of the network namespace, for the interface and for ports below 1024.
pub(super) fn listen(egress: &[HostPort]) -> Result<Vec<OwnedFd>, Failure> {
    if egress.is_empty() {
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
    fn the_hosts_file_has_every_name_once() {
        let egress = egress(&["a.example:80", "a.example:443", "b.example:443", "8.8.8.8:53"]);
        assert_eq!(
            hosts_file(&egress),
            "127.0.0.1 localhost\n127.77.0.1 a.example\n127.77.0.2 b.example\n"
        );
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
