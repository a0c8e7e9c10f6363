//! The names that a workload can resolve: its `/etc/hosts`. It has no other way to an address.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::addresses::addresses;
use super::super::orders::RoomOrders;
use crate::policy::{Host, NetworkMode};

/// The contents of `/etc/hosts` in `room`: the local host, the sandbox's own name, and the hosts of the egress.
pub(super) fn hosts_file(room: &RoomOrders) -> String {
    let mut text = format!("127.0.0.1 localhost\n127.0.0.1 {}\n", room.hostname);
    // Where IPv6 has no sockets, its address would be tried in vain first.
    if room.network == NetworkMode::Loopback {
        text.push_str("::1 localhost ip6-localhost ip6-loopback\n");
    }
    let mut written = BTreeSet::new();
    for (entry, address) in room.egress.iter().zip(addresses(&room.egress)) {
        if let Host::Name(name) = &entry.host {
            if written.insert(name) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{} {name}", address.ip());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Confinement, Egress, Network};

    fn hosts(network: Network) -> String {
        let confinement = Confinement {
            network,
            ..Confinement::default()
        };
        let bundle = crate::sandbox::Bundle {
            lowers: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            hostname: "box".to_owned(),
            input: None,
            stdin: crate::sandbox::Stdin::Empty,
            secrets: Vec::new(),
            purpose: crate::sandbox::Purpose::Function,
            confinement,
        };
        hosts_file(&RoomOrders::of(&bundle, std::collections::BTreeMap::new()))
    }

    #[test]
    fn the_own_name_and_every_name_of_the_egress_are_there_once() {
        let own = "127.0.0.1 localhost\n127.0.0.1 box\n";
        assert_eq!(hosts(Network::None), own);
        let egress = ["a.example:80", "a.example:443", "b.example:443", "8.8.8.8:53"];
        let egress = Egress::new(egress.map(|text| text.parse().unwrap()).to_vec()).unwrap();
        assert_eq!(
            hosts(Network::Egress(egress)),
            format!("{own}127.77.0.1 a.example\n127.77.0.2 b.example\n")
        );
        assert!(hosts(Network::Loopback).contains("::1 localhost"));
    }
}
