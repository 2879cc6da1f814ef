//! `ice_store`: a connection to a store, and the values that come from it.

use std::ffi::{CString, c_char, c_void};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::status::{guard, guard_value, ice_status};
use super::worker::{ice_worker, side};
use super::{bytes, handle, limit, output, text, utf8};
use crate::error::{Error, c_string_lossy};
use crate::store::client::{Client, Options};
use crate::store::meeting;
use crate::store::secret::Secret;
use crate::store::server::Server;

/// A connection to a key-value store: an `ice_store_server`, or a TCPStore of PyTorch (2.15), the libuv one or the
/// older one, in whatever process. What one client sets the others get, PyTorch's clients too: the key `k` is their
/// key `k`.
///
/// Keys are NUL-terminated bytes, empty or not, of up to 8191 bytes with their prefix; values are any bytes, none
/// to 8 MiB. What is longer is refused with ICE_ERROR_CONFIG before anything is sent.
///
/// Time-outs: functions that wait for another client have `seconds`. 0 only looks; a negative number waits without
/// a limit. When the time is over they return ICE_ERROR_TIMEOUT, and the connection is as good as before. All other
/// functions are answered by the server at once; should it not answer within the time-out of `ice_store_connect()`,
/// or close the connection, they return ICE_ERROR_STORE, and so does every call after that: the connection is lost,
/// and is not made again by itself. `ice_store_interrupt()` ends calls, and the connection, from another thread.
///
/// Any thread may use the handle, but one call at a time is under way on a connection; others wait for their turn,
/// within their time-outs. What is to go on while a call waits needs a connection of its own.
pub struct ice_store {
    client: Client,
    /// The own one, and the server's.
    addresses: [CString; 2],
    /// Where this process serves the store for its handles: after the client, so that this is closed first.
    server: Option<Arc<Server>>,
}

impl ice_store {
    fn into_raw(client: Client, server: Option<Arc<Server>>) -> *mut ice_store {
        let text = |address: IpAddr| c_string_lossy(address.to_string().as_bytes());
        let addresses = [text(client.local_address()), text(client.peer_address())];
        Box::into_raw(Box::new(ice_store { client, addresses, server }))
    }
}

fn client<'a>(store: *const ice_store) -> Result<&'a Client, Error> {
    let client = &handle(store, "store")?.client;
    client.check_process()?;
    Ok(client)
}

/// Values that came from a store. They never change; any thread may read them. Freed by
/// `ice_store_values_free()`, before or after the store.
pub struct ice_store_values {
    /// Each with a NUL behind it, for those that are texts.
    values: Vec<Box<[u8]>>,
}

impl ice_store_values {
    fn into_raw(values: impl IntoIterator<Item = Vec<u8>>) -> *mut ice_store_values {
        let ended = |mut value: Vec<u8>| {
            value.reserve_exact(1);
            value.push(0);
            value.into_boxed_slice()
        };
        Box::into_raw(Box::new(ice_store_values { values: values.into_iter().map(ended).collect() }))
    }

    fn value(&self, index: usize) -> Result<&[u8], Error> {
        self.values.get(index).map(|value| &value[..]).ok_or_else(|| Error::Argument {
            what: format!("there is no value {index}, only {}", self.values.len()),
        })
    }
}

/// How many values there are. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_values_count(values: *const ice_store_values) -> usize {
    guard_value(0, || Ok(handle(values, "values")?.values.len()))
}

/// The bytes of one value, by its place, with a NUL behind them that does not count: text can be used as such.
/// Borrowed from the values. NULL if `index` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_values_data(values: *const ice_store_values, index: usize) -> *const c_char {
    guard_value(std::ptr::null(), || Ok(handle(values, "values")?.value(index)?.as_ptr().cast()))
}

/// How many bytes one value has. 0 if `index` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_values_length(values: *const ice_store_values, index: usize) -> usize {
    guard_value(0, || Ok(handle(values, "values")?.value(index)?.len() - 1))
}

/// Frees values. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_values_free(values: *mut ice_store_values) {
    if !values.is_null() {
        // SAFETY: the header says that values come from a function of a store and are freed once.
        drop(unsafe { Box::from_raw(values) });
    }
}

