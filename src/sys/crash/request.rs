//! The stack of a thread on request: the agent sends each thread of a worker a signal, and the handler adds
//! where the thread is to a file beside the error file. The thread then goes on; the worker is to be ended
//! anyway, but not by this.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;

use super::frames::{Place, Trace};
use super::text::{Lossy, Text};
use super::{OWNER, PATH, TARGET, die, kernel, leave, place, set_place};

/// SIGRTMAX - 2: the last two are valgrind's and a habit.
pub const SIGNAL: c_int = 62;
/// What the name of the file has after that of the error file.
pub const SUFFIX: &str = ".stack";

/// How often a thread looks whether it is its turn, each time a millisecond later. It may hold a lock that the
/// one before it waits for.
const LOOKS: usize = 3000;

/// The thread that has its turn; 0 for none.
static TURN: AtomicUsize = AtomicUsize::new(0);
static DUMP: Shared = Shared(UnsafeCell::new(Dump::new()));

struct Shared(UnsafeCell<Dump>);

// SAFETY: only the thread in TURN uses it.
unsafe impl Sync for Shared {}

struct Dump {
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
    place: Option<Place>,
    trace: Trace,
    text: Text<{ 32 << 10 }>,
    path: Text<PATH>,
    /// The unwinder has crashed.
    failed: bool,
}

pub extern "C" fn on_request(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    let thread = kernel::thread();
    if TARGET.process.load(Ordering::Acquire) != kernel::process() {
        // A child of the worker: as if there were no handler.
        return die(signal, info);
    }
    let crashed = OWNER.load(Ordering::Acquire) != 0;
    if !crashed && (0..LOOKS).any(|_| take_turn(thread)) {
        // SAFETY: it is this thread's turn.
        let dump = unsafe { &mut *DUMP.0.get() };
        dump.begin(info, context.cast());
        dump.unwind();
        dump.write(thread);
        TURN.store(0, Ordering::Release);
    }
    Errno::set_raw(errno);
}

fn take_turn(thread: usize) -> bool {
    let taken = TURN.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !taken {
        kernel::pause(1);
    }
    taken
}

/// Called when this thread crashes. If that is because it looked at its own stack, it writes down what it has
/// and goes on where the request had come; else this returns.
pub fn survive(thread: usize) {
    if TURN.load(Ordering::Acquire) != thread {
        return;
    }
    // SAFETY: it is this thread's turn, and the handler that was interrupted never goes on.
    let dump = unsafe { &mut *DUMP.0.get() };
    dump.restore_place();
    if !std::mem::replace(&mut dump.failed, true) {
        dump.write(thread);
    }
    TURN.store(0, Ordering::Release);
    // SAFETY: the frame of `on_request`'s handler is still on the stack, above this one.
    unsafe { leave(dump.info, dump.context) }
}

impl Dump {
    const fn new() -> Dump {
        Dump {
            info: std::ptr::null_mut(),
            context: std::ptr::null_mut(),
            place: None,
            trace: Trace::new(),
            text: Text::new(),
            path: Text::new(),
            failed: false,
        }
    }

    fn begin(&mut self, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        (self.info, self.context, self.place, self.failed) = (info, context, place(context), false);
        self.trace.clear();
        if let Some(place) = self.place {
            self.trace.start(place.pc);
        }
    }

    fn unwind(&mut self) {
        if let Some(place) = self.place {
            let first = self.trace.first_place(place);
            set_place(self.context, first);
            self.trace.unwind(first.pc);
            self.restore_place();
        }
    }

    fn restore_place(&mut self) {
        if let Some(place) = self.place {
            set_place(self.context, place);
        }
    }

    fn write(&mut self, thread: usize) {
        self.trace.locate();
        self.trace.symbolise();
        self.path.cut(0);
        let named = [TARGET.file().to_bytes(), SUFFIX.as_bytes(), b"\0"]
            .into_iter()
            .try_for_each(|part| self.path.push(part));
        let Ok(path) = CStr::from_bytes_with_nul(self.path.bytes()) else { return };
        if named.and_then(|()| describe(&mut self.text, thread, &self.trace, self.failed)).is_ok()
            && let Some(file) = kernel::File::append(path)
        {
            let _ = file.write_all(self.text.bytes());
        }
    }
}

/// One paragraph: the agent counts them.
fn describe<const N: usize>(text: &mut Text<N>, thread: usize, trace: &Trace, failed: bool) -> fmt::Result {
    const END: usize = 100; // room for what follows the frames
    let mut name = [0; 64];
    text.cut(0);
    write!(text, "thread {thread} ({}):", Lossy(kernel::thread_name(&mut name)))?;
    for line in trace.lines() {
        let before = text.len();
        if write!(text, "\n{line}").is_err() || text.room() < END {
            text.cut(before);
            break;
        }
    }
    if failed {
        text.push(b"\n(the stack could not be followed further)")?;
    } else if trace.cut {
        text.push(b"\n(and more)")?;
    }
    text.push(b"\n\n")
}
