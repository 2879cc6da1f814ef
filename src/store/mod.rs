//! The key-value store that the processes of a job meet at, in the protocol of PyTorch's TCPStore (2.15): a
//! server that unmodified PyTorch clients use, and a client for any such server.
//!
//! `wire` and `table` are pure: bytes and requests, requests and state. Around them a `server` with a `session` for
//! each of its clients, and a `client` with its `connection`.

mod arrivals;
mod broadcast;
pub mod client;
pub mod connection;
pub mod counts;
pub mod interrupt;
pub mod losses;
pub mod meeting;
mod newcomers;
pub mod secret;
pub mod server;
mod session;
pub mod table;
pub mod wire;

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// When a silent connection is asked whether the other host is still there: seconds until the first question,
/// between two, and how many stay without an answer.
const KEEP_ALIVE: (u32, u32, u32) = (60, 10, 6);

/// Small messages go at once, and the end of the other host, or of the way to it, is noticed: nobody tells it.
fn set_up(socket: &impl AsFd) -> Result<(), Errno> {
    let (idle, interval, count) = KEEP_ALIVE;
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(socket, sockopt::TcpKeepCount, &count)
}
