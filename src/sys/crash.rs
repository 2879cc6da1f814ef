//! Crash records: a worker that is a function and dies of SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT says in
//! its error file where, and then dies of that signal as it would have without us, core and all.
//!
//! The handler runs in a process whose memory may be in any state: no allocation, no lock, nothing that
//! panics, memory of its own, system calls straight to the kernel. What can go wrong all the same, a crash or
//! a hang within the handler, costs the part of the record that it was at: the steps after it are still taken.
//! A worker that is stuck says where in the same way, see `request`.

mod frames;
mod kernel;
mod request;
mod text;

pub use request::{SIGNAL as STACK_SIGNAL, SUFFIX as STACK_SUFFIX};

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;

use frames::{Culprit, Place, Trace};
use text::{Quoted, Text};

const SIGNALS: [(c_int, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGABRT, "SIGABRT"),
];

/// How long a step may take.
const PATIENCE_SECONDS: i64 = 3;

/// The process that is watched and where its record goes.
struct Target {
    /// 0 before `install`.
    process: AtomicUsize,
    file: UnsafeCell<[u8; PATH]>,
}

/// With the final NUL.
const PATH: usize = 4096;
const SUFFIX: &[u8] = b".crash";

// SAFETY: the path is written before the handlers stand, when the process has one thread, and then only read.
unsafe impl Sync for Target {}

static TARGET: Target = Target { process: AtomicUsize::new(0), file: UnsafeCell::new([0; PATH]) };
/// The thread that writes the record, the first to crash; 0 before.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// The next of STEPS.
static STEP: AtomicUsize = AtomicUsize::new(0);
static CRASH: Shared = Shared(UnsafeCell::new(Crash::new()));

struct Shared(UnsafeCell<Crash>);

// SAFETY: only the thread in OWNER uses it, and a handler of its that was interrupted never goes on.
unsafe impl Sync for Shared {}

/// Does in the parent, once for all, what the handler of a child could not.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(frames::prepare);
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// What is handled: crashes, and the agent's question.
const HANDLED: [(c_int, Handler); SIGNALS.len() + 1] = {
    let mut handled = [(request::SIGNAL, request::on_request as Handler); SIGNALS.len() + 1];
    let mut index = 0;
    while index < SIGNALS.len() {
        handled[index] = (SIGNALS[index].0, on_crash as Handler);
        index += 1;
    }
    handled
};

/// The signals, by their place in HANDLED, whose handler a forked worker has from its parent.
static INHERITED: AtomicUsize = AtomicUsize::new(0);

/// In a process that only forks workers: has what `install` does for each of them be there already, the stack
/// and the handlers, but for the worker's own record. A crash of this process itself is none of theirs.
pub fn install_for_children() {
    make_stack();
    for (index, (signal, handler)) in HANDLED.into_iter().enumerate() {
        if is_default(signal) {
            handle(signal, handler);
            INHERITED.fetch_or(1 << index, Ordering::Relaxed);
        }
    }
}

/// Watches this process, which is a worker with one thread. Handlers that stand, and signals that are ignored,
/// stay as they are.
///
/// Every worker pays for this at its birth: no allocation, as the pages of the heap would be copied for it.
pub fn install(error_file: &CStr) {
    let path = error_file.to_bytes_with_nul();
    // SAFETY: no other thread, and no handler yet.
    let file = unsafe { &mut *TARGET.file.get() };
    let Some(file) = file.get_mut(..path.len()).filter(|file| file.len() + SUFFIX.len() <= PATH) else {
        return;
    };
    file.copy_from_slice(path);
    TARGET.process.store(kernel::process(), Ordering::Release);
    let inherited = INHERITED.load(Ordering::Relaxed);
    if inherited == 0 {
        make_stack();
    }
    for (index, (signal, handler)) in HANDLED.into_iter().enumerate() {
        if inherited & (1 << index) == 0 && is_default(signal) {
            handle(signal, handler);
        }
    }
}

fn is_default(signal: c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; a zeroed sigaction is a valid one with the default disposition.
    let now = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_DFL
}

