//! The few system calls of a dying process, and of one that is just born. Straight to the kernel: what somebody
//! has put in front of the C library's functions (a preloaded tracer, a sanitizer) is not made for signal
//! handlers, and a young process has none of the C library's pages yet.

use std::ffi::CStr;

use super::super::raw;

/// The result, or the errno.
pub fn call(number: libc::c_long, args: [usize; 6]) -> Result<usize, i32> {
    let result = raw::syscall(number as usize, args);
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
}

const HERE: usize = libc::AT_FDCWD as isize as usize;

/// A descriptor that is closed when dropped.
pub struct File(usize);

impl File {
    pub fn open(path: &CStr) -> Option<File> {
        File::new(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)
    }

    pub fn create(path: &CStr) -> Option<File> {
        File::to_write(path, libc::O_TRUNC)
    }

    pub fn append(path: &CStr) -> Option<File> {
        File::to_write(path, libc::O_APPEND)
    }

    /// Whoever dies waits for nobody who would read what was put there instead of a file.
    fn to_write(path: &CStr, flags: i32) -> Option<File> {
        let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        File::new(path, libc::O_WRONLY | libc::O_CREAT | careful | flags, 0o664)
    }

    fn new(path: &CStr, flags: i32, mode: usize) -> Option<File> {
        let flags = (flags | libc::O_CLOEXEC) as usize;
        let open = || call(libc::SYS_openat, [HERE, path.as_ptr() as usize, flags, mode, 0, 0]);
        let opened = open().or_else(|errno| {
            if errno == libc::EMFILE {
                // Whoever dies reads no more: that makes room for one.
                let _ = call(libc::SYS_close, [libc::STDIN_FILENO as usize, 0, 0, 0, 0, 0]);
                open()
            } else {
                Err(errno)
            }
        });
        opened.ok().map(File)
    }

    /// 0 at the end, and after an error.
    pub fn read(&self, into: &mut [u8]) -> usize {
        loop {
            match call(libc::SYS_read, [self.0, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) {
                Err(libc::EINTR) => {}
                result => return result.unwrap_or(0),
            }
        }
    }

    pub fn write_all(&self, mut bytes: &[u8]) -> Result<(), i32> {
        while !bytes.is_empty() {
            match call(libc::SYS_write, [self.0, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(libc::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        let asked = call(libc::SYS_fstat, [self.0, stat.as_mut_ptr() as usize, 0, 0, 0, 0]);
        // SAFETY: all zero is a valid stat, and the kernel has filled it where it could.
        if asked.is_ok() { unsafe { stat.assume_init() }.st_size as usize } else { 0 }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = call(libc::SYS_close, [self.0, 0, 0, 0, 0, 0]);
    }
}

/// A whole file to read. Touching what somebody has cut off meanwhile is a SIGBUS, which the handler survives.
pub struct Contents {
    start: usize,
    length: usize,
}

impl Contents {
    pub fn of(path: &CStr) -> Option<Contents> {
        let file = File::open(path)?;
        let length = file.size();
        let (protection, flags) = (libc::PROT_READ as usize, libc::MAP_PRIVATE as usize);
        let start = call(libc::SYS_mmap, [0, length, protection, flags, file.0, 0]).ok()?;
        Some(Contents { start, length })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives; nothing is written through it.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.length) }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let _ = call(libc::SYS_munmap, [self.start, self.length, 0, 0, 0, 0]);
    }
}

/// Whether there is anything of that name.
pub fn exists(path: &CStr) -> bool {
    call(libc::SYS_faccessat, [HERE, path.as_ptr() as usize, libc::F_OK as usize, 0, 0, 0]).is_ok()
}

pub fn rename(from: &CStr, to: &CStr) -> Result<(), i32> {
    let (from, to) = (from.as_ptr() as usize, to.as_ptr() as usize);
    call(libc::SYS_renameat2, [HERE, from, HERE, to, 0, 0]).map(drop)
}

pub fn remove(path: &CStr) {
    let _ = call(libc::SYS_unlinkat, [HERE, path.as_ptr() as usize, 0, 0, 0, 0]);
}

/// What the link holds, in `into`; it may have been cut.
pub fn read_link<'a>(path: &CStr, into: &'a mut [u8]) -> Option<&'a [u8]> {
    let args = [HERE, path.as_ptr() as usize, into.as_mut_ptr() as usize, into.len(), 0, 0];
    let length = call(libc::SYS_readlinkat, args).ok()?;
    into.get(..length)
}

/// A word of this process's memory; none where nothing is mapped.
pub fn peek(address: usize) -> Option<usize> {
    let mut word = 0usize;
    let size = size_of::<usize>();
    let to = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let from = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: size };
    let (to, from) = (&raw const to as usize, &raw const from as usize);
    let read = call(libc::SYS_process_vm_readv, [process(), to, 1, from, 1, 0]);
    (read == Ok(size)).then_some(word)
}

