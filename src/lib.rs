//! libice: start, watch and restart the worker processes of a parallel program, behind a C ABI.
//!
//! A pure core in a thin shell. The way of the data is one way:
//! `spec -> ranks -> plan -> process -> (events) -> supervise -> report -> result`.
//! `ffi` knows every room, no room knows `ffi`; `unsafe` stands in `ffi` and `sys` only.

mod agent;
mod control;
mod device;
mod entry;
mod error;
mod ffi;
#[cfg(fuzzing)]
pub mod fuzzing;
mod logs;
mod moment;
mod plan;
mod probe;
mod process;
mod ranks;
mod reminder;
mod rendezvous;
mod report;
mod scheduler;
mod shown;
mod spec;
mod standstill;
mod store;
mod supervise;
mod sys;
