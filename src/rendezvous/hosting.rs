//! Which agent serves the store that agents meet at.

use std::net::{IpAddr, ToSocketAddrs};

use nix::ifaddrs::getifaddrs;

use crate::spec::endpoint::Endpoint;
use crate::spec::names::hostname_text;
use crate::sys::listener::ip_of;

/// Whether an agent serves the store that agents meet at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    Always,
    /// If it is named by the endpoint, and nobody else of this host does.
    IfHere,
    Never,
}

/// Whether an endpoint names this host: by its name, an address of it, or a name of one.
pub fn is_here(endpoint: &Endpoint) -> bool {
    if endpoint.host == "localhost" || endpoint.host.eq_ignore_ascii_case(&hostname_text()) {
        return true;
    }
    let Ok(found) = (endpoint.host.as_str(), endpoint.port).to_socket_addrs() else { return false };
    let own: Vec<IpAddr> = getifaddrs()
        .map(|interfaces| {
            let addresses = interfaces.filter_map(|interface| interface.address);
            addresses.filter_map(|address| ip_of(&address)).collect()
        })
        .unwrap_or_default();
    let mut found = found.map(|address| address.ip().to_canonical());
    found.any(|ip| ip.is_loopback() || own.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dyn_24_this_host_is_known_by_its_names_and_addresses() {
        let here = hostname_text();
        for host in ["localhost", "127.0.0.1", "127.3.2.1", "::1", &here] {
            assert!(is_here(&Endpoint { host: host.into(), port: 1 }), "{host}");
        }
        for host in ["192.0.2.1", "2001:db8::1", "no.such.host.invalid"] {
            assert!(!is_here(&Endpoint { host: host.into(), port: 1 }), "{host}");
        }
    }
}
