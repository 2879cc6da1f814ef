//! What an agent handed to this process when it was executed as a worker, or as a server of workers:
//! descriptors from 3 on. The first is a memfd whose first words say so, and name this very process, so
//! that a descendant that inherits it is not taken for a worker. No variable, no argument.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// "libice" and the version of what the channel holds, which both sides must have in common.
pub const MAGIC: u64 = u64::from_le_bytes(*b"libice\0\x01");
/// Descriptors from this one on.
pub const FIRST: RawFd = 3;
/// How many there may be.
pub const MOST: usize = 4;

/// Where the header has the number of the process: after MAGIC and the kind.
const PROCESS_AT: libc::off_t = 16;

const UNKNOWN: i32 = 0;
const NOTHING: i32 = 1;
const WAITING: i32 = 2;
const TAKEN: i32 = 3;

static STATE: AtomicI32 = AtomicI32::new(UNKNOWN);
/// The process that is waiting: a forked copy of it is not.
static PROCESS: AtomicU32 = AtomicU32::new(0);

#[used]
// SAFETY: the linker's table of constructors; the function below has the signature it wants.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// When the library is loaded: before main, for a program that links it. Descendants that main may start
/// before it says that this is a worker do not get the descriptors.
extern "C" fn look() {
    if STATE.load(Ordering::Acquire) != UNKNOWN {
        return;
    }
    let mut header = [0u64; 3];
    // SAFETY: as many writable bytes as are asked for; any descriptor may be given.
    let read = unsafe { libc::pread(FIRST, header.as_mut_ptr().cast(), size_of_val(&header), 0) };
    let ours = read == size_of_val(&header) as isize
        && header[0] == MAGIC
        && header[2] == u64::from(std::process::id());
    if ours {
        for fd in FIRST..FIRST + MOST as RawFd {
            // SAFETY: plain numbers; the descriptors are the library's.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    PROCESS.store(std::process::id(), Ordering::Release);
    STATE.store(if ours { WAITING } else { NOTHING }, Ordering::Release);
}

/// Whether this process was executed as a worker that has not begun its work.
pub fn is_waiting() -> bool {
    look();
    STATE.load(Ordering::Acquire) == WAITING && PROCESS.load(Ordering::Acquire) == std::process::id()
}

/// The descriptors, once: for the caller that becomes the worker.
pub fn take() -> Option<[OwnedFd; MOST]> {
    let taken =
        is_waiting() && STATE.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if taken {
        // A second copy of this library, that of a shared object, is not to take it for its own.
        let nobody = 0u64;
        // SAFETY: eight readable bytes, and the agent's own memory.
        unsafe { libc::pwrite(FIRST, (&raw const nobody).cast(), size_of_val(&nobody), PROCESS_AT) };
    }
    // SAFETY: the agent put them there for us, and nobody took them before.
    taken.then(|| std::array::from_fn(|index| unsafe { OwnedFd::from_raw_fd(FIRST + index as RawFd) }))
}
