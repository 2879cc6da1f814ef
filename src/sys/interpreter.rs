//! The loader that runs the shared library as a program (see `build.rs` and `sys/library.rs`). An object
//! of its own, linked into the shared library only: in a program's file it would stand beside the
//! program's.

#![no_std]

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(".section .interp,\"aR\",@progbits", ".asciz \"/lib64/ld-linux-x86-64.so.2\"", ".previous");

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".section .interp,\"aR\",@progbits", ".asciz \"/lib/ld-linux-aarch64.so.1\"", ".previous");
