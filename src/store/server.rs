//! The server: one thread that waits for all its clients at once, and for none of them.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{SockaddrStorage, getpeername};
use parking_lot::{Condvar, Mutex};

use super::arrivals::{self, Arrivals};
use super::connection::timed_out;
use super::counts::Counts;
use super::losses::Losses;
use super::newcomers::{self, Newcomers, Origin};
use super::secret::{Door, Lock, Secret};
use super::session::{Session, Shared};
use super::set_up;
use super::table::{Answers, Client, Table};
use super::wire::Limits;
use crate::error::Error;
use crate::sys::dispositions;
use crate::sys::fd::{Bell, TIME_TO_ACCEPT, above_stdio, accept, is_shortage};
use crate::sys::limits;
use crate::sys::listener::{ip_of, listen_at, listen_everywhere, listen_now};
use crate::sys::process::milliseconds;
use crate::sys::random;

/// How many bytes a store may take if nobody says otherwise.
pub const DEFAULT_MEMORY: usize = 1 << 30;

/// How many descriptors a store leaves to the rest of its process if nobody says otherwise.
const DEFAULT_RESERVE: usize = 64;

const SCRATCH: usize = 64 << 10;
const STACK: usize = 256 << 10;

/// What a server is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// An address of this host, or a name of one, to listen on; all of them if there is none.
    pub address: Option<String>,
    /// 0 is any free one.
    pub port: u16,
    /// How many bytes keys, values, queues and waits may take. Requests and replies that are under way may take
    /// as much again.
    pub memory: usize,
    pub limits: Limits,
    /// What clients have to know, if anything. PyTorch's cannot.
    pub secret: Option<Secret>,
    /// A connection that has not begun as it must after so long is closed.
    pub time_to_validate: Duration,
    pub losses: Option<Losses>,
    /// How many descriptors are left to the rest of the process, if that is not too large a part of what it may
    /// have.
    pub reserve: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            address: None,
            port: 0,
            memory: DEFAULT_MEMORY,
            limits: Limits::default(),
            secret: None,
            time_to_validate: Duration::from_secs(60),
            losses: None,
            reserve: DEFAULT_RESERVE,
        }
    }
}

impl Config {
    /// In a process that is to start so many workers' descriptors again at any time.
    pub fn beside_workers(descriptors: usize) -> Config {
        Config { reserve: DEFAULT_RESERVE + descriptors, ..Config::default() }
    }
}

/// A store that serves until it is dropped, which closes all connections.
pub struct Server {
    pid: u32,
    port: u16,
    counts: Arc<Counts>,
    line: Arc<Line>,
    thread: Option<JoinHandle<()>>,
}

/// Between the handle and the thread.
struct Line {
    bell: Bell,
    ends: AtomicBool,
    arrivals: Arrivals,
    orders: Mutex<Orders>,
    /// An order was followed, or a client came or went.
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    /// What the keys that stay begin with.
    keep_only: Option<Vec<u8>>,
    clients: usize,
}

impl Server {
    pub fn start(config: &Config) -> Result<Server, Error> {
        Server::serve(listen_on(config.address.as_deref(), config.port)?, config)
    }

    /// On a socket of TCP that is bound, whether it listens already or not: it has the address and the port, those
    /// of `config` are not looked at.
    pub fn start_on(socket: OwnedFd, config: &Config) -> Result<Server, Error> {
        let listening = listen_now(&socket);
        let port =
            listening.map_err(|errno| Error::system("cannot listen on a bound socket", errno as i32))?;
        Server::serve((socket, port), config)
    }

