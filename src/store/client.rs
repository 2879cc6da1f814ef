//! The client: of our server and of any TCPStore server of PyTorch, the older one too.
//!
//! One connection, one request at a time. Every answer is waited for with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::set_up;
use super::wire::{self, ALL_PRESENT, CANCELLED, Limits, NOT_ALL_PRESENT, Request, Strings, WAITED};
use crate::error::Error;
use crate::sys::fd::above_stdio;

/// Between two tries to connect: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// What is read at once.
const CHUNK: usize = 16 << 10;

/// None is never.
pub type Deadline = Option<Instant>;

pub fn deadline(limit: Option<Duration>) -> Deadline {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// A connection to a store. Clones, and clients with a prefix, share it.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Mutex<Connection>>,
    /// What stands before each key on the wire: PyTorch's clients begin all of theirs with a slash.
    prefix: Vec<u8>,
    /// How long an answer may take that comes at once.
    timeout: Option<Duration>,
    pid: u32,
}

impl Client {
    /// Connects, and tries again until the time is over: the server may begin to listen later. None for `timeout`
    /// is without a limit, here and for each answer after it.
    pub fn connect(host: &str, port: u16, timeout: Option<Duration>) -> Result<Client, Error> {
        let connection = Connection::open(host, port, timeout)?;
        Ok(Client {
            connection: Arc::new(Mutex::new(connection)),
            prefix: b"/".to_vec(),
            timeout,
            pid: std::process::id(),
        })
    }

    /// Refuses a handle in a forked copy of its process.
    pub fn check_process(&self) -> Result<(), Error> {
        if self.pid == std::process::id() { Ok(()) } else { Err(Error::Forked { handle: "store" }) }
    }

    /// The same store, with `prefix` and a slash before each key.
    pub fn with_prefix(&self, prefix: &[u8]) -> Client {
        Client { prefix: [&self.prefix[..], prefix, b"/"].concat(), ..self.clone() }
    }

