//! The health port: a small HTTP server that says whether the agent's loop still turns, and for /metrics how
//! the run goes. In a thread of its own, with few connections and short patience: clients that are slow, many or
//! talk nonsense concern nobody else, the other clients included: who only holds a connection gives way to who asks.

use std::fmt::Display;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::json;

use super::Shared;
use crate::error::Error;
use crate::report::metrics::{self, Around};
use crate::standstill::lost;
use crate::sys::dispositions;
use crate::sys::fd::{self, Bell};
use crate::sys::limits::has_room_beside;
use crate::sys::listener::{listen_at, listen_at_path};
use crate::sys::process::{self, monotonic, poll_timeout, since_1970};
use crate::sys::signals::Inbox;

/// How many clients are heard at once.
const CLIENTS: usize = 32;
/// How many come in before those that are there are looked at again.
const ACCEPTS: usize = 256;
/// The longest request that is read.
const REQUEST: usize = 4096;
/// How long a client may take.
const CLIENT_TIME: Duration = Duration::from_secs(2);
/// How long an idle loop may take to show that it is there.
const ANSWER_TIME: Duration = Duration::from_millis(200);
const LOOK_FOR_ANSWER: Duration = Duration::from_millis(2);

/// When the agent's loop last turned.
pub struct Pulse(AtomicU64);

impl Pulse {
    pub fn new() -> Pulse {
        let pulse = Pulse(AtomicU64::new(0));
        pulse.beat();
        pulse
    }

    pub fn beat(&self) {
        self.0.store(monotonic().as_nanos() as u64, Ordering::Release);
    }

