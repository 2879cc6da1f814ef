//! The call of a user's function.

use std::arch::naked_asm;
use std::ffi::c_void;

/// A C function as a worker: called with the worker handle and the host's own pointer.
pub type WorkerFn = extern "C-unwind" fn(*mut c_void, *mut c_void) -> i32;

#[derive(Clone, Copy, Debug)]
pub struct Callback {
    pub function: WorkerFn,
    pub user_data: HostPointer,
}

impl PartialEq for Callback {
    fn eq(&self, other: &Callback) -> bool {
        self.function as usize == other.function as usize && self.user_data == other.user_data
    }
}

/// A pointer of the host that is only carried, never followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostPointer(pub usize);

/// Calls a worker's function as the outermost one of its stack: what comes above it is the library's. Nor does
/// the search for a handler of a C++ exception go further, which so ends where it was thrown.
pub fn outermost(function: WorkerFn, worker: *mut c_void, user_data: *mut c_void) -> i32 {
    // SAFETY: it only calls the first argument with the other two.
    unsafe { call(function, worker, user_data) }
}

#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn call(function: WorkerFn, worker: *mut c_void, user_data: *mut c_void) -> i32 {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        ".cfi_undefined rip", // nowhere to return to, for those who unwind
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "call rax",
        "pop rbp",
        "ret",
        ".cfi_endproc",
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn call(function: WorkerFn, worker: *mut c_void, user_data: *mut c_void) -> i32 {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        ".cfi_undefined x30", // nowhere to return to, for those who unwind
        "mov x9, x0",
        "mov x0, x1",
        "mov x1, x2",
        "blr x9",
        "ldp x29, x30, [sp], #16",
        "ret",
        ".cfi_endproc",
    )
}
