//! Requests to a running agent: from other threads, from signal handlers of the host, and from handlers
//! of our own, which stand only on request and only for the time of a run.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::dispositions;
use super::fd::Bell;
use super::signal_set::{self, bit, has};

/// Where requests to one agent arrive. Everything but `new` is async-signal-safe.
pub struct Inbox {
    pid: u32,
    bell: Bell,
    /// The first stop: its signal, 0 for one without, NO_STOP for none.
    stop: AtomicI32,
    /// A further stop by SIGINT or SIGQUIT: somebody is waiting.
    hurry: AtomicBool,
    /// Signals to hand to the workers, bit n - 1 for signal n.
    pass: AtomicU64,
    /// The health check asks for one turn of the loop; nothing else is wanted.
    knocked: AtomicBool,
    /// How many interrupts there were that are not to stop at once.
    interrupts: AtomicUsize,
    /// A child has ended, whosever.
    child_ended: AtomicBool,
    /// Signals that ask for a checkpoint.
    save: AtomicU64,
    /// All is to stand still.
    suspend: AtomicBool,
    /// What our handlers take each signal for.
    meanings: [AtomicU64; Meaning::ALL.len()],
}

/// What a signal of the host is to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// An interrupt that is not to stop at once.
    Ask,
    Stop,
    /// Workers save, and go on.
    Save,
    /// Everything stands still until it is continued.
    Suspend,
    /// Workers get it too.
    Pass,
}

impl Meaning {
    const ALL: [Meaning; 5] = [Meaning::Ask, Meaning::Stop, Meaning::Save, Meaning::Suspend, Meaning::Pass];
}

const NO_STOP: i32 = -1;

impl Inbox {
    pub fn new() -> Result<Inbox, Errno> {
        Ok(Inbox {
            pid: std::process::id(),
            bell: Bell::new()?,
            stop: AtomicI32::new(NO_STOP),
            hurry: AtomicBool::new(false),
            pass: AtomicU64::new(0),
            knocked: AtomicBool::new(false),
            interrupts: AtomicUsize::new(0),
            child_ended: AtomicBool::new(false),
            save: AtomicU64::new(0),
            suspend: AtomicBool::new(false),
            meanings: Default::default(),
        })
    }

