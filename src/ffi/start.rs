//! Where the shared library begins as a program: `build.rs` names this entry in its ELF header.

use std::ffi::{c_char, c_int, c_void};

use crate::entry;

// The kernel, or the loader, jumps here: the stack holds argc, argv, .., and a register the function
// that the loader wants to be run at exit.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl ice_library_start",
    ".hidden ice_library_start",
    ".type ice_library_start, @function",
    "ice_library_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "mov rsi, rdx",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl ice_library_start",
    ".hidden ice_library_start",
    ".type ice_library_start, @function",
    "ice_library_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x1, x0",
    "mov x0, sp",
    "bl {start}",
    "brk 0",
    start = sym start,
);

type Main = extern "C" fn(c_int, *const *const c_char, *const *const c_char) -> c_int;

unsafe extern "C" {
    fn __libc_start_main(
        main: Main,
        argc: c_int,
        argv: *const *const c_char,
        init: Option<extern "C" fn()>,
        fini: Option<extern "C" fn()>,
        rtld_fini: *const c_void,
        stack_end: *const c_void,
    ) -> c_int;
}

extern "C" fn start(stack: *const usize, rtld_fini: *const c_void) -> ! {
    // SAFETY: what the kernel puts on the stack of a new program; the C library takes it from here.
    unsafe {
        let argv = stack.add(1).cast();
        __libc_start_main(main, *stack as c_int, argv, None, None, rtld_fini, stack.cast());
        libc::_exit(127)
    }
}

extern "C" fn main(_: c_int, _: *const *const c_char, _: *const *const c_char) -> c_int {
    entry::library_main()
}
