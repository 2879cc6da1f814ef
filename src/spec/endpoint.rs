//! `host:port`.

use std::fmt;
use std::net::IpAddr;

use crate::error::Error;

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// A name or an address; one of IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// `host`, `host:port`, `[v6]`, `[v6]:port`, or a plain IPv6 address; nothing but blanks is localhost.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Endpoint, Error> {
        let refuse = |want: &str| Err(Error::config("rendezvous_endpoint", text, want));
        let trimmed = text.trim();
        let (host, port) = match trimmed.rsplit_once(':') {
            // More than one colon is an address of IPv6, with a port only behind brackets.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (trimmed, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let bare = if trimmed.is_empty() { "localhost" } else { bare };
        let is_name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if bare.is_empty() || !(is_name(bare) || bare.parse::<IpAddr>().is_ok()) {
            return refuse("must be HOST or HOST:PORT, an IPv6 address in brackets");
        }
        let port = match port {
            None => default_port,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok(),
            Some(_) => None,
        };
        match port {
            Some(port) => Ok(Endpoint { host: bare.into(), port }),
            None if trimmed.rsplit_once(':').is_none() || default_port.is_none() => {
                refuse("needs a port: HOST:PORT, with a port from 0 to 65535")
            }
            None => refuse("must be HOST:PORT with a port from 0 to 65535"),
        }
    }

    /// How the others reach a host whose own end of a connection to this endpoint is `local`: there, or, where the
    /// endpoint is on the same host, by the name that they know it by.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code))]
    pub fn seen_from(&self, local: IpAddr) -> String {
        let is_loopback = self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if local.is_loopback() && !is_loopback && self.host != "localhost" {
            return self.host.clone();
        }
        local.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<(String, u16), String> {
        let parsed = Endpoint::parse(text, Some(29400)).map_err(|error| error.to_string())?;
        Ok((parsed.host, parsed.port))
    }

    #[test]
    fn stat_08_names_and_addresses() {
        for (text, host, port) in [
            ("a:1", "a", 1),
            ("a", "a", 29400),
            (" node-1.b_c:0 ", "node-1.b_c", 0),
            ("", "localhost", 29400),
            ("[::1]:5", "::1", 5),
            ("[::1]", "::1", 29400),
            ("::1", "::1", 29400),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
        ] {
            assert_eq!(parse(text), Ok((host.into(), port)), "{text}");
        }
        for text in [":1", "a:", "a:x", "a:65536", "a:+1", "a b:1", "[::1", "[]:1", "a:1:2", "ü:1", "[::1]:"]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains("rendezvous_endpoint is "), "{text}: {error}");
        }
    }

    #[test]
    fn stat_02_a_port_may_be_needed() {
        let error = Endpoint::parse("node", None).unwrap_err().to_string();
        assert!(error.contains("needs a port"), "{error}");
    }

    #[test]
    fn dyn_06_a_host_is_not_told_to_others_as_their_own() {
        for (host, local, wanted) in [
            ("head", "10.0.0.2", "10.0.0.2"),
            ("head", "127.0.0.1", "head"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("localhost", "::1", "::1"),
        ] {
            let endpoint = Endpoint { host: host.into(), port: 1 };
            assert_eq!(endpoint.seen_from(local.parse().unwrap()), wanted, "{host}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(text in "[a-z0-9.:\\[\\]-]{0,12}") {
            if let Ok(endpoint) = Endpoint::parse(&text, Some(29400)) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string(), None), Ok(endpoint));
            }
        }
    }
}
