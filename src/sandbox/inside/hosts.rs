//! The names that a workload can resolve: its `/etc/hosts`. It has no other way to an address.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::addresses::addresses;
use crate::policy::{Host, HostPort, NetworkMode};

/// The contents of `/etc/hosts`: the local host, the sandbox's own name, and the hosts of the egress.
pub(crate) fn hosts_file(hostname: &str, network: NetworkMode, egress: &[HostPort]) -> String {
    let mut text = format!("127.0.0.1 localhost\n127.0.0.1 {hostname}\n");
    // Where IPv6 has no sockets, its address would be tried in vain first.
    if network == NetworkMode::Loopback {
        text.push_str("::1 localhost ip6-localhost ip6-loopback\n");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{OWN_HOSTS, OWN_NAME};

    #[test]
    fn the_own_name_and_every_name_of_the_egress_are_there_once() {
        assert_eq!(hosts_file(OWN_NAME, NetworkMode::None, &[]), OWN_HOSTS);
        let own = "127.0.0.1 localhost\n127.0.0.1 box\n";
        assert_eq!(hosts_file("box", NetworkMode::None, &[]), own);
        let egress = ["a.example:80", "a.example:443", "b.example:443", "8.8.8.8:53"];
        let egress = egress.map(|text| text.parse().unwrap());
        assert_eq!(
            hosts_file("box", NetworkMode::Egress, &egress),
            format!("{own}127.77.0.1 a.example\n127.77.0.2 b.example\n")
        );
        let loopback = hosts_file("box", NetworkMode::Loopback, &[]);
        assert_eq!(loopback, format!("{own}::1 localhost ip6-localhost ip6-loopback\n"));
    }
}
