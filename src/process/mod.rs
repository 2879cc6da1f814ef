//! Children: the workers of one attempt, from birth to reaping; functions as workers, in whatever process;
//! the watcher beside them.

pub mod attempt;
pub mod channel;
pub mod command;
pub mod descent;
pub mod forkserver;
pub mod function;
pub mod host;
pub mod image;
pub mod launch;
pub mod registry;
pub mod server;
pub mod stack;
pub mod watcher;
pub mod wire;
