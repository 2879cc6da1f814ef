//! The health port: a small HTTP server that says whether the agent's loop still turns. In a thread of its
//! own, with few connections and short patience: clients that are slow, many or talk nonsense concern nobody
//! else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::Shared;
use crate::error::Error;
use crate::sys::dispositions;
use crate::sys::fd::{self, Bell};
use crate::sys::listener::listen_everywhere;
use crate::sys::process::{monotonic, poll_timeout, since_1970};
use crate::sys::signals::Inbox;

/// How many clients are heard at once; others wait in the kernel's queue.
const CLIENTS: usize = 32;
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

/// The server; it stops when this is dropped.
pub struct Health {
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
    pub port: u16,
}

impl Health {
    /// On all addresses of this machine: whoever checks is seldom on it. A loop that has not turned for
    /// `limit` is not well.
    pub fn start(
        port: u16,
        limit: Duration,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
    ) -> Result<Health, Error> {
        let failed = |errno: Errno| Error::system(format!("cannot listen on port {port}"), errno as i32);
        let (listener, port) = listen_everywhere(port).map_err(failed)?;
        let stop = Arc::new(Bell::new().map_err(failed)?);
        let mut server = Server { stop: stop.clone(), listener, limit, inbox, shared, clients: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("ice-health".into())
            .spawn(move || {
                dispositions::block_all();
                server.serve();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Health { stop, thread: Some(thread), port })
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
    stream: TcpStream,
    request: Vec<u8>,
    /// Until when it is heard, or, once it has asked, waits for the loop.
    deadline: Duration,
    asked: Option<Duration>,
}

struct Server {
    stop: Arc<Bell>,
    listener: OwnedFd,
    limit: Duration,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    clients: Vec<Client>,
}

impl Server {
    fn serve(&mut self) {
        loop {
            let mut items = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            if self.clients.len() < CLIENTS {
                items.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
            }
            let reading = self.clients.iter().filter(|client| client.asked.is_none());
            items.extend(reading.map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)));
            let timeout = self.next_deadline().map_or(PollTimeout::NONE, poll_timeout);
            let _ = poll(&mut items, timeout);
            if items[0].any().unwrap_or(false) {
                return;
            }
            drop(items);
            self.accept();
            let clients = std::mem::take(&mut self.clients);
            self.clients = clients.into_iter().filter_map(|client| self.attend(client)).collect();
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let left = |client: &Client| match client.asked {
            Some(_) => LOOK_FOR_ANSWER,
            None => client.deadline.saturating_sub(monotonic()),
        };
        self.clients.iter().map(left).min()
    }

    fn accept(&mut self) {
        while self.clients.len() < CLIENTS {
            let Ok(stream) = fd::accept(self.listener.as_raw_fd()) else { return };
            let deadline = monotonic() + CLIENT_TIME;
            self.clients.push(Client { stream: stream.into(), request: Vec::new(), deadline, asked: None });
        }
    }

    /// Reads, or answers; none once it is done with.
    fn attend(&self, mut client: Client) -> Option<Client> {
        if client.asked.is_none() {
            match read(&mut client) {
                Some(true) => {}
                Some(false) if monotonic() < client.deadline => return Some(client),
                _ => return None,
            }
            if !(client.request.starts_with(b"GET ") || client.request.starts_with(b"HEAD ")) {
                answer(&mut client.stream, "400 Bad Request", "only GET is understood here\n");
                return None;
            }
            // An idle loop sleeps until somebody wants something of it.
            client.asked = Some(monotonic());
            client.deadline = monotonic() + ANSWER_TIME;
            self.inbox.knock();
        }
        let (last, now) = (self.shared.pulse.last(), monotonic());
        if client.asked.is_some_and(|asked| last < asked) && now < client.deadline {
            return Some(client);
        }
        let age = now.saturating_sub(last);
        let (state, attempt) = {
            let snapshot = self.shared.snapshot.lock();
            (snapshot.state, snapshot.attempt)
        };
        let body = json!({
            "last_progress": since_1970().saturating_sub(age).as_secs(),
            "seconds_since": age.as_secs_f64(),
            "state": state.name(),
            "agent_restarts": attempt,
        });
        let status = if age > self.limit { "503 Service Unavailable" } else { "200 OK" };
        answer(&mut client.stream, status, &format!("{body}\n"));
        None
    }
}

/// Whether the head of the request is there; none if the client is gone.
fn read(client: &mut Client) -> Option<bool> {
    let mut buffer = [0; REQUEST];
    loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => client.request.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(false),
            Err(_) => return None,
        }
        let ends = |end: &[u8]| memchr::memmem::find(&client.request, end).is_some();
        if ends(b"\r\n\r\n") || ends(b"\n\n") || client.request.len() >= REQUEST {
            return Some(true);
        }
    }
}

/// It fits into the socket's buffer; a client that takes none of it gets none.
fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + body).as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
