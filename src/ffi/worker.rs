//! `ice_worker`: the worker's side of a callback, and the error file for any worker.

use std::ffi::{c_char, c_void};

use super::status::{guard, guard_value, ice_status};
use super::{handle, output, text};
use crate::error::Error;
use crate::process::callback::WorkerSide;
use crate::report::error_file;

/// The worker that a callback runs as. It exists in the worker's process only, is made before the
/// callback is called and ends with it; one thread at a time.
pub struct ice_worker {
    _opaque: [u8; 0],
}

/// A function as a worker. It runs in a forked copy of the host, on a stack as large as a main
/// thread's (getrlimit(2), RLIMIT_STACK; 64 MiB where that is unlimited), the only thread there. It
/// has the worker's environment and working directory, a process group of its own, no signal handler
/// of the host, no descriptor of the host but 0, 1 and 2 (3, close-on-exec, is the library's way for the
/// value), and empty buffers in stdout and stderr.
///
/// What it returns is the worker's exit code: 0 is success, 1 to 255 a failure with that code, any
/// other number a failure with code 255. Before the process ends, functions that the callback itself
/// gave to atexit(3) run, then stdout and stderr are flushed; the host's own atexit functions and
/// buffers are left alone. Other stdio streams that the callback opened are its own to close.
///
/// exit(0) or _exit(0) without a return from the callback is a failure ("exited without returning"),
/// exit(n) a failure with code n. A C++ exception or Rust panic that leaves the callback ends the
/// worker with SIGABRT. Threads that still run when it returns end with the process.
pub type ice_worker_fn = Option<extern "C" fn(worker: *mut ice_worker, user_data: *mut c_void) -> i32>;

fn side<'a>(worker: *const ice_worker) -> Result<&'a WorkerSide, Error> {
    handle(worker.cast::<WorkerSide>(), "worker")
}

/// RANK of this worker; -1 for NULL. Likewise the five functions after it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_rank(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.global as i32))
}

/// LOCAL_RANK of this worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_local_rank(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.local as i32))
}

/// ROLE_RANK of this worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_role_rank(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.role as i32))
}

/// WORLD_SIZE: how many workers there are in all.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_world_size(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.world_size as i32))
}

/// LOCAL_WORLD_SIZE: how many workers this agent has.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_local_world_size(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.rank.local_world_size as i32))
}

/// TORCHELASTIC_RESTART_COUNT: 0 in the first attempt.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_restart_count(worker: *const ice_worker) -> i32 {
    guard_value(-1, || Ok(side(worker)?.attempt as i32))
}

/// Sets the value that this worker returns to a copy of `length` bytes at `data`; 0 bytes are a value
/// too, told apart from none. Any size that memory holds. A further call replaces the value. The host
/// finds it in `ice_worker_result` if the worker then succeeds. ICE_ERROR_SYSTEM where the memory
/// cannot be had; the value is then none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_return(
    worker: *mut ice_worker,
    data: *const c_void,
    length: usize,
) -> ice_status {
    guard(|| {
        let data = super::bytes(data.cast(), length, "data")?;
        side(worker)?.return_copy(data)
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
        *out = side(worker)?.return_buffer(length)?.cast();
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
