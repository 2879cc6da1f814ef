//! Children: the workers of one attempt, from birth to reaping; the start methods; functions as workers, in whatever
//! process; the watcher beside them.

pub mod attempt;
pub mod channel;
pub mod command;
pub mod descent;
pub mod function;
pub mod host;
pub mod image;
pub mod launch;
pub mod program;
pub mod registry;
pub mod stack;
pub mod start;
pub mod watcher;