fn handle(signal: c_int, handler: Handler) {
    // SAFETY: a zeroed sigaction is a valid one; sigfillset initialises its mask; the handler is
    // async-signal-safe, and what it reads was set before.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler as usize;
        // NODEFER: a crash of the handler itself comes to the handler, and so does the reminder. No
        // RESETHAND: a second thread that crashes would end the process before the record is written. RESTART
        // is for the one who goes on.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        for (other, _) in SIGNALS {
            libc::sigdelset(&raw mut action.sa_mask, other);
        }
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// A stack for the handler, so that an endless recursion has a record too. One that the thread has, a leftover
/// of the host's, is kept if it is large enough.
fn make_stack() {
    // Room for a frame of the kernel's per step, 12 KiB where the processor has the largest registers: each
    // step may crash. The guard is a page of any machine.
    const SIZE: usize = 192 << 10;
    const GUARD: usize = 64 << 10;
    let now = kernel::signal_stack();
    if now.is_some_and(|now| now.ss_flags & libc::SS_DISABLE == 0 && now.ss_size >= SIZE) {
        return;
    }
    if let Some(start) = kernel::map_stack(GUARD, SIZE) {
        kernel::set_signal_stack(&libc::stack_t { ss_sp: start, ss_flags: 0, ss_size: SIZE });
    }
}

/// What the signal says.
#[derive(Clone, Copy)]
struct News {
    signal: c_int,
    code: c_int,
    address: usize,
    /// Who sent it; none if it is a fault.
    sender: Option<usize>,
    process: usize,
    place: Option<Place>,
}

struct Crash {
    news: News,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
    trace: Trace,
    /// Unwinding came to its end.
    unwound: bool,
    record: Record,
    /// The name that the file has until it is whole.
    partial: Text<PATH>,
}

/// In this order; each is begun once, and whatever becomes of it the next one is begun.
const STEPS: [fn(&mut Crash); 5] =
    [Crash::write_first, Crash::unwind, Crash::locate, Crash::symbolise, Crash::write];
/// STEP when there is nothing more to do.
const DONE: usize = usize::MAX / 2;

extern "C" fn on_crash(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    let (thread, process) = (kernel::thread(), kernel::process());
    // A child of the worker is not the worker.
    let is_worker = TARGET.process.load(Ordering::Acquire) == process;
    // SAFETY: the kernel, or a handler of the program's that hands on to this one, passes a siginfo.
    let words = unsafe { info.as_ref() }.filter(|_| is_worker);
    let Some(words) = words else { return die(signal, info) };
    if words.si_code > 0 {
        request::survive(thread);
    }
    match OWNER.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // SAFETY: this thread is the owner, and has no other reference.
            let crash = unsafe { &mut *CRASH.0.get() };
            (crash.info, crash.context) = (info, context.cast());
            crash.news = News::new(signal, words, place(crash.context));
            kernel::remind(signal, PATIENCE_SECONDS);
            // What the function itself has recorded is the better reason.
            if !kernel::exists(TARGET.file()) {
                crash.take_steps();
            }
            STEP.store(DONE, Ordering::Release);
            die(signal, info);
        }
        Err(owner) if owner != thread => kernel::wait_for_ever(),
        Err(_) if STEP.load(Ordering::Acquire) >= DONE => die(signal, info),
        // A signal that somebody else sends changes nothing any more.
        Err(_) if sender(words).is_some_and(|sender| sender != process) => {}
        Err(_) => {
            // SAFETY: this thread is the owner; the handler that was interrupted never goes on.
            let crash = unsafe { &mut *CRASH.0.get() };
            crash.take_steps();
            STEP.store(DONE, Ordering::Release);
            crash.restore_place();
            die(crash.news.signal, crash.info);
            // SAFETY: the frame of the first handler is still on the stack, above this one.
            unsafe { leave(crash.info, crash.context) };
        }
    }
    Errno::set_raw(errno);
}

/// Makes this thread die of the signal where the handler returns to: of the very same fault, or, where there
/// was none, of the signal sent again. Should the fault not come again, the reminder does.
fn die(signal: c_int, info: *const libc::siginfo_t) {
    kernel::set_default(signal);
    // SAFETY: NULL, or a siginfo that the kernel has made.
    if unsafe { info.as_ref() }.is_none_or(|info| info.si_code <= 0) {
        // Blocked here, so that it is delivered in the frame that this one returns to.
        kernel::block(signal);
        kernel::send_again(signal, info);
    }
}

/// Returns from the handler that got these two, whatever was called since.
///
/// SAFETY: that handler must not have returned.
unsafe fn leave(info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> ! {
    // SAFETY: the kernel finds the frame that it made by the stack pointer.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        let _ = info;
        std::arch::asm!("mov rsp, {}", "syscall", "ud2", in(reg) context,
            in("rax") libc::SYS_rt_sigreturn, options(noreturn))
    }
    // SAFETY: as above; here the frame begins with the siginfo.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        let _ = context;
        std::arch::asm!("mov sp, {}", "svc 0", "brk 0", in(reg) info,
            in("x8") libc::SYS_rt_sigreturn, options(noreturn))
    }
}

