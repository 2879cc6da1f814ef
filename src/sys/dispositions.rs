//! Which signals the host ignores or handles, so that a worker starts as if a shell had started it: what
//! was ignored when this process began stays ignored (nohup), everything else is at its default.

use std::sync::atomic::{AtomicU64, Ordering};

use super::raw;
use super::signal_set::{self, bit};

/// Signals that were ignored when the library was loaded: before main, for a program that links it.
/// SIGPIPE is not among them: runtimes (Python, Go, Rust) ignore it for themselves, and workers that
/// inherit that do not end when their reader does.
static IGNORED_AT_START: AtomicU64 = AtomicU64::new(0);

#[used]
// SAFETY: the linker's table of constructors; the function below has the signature it wants.
#[unsafe(link_section = ".init_array")]
static NOTE_IGNORED: extern "C" fn() = note_ignored;

extern "C" fn note_ignored() {
    let (ignored, _) = current();
    IGNORED_AT_START.store(ignored & !bit(libc::SIGPIPE), Ordering::Relaxed);
}

/// A set of signals, bit n - 1 for signal n, without those that were ignored when this process began: those are
/// nothing to its children anyway.
pub fn set_of(signals: impl Iterator<Item = i32>) -> u64 {
    signals.fold(0, |set, signal| set | bit(signal)) & !IGNORED_AT_START.load(Ordering::Relaxed)
}

/// Whether one of these is on its way to this process, in a thread that blocks them: another one is to take it.
pub fn are_pending(signals: u64) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the call fills the set.
    let pending = unsafe {
        libc::sigpending(pending.as_mut_ptr());
        pending.assume_init()
    };
    // SAFETY: the set is initialised.
    let is_pending = |signal| unsafe { libc::sigismember(&raw const pending, signal) } == 1;
    signal_set::signals(signals).any(is_pending)
}

fn action(signal: i32) -> Option<libc::sigaction> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; the buffer has the size of a sigaction.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: sigaction succeeded and filled it. It fails for 32 and 33, which glibc keeps to itself.
    (result == 0).then(|| unsafe { action.assume_init() })
}

/// The signals that are ignored and those that have a handler, now.
fn current() -> (u64, u64) {
    let (mut ignored, mut handled) = (0, 0);
    for signal in 1..=64 {
        match action(signal).map(|action| action.sa_sigaction) {
            None | Some(libc::SIG_DFL) => {}
            Some(libc::SIG_IGN) => ignored |= bit(signal),
            Some(_) => handled |= bit(signal),
        }
    }
    (ignored, handled)
}

pub fn is_ignored(signal: i32) -> bool {
    action(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Whether the kernel throws exit statuses away: SIGCHLD ignored, or handled with SA_NOCLDWAIT.
pub fn children_are_not_kept() -> bool {
    action(libc::SIGCHLD).is_some_and(|action| {
        action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
    })
}

/// A signal that does nothing until this is dropped, where it has neither a handler nor is ignored anyway.
pub struct Ignored(Option<i32>);

pub fn ignore_meanwhile(signal: i32) -> Ignored {
    let is_default = action(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_DFL);
    if is_default {
        // SAFETY: SIG_IGN needs nothing.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ignored(is_default.then_some(signal))
}

impl Drop for Ignored {
    fn drop(&mut self) {
        if let Some(signal) = self.0.filter(|&signal| is_ignored(signal)) {
            // SAFETY: SIG_DFL needs nothing.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Puts SIGCHLD to its default, so that neither the kernel nor a handler takes the statuses of children.
pub fn keep_children() {
    // SAFETY: SIG_DFL needs nothing.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// What a child has to put to default before it lets signals in: everything that has a handler (it would
/// run on memory shared with the host) or that the host itself ignores.
#[derive(Clone, Copy)]
pub struct Reset {
    to_default: u64,
    /// What it is to ignore.
    ignored: u64,
}

impl Reset {
    pub fn nothing() -> Reset {
        Reset { to_default: 0, ignored: 0 }
    }

    pub fn ignoring(self, signal: i32) -> Reset {
        self.ignoring_all(bit(signal))
    }

    pub fn ignoring_all(self, signals: u64) -> Reset {
        Reset { ignored: self.ignored | signals, ..self }
    }

    pub fn defaulting(self, signals: u64) -> Reset {
        Reset { to_default: self.to_default | signals, ..self }
    }

    pub fn for_children() -> Reset {
        let (ignored, handled) = current();
        let started_with = IGNORED_AT_START.load(Ordering::Relaxed);
        Reset { to_default: (ignored & !started_with) | handled, ignored: 0 }
    }

    /// In the child. Async-signal-safe.
    pub fn apply(self) {
        for (set, disposition) in [(self.to_default, libc::SIG_DFL), (self.ignored, libc::SIG_IGN)] {
            for signal in signal_set::signals(set) {
                // SAFETY: neither needs anything, and the child has a table of dispositions of its own.
                unsafe { libc::signal(signal, disposition) };
            }
        }
    }
}

/// All signals blocked in this thread, for good: no handler of the host ever runs here.
pub fn block_all() {
    set_mask(full());
}

/// The signal mask that this thread had, and has again when this is dropped.
pub struct OldMask(libc::sigset_t);

/// All signals blocked in this thread for the moment.
pub fn block_all_meanwhile() -> OldMask {
    let (all, mut old) = (full(), std::mem::MaybeUninit::<libc::sigset_t>::uninit());
    // SAFETY: the set is initialised; the call, which cannot fail, fills the old one.
    OldMask(unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, old.as_mut_ptr());
        old.assume_init()
    })
}

impl Drop for OldMask {
    fn drop(&mut self) {
        set_mask(self.0);
    }
}

/// For good, in a thread that has children. SIGCHLD stays unblocked while its disposition is the default:
/// a blocked one is kept for some other thread, and every child's end would wake that up for nothing.
pub fn block_all_in_parent() {
    let mut set = full();
    if action(libc::SIGCHLD).is_some_and(|action| action.sa_sigaction == libc::SIG_DFL) {
        // SAFETY: the set is initialised.
        unsafe { libc::sigdelset(&raw mut set, libc::SIGCHLD) };
    }
    set_mask(set);
}

/// No signal blocked in this thread, a new child's. Straight to the kernel, see `child::call`.
pub fn block_none() {
    let none: u64 = 0;
    raw::syscall(
        libc::SYS_rt_sigprocmask as usize,
        [libc::SIG_SETMASK as usize, &raw const none as usize, 0, size_of_val(&none), 0, 0],
    );
}

fn full() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_mask(set: libc::sigset_t) {
    // SAFETY: the set is initialised; the mask is the thread's own.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}
