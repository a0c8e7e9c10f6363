//! What a forwarder asks of the world: the addresses of a name, and which of them are out of bounds.

use std::future::Future;
use std::io;
use std::net::IpAddr;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::TokioResolver;

use crate::policy::{canonical, refused_address};
use crate::sys::netlink::{Netlink, Route};

/// Names and bounds. The tests have another one, in which a server on this machine is far away.
pub(crate) trait World: Send + Sync + 'static {
    /// Every address of a fully qualified name.
    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;

    /// Why `address` may not be reached; none when it may.
    fn refusal(&self, address: IpAddr) -> Option<String>;
}

/// The world as this machine sees it: its hosts file and name servers, and the public addresses that are not its own.
#[derive(Default)]
pub(crate) struct Internet {
    /// Made at the first question: a run that never connects reads no configuration.
    resolver: tokio::sync::OnceCell<TokioResolver>,
}

impl Internet {
    /// Nothing is looked at before the first question.
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl World for Internet {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let made = self.resolver.get_or_try_init(|| async { make_resolver() });
        // The dot at the end: no search list of this machine may turn the name into another one.
        let found = made.await?.lookup_ip(format!("{name}.")).await;
        let mut addresses: Vec<IpAddr> = found.map_err(unanswered)?.iter().collect();
        // A machine without IPv6 often has IPv6 routes that lead nowhere.
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    fn refusal(&self, address: IpAddr) -> Option<String> {
        if let Some(what) = refused_address(address) {
            return Some(what.to_owned());
        }
        // The kernel's own routing says whether an address is this machine's: that covers every interface, secondary
        // addresses and ranges routed to the loopback interface. No answer is a refusal.
        match Netlink::open().and_then(|netlink| netlink.route_to(canonical(address))) {
            Ok(Route::Unicast) => None,
            Ok(Route::Local) => Some("of this machine".to_owned()),
            Ok(Route::Other(_)) => Some("not that of one machine".to_owned()),
            Err(error) => Some(format!("not reachable: {error}")),
        }
    }
}

/// The answer of the name servers, in words: the library quotes its question as the code has it.
pub(super) fn unanswered(error: NetError) -> io::Error {
    if error.is_nx_domain() {
        return io::Error::new(io::ErrorKind::NotFound, "the name servers know no such name");
    }
    if error.is_no_records_found() {
        let text = "the name servers know no address of it";
        return io::Error::new(io::ErrorKind::NotFound, text);
    }
    io::Error::other(error)
}

/// A resolver of this machine's name servers, which belongs to the runtime that it is made in.
pub(super) fn make_resolver() -> io::Result<TokioResolver> {
    let mut builder = TokioResolver::builder_tokio().map_err(io::Error::other)?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use hickory_resolver::net::{DnsError, NoRecords};
    use hickory_resolver::proto::op::{Query, ResponseCode};

    use super::*;

    #[test]
    fn what_the_name_servers_answer_is_said_in_words() {
        for (code, says) in [
            (ResponseCode::NXDomain, "the name servers know no such name"),
            (ResponseCode::NoError, "the name servers know no address of it"),
        ] {
            let error = NetError::from(DnsError::NoRecordsFound(NoRecords::new(Query::default(), code)));
            assert_eq!(unanswered(error).to_string(), says);
        }
        assert!(unanswered(NetError::Timeout).to_string().contains("time"));
    }

    #[test]
    fn addresses_of_this_machine_and_of_nobody_are_refused() {
        let refusal = |text: &str| Internet::new().refusal(text.parse().unwrap());
        assert_eq!(refusal("127.0.0.1").as_deref(), Some("loopback"));
        assert_eq!(refusal("::ffff:127.0.0.1").as_deref(), Some("loopback"));
        assert_eq!(refusal("169.254.169.254").as_deref(), Some("link-local or metadata"));
        for interface in std::fs::read_to_string("/proc/net/fib_trie").unwrap().lines() {
            let text = interface.trim_start_matches([' ', '|', '-', '+']);
            if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
                let ours = Netlink::open().unwrap().route_to(address.into()).ok() == Some(Route::Local);
                assert!(!ours || Internet::new().refusal(address.into()).is_some(), "{address}");
            }
        }
    }
}