    fn serve((listener, port): (OwnedFd, u16), config: &Config) -> Result<Server, Error> {
        let failed = |errno: Errno| Error::system("cannot make a store's server", errno as i32);
        let line = Arc::new(Line {
            bell: Bell::new().map_err(failed)?,
            ends: AtomicBool::new(false),
            arrivals: Arrivals::default(),
            orders: Mutex::default(),
            changed: Condvar::new(),
        });
        let counts = Arc::new(Counts::default());
        let mut service = Service::new(config, listener, line.clone(), counts.clone()).map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("ice-store".into())
            .stack_size(STACK)
            .spawn(move || {
                dispositions::block_all();
                service.run();
                // Nothing is to be waited for any more.
                *service.line.orders.lock() = Orders::default();
                service.line.changed.notify_all();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Server { pid: std::process::id(), port, counts, line, thread: Some(thread) })
    }

    /// Refuses a handle in a forked copy of its process.
    pub fn check_process(&self) -> Result<(), Error> {
        if self.pid == std::process::id() { Ok(()) } else { Err(Error::Forked { handle: "store's server" }) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until `count` clients have counted themselves.
    pub fn wait_for_workers(&self, count: i64, limit: Option<Duration>) -> Result<(), Error> {
        match self.line.arrivals.wait(count, limit, || self.line.bell.ring()) {
            came if came < count => Err(timed_out(&format!("{came} of {count} workers came to the store"))),
            _ => Ok(()),
        }
    }

    /// What it has done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Forgets all keys that do not begin so, as clients see them.
    pub fn keep_only(&self, prefix: &[u8]) {
        let mut orders = self.line.orders.lock();
        orders.keep_only = Some([b"/", prefix].concat());
        self.line.bell.ring();
        while orders.keep_only.is_some() {
            self.line.changed.wait(&mut orders);
        }
    }

    /// Waits until no client is left, or until then; whether that is so.
    pub fn is_left_by_all(&self, until: Instant) -> bool {
        let mut orders = self.line.orders.lock();
        while orders.clients > 0 {
            if self.line.changed.wait_until(&mut orders, until).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let thread = self.thread.take();
        if self.check_process().is_ok() {
            self.line.ends.store(true, Ordering::Release);
            self.line.bell.ring();
            let _ = thread.map(JoinHandle::join);
        } else {
            std::mem::forget(thread);
        }
    }
}

/// A socket that listens, and its port.
fn listen_on(address: Option<&str>, port: u16) -> Result<(OwnedFd, u16), Error> {
    let failed = |name: &str, errno: Errno| {
        Error::system(format!("cannot listen on port {port} of {name}"), errno as i32)
    };
    let Some(name) = address else {
        return listen_everywhere(port).map_err(|errno| failed("all addresses", errno));
    };
    let found = (name, port).to_socket_addrs();
    let addresses = found.map_err(|error| {
        Error::config("address", name, format!("must be an address of this host, or a name of one: {error}"))
    })?;
    let mut result = Err(Errno::EADDRNOTAVAIL);
    for address in addresses {
        result = listen_at(address);
        if result.is_ok() {
            break;
        }
    }
    result.map_err(|errno| failed(name, errno))
}

/// Who is at the other end.
fn peer(socket: &OwnedFd) -> Origin {
    let address: SockaddrStorage = getpeername(socket.as_raw_fd()).ok()?;
    ip_of(&address).map(newcomers::network)
}

fn is_newcomer(sessions: &HashMap<Client, Session>, client: Client) -> bool {
    sessions.get(&client).is_some_and(|session| !session.is_validated())
}

const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// What the thread has.
struct Service {
    epoll: Epoll,
    listener: OwnedFd,
    line: Arc<Line>,
    limits: Limits,
    secret: Option<Secret>,
    time_to_validate: Duration,
    reserve: usize,
    shared: Shared,
    sessions: HashMap<Client, Session>,
    next_client: Client,
    /// Those that may not have begun yet.
    newcomers: Newcomers,
    /// When to accept again, if there was no descriptor left for a client.
    accept_at: Option<Instant>,
    /// What all connections hold, and may hold.
    buffered: usize,
    memory: usize,
}

impl Service {
    fn new(
        config: &Config,
        listener: OwnedFd,
        line: Arc<Line>,
        counts: Arc<Counts>,
    ) -> Result<Service, Errno> {
        let epoll = Epoll(above_stdio(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0)?);
        epoll.add(&line.bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Service {
            epoll,
            listener,
            line,
            limits: config.limits,
            secret: config.secret.clone(),
            time_to_validate: config.time_to_validate,
            reserve: config.reserve,
            shared: Shared {
                losses: config.losses.clone(),
                table: Table::new(config.memory),
                answers: Answers::new(config.memory),
                scratch: vec![0; SCRATCH].into(),
                counts,
            },
            sessions: HashMap::new(),
            next_client: 0,
            newcomers: Newcomers::default(),
            accept_at: None,
            buffered: 0,
            memory: config.memory,
        })
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let count = match self.epoll.wait(&mut events, self.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // Nothing can be served any more: the clients are to know.
                Err(_) => return,
            };
            for event in &events[..count] {
                match event.data() {
                    BELL if self.line.ends.load(Ordering::Acquire) => return,
                    BELL => self.take_orders(),
                    LISTENER => self.accept(),
                    client => self.serve(client),
                }
            }
            if self.line.arrivals.are_awaited() {
                self.line.arrivals.tell(self.shared.table.number(arrivals::KEY));
            }
            if self.accept_at.is_some() || !self.newcomers.is_empty() {
                self.on_time(Instant::now());
            }
        }
    }

    fn take_orders(&mut self) {
        self.line.bell.quiet();
        let mut orders = self.line.orders.lock();
        if let Some(prefix) = &orders.keep_only {
            self.shared.table.keep_only(prefix);
            orders.keep_only = None;
            self.line.changed.notify_all();
        }
    }

    fn count_clients(&self) {
        self.line.orders.lock().clients = self.sessions.len();
        self.line.changed.notify_all();
    }

    /// How long nothing needs to be done if nothing happens.
    fn patience(&self) -> EpollTimeout {
        let Some(next) = self.newcomers.next_deadline().into_iter().chain(self.accept_at).min() else {
            return EpollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(milliseconds(left)).unwrap_or(EpollTimeout::NONE)
    }

    fn on_time(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            if self.epoll.add(&self.listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).is_err() {
                self.accept_at = Some(now + TIME_TO_ACCEPT);
            }
        }
        while let Some(client) = self.newcomers.pop_late(now, |client| is_newcomer(&self.sessions, client)) {
            self.refuse(client);
        }
        self.wake();
    }

    fn accept(&mut self) {
        // The others have their turn, too.
        for _ in 0..64 {
            if !self.has_room() {
                return self.pause();
            }
            match accept(self.listener.as_raw_fd()).and_then(|socket| self.begin(socket)) {
                Ok(()) => self.shared.counts.count_connection(),
                Err(Errno::EAGAIN) => return,
                Err(errno) if is_shortage(errno) => return self.pause(),
                // One that knocked and went away again.
                Err(_) => {}
            }
        }
    }

    /// Those who knock stay in the queue; asking at once again would be a busy loop.
    fn pause(&mut self) {
        if self.epoll.delete(&self.listener).is_ok() {
            self.accept_at = Some(Instant::now() + TIME_TO_ACCEPT);
        }
    }

    /// Whether one more may come, once those have gone who have no right to their place: strangers who say nothing
    /// must not take the descriptors that workers are started with, nor the places of those who belong here.
    fn has_room(&mut self) -> bool {
        let allowed = limits::allowed();
        if self.newcomers.may_be_too_many(allowed) {
            self.forget_those_who_have_begun();
            while let Some(client) = self.newcomers.too_many(allowed) {
                self.dismiss(client);
            }
        }
        loop {
            if limits::has_room_beside(self.reserve, self.listener.as_raw_fd()) {
                return true;
            }
            self.forget_those_who_have_begun();
            let Some(client) = self.newcomers.one_of_the_crowd() else { return false };
            self.dismiss(client);
        }
    }

    /// Closes a newcomer, unless it turns out that it has begun.
    fn dismiss(&mut self, client: Client) {
        self.serve(client);
        if is_newcomer(&self.sessions, client) {
            self.refuse(client);
        }
        self.forget_those_who_have_begun();
    }

    fn forget_those_who_have_begun(&mut self) {
        self.newcomers.retain(|client| is_newcomer(&self.sessions, client));
    }

    fn refuse(&mut self, client: Client) {
        self.shared.counts.count_refusal();
        self.close(client);
    }

    fn begin(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        set_up(&socket)?;
        let origin = peer(&socket);
        let lock = |secret: &Secret| Ok(Lock { secret: secret.clone(), nonce: random::bytes()? });
        let door = Door::new(self.secret.as_ref().map(lock).transpose()?);
        let client = self.next_client;
        self.next_client += 1;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, client))?;
        self.sessions.insert(client, Session::new(client, socket, door, self.limits));
        self.count_clients();
        self.newcomers.push(client, origin, Instant::now() + self.time_to_validate);
        Ok(())
    }

    fn serve(&mut self, client: Client) {
        self.with(client, |session, shared| session.serve(shared).is_ok());
        self.wake();
    }

    /// Tells those whose wait is over, in their order.
    fn wake(&mut self) {
        // One that turns out to be gone may leave its wake-up to another.
        while !self.shared.answers.woken.is_empty() {
            for client in std::mem::take(&mut self.shared.answers.woken) {
                self.with(client, |session, _| session.wake().is_ok());
            }
        }
    }

    /// Lets a connection do something, then sees to what it waits for; closes it if it cannot go on.
    fn with(&mut self, client: Client, act: impl FnOnce(&mut Session, &mut Shared) -> bool) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let (bytes, interest) = (session.bytes(), session.interest());
        self.shared.answers.room = self.memory.saturating_sub(self.buffered);
        let mut goes_on = act(session, &mut self.shared);
        self.buffered = self.buffered + session.bytes() - bytes;
        if session.interest() != interest {
            let mut event = EpollEvent::new(session.interest(), client);
            goes_on &= self.epoll.modify(&*session, &mut event).is_ok();
        }
        // If all buffers together are over the limit, the connection that has just grown is closed.
        if self.buffered > self.memory && session.bytes() > bytes {
            self.shared.counts.count_refusal();
            goes_on = false;
        }
        if !goes_on {
            self.close(client);
        }
    }

