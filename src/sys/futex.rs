//! Words in shared memory that threads of several processes wait at: futex(2), never private.

use std::sync::atomic::AtomicI32;
use std::time::Duration;

/// Waits while the word has this value, until somebody wakes those who wait there or the time is over. May
/// return for no reason, as after a signal: the caller looks again.
pub fn wait(word: &AtomicI32, value: i32, limit: Option<Duration>) {
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().min(i64::MAX as u64) as _,
        tv_nsec: libc::c_long::from(limit.subsec_nanos() as i32),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is aligned and mapped while the reference lives; the time-out is NULL or a timespec.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, limit, 0usize, 0) };
}

/// Wakes all that wait at the word, in whatever process.
pub fn wake(word: &AtomicI32) {
    // SAFETY: as above; no memory is touched.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0usize, 0usize, 0) };
}
