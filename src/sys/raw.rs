//! System calls without the C library: for the watcher's program, which has none, and for a child that
//! runs beside its parent in the same memory, where errno, locks and whatever is preloaded are the parent's.

use core::arch::asm;

pub fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; callers pass memory of their own or none.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") args[0] as isize => result,
             in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5]);
    }
    result
}
