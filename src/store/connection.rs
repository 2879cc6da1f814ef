//! A client's connection: requests go out, answers come in, each with a deadline. After an answer that is not
//! right, or not there in time, nothing more is asked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use super::client::Options;
use super::interrupt::Interrupter;
use super::secret::{self, Nonce, Proof, Secret};
use super::set_up;
use super::wire::{self, ALL_PRESENT, CANCELLED, NOT_ALL_PRESENT, Request, Strings, WAITED};
use crate::error::Error;
use crate::sys::fd::above_stdio;
use crate::sys::process::poll_timeout;
use crate::sys::random;

/// Between two tries to connect: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// What is read at once.
const CHUNK: usize = 16 << 10;

/// None is never.
pub type Deadline = Option<Instant>;

pub fn deadline(limit: Option<Duration>) -> Deadline {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

pub fn timed_out(what: &str) -> Error {
    Error::Timeout { what: format!("the time-out passed: {what}") }
}

/// The socket, and what was read from it.
pub struct Connection {
    stream: Arc<TcpStream>,
    interrupter: Interrupter,
    /// `host:port`, for messages.
    peer: String,
    /// Not PyTorch's older server: it has queues, and answers a GET of what is not there.
    pub is_modern: bool,
    /// When the answer to the request under way must be there.
    pub deadline: Deadline,
    /// The time-outs that the socket has: set again only when they change.
    timeouts: [Option<Duration>; 2],
    request: Vec<u8>,
    buffer: Box<[u8]>,
    /// What of the buffer was not taken yet.
    unread: std::ops::Range<usize>,
    /// Why nothing can be asked any more: an answer may still come that nobody waits for.
    pub broken: Option<Error>,
}

impl Connection {
    /// Connects, and tries again until the time is over.
    pub fn open(host: &str, port: u16, options: &Options) -> Result<Connection, Error> {
        let deadline = deadline(options.timeout);
        let (mut pause, longest) = PAUSES;
        loop {
            let tried = Connection::try_open(host, port, deadline, options);
            if options.interrupter.is_interrupted() {
                return Err(interrupted(&format!("{host}:{port}")));
            }
            let why = match tried {
                Err(why) if !is_final(&why) => why,
                _ => return tried,
            };
            let left =
                deadline.map_or(longest, |deadline| deadline.saturating_duration_since(Instant::now()));
            if deadline.is_some() && left.is_zero() {
                return Err(timed_out(&format!("cannot connect to the store at {host}:{port}: {why}")));
            }
            // Nobody tells when a port of another host is listened on.
            options.interrupter.pause(pause.min(left));
            pause = (pause * 2).min(longest);
        }
    }

    fn try_open(host: &str, port: u16, deadline: Deadline, options: &Options) -> Result<Connection, Error> {
        let failed = |error: io::Error| Error::Store { what: error.to_string() };
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(failed)?.collect();
        let mut why = Error::Store { what: "the name has no address".into() };
        for (tried, address) in addresses.iter().enumerate() {
            // One that does not answer leaves time for the others.
            let now = Instant::now();
            let share = (addresses.len() - tried) as u32;
            let by = deadline.map(|deadline| now + deadline.saturating_duration_since(now) / share);
            let opened = Connection::begin_at(address, host, by, options);
            match opened {
                Err(why) if is_final(&why) => return Err(why),
                Ok(connection) => return Ok(connection),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Connects to one address, and finds out what is there.
    fn begin_at(
        address: &SocketAddr,
        host: &str,
        by: Deadline,
        options: &Options,
    ) -> Result<Connection, Error> {
        let greet = |secret, modern| {
            let stream = connect_to(address, by, &options.interrupter)?;
            Connection::greet(stream, (secret, &options.interrupter), host, modern, by)
        };
        // The older server closes the connection at the question that tells the two apart.
        let without = || match greet(None, true) {
            Err(why) if !is_final(&why) => greet(None, false),
            opened => opened,
        };
        let Some(secret) = &options.secret else { return without() };
        match greet(Some(secret), true) {
            Err(why @ (Error::Store { .. } | Error::Config { .. })) if options.or_without_secret => {
                match without() {
                    // It has one after all: there was another reason.
                    Err(Error::Config { .. }) => Err(why),
                    opened => opened,
                }
            }
            opened => opened,
        }
    }

    /// Begins the conversation; with `modern` the first message has a question for a server that knows queues.
    fn greet(
        stream: Arc<TcpStream>,
        (secret, interrupter): (Option<&Secret>, &Interrupter),
        host: &str,
        modern: bool,
        by: Deadline,
    ) -> Result<Connection, Error> {
        let port = stream.peer_addr().map_or(0, |address| address.port());
        let mut connection = Connection {
            stream,
            interrupter: interrupter.clone(),
            peer: format!("{host}:{port}"),
            is_modern: modern,
            deadline: by,
            timeouts: [None; 2],
            request: Vec::new(),
            buffer: vec![0; CHUNK].into(),
            unread: 0..0,
            broken: None,
        };
        let nonce = std::process::id();
        let challenge = secret.map(|secret| connection.show(secret)).transpose()?;
        // All in one message: PyTorch's server does not take VALIDATE in two parts.
        Request::Validate { magic: wire::MAGIC }.put(&mut connection.request);
        Request::Ping { nonce }.put(&mut connection.request);
        if modern {
            Request::QueueLength { key: b"" }.put(&mut connection.request);
        }
        connection.send_request()?;
        if let (Some(secret), Some(nonces)) = (secret, challenge) {
            connection.check_server(secret, nonces)?;
        }
        match connection.read::<4>()? {
            pong if pong == nonce.to_le_bytes() => {}
            secret::WANTED => return Err(connection.refused(None, "has one that its clients must know")),
            _ => return Err(connection.out_of_step("does not answer as a store")),
        }
        if modern {
            connection.number()?;
        }
        Ok(connection)
    }

    /// Begins as a client with a secret, and writes what shows it to the request that follows. Returns its nonce and
    /// the server's.
    fn show(&mut self, secret: &Secret) -> Result<[Nonce; 2], Error> {
        let failed = |errno| Error::system("no random bytes for the store's secret", errno as i32);
        let own: Nonce = random::bytes().map_err(failed)?;
        secret::hello(&own, &mut self.request);
        self.send_request()?;
        let answer = self.is_let_in().map_err(|why| match why {
            Error::Store { what } => Error::Store {
                what: format!("{what} to a client with a secret: PyTorch's servers have none"),
            },
            why => why,
        });
        if !answer? {
            return Err(self.refused(Some(secret), "has none"));
        }
        let servers: Nonce = self.read()?;
        self.request.clear();
        self.request.extend_from_slice(&secret.proof_of_client(&own, &servers));
        Ok([own, servers])
    }

    fn check_server(&mut self, secret: &Secret, [own, servers]: [Nonce; 2]) -> Result<(), Error> {
        if !self.is_let_in()? {
            return Err(self.refused(Some(secret), "has another one"));
        }
        let proof: Proof = self.read()?;
        match secret.is_servers_proof(&proof, &own, &servers) {
            true => Ok(()),
            false => Err(self.refused(Some(secret), "takes it without knowing it")),
        }
    }

    fn is_let_in(&mut self) -> Result<bool, Error> {
        self.read::<1>().map(|[answer]| secret::is_yes(answer))
    }

    fn refused(&self, secret: Option<&Secret>, why: &str) -> Error {
        Secret::refused(secret, format!("the store at {} {why}", self.peer))
    }

    /// Sends a request whose answer, if any, is to be there at `deadline`.
    pub fn begin(&mut self, request: Request<'_>, deadline: Deadline) -> Result<(), Error> {
        self.deadline = deadline;
        self.send(request)
    }

    pub fn send(&mut self, request: Request<'_>) -> Result<(), Error> {
        self.request.clear();
        request.put(&mut self.request);
        self.send_request()?;
        self.request.shrink_to(CHUNK);
        Ok(())
    }

    fn send_request(&mut self) -> Result<(), Error> {
        let mut sent = 0;
        while sent < self.request.len() {
            self.set_timeout(1)?;
            match (&*self.stream).write(&self.request[sent..]) {
                Ok(length) => sent += length,
                Err(error) => self.check_error(error)?,
            }
        }
        Ok(())
    }

    /// Whether all keys of a list are there.
    pub fn check(&mut self, list: &[u8]) -> Result<bool, Error> {
        self.send(Request::Check { keys: Strings::new(list) })?;
        match self.read::<1>()? {
            [ALL_PRESENT] => Ok(true),
            [NOT_ALL_PRESENT] => Ok(false),
            _ => Err(self.out_of_step("does not answer as a store")),
        }
    }

    /// The answer to WAIT or BARRIER: false if it did not come in time, and will not.
    pub fn waited(&mut self, deadline: Deadline, patience: Option<Duration>) -> Result<bool, Error> {
        self.deadline = deadline;
        if self.fill(1, Late::IsNoError)? {
            return self.wait_answer().map(|_| true);
        }
        self.begin(Request::CancelWait, self::deadline(patience))?;
        let mut waited = false;
        while self.wait_answer()? != CANCELLED {
            // It came at the last moment.
            waited = true;
        }
        Ok(waited)
    }

    /// The same, and not in time once the bell has rung.
    pub fn waited_or(
        &mut self,
        until: Instant,
        bell: BorrowedFd,
        patience: Option<Duration>,
    ) -> Result<bool, Error> {
        let mut answered = !self.unread.is_empty();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut items =
                [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN), PollFd::new(bell, PollFlags::POLLIN)];
            match poll(&mut items, poll_timeout(left)) {
                Ok(0) if !left.is_zero() => continue,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(self.out_of_step(&format!("cannot be waited for: {errno}"))),
                Ok(_) => answered |= items[0].any().unwrap_or(true),
            }
            break;
        }
        // Of what has not begun to come nothing is waited for.
        let deadline = if answered { self::deadline(patience) } else { Some(Instant::now()) };
        self.waited(deadline, patience)
    }

    fn wait_answer(&mut self) -> Result<u8, Error> {
        match self.read::<1>()? {
            [answer @ (WAITED | CANCELLED)] => Ok(answer),
            _ => Err(self.out_of_step("does not answer as a store")),
        }
    }

    /// The next answer, a number.
    pub fn number(&mut self) -> Result<i64, Error> {
        self.read::<8>().map(i64::from_le_bytes)
    }

    /// The next answer, a string.
    pub fn string(&mut self) -> Result<Vec<u8>, Error> {
        let length = self.number()? as u64;
        let mut string = Vec::new();
        while (string.len() as u64) < length {
            self.fill(1, Late::IsAnError)?;
            let take = (length - string.len() as u64).min(self.unread.len() as u64) as usize;
            string.extend_from_slice(&self.buffer[self.unread.start..self.unread.start + take]);
            self.unread.start += take;
        }
        Ok(string)
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.fill(N, Late::IsAnError)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.buffer[self.unread.start..self.unread.start + N]);
        self.unread.start += N;
        Ok(bytes)
    }

    /// Reads until so many bytes are there. False if they do not come in time and that is no error.
    fn fill(&mut self, count: usize, late: Late) -> Result<bool, Error> {
        while self.unread.len() < count {
            if self.unread.is_empty() {
                self.unread = 0..0;
            } else if self.unread.start + count > self.buffer.len() {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
            }
            if late == Late::IsNoError && self.deadline.is_some_and(|by| by <= Instant::now()) {
                return Ok(false);
            }
            self.set_timeout(0)?;
            match (&*self.stream).read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => return Err(self.out_of_step("has closed the connection")),
                Ok(length) => self.unread.end += length,
                Err(error) if late == Late::IsNoError && is_timeout(&error) => {}
                Err(error) => self.check_error(error)?,
            }
        }
        Ok(true)
    }

    /// The time-out of the socket's reading (0) or writing (1).
    fn set_timeout(&mut self, way: usize) -> Result<(), Error> {
        // Whole milliseconds, and a shorter one will do: requests one after the other find it set. The deadline is
        // looked at after each time-out.
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Duration::from_millis(left.as_millis().clamp(1, 1 << 40) as u64));
        let fits = match (self.timeouts[way], timeout) {
            (Some(has), Some(wanted)) => has <= wanted && wanted - has <= wanted / 4,
            (has, wanted) => has == wanted,
        };
        if !fits {
            let set = if way == 0 { TcpStream::set_read_timeout } else { TcpStream::set_write_timeout };
            set(&self.stream, timeout).map_err(|error| self.out_of_step(&error.to_string()))?;
            self.timeouts[way] = timeout;
        }
        Ok(())
    }

    /// Goes on after an interruption, and after a time-out of the socket before the deadline.
    fn check_error(&mut self, error: io::Error) -> Result<(), Error> {
        let late = self.deadline.is_some_and(|by| by <= Instant::now());
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            _ if is_timeout(&error) && !late => Ok(()),
            _ if is_timeout(&error) => Err(self.out_of_step("does not answer in time")),
            _ => Err(self.out_of_step(&format!("is lost: {error}"))),
        }
    }

    /// Its own address, and that of the server.
    pub fn addresses(&self) -> Result<(IpAddr, IpAddr), Error> {
        let failed = |error: io::Error| Error::Store { what: error.to_string() };
        let (local, peer) = (self.stream.local_addr(), self.stream.peer_addr());
        Ok((local.map_err(failed)?.ip().to_canonical(), peer.map_err(failed)?.ip().to_canonical()))
    }

    pub fn needs_queues(&self) -> Result<(), Error> {
        match self.is_modern {
            true => Ok(()),
            false => Err(Error::Store {
                what: format!("the store at {} has no queues: it is PyTorch's older server", self.peer),
            }),
        }
    }

    /// From now on every call on this connection fails with this.
    fn out_of_step(&mut self, why: &str) -> Error {
        let error = match self.interrupter.is_interrupted() {
            true => interrupted(&self.peer),
            false => Error::Store { what: format!("the store at {} {why}", self.peer) },
        };
        self.broken = Some(error.clone());
        error
    }
}