    /// Whether this is the process that made it, not a forked copy.
    pub fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    pub fn stop(&self, signal: i32) {
        let first = self.stop.compare_exchange(NO_STOP, signal, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !first && matches!(signal, libc::SIGINT | libc::SIGQUIT) {
            self.hurry.store(true, Ordering::Release);
        }
        self.bell.ring();
    }

    pub fn pass(&self, signal: i32) {
        self.pass.fetch_or(bit(signal), Ordering::AcqRel);
        self.bell.ring();
    }

    /// Wakes the agent, which then looks at whatever may have changed.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Wakes whoever waits for requests, and wants nothing.
    pub fn knock(&self) {
        self.knocked.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// The stop that was asked for, if any.
    pub fn stop_requested(&self) -> Option<i32> {
        let signal = self.stop.load(Ordering::Acquire);
        (signal != NO_STOP).then_some(signal)
    }

    /// Whether anything arrived: quick enough to ask between two spawns.
    pub fn has_requests(&self) -> bool {
        self.stop_requested().is_some()
            || self.is_interrupted()
            || self.pass.load(Ordering::Acquire) != 0
            || self.save.load(Ordering::Acquire) != 0
            || self.suspend.load(Ordering::Acquire)
            || self.knocked.load(Ordering::Acquire)
    }

    pub fn is_interrupted(&self) -> bool {
        self.interrupts.load(Ordering::Acquire) != 0
    }

    /// Takes the interrupts: how many there were.
    pub fn take_interrupts(&self) -> usize {
        self.interrupts.swap(0, Ordering::AcqRel)
    }

    pub fn child_ended(&self) -> bool {
        self.child_ended.load(Ordering::Acquire)
    }

    /// The next child that ends rings the bell again.
    pub fn forget_ended_children(&self) {
        self.child_ended.store(false, Ordering::Release);
    }

    pub fn in_a_hurry(&self) -> bool {
        self.hurry.load(Ordering::Acquire)
    }

    /// Takes the signals to hand on, and makes the descriptor quiet.
    pub fn take_passed(&self) -> impl Iterator<Item = i32> + use<> {
        self.bell.quiet();
        self.knocked.store(false, Ordering::Release);
        signal_set::signals(self.pass.swap(0, Ordering::AcqRel))
    }

    /// Takes the signals that asked for a checkpoint.
    pub fn take_saves(&self) -> impl Iterator<Item = i32> + use<> {
        signal_set::signals(self.save.swap(0, Ordering::AcqRel))
    }

    /// Takes the wish that all stand still.
    pub fn take_suspend(&self) -> bool {
        self.suspend.swap(false, Ordering::AcqRel)
    }

    fn deliver(&self, signal: i32) {
        if signal == libc::SIGCHLD {
            if !self.child_ended.swap(true, Ordering::AcqRel) {
                self.bell.ring();
            }
            return;
        }
        let is = |meaning: Meaning| has(self.meanings[meaning as usize].load(Ordering::Acquire), signal);
        match Meaning::ALL.into_iter().find(|&meaning| is(meaning)) {
            None => return,
            Some(Meaning::Stop) => return self.stop(signal),
            Some(Meaning::Pass) => return self.pass(signal),
            Some(Meaning::Ask) => drop(self.interrupts.fetch_add(1, Ordering::AcqRel)),
            Some(Meaning::Save) => drop(self.save.fetch_or(bit(signal), Ordering::AcqRel)),
            Some(Meaning::Suspend) => self.suspend.store(true, Ordering::Release),
        }
        self.bell.ring();
    }
}

impl AsRawFd for Inbox {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// How many agents of one process may handle signals at the same time.
const AGENTS: usize = 256;

static LISTENING: [AtomicPtr<Inbox>; AGENTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; AGENTS];
/// Handlers that run right now, in whatever thread: an inbox is freed only when none does.
static IN_HANDLERS: AtomicUsize = AtomicUsize::new(0);
/// How many agents want each signal; guards OLD.
static WANTED: Mutex<[usize; 64]> = Mutex::new([0; 64]);
static OLD: Old = Old([const { UnsafeCell::new(MaybeUninit::uninit()) }; 64]);

struct Old([UnsafeCell<MaybeUninit<libc::sigaction>>; 64]);

// SAFETY: written under WANTED before the handler of that signal is installed, read only while it stands.
unsafe impl Sync for Old {}

extern "C" fn on_signal(signal: i32) {
    let errno = Errno::last_raw();
    IN_HANDLERS.fetch_add(1, Ordering::AcqRel);
    let mut forked = false;
    for slot in &LISTENING {
        let inbox = slot.load(Ordering::Acquire);
        // SAFETY: an inbox in a slot is alive, and stays so while IN_HANDLERS is not 0.
        let Some(inbox) = (unsafe { inbox.as_ref() }) else { continue };
        if inbox.is_ours() {
            inbox.deliver(signal);
        } else {
            forked = true;
        }
    }
    IN_HANDLERS.fetch_sub(1, Ordering::AcqRel);
    if forked {
        // A forked copy of the host has no agent: it gets the host's own disposition back.
        // SAFETY: this handler stands, so OLD was written; raise and sigaction are async-signal-safe.
        unsafe {
            libc::sigaction(signal, (*OLD.0[signal as usize - 1].get()).as_ptr(), std::ptr::null_mut());
            libc::raise(signal);
        }
    }
    Errno::set_raw(errno);
}

/// Handlers that stand until this is dropped.
pub struct Handlers {
    slot: usize,
    inbox: Arc<Inbox>,
    installed: Vec<i32>,
}

impl Handlers {
    /// Installs handlers for these signals, but for those that the host ignores; `children`: for SIGCHLD too.
    pub fn install(
        inbox: &Arc<Inbox>,
        meanings: &BTreeMap<i32, Meaning>,
        children: bool,
    ) -> Result<Handlers, Errno> {
        let mut wanted = WANTED.lock();
        let slot =
            LISTENING.iter().position(|slot| slot.load(Ordering::Acquire).is_null()).ok_or(Errno::EAGAIN)?;
        for (&signal, &meaning) in meanings {
            inbox.meanings[meaning as usize].fetch_or(bit(signal), Ordering::Release);
        }
        LISTENING[slot].store(Arc::as_ptr(inbox).cast_mut(), Ordering::Release);
        let mut handlers = Handlers { slot, inbox: inbox.clone(), installed: Vec::new() };
        let children = children.then_some(libc::SIGCHLD);
        for signal in meanings.keys().copied().chain(children) {
            let index = signal as usize - 1;
            if wanted[index] == 0 && (dispositions::is_ignored(signal) || install(signal).is_err()) {
                continue;
            }
            wanted[index] += 1;
            handlers.installed.push(signal);
        }
        Ok(handlers)
    }
}

fn install(signal: i32) -> Result<(), Errno> {
    // SAFETY: a zeroed sigaction is a valid one with an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
    // ONSTACK for hosts whose threads have small stacks (Go demands it).
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    let old = OLD.0[signal as usize - 1].get();
    // SAFETY: the handler is async-signal-safe. OLD is ours: WANTED is locked, the handler does not stand.
    unsafe {
        Errno::result(libc::sigaction(signal, std::ptr::null(), (*old).as_mut_ptr()))?;
        Errno::result(libc::sigaction(signal, &raw const action, std::ptr::null_mut())).map(drop)
    }
}

/// Puts the old disposition back, unless the host has put another one there meanwhile.
fn restore(signal: i32) {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the buffer has the size of a sigaction, and is a valid one from the start.
    let stands = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == on_signal as extern "C" fn(i32) as usize
    };
    if stands {
        take_pending(signal);
        // SAFETY: `install` wrote OLD for this signal; WANTED is locked.
        unsafe {
            let old = (*OLD.0[signal as usize - 1].get()).as_ptr();
            libc::sigaction(signal, old, std::ptr::null_mut());
        }
    }
}

/// What has come is for the handler that stands: on a busy machine a thread of the host has it pending still, and
/// would find the old disposition when it runs.
fn take_pending(signal: i32) {
    // Of the host's children it may be, who waits for it.
    if signal == libc::SIGCHLD {
        return;
    }
    let mut only = MaybeUninit::<libc::sigset_t>::uninit();
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the sets are initialised before they are used, and NULL is for what is not wanted.
    unsafe {
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), signal);
        if libc::pthread_sigmask(libc::SIG_BLOCK, only.as_ptr(), mask.as_mut_ptr()) != 0 {
            return;
        }
        if libc::sigtimedwait(only.as_ptr(), std::ptr::null_mut(), &raw const no_time) == signal {
            on_signal(signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), std::ptr::null_mut());
    }
}

