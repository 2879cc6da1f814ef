//! What this machine has, what of it the workers of an agent get, and what each worker is told of it.

pub mod assign;
pub mod cpus;
mod inspect;
pub mod numa;
pub mod probe;
mod report;
pub mod strings;
pub mod topology;
pub mod visibility;

pub use inspect::serve;

/// How many CPUs this process may use: its affinity mask, and what the control groups around it grant.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