    fn last(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// Where clients come; a socket's file goes with it.
pub struct HealthEndpoint {
    listener: OwnedFd,
    file: Option<PathBuf>,
}

impl HealthEndpoint {
    /// And the port that it is.
    pub fn port(at: SocketAddr) -> Result<(HealthEndpoint, u16), Error> {
        let failed = |errno: Errno| cannot_listen(at, errno);
        listen_at(at).map(|(listener, port)| (HealthEndpoint { listener, file: None }, port)).map_err(failed)
    }

    pub fn socket(path: PathBuf) -> Result<HealthEndpoint, Error> {
        match listen_at_path(&path) {
            Ok(listener) => Ok(HealthEndpoint { listener, file: Some(path) }),
            Err(errno) => Err(cannot_listen(path.display(), errno)),
        }
    }
}

fn cannot_listen(at: impl Display, errno: Errno) -> Error {
    Error::system(format!("cannot listen at {at}"), errno as i32)
}

impl Drop for HealthEndpoint {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What the server knows of the run beside its state.
pub struct About {
    /// A loop that has not turned for so long is not well.
    pub limit: Duration,
    pub run_id: Vec<u8>,
    pub role: Vec<u8>,
    /// How many descriptors are left to the workers of an attempt.
    pub descriptors: usize,
}

/// The server; it stops when this is dropped.
pub struct Health {
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    pub fn start(
        places: Vec<HealthEndpoint>,
        about: About,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
    ) -> Result<Health, Error> {
        let failed = |errno: Errno| Error::system("cannot make an eventfd", errno as i32);
        let stop = Arc::new(Bell::new().map_err(failed)?);
        let mut server =
            Server { stop: stop.clone(), places, about, inbox, shared, clients: Vec::new(), accept_at: None };
        let thread = std::thread::Builder::new()
            .name("ice-health".into())
            .spawn(move || {
                dispositions::block_all();
                server.serve();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Health { stop, thread: Some(thread) })
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: OwnedFd,
    /// Until when this stage may last.
    deadline: Duration,
    stage: Stage,
}

enum Stage {
    /// What was read of its request.
    Reads(Vec<u8>),
    /// It has asked, at that time, and waits for the loop to turn.
    Waits { since: Duration, metrics: bool },
    /// What is left of its answer.
    Takes(Vec<u8>),
}

impl Client {
    fn answer(&mut self, status: &str, kind: &str, body: &str) {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.deadline = monotonic() + CLIENT_TIME;
        self.stage = Stage::Takes((head + body).into());
    }

    /// Reads what is there; whether the head of the request is. None if the client is gone.
    fn read(&mut self) -> Option<bool> {
        let Stage::Reads(request) = &mut self.stage else { return Some(true) };
        let mut buffer = [0; REQUEST];
        loop {
            match nix::unistd::read(&self.stream, &mut buffer) {
                Ok(0) => return None,
                Ok(count) => request.extend_from_slice(&buffer[..count]),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Some(false),
                Err(_) => return None,
            }
            let ends = |end: &[u8]| memchr::memmem::find(request, end).is_some();
            if ends(b"\r\n\r\n") || ends(b"\n\n") || request.len() >= REQUEST {
                return Some(true);
            }
        }
    }

    /// Writes what it takes; whether there is more. None if that is all, or the client is gone.
    fn write(&mut self) -> Option<()> {
        let Stage::Takes(left) = &mut self.stage else { return Some(()) };
        while !left.is_empty() {
            match fd::send_now(self.stream.as_raw_fd(), left) {
                Ok(count) => drop(left.drain(..count)),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Some(()),
                Err(_) => return None,
            }
        }
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
        None
    }
}

struct Server {
    stop: Arc<Bell>,
    places: Vec<HealthEndpoint>,
    about: About,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    /// When to accept again, if there was no descriptor left for a client.
    accept_at: Option<Duration>,
}

impl Server {
    fn serve(&mut self) {
        loop {
            let mut items = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            if self.accepts() {
                let places = self.places.iter();
                items.extend(places.map(|place| PollFd::new(place.listener.as_fd(), PollFlags::POLLIN)));
            }
            items.extend(self.clients.iter().filter_map(|client| {
                let flags = match client.stage {
                    Stage::Reads(_) => PollFlags::POLLIN,
                    Stage::Waits { .. } => return None,
                    Stage::Takes(_) => PollFlags::POLLOUT,
                };
                Some(PollFd::new(client.stream.as_fd(), flags))
            }));
            let wait = self.next_deadline();
            let begin = monotonic();
            let _ = poll(&mut items, wait.map_or(PollTimeout::NONE, poll_timeout));
            // A process that stood still has not had the time to answer.
            let lost = wait.map_or(Duration::ZERO, |wait| lost(begin, begin + wait, monotonic()));
            if items[0].any().unwrap_or(false) {
                return;
            }
            drop(items);
            self.clients.iter_mut().for_each(|client| client.deadline += lost);
            self.accept();
            let clients = std::mem::take(&mut self.clients);
            self.clients = clients.into_iter().filter_map(|client| self.attend(client)).collect();
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let left = |client: &Client| match client.stage {
            Stage::Waits { .. } => LOOK_FOR_ANSWER,
            _ => client.deadline.saturating_sub(monotonic()),
        };
        let accept = self.accept_at.map(|at| at.saturating_sub(monotonic()));
        self.clients.iter().map(left).chain(accept).min()
    }

    fn accepts(&self) -> bool {
        self.accept_at.is_none_or(|at| at <= monotonic())
    }

    fn accept(&mut self) {
        if !self.accepts() {
            return;
        }
        self.accept_at = None;
        for place in 0..self.places.len() {
            for _ in 0..ACCEPTS {
                let listener = self.places[place].listener.as_raw_fd();
                let accepted =
                    if self.has_room(listener) { fd::accept(listener) } else { Err(Errno::EMFILE) };
                let stream = match accepted {
                    Ok(stream) => stream,
                    // Those who knock stay in the queue; asking at once again would be a busy loop.
                    Err(errno) if fd::is_shortage(errno) => {
                        self.accept_at = Some(monotonic() + fd::TIME_TO_ACCEPT);
                        break;
                    }
                    Err(_) => break,
                };
                let (deadline, stage) = (monotonic() + CLIENT_TIME, Stage::Reads(Vec::new()));
                self.clients.push(Client { stream, deadline, stage });
            }
        }
    }

    /// Whether one more may come, once the one that has been idle for longest has gone if it has to.
    fn has_room(&mut self, listener: RawFd) -> bool {
        while self.clients.len() >= CLIENTS || !has_room_beside(self.about.descriptors, listener) {
            let is_silent = |client: &Client| matches!(client.stage, Stage::Reads(_));
            let is_slow = |client: &Client| matches!(client.stage, Stage::Takes(_));
            let silent = self.clients.iter().position(is_silent);
            let Some(oldest) = silent.or_else(|| self.clients.iter().position(is_slow)) else { return false };
            // Its request may have come meanwhile.
            let client = self.clients.remove(oldest);
            if let Some(client) = self.attend(client)
                && matches!(client.stage, Stage::Waits { .. })
            {
                self.clients.push(client);
            }
        }
        true
    }

    /// Reads, or answers; none once it is done with.
    fn attend(&self, mut client: Client) -> Option<Client> {
        let is_late = |client: &Client| monotonic() >= client.deadline;
        if !client.read()? {
            return (!is_late(&client)).then_some(client);
        }
        if let Stage::Reads(request) = &client.stage {
            match path(request) {
                None => client.answer("400 Bad Request", "text/plain", "only GET is understood here\n"),
                Some(path) => {
                    // An idle loop sleeps until somebody wants something of it.
                    let metrics = path == b"/metrics";
                    client.stage = Stage::Waits { since: monotonic(), metrics };
                    client.deadline = monotonic() + ANSWER_TIME;
                    self.inbox.knock();
                }
            }
        }
        if let Stage::Waits { since, metrics } = client.stage {
            let last = self.shared.pulse.last();
            if last < since && !is_late(&client) {
                return Some(client);
            }
            let silent = monotonic().saturating_sub(last);
            match metrics {
                true => client.answer("200 OK", metrics::CONTENT_TYPE, &self.metrics(silent)),
                false => self.answer_health(&mut client, silent),
            }
        }
        client.write()?;
        (!is_late(&client)).then_some(client)
    }

    fn answer_health(&self, client: &mut Client, silent: Duration) {
        let (state, attempt) = {
            let snapshot = self.shared.snapshot.lock();
            (snapshot.state, snapshot.attempt)
        };
        let body = json!({
            "last_progress": since_1970().saturating_sub(silent).as_secs(),
            "seconds_since": silent.as_secs_f64(),
            "state": state.name(),
            "agent_restarts": attempt,
        });
        let status = if silent > self.about.limit { "503 Service Unavailable" } else { "200 OK" };
        client.answer(status, "application/json", &format!("{body}\n"));
    }

    fn metrics(&self, silent: Duration) -> String {
        let (run_id, role) = (&self.about.run_id, &self.about.role);
        let around = Around { run_id, role, now: monotonic(), silent };
        let has_proc = process::proc_is_ours();
        let resident = |pid| if has_proc { process::resident(pid) } else { None };
        metrics::text(&self.shared.look(), &around, resident)
    }
}

/// What a request is for, without a query; none if it is no request that is understood.
fn path(request: &[u8]) -> Option<&[u8]> {
    let rest = request.strip_prefix(b"GET ").or_else(|| request.strip_prefix(b"HEAD "))?;
    rest.split(|byte| b" ?\r\n".contains(byte)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_17_what_is_asked_for() {
        for (request, wanted) in [
            (&b"GET / HTTP/1.0\n\n"[..], Some(&b"/"[..])),
            (b"GET /metrics?name=a HTTP/1.1\r\n\r\n", Some(b"/metrics")),
            (b"HEAD /health\n\n", Some(b"/health")),
            (b"GET \n\n", Some(b"")),
            (b"POST /metrics HTTP/1.1\r\n\r\n", None),
            (b"", None),
        ] {
            assert_eq!(path(request), wanted);
        }
    }
}