pub fn process() -> usize {
    call(libc::SYS_getpid, [0; 6]).unwrap_or(0)
}

pub fn thread() -> usize {
    call(libc::SYS_gettid, [0; 6]).unwrap_or(0)
}

pub fn seconds_since_1970() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let args = [libc::CLOCK_REALTIME as usize, &raw mut time as usize, 0, 0, 0, 0];
    let _ = call(libc::SYS_clock_gettime, args);
    time.tv_sec
}

/// New memory for a stack, where it begins behind `guard` bytes that cannot be touched.
pub fn map_stack(guard: usize, size: usize) -> Option<*mut libc::c_void> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    let args = [0, guard + size, protection, flags as usize, usize::MAX, 0];
    let start = call(libc::SYS_mmap, args).ok()?;
    let _ = call(libc::SYS_mprotect, [start, guard, libc::PROT_NONE as usize, 0, 0, 0]);
    Some((start + guard) as *mut libc::c_void)
}

pub fn signal_stack() -> Option<libc::stack_t> {
    // SAFETY: all zero is a valid stack_t.
    let mut now: libc::stack_t = unsafe { std::mem::zeroed() };
    call(libc::SYS_sigaltstack, [0, &raw mut now as usize, 0, 0, 0, 0]).is_ok().then_some(now)
}

pub fn set_signal_stack(stack: &libc::stack_t) {
    let _ = call(libc::SYS_sigaltstack, [std::ptr::from_ref(stack) as usize, 0, 0, 0, 0, 0]);
}

/// A set of signals as the kernel has it, of one signal.
pub fn only(signal: i32) -> u64 {
    1 << (signal - 1)
}

const SET: usize = size_of::<u64>();

pub fn block(signal: i32) {
    let set = only(signal);
    let args = [libc::SIG_BLOCK as usize, &raw const set as usize, 0, SET, 0, 0];
    let _ = call(libc::SYS_rt_sigprocmask, args);
}

/// Takes a blocked signal away that may be pending.
pub fn discard(signal: i32) {
    let set = only(signal);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let args = [&raw const set as usize, 0, &raw const at_once as usize, SET, 0, 0];
    let _ = call(libc::SYS_rt_sigtimedwait, args);
}

pub fn set_default(signal: i32) {
    // The kernel's own struct, whatever the order of its fields: handler, flags, restorer and mask are 0.
    let action = [0u64; 4];
    let _ = call(libc::SYS_rt_sigaction, [signal as usize, &raw const action as usize, 0, SET, 0, 0]);
}

/// Sends this thread a signal with what an earlier one had to say.
pub fn send_again(signal: i32, info: *const libc::siginfo_t) {
    let (process, thread, number) = (process(), thread(), signal as usize);
    let sent = call(libc::SYS_rt_tgsigqueueinfo, [process, thread, number, info as usize, 0, 0]);
    if sent.is_err() {
        let _ = call(libc::SYS_tgkill, [process, thread, number, 0, 0, 0]);
    }
}

/// The name of this thread.
pub fn thread_name(into: &mut [u8; 64]) -> &[u8] {
    let length = File::open(c"/proc/thread-self/comm").map_or(0, |file| file.read(into));
    into.get(..length).unwrap_or_default().trim_ascii_end()
}

pub fn pause(milliseconds: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
    let _ = call(libc::SYS_ppoll, [0, 0, &raw const time as usize, 0, 0, 0]);
}

pub fn wait_for_ever() -> ! {
    loop {
        let _ = call(libc::SYS_ppoll, [0; 6]);
    }
}

/// Sends this thread the signal after `first` seconds and then every second.
pub fn remind(signal: i32, first: i64) {
    // SAFETY: all zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_signo = signal;
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_notify_thread_id = thread() as i32;
    let mut timer: i32 = 0;
    let args = [libc::CLOCK_MONOTONIC as usize, &raw const event as usize, &raw mut timer as usize, 0, 0, 0];
    if call(libc::SYS_timer_create, args).is_err() {
        return;
    }
    let seconds = |tv_sec| libc::timespec { tv_sec, tv_nsec: 0 };
    let times = libc::itimerspec { it_interval: seconds(1), it_value: seconds(first) };
    let _ = call(libc::SYS_timer_settime, [timer as usize, 0, &raw const times as usize, 0, 0, 0]);
}
