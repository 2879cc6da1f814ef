//! The client: of our server and of any TCPStore server of PyTorch, the older one too.
//!
//! One connection, one request at a time. Every answer is waited for with a deadline.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::arrivals;
use super::connection::{Connection, Deadline, deadline, timed_out};
use super::interrupt::Interrupter;
use super::secret::Secret;
use super::wire::{self, Limits, Request, Strings};
use crate::error::Error;

/// How to connect.
#[derive(Clone, Default)]
pub struct Options {
    /// How long to try, and how long each answer may take after it that comes at once; none is without a limit.
    pub timeout: Option<Duration>,
    /// What the server has to know, too. PyTorch's cannot.
    pub secret: Option<Secret>,
    /// A store that has none will do.
    pub or_without_secret: bool,
    /// Ends the calls from another thread, that which connects, too.
    pub interrupter: Interrupter,
}

/// A connection to a store. Clones, and clients with a prefix, share it.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Mutex<Connection>>,
    /// What stands before each key on the wire: PyTorch's clients begin all of theirs with a slash.
    prefix: Vec<u8>,
    /// How long an answer may take that comes at once.
    timeout: Option<Duration>,
    interrupter: Interrupter,
    /// The own one, and the server's.
    addresses: (IpAddr, IpAddr),
    pid: u32,
}

impl Client {
    /// Connects, and tries again until the time is over: the server may begin to listen later.
    pub fn connect_with(host: &str, port: u16, options: &Options) -> Result<Client, Error> {
        let connection = Connection::open(host, port, options)?;
        Ok(Client {
            addresses: connection.addresses()?,
            connection: Arc::new(Mutex::new(connection)),
            prefix: b"/".to_vec(),
            timeout: options.timeout,
            interrupter: options.interrupter.clone(),
            pid: std::process::id(),
        })
    }

    /// What ends the calls of this client, and of those that share its connection, from another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// The address of this host that the connection has: the other clients of a server that is elsewhere can reach
    /// this host there, too, if they can reach each other at all.
    pub fn local_address(&self) -> IpAddr {
        self.addresses.0
    }

    /// The server's address.
    pub fn peer_address(&self) -> IpAddr {
        self.addresses.1
    }

    /// Refuses a handle in a forked copy of its process.
    pub fn check_process(&self) -> Result<(), Error> {
        if self.pid == std::process::id() { Ok(()) } else { Err(Error::Forked { handle: "store" }) }
    }

    /// The same store, with `prefix` and a slash before each key.
    pub fn with_prefix(&self, prefix: &[u8]) -> Client {
        Client { prefix: [&self.prefix[..], prefix, b"/"].concat(), ..self.clone() }
    }

