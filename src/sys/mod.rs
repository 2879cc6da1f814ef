//! What nix lacks, one family of system calls per file: with `ffi` the only room where `unsafe` stands.

pub mod child;
pub mod dispositions;
pub mod fd;
pub mod memory;
pub mod process;
mod raw;
pub mod signals;
pub mod slices;
