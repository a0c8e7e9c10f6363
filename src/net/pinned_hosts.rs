//! Where the names of servers lead: those that were vetted, to the addresses that were looked at; this machine, to itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::world::{make_resolver, unanswered};
use crate::policy::is_loopback;

/// Names that were vetted, with the addresses that were looked at; all others are looked up as usual.
#[derive(Default)]
pub(super) struct Pinned {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Made at the first question, in the runtime of the connections.
    resolver: Arc<tokio::sync::OnceCell<TokioResolver>>,
}

impl Pinned {
    pub(super) fn pin(&self, name: &str, addresses: Vec<IpAddr>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned(), addresses);
    }
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        // No name server is asked where this machine is, and their configuration is not read.
        if is_loopback(name.as_str()) {
            let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            let here = here.map(|address| SocketAddr::new(address, 0));
            return Box::pin(async move { Ok(Box::new(here.into_iter()) as Addrs) });
        }
        let pinned = {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.get(name.as_str()).cloned()
        };
        let resolver = Arc::clone(&self.resolver);
        Box::pin(async move {
            let mut addresses = match pinned {
                Some(addresses) => addresses,
                None => {
                    let resolver = resolver.get_or_try_init(|| async { make_resolver() }).await?;
                    let found = resolver.lookup_ip(name.as_str()).await;
                    found.map_err(unanswered)?.iter().collect()
                }
            };
            // A machine without IPv6 often has IPv6 routes that lead nowhere.
            addresses.sort_by_key(IpAddr::is_ipv6);
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_found_without_a_name_server() {
        let pinned = Pinned::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(pinned.resolve("localhost".parse().unwrap())).unwrap();
        let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        assert_eq!(
            found,
            [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        );
        assert!(pinned.resolver.get().is_none());
    }
}
