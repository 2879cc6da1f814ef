//! Where the workers of a job meet: what their environment says of it, as PyTorch's `env://` reads it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::client::{Client, Options};
use super::secret::Secret;
use super::server::{Config, Server};
use crate::error::Error;
use crate::ranks::Rank;
use crate::spec::variables::STORE_SECRET_FILE;
use crate::sys::random;

const LOOPBACK: &str = "127.0.0.1";

/// A worker's part in it.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// There is nobody to meet.
    Alone,
    Host {
        host: String,
        port: u16,
    },
    Guest {
        host: String,
        port: u16,
    },
}

/// The part of this rank, by the variables that `get` finds.
pub fn part(rank: &Rank, get: impl Fn(&str) -> Option<String>) -> Result<Part, Error> {
    let (host, port) = (get("MASTER_ADDR"), get("MASTER_PORT"));
    if host.is_none() && port.is_none() && rank.world_size == 1 {
        return Ok(Part::Alone);
    }
    let host = host.filter(|host| !host.is_empty()).ok_or_else(|| {
        Error::config("MASTER_ADDR", "unset", "must be the host of the workers' store, as an agent sets it")
    })?;
    let text = port.unwrap_or("unset".into());
    let port = text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        Error::config("MASTER_PORT", &text, "must be the port of the workers' store, 1 to 65535")
    })?;
    // The exact text, as PyTorch has it.
    let agent_serves = get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
    Ok(match rank.global == 0 && !agent_serves {
        true => Part::Host { host, port },
        false => Part::Guest { host, port },
    })
}

/// A store for this worker, and its server if this process is to have it.
pub fn open(rank: &Rank, timeout: Option<Duration>) -> Result<(Client, Option<Server>), Error> {
    let part = part(rank, |name| std::env::var(name).ok())?;
    let secret = match std::env::var_os(STORE_SECRET_FILE).filter(|path| !path.is_empty()) {
        Some(path) => Some(Secret::of_file(&PathBuf::from(path))?),
        None => None,
    };
    let (host, port, server) = match part {
        Part::Alone => return alone(timeout),
        Part::Guest { host, port } => (host, port, None),
        Part::Host { host, port } => {
            let address = is_loopback(&host).then(|| host.clone());
            let config = Config { address, port, secret: secret.clone(), ..Config::default() };
            let server = match Server::start(&config) {
                Ok(server) => Some(server),
                // Something else in this process may serve it: init_process_group().
                Err(Error::System { errno: libc::EADDRINUSE, .. }) => None,
                Err(why) => return Err(why),
            };
            (host, port, server)
        }
    };
    let options = Options { timeout, secret, ..Options::default() };
    Ok((Client::connect_with(&host, port, &options)?, server))
}

/// A store that nobody else gets into.
fn alone(timeout: Option<Duration>) -> Result<(Client, Option<Server>), Error> {
    let failed = |errno| Error::system("no random bytes for a store's secret", errno as i32);
    let secret = Some(Secret::new(&random::bytes::<32>().map_err(failed)?)?);
    let address = Some(LOOPBACK.to_string());
    let server = Server::start(&Config { address, secret: secret.clone(), ..Config::default() })?;
    let options = Options { timeout, secret, ..Options::default() };
    Ok((Client::connect_with(LOOPBACK, server.port(), &options)?, Some(server)))
}

/// Whether only this host has workers, so that no other needs to reach the store.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rank: usize, world_size: usize, variables: &[(&str, &str)]) -> Result<Part, String> {
        let rank = Rank {
            global: rank,
            local: rank,
            role: rank,
            group: 0,
            world_size,
            local_world_size: world_size,
            role_world_size: world_size,
            group_world_size: 1,
        };
        let get = |wanted: &str| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_string())
        };
        part(&rank, get).map_err(|error| error.to_string())
    }

    #[test]
    fn rank_0_hosts_unless_the_agent_does() {
        let at = [("MASTER_ADDR", "h"), ("MASTER_PORT", "7")];
        let host = Part::Host { host: "h".into(), port: 7 };
        let guest = || Part::Guest { host: "h".into(), port: 7 };
        assert_eq!(of(0, 2, &at), Ok(host));
        assert_eq!(of(1, 2, &at), Ok(guest()));
        for (says, hosts) in [("True", false), ("False", true), ("1", true), ("true", true)] {
            let variables = [at[0], at[1], ("TORCHELASTIC_USE_AGENT_STORE", says)];
            assert_eq!(matches!(of(0, 2, &variables), Ok(Part::Host { .. })), hosts, "{says}");
            assert_eq!(of(1, 2, &variables), Ok(guest()));
        }
    }

    #[test]
    fn without_an_agent_there_is_nobody_to_meet() {
        assert_eq!(of(0, 1, &[]), Ok(Part::Alone));
        let refused = |world_size, variables: &[_]| of(0, world_size, variables).unwrap_err();
        assert!(refused(2, &[]).starts_with("config error: MASTER_ADDR is unset"));
        assert!(refused(1, &[("MASTER_PORT", "7")]).starts_with("config error: MASTER_ADDR is unset"));
        assert!(refused(1, &[("MASTER_ADDR", "h")]).starts_with("config error: MASTER_PORT is unset"));
        for port in ["0", "65536", "x", ""] {
            assert!(refused(1, &[("MASTER_ADDR", "h"), ("MASTER_PORT", port)]).contains("1 to 65535"));
        }
    }

    #[test]
    fn a_store_of_one_s_own() {
        let (client, server) = alone(Some(Duration::from_secs(20))).unwrap();
        client.set(b"k", b"v").unwrap();
        assert_eq!(client.get(b"k", None), Ok(b"v".to_vec()));
        let port = server.expect("it is here").port();
        let stranger = Client::connect(LOOPBACK, port, Some(Duration::from_millis(1)));
        assert!(stranger.is_err());
    }
}