/// Connects to the store at `host`, a name or an address, and `port`, 1 to 65535, and writes it to `*out`; the
/// caller frees it with `ice_store_free()`. What is not there yet is tried again, soon at first, then every half
/// second, for up to `seconds`, more than 0; a negative number is without a limit. The same time is then how long
/// the server may take for each answer that comes at once. Looking up a name is the C library's business, and is
/// not cut short.
///
/// ICE_ERROR_TIMEOUT if there is no store in that time, with what the last try came to; ICE_ERROR_CONFIG for a port
/// out of range, and, at once, if the server wants a secret; ICE_ERROR_SYSTEM, at once, if this process can have no
/// further socket (EMFILE); ICE_ERROR_ARGUMENT for 0 `seconds`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_connect(
    host: *const c_char,
    port: i32,
    seconds: f64,
    out: *mut *mut ice_store,
) -> ice_status {
    guard(|| connect(host, port, seconds, None, out))
}

/// The same, to a server that wants a secret: see `ice_store_server_new_with_secret()`. The server shows that
/// it knows it, too. ICE_ERROR_CONFIG, at once, if the server has none, or another one, or if `secret_length`
/// is not 16 to 4096. PyTorch's servers have none, and do not say so: ICE_ERROR_TIMEOUT.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_connect_with_secret(
    host: *const c_char,
    port: i32,
    seconds: f64,
    secret: *const c_char,
    secret_length: usize,
    out: *mut *mut ice_store,
) -> ice_status {
    guard(|| {
        let secret = Secret::new(bytes(secret, secret_length, "secret")?)?;
        connect(host, port, seconds, Some(secret), out)
    })
}

fn connect(
    host: *const c_char,
    port: i32,
    seconds: f64,
    secret: Option<Secret>,
    out: *mut *mut ice_store,
) -> Result<(), Error> {
    let host = utf8(host, "host")?;
    let out = output(out, "out")?;
    let number = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = number.ok_or_else(|| Error::config("port", port, "must be 1 to 65535"))?;
    let options = Options { timeout: time_to_connect(seconds)?, secret, ..Options::default() };
    *out = ice_store::into_raw(Client::connect_with(host, port, &options)?, None);
    Ok(())
}

fn time_to_connect(seconds: f64) -> Result<Option<Duration>, Error> {
    let timeout = limit(seconds)?;
    match timeout.is_some_and(|timeout| timeout.is_zero()) {
        true => Err(Error::Argument { what: "seconds is 0: must be more, or negative for no limit".into() }),
        false => Ok(timeout),
    }
}

/// Opens the store at which the workers of a job meet, and writes it to `*out`; the caller frees it with
/// `ice_store_free()`. As PyTorch's `env://` does, it is at MASTER_ADDR and MASTER_PORT, without a prefix, and with
/// TORCHELASTIC_USE_AGENT_STORE=True every rank is a client; else rank 0 hosts it in this process, on loopback only
/// if MASTER_ADDR is a loopback address or `localhost`, and the others connect to it. If that port is taken, rank 0
/// is a client, too: of init_process_group() in the same process, for instance, which is to be called first, because
/// it wants the port for itself. `seconds` as `ice_store_connect()`.
///
/// A store that rank 0 hosts ends with its last handle there, or with rank 0: a barrier before its end keeps it for
/// the others.
///
/// Outside an agent, with neither of the two variables and a world of 1, it is a store of this process alone, which
/// no other process can use.
///
/// Where ICE_STORE_SECRET_FILE names a file, its bytes, without a newline at their end, are the secret of the store:
/// see `ice_store_server_new_with_secret()`. Others must have no access to it, its group none for writing.
///
/// ICE_ERROR_CONFIG for variables that are unset or make no sense, by name, for a secret file that others can read, or
/// that belongs to another user than this one or root, and as `ice_store_connect_with_secret()`;
/// ICE_ERROR_TIMEOUT if there is no store in that time; ICE_ERROR_SYSTEM if the file cannot be read, or nothing be
/// listened on; ICE_ERROR_STATE in the warm-up of a fork server, which has no rank.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_store(
    worker: *const ice_worker,
    seconds: f64,
    out: *mut *mut ice_store,
) -> ice_status {
    guard(|| {
        let rank = side(worker)?.rank.as_ref();
        let rank = rank.ok_or(Error::State { what: "a warm-up is no worker, and meets nobody" })?;
        let timeout = time_to_connect(seconds)?;
        let out = output(out, "out")?;
        let (client, server) = meeting::open(rank, timeout)?;
        *out = ice_store::into_raw(client, server.map(Arc::new));
        Ok(())
    })
}

/// The address of this host on the connection, `10.0.0.7` for instance: other clients of a server on another host
/// can reach this host there, too, if they can reach each other at all. Borrowed from the handle. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_local_address(store: *const ice_store) -> *const c_char {
    guard_value(std::ptr::null(), || Ok(handle(store, "store")?.addresses[0].as_ptr()))
}

