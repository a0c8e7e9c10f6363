//! Where the listeners of a run with egress are, as both sides compute it: the init binds them, gantry checks them.
//!
//! ```text
//! workload --connect--> 127.77.0.N:PORT on lo of its own namespace ==accepted by==> gantry --connect--> HOST:PORT
//! ```
//!
//! The workload finds the address of a name in `/etc/hosts`. A listed IPv4 address is given to the loopback interface
//! itself, so it is reached as it is. No packet leaves the namespace: there is no interface to leave by.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::policy::{Host, HostPort};

/// The address inside the sandbox of each of `egress`, in the order of `egress`: names get one each, addresses are
/// their own.
pub(super) fn addresses(egress: &[HostPort]) -> Vec<SocketAddrV4> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_address_and_an_address_is_its_own() {
        let egress = ["a.example:80", "a.example:443", "b.example:443", "8.8.8.8:53"].map(|text| text.parse().unwrap());
        let found: Vec<String> = addresses(&egress).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["127.77.0.1:80", "127.77.0.1:443", "127.77.0.2:443", "8.8.8.8:53"]
        );
    }
}
