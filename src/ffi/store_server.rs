//! `ice_store_server`: a store that this process serves.

use std::ffi::c_char;

use super::status::{guard, guard_value, ice_status};
use super::{bytes, handle, limit, output, utf8};
use crate::error::Error;
use crate::store::secret::Secret;
use crate::store::server::{Config, DEFAULT_MEMORY, Server};

/// A key-value store that the processes of a job meet at, over TCP, in the protocol of PyTorch's TCPStore
/// (2.15): PyTorch's own clients, `init_process_group("env://")` among them, and `ice_store_connect()` use it.
/// It does what PyTorch's server (libuv) does, with its limits: keys of up to 8192 bytes, prefixes included,
/// values of up to 8 MiB, lists of up to 131072 keys. A request beyond these, or one that makes no sense, closes
/// the connection it came on, and no other. The rest of what it does better: no client makes another wait, no name
/// is looked up, several keys are set at once or not at all, and the memory it takes has a limit.
///
/// There is no encryption, and without a secret (`ice_store_server_new_with_secret()`) no password: who can connect
/// can read and change everything. Listen only where that is wanted.
///
/// The server has one thread of its own, with all signals blocked, three descriptors, and one for each client; it
/// needs no attention. It leaves 64 of the descriptors that the process may have (RLIMIT_NOFILE), or a quarter of
/// them, to the rest of the process; clients beyond that wait until there is one, in the order they came, and the
/// others are served meanwhile. Who has connected and not begun as a client must, by the secret where there is one, is
/// closed after 60 seconds, and sooner where such are more than a quarter of these descriptors (32 to 2048), or from
/// one address more than an eighth: the oldest of the address that has most goes first. A client that had to go
/// connects again by itself. A silent client whose host is gone is noticed after two minutes (TCP
/// keep-alive). Any thread may use the handle, also at once; only `ice_store_server_free()` must be the last.
pub struct ice_store_server {
    server: Server,
}

fn server<'a>(server: *const ice_store_server) -> Result<&'a Server, Error> {
    let server = &handle(server, "server")?.server;
    server.check_process()?;
    Ok(server)
}

/// Starts a server with an empty store and writes it to `*out`; the caller frees it with
/// `ice_store_server_free()`. When this returns, clients can connect.
///
/// `address` is where it listens: an address of this host, IPv4 or IPv6, or a name, of which the first address that
/// can be used is taken; `127.0.0.1` for clients of this host alone. NULL is every address of the host, IPv4 and
/// IPv6, as PyTorch's server does: it is then open to all who can reach the host. `port` is 0 for any free one, see
/// `ice_store_server_port()`, up to 65535.
///
/// `memory_limit` is how many bytes keys, values, queues and waits may take, about; 0 is the default of 1 GiB. What
/// is under way, half requests and replies that a client does not take, may come to as much again. A request that
/// would go beyond closes its connection.
///
/// ICE_ERROR_CONFIG for a port out of range, or an address that is none; ICE_ERROR_SYSTEM if nothing can be
/// listened on, with EADDRINUSE where another server has the port, or if no thread can be made.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_new(
    address: *const c_char,
    port: i32,
    memory_limit: usize,
    out: *mut *mut ice_store_server,
) -> ice_status {
    guard(|| {
        let config = config(address, port, memory_limit)?;
        start(config, out)
    })
}

/// The same, for clients that know a secret of `secret_length` bytes, 16 to 4096, best random ones; it is copied.
/// Server and client show each other that they know it (HMAC-SHA-256 of numbers that both have drawn) before
/// anything else is said; it does not go over the wire, what is said afterwards is neither encrypted nor signed. So
/// it keeps out who can reach the port, not who can change what goes over the network.
///
/// Only clients of this library can know it: `ice_store_connect_with_secret()`, and `ice_worker_store()` by
/// ICE_STORE_SECRET_FILE. PyTorch's clients, and those without the right secret, find the connection closed;
/// `ice_store_server_refused()` counts them.
///
/// ICE_ERROR_CONFIG for a secret that is too short or too long, else as `ice_store_server_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_new_with_secret(
    address: *const c_char,
    port: i32,
    memory_limit: usize,
    secret: *const c_char,
    secret_length: usize,
    out: *mut *mut ice_store_server,
) -> ice_status {
    guard(|| {
        let secret = Some(Secret::new(bytes(secret, secret_length, "secret")?)?);
        start(Config { secret, ..config(address, port, memory_limit)? }, out)
    })
}

fn config(address: *const c_char, port: i32, memory_limit: usize) -> Result<Config, Error> {
    let address = match address.is_null() {
        true => None,
        false => Some(utf8(address, "address")?.to_string()),
    };
    let port = u16::try_from(port).map_err(|_| Error::config("port", port, "must be 0 to 65535"))?;
    let memory = if memory_limit == 0 { DEFAULT_MEMORY } else { memory_limit };
    Ok(Config { address, port, memory, ..Config::default() })
}

fn start(config: Config, out: *mut *mut ice_store_server) -> Result<(), Error> {
    let out = output(out, "out")?;
    *out = Box::into_raw(Box::new(ice_store_server { server: Server::start(&config)? }));
    Ok(())
}

/// The port that it listens on, 1 to 65535. 0 for NULL, and in a forked copy of its process.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_port(server: *const ice_store_server) -> i32 {
    guard_value(0, || Ok(i32::from(self::server(server)?.port())))
}

/// Waits until `count` workers, 1 or more, have come: those of PyTorch's clients that were given a world size count
/// themselves as they connect, others by `ice_store_arrive()`. What the host of a PyTorch store does at its start
/// (`wait_for_workers`), without asking again and again. The number never goes down, also if a worker goes.
///
/// `seconds`: 0 only looks, a negative number waits without a limit. ICE_ERROR_TIMEOUT, with how many have come, if
/// they were fewer in that time; ICE_ERROR_CONFIG for a count below 1.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_wait_for_workers(
    server: *const ice_store_server,
    count: i32,
    seconds: f64,
) -> ice_status {
    guard(|| {
        let (server, limit) = (self::server(server)?, limit(seconds)?);
        if count < 1 {
            return Err(Error::config("count", count, "must be 1 or more"));
        }
        server.wait_for_workers(i64::from(count), limit)
    })
}

/// How many requests clients have sent so far, those that a connection begins with included. 0 for NULL. This and
/// the next two functions may be called at any time, and cost the server nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_requests(server: *const ice_store_server) -> u64 {
    guard_value(0, || Ok(self::server(server)?.counts().all_requests()))
}

/// How many connections there have been so far. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_connections(server: *const ice_store_server) -> u64 {
    guard_value(0, || Ok(self::server(server)?.counts().connections()))
}

/// How many of them the server has closed so far by itself: without the secret, not begun as they must within a
/// minute, with a request that makes no sense or is too large, or one that would take more memory than there is. 0
/// for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_refused(server: *const ice_store_server) -> u64 {
    guard_value(0, || Ok(self::server(server)?.counts().refusals()))
}

/// Ends a server: when this returns its connections are closed, clients that wait have got an error, and the port is
/// free for another one. NULL is fine. In a forked copy of the process only memory is freed.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_free(server: *mut ice_store_server) {
    if !server.is_null() {
        guard(|| {
            // SAFETY: the header says that a server comes from `ice_store_server_new` and is freed once.
            drop(unsafe { Box::from_raw(server) });
            Ok(())
        });
    }
}
