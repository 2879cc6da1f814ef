//! The watcher, a program of its own (see `build.rs`): it sleeps until the agent's thread is gone, then
//! kills the process groups of the workers. Workers themselves die by their parent-death signal; their
//! descendants have none, as Linux does not hand it on at fork. No library, no allocation: it costs a
//! host of any size some kilobytes and one exec.
//!
//! Descriptor 3 is a table of i32: the host's pid, the number of slots, whether workers are forked, one that is not
//! used, the mark of the run in 16 bytes, then one process group per slot, 0 where there is none, then what the run
//! has made by name: for each its inode, 0 where there is none, its device, and its path. The agent keeps it up to date
//! through its own mapping. What carries the mark, in its environment or, where workers are forked, in the name of a
//! page of its memory, was started by a worker: it is killed in whatever group it is. Names are removed last, if they
//! are still those of what the run has made; a directory only if it is empty.
//!
//! There may be two of it, under two names: who kills one with the agent leaves the other.

#![no_std]
#![no_main]

mod raw;

use core::arch::naked_asm;
use core::mem::MaybeUninit;

use raw::syscall;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const HEADER: usize = 4 + MARK / 4;
const MARK: usize = 16;
/// How many names there may be, and the words of each: two of the inode, two of the device, the path.
const NAMES: usize = 3;
const NAME: usize = 4 + 1024;

#[cfg(target_arch = "x86_64")]
mod call {
    pub const READ: usize = 0;
    pub const CLOSE: usize = 3;
    pub const GETDENTS64: usize = 217;
    pub const OPENAT: usize = 257;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const PIDFD_OPEN: usize = 434;
    pub const MMAP: usize = 9;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const CLOSE_RANGE: usize = 436;
    pub const NANOSLEEP: usize = 35;
    pub const CHDIR: usize = 80;
    pub const EXIT: usize = 60;
    pub const KILL: usize = 62;
    pub const NEWFSTATAT: usize = 262;
    pub const UNLINKAT: usize = 263;
    pub const GETPPID: usize = 110;
    pub const SETSID: usize = 112;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const READ: usize = 63;
    pub const CLOSE: usize = 57;
    pub const GETDENTS64: usize = 61;
    pub const OPENAT: usize = 56;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const PIDFD_OPEN: usize = 434;
    pub const MMAP: usize = 222;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const CLOSE_RANGE: usize = 436;
    pub const NANOSLEEP: usize = 101;
    pub const CHDIR: usize = 49;
    pub const EXIT: usize = 93;
    pub const KILL: usize = 129;
    pub const NEWFSTATAT: usize = 79;
    pub const UNLINKAT: usize = 35;
    pub const GETPPID: usize = 173;
    pub const SETSID: usize = 157;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
}

// The kernel starts a program with an aligned stack and no return address: make the frame a function expects. Where the
// stack begins are the number of arguments and their addresses.
// SAFETY: nothing else defines `_start`, and it never returns.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x0, sp", "bl {main}", "brk 0", main = sym main);
}

