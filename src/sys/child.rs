//! Starting children. Everything a child needs is prepared before; between its birth and exec (or the
//! callback) it makes system calls only: no allocation, no lock, no panic.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use nix::errno::Errno;

use super::affinity::Mask;
use super::confined;
use super::dispositions::{self, Reset};
use super::fd::above_stdio;
use super::limits::{self, Descriptors};
use super::memory::Mapping;
use super::raw;
use super::slices::Slices;

/// Where a start can fail inside the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Redirect = 1,
    WorkingDir = 2,
    Exec = 3,
    Affinity = 4,
}

/// Two words of shared memory in which a child says why it could not start.
pub struct Report<'a> {
    pub step: &'a AtomicI32,
    pub errno: &'a AtomicI32,
}

impl Report<'_> {
    pub fn clear(&self) {
        self.step.store(0, Ordering::Relaxed);
    }

    pub fn read(&self) -> Option<(Step, Errno)> {
        let step = match self.step.load(Ordering::Acquire) {
            1 => Step::Redirect,
            2 => Step::WorkingDir,
            3 => Step::Exec,
            4 => Step::Affinity,
            _ => return None,
        };
        Some((step, Errno::from_raw(self.errno.load(Ordering::Relaxed))))
    }

    pub fn write(&self, step: Step, errno: Errno) {
        self.errno.store(errno as i32, Ordering::Relaxed);
        self.step.store(step as i32, Ordering::Release);
    }
}

/// Pointers for execve, NULL at the end; they borrow the strings they were made from.
pub struct Pointers<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    pub fn new(strings: impl Iterator<Item = &'a CStr>) -> Pointers<'a> {
        let pointers = strings.map(CStr::as_ptr).chain([std::ptr::null()]).collect();
        Pointers { pointers, strings: std::marker::PhantomData }
    }
}

/// What every worker does first: leader of its own group, killed when the thread that started it is gone.
pub struct Setup<'a> {
    /// For 0, 1 and 2; each above 2.
    pub stdio: [RawFd; 3],
    /// For 3 and up; each above all of these, see `fd::above_protocol`.
    pub protocol: &'a [RawFd],
    /// Where it is to be in the foreground.
    pub terminal: Option<RawFd>,
    pub working_dir: Option<&'a CStr>,
    pub reset: Reset,
    pub report: Option<Report<'a>>,
    /// The limit of descriptors to go back to.
    pub descriptors: Option<Descriptors>,
    /// The slices to go back to.
    pub slices: Option<Slices>,
    /// Where it is to run, it and all that it starts.
    pub cpus: Option<&'a Mask>,
    /// Shared memory in which it notes its group before it can have descendants.
    pub group: Option<&'a AtomicI32>,
    /// And where it notes its pid, for itself to find after exec.
    pub process: Option<&'a AtomicI32>,
    /// For a process with memory of its own: a file that it maps and never touches, by whose name its forks are known.
    pub mark: Option<RawFd>,
}

pub struct Program<'a> {
    /// The first of these files that can be executed.
    pub paths: &'a [&'a CStr],
    pub argv: &'a Pointers<'a>,
    pub env: &'a Pointers<'a>,
}

/// A new child: its number and its pidfd.
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

impl<'a> Setup<'a> {
    /// That of a process which is no worker: nothing but its descriptors.
    pub fn plain(stdio: [RawFd; 3], protocol: &'a [RawFd]) -> Setup<'a> {
        Setup {
            stdio,
            protocol,
            terminal: None,
            working_dir: None,
            cpus: None,
            reset: Reset::for_children(),
            report: None,
            descriptors: limits::of_children(),
            slices: None,
            group: None,
            process: None,
            mark: None,
        }
    }
}

impl Setup<'_> {
    /// The first descriptor that is not the child's.
    fn first_free(&self) -> u32 {
        (self.stdio.len() + self.protocol.len()) as u32
    }

