//! What can go wrong in a call, as one closed enum with context.

use std::any::Any;
use std::ffi::CString;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A wrong argument of a C function: NULL, out of range.
    Argument { what: String },
    /// A field of the spec that cannot be.
    Config { field: &'static str, value: String, want: String },
    /// A call that does not fit the state of its handle.
    State { what: &'static str },
    /// A worker, or what workers are made by, could not start.
    Start { what: String },
    /// A wait that ended before what it waited for.
    Timeout { what: String },
    /// A handle used in a forked copy of its process.
    Forked { handle: &'static str },
    /// The program of the workers cannot be executed.
    Program { what: String, errno: i32 },
    /// A failed system call.
    System { what: String, errno: i32 },
    /// The GPUs could not be listed.
    Device { what: String },
    /// The server of a store cannot be spoken with any more, or not in this way.
    Store { what: String },
    /// A call that was ended from another thread, or made after that.
    Interrupted { what: String },
    /// The agents of a job cannot become, or stay, one.
    Rendezvous { what: String },
    /// A round that others have left behind.
    Stale { what: String },
    /// A defect of this library.
    Internal { what: String },
}

impl Error {
    pub fn config(field: &'static str, value: impl fmt::Display, want: impl Into<String>) -> Error {
        Error::Config { field, value: value.to_string(), want: want.into() }
    }

    pub fn fork_after_cuda() -> Error {
        Error::State {
            what: "CUDA is initialised in this process, and cannot be used in a forked copy of it: start the \
                   function by spawn or forkserver, or from a shared object, with ice_spec_set_function()",
        }
    }

    pub fn system(what: impl Into<String>, errno: i32) -> Error {
        Error::System { what: what.into(), errno }
    }

    /// Whether what could not be started at a restart may start a while later: something has run out that others
    /// give back, or is missing because it is being replaced. It started once, so its words are no defect of it.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::System { errno, .. } | Error::Program { errno, .. } => may_pass(*errno),
            Error::Start { .. } | Error::Timeout { .. } => true,
            Error::Argument { .. }
            | Error::Config { .. }
            // A GPU that is gone, or has another number: the documented end of a run.
            | Error::Device { .. }
            | Error::State { .. }
            | Error::Forked { .. }
            | Error::Store { .. }
            | Error::Interrupted { .. }
            | Error::Rendezvous { .. }
            | Error::Stale { .. }
            | Error::Internal { .. } => false,
        }
    }

    pub fn no_thread(error: &std::io::Error) -> Error {
        let errno = error.raw_os_error().unwrap_or(0);
        // The C library makes do with clone only where clone3 is not known.
        let filtered = errno == nix::errno::Errno::EPERM as i32;
        let what = if filtered {
            "cannot make a thread: clone3 (a sandbox is to answer ENOSYS, not EPERM)"
        } else {
            "cannot make a thread"
        };
        Error::system(what, errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Argument { what } => write!(out, "argument error: {what}"),
            Error::Config { field, value, want } => {
                write!(out, "config error: {field} is {}: {want}", one_line(value))
            }
            Error::State { what } => write!(out, "{what}"),
            Error::Start { what } => write!(out, "{what}"),
            Error::Timeout { what } => write!(out, "{what}"),
            Error::Device { what }
            | Error::Store { what }
            | Error::Rendezvous { what }
            | Error::Interrupted { what }
            | Error::Stale { what } => write!(out, "{what}"),
            Error::Forked { handle } => {
                write!(out, "this {handle} belongs to the process this one was forked from")
            }
            Error::Program { what, errno } | Error::System { what, errno } => {
                write!(out, "{what}: {}", errno_text(*errno))
            }
            Error::Internal { what } => write!(out, "internal error: {what}"),
        }
    }
}

impl std::error::Error for Error {}

fn may_pass(errno: i32) -> bool {
    match errno {
        // Processes, memory, descriptors, space on a disk, ports.
        libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS | libc::EMFILE | libc::ENFILE => true,
        libc::ENOSPC | libc::EDQUOT | libc::EADDRINUSE => true,
        // A program that is being installed anew, an interpreter, a working directory.
        libc::ENOENT | libc::ETXTBSY | libc::EBUSY => true,
        // A file system over a network, or one that is mounted when it is needed.
        libc::ESTALE | libc::EIO | libc::ETIMEDOUT | libc::EHOSTDOWN | libc::EHOSTUNREACH => true,
        libc::EINTR => true,
        _ => false,
    }
}

/// `ENOENT: No such file or directory`, as the field writes it.
pub fn errno_text(errno: i32) -> String {
    let known = nix::errno::Errno::from_raw(errno);
    format!("{known:?}: {}", known.desc())
}

/// The text a panic carried.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into());
    format!("internal error: {text}")
}

/// Text for C: bytes up to the first NUL.
pub fn c_string_lossy(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// A value as it may stand in a message: quoted where it has something that would break the line, cut
/// where it is long.
fn one_line(value: &str) -> String {
    const LONG: usize = 200;
    let mut text: String = value.chars().take(LONG).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        format!("{text:?}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rst_06_what_may_pass_and_what_cannot() {
        let of = |errno| Error::system("x", errno).may_pass();
        for errno in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ENOSPC, libc::EDQUOT] {
            assert!(of(errno), "{errno}");
        }
        for errno in [libc::EADDRINUSE, libc::ENOENT, libc::ETXTBSY, libc::ESTALE] {
            assert!(of(errno), "{errno}");
        }
        for errno in [0, libc::EACCES, libc::EPERM, libc::ENOEXEC, libc::ENOTDIR, libc::E2BIG, libc::EINVAL] {
            assert!(!of(errno), "{errno}");
        }
        assert!(Error::Start { what: "the fork server is gone".into() }.may_pass());
        assert!(!Error::Device { what: "fell off the bus".into() }.may_pass());
        assert!(!Error::fork_after_cuda().may_pass());
        assert!(!Error::config("program", "x", "must be").may_pass());
    }
}