    /// Returns when the request is on its way; the requests that follow it see it done.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let (key, value) = (&*self.key(key)?, check_value(value)?);
        self.ask(|connection| connection.send(Request::Set { key, value }))
    }

    /// As `set`.
    pub fn append(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let (key, value) = (&*self.key(key)?, check_value(value)?);
        self.ask(|connection| connection.send(Request::Append { key, value }))
    }

    /// As `set`; our server stores all of them at once.
    pub fn multi_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), Error> {
        check_count(pairs.len())?;
        let mut list = Vec::new();
        for (key, value) in pairs {
            wire::put_string(&self.key(key)?, &mut list);
            wire::put_string(check_value(value)?, &mut list);
        }
        self.ask(|connection| connection.send(Request::MultiSet { pairs: Strings::new(&list) }))
    }

    /// The value, once there is one.
    pub fn get(&self, key: &[u8], limit: Option<Duration>) -> Result<Vec<u8>, Error> {
        let deadline = deadline(limit);
        let wire_key = self.key(key)?;
        let mut connection = self.lock(deadline)?;
        if let Some(value) = self.look_up(&mut connection, &wire_key)? {
            return Ok(value);
        }
        self.wait_for(&mut connection, &list_of(&wire_key), &[key], deadline)?;
        connection.begin(Request::Get { key: &wire_key }, self.answer_by())?;
        connection.string()
    }

    /// The value, if there is one now.
    pub fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = self.key(key)?;
        let mut connection = self.lock(self.answer_by())?;
        self.look_up(&mut connection, &key)
    }

    fn look_up(&self, connection: &mut Connection, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let get = Request::Get { key };
        // One round trip for what is there and not empty. The older server would close the connection when it is
        // asked for what is not there.
        if connection.is_modern {
            connection.begin(get, self.answer_by())?;
            let value = connection.string()?;
            if !value.is_empty() {
                return Ok(Some(value));
            }
        }
        connection.deadline = self.answer_by();
        if !connection.check(&list_of(key))? {
            return Ok(None);
        }
        connection.begin(get, self.answer_by())?;
        connection.string().map(Some)
    }

    /// All the values, once there is one of each key.
    pub fn multi_get(&self, keys: &[&[u8]], limit: Option<Duration>) -> Result<Vec<Vec<u8>>, Error> {
        let deadline = deadline(limit);
        let list = self.list(keys)?;
        let mut connection = self.lock(deadline)?;
        self.wait_for(&mut connection, &list, keys, deadline)?;
        connection.begin(Request::MultiGet { keys: Strings::new(&list) }, self.answer_by())?;
        keys.iter().map(|_| connection.string()).collect()
    }

    /// Waits until each of the keys has been there at some time.
    pub fn wait(&self, keys: &[&[u8]], limit: Option<Duration>) -> Result<(), Error> {
        let deadline = deadline(limit);
        let list = self.list(keys)?;
        let mut connection = self.lock(deadline)?;
        self.wait_for(&mut connection, &list, keys, deadline)
    }

    /// Whether all of the keys are there.
    pub fn check(&self, keys: &[&[u8]]) -> Result<bool, Error> {
        let list = self.list(keys)?;
        self.ask(|connection| connection.check(&list))
    }

    /// Adds to the number at a key, 0 if it is not there, and returns the sum.
    pub fn add(&self, key: &[u8], delta: i64) -> Result<i64, Error> {
        let wire_key = self.key(key)?;
        self.ask(|connection| {
            connection.send(Request::Add { key: &wire_key, delta })?;
            connection.number()
        })
    }

    /// Stores `desired` if the value is `expected`, or if there is none and `expected` is empty. Returns the value
    /// that is there then; `expected` if there is none.
    pub fn compare_set(&self, key: &[u8], expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, Error> {
        let (key, expected, desired) = (&*self.key(key)?, check_value(expected)?, check_value(desired)?);
        self.ask(|connection| {
            connection.send(Request::CompareSet { key, expected, desired })?;
            connection.string()
        })
    }

    /// Whether it was there.
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let key = self.key(key)?;
        self.ask(|connection| {
            connection.send(Request::Delete { key: &key })?;
            Ok(connection.number()? != 0)
        })
    }

    /// How many keys the whole store has.
    pub fn num_keys(&self) -> Result<i64, Error> {
        self.ask(|connection| {
            connection.send(Request::CountKeys)?;
            connection.number()
        })
    }

    pub fn queue_push(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let (key, value) = (&*self.key(key)?, check_value(value)?);
        self.ask(|connection| {
            connection.needs_queues()?;
            connection.send(Request::QueuePush { key, value })
        })
    }

    /// The first item, once there is one.
    pub fn queue_pop(&self, key: &[u8], limit: Option<Duration>) -> Result<Vec<u8>, Error> {
        let deadline = deadline(limit);
        let wire_key = self.key(key)?;
        let mut connection = self.lock(deadline)?;
        connection.needs_queues()?;
        loop {
            connection.begin(Request::QueuePop { key: &wire_key }, self.answer_by())?;
            if connection.number()? > 0 {
                return connection.string();
            }
            // Somebody else may be quicker after the wait.
            self.wait_for(&mut connection, &list_of(&wire_key), &[key], deadline)?;
        }
    }

    pub fn queue_len(&self, key: &[u8]) -> Result<i64, Error> {
        let key = self.key(key)?;
        self.ask(|connection| {
            connection.needs_queues()?;
            connection.send(Request::QueueLength { key: &key })?;
            connection.number()
        })
    }

    /// Waits until `world_size` have come to the barrier of this key.
    pub fn barrier(&self, key: &[u8], world_size: usize, limit: Option<Duration>) -> Result<(), Error> {
        let deadline = deadline(limit);
        let wire_key = self.key(key)?;
        let mut connection = self.lock(deadline)?;
        connection
            .begin(Request::Barrier { key: &wire_key, world_size: world_size as i64 }, self.answer_by())?;
        match connection.waited(deadline, self.timeout)? {
            true => Ok(()),
            false => Err(timed_out(&format!("fewer than {world_size} came to the barrier {}", shown(key)))),
        }
    }

    /// A request whose answer, if any, comes at once.
    fn ask<T>(&self, act: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        let deadline = self.answer_by();
        let mut connection = self.lock(deadline)?;
        connection.deadline = deadline;
        act(&mut connection)
    }

    fn answer_by(&self) -> Deadline {
        deadline(self.timeout)
    }

    /// The connection, once no other thread has a call under way.
    fn lock(&self, deadline: Deadline) -> Result<MutexGuard<'_, Connection>, Error> {
        let locked = match deadline {
            Some(deadline) => self.connection.try_lock_until(deadline),
            None => Some(self.connection.lock()),
        };
        let connection = locked.ok_or_else(|| timed_out("another call on this store has not returned"))?;
        match &connection.broken {
            Some(why) => Err(why.clone()),
            None => Ok(connection),
        }
    }

    /// The wait of get, multi_get, wait and queue_pop. `keys` are for the message.
    fn wait_for(
        &self,
        connection: &mut Connection,
        list: &[u8],
        keys: &[&[u8]],
        deadline: Deadline,
    ) -> Result<(), Error> {
        let is_over = match deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            // No time to wait: a look.
            true => {
                connection.deadline = self.answer_by();
                connection.check(list)?
            }
            false => {
                connection.begin(Request::Wait { keys: Strings::new(list) }, self.answer_by())?;
                connection.waited(deadline, self.timeout)?
            }
        };
        if is_over {
            return Ok(());
        }
        let more = if keys.len() > 3 { format!(" and {} more", keys.len() - 3) } else { String::new() };
        let names: Vec<String> = keys.iter().take(3).map(|key| shown(key)).collect();
        Err(timed_out(&format!("not all are there: {}{more}", names.join(", "))))
    }

    /// A key as it is on the wire.
    fn key(&self, key: &[u8]) -> Result<Vec<u8>, Error> {
        let most = Limits::default().key_bytes;
        let key = [&self.prefix, key].concat();
        if key.len() > most {
            let want = format!("must be at most {most} bytes long with its prefix, not {}", key.len());
            return Err(Error::config("key", String::from_utf8_lossy(&key), want));
        }
        Ok(key)
    }

    fn list(&self, keys: &[&[u8]]) -> Result<Vec<u8>, Error> {
        check_count(keys.len())?;
        let mut list = Vec::new();
        for key in keys {
            wire::put_string(&self.key(key)?, &mut list);
        }
        Ok(list)
    }
}