    /// In the child: says why it cannot start.
    fn tell(&self, step: Step, errno: Errno) {
        if let Some(report) = &self.report {
            report.write(step, errno);
        }
    }

    /// In the child. Returns only if all went well.
    fn apply(&self, parent: i32) -> Result<(), (Step, Errno)> {
        let _ = call(libc::SYS_setpgid, [0; 3]);
        if self.group.is_some() || self.process.is_some() || self.terminal.is_some() {
            let pid = number(call(libc::SYS_getpid, [0; 3]));
            if let Some(terminal) = self.terminal {
                // As all signals are blocked it may do so from the background.
                let _ = call(
                    libc::SYS_ioctl,
                    [terminal as usize, libc::TIOCSPGRP as usize, &raw const pid as usize],
                );
            }
            for note in [self.group, self.process].into_iter().flatten() {
                note.store(pid, Ordering::Release);
            }
        }
        let _ = call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0]);
        // The agent may have died before the signal was armed.
        if number(call(libc::SYS_getppid, [0; 3])) != parent {
            end(127);
        }
        if let Some(mark) = self.mark {
            let (nothing, shared) = (libc::PROT_NONE as usize, libc::MAP_SHARED as usize);
            raw::syscall(libc::SYS_mmap as usize, [0, 4096, nothing, shared, mark as usize, 0]);
        }
        if let Some(cpus) = self.cpus {
            cpus.apply().map_err(|errno| (Step::Affinity, errno))?;
        }
        for (target, &source) in self.stdio.iter().chain(self.protocol).enumerate() {
            call(libc::SYS_dup3, [source as usize, target, 0]).map_err(|errno| (Step::Redirect, errno))?;
        }
        if let Some(path) = self.working_dir {
            call(libc::SYS_chdir, [path.as_ptr() as usize, 0, 0])
                .map_err(|errno| (Step::WorkingDir, errno))?;
        }
        self.reset.apply();
        if let Some(descriptors) = &self.descriptors {
            descriptors.apply();
        }
        if let Some(slices) = &self.slices {
            slices.restore();
        }
        Ok(())
    }
}

/// A system call of a child, on plain numbers and on strings that its parent keeps alive. Straight to the
/// kernel: a forked child has none of the C library's code mapped yet, and the first touch of each part of
/// it costs more than the call; one that shares its parent's memory leaves errno alone.
fn call(number: libc::c_long, [a, b, c]: [usize; 3]) -> Result<usize, Errno> {
    let result = raw::syscall(number as usize, [a, b, c, 0, 0, 0]);
    if result < 0 { Err(Errno::from_raw(-result as i32)) } else { Ok(result as usize) }
}

/// The result of a call that cannot fail.
fn number(result: Result<usize, Errno>) -> i32 {
    result.map_or(-1, |number| number as i32)
}

/// Ends a child, and nothing else: nothing of the host's is run or flushed.
fn end(code: i32) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code as usize, 0, 0]);
    }
}

/// Closes, or marks, descriptors of a child that has its own table.
fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    call(libc::SYS_close_range, [first as usize, last as usize, flags as usize]).map(drop)
}

/// Closes all but 0, 1, 2 and one more.
fn close_all_but(keep: RawFd) {
    for (first, last) in [(3, keep as u32 - 1), (keep as u32 + 1, u32::MAX)] {
        if first <= last && close_range(first, last, 0).is_err() {
            confined::each_descriptor(first, last, |fd| {
                let _ = call(libc::SYS_close, [fd as usize, 0, 0]);
            });
        }
    }
}

/// Has exec close what is above the child's own.
fn close_at_exec(first: u32) {
    if close_range(first, u32::MAX, CLOSE_RANGE_CLOEXEC).is_err() {
        confined::each_descriptor(first, u32::MAX, |fd| {
            let set = [fd as usize, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize];
            let _ = call(libc::SYS_fcntl, set);
        });
    }
}

const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

