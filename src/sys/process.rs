//! Processes by pidfd: their end, their signals. Never "any child".

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::confined::is_refusal;
use super::signal_set;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exited(i32),
    Signaled { signal: i32, core: bool },
}

/// What a process used, it and the descendants it waited for.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Usage {
    pub max_rss_bytes: u64,
    pub user_cpu_ns: u64,
    pub system_cpu_ns: u64,
}

#[derive(Debug, PartialEq)]
pub enum Waited {
    Running,
    /// `kept`: it is a zombie, or was until this call reaped it.
    Ended {
        status: Status,
        usage: Usage,
        kept: bool,
    },
    /// Somebody else took the status, and the kernel no longer knows it.
    Lost,
}

/// Looks whether a child ended. Unless `reap` is set it stays a zombie: its number, and with it the
/// number of its process group, is not given to anyone else meanwhile.
pub fn wait(pidfd: &OwnedFd, reap: bool) -> Waited {
    let flags = libc::WEXITED | libc::WNOHANG | if reap { 0 } else { libc::WNOWAIT };
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    match waitid(pidfd, info.as_mut_ptr(), flags, usage.as_mut_ptr()) {
        Ok(()) => {}
        Err(errno) if errno == Errno::ECHILD || is_refusal(errno) => return ended_without_us(pidfd),
        Err(_) => return Waited::Running,
    }
    // SAFETY: zeroed before, and filled by the kernel.
    let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
    // SAFETY: after waitid the union holds the child's pid and status, zero if none has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Waited::Running;
    }
    let status = match info.si_code {
        libc::CLD_EXITED => Status::Exited(status),
        code => Status::Signaled { signal: status, core: code == libc::CLD_DUMPED },
    };
    let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    let usage = Usage {
        max_rss_bytes: usage.ru_maxrss as u64 * 1024,
        user_cpu_ns: nanoseconds(usage.ru_utime),
        system_cpu_ns: nanoseconds(usage.ru_stime),
    };
    Waited::Ended { status, usage, kept: true }
}

/// waitid(2) for one child. The pointers are to memory that the caller owns, `usage` may be null.
fn waitid(
    pidfd: &OwnedFd,
    info: *mut libc::siginfo_t,
    flags: i32,
    usage: *mut libc::rusage,
) -> Result<(), Errno> {
    // SAFETY: both buffers have the kernel's sizes. The raw call has a fifth argument that waitid(3) hides.
    let call = |kind: libc::idtype_t, id: i32| unsafe {
        Errno::result(libc::syscall(libc::SYS_waitid, kind, id, info, flags, usage)).map(drop)
    };
    match call(libc::P_PIDFD, pidfd.as_raw_fd()) {
        // By its number: nobody else has that while the child is not reaped.
        Err(errno) if is_refusal(errno) => call(libc::P_PID, number(pidfd.as_fd()).ok_or(Errno::ECHILD)?),
        done => done,
    }
}

/// The process that a pidfd means, as long as it is not reaped.
fn number(pidfd: BorrowedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|&pid| pid > 0)
}

/// `struct pidfd_info` of linux/pidfd.h, as of 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The status of a child that the host reaped, or the kernel itself because SIGCHLD is ignored.
fn ended_without_us(pidfd: &OwnedFd) -> Waited {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const PIDFD_GET_INFO: libc::c_ulong = 0xC000_FF0B | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16);
    // The kernel announces the end a moment before it notes the status.
    const LOOKS: u32 = 100;
    // It may note the status, and forget the process, between two steps of one look, which then fails: the next
    // one finds the status.
    let mut failed = false;
    for _ in 0..LOOKS {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the request carries the size of the struct, and the kernel fills no more than that.
        let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
        if result == 0 && info.mask & PIDFD_INFO_EXIT != 0 {
            let code = info.exit_code;
            let status = if libc::WIFEXITED(code) {
                Status::Exited(libc::WEXITSTATUS(code))
            } else {
                Status::Signaled { signal: libc::WTERMSIG(code), core: libc::WCOREDUMP(code) }
            };
            return Waited::Ended { status, usage: Usage::default(), kept: false };
        }
        if !has_ended(pidfd) {
            return Waited::Running;
        }
        if result != 0 && std::mem::replace(&mut failed, true) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Waited::Lost
}

/// Whether /proc shows the numbers that this process sees, not those of an outer pid namespace.
pub fn proc_is_ours() -> bool {
    let own = std::process::id().to_string();
    std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == own.as_str())
}

/// What /proc/<pid>/stat says of a process.
pub struct Stat {
    /// 15 bytes of it at most.
    pub name: Vec<u8>,
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    flags: u64,
    /// When it was started, in the kernel's ticks since it started itself: with the number it names one process.
    pub started: u64,
}

impl Stat {
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    #[cfg(test)]
    pub fn of_test(name: Vec<u8>, parent: i32) -> Stat {
        Stat { name, state: b'S', parent, group: 0, flags: 0, started: 0 }
    }

