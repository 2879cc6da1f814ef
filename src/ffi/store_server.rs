//! `ice_store_server`: a store that this process serves.

use std::ffi::c_char;

use super::status::{guard, guard_value, ice_status};
use super::{handle, output, utf8};
use crate::error::Error;
use crate::store::server::{Config, DEFAULT_MEMORY, Server};

/// A key-value store that the processes of a job meet at, over TCP, in the protocol of PyTorch's TCPStore
/// (2.15): PyTorch's own clients, `init_process_group("env://")` among them, and `ice_store_connect()` use it.
/// It does what PyTorch's server (libuv) does, with its limits: keys of up to 8192 bytes, prefixes included,
/// values of up to 8 MiB, lists of up to 131072 keys. A request beyond these, or one that makes no sense, closes
/// the connection it came on, and no other. The rest of what it does better: no client makes another wait, no name
/// is looked up, several keys are set at once or not at all, and the memory it takes has a limit.
///
/// There is no password and no encryption: who can connect can read and change everything. Listen only where that
/// is wanted.
///
/// The server has one thread of its own, with all signals blocked, and one descriptor for each client; it needs no
/// attention. A silent client whose host is gone is noticed after two minutes (TCP keep-alive). Any thread may use
/// the handle, also at once; only `ice_store_server_free()` must be the last.
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
        let out = output(out, "out")?;
        let address = match address.is_null() {
            true => None,
            false => Some(utf8(address, "address")?.to_string()),
        };
        let port = u16::try_from(port).map_err(|_| Error::config("port", port, "must be 0 to 65535"))?;
        let memory = if memory_limit == 0 { DEFAULT_MEMORY } else { memory_limit };
        let server = Server::start(&Config { address, port, memory, ..Config::default() })?;
        *out = Box::into_raw(Box::new(ice_store_server { server }));
        Ok(())
    })
}

/// The port that it listens on, 1 to 65535. 0 for NULL, and in a forked copy of its process.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_server_port(server: *const ice_store_server) -> i32 {
    guard_value(0, || Ok(i32::from(self::server(server)?.port())))
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