/// The address of the server. Borrowed from the handle. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_peer_address(store: *const ice_store) -> *const c_char {
    guard_value(std::ptr::null(), || Ok(handle(store, "store")?.addresses[1].as_ptr()))
}

/// Ends what other threads do with this handle, and with all that share its connection: calls under way, waits above
/// all, return ICE_ERROR_STORE at once, and so does every later one. The handle is still to be freed, when no call
/// is under way any more. It does not wait. Any thread, but not a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_interrupt(store: *const ice_store) -> ice_status {
    guard(|| {
        client(store)?.interrupter().interrupt();
        Ok(())
    })
}

/// The same store with `prefix` and a slash before every key, as PyTorch's PrefixStore has it, in a handle of its
/// own that the caller frees with `ice_store_free()`. Prefixes may be nested: `a` and then `b` gives `a/b/key`.
/// Nothing is sent; the connection is that of `store`, and ends with the last handle of it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_prefix(
    store: *const ice_store,
    prefix: *const c_char,
    out: *mut *mut ice_store,
) -> ice_status {
    guard(|| {
        let client = client(store)?;
        let prefix = text(prefix, "prefix")?;
        let out = output(out, "out")?;
        let server = handle(store, "store")?.server.clone();
        *out = ice_store::into_raw(client.with_prefix(prefix), server);
        Ok(())
    })
}

/// Closes the connection, with its last handle, and frees the handle. NULL is fine. The server and what was set stay.
/// Not while another thread uses the handle.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_free(store: *mut ice_store) {
    if !store.is_null() {
        // SAFETY: the header says that a store comes from a function of this library and is freed once.
        drop(unsafe { Box::from_raw(store) });
    }
}

/// Sets the value of a key, whatever it was, and lets those go who wait for it. As PyTorch's, it does not wait for
/// the server: it returns when the value is handed to the kernel. What follows on this connection sees it set; that
/// the connection was lost meanwhile shows in the next call. NULL is fine for `length` 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_set(
    store: *const ice_store,
    key: *const c_char,
    value: *const c_char,
    length: usize,
) -> ice_status {
    guard(|| client(store)?.set(text(key, "key")?, bytes(value, length, "value")?))
}

/// Waits until the key is there and writes its value to `*out`, one `ice_store_values`, which the caller frees with
/// `ice_store_values_free()`. ICE_ERROR_TIMEOUT if it is not there in `seconds`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_get(
    store: *const ice_store,
    key: *const c_char,
    seconds: f64,
    out: *mut *mut ice_store_values,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let out = output(out, "out")?;
        *out = ice_store_values::into_raw([client.get(key, limit(seconds)?)?]);
        Ok(())
    })
}

/// Waits until each of `count` keys has been there at some time; one that was deleted meanwhile may be gone. A queue
/// that is not empty is there, too; of several clients that wait for a queue, each push lets one go.
/// ICE_ERROR_TIMEOUT if not all were there in `seconds`, with some of their names.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_wait(
    store: *const ice_store,
    keys: *const *const c_char,
    count: usize,
    seconds: f64,
) -> ice_status {
    guard(|| client(store)?.wait(&texts(keys, count, "keys")?, limit(seconds)?))
}

/// Adds `delta` to the number at a key, in one step with respect to all other clients, and writes the sum to `*out`.
/// The number is kept as decimal text; a key that is not there counts as 0; the sum wraps around at 64 bits. A
/// value that does not begin with a number makes the server close the connection: ICE_ERROR_STORE.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_add(
    store: *const ice_store,
    key: *const c_char,
    delta: i64,
    out: *mut i64,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let out = output(out, "out")?;
        *out = client.add(key, delta)?;
        Ok(())
    })
}

/// Sets a key to `desired` if its value is `expected`, in one step with respect to all other clients, and writes to
/// `*out` the value it has then: `desired` if it was set, or what is there instead. A key that is not there is set
/// if `expected` is empty; otherwise it stays away, and `expected` comes back, as PyTorch has it. The caller frees
/// the value with `ice_store_values_free()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_compare_set(
    store: *const ice_store,
    key: *const c_char,
    expected: *const c_char,
    expected_length: usize,
    desired: *const c_char,
    desired_length: usize,
    out: *mut *mut ice_store_values,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let expected = bytes(expected, expected_length, "expected")?;
        let desired = bytes(desired, desired_length, "desired")?;
        let out = output(out, "out")?;
        *out = ice_store_values::into_raw([client.compare_set(key, expected, desired)?]);
        Ok(())
    })
}

