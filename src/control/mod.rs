//! What an agent and its workers say to each other while a run goes on: steps, progress, heartbeats and timers
//! one way, requests (pause, save, stop, all at one step) the other, through a page of memory.
//!
//! A worker pays one plain store for a step and one load for a look at the requests. The agent pays nothing
//! while nobody asks for anything and no timer is armed.

pub mod d_state;
pub mod file_timer;
pub mod listener;
pub mod pace;
pub mod page;
pub mod pending;
pub mod request;
pub mod section;
pub mod watch;
pub mod worker;
