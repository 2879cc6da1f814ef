//! Where output goes: the run directory, streams followed to the console or the host, filters, and the
//! thread that does all that may be slow.

pub mod bar;
pub mod console;
pub mod events;
pub mod follow;
pub mod leftovers;
pub mod lines;
pub mod loss;
pub mod output;
pub mod relay;
pub mod run_dir;
