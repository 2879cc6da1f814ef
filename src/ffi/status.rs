//! `ice_status`, the error text of the calling thread, and the guard every exported function runs in.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;
use crate::shown::on_one_line;

/// What a call of this library came to. 0 is success, failures are negative, numbers are never
/// reused. How a *run* ended is not a status: it is in the result, see `ice_result_end()`.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_status {
    /// The call did what it says.
    ICE_OK = 0,
    /// A pointer is NULL that must not be, an index is out of range, or a number is not one of its
    /// enum. Outputs are untouched.
    ICE_ERROR_ARGUMENT = -1,
    /// The spec, or a value of a call, asks for something that cannot be. The message names the field, its
    /// value, and what would be right. Nothing was started.
    ICE_ERROR_CONFIG = -2,
    /// The call does not fit the state of the handle: a second run of one agent, a wait before start.
    ICE_ERROR_STATE = -3,
    /// The time-out of a wait passed and the run still goes on: nothing was changed. Or GPUs were not listed
    /// in time; or what was waited for in a store was not there, or no store to connect to.
    ICE_ERROR_TIMEOUT = -4,
    /// The handle belongs to a process of which this one is a forked copy. Nothing was touched.
    ICE_ERROR_FORKED = -5,
    /// A system call failed; the message names it and its errno.
    ICE_ERROR_SYSTEM = -6,
    /// A defect of this library: a panic was caught at the border. Please report the message.
    ICE_ERROR_INTERNAL = -7,
    /// A process could not be started, or not come to its work; the message says why. Where workers are
    /// started in the background, it is in the result instead: ICE_END_START_ERROR.
    ICE_ERROR_START = -8,
    /// The GPUs could not be listed: the CUDA driver crashed, failed, or is not one that can be asked. The
    /// message says which of its calls and how.
    ICE_ERROR_DEVICE = -9,
    /// The server of a store closed the connection, does not answer in time, or lacks what was asked for; the
    /// message says which. If the connection is lost, every further call on the handle fails with this. So does
    /// one that `ice_store_interrupt()` ends.
    ICE_ERROR_STORE = -10,
    /// The generation of a broadcast is over: a later one was broadcast. Who gets this belongs to a round that the
    /// others have left.
    ICE_ERROR_STALE = -11,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs the body of an exported function: no panic leaves it, and an error becomes a status and the
/// calling thread's message.
pub(super) fn guard(body: impl FnOnce() -> Result<(), Error>) -> ice_status {
    let (status, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return ice_status::ICE_OK,
        Ok(Err(error)) => (status_of(&error), error.to_string()),
        Err(panic) => (ice_status::ICE_ERROR_INTERNAL, crate::error::panic_text(&*panic)),
    };
    // try_with: a host may call from a destructor of its own thread-local data, after ours is gone.
    let _ = LAST_ERROR.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = crate::error::c_string_lossy(on_one_line(&text).as_bytes());
        }
    });
    status
}

/// As `guard`, for functions that return a value: `fallback` in place of an error or a panic.
pub(super) fn guard_value<T>(fallback: T, body: impl FnOnce() -> Result<T, Error>) -> T {
    let mut value = fallback;
    let slot = &mut value;
    guard(move || {
        *slot = body()?;
        Ok(())
    });
    value
}

fn status_of(error: &Error) -> ice_status {
    match error {
        Error::Argument { .. } => ice_status::ICE_ERROR_ARGUMENT,
        Error::Config { .. } => ice_status::ICE_ERROR_CONFIG,
        Error::State { .. } => ice_status::ICE_ERROR_STATE,
        Error::Start { .. } => ice_status::ICE_ERROR_START,
        Error::Timeout { .. } => ice_status::ICE_ERROR_TIMEOUT,
        Error::Forked { .. } => ice_status::ICE_ERROR_FORKED,
        Error::Program { .. } | Error::System { .. } => ice_status::ICE_ERROR_SYSTEM,
        Error::Device { .. } => ice_status::ICE_ERROR_DEVICE,
        Error::Store { .. } | Error::Interrupted { .. } | Error::Rendezvous { .. } => {
            ice_status::ICE_ERROR_STORE
        }
        Error::Stale { .. } => ice_status::ICE_ERROR_STALE,
        Error::Internal { .. } => ice_status::ICE_ERROR_INTERNAL,
    }
}

/// The name of a status, for instance `"ICE_ERROR_CONFIG"`; `"unknown status"` for a number that is
/// none. Static text, never NULL, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_status_string(status: i32) -> *const c_char {
    let name: &CStr = match status {
        0 => c"ICE_OK",
        -1 => c"ICE_ERROR_ARGUMENT",
        -2 => c"ICE_ERROR_CONFIG",
        -3 => c"ICE_ERROR_STATE",
        -4 => c"ICE_ERROR_TIMEOUT",
        -5 => c"ICE_ERROR_FORKED",
        -6 => c"ICE_ERROR_SYSTEM",
        -7 => c"ICE_ERROR_INTERNAL",
        -8 => c"ICE_ERROR_START",
        -9 => c"ICE_ERROR_DEVICE",
        -10 => c"ICE_ERROR_STORE",
        -11 => c"ICE_ERROR_STALE",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// What the last failing call *of the calling thread* had to say: one line of UTF-8 without a
/// newline, empty before the first failure. Borrowed: valid until the next failing call of the same
/// thread. A success does not clear it. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_last_error_message() -> *const c_char {
    let empty = c"".as_ptr();
    LAST_ERROR.try_with(|last| last.try_borrow().map_or(empty, |last| last.as_ptr())).unwrap_or(empty)
}

/// The version of the library at run time, `"major.minor.patch"`. Static text, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the function returns a NUL-terminated string that lives until this thread's next failure.
        unsafe { CStr::from_ptr(ice_last_error_message()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn abi_05_a_panic_becomes_an_internal_error_with_its_message() {
        let status = guard(|| panic!("broken on purpose"));
        assert_eq!(status, ice_status::ICE_ERROR_INTERNAL);
        assert!(last().contains("broken on purpose"), "{}", last());
    }

    #[test]
    fn abi_06_the_message_belongs_to_the_thread() {
        guard(|| Err(Error::Argument { what: "mine".into() }));
        std::thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
        assert!(last().contains("mine"));
    }
}