    fn close(&mut self, client: Client) {
        if let Some(session) = self.sessions.remove(&client) {
            self.buffered -= session.bytes();
            // A forked copy of the host may have the same socket still.
            let _ = self.epoll.delete(&session);
            self.shared.table.forget(client, &mut self.shared.answers);
            self.count_clients();
            self.tell_of_loss(session.signature());
        }
    }

    fn tell_of_loss(&self, signature: Option<&[u8]>) {
        let (Some(losses), Some(key)) = (&self.shared.losses, signature) else { return };
        let is_back = self.sessions.values().any(|other| other.signature() == Some(key));
        if self.shared.table.has(key) && !is_back {
            losses.tell(key, self.shared.table.number(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::super::client::Client;
    use super::super::wire::Opcode;
    use super::*;

    fn server() -> Server {
        let config = Config {
            address: Some("127.0.0.1".into()),
            time_to_validate: Duration::from_millis(50),
            ..Config::default()
        };
        Server::start(&config).unwrap()
    }

    #[test]
    fn who_says_nothing_is_closed_and_others_stay() {
        let server = server();
        let connect = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        };
        let mut validated = connect(&[0, 0xce, 0xf7, 0x85, 0x3c]);
        for bytes in [&[][..], &[0], &[0, 0xce, 0xf7]] {
            assert_eq!(connect(bytes).read(&mut [0; 8]).unwrap(), 0);
        }
        validated.write_all(&[13, 1, 2, 3, 4]).unwrap();
        validated.read_exact(&mut [0; 4]).unwrap();
    }

    #[test]
    fn a_server_for_each_attempt_is_cheap_and_leaves_its_port() {
        let port = server().port();
        let mut took = Vec::new();
        for _ in 0..300 {
            let begin = Instant::now();
            let config = Config { address: Some("127.0.0.1".into()), port, ..Config::default() };
            let server = Server::start(&config).unwrap();
            let started = begin.elapsed();
            let client = Client::connect("127.0.0.1", port, Some(Duration::from_secs(20))).unwrap();
            client.set(b"k", b"v").unwrap();
            assert_eq!(client.num_keys(), Ok(1), "nothing of the one before");
            let begin = Instant::now();
            // It closes first: its end of the connection is the one that lingers.
            drop(server);
            took.push(started + begin.elapsed());
        }
        took.sort();
        assert!(took[150] < Duration::from_millis(10), "{:?}", took[150]);
    }

    #[test]
    fn it_takes_over_a_socket_that_is_bound() {
        for listens in [false, true] {
            let (socket, port) = listen_at("127.0.0.1:0".parse().unwrap()).unwrap();
            let socket = match listens {
                true => socket,
                false => {
                    drop(socket);
                    bound(port)
                }
            };
            let server = Server::start_on(socket, &Config::default()).unwrap();
            assert_eq!(server.port(), port);
            let client = Client::connect("127.0.0.1", port, Some(Duration::from_secs(20))).unwrap();
            assert_eq!(client.num_keys(), Ok(0));
        }
        let pipe = Bell::new().unwrap();
        let no_socket = crate::sys::fd::duplicate(pipe.as_raw_fd()).unwrap();
        assert!(matches!(Server::start_on(no_socket, &Config::default()), Err(Error::System { .. })));
    }

    /// A port that is kept, as that for the workers of an agent is.
    fn bound(port: u16) -> OwnedFd {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
        };
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
        socket
    }

    #[test]
    fn it_counts_what_it_does() {
        let server = server();
        let client = Client::connect("127.0.0.1", server.port(), Some(Duration::from_secs(20))).unwrap();
        for number in 0..5 {
            client.set(b"k", b"v").unwrap();
            client.add(b"n", number).unwrap();
        }
        client.wait(&[b"k"], None).unwrap();
        let counts = server.counts();
        let of = [Opcode::Validate, Opcode::Set, Opcode::Add, Opcode::Wait, Opcode::Get];
        assert_eq!(of.map(|opcode| counts.requests(opcode)), [1, 5, 5, 1, 0]);
        // With the PING and the QUEUE_LEN of the client's beginning.
        assert_eq!((counts.connections(), counts.all_requests()), (1, 14));
    }
}
