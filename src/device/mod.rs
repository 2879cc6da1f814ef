//! Which GPUs there are, which of them the workers of an agent get, and what each worker is told of them.

pub mod assign;
mod inspect;
pub mod probe;
mod report;
pub mod strings;
pub mod visibility;

pub use inspect::serve;

/// How many CPUs this process may use: its affinity mask, and what the control groups around it grant.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