struct Start<'a> {
    setup: &'a Setup<'a>,
    program: &'a Program<'a>,
    parent: i32,
    /// It was born with the parent's own table of descriptors.
    shares_files: bool,
}

impl Start<'_> {
    /// Gives the child a table of its own with nothing in it above what it needs. Before anything else: a
    /// dup2 in the shared table would be the host's.
    fn unshare_files(&self) -> Result<(), (Step, Errno)> {
        let highest = self.setup.stdio.iter().chain(self.setup.protocol).copied().fold(2, RawFd::max);
        close_range(highest as u32 + 1, u32::MAX, CLOSE_RANGE_UNSHARE)
            .map_err(|errno| (Step::Redirect, errno))
    }
}

/// The child's whole life before its program: on a stack of its own, in the parent's memory.
extern "C" fn child_main(start: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a Start that lives until the child has exec'ed or exited (CLONE_VFORK), or is a copy.
    let start = unsafe { &*start.cast::<Start>() };
    let setup = start.setup;
    let own_files = if start.shares_files { start.unshare_files() } else { Ok(()) };
    let (step, errno) = match own_files.and_then(|()| setup.apply(start.parent)) {
        Err(failure) => failure,
        Ok(()) => {
            close_at_exec(setup.first_free());
            dispositions::block_none();
            (Step::Exec, exec(start.program))
        }
    };
    setup.tell(step, errno);
    end(127)
}

/// Returns the errno of the failure, as execvp(3) chooses it.
fn exec(program: &Program) -> Errno {
    let mut result = Errno::ENOENT;
    for path in program.paths {
        // SAFETY: both arrays end in NULL, their strings live until exec.
        unsafe { libc::execve(path.as_ptr(), program.argv.pointers.as_ptr(), program.env.pointers.as_ptr()) };
        match Errno::last() {
            errno if program.paths.len() == 1 => return errno,
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => result = Errno::EACCES,
            errno => return errno,
        }
    }
    result
}

/// The stack of one child at a time that shares the agent's memory until it execs.
pub struct Nursery(Mapping);

impl Nursery {
    const STACK: usize = 64 << 10;

    pub fn new() -> Result<Nursery, Errno> {
        Mapping::stack(Nursery::STACK).map(Nursery)
    }

    /// Starts a program. CLONE_VM and CLONE_VFORK as posix_spawn(3) does: the price does not depend on the
    /// host's memory. This thread waits until the child has exec'ed or has written its report.
    ///
    /// All signals must be blocked in this thread, so that no handler of the host runs in the child.
    pub fn spawn(&mut self, setup: &Setup, program: &Program) -> Result<Child, Errno> {
        // With CLONE_FILES the table of descriptors, one per worker and more, is not copied for each child.
        let shares_files = !under_valgrind() && confined::has_close_range();
        let mut start = Start { setup, program, parent: std::process::id() as i32, shares_files };
        let files = if shares_files { libc::CLONE_FILES } else { 0 };
        // SAFETY: CLONE_VFORK holds this thread, and with it the stack, `start` and what it borrows, until
        // the child no longer uses them. The child calls nothing that takes a lock.
        match unsafe { self.clone(child_main, libc::CLONE_VFORK | files, (&raw mut start).cast())? } {
            Some(child) => return Ok(child),
            None => start.shares_files = false,
        }
        let (executed, held) = confined::exec_pipe()?;
        let child = copy(child_main, (&raw mut start).cast())?;
        drop(held);
        confined::wait_for_exec(&executed, child.pid, &child.pidfd);
        Ok(child)
    }

