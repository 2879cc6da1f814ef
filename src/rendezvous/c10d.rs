//! A store with PyTorch's protocol as the place to meet: one that an agent serves, or somebody else.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::backend::{Backend, Found, Swap, Token};
use super::endpoint::{Endpoint, Hosting};
use crate::error::Error;
use crate::spec::names::hostname;
use crate::store::client::Client;
use crate::store::interrupt::Interrupter;
use crate::store::server::{Config, Server};

/// How long one try to connect may take.
const TRY: Duration = Duration::from_secs(2);

/// How soon an interruption is noticed while the others are waited for.
const LOOK: Duration = Duration::from_millis(50);

/// The key under which torchrun's agents keep their state. It says here that the job is one of ours: they refuse
/// it, and ours refuse theirs.
fn anchor(run_id: &str) -> String {
    format!("torch.rendezvous.{run_id}")
}

pub struct C10d {
    endpoint: Endpoint,
    hosting: Hosting,
    anchor: String,
    /// How long an answer may take.
    patience: Duration,
    /// Workers meet at this store, too: they find it empty in each round.
    shared_with_workers: bool,
    server: Option<Server>,
    client: Option<Client>,
    interrupter: Interrupter,
}

impl C10d {
    pub fn new(
        endpoint: Endpoint,
        hosting: Hosting,
        run_id: &str,
        patience: Duration,
        shared_with_workers: bool,
    ) -> C10d {
        C10d {
            endpoint,
            hosting,
            anchor: anchor(run_id),
            patience,
            shared_with_workers,
            server: None,
            client: None,
            interrupter: Interrupter::default(),
        }
    }

    /// What all keys but the anchor begin with.
    fn prefix(&self) -> String {
        format!("{}.libice/", self.anchor)
    }

    fn key(&self, key: &str) -> String {
        if key.is_empty() { self.anchor.clone() } else { self.prefix() + key }
    }

    fn client(&self) -> Result<&Client, Error> {
        self.client.as_ref().ok_or_else(|| Error::Store { what: "not connected".into() })
    }

    /// Begins to serve, if that is this agent's part.
    fn serve(&mut self) -> Result<(), Error> {
        if self.hosting == Hosting::IfHere && !self.endpoint.is_here() {
            self.hosting = Hosting::Never;
        }
        if self.server.is_some() || self.hosting == Hosting::Never {
            return Ok(());
        }
        match Server::start(&Config { port: self.endpoint.port, ..Config::default() }) {
            Ok(server) => {
                self.endpoint.port = server.port();
                self.server = Some(server);
                Ok(())
            }
            Err(error) if self.hosting == Hosting::Always => Err(Error::config(
                "rendezvous_endpoint",
                &self.endpoint,
                format!("cannot be served here: {error}"),
            )),
            // Another agent of this host was quicker.
            Err(_) => {
                self.hosting = Hosting::Never;
                Ok(())
            }
        }
    }
}

impl Backend for C10d {
    fn connect(&mut self) -> Result<(), Error> {
        self.client = None;
        self.serve()?;
        let Endpoint { host, port } = &self.endpoint;
        let host = if self.server.is_some() { "localhost" } else { host };
        let client = Client::connect_interruptibly(host, *port, Some(TRY), &self.interrupter)?;
        self.client = Some(client.with_patience(self.patience));
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Option<Found>, Error> {
        let value = self.client()?.find(self.key(key).as_bytes())?;
        Ok(value.map(|value| Found { token: value.clone(), value }))
    }

    fn compare_and_set(&mut self, key: &str, expected: Option<&Token>, value: &[u8]) -> Result<Swap, Error> {
        let (client, key) = (self.client()?, self.key(key));
        let none = Vec::new();
        let there = client.compare_set(key.as_bytes(), expected.unwrap_or(&none), value)?;
        if there == value {
            if !client.wakes_at_compare_set()? {
                client.set(key.as_bytes(), value)?;
            }
            return Ok(Swap::Done);
        }
        // What was expected comes back where nothing is.
        let gone = Some(&there) == expected;
        Ok(Swap::Refused((!gone).then(|| Found { token: there.clone(), value: there })))
    }

    fn wait(&mut self, key: &str, until: Instant, bell: BorrowedFd) -> Result<bool, Error> {
        self.client()?.wait_or(self.key(key).as_bytes(), until, bell)
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.client()?.set(self.key(key).as_bytes(), value)
    }

    fn next(&mut self, key: &str) -> Result<u64, Error> {
        let sum = self.client()?.add(self.key(key).as_bytes(), 1)?;
        Ok((sum - 1) as u64)
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.client()?.delete(self.key(key).as_bytes()).map(drop)
    }

    fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    fn address(&self) -> Option<String> {
        match (&self.server, &self.client) {
            // As the others name it.
            (Some(_), _) if self.endpoint.is_here() => Some(self.endpoint.host.clone()),
            (Some(_), _) => Some(String::from_utf8_lossy(&hostname()).into_owned()),
            (None, Some(client)) => Some(client.local_address().to_string()),
            (None, None) => None,
        }
    }

    fn shared_port(&self) -> Option<u16> {
        self.shared_with_workers.then_some(self.endpoint.port)
    }

    fn between_rounds(&mut self) -> Result<(), Error> {
        if let (true, Some(server)) = (self.shared_with_workers, &self.server) {
            server.keep_only(self.anchor.as_bytes());
        }
        Ok(())
    }

    fn serves(&self) -> bool {
        self.server.is_some()
    }

    fn disconnect(&mut self) {
        self.client = None;
    }

    fn leave(&mut self, until: Instant) {
        self.client = None;
        let Some(server) = &self.server else { return };
        loop {
            let look = until.min(Instant::now() + LOOK);
            if server.is_left_by_all(look) || look == until || self.interrupter.is_interrupted() {
                return;
            }
        }
    }
}