/// Writes 1 to `*out` if all of `count` keys are there, or queues that are not empty, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_check(
    store: *const ice_store,
    keys: *const *const c_char,
    count: usize,
    out: *mut i32,
) -> ice_status {
    guard(|| {
        let (client, keys) = (client(store)?, texts(keys, count, "keys")?);
        let out = output(out, "out")?;
        *out = i32::from(client.check(&keys)?);
        Ok(())
    })
}

/// Deletes a key, and writes 1 to `*out` if it was there, else 0. Queues cannot be deleted.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_delete(store: *const ice_store, key: *const c_char, out: *mut i32) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let out = output(out, "out")?;
        *out = i32::from(client.delete(key)?);
        Ok(())
    })
}

/// Appends to the value of a key, which may not be there yet. Otherwise as `ice_store_set()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_append(
    store: *const ice_store,
    key: *const c_char,
    value: *const c_char,
    length: usize,
) -> ice_status {
    guard(|| client(store)?.append(text(key, "key")?, bytes(value, length, "value")?))
}

/// Waits until all of `count` keys are there and writes their values, in order, to `*out`, which the caller frees
/// with `ice_store_values_free()`. ICE_ERROR_TIMEOUT if not all were there in `seconds`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_multi_get(
    store: *const ice_store,
    keys: *const *const c_char,
    count: usize,
    seconds: f64,
    out: *mut *mut ice_store_values,
) -> ice_status {
    guard(|| {
        let (client, keys) = (client(store)?, texts(keys, count, "keys")?);
        let out = output(out, "out")?;
        *out = ice_store_values::into_raw(client.multi_get(&keys, limit(seconds)?)?);
        Ok(())
    })
}

/// Sets `count` keys to `values` of `lengths`. An `ice_store_server` sets all of them in one step; PyTorch's servers
/// do not. Otherwise as `ice_store_set()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_multi_set(
    store: *const ice_store,
    keys: *const *const c_char,
    values: *const *const c_char,
    lengths: *const usize,
    count: usize,
) -> ice_status {
    guard(|| {
        let client = client(store)?;
        let keys = texts(keys, count, "keys")?;
        let (values, lengths) = (array(values, count, "values")?, array(lengths, count, "lengths")?);
        let values = values.iter().zip(lengths).map(|(value, length)| bytes(*value, *length, "a value"));
        let pairs = keys.into_iter().zip(values).map(|(key, value)| Ok((key, value?)));
        client.multi_set(&pairs.collect::<Result<Vec<_>, Error>>()?)
    })
}

/// Writes to `*out` how many keys the whole store has, whatever their prefix, those of other clients and of
/// barriers too; queues do not count.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_num_keys(store: *const ice_store, out: *mut i64) -> ice_status {
    guard(|| {
        let client = client(store)?;
        let out = output(out, "out")?;
        *out = client.num_keys()?;
        Ok(())
    })
}

/// Writes the names of the keys below the prefix of this handle, without it, to `*out`, in no order; all keys that
/// clients have set, if it has no prefix. The caller frees them with `ice_store_values_free()`. Queues are not among
/// them. PyTorch's `list_keys()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_list_keys(
    store: *const ice_store,
    out: *mut *mut ice_store_values,
) -> ice_status {
    guard(|| {
        let client = client(store)?;
        let out = output(out, "out")?;
        *out = ice_store_values::into_raw(client.list_keys()?);
        Ok(())
    })
}

/// Counts this client as a worker that has come, for `ice_store_server_wait_for_workers()` or for the host of a
/// PyTorch store, and writes to `*out` how many there are now. To be called once by each worker; the prefix of the
/// handle does not matter. PyTorch's clients with a world size do it as they connect, at the same key, `init/`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_arrive(store: *const ice_store, out: *mut i64) -> ice_status {
    guard(|| {
        let client = client(store)?;
        let out = output(out, "out")?;
        *out = client.arrive()?;
        Ok(())
    })
}

/// Puts a value at the end of the queue of a key, and lets one go who waits for it. Queues are apart from values: a
/// key may have both. As `ice_store_set()`, it does not wait for the server. ICE_ERROR_STORE where the server has no
/// queues (PyTorch's with `use_libuv=False`); the connection is then as good as before.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_queue_push(
    store: *const ice_store,
    key: *const c_char,
    value: *const c_char,
    length: usize,
) -> ice_status {
    guard(|| client(store)?.queue_push(text(key, "key")?, bytes(value, length, "value")?))
}

