//! What nix lacks, one family of system calls per file: with `ffi` the only room where `unsafe` stands.

pub mod affinity;
pub mod barrier;
pub mod call;
pub mod child;
pub mod confined;
pub mod crash;
pub mod cuda;
pub mod dispositions;
pub mod fd;
pub mod file;
pub mod futex;
pub mod inherited;
pub mod library;
pub mod limits;
pub mod listener;
pub mod memory;
pub mod nameless;
pub mod packets;
pub mod process;
pub mod random;
mod raw;
pub mod shield;
pub mod signal_set;
pub mod signals;
pub mod slices;
pub mod terminal;