/// Stops this whole process as ^Z does where nobody handles it, until somebody continues it. Returns at once where
/// nobody could, as the kernel knows: in a process group without a shell over it.
pub fn suspend_self() {
    let _alone = WANTED.lock();
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    let mut only = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a zeroed sigaction is that of SIG_DFL; the sets are initialised before they are used. The signal is
    // sent to this thread, where it is blocked: it is taken when it is let in, so that this thread does nothing
    // until the process goes on.
    unsafe {
        let standard = MaybeUninit::<libc::sigaction>::zeroed();
        if libc::sigaction(libc::SIGTSTP, standard.as_ptr(), old.as_mut_ptr()) != 0 {
            return;
        }
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), libc::SIGTSTP);
        libc::raise(libc::SIGTSTP);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), std::ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_BLOCK, only.as_ptr(), std::ptr::null_mut());
        libc::sigaction(libc::SIGTSTP, old.as_ptr(), std::ptr::null_mut());
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        if !self.inbox.is_ours() {
            return;
        }
        let mut wanted = WANTED.lock();
        for &signal in &self.installed {
            let count = &mut wanted[signal as usize - 1];
            *count -= 1;
            if *count == 0 {
                restore(signal);
            }
        }
        LISTENING[self.slot].store(std::ptr::null_mut(), Ordering::Release);
        while IN_HANDLERS.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal, raise};

    use super::*;

    #[test]
    fn sig_what_came_during_the_run_is_not_left_to_the_host() {
        let only = SigSet::from(Signal::SIGUSR2);
        let inbox = Arc::new(Inbox::new().unwrap());
        let meanings = BTreeMap::from([(libc::SIGUSR2, Meaning::Pass)]);
        only.thread_block().unwrap();
        let handlers = Handlers::install(&inbox, &meanings, false).unwrap();
        raise(Signal::SIGUSR2).unwrap();
        assert!(!inbox.has_requests(), "it is pending");
        drop(handlers);
        assert_eq!(inbox.take_passed().collect::<Vec<_>>(), [libc::SIGUSR2]);
        // It would end this process.
        only.thread_unblock().unwrap();
    }
}