    /// In uninterruptible sleep: a look at its memory may wait for it.
    pub fn is_uninterruptible(&self) -> bool {
        self.state == b'D'
    }
}

/// Needs `proc_is_ours`.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: state, parent, group, session, terminal, its group, flags, ..,
    // and as the twentieth the time of the start.
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let name = text.get(text.iter().position(|&byte| byte == b'(')? + 1..end_of_name)?.to_vec();
    let rest = text.get(end_of_name + 1..)?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let flags = fields.nth(3)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    Some(Stat { name, state, parent, group, flags, started })
}

/// Where a process belongs.
pub struct Kinship {
    pub parent: i32,
    pub group: i32,
    /// When it was started, in the kernel's ticks since it started itself: with the number it names one process.
    pub started: u64,
}

/// None for a zombie too. Needs `proc_is_ours`.
pub fn kinship(pid: i32) -> Option<Kinship> {
    let Stat { parent, group, started, .. } = stat(pid).filter(|stat| !stat.has_ended())?;
    Some(Kinship { parent, group, started })
}

/// How often a process had gone to sleep before, if it is in uninterruptible sleep now. Needs `proc_is_ours`.
pub fn uninterruptible(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| stat.state == b'D')?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

/// Whether a process ignores a signal. Needs `proc_is_ours`.
pub fn ignores(pid: i32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| signal_set::has(mask, signal))
}

/// The memory of a process that is resident, in bytes. Needs `proc_is_ours`.
pub fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: it only looks a constant up.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

/// Whether a process that is still there is on its way out (PF_EXITING in its flags), killed or not. Not
/// one whose first thread alone has ended. Needs `proc_is_ours`.
pub fn is_dying(pid: i32) -> bool {
    const PF_EXITING: u64 = 4;
    stat(pid).is_some_and(|stat| stat.state != b'Z' && stat.flags & PF_EXITING != 0)
}

/// The numbers in a directory of /proc: processes, or threads.
pub fn numbers_in(directory: &str) -> std::io::Result<impl Iterator<Item = i32> + use<>> {
    let entries = std::fs::read_dir(directory)?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Who of these groups is no zombie; none where /proc cannot tell.
pub fn living_members(groups: &[i32]) -> Option<Vec<(i32, Stat)>> {
    let numbers = numbers_in("/proc").ok().filter(|_| proc_is_ours())?;
    let process = |pid| Some((pid, stat(pid)?));
    let is_member = |(_, stat): &(i32, Stat)| !stat.has_ended() && groups.contains(&stat.group);
    Some(numbers.filter_map(process).filter(is_member).collect())
}

/// The children of a process, zombies too. Needs `proc_is_ours`; none where the kernel has no such lists
/// (CONFIG_PROC_CHILDREN), or the process is gone.
pub fn children(pid: i32) -> Option<Vec<i32>> {
    let tasks = format!("/proc/{pid}/task");
    let list = |thread: i32| {
        let text = std::fs::read_to_string(format!("{tasks}/{thread}/children")).ok()?;
        Some(text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect::<Vec<i32>>())
    };
    // A directory has a link for each directory in it, and two more: so many threads.
    if std::fs::metadata(&tasks).ok()?.nlink() == 3 {
        return list(pid);
    }
    let mut lists = numbers_in(&tasks).ok()?.filter_map(list).peekable();
    lists.peek()?;
    Some(lists.flatten().collect())
}

/// The number that the pid namespace gave out last, to a process or a thread; none where the kernel does not
/// say (CONFIG_CHECKPOINT_RESTORE).
pub fn last_number() -> Option<i32> {
    std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").ok()?.trim().parse().ok()
}

/// The time as `Stat::started` has it.
pub fn ticks() -> u64 {
    // SAFETY: it only looks a constant up.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u128;
    (clock(libc::CLOCK_BOOTTIME).as_nanos() * per_second / 1_000_000_000) as u64
}

/// Whether a process, child or not, has ended: a zombie has.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    super::fd::is_readable(pidfd.as_fd())
}

/// The name of this process, as ps(1) shows it: 15 bytes of it.
pub fn set_title(title: &std::ffi::CStr) {
    // SAFETY: a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, title.as_ptr()) };
}

/// This process leaves no core behind: not its own crash is of interest, but who is to blame.
pub fn dump_no_core() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffer has the size of an rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// Makes this process a child subreaper, until the last of these is dropped: what loses its parent below it becomes
/// its child.
pub struct Subreaper;

/// How many there are, and whether it was one before.
static SUBREAPERS: Mutex<(usize, bool)> = Mutex::new((0, false));

fn set_subreaper(on: bool) {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(on), 0, 0, 0) };
}