    /// The same store, whose answers may take so long.
    pub fn with_patience(&self, timeout: Duration) -> Client {
        Client { timeout: Some(timeout), ..self.clone() }
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

    /// Waits until the key has been there; false if it is not when it is `until`, or when the bell rings.
    pub fn wait_or(&self, key: &[u8], until: Instant, bell: BorrowedFd) -> Result<bool, Error> {
        let list = list_of(&self.key(key)?);
        let mut connection = self.lock(Some(until))?;
        connection.begin(Request::Wait { keys: Strings::new(&list) }, self.answer_by())?;
        connection.waited_or(until, bell, self.timeout)
    }

    /// Whether it is a server that wakes who waits for a key that a COMPARE_SET makes. PyTorch's older one does not.
    pub fn wakes_at_compare_set(&self) -> Result<bool, Error> {
        Ok(self.lock(self.answer_by())?.is_modern)
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

    /// The keys below the prefix of this client, without it, in no order.
    pub fn list_keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let keys = self.ask(|connection| {
            connection.send(Request::ListKeys)?;
            let count = connection.number()?;
            (0..count).map(|_| connection.string()).collect::<Result<Vec<_>, Error>>()
        })?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(&self.prefix[..]).map(<[u8]>::to_vec)).collect())
    }

    /// Counts this client as a worker that has come, whatever its prefix. How many there are now.
    pub fn arrive(&self) -> Result<i64, Error> {
        self.ask(|connection| {
            connection.send(Request::Add { key: arrivals::KEY, delta: 1 })?;
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

#[cfg(test)]
impl Client {
    pub fn connect(host: &str, port: u16, timeout: Option<Duration>) -> Result<Client, Error> {
        Client::connect_with(host, port, &Options { timeout, ..Options::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Config, Server};
    use super::super::wire::Opcode;
    use super::*;

    fn is_interrupted<T>(result: Result<T, Error>) -> bool {
        matches!(result, Err(Error::Interrupted { .. }))
    }

    #[test]
    fn waits_end_when_they_are_interrupted() {
        let server =
            Server::start(&Config { address: Some("127.0.0.1".into()), ..Config::default() }).unwrap();
        let connect = || Client::connect("127.0.0.1", server.port(), None).unwrap();
        let waits: [fn(&Client) -> bool; 5] = [
            |client| is_interrupted(client.get(b"never", None)),
            |client| is_interrupted(client.wait(&[b"never"], Some(Duration::from_secs(1000)))),
            |client| is_interrupted(client.barrier(b"b", 1 << 40, None)),
            |client| is_interrupted(client.queue_pop(b"q", None)),
            |client| is_interrupted(client.receive(b"name", 1, None)),
        ];
        let waiting = || server.counts().requests(Opcode::Wait) + server.counts().requests(Opcode::Barrier);
        for (number, wait) in waits.into_iter().enumerate() {
            let client = connect();
            let interrupter = client.interrupter();
            std::thread::scope(|scope| {
                // One waits for the server, another for its turn.
                let both = [scope.spawn(|| wait(&client)), scope.spawn(|| wait(&client.with_prefix(b"p")))];
                while waiting() <= number as u64 {
                    std::thread::yield_now();
                }
                interrupter.interrupt();
                assert!(both.map(|thread| thread.join().unwrap()).iter().all(|interrupted| *interrupted));
            });
            assert!(is_interrupted(client.num_keys()) && is_interrupted(client.set(b"k", b"v")));
        }
        // Nobody else's.
        assert_eq!(connect().find(b"k"), Ok(None));
        let client = connect();
        client.interrupter().interrupt();
        assert!(is_interrupted(client.set(b"k", b"v")), "also when nothing was under way");
    }

    #[test]
    fn so_does_connecting() {
        // One that refuses, one that accepts and says nothing, one whose queue of connections is full.
        let refuses = free_port();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (full, _queue) = full_listener();
        for port in [refuses, silent.local_addr().unwrap().port(), full.local_addr().unwrap().port()] {
            for early in [true, false] {
                let interrupter = Interrupter::default();
                std::thread::scope(|scope| {
                    if early {
                        interrupter.interrupt();
                    }
                    let options = Options { interrupter: interrupter.clone(), ..Options::default() };
                    let connect = move || Client::connect_with("127.0.0.1", port, &options).map(drop);
                    let connecting = scope.spawn(connect);
                    if !early {
                        std::thread::sleep(Duration::from_millis(50));
                        assert!(!connecting.is_finished());
                        interrupter.interrupt();
                    }
                    assert!(is_interrupted(connecting.join().unwrap()));
                });
            }
        }
    }

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// A listener that answers no more SYN, and what fills it.
    fn full_listener() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
        (listener.try_clone().unwrap(), std::iter::from_fn(|| connect().ok()).collect())
    }

    #[test]
    fn its_addresses_are_plain() {
        // The server's socket is for IPv6, the client's not: both see the same.
        let server = Server::start(&Config::default()).unwrap();
        let client = Client::connect("127.0.0.1", server.port(), None).unwrap();
        assert_eq!(client.local_address().to_string(), "127.0.0.1");
        assert_eq!(client.peer_address().to_string(), "127.0.0.1");
        if let Ok(client) = Client::connect("::1", server.port(), Some(Duration::from_millis(1))) {
            assert_eq!(client.local_address().to_string(), "::1");
        }
    }
}