fn list_of(wire_key: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    wire::put_string(wire_key, &mut list);
    list
}

fn check_value(value: &[u8]) -> Result<&[u8], Error> {
    let most = Limits::default().value_bytes;
    if value.len() > most {
        let value = format!("{} bytes long", value.len());
        return Err(Error::config("value", value, format!("must be at most {most} bytes long")));
    }
    Ok(value)
}

fn check_count(count: usize) -> Result<(), Error> {
    let most = Limits::default().keys_in_a_list;
    if count > most {
        return Err(Error::config("count", count, format!("must be at most {most} keys")));
    }
    Ok(())
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).escape_debug().to_string()
}

fn timed_out(what: &str) -> Error {
    Error::Timeout { what: format!("the time-out passed: {what}") }
}

/// The socket, and what was read from it.
struct Connection {
    stream: TcpStream,
    /// `host:port`, for messages.
    peer: String,
    /// Not PyTorch's older server: it has queues, and answers a GET of what is not there.
    is_modern: bool,
    /// When the answer to the request under way must be there.
    deadline: Deadline,
    /// The time-outs that the socket has: set again only when they change.
    timeouts: [Option<Duration>; 2],
    request: Vec<u8>,
    buffer: Box<[u8]>,
    /// What of the buffer was not taken yet.
    unread: std::ops::Range<usize>,
    /// Why nothing can be asked any more: an answer may still come that nobody waits for.
    broken: Option<Error>,
}

impl Connection {
    fn open(host: &str, port: u16, timeout: Option<Duration>) -> Result<Connection, Error> {
        let deadline = deadline(timeout);
        let (mut pause, longest) = PAUSES;
        loop {
            let tried = Connection::try_open(host, port, deadline);
            let Err(why) = tried else { return tried };
            let left =
                deadline.map_or(longest, |deadline| deadline.saturating_duration_since(Instant::now()));
            if deadline.is_some() && left.is_zero() {
                return Err(timed_out(&format!("cannot connect to the store at {host}:{port}: {why}")));
            }
            // Nobody tells when a port of another host is listened on.
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(longest);
        }
    }