impl Subreaper {
    pub fn become_one() -> Subreaper {
        let mut state = SUBREAPERS.lock();
        if state.0 == 0 {
            let mut before: libc::c_int = 0;
            // SAFETY: the kernel writes one int.
            unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut before, 0, 0, 0) };
            state.1 = before != 0;
            set_subreaper(true);
        }
        state.0 += 1;
        Subreaper
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        let mut state = SUBREAPERS.lock();
        state.0 -= 1;
        if state.0 == 0 {
            set_subreaper(state.1);
        }
    }
}

/// Ends this process without the exit functions of whatever it has loaded.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: plain numbers.
    unsafe { libc::_exit(code) }
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain numbers in, a descriptor out.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just made this descriptor for us.
    super::fd::above_stdio(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Why there is no pidfd_open: every kernel that this library runs on has it, not every emulator, and a sandbox may
/// refuse it.
pub fn pidfd_open_refusal() -> Option<Errno> {
    static REFUSAL: once_cell::sync::Lazy<Option<Errno>> = once_cell::sync::Lazy::new(|| {
        pidfd_open(std::process::id() as i32).err().filter(|&errno| is_refusal(errno))
    });
    *REFUSAL
}

/// Whether this is the only thread of its process.
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Whether a child is another program by now, as far as /proc can tell.
pub fn has_executed(pid: i32) -> bool {
    const PF_FORKNOEXEC: u64 = 0x40;
    stat(pid).is_none_or(|stat| stat.flags & PF_FORKNOEXEC == 0)
}

/// Sends a signal to a process group whose leader is a child that was not reaped: the number cannot
/// belong to anybody else. Signal 0 only asks.
pub fn signal_group(group: i32, signal: i32) -> Result<(), Errno> {
    debug_assert!(group > 1);
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::kill(-group, signal) }).map(drop)
}

/// Makes a new child leader of its own group, whichever of the two is first to do so.
pub fn set_group(pid: i32) {
    // SAFETY: plain numbers; EACCES says that the child has done it and exec'ed already.
    unsafe { libc::setpgid(pid, pid) };
}

/// Sends a signal to the one process that a pidfd means, whoever has its number by now.
pub fn signal(pidfd: BorrowedFd, signal: i32) -> Result<(), Errno> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: no siginfo is given; the rest are plain numbers.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    match Errno::result(sent) {
        // By the number that it has at this moment.
        Err(errno) if is_refusal(errno) => {
            let pid = number(pidfd).ok_or(Errno::ESRCH)?;
            // SAFETY: plain numbers.
            Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
        }
        sent => sent.map(drop),
    }
}

/// Sends a signal to one thread of a process that was not reaped.
pub fn signal_thread(process: i32, thread: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) }).map(drop)
}

/// Sends SIGKILL to one child that was not reaped.
pub fn kill(pid: i32, pidfd: &OwnedFd) {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: no siginfo is given; the number is the child's, as it was not reaped.
    unsafe {
        let sent = libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0);
        // A filter of system calls may not know the new one.
        if sent != 0 && Errno::last() != Errno::ESRCH {
            libc::kill(pid, libc::SIGKILL);
        }
    }
}

/// Waits up to `limit`, or until the bell rings, for the end of a process, and leaves it a zombie; whether
/// it ended.
pub fn ends_within(pidfd: &OwnedFd, limit: Duration, bell: Option<BorrowedFd>) -> bool {
    let deadline = monotonic().saturating_add(limit);
    let mut items = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    items.extend(bell.map(|bell| PollFd::new(bell, PollFlags::POLLIN)));
    loop {
        let left = deadline.saturating_sub(monotonic());
        // Interrupted by a signal, or early: it looks again.
        if matches!(poll(&mut items, poll_timeout(left)), Ok(1..)) || left.is_zero() {
            return has_ended(pidfd);
        }
    }
}

/// Waits for the end of one child that was killed, and reaps it.
pub fn wait_for_end(pidfd: &OwnedFd) {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        if waitid(pidfd, info.as_mut_ptr(), libc::WEXITED, std::ptr::null_mut()) != Err(Errno::EINTR) {
            return;
        }
    }
}

/// A time as poll(2) and epoll_wait(2) take it, rounded up so that nobody wakes before it.
pub fn milliseconds(time: Duration) -> i32 {
    time.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
}

/// The same for nix's poll; what is too long for it is as long as it can be.
pub fn poll_timeout(time: Duration) -> PollTimeout {
    PollTimeout::try_from(milliseconds(time)).unwrap_or(PollTimeout::MAX)
}

pub fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

pub fn since_1970() -> Duration {
    clock(libc::CLOCK_REALTIME)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the buffer has the size of a timespec; both clocks exist everywhere.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The soft limit of a main thread's stack; none where it is unlimited.
pub fn stack_limit() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffer has the size of an rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// The kernel's version: `(6, 18)`.
pub fn kernel_version() -> (u32, u32) {
    let parse = |release: &str| {
        let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    nix::sys::utsname::uname().map(|name| parse(&name.release().to_string_lossy())).unwrap_or((0, 0))
}
