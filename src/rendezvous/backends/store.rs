//! A store with PyTorch's protocol as a back end: one that an agent serves, or somebody else. What `static` and `c10d`
//! have in common.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::{Asked, Opening};
use crate::error::Error;
use crate::rendezvous::backend::{Backend, Stored, Swap, TellOfLoss, Token, beat_key};
use crate::rendezvous::hosting::{Hosting, is_here};
use crate::rendezvous::secret::Source;
use crate::spec::endpoint::Endpoint;
use crate::spec::names::hostname_text;
use crate::store::client::{Client, Options};
use crate::store::interrupt::Interrupter;
use crate::store::losses::Losses;
use crate::store::secret::Secret;
use crate::store::server::{Config, Server};

/// How long one try to connect may take.
const TRY: Duration = Duration::from_secs(2);

/// A key that the store of a job has from its beginning, where it may be at one of several ports.
const MARK: &str = "here";

/// How soon an interruption is noticed while the others are waited for.
const LOOK: Duration = Duration::from_millis(50);

/// The key under which torchrun's agents keep their state. It says here that the job is one of ours: they refuse
/// it, and ours refuse theirs.
fn anchor(run_id: &str) -> String {
    format!("torch.rendezvous.{run_id}")
}

/// A store as a spec names it, and the secret that it asks for.
pub struct NamedStore {
    pub endpoint: Endpoint,
    ports: u16,
    source: Source,
}

impl NamedStore {
    /// At one of so many ports, from the endpoint's on.
    pub fn at_one_of(self, ports: u16) -> NamedStore {
        NamedStore { ports, ..self }
    }

    /// `is_for_workers`: they are to come to the same store.
    pub fn new(endpoint: Endpoint, asked: &Asked, is_for_workers: bool) -> Result<NamedStore, Error> {
        let source = Source::of(&asked.nodes.options, asked.var, &endpoint.host, is_for_workers)?;
        // What is wrong with it is better known now than later.
        if !source.is_by_default() {
            source.secret()?;
        }
        Ok(NamedStore { endpoint, ports: 1, source })
    }

    pub fn open(
        &self,
        opening: &Opening,
        hosting: Hosting,
        is_for_workers: bool,
    ) -> Result<Box<dyn Backend>, Error> {
        let secret = match self.source.secret() {
            Err(error) if self.source.is_by_default() => {
                (opening.note)(format!("the rendezvous is open to all who reach it: {error}"));
                None
            }
            secret => secret?,
        };
        Ok(Box::new(StoreBackend::new(Settings {
            endpoint: self.endpoint.clone(),
            ports: self.ports,
            hosting,
            run_id: opening.run_id.into(),
            patience: opening.options.answer_within(),
            // PyTorch's workers have no secret to tell.
            shared_with_workers: is_for_workers && secret.is_none(),
            secret,
            source: self.source.clone(),
            descriptors: opening.descriptors,
        })))
    }
}

/// Which store.
pub struct Settings {
    pub endpoint: Endpoint,
    /// How many ports it may be at, from the endpoint's on; one when it has been found. A port that is taken by something
    /// else than the store of this job is passed over, on each host alike.
    pub ports: u16,
    pub hosting: Hosting,
    pub run_id: String,
    /// How long an answer may take.
    pub patience: Duration,
    /// Workers meet at this store, too: they find it empty in each round.
    pub shared_with_workers: bool,
    pub secret: Option<Secret>,
    /// Where it is from.
    pub source: Source,
    /// How many descriptors the workers of this agent need.
    pub descriptors: usize,
}

pub struct StoreBackend {
    settings: Settings,
    server: Option<Server>,
    client: Option<Client>,
    interrupter: Interrupter,
    tell_of_loss: Option<TellOfLoss>,
    /// The port was taken when this agent was about to serve there.
    is_taken: bool,
    /// The first of the ports that it may be at.
    first_port: u16,
}

/// What a host says of a port.
#[derive(Debug, PartialEq)]
enum PortState {
    Listens,
    /// It says that nobody listens.
    Free,
    Unknown,
}

