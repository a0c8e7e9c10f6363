//! The inside of a run with egress: a loopback interface with one listener per allowed host and port, and nothing else.
//!
//! ```text
//! workload --connect--> 127.77.0.N:PORT on lo of its own namespace ==accepted by==> gantry --connect--> HOST:PORT
//! ```
//!
//! The init makes the listeners and passes them to gantry; the workload finds the address of a name in `/etc/hosts`. A
//! listed IPv4 address is given to the loopback interface itself, so it is reached as it is. No packet leaves the
//! namespace: there is no interface to leave by. Whom gantry connects to, and whom it refuses, is not decided here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{getsockname, sockopt};

use super::mounts::Failure;
use crate::policy::{Host, HostPort};
use crate::sys::netlink::Netlink;

/// A listener inside the sandbox and whom it stands for.
#[derive(Debug)]
pub struct Door {
    /// Whom the workload asks for.
    pub to: HostPort,
    /// Where it asks.
    pub listener: TcpListener,
}

/// Takes the doors of a sandbox; called once, while the workload is not running yet. Must not block.
pub type OpenDoors<'a> = &'a mut dyn FnMut(Vec<Door>) -> io::Result<()>;

/// The address inside the sandbox of each of `egress`, in the same order: names get one each, addresses are their own.
fn addresses(egress: &[HostPort]) -> Vec<SocketAddrV4> {
    let mut names: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for entry in egress {
        let address = match &entry.host {
            Host::Address(address) => *address,
            Host::Name(name) => {
                let known = names.iter().position(|known| known == name);
                let number = known.unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                // At most 64 (`policy::MOST_EGRESS`): the last byte has room.
                Ipv4Addr::new(127, 77, 0, u8::try_from(number + 1).unwrap_or(u8::MAX))
            }
        };
        found.push(SocketAddrV4::new(address, entry.port));
    }
    found
}

/// The contents of `/etc/hosts`.
pub fn hosts_file(egress: &[HostPort]) -> String {
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

/// In the init: makes the listeners of `egress`, in its order. Makes no system call when there are none.
///
/// Needs the capabilities of the network namespace, for the interface and for ports below 1024.
pub fn listen(egress: &[HostPort]) -> Result<Vec<OwnedFd>, Failure> {
    if egress.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |what: &'static str| move |error: io::Error| (what.to_owned(), error);
    let netlink = Netlink::open().map_err(failed("open a netlink socket"))?;
    netlink
        .raise_loopback()
        .map_err(failed("switch the loopback interface on"))?;
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

/// In the init, restricted already: whether `listeners` are those of `egress` and listen, by the kernel's answers.
///
/// They are all there are: nobody else has been in this network namespace. Its table, `/proc/self/net/tcp`, would say the
/// same, but the kernel walks a hash table of the whole machine for it, which takes 10 ms.
pub fn verify(egress: &[HostPort], listeners: &[OwnedFd]) -> Result<(), String> {
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

/// In gantry: what the init passed, as doors; checked to be what was ordered.
pub fn doors(egress: &[HostPort], passed: Vec<OwnedFd>) -> io::Result<Vec<Door>> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the init passed other listeners than ordered",
        )
    };
    if passed.len() != egress.len() {
        return Err(wrong());
    }
    let entries = egress.iter().zip(addresses(egress)).zip(passed);
    let doors = entries.map(|((to, address), descriptor)| {
        let listener = TcpListener::from(descriptor);
        if listener.local_addr()? != SocketAddr::V4(address) {
            return Err(wrong());
        }
        Ok(Door {
            to: to.clone(),
            listener,
        })
    });
    doors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(texts: &[&str]) -> Vec<HostPort> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_has_one_address_and_an_address_is_its_own() {
        let egress = egress(&["a.example:80", "a.example:443", "b.example:443", "8.8.8.8:53"]);
        let found: Vec<String> = addresses(&egress).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["127.77.0.1:80", "127.77.0.1:443", "127.77.0.2:443", "8.8.8.8:53"]
        );
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

    #[test]
    fn other_listeners_than_ordered_are_refused() {
        let egress = egress(&["a.example:80"]);
        let other = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(doors(&egress, vec![other()]).is_err());
        assert!(doors(&egress, Vec::new()).is_err());
        assert!(doors(&[], vec![other()]).is_err());
        assert!(doors(&[], Vec::new()).unwrap().is_empty());
    }
}
