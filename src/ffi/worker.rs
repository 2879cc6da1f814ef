//! `ice_worker`: the worker's side of a callback, and the error file for any worker.

use std::ffi::{c_char, c_void};

use super::status::{guard, guard_value, ice_status};
use super::{handle, output, text};
use crate::entry;
use crate::error::Error;
use crate::process::channel::WorkerEnd;
use crate::process::function::WorkerSide;
use crate::process::registry;
use crate::ranks::Rank;
use crate::report::error_file;
use crate::spec::{self, Callback, HostPointer, WorkerFn};

/// This process as a worker. A function that is a worker gets the handle as its first argument, and the handle is valid
/// until the function returns; a program makes one with `ice_worker_open()`. One thread at a time uses it, except where
/// a function of the header says otherwise.
pub struct ice_worker {
    _opaque: [u8; 0],
}

/// A function as a worker. It runs in a process of its own, in the main thread or the only one, with the
/// worker's environment and working directory, a process group of its own, no signal handler of the
/// host, and no descriptor of the host but 0, 1 and 2 (one more, close-on-exec, is the library's way for
/// the value). See `ice_start_method` for what else is in that process.
///
/// What it returns is the worker's exit code: 0 is success, 1 to 255 a failure with that code, any
/// other number a failure with code 255. Before the process ends, functions given to atexit(3) in it run,
/// then stdout and stderr are flushed. In a forked worker those are the functions that it gave itself:
/// the atexit functions, and the unwritten output, of the process it was forked from are left alone there,
/// and stdio streams other than these two are its own to close. With musl, which has no on_exit(3), they all run.
///
/// exit(0) or _exit(0) without a return from the function is a failure ("exited without returning"),
/// exit(n) a failure with code n. A C++ exception or Rust panic that leaves the function ends the
/// worker with SIGABRT where it was thrown, as one that nobody catches. Threads that still run when it
/// returns end with the process. Signals of a crash have a handler, and the thread a stack for it
/// (sigaltstack(2)), unless `ice_spec_set_crash_records()` says no.
pub type ice_worker_fn = Option<extern "C" fn(worker: *mut ice_worker, user_data: *mut c_void) -> i32>;

/// A function as the library keeps it.
pub(super) fn callback(function: ice_worker_fn, user_data: *mut c_void) -> Result<Callback, Error> {
    let function = function.ok_or_else(|| super::null("function"))?;
    // SAFETY: the types differ in how they name the opaque handle, and in that ours lets a C++
    // exception through, which then ends the worker.
    let function = unsafe { std::mem::transmute::<*const c_void, WorkerFn>(function as *const c_void) };
    Ok(Callback { function, user_data: HostPointer(user_data as usize) })
}

/// Registers a function under a name, so that a new process of this same program can find it: see
/// `ice_spec_set_function()`. To be called in every process of the program, before `ice_worker_main()`;
/// `user_data` is what the function is given there, so it has to mean something in each of them (a
/// static variable, or NULL). The name is copied.
///
/// Any thread. The same function may be registered again. ICE_ERROR_CONFIG for an empty name, and for a
/// second function under a name that is taken.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_register(
    name: *const c_char,
    function: ice_worker_fn,
    user_data: *mut c_void,
) -> ice_status {
    guard(|| {
        let name = spec::c_bytes("name", spec::not_empty("name", text(name, "name")?)?)?;
        registry::add(&name, callback(function, user_data)?)
    })
}

/// Makes this program one that can be started again as a worker: to be called first in main, after the
/// calls of `ice_worker_register()` and before anything that a worker should not do or see. In a process
/// that an agent started to be a worker (a fork server, or the probe of `ice_device_list_new()`) it runs the
/// registered function, and the process ends with it: the call does not return. In any other process it
/// notes the program's arguments (from /proc/self/cmdline) and returns ICE_OK; that takes some microseconds.
/// No thread, no process, no descriptor is made.
///
/// A program that does not call it cannot use the start methods spawn and forkserver for functions of
/// its own: `ice_agent_new()` says so. If it makes an agent first, in a process that is meant to be a worker,
/// that process ends, and its agent reports a start error: nothing is ever started twice over.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_main() -> ice_status {
    // No guard: the function that runs in here may be ended by an exception, and nothing is to catch it.
    entry::worker_main();
    ice_status::ICE_OK
}

pub(super) fn side<'a>(worker: *const ice_worker) -> Result<&'a WorkerSide, Error> {
    handle(worker.cast::<WorkerSide>(), "worker")
}

