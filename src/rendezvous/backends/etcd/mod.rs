//! `etcd`: the servers of one etcd as a back end, by its v3 API.
//!
//! It is spoken with through the JSON gateway that every server from 3.4 on has at its client port: that takes an HTTP
//! client of some hundred lines, no thread, and a watch ends when the bell rings. A gRPC client brings a hundred
//! crates and a runtime, is larger, and needs `protoc` to be built.
//!
//! A `link` is the connection for requests; a `watch` has another one, and stays while what is waited for is of one
//! kind. `api` is what they say, as values.

#[cfg(fuzzing)]
pub use http::read_in_parts;

mod api;
mod http;
mod lease;
mod link;
#[cfg(test)]
mod tests;
mod tls;
mod watch;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::http::Connection;
use self::lease::Lease;
use self::link::{Link, Login};
use self::tls::Tls;
use self::watch::Watch;
use super::{Asked, BackendKind, Configured, Opening};
use crate::error::Error;
use crate::rendezvous::backend::{Backend, Stored, Swap, Token};
use crate::spec::endpoint::Endpoint;
use crate::spec::rendezvous_options::{EtcdOptions, Options};
use crate::store::interrupt::Interrupter;
use crate::sys::random;

const DEFAULT_PORT: u16 = 2379;
/// How long one try to connect may take.
const TRY: Duration = Duration::from_secs(2);
/// How long an answer may take where another server can be asked.
const ONE_OF_MANY: Duration = Duration::from_secs(5);
/// The key that says which lease the others have. None of a rendezvous has this name.
const LEASE: &str = "lease";

pub struct EtcdKind;

impl BackendKind for EtcdKind {
    fn name(&self) -> &str {
        "etcd"
    }

    fn configure(&self, asked: &Asked) -> Result<Box<dyn Configured>, Error> {
        // What is wrong with it is better known now than later.
        Etcd::new(asked.endpoint, "", &asked.nodes.options)?;
        Ok(Box::new(Servers { endpoints: asked.endpoint.into() }))
    }
}

struct Servers {
    endpoints: String,
}

impl fmt::Display for Servers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "etcd {}", self.endpoints)
    }
}

impl Configured for Servers {
    fn open(&self, opening: &Opening) -> Result<Box<dyn Backend>, Error> {
        Ok(Box::new(Etcd::new(&self.endpoints, opening.run_id, opening.options)?))
    }
}

/// One agent's way to it.
pub struct Etcd {
    servers: Vec<Endpoint>,
    tls: Option<Tls>,
    login: Option<Login>,
    ttl: Duration,
    /// How long an answer may take.
    patience: Duration,
    /// What all keys begin with.
    prefix: String,
    /// Which server is tried next: round and round.
    turn: usize,
    /// The servers are what they should be: whatever is wrong later may pass.
    was_right: bool,
    link: Option<(Link, Lease)>,
    watch: Option<Watch>,
    interrupter: Interrupter,
}

