//! The three things we ask the kernel about networks, over a routing netlink socket (rtnetlink(7)): switch the loopback
//! interface on, give it an address, and tell where packets to an address would go.
//!
//! Message layouts are those of `linux/netlink.h` and `linux/rtnetlink.h`; numbers are in native order.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rustix::net::{recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Of `struct nlmsghdr`.
const HEADER: usize = 16;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// To this machine itself.
    Local,
    /// To another machine.
    Unicast,
    /// To many, to none, or nowhere.
    Other(u8),
}

/// A socket for requests, answered one at a time.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one in the network namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        // The protocol NETLINK_ROUTE is 0.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self(socket))
    }

    /// Switches the loopback interface on; the kernel gives it 127.0.0.1/8.
    pub(crate) fn raise_loopback(&self) -> io::Result<()> {
        // struct ifinfomsg: family, padding, type, index, flags, mask of the flags that change.
        let mut body = vec![0, 0, 0, 0];
        body.extend(LOOPBACK.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body).map(drop)
    }

    /// Gives the loopback interface one more address.
    pub(crate) fn add_loopback_address(&self, address: Ipv4Addr) -> io::Result<()> {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![AF_INET, 32, 0, 0];
        body.extend(LOOPBACK.to_ne_bytes());
        for attribute in [IFA_LOCAL, IFA_ADDRESS] {
            push_attribute(&mut body, attribute, &address.octets());
        }
        self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body)
            .map(drop)
    }

    /// Where this thread's packets to `address` would go; ENETUNREACH and the like when the kernel knows no way.
    pub(crate) fn route_to(&self, address: IpAddr) -> io::Result<Route> {
        let (family, octets) = match address {
            IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
        };
        let bits = if family == AF_INET { 32 } else { 128 };
        // struct rtmsg: family, length of destination and source, tos, table, protocol, scope, type, flags.
        let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        push_attribute(&mut body, RTA_DST, &octets);
        let answer = self.ask(RTM_GETROUTE, 0, &body)?;
        match answer.get(HEADER + 7) {
            Some(&RTN_LOCAL) => Ok(Route::Local),
            Some(&RTN_UNICAST) => Ok(Route::Unicast),
            Some(&other) => Ok(Route::Other(other)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// One request, one answer: an acknowledgement or a route.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence and sender: a socket of ours has one request under way.
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        let mut answer = vec![0; 4096];
        let (count, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(count);
        understand(&answer)?;
        Ok(answer)
    }
}

/// An error message of 0 is an acknowledgement.
fn understand(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    match kind.map(u16::from_ne_bytes) {
        Some(RTM_NEWROUTE) => Ok(()),
        Some(NLMSG_ERROR) => {
            let number = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
            match number.map(i32::from_ne_bytes) {
                Some(0) => Ok(()),
                Some(number) => Err(io::Error::from_raw_os_error(-number)),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct rtattr`: length, type, value, padded to 4 bytes (both lengths in use are multiples of 4).
fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_local() {
        let netlink = Netlink::open().unwrap();
        let route = |text: &str| netlink.route_to(text.parse().unwrap());
        assert_eq!(route("127.0.0.1").unwrap(), Route::Local);
        assert_eq!(route("127.77.0.9").unwrap(), Route::Local);
        assert!(!matches!(route("224.0.0.1"), Ok(Route::Unicast | Route::Local)));
        // Whatever way this machine has to the world, it is not to itself.
        assert_ne!(route("8.8.8.8").ok(), Some(Route::Local));
    }

    #[test]
    fn every_address_of_every_interface_is_local() {
        let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
        let lines: Vec<&str> = table.lines().collect();
        let hosts = lines.windows(2).filter(|pair| pair[1].contains("/32 host LOCAL"));
        let addresses: std::collections::BTreeSet<Ipv4Addr> = hosts
            .map(|pair| pair[0].trim_start_matches([' ', '|', '-', '+']).parse().unwrap())
            .collect();
        assert!(addresses.contains(&Ipv4Addr::LOCALHOST), "{table}");
        let netlink = Netlink::open().unwrap();
        for address in addresses {
            assert_eq!(netlink.route_to(address.into()).unwrap(), Route::Local, "{address}");
        }
    }

    #[test]
    fn the_kernel_refuses_us_outside_a_namespace_of_our_own() {
        let error = Netlink::open()
            .unwrap()
            .add_loopback_address(Ipv4Addr::new(8, 8, 8, 8))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
    }
}