/// Whether a further try would come to the same.
fn is_final(why: &Error) -> bool {
    matches!(why, Error::Config { .. } | Error::System { .. } | Error::Interrupted { .. })
}

fn interrupted(peer: &str) -> Error {
    Error::Interrupted { what: format!("the connection to the store at {peer} was interrupted") }
}

pub fn connect_to(
    address: &SocketAddr,
    by: Deadline,
    interrupter: &Interrupter,
) -> Result<Arc<TcpStream>, Error> {
    let failed = |error: io::Error| Error::Store { what: error.to_string() };
    let stream = begin_to_connect(address, interrupter).map_err(|errno| match errno {
        // It is this process that lacks something.
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
            Error::system(format!("no socket for the store at {address}"), errno as i32)
        }
        errno => failed(errno.into()),
    })?;
    loop {
        let left = by.map(|by| by.saturating_duration_since(Instant::now()));
        let patience = left.map_or(PollTimeout::NONE, poll_timeout);
        match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], patience) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Err(failed(Errno::ETIMEDOUT.into())),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    stream.take_error().and_then(|error| error.map_or(Ok(()), Err)).map_err(failed)?;
    stream.set_nonblocking(false).map_err(failed)?;
    set_up(&*stream).map_err(|errno| failed(errno.into()))?;
    Ok(stream)
}

/// A socket that is about to be connected.
fn begin_to_connect(address: &SocketAddr, interrupter: &Interrupter) -> Result<Arc<TcpStream>, Errno> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = above_stdio(socket(family, SockType::Stream, flags, None)?)?;
    let stream = Arc::new(TcpStream::from(socket));
    let begin = || connect(stream.as_raw_fd(), &SockaddrStorage::from(*address));
    match interrupter.watch(&stream, begin).unwrap_or(Err(Errno::ECONNABORTED)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
        Err(errno) => Err(errno),
    }
}

/// What it means if bytes do not come in time.
#[derive(Clone, Copy, PartialEq)]
enum Late {
    IsAnError,
    IsNoError,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
