//! Children: the workers of one attempt, from birth to reaping, and the watcher beside them.

pub mod attempt;
pub mod callback;
pub mod launch;
pub mod watcher;
