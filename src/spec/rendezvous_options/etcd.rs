//! The options of etcd alone. Of torch's two back ends for etcd each has its own names for them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{path, refuse};
use crate::error::Error;

pub const KEYS: &[&str] = &[
    "protocol",
    "ssl_cert",
    "cert",
    "ssl_cert_key",
    "key",
    "ca_cert",
    "cacert",
    "etcd_prefix",
    "user",
    "password",
    "ttl",
];

/// What etcd itself makes of shorter ones is no longer what was asked for.
const SHORTEST_TTL: u64 = 5;

/// How etcd is spoken with. Paths are those of PEM files.
#[derive(Clone, Default, PartialEq)]
pub struct EtcdOptions {
    /// Whether by https; as the endpoints say, if this does not, or else by http.
    pub tls: Option<bool>,
    /// The own certificate, and its key; in one file, if there is only the first. It opens the connection and no
    /// more: etcd's gateway knows a user by name and password alone, not by the name in a certificate.
    pub ssl_cert: Option<PathBuf>,
    pub ssl_cert_key: Option<PathBuf>,
    /// The authorities that may vouch for the server; those of the system, if there is none.
    pub ca_cert: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// How long the keys of a job stay when its agents are gone.
    pub ttl: Option<Duration>,
}

impl fmt::Debug for EtcdOptions {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EtcdOptions { tls, ssl_cert, ssl_cert_key, ca_cert, user, ttl, .. } = self;
        write!(out, "EtcdOptions({tls:?}, {ssl_cert:?}, {ssl_cert_key:?}, {ca_cert:?}, {user:?}, {ttl:?})")
    }
}

impl EtcdOptions {
    /// Takes one of them; false if it is none.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            "protocol" => self.tls = Some(is_https(key, value)?),
            "ssl_cert" | "cert" => self.ssl_cert = Some(path(key, value)?),
            "ssl_cert_key" | "key" => self.ssl_cert_key = Some(path(key, value)?),
            "ca_cert" | "cacert" => self.ca_cert = Some(path(key, value)?),
            "user" if value.is_empty() => return Err(refuse(key, value, "must be a name")),
            "user" => self.user = Some(value.into()),
            "password" => self.password = Some(value.into()),
            "ttl" => {
                let time = value.parse().ok().filter(|time| (SHORTEST_TTL..=1_000_000_000).contains(time));
                let want = format!("must be whole seconds from {SHORTEST_TTL} to 1e9");
                self.ttl = Some(Duration::from_secs(time.ok_or_else(|| refuse(key, value, &want))?));
            }
            // torch's; the keys of a job begin with its run id here.
            "etcd_prefix" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn is_https(key: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "https" => Ok(true),
        "http" => Ok(false),
        _ => Err(refuse(key, value, "must be http or https")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn etcd_04_its_options_have_the_names_of_both_back_ends_of_torch() {
        let mut options = [Options::default(), Options::default()];
        for (own, other, value) in [
            ("ssl_cert", "cert", "/c"),
            ("ssl_cert_key", "key", "/k"),
            ("ca_cert", "cacert", "/a"),
            ("protocol", "protocol", "HTTPS"),
            ("user", "user", "me"),
            ("password", "password", "0pen Sesame"),
        ] {
            options[0].set(own, value).unwrap();
            options[1].set(other, value).unwrap();
        }
        assert_eq!(options[0], options[1]);
        let etcd = &options[0].etcd;
        assert_eq!((etcd.tls, etcd.ca_cert.clone()), (Some(true), Some("/a".into())));
        assert!(!format!("{options:?}").contains("Sesame"));
        options[0].set("ttl", "90").unwrap();
        assert_eq!(options[0].etcd.ttl, Some(Duration::from_secs(90)));
    }
}