    /// A child that shares this process's memory and runs `main` on this stack. None where clone(2) does not take
    /// these flags, as in emulators (qemu-user, gVisor) and sandboxes: then there is `copy`.
    ///
    /// SAFETY: the stack and `start` must live, unused by others, until the child has exec'ed or is gone.
    unsafe fn clone(
        &self,
        main: extern "C" fn(*mut c_void) -> c_int,
        flags: c_int,
        start: *mut c_void,
    ) -> Result<Option<Child>, Errno> {
        static REFUSED: AtomicBool = AtomicBool::new(false);
        if REFUSED.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD | flags;
        // SAFETY: the caller's promise.
        let pid = unsafe {
            let top = self.0.as_ptr().add(Nursery::STACK).cast();
            libc::clone(main, top, flags, start, &raw mut pidfd)
        };
        match Errno::result(pid) {
            Ok(pid) => child(pid, pidfd).map(Some),
            Err(errno) if confined::is_refusal(errno) => {
                REFUSED.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }
}

/// A child that runs `main`, in a copy of this process's memory: with no flag that somebody may not know.
fn copy(main: extern "C" fn(*mut c_void) -> c_int, start: *mut c_void) -> Result<Child, Errno> {
    match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0])? {
        0 => end(main(start)),
        pid => watched(pid as i32),
    }
}

/// A new child with a pidfd that it was not born with.
fn watched(pid: i32) -> Result<Child, Errno> {
    match super::process::pidfd_open(pid) {
        Ok(pidfd) => Ok(Child { pid, pidfd }),
        Err(errno) => {
            end_at_once(pid);
            Err(errno)
        }
    }
}

/// A helper of the agent that starts while the agent goes on: it execs beside the first workers. Killed
/// and reaped when dropped.
pub struct Helper {
    pub child: Child,
    /// What it reads until it has exec'ed.
    start: *mut HelperStart,
    _nursery: Nursery,
}

// SAFETY: the pointer is to memory that only the child reads until it execs, and that `drop` frees.
unsafe impl Send for Helper {}

struct HelperStart {
    argv: Pointers<'static>,
    env: Pointers<'static>,
    image: OwnedFd,
    /// Its name, where there is no execveat.
    path: CString,
    third: OwnedFd,
}

/// The child's life before its program. It runs beside the agent, in its memory, with the thread-local
/// data of its thread: not even errno is its own.
extern "C" fn helper_main(start: *mut c_void) -> c_int {
    // SAFETY: `Helper` keeps it until this child is gone or has exec'ed.
    let start = unsafe { &*start.cast::<HelperStart>() };
    let call = |number: libc::c_long, args: [usize; 6]| raw::syscall(number as usize, args);
    call(libc::SYS_dup3, [start.third.as_raw_fd() as usize, 3, 0, 0, 0, 0]);
    let (argv, env) = (start.argv.pointers.as_ptr() as usize, start.env.pointers.as_ptr() as usize);
    let empty = c"".as_ptr() as usize;
    call(
        libc::SYS_execveat,
        [start.image.as_raw_fd() as usize, empty, argv, env, libc::AT_EMPTY_PATH as usize, 0],
    );
    call(libc::SYS_execve, [start.path.as_ptr() as usize, argv, env, 0, 0, 0]);
    call(libc::SYS_exit, [127, 0, 0, 0, 0, 0]);
    127
}