extern "C" fn main(stack: *const usize) -> ! {
    const PAGES: usize = 1 << 20; // more than the largest table; what lies behind its end is not touched
    const PROT_READ: usize = 1;
    const MAP_SHARED: usize = 1;
    const SET_PDEATHSIG: usize = 1;
    const SET_NAME: usize = 15;
    let all: u64 = !0;
    syscall(call::RT_SIGPROCMASK, [2, &raw const all as usize, 0, 8, 0, 0]);
    // Nothing of the host's is held open, not even its directory.
    close(0, 2);
    close(4, u32::MAX as usize);
    syscall(call::CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
    syscall(call::SETSID, [0; 6]);
    // SAFETY: behind the number of arguments, which is 1, is the address of the first: the name.
    let name = unsafe { stack.add(1).read() };
    syscall(call::PRCTL, [SET_NAME, name, 0, 0, 0, 0]);
    syscall(call::PRCTL, [SET_PDEATHSIG, SIGTERM as usize, 0, 0, 0, 0]);
    let table = syscall(call::MMAP, [0, PAGES, PROT_READ, MAP_SHARED, 3, 0]);
    if table < 0 {
        exit(1);
    }
    let table = table as *const i32;
    // SAFETY: the agent made the table with its header before it started this program.
    let (host, slots) = unsafe { (table.read_volatile(), table.add(1).read_volatile()) };
    wait_for_end_of(host);
    // Twice: a worker that was being started while the agent died may enter its group a moment later.
    for _ in 0..2 {
        for slot in 0..slots as usize {
            // SAFETY: the header says how many slots the table has.
            let group = unsafe { table.add(HEADER + slot).read_volatile() };
            if group > 1 {
                syscall(call::KILL, [-group as isize as usize, SIGKILL as usize, 0, 0, 0, 0]);
            }
        }
        let pause: [i64; 2] = [0, 20_000_000];
        syscall(call::NANOSLEEP, [&raw const pause as usize, 0, 0, 0, 0, 0]);
    }
    let mut mark = [0u8; MARK];
    for (at, byte) in mark.iter_mut().enumerate() {
        // SAFETY: the mark is in the header.
        *byte = unsafe { table.add(4).cast::<u8>().add(at).read_volatile() };
    }
    // SAFETY: the header has this word.
    let forks = unsafe { table.add(2).read_volatile() } != 0;
    // Until nobody is found: who was killed may have forked a moment before.
    for _ in 0..LOOKS {
        if mark[0] == 0 || !kill_marked(&mark, forks) {
            break;
        }
    }
    // At an even word, for the numbers of 8 bytes.
    let names = (HEADER + slots.max(0) as usize).next_multiple_of(2);
    for name in 0..NAMES {
        // SAFETY: the table has room for so many names behind its slots.
        remove(unsafe { table.add(names + name * NAME) });
    }
    exit(0)
}

/// Removes what has this name, if it is what the run has made.
fn remove(name: *const i32) {
    const AT_FDCWD: isize = -100;
    const AT_SYMLINK_NOFOLLOW: usize = 0x100;
    const AT_REMOVEDIR: usize = 0x200;
    const EISDIR: isize = -21;
    // SAFETY: a name has these two numbers, and then a path that ends in NUL.
    let (inode, device, path) = unsafe {
        let numbers = name.cast::<u64>();
        (numbers.read_volatile(), numbers.add(1).read_volatile(), name.add(4) as usize)
    };
    if inode == 0 {
        return;
    }
    let at = AT_FDCWD as usize;
    let mut stat = MaybeUninit::<[u64; 32]>::uninit();
    let stat = stat.as_mut_ptr().cast::<u64>();
    if syscall(call::NEWFSTATAT, [at, path, stat as usize, AT_SYMLINK_NOFOLLOW, 0, 0]) != 0 {
        return;
    }
    // SAFETY: the kernel filled it; a struct stat begins with the device and the inode.
    let is_it = unsafe { stat.read() == device && stat.add(1).read() == inode };
    if is_it && syscall(call::UNLINKAT, [at, path, 0, 0, 0, 0]) == EISDIR {
        syscall(call::UNLINKAT, [at, path, AT_REMOVEDIR, 0, 0, 0]);
    }
}

/// How often processes are looked through.
const LOOKS: usize = 16;
const AT_ONCE: usize = 4096;

/// Kills every process that carries the mark; whether there was one.
fn kill_marked(mark: &[u8; MARK], forks: bool) -> bool {
    let mut found = false;
    let proc = open(c"/proc".as_ptr().cast());
    // Room for numbers of 8 bytes, as the kernel aligns its entries.
    let mut entries = MaybeUninit::<[u64; AT_ONCE / 8]>::uninit();
    let buffer = entries.as_mut_ptr().cast::<u8>();
    loop {
        let length = syscall(call::GETDENTS64, [proc as usize, buffer as usize, AT_ONCE, 0, 0, 0]);
        if length <= 0 {
            break;
        }
        let mut at = 0;
        while at < length as usize {
            // struct linux_dirent64: 8 bytes each of inode and offset, 2 of length, 1 of type, then the name.
            // SAFETY: the kernel filled `length` bytes with whole entries, each as long as it says.
            let (size, name) = unsafe {
                let entry = buffer.add(at);
                (entry.add(16).cast::<u16>().read_unaligned(), entry.add(19))
            };
            at += size.max(24) as usize;
            found |= kill_if_marked(name, mark, forks);
        }
    }
    syscall(call::CLOSE, [proc as usize, 0, 0, 0, 0, 0]);
    found
}

/// The name is NUL-terminated.
fn kill_if_marked(name: *const u8, mark: &[u8; MARK], forks: bool) -> bool {
    const DIGITS: usize = 10;
    let mut path = [0u8; 32];
    let mut pid = 0usize;
    let mut end = put(&mut path, 0, b"/proc/");
    for at in 0..=DIGITS {
        // SAFETY: not behind the NUL, at which this ends.
        match unsafe { name.add(at).read() } {
            0 if at > 0 => break,
            digit @ b'0'..=b'9' if at < DIGITS => {
                pid = pid * 10 + (digit - b'0') as usize;
                end = put(&mut path, end, &[digit]);
            }
            _ => return false,
        }
    }
    let carries = |path: &mut [u8; 32]| {
        put(path, end, b"/environ\0");
        let in_environment = holds(path, mark);
        in_environment || forks && {
            put(path, end, b"/maps\0");
            holds(path, mark)
        }
    };
    if !carries(&mut path) {
        return false;
    }
    let pidfd = syscall(call::PIDFD_OPEN, [pid, 0, 0, 0, 0, 0]);
    // Looked again while the descriptor is held: from here on it means the process that was looked at.
    let found = pidfd >= 0 && carries(&mut path);
    if found {
        syscall(call::PIDFD_SEND_SIGNAL, [pidfd as usize, SIGKILL as usize, 0, 0, 0, 0]);
    }
    if pidfd >= 0 {
        syscall(call::CLOSE, [pidfd as usize, 0, 0, 0, 0, 0]);
    }
    found
}

/// Writes bytes to `path` from `at` on; where they end.
fn put(path: &mut [u8; 32], at: usize, bytes: &[u8]) -> usize {
    let mut end = at;
    for byte in bytes {
        if let Some(to) = path.get_mut(end) {
            *to = *byte;
        }
        end += 1;
    }
    end
}

/// A path that ends in NUL.
fn open(path: *const u8) -> isize {
    const AT_FDCWD: isize = -100;
    syscall(call::OPENAT, [AT_FDCWD as usize, path as usize, 0, 0, 0, 0])
}

/// Whether the mark stands in a file.
fn holds(path: &[u8; 32], mark: &[u8; MARK]) -> bool {
    let file = open(path.as_ptr());
    if file < 0 {
        return false;
    }
    let mut buffer = MaybeUninit::<[u8; AT_ONCE]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<u8>();
    let mut matched = 0;
    while matched < MARK {
        let length = syscall(call::READ, [file as usize, buffer as usize, AT_ONCE, 0, 0, 0]);
        if length <= 0 {
            break;
        }
        for at in 0..length as usize {
            // SAFETY: the kernel filled `length` bytes.
            let byte = unsafe { buffer.add(at).read() };
            // What stands before a mark is none of its characters: it cannot begin within a part of itself.
            matched = if mark.get(matched) == Some(&byte) { matched + 1 } else { (mark[0] == byte) as usize };
            if matched == MARK {
                break;
            }
        }
    }
    syscall(call::CLOSE, [file as usize, 0, 0, 0, 0, 0]);
    matched == MARK
}

/// Returns when the thread that started this program is gone: with its process, or because the host
/// replaced itself by execve. A SIGTERM of anybody else is nothing.
fn wait_for_end_of(host: i32) {
    let mask: u64 = 1 << (SIGTERM - 1);
    while syscall(call::GETPPID, [0; 6]) as i32 == host {
        let mut info = [0i32; 32];
        syscall(call::RT_SIGTIMEDWAIT, [&raw const mask as usize, &raw mut info as usize, 0, 8, 0, 0]);
        const SI_PID: usize = 4; // siginfo_t: signo, errno, code, padding, pid
        if info[SI_PID] == host {
            return;
        }
    }
}

/// Closes the descriptors from `first` to `last`; where a sandbox refuses close_range, those that there may well be.
fn close(first: usize, last: usize) {
    const MOST: usize = 1 << 14;
    if syscall(call::CLOSE_RANGE, [first, last, 0, 0, 0, 0]) < 0 {
        let mut fd = first;
        while fd <= last && fd < MOST {
            syscall(call::CLOSE, [fd, 0, 0, 0, 0, 0]);
            fd += 1;
        }
    }
}

fn exit(code: usize) -> ! {
    syscall(call::EXIT, [code, 0, 0, 0, 0, 0]);
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(2)
}
