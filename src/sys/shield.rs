//! A worker's shield against signals that are meant for its agent and reach it too: they are nothing to it until its
//! agent stops it.
//!
//! A worker is started with these signals ignored. Once it takes part in control it has a handler in their place that
//! does nothing while the page says so: unlike what is ignored, a handler does not pass to a program that the worker
//! starts, and a forked copy of it, Python's own kind of child say, is as it would be without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use nix::errno::Errno;

use super::{dispositions, signal_set};

/// The set of signals in the page, which the agent takes back before it sends one itself.
static SET: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The process that has the shield.
static OWNER: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: i32) {
    let errno = Errno::last_raw();
    // SAFETY: `raise_over` keeps it for the life of the process.
    let set = unsafe { SET.load(Ordering::Acquire).as_ref() };
    let stands = OWNER.load(Ordering::Acquire) == std::process::id() as i32
        && set.is_some_and(|set| signal_set::has(set.load(Ordering::Acquire), signal));
    if !stands {
        // SAFETY: both are async-signal-safe. The signal is blocked until this returns, then ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    Errno::set_raw(errno);
}

/// In a worker: handles the signals of this set that it was started to ignore, and still does. `keeper` has the set,
/// and is never freed.
pub fn raise_over<T: Send + Sync + 'static>(keeper: &Arc<T>, set: impl Fn(&T) -> &AtomicU64) {
    let signals = set(keeper).load(Ordering::Acquire);
    if signals == 0 {
        return;
    }
    let keeper: &'static Arc<T> = Box::leak(Box::new(keeper.clone()));
    SET.store(std::ptr::from_ref(set(keeper)).cast_mut(), Ordering::Release);
    OWNER.store(std::process::id() as i32, Ordering::Release);
    for signal in signal_set::signals(signals).filter(|&signal| dispositions::is_ignored(signal)) {
        // SAFETY: a zeroed sigaction is a valid one with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe, and what it reads stays for good.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}