/// Waits until the queue of a key has a value, takes the first one out and writes it to `*out`; the caller frees it
/// with `ice_store_values_free()`. Each value goes to one client. ICE_ERROR_TIMEOUT if there is none in `seconds`,
/// ICE_ERROR_STORE as `ice_store_queue_push()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_queue_pop(
    store: *const ice_store,
    key: *const c_char,
    seconds: f64,
    out: *mut *mut ice_store_values,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let out = output(out, "out")?;
        *out = ice_store_values::into_raw([client.queue_pop(key, limit(seconds)?)?]);
        Ok(())
    })
}

/// Writes to `*out` how many values the queue of a key has. ICE_ERROR_STORE as `ice_store_queue_push()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_queue_len(
    store: *const ice_store,
    key: *const c_char,
    out: *mut i64,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let out = output(out, "out")?;
        *out = client.queue_len(key)?;
        Ok(())
    })
}

/// Waits until `world_size` clients, 1 or more, have come to the barrier of this key. The key is used up by it: who
/// comes later passes at once, so every barrier needs a key of its own. One that comes and gives up stays counted.
/// ICE_ERROR_TIMEOUT if they were fewer in `seconds`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_barrier(
    store: *const ice_store,
    key: *const c_char,
    world_size: i32,
    seconds: f64,
) -> ice_status {
    guard(|| {
        let (client, key) = (client(store)?, text(key, "key")?);
        let size = usize::try_from(world_size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| Error::config("world_size", world_size, "must be 1 or more"))?;
        client.barrier(key, size, limit(seconds)?)
    })
}

/// Hands `length` bytes from rank 0 to all other ranks: rank 0 sends what is at `data`, the others wait for it and
/// get it there. What MPI_Bcast does, for instance for an ncclUniqueId:
///
///     if (rank == 0) ncclGetUniqueId(&id);
///     ice_store_broadcast(store, "nccl", round, rank, &id, sizeof id, 60);
///
/// `generation` keeps rounds apart that use the same `name`: 0 or more, the same in all ranks of a round, larger in
/// each round than in those before. Each rank gets the bytes of its own generation or none. With rank 0's call the
/// generations before it are over: whoever then asks for one of these, or waits for it, gets ICE_ERROR_STALE, rank
/// 0 of an older round as well. Numbers may be left out.
///
/// `length` is up to 8388607. Rank 0 does not wait for the others. What was handed over stays in the store, for
/// ranks that come late, until the next generation. The keys are those that begin with `name` and a slash.
///
/// ICE_ERROR_TIMEOUT if rank 0 did not come in `seconds`; ICE_ERROR_CONFIG if rank 0 sent another `length`, if the
/// generation was broadcast before with other bytes, or if the keys are used for something else; ICE_ERROR_ARGUMENT
/// for a negative rank.
#[unsafe(no_mangle)]
pub extern "C" fn ice_store_broadcast(
    store: *const ice_store,
    name: *const c_char,
    generation: u64,
    rank: i32,
    data: *mut c_void,
    length: usize,
    seconds: f64,
) -> ice_status {
    guard(|| {
        let (client, name) = (client(store)?, text(name, "name")?);
        let limit = limit(seconds)?;
        match rank {
            ..0 => return Err(Error::Argument { what: format!("rank is {rank}: must be 0 or more") }),
            0 => return client.publish(name, generation, bytes(data.cast(), length, "data")?),
            1.. if length > 0 && data.is_null() => return Err(super::null("data")),
            1.. => {}
        }
        let blob = client.receive(name, generation, limit)?;
        if blob.len() != length {
            let want = format!("rank 0 has sent {} bytes", blob.len());
            return Err(Error::config("length", length, want));
        }
        if length > 0 {
            // SAFETY: not NULL, and the header says that `length` bytes are writable there; ours are elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(blob.as_ptr(), data.cast(), length) };
        }
        Ok(())
    })
}

/// An array of the host by pointer and length; NULL is fine for length 0.
fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T], Error> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(super::null(name));
    }
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Error::Argument { what: format!("the count of {name} is larger than memory") });
    }
    // SAFETY: not NULL, and the header says that `count` elements are readable there.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

fn texts<'a>(pointers: *const *const c_char, count: usize, name: &str) -> Result<Vec<&'a [u8]>, Error> {
    array(pointers, count, name)?.iter().map(|pointer| text(*pointer, name)).collect()
}