impl StoreBackend {
    pub fn new(settings: Settings) -> StoreBackend {
        StoreBackend {
            first_port: settings.endpoint.port,
            settings,
            server: None,
            client: None,
            interrupter: Interrupter::default(),
            tell_of_loss: None,
            is_taken: false,
        }
    }

    /// What all keys but the anchor begin with.
    fn prefix(&self) -> String {
        format!("{}.libice/", anchor(&self.settings.run_id))
    }

    fn key(&self, key: &str) -> String {
        if key.is_empty() { anchor(&self.settings.run_id) } else { self.prefix() + key }
    }

    fn client(&self) -> Result<&Client, Error> {
        self.client.as_ref().ok_or_else(|| Error::Store { what: "not connected".into() })
    }

    /// Begins to serve, if that is this agent's part.
    fn serve(&mut self) -> Result<(), Error> {
        if self.settings.hosting == Hosting::IfHere && !is_here(&self.settings.endpoint) {
            self.settings.hosting = Hosting::Never;
        }
        if self.server.is_some() || self.settings.hosting == Hosting::Never {
            return Ok(());
        }
        let Settings { endpoint, ports, secret, descriptors, .. } = &self.settings;
        let start = |port| {
            let (secret, losses) = (secret.clone(), self.losses());
            Server::start(&Config { port, secret, losses, ..Config::beside_workers(*descriptors) })
        };
        let mut started = start(endpoint.port);
        if *ports > 1 {
            for (taken, port) in self.ports().zip(self.ports().skip(1)) {
                if started.is_ok() {
                    break;
                }
                if self.has_twin(taken) {
                    let want = format!(
                        "another agent of this job has it, and serves the store at port {taken} of this host"
                    );
                    return Err(Error::config("node_rank", 0, want));
                }
                started = start(port);
            }
        }
        match started {
            Ok(server) => {
                self.settings.endpoint.port = server.port();
                self.server = Some(server);
                Ok(())
            }
            Err(error) if self.settings.hosting == Hosting::Always => Err(Error::config(
                "rendezvous_endpoint",
                &self.settings.endpoint,
                format!("cannot be served here: {error}"),
            )),
            // Another agent of this host was quicker; or neither was: of two sockets at one port that begin to listen
            // at the same instant Linux refuses both. So this one tries again until it has found a store.
            Err(_) => {
                self.is_taken = true;
                Ok(())
            }
        }
    }

    /// A node is known by its heartbeat.
    fn losses(&self) -> Option<Losses> {
        let tell = self.tell_of_loss.clone()?;
        let tell = move |id: &[u8], beat: i64| tell(&String::from_utf8_lossy(id), beat as u64);
        Some(Losses::new(&self.key(&beat_key("")), tell))
    }

    fn call(&self, port: u16) -> Result<Client, Error> {
        let Settings { endpoint: Endpoint { host, .. }, secret, source, .. } = &self.settings;
        let host = if self.server.is_some() { "localhost" } else { host };
        let options = Options {
            timeout: Some(TRY),
            secret: secret.clone(),
            // The store may be PyTorch's, if nobody has asked for more.
            or_without_secret: source.is_by_default() && self.server.is_none(),
            interrupter: self.interrupter.clone(),
        };
        Client::connect_with(host, port, &options).map_err(|why| source.explain(why))
    }

    /// What the endpoint's host says of a port.
    fn state_of(&self, port: u16) -> PortState {
        let host = self.settings.endpoint.host.as_str();
        let Ok(addresses) = (host, port).to_socket_addrs() else { return PortState::Unknown };
        let mut found = PortState::Unknown;
        for address in addresses {
            match TcpStream::connect_timeout(&address, TRY) {
                Ok(_) => return PortState::Listens,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => found = PortState::Free,
                Err(_) => return PortState::Unknown,
            }
        }
        found
    }

    fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let first = self.first_port;
        (0..self.settings.ports).map(move |more| first.saturating_add(more))
    }

    /// The store of this job at one of the ports: where it was, or the first that is not taken by something else. The host
    /// may have passed over a port that looks free from here.
    fn search(&mut self) -> Result<Client, Error> {
        if self.server.is_some() {
            let client = self.call(self.settings.endpoint.port)?;
            client.set(self.key(MARK).as_bytes(), b"1")?;
            return Ok(client);
        }
        let mut refusal = None;
        let last = self.settings.endpoint.port;
        for port in [last].into_iter().chain(self.ports().filter(|port| *port != last)) {
            let state = self.state_of(port);
            if state == PortState::Free {
                continue;
            }
            match self.call(port) {
                Ok(client) if self.is_marked(&client) => {
                    self.settings.endpoint.port = port;
                    return Ok(client);
                }
                Err(error @ Error::Interrupted { .. }) => return Err(error),
                // The host is out of reach, and its other ports with it.
                Err(error) if state == PortState::Unknown => return Err(error),
                Err(error @ Error::Config { .. }) => refusal = Some(error),
                // Another job's, or somebody who does not speak as a store does.
                Ok(_) | Err(_) => {}
            }
        }
        let (host, first, count) = (&self.settings.endpoint.host, self.first_port, self.settings.ports);
        let why = refusal.map_or(String::new(), |error| format!("; {error}"));
        Err(Error::Store {
            what: format!("none of {count} ports from {host}:{first} on has the store of this job{why}"),
        })
    }

    /// Whether an agent of this job serves it here already, at the port that could not be had.
    fn has_twin(&self, port: u16) -> bool {
        self.call(port).is_ok_and(|client| self.is_marked(&client))
    }

    /// Whether it is the store of this job.
    fn is_marked(&self, client: &Client) -> bool {
        client.find(self.key(MARK).as_bytes()).is_ok_and(|mark| mark.is_some())
    }
}

impl Backend for StoreBackend {
    fn connect(&mut self) -> Result<(), Error> {
        self.client = None;
        self.serve()?;
        let client =
            if self.settings.ports > 1 { self.search()? } else { self.call(self.settings.endpoint.port)? };
        self.client = Some(client.with_patience(self.settings.patience));
        if self.server.is_none() {
            // The job's keys are there: an empty store in its place would be another job.
            self.settings.hosting = Hosting::Never;
        }
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Option<Stored>, Error> {
        let value = self.client()?.find(self.key(key).as_bytes())?;
        Ok(value.map(|value| Stored { token: value.clone(), value }))
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
        Ok(Swap::Refused((!gone).then(|| Stored { token: there.clone(), value: there })))
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

    fn tell_of_losses(&mut self, tell: TellOfLoss) {
        self.tell_of_loss = Some(tell);
    }

    fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    fn address(&self) -> Option<String> {
        match (&self.server, &self.client) {
            // As the others name it.
            (Some(_), _) if is_here(&self.settings.endpoint) => Some(self.settings.endpoint.host.clone()),
            (Some(_), _) => Some(hostname_text()),
            (None, Some(client)) => Some(client.local_address().to_string()),
            (None, None) => None,
        }
    }

    fn shared_port(&self) -> Option<u16> {
        self.settings.shared_with_workers.then_some(self.settings.endpoint.port)
    }

    fn between_rounds(&mut self) -> Result<(), Error> {
        if let (true, Some(server)) = (self.settings.shared_with_workers, &self.server) {
            server.keep_only(anchor(&self.settings.run_id).as_bytes());
        }
        Ok(())
    }

    fn is_deserted(&self) -> bool {
        self.state_of(self.settings.endpoint.port) == PortState::Free
    }

    fn may_lead(&self) -> bool {
        !self.settings.shared_with_workers || self.server.is_some()
    }

    fn serves(&self) -> bool {
        self.server.is_some()
    }

    fn served_by_another(&self) -> Option<String> {
        let is_another = self.is_taken && self.server.is_none();
        is_another.then(|| self.settings.endpoint.to_string())
    }

    fn disconnect(&mut self) {
        self.client = None;
    }

    fn leave(&mut self, until: Instant) {
        self.disconnect();
        let Some(server) = &self.server else { return };
        loop {
            let look = until.min(Instant::now() + LOOK);
            if server.is_left_by_all(look) || look == until || self.interrupter.is_interrupted() {
                return;
            }
        }
    }
}
