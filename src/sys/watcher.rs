//! The watcher, a program of its own (see `build.rs`): it sleeps until the agent's thread is gone, then
//! kills the process groups of the workers. Workers themselves die by their parent-death signal; their
//! descendants have none, as Linux does not hand it on at fork. No library, no allocation: it costs a
//! host of any size some kilobytes and one exec.
//!
//! Descriptor 3 is a table of i32: the host's pid, the number of slots, then one process group per slot,
//! 0 where there is none. The agent keeps it up to date through its own mapping.

#![no_std]
#![no_main]

mod raw;

use core::arch::naked_asm;

use raw::syscall;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const HEADER: usize = 2;

#[cfg(target_arch = "x86_64")]
mod call {
    pub const MMAP: usize = 9;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const CLOSE_RANGE: usize = 436;
    pub const NANOSLEEP: usize = 35;
    pub const CHDIR: usize = 80;
    pub const EXIT: usize = 60;
    pub const KILL: usize = 62;
    pub const GETPPID: usize = 110;
    pub const SETSID: usize = 112;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const MMAP: usize = 222;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const CLOSE_RANGE: usize = 436;
    pub const NANOSLEEP: usize = 101;
    pub const CHDIR: usize = 49;
    pub const EXIT: usize = 93;
    pub const KILL: usize = 129;
    pub const GETPPID: usize = 173;
    pub const SETSID: usize = 157;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
}

// The kernel starts a program with an aligned stack and no return address: make the frame a function expects.
// SAFETY: nothing else defines `_start`, and it never returns.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("bl {main}", "brk 0", main = sym main);
}

extern "C" fn main() -> ! {
    const PAGES: usize = 1 << 20; // more than the largest table; what lies behind its end is not touched
    const PROT_READ: usize = 1;
    const MAP_SHARED: usize = 1;
    const SET_PDEATHSIG: usize = 1;
    const SET_NAME: usize = 15;
    let all: u64 = !0;
    syscall(call::RT_SIGPROCMASK, [2, &raw const all as usize, 0, 8, 0, 0]);
    // Nothing of the host's is held open, not even its directory.
    syscall(call::CLOSE_RANGE, [0, 2, 0, 0, 0, 0]);
    syscall(call::CLOSE_RANGE, [4, u32::MAX as usize, 0, 0, 0, 0]);
    syscall(call::CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
    syscall(call::SETSID, [0; 6]);
    syscall(call::PRCTL, [SET_NAME, c"ice-watcher".as_ptr() as usize, 0, 0, 0, 0]);
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
    exit(0)
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

fn exit(code: usize) -> ! {
    syscall(call::EXIT, [code, 0, 0, 0, 0, 0]);
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(2)
}
