//! A rendezvous back end that the host brings.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::status::{guard, ice_status};
use super::{bytes, output, utf8};
use crate::error::Error;
use crate::rendezvous::backend::{Stored, Token};
use crate::rendezvous::backends::foreign::{self, Functions, Reply, Verdict};
use crate::spec::{HostPointer, not_empty};

/// What one of the host's functions found, filled in with the functions `ice_rendezvous_reply_*`.
/// It belongs to the library and is valid during the call that it was given to, in the thread of
/// that call.
pub struct ice_rendezvous_reply {
    found: Option<Stored>,
    message: Option<String>,
}

/// Makes a connection for one agent to the place that `endpoint` names, for jobs of this run id,
/// and writes whatever the other functions are to get as `connection` to `*connection`. Both texts
/// are UTF-8, valid during the call.
pub type ice_rendezvous_open_fn = Option<
    extern "C" fn(
        user_data: *mut c_void,
        endpoint: *const c_char,
        run_id: *const c_char,
        connection: *mut *mut c_void,
        reply: *mut ice_rendezvous_reply,
    ) -> i32,
>;

/// Looks for a key: a short text of letters, digits and `/`. If it is there, says so with
/// `ice_rendezvous_reply_found()`.
pub type ice_rendezvous_get_fn = Option<
    extern "C" fn(connection: *mut c_void, key: *const c_char, reply: *mut ice_rendezvous_reply) -> i32,
>;

/// Stores `value` at `key`, in one step that no other agent's can come into, if what is there has
/// the token `token`; with a token of NULL if nothing is there. Writes 1 to `*stored`, or else 0
/// and says with `ice_rendezvous_reply_found()` what is there, if anything.
pub type ice_rendezvous_compare_and_set_fn = Option<
    extern "C" fn(
        connection: *mut c_void,
        key: *const c_char,
        token: *const c_void,
        token_length: usize,
        value: *const c_void,
        value_length: usize,
        stored: *mut i32,
        reply: *mut ice_rendezvous_reply,
    ) -> i32,
>;

/// Returns when the key is there, at the latest after `seconds`, which is 0.5 at most; earlier if
/// it has to.
pub type ice_rendezvous_wait_fn = Option<
    extern "C" fn(
        connection: *mut c_void,
        key: *const c_char,
        seconds: f64,
        reply: *mut ice_rendezvous_reply,
    ) -> i32,
>;

/// Ends the connection: it is not used any more.
pub type ice_rendezvous_close_fn = Option<extern "C" fn(connection: *mut c_void)>;

/// Names a place to meet that the program brings (a database, a scheduler's key-value store), for
/// `ice_spec_set_rendezvous()`: keys with values of up to some hundred bytes for each node of a
/// job, each value with a token, bytes that are others whenever the value is. The functions must
/// stay as long as an agent may use them.
///
/// `open`, `get` and `compare_and_set` return ICE_OK; ICE_ERROR_STORE, ICE_ERROR_TIMEOUT or
/// ICE_ERROR_SYSTEM where another try may do better: the agent then closes, waits a little and
/// opens again, until `lost_timeout` or `join_timeout`; and any other status where it will not: the
/// run ends with ICE_END_AGENT_ERROR. `ice_rendezvous_reply_error()` says in words what went wrong.
/// `wait` likewise; it may be NULL: then the key is looked for ten times a second.
///
/// They are called in a thread of the agent, one at a time for one connection, without a lock; the
/// end of a run waits for the one that is under way. They must not call functions of their agent.
///
/// ICE_ERROR_CONFIG if the name is taken: by another call, or as it is `static`, `c10d` or begins
/// with `etcd`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_rendezvous_register(
    name: *const c_char,
    open: ice_rendezvous_open_fn,
    get: ice_rendezvous_get_fn,
    compare_and_set: ice_rendezvous_compare_and_set_fn,
    wait: ice_rendezvous_wait_fn,
    close: ice_rendezvous_close_fn,
    user_data: *mut c_void,
) -> ice_status {
    guard(|| {
        let name = utf8(name, "name")?;
        not_empty("name", name.as_bytes())?;
        let (Some(open), Some(get), Some(compare_and_set), Some(close)) = (open, get, compare_and_set, close)
        else {
            return Err(Error::Argument { what: "only wait may be NULL".into() });
        };
        let user_data = HostPointer(user_data as usize);
        foreign::register(name, Arc::new(Registered { open, get, compare_and_set, wait, close, user_data }))
    })
}