impl Etcd {
    /// `endpoints`: `HOST:PORT,...`, the servers of one etcd, each of which may begin with `http://` or `https://`; the
    /// port is 2379 if there is none. Nothing is connected yet.
    pub fn new(endpoints: &str, run_id: &str, options: &Options) -> Result<Etcd, Error> {
        let own = &options.etcd;
        let (servers, is_https) = parse_endpoints(endpoints, own.tls)?;
        let EtcdOptions { ssl_cert, ssl_cert_key, ca_cert, .. } = own;
        for (key, path) in [("ssl_cert", ssl_cert), ("ssl_cert_key", ssl_cert_key), ("ca_cert", ca_cert)] {
            if let (false, Some(path)) = (is_https, path) {
                let value = format!("{key}={}", path.display());
                return Err(Error::config("rendezvous_option", value, "is for protocol=https"));
            }
        }
        let most = if servers.len() > 1 { ONE_OF_MANY } else { Duration::MAX };
        Ok(Etcd {
            tls: if is_https { Some(Tls::new(own)?) } else { None },
            login: login(own)?,
            ttl: ttl(options),
            patience: options.answer_within().min(most),
            prefix: prefix(run_id),
            // The agents spread over the servers.
            turn: random::number() as usize % servers.len(),
            servers,
            was_right: false,
            link: None,
            watch: None,
            interrupter: Interrupter::default(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn connect_to(&mut self, server: &Endpoint) -> Result<(), Error> {
        let tls = self.tls.as_mut().map(Tls::config);
        let connection = Connection::open(server, tls.as_ref(), &self.interrupter, Instant::now() + TRY)?;
        let by = Instant::now() + self.patience;
        let mut link = Link::open(connection, server, self.login.as_ref(), by)?;
        let lease = Lease::find(&mut link, &self.key(LEASE), self.ttl, by)?;
        self.link = Some((link, lease));
        Ok(())
    }

    /// After an error nothing more is asked on the same connections: an answer may still come.
    fn hang_up(&mut self) {
        (self.link, self.watch) = (None, None);
    }

    /// Lets `act` make requests; the keys do not expire meanwhile.
    fn with_link<T>(
        &mut self,
        act: impl FnOnce(&mut Link, &Lease, Instant) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some((link, lease)) = &mut self.link else {
            return Err(Error::Store { what: "not connected to etcd".into() });
        };
        let by = Instant::now() + self.patience;
        let done = lease.keep_alive(link, by).and_then(|()| act(link, lease, by));
        if done.is_err() {
            self.hang_up();
        }
        done
    }

    fn range(&mut self, key: &str) -> Result<Value, Error> {
        let key = self.key(key);
        self.with_link(|link, _, by| link.ask("kv/range", api::range(&key), by))
    }

    /// The watch of what is numbered like this key.
    fn watch(&mut self, key: &str, revision: i64) -> Result<&mut Watch, Error> {
        let kind = key.rfind('/').map_or(key, |end| &key[..=end]);
        if self.watch.as_ref().is_none_or(|watch| watch.prefix() != kind) {
            let (tls, interrupter) = (self.tls.as_mut().map(Tls::config), self.interrupter.clone());
            let watch = self.with_link(|link, _, by| {
                let connection = Connection::open(&link.server, tls.as_ref(), &interrupter, by);
                // It was right when the link was made.
                let connection = connection.map_err(|error| match error {
                    Error::Rendezvous { what } => Error::Store { what },
                    other => other,
                })?;
                Watch::begin(connection, link, kind, revision, by)
            })?;
            self.watch = Some(watch);
        }
        self.watch.as_mut().ok_or_else(|| Error::Internal { what: "the watch is lost".into() })
    }
}

impl Backend for Etcd {
    fn connect(&mut self) -> Result<(), Error> {
        self.hang_up();
        let mut why = Error::Store { what: "there is no etcd server".into() };
        for _ in 0..self.servers.len() {
            let server = self.servers[self.turn % self.servers.len()].clone();
            match self.connect_to(&server) {
                Ok(()) => {
                    self.was_right = true;
                    return Ok(());
                }
                // What lasts says more than what may pass.
                Err(_) if matches!(why, Error::Rendezvous { .. }) => {}
                Err(error) => why = error,
            }
            self.tls.iter_mut().for_each(Tls::distrust);
            self.turn += 1;
        }
        match why {
            Error::Rendezvous { what } if self.was_right => Err(Error::Store { what }),
            why => Err(why),
        }
    }

    fn get(&mut self, key: &str) -> Result<Option<Stored>, Error> {
        self.range(key).map(|answer| api::found(&answer))
    }

    fn compare_and_set(&mut self, key: &str, expected: Option<&Token>, value: &[u8]) -> Result<Swap, Error> {
        let revision = expected.map_or(Ok(0), parse_token)?;
        let key = self.key(key);
        let answer = self.with_link(|link, lease, by| {
            link.ask("kv/txn", api::swap(&key, revision, value, lease.id), by)
        })?;
        Ok(api::swapped(&answer))
    }

    fn wait(&mut self, key: &str, until: Instant, bell: BorrowedFd) -> Result<bool, Error> {
        let answer = self.range(key)?;
        if api::found(&answer).is_some() {
            return Ok(true);
        }
        let until = self.link.as_ref().map_or(until, |(_, lease)| lease.due.min(until));
        let key = self.key(key);
        let waited = self.watch(&key, api::revision(&answer) + 1)?.wait(key.as_bytes(), until, bell);
        if waited.is_err() {
            self.hang_up();
        }
        waited
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        let key = self.key(key);
        self.with_link(|link, lease, by| link.ask("kv/put", api::put(&key, value, lease.id), by)).map(drop)
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        let key = self.key(key);
        self.with_link(|link, _, by| link.ask("kv/deleterange", api::range(&key), by)).map(drop)
    }

    fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    fn address(&self) -> Option<String> {
        let (link, _) = self.link.as_ref()?;
        Some(link.server.seen_from(link.local_address()?))
    }

    fn disconnect(&mut self) {
        self.hang_up();
    }

    fn warning(&mut self) -> Option<String> {
        self.tls.as_mut().and_then(Tls::warning)
    }
}

/// What the keys of a job begin with. No run id makes the beginning of another one's.
fn prefix(run_id: &str) -> String {
    format!("libice/{}/", run_id.replace('%', "%25").replace('/', "%2F"))
}

/// How long the keys of a job stay when its agents are gone. While an outage is lived with, they are to be there.
fn ttl(options: &Options) -> Duration {
    options.etcd.ttl.unwrap_or(options.lost_timeout + Duration::from_secs(60))
}

fn parse_token(token: &Token) -> Result<i64, Error> {
    let text = std::str::from_utf8(token).ok();
    let revision = text.and_then(|text| text.parse().ok()).filter(|revision| *revision > 0);
    revision.ok_or_else(|| Error::Argument {
        what: format!("{:?} is no token of a value at etcd", String::from_utf8_lossy(token)),
    })
}

fn login(options: &EtcdOptions) -> Result<Option<Login>, Error> {
    let refuse = |value: String, want: &str| Err(Error::config("rendezvous_option", value, want));
    match (options.user.clone(), options.password.clone()) {
        (Some(user), Some(password)) => Ok(Some(Login { user, password })),
        (Some(user), None) => refuse(format!("user={user}"), "needs a password"),
        (None, Some(_)) => refuse("password".into(), "needs a user"),
        (None, None) => Ok(None),
    }
}

/// The servers, and whether they are spoken with by https.
fn parse_endpoints(text: &str, tls: Option<bool>) -> Result<(Vec<Endpoint>, bool), Error> {
    let refuse = |want: &str| Err(Error::config("rendezvous_endpoint", text, want));
    let mut servers = Vec::new();
    let mut is_https = tls;
    for item in text.split(',').map(str::trim) {
        let (scheme, rest) =
            item.split_once("://").map_or((None, item), |(scheme, rest)| (Some(scheme), rest));
        let own = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("http") => Some(false),
            Some("https") => Some(true),
            Some(_) => {
                return refuse("must be HOST:PORT,..., each with http:// or https:// before it or nothing");
            }
        };
        if own.is_some() && is_https.is_some_and(|known| Some(known) != own) {
            return refuse("must be all http or all https, as the option protocol is if it is there");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return refuse("must be HOST:PORT,... with a host before each comma and after it");
        }
        is_https = is_https.or(own);
        servers.push(Endpoint::parse(rest, Some(DEFAULT_PORT))?);
    }
    Ok((servers, is_https.unwrap_or(false)))
}