impl Helper {
    /// Runs the program in the file `image` under `name`, with `third` as its descriptor 3; neither is 3
    /// here. All signals but SIGCHLD stay blocked in it.
    pub fn spawn(name: &'static CStr, image: OwnedFd, third: OwnedFd) -> Result<Helper, Errno> {
        let nursery = Nursery::new()?;
        let start = Box::into_raw(Box::new(HelperStart {
            argv: Pointers::new([name].into_iter()),
            env: Pointers::new(std::iter::empty()),
            path: CString::new(format!("/proc/self/fd/{}", image.as_raw_fd())).unwrap_or_default(),
            image,
            third,
        }));
        let vfork = if under_valgrind() { libc::CLONE_VFORK } else { 0 };
        // SAFETY: nursery and `start` live until the child is gone. It calls nothing but the kernel.
        let born = unsafe { nursery.clone(helper_main, vfork, start.cast()) };
        match born.and_then(|child| child.map_or_else(|| copy(helper_main, start.cast()), Ok)) {
            Ok(child) => Ok(Helper { child, start, _nursery: nursery }),
            Err(errno) => {
                // SAFETY: there is no child that could read it.
                drop(unsafe { Box::from_raw(start) });
                Err(errno)
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        super::process::kill(self.child.pid, &self.child.pidfd);
        super::process::wait_for_end(&self.child.pidfd);
        // SAFETY: the child is gone; nobody else has the pointer.
        drop(unsafe { Box::from_raw(self.start) });
    }
}

/// Valgrind takes a vfork, but ends the process for any other set of flags. Reads the environment when it
/// is asked first: in a thread of the host, which alone knows when that is safe.
pub fn under_valgrind() -> bool {
    static PRELOADED: once_cell::sync::Lazy<bool> = once_cell::sync::Lazy::new(|| {
        std::env::var("LD_PRELOAD").is_ok_and(|libraries| libraries.contains("/vgpreload_"))
    });
    *PRELOADED
}

/// Owns what clone made.
fn child(pid: i32, pidfd: c_int) -> Result<Child, Errno> {
    // SAFETY: the kernel just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    above_stdio(pidfd).map(|pidfd| Child { pid, pidfd }).inspect_err(|_| end_at_once(pid))
}

/// What a forked worker runs: `run` in the child, its result the exit code.
pub struct Function<'a> {
    /// None where `run` sees to it.
    pub env: Option<&'a Pointers<'a>>,
    /// A descriptor that the child keeps, under the number that it has here: whatever else in this memory
    /// still knows a number, and writes to it in the child, a buffered stream for instance, does not mean
    /// this one.
    pub keep: RawFd,
    pub run: &'a mut dyn FnMut() -> i32,
}

/// Forks this process by the C library's fork, so that malloc and stdio are whole in the child. In the
/// child: the set-up, then `run`, then exit without anything of the host's.
pub fn fork(setup: &Setup, function: Function) -> Result<Child, Errno> {
    let parent = std::process::id() as i32;
    let mut pidfd: c_int = -1;
    // SAFETY: the child runs on a copy of this thread's stack and leaves by _exit below, so that no
    // destructor of this process runs twice.
    let pid = Errno::result(unsafe {
        match super::process::pidfd_open_refusal() {
            None => libc::fork(),
            // Without the C library's own part, which only hosts with threads need. (Valgrind before 3.20 has none,
            // and runs one thread at a time.)
            Some(_) if under_valgrind() || super::process::is_single_threaded() => {
                let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
                libc::syscall(libc::SYS_clone, flags as libc::c_long, 0, &raw mut pidfd, 0, 0) as i32
            }
            Some(errno) => return Err(errno),
        }
    })?;
    if pid == 0 {
        forked_main(setup, function, parent);
    }
    super::process::set_group(pid);
    if pidfd >= 0 {
        return child(pid, pidfd);
    }
    watched(pid)
}

/// A child that cannot be watched is not to live.
fn end_at_once(pid: i32) {
    // SAFETY: a child of ours that was not reaped: the number is its.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
    }
}

