//! The GPUs of this machine.

mod inspect;
pub mod probe;
mod report;

pub use inspect::serve;