/// Where the value of a function goes.
fn value_end<'a>(worker: *const ice_worker) -> Result<&'a WorkerEnd, Error> {
    side(worker)?.end.as_ref().ok_or_else(super::control::no_value)
}

/// A number of the worker's rank; -1 in a warm-up, which has none.
fn number(worker: *const ice_worker, of: impl FnOnce(&Rank) -> usize) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.as_ref().map_or(-1, |rank| of(rank) as i32)))
}

/// RANK of this worker; -1 for NULL, and in the warm-up of a fork server. Likewise the five functions
/// after it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_rank(worker: *const ice_worker) -> i32 {
    number(worker, |rank| rank.global)
}

/// LOCAL_RANK of this worker; the real one also where the variable is 0 for all
/// (`ice_spec_set_virtual_local_rank()`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_local_rank(worker: *const ice_worker) -> i32 {
    number(worker, |rank| rank.local)
}

/// ROLE_RANK of this worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_role_rank(worker: *const ice_worker) -> i32 {
    number(worker, |rank| rank.role)
}

/// WORLD_SIZE: how many workers there are in all.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_world_size(worker: *const ice_worker) -> i32 {
    number(worker, |rank| rank.world_size)
}

/// LOCAL_WORLD_SIZE: how many workers this agent has.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_local_world_size(worker: *const ice_worker) -> i32 {
    number(worker, |rank| rank.local_world_size)
}

/// TORCHELASTIC_RESTART_COUNT: 0 in the first attempt.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_restart_count(worker: *const ice_worker) -> i32 {
    guard_value(-1, || {
        let side = side(worker)?;
        Ok(side.rank.map_or(-1, |_| side.restarts as i32))
    })
}

/// Writes the argument that `ice_spec_set_argument()` gave to `*data` and `*length`: memory that all
/// workers read from one place, aligned to a page, valid until the worker's process ends. NULL and 0 where
/// none was set; not NULL and 0 for one of 0 bytes, whose address is not to be used.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_argument(
    worker: *const ice_worker,
    data: *mut *const c_void,
    length: *mut usize,
) -> ice_status {
    guard(|| {
        let argument = side(worker)?.argument;
        let (data, length) = (output(data, "data")?, output(length, "length")?);
        *data = argument.map_or(std::ptr::null(), |argument| argument.as_ptr().cast());
        *length = argument.map_or(0, <[u8]>::len);
        Ok(())
    })
}

/// Sets the value that this worker returns to a copy of `length` bytes at `data`; 0 bytes are a value
/// too, told apart from none. Any size that memory holds. A further call replaces the value. The host
/// finds it in `ice_worker_result` if the worker then succeeds. ICE_ERROR_SYSTEM where the memory
/// cannot be had; the value is then none. ICE_ERROR_STATE in a program (`ice_worker_open()`), which has none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_return(
    worker: *mut ice_worker,
    data: *const c_void,
    length: usize,
) -> ice_status {
    guard(|| {
        let data = super::bytes(data.cast(), length, "data")?;
        value_end(worker)?.return_copy(data)
    })
}

/// Makes the value that this worker returns `length` bytes of zeroed memory and writes their address
/// to `*out`: the callback fills them in place, and the host reads the very same memory. They belong to
/// the worker and stay mapped until it ends. A further call, or `ice_worker_return()`, replaces the
/// value. For 0 bytes the address is not NULL and not to be used. Errors as `ice_worker_return()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_return_buffer(
    worker: *mut ice_worker,
    length: usize,
    out: *mut *mut c_void,
) -> ice_status {
    guard(|| {
        let out = output(out, "out")?;
        *out = value_end(worker)?.return_buffer(length)?.cast();
        Ok(())
    })
}

/// Records why this worker is about to fail, in torch's error-file form, in the file that
/// TORCHELASTIC_ERROR_FILE names; the agent reports the text as the reason. For any worker, callback or
/// program, also one that is not started by this library. `message` is the reason; `call_stack` may be
/// NULL. Bytes that are not UTF-8 are replaced. The file appears whole or not at all (it is written
/// under another name and renamed); a later call replaces it. Does not end the worker.
///
/// Any thread, but not a signal handler. ICE_ERROR_STATE where the variable is unset or empty,
/// ICE_ERROR_SYSTEM where the file cannot be written.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_record_error(message: *const c_char, call_stack: *const c_char) -> ice_status {
    guard(|| {
        let message = text(message, "message")?;
        let call_stack = if call_stack.is_null() { &[][..] } else { text(call_stack, "call_stack")? };
        error_file::record(message, call_stack)
    })
}
