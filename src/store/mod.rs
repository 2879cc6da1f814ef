//! The key-value store that the processes of a job meet at, in the protocol of PyTorch's TCPStore (2.15): a
//! server that unmodified PyTorch clients use, and a client for any such server.
//!
//! `wire` and `table` are pure: bytes and requests, requests and state. `server` and `client` are the shell.

mod broadcast;
pub mod client;
mod connection;
pub mod server;
mod table;
mod wire;