    fn try_open(host: &str, port: u16, deadline: Deadline) -> Result<Connection, Error> {
        let failed = |error: io::Error| Error::Store { what: error.to_string() };
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(failed)?.collect();
        let mut why = Error::Store { what: "the name has no address".into() };
        for (tried, address) in addresses.iter().enumerate() {
            // One that does not answer leaves time for the others.
            let now = Instant::now();
            let share = (addresses.len() - tried) as u32;
            let by = deadline.map(|deadline| now + deadline.saturating_duration_since(now) / share);
            // The older server closes the connection at the question that tells the two apart.
            let opened = connect_to(address, by).and_then(|stream| {
                let modern = Connection::greet(stream, host, true, by);
                modern.or_else(|_| Connection::greet(connect_to(address, by)?, host, false, by))
            });
            match opened {
                Ok(connection) => return Ok(connection),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Begins the conversation; with `modern` the first message has a question for a server that knows queues.
    fn greet(stream: TcpStream, host: &str, modern: bool, by: Deadline) -> Result<Connection, Error> {
        let port = stream.peer_addr().map_or(0, |address| address.port());
        let mut connection = Connection {
            stream,
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
        // All in one message: PyTorch's server does not take VALIDATE in two parts.
        Request::Validate { magic: wire::MAGIC }.put(&mut connection.request);
        Request::Ping { nonce }.put(&mut connection.request);
        if modern {
            Request::QueueLength { key: b"" }.put(&mut connection.request);
        }
        connection.send_request()?;
        if connection.read::<4>()? != nonce.to_le_bytes() {
            return Err(connection.out_of_step("does not answer as a store"));
        }
        if modern {
            connection.number()?;
        }
        Ok(connection)
    }

    fn begin(&mut self, request: Request<'_>, deadline: Deadline) -> Result<(), Error> {
        self.deadline = deadline;
        self.send(request)
    }

    fn send(&mut self, request: Request<'_>) -> Result<(), Error> {
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
            match (&self.stream).write(&self.request[sent..]) {
                Ok(length) => sent += length,
                Err(error) => self.check_error(error)?,
            }
        }
        Ok(())
    }

    fn check(&mut self, list: &[u8]) -> Result<bool, Error> {
        self.send(Request::Check { keys: Strings::new(list) })?;
        match self.read::<1>()? {
            [ALL_PRESENT] => Ok(true),
            [NOT_ALL_PRESENT] => Ok(false),
            _ => Err(self.out_of_step("does not answer as a store")),
        }
    }

    /// The answer to WAIT or BARRIER: false if it did not come in time, and will not.
    fn waited(&mut self, deadline: Deadline, patience: Option<Duration>) -> Result<bool, Error> {
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

    fn wait_answer(&mut self) -> Result<u8, Error> {
        match self.read::<1>()? {
            [answer @ (WAITED | CANCELLED)] => Ok(answer),
            _ => Err(self.out_of_step("does not answer as a store")),
        }
    }

    fn number(&mut self) -> Result<i64, Error> {
        self.read::<8>().map(i64::from_le_bytes)
    }

    fn string(&mut self) -> Result<Vec<u8>, Error> {
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
            match (&self.stream).read(&mut self.buffer[self.unread.end..]) {
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

    fn needs_queues(&self) -> Result<(), Error> {
        match self.is_modern {
            true => Ok(()),
            false => Err(Error::Store {
                what: format!("the store at {} has no queues: it is PyTorch's older server", self.peer),
            }),
        }
    }

    /// From now on every call on this connection fails with this.
    fn out_of_step(&mut self, why: &str) -> Error {
        let error = Error::Store { what: format!("the store at {} {why}", self.peer) };
        self.broken = Some(error.clone());
        error
    }
}

fn connect_to(address: &SocketAddr, by: Deadline) -> Result<TcpStream, Error> {
    let failed = |error: io::Error| Error::Store { what: error.to_string() };
    let left = by.map(|by| by.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let stream = match left {
        Some(left) => TcpStream::connect_timeout(address, left),
        None => TcpStream::connect(address),
    }
    .map_err(failed)?;
    let socket = above_stdio(OwnedFd::from(stream));
    let stream = TcpStream::from(socket.map_err(|errno| failed(errno.into()))?);
    set_up(&stream).map_err(|errno| failed(errno.into()))?;
    Ok(stream)
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
