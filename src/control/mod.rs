//! What workers tell the agent while they run, and what the agent sees of them.

pub mod d_state;
pub mod file_timer;