unsafe extern "C" {
    static mut environ: *const *const c_char;
    static mut stdout: *mut libc::FILE;
    static mut stderr: *mut libc::FILE;
    fn __fpurge(stream: *mut libc::FILE);
    fn __fpending(stream: *mut libc::FILE) -> usize;
    #[cfg(target_env = "gnu")]
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

fn forked_main(setup: &Setup, function: Function, parent: i32) -> ! {
    if let Err((step, errno)) = setup.apply(parent) {
        setup.tell(step, errno);
        end(127);
    }
    close_all_but(function.keep);
    if let Some(env) = function.env {
        // SAFETY: this is the only thread of the child, and its environment lives as long as it does.
        unsafe { environ = env.pointers.as_ptr() };
    }
    // A process that only forks workers has done the rest once for all.
    if !CHILDREN_ARE_PREPARED.swap(false, Ordering::Relaxed) {
        // SAFETY: this is the only thread. What the host had not flushed is the host's to write.
        unsafe {
            for stream in [stdout, stderr] {
                if __fpending(stream) > 0 {
                    __fpurge(stream);
                }
            }
        }
        mark_exit();
    }
    dispositions::block_none();
    let code = (function.run)();
    // SAFETY: exit runs the callback's exit functions, then `leave`.
    unsafe { libc::exit(code) }
}

/// Whether nothing of this process is held back, and its exit functions are kept from its children.
static CHILDREN_ARE_PREPARED: AtomicBool = AtomicBool::new(false);

/// Exit functions run in reverse order: those that come after this, then `leave`, before all others. musl has no
/// on_exit(3), and atexit(3) does not say with which code the process exits: there all of them run.
fn mark_exit() {
    // SAFETY: the function has the type that on_exit(3) wants.
    #[cfg(target_env = "gnu")]
    unsafe {
        on_exit(leave, std::ptr::null_mut())
    };
}

/// For a process that only forks workers, and whose own end needs no exit functions: what it holds back is
/// written, and its children are spared the rest.
pub fn prepare_children() {
    // SAFETY: NULL stands for all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    mark_exit();
    CHILDREN_ARE_PREPARED.store(true, Ordering::Relaxed);
}

/// The environment that workers have in common, made before they are forked, with room for what is a
/// worker's own.
pub struct Environment {
    pointers: Vec<AtomicPtr<c_char>>,
    common: usize,
}

impl Environment {
    /// The strings must outlive it, and it, as those of `set`, the worker: they are only pointed to.
    pub fn new<'a>(strings: impl Iterator<Item = &'a CStr>) -> Environment {
        const ROOM: usize = 32;
        let pointer = |string: &CStr| AtomicPtr::new(string.as_ptr().cast_mut());
        let mut pointers: Vec<_> = strings.map(pointer).collect();
        let common = pointers.len();
        pointers.extend((0..ROOM).map(|_| AtomicPtr::default()));
        Environment { pointers, common }
    }

    /// In a new worker, whose only thread this is, and whose only copy: these strings are its environment,
    /// after those that all have in common or, if it is `whole`, instead of them.
    pub fn set<'a>(&self, whole: bool, own: impl Iterator<Item = &'a CStr> + Clone) {
        let first = if whole { 0 } else { self.common };
        let room = self.pointers.len() - first - 1;
        if own.clone().count() > room {
            let common =
                self.pointers[..first].iter().map(|pointer| pointer.load(Ordering::Relaxed).cast_const());
            let all = common.chain(own.map(CStr::as_ptr)).chain([std::ptr::null()]);
            let pointers = std::mem::ManuallyDrop::new(all.collect::<Vec<_>>());
            // SAFETY: NULL-terminated, never freed; nobody else reads the environment meanwhile.
            unsafe { environ = pointers.as_ptr() };
            return;
        }
        let mut end = first;
        for string in own {
            self.pointers[end].store(string.as_ptr().cast_mut(), Ordering::Relaxed);
            end += 1;
        }
        self.pointers[end].store(std::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: NULL-terminated, never freed; nobody else reads the environment meanwhile.
        unsafe { environ = self.pointers.as_ptr().cast() };
    }
}

/// A variable of a new worker's environment.
pub fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: NUL-terminated; nobody changes the environment meanwhile, and its strings are never freed.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: not null, and NUL-terminated.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

#[cfg(target_env = "gnu")]
extern "C" fn leave(code: c_int, _: *mut c_void) {
    // SAFETY: flushes the two streams whose buffers hold only what the worker wrote, then ends it.
    unsafe {
        for stream in [stdout, stderr] {
            if __fpending(stream) > 0 {
                libc::fflush(stream);
            }
        }
        libc::_exit(code);
    }
}

/// Whether a descriptor is open at all.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}