/// The process that sent the signal, 0 for one that cannot be seen from here; none if it is a fault.
fn sender(info: &libc::siginfo_t) -> Option<usize> {
    match info.si_code {
        // SAFETY: the siginfo of a signal that a process has sent holds its number.
        libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE => Some(unsafe { info.si_pid() } as usize),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn place(context: *const libc::ucontext_t) -> Option<Place> {
    // SAFETY: NULL, or the context that the kernel has made for the handler.
    let registers = &unsafe { context.as_ref() }?.uc_mcontext.gregs;
    let register = |number: c_int| registers[number as usize] as usize;
    Some(Place { pc: register(libc::REG_RIP), sp: register(libc::REG_RSP), link: None })
}

#[cfg(target_arch = "x86_64")]
fn set_place(context: *mut libc::ucontext_t, place: Place) {
    // SAFETY: as above; nobody else uses it while the handler runs.
    if let Some(context) = unsafe { context.as_mut() } {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = place.pc as i64;
        context.uc_mcontext.gregs[libc::REG_RSP as usize] = place.sp as i64;
    }
}

#[cfg(target_arch = "aarch64")]
fn place(context: *const libc::ucontext_t) -> Option<Place> {
    // SAFETY: NULL, or the context that the kernel has made for the handler.
    let registers = &unsafe { context.as_ref() }?.uc_mcontext;
    let link = std::num::NonZeroUsize::new(registers.regs[30] as usize);
    Some(Place { pc: registers.pc as usize, sp: registers.sp as usize, link })
}

#[cfg(target_arch = "aarch64")]
fn set_place(context: *mut libc::ucontext_t, place: Place) {
    // SAFETY: as above; nobody else uses it while the handler runs.
    if let Some(context) = unsafe { context.as_mut() } {
        context.uc_mcontext.pc = place.pc as u64;
        context.uc_mcontext.sp = place.sp as u64;
    }
}

impl Target {
    fn file(&self) -> &CStr {
        // SAFETY: not written any more when there are handlers.
        CStr::from_bytes_until_nul(unsafe { &*self.file.get() }).unwrap_or_default()
    }
}

impl Crash {
    const fn new() -> Crash {
        Crash {
            news: News { signal: 0, code: 0, address: 0, sender: None, process: 0, place: None },
            info: std::ptr::null_mut(),
            context: std::ptr::null_mut(),
            trace: Trace::new(),
            unwound: false,
            record: Text::new(),
            partial: Text::new(),
        }
    }

    fn take_steps(&mut self) {
        while let Some(step) = STEPS.get(STEP.fetch_add(1, Ordering::AcqRel)) {
            step(self);
        }
    }

    /// Something to read even if all else fails.
    fn write_first(&mut self) {
        if let Some(place) = self.news.place {
            self.trace.start(place.pc);
        }
        self.write();
    }

    fn unwind(&mut self) {
        if let Some(place) = self.news.place {
            let first = self.trace.first_place(place);
            // The unwinder takes the registers of the interrupted frame from there.
            set_place(self.context, first);
            self.trace.unwind(first.pc);
            self.restore_place();
        }
        self.unwound = true;
    }

    fn restore_place(&mut self) {
        if let Some(place) = self.news.place {
            set_place(self.context, place);
        }
    }

    fn locate(&mut self) {
        self.trace.locate();
    }

    fn symbolise(&mut self) {
        self.trace.symbolise();
    }

    fn write(&mut self) {
        let file = TARGET.file();
        self.partial.cut(0);
        let named = [file.to_bytes(), SUFFIX, b"\0"].into_iter().try_for_each(|part| self.partial.push(part));
        let Ok(partial) = CStr::from_bytes_with_nul(self.partial.bytes()) else { return };
        if named.and_then(|()| make_record(&mut self.record, &self.news, &self.trace, self.unwound)).is_err()
        {
            return;
        }
        let Some(created) = kernel::File::create(partial) else { return };
        let written = created.write_all(self.record.bytes()).and_then(|()| kernel::rename(partial, file));
        if let Err(errno) = written {
            kernel::remove(partial);
            if errno == libc::EFBIG {
                kernel::discard(libc::SIGXFSZ);
            }
        }
    }
}

type Record = Text<{ 128 << 10 }>;

/// In torch's form, as `report::error_file` has it.
fn make_record(record: &mut Record, news: &News, trace: &Trace, unwound: bool) -> fmt::Result {
    const END: usize = 200; // room for what follows the frames
    record.cut(0);
    record.push(br#"{"message":{"message":""#)?;
    write!(Quoted(record), "{}", Message { news, trace })?;
    record.push(br#"","extraInfo":{"py_callstack":""#)?;
    for (number, line) in trace.lines().enumerate() {
        let before = record.len();
        let separator = if number > 0 { "\n" } else { "" };
        if write!(Quoted(record), "{separator}{line}").is_err() || record.room() < END {
            record.cut(before);
            break;
        }
    }
    if !unwound {
        record.push(br"\n(the stack could not be followed further)")?;
    } else if trace.cut {
        record.push(br"\n(and more)")?;
    }
    write!(record, r#"","timestamp":"{}"}}}}}}"#, kernel::seconds_since_1970())
}

impl News {
    fn new(signal: c_int, info: &libc::siginfo_t, place: Option<Place>) -> News {
        // SAFETY: the siginfo of a fault has an address; of another signal it is not used.
        let address = unsafe { info.si_addr() } as usize;
        let (code, process) = (info.si_code, kernel::process());
        News { signal, code, address, sender: sender(info), process, place }
    }

    /// What was wrong; nothing where the kernel says nothing.
    fn reason(&self) -> &'static str {
        // The numbers of linux/siginfo.h, asm-generic.
        match (self.signal, self.code) {
            (libc::SIGSEGV, 1 | 2) if self.is_of_the_stack() => "stack overflow",
            (libc::SIGSEGV, 1) => "address not mapped",
            (libc::SIGSEGV, 2) => "no permission",
            (libc::SIGSEGV, 3) => "bounds check failed",
            (libc::SIGSEGV, 4) => "no permission by protection key",
            (libc::SIGSEGV, 8 | 9) => "memory tag mismatch",
            (libc::SIGSEGV, 10) => "return address tampered with",
            (libc::SIGSEGV, Self::BY_KERNEL) => "no valid address, or a privileged instruction",
            (libc::SIGBUS, 1) => "address not aligned",
            (libc::SIGBUS, 2) => "no memory at the address, such as past the end of a mapped file",
            (libc::SIGBUS, 3..=5) => "memory error of the hardware",
            (libc::SIGFPE, 1) => "integer division by zero",
            (libc::SIGFPE, 2) => "integer overflow",
            (libc::SIGFPE, 3) => "floating-point division by zero",
            (libc::SIGFPE, 4) => "floating-point overflow",
            (libc::SIGFPE, 5) => "floating-point underflow",
            (libc::SIGFPE, 6) => "inexact floating-point result",
            (libc::SIGFPE, 7) => "invalid floating-point operation",
            (libc::SIGFPE, 8) => "subscript out of range",
            (libc::SIGILL, 1) => "illegal opcode",
            (libc::SIGILL, 2) => "illegal operand",
            (libc::SIGILL, 3) => "illegal addressing mode",
            (libc::SIGILL, 4) => "illegal trap",
            (libc::SIGILL, 5 | 6) => "privileged instruction",
            (libc::SIGILL, 7) => "coprocessor error",
            (libc::SIGILL, 8) => "internal stack error",
            _ => "",
        }
    }

    /// si_code of a fault for which there is no more to say, not even an address.
    const BY_KERNEL: c_int = 0x80;

    fn is_fault(&self) -> bool {
        self.code > 0
    }

    /// Whether the address is close to where the stack ends, by which it is not there any more.
    fn is_of_the_stack(&self) -> bool {
        let Some(place) = self.place else { return false };
        (place.sp.saturating_sub(4 << 10)..place.sp.saturating_add(1 << 20)).contains(&self.address)
    }
}

/// In the agent's own words, see `report::message_of`, and more.
struct Message<'a> {
    news: &'a News,
    trace: &'a Trace,
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Message { news, trace } = self;
        let name = SIGNALS.iter().find(|(signal, _)| *signal == news.signal).map_or("", |(_, name)| name);
        write!(f, "Signal {} ({name}) received by PID {}", news.signal, news.process)?;
        let mut separators = [": "].into_iter().chain(std::iter::repeat(", "));
        let mut separator = || separators.next().unwrap_or_default();
        if !news.reason().is_empty() {
            write!(f, "{}{}", separator(), news.reason())?;
        }
        if news.is_fault() && news.code != News::BY_KERNEL {
            write!(f, "{}{:#x}", separator(), news.address)?;
        }
        match news.sender {
            Some(0) => write!(f, "{}sent from outside", separator())?,
            Some(sender) if sender != news.process => write!(f, "{}sent by PID {sender}", separator())?,
            _ => {}
        }
        match trace.culprit(!news.is_fault()) {
            Some(Culprit::Here(line)) => write!(f, "{}in {}", separator(), line.short()),
            Some(Culprit::Caller(line)) => write!(f, "{}called from {}", separator(), line.short()),
            None => Ok(()),
        }
    }
}