/// What was registered.
struct Registered {
    open: OpenFn,
    get: GetFn,
    compare_and_set: CompareAndSetFn,
    wait: Option<WaitFn>,
    close: extern "C" fn(*mut c_void),
    user_data: HostPointer,
}

type Out = *mut ice_rendezvous_reply;
type OpenFn = extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_void, Out) -> i32;
type GetFn = extern "C" fn(*mut c_void, *const c_char, Out) -> i32;
type CompareAndSetFn = extern "C" fn(
    *mut c_void,
    *const c_char,
    *const c_void,
    usize,
    *const c_void,
    usize,
    *mut i32,
    Out,
) -> i32;
type WaitFn = extern "C" fn(*mut c_void, *const c_char, f64, Out) -> i32;

/// Calls a function of the host with a reply to fill in.
fn call(function: impl FnOnce(Out) -> i32) -> Reply {
    let mut out = ice_rendezvous_reply { found: None, message: None };
    let status = function(&raw mut out);
    Reply { verdict: verdict(status), found: out.found, message: out.message }
}

fn pointer(host: HostPointer) -> *mut c_void {
    host.0 as *mut c_void
}

impl Functions for Registered {
    fn open(&self, endpoint: &CStr, run_id: &CStr) -> (HostPointer, Reply) {
        let mut connection = std::ptr::null_mut();
        let (user_data, to) = (pointer(self.user_data), &raw mut connection);
        let reply = call(|out| (self.open)(user_data, endpoint.as_ptr(), run_id.as_ptr(), to, out));
        (HostPointer(connection as usize), reply)
    }

    fn get(&self, connection: HostPointer, key: &CStr) -> Reply {
        call(|out| (self.get)(pointer(connection), key.as_ptr(), out))
    }

    fn compare_and_set(
        &self,
        connection: HostPointer,
        key: &CStr,
        expected: Option<&Token>,
        value: &[u8],
    ) -> (bool, Reply) {
        let mut stored = 0;
        let to = &raw mut stored;
        let token = expected.map_or(std::ptr::null(), |token| token.as_ptr().cast());
        let (length, value_length) = (expected.map_or(0, Vec::len), value.len());
        let value = value.as_ptr().cast();
        let reply = call(|out| {
            let (connection, key) = (pointer(connection), key.as_ptr());
            (self.compare_and_set)(connection, key, token, length, value, value_length, to, out)
        });
        (stored != 0, reply)
    }

    fn wait(&self, connection: HostPointer, key: &CStr, time: Duration) -> Option<Reply> {
        let wait = self.wait?;
        Some(call(|out| wait(pointer(connection), key.as_ptr(), time.as_secs_f64(), out)))
    }

    fn close(&self, connection: HostPointer) {
        (self.close)(pointer(connection))
    }
}

fn verdict(status: i32) -> Verdict {
    const STORE: i32 = ice_status::ICE_ERROR_STORE as i32;
    const TIMEOUT: i32 = ice_status::ICE_ERROR_TIMEOUT as i32;
    const SYSTEM: i32 = ice_status::ICE_ERROR_SYSTEM as i32;
    match status {
        0 => Verdict::Done,
        STORE | TIMEOUT | SYSTEM => Verdict::Unreachable,
        _ => Verdict::Failed,
    }
}

/// Says what is at the key: a value and its token, which are copied. ICE_ERROR_ARGUMENT for a NULL
/// reply, or for NULL with a length.
#[unsafe(no_mangle)]
pub extern "C" fn ice_rendezvous_reply_found(
    reply: *mut ice_rendezvous_reply,
    value: *const c_void,
    value_length: usize,
    token: *const c_void,
    token_length: usize,
) -> ice_status {
    guard(|| {
        let value = bytes(value.cast(), value_length, "value")?.to_vec();
        let token = bytes(token.cast(), token_length, "token")?.to_vec();
        output(reply, "reply")?.found = Some(Stored { value, token });
        Ok(())
    })
}

/// Says in words why the call fails, for the run's result: UTF-8, copied.
#[unsafe(no_mangle)]
pub extern "C" fn ice_rendezvous_reply_error(
    reply: *mut ice_rendezvous_reply,
    message: *const c_char,
) -> ice_status {
    guard(|| {
        let message = utf8(message, "message")?.to_string();
        output(reply, "reply")?.message = Some(message);
        Ok(())
    })
}
