//! MASTER_PORT: a port that nobody else is given while an attempt runs, and the store that may be served there.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::error::Error;
use crate::store::meeting::is_loopback;
use crate::store::server::{Config, Server};
use crate::sys::listener::{bind_everywhere, bind_first, listen_now};

pub enum Port {
    /// By a bound socket that does not listen: the kernel gives the port to nobody who asks for a free one, and
    /// rank 0 can still listen there (both have SO_REUSEADDR).
    Kept(OwnedFd, u16),
    /// By a socket that listens: clients wait in its queue for the store that is to be served there.
    Open(OwnedFd, u16),
    /// By a store that this agent serves.
    Served(Server),
}

impl Port {
    pub fn number(&self) -> u16 {
        match self {
            Port::Kept(_, port) | Port::Open(_, port) => *port,
            Port::Served(server) => server.port(),
        }
    }

    /// Lets clients come.
    pub fn open(self) -> Result<Port, Error> {
        match self {
            Port::Kept(socket, port) => {
                // Two may keep a port, but only one listens there.
                listen_now(&socket).map_err(|errno| taken(port, errno))?;
                Ok(Port::Open(socket, port))
            }
            port => Ok(port),
        }
    }

    /// What tells that the first client has come.
    pub fn queue(&self) -> Option<&OwnedFd> {
        match self {
            Port::Open(socket, _) => Some(socket),
            Port::Kept(..) | Port::Served(_) => None,
        }
    }

    /// Serves those who came with an empty store, in the process that starts so many descriptors of workers.
    /// PyTorch's workers have no secret to tell.
    pub fn serve(self, descriptors: usize) -> Result<Port, Error> {
        match self {
            Port::Open(socket, _) => {
                Server::start_on(socket, &Config::beside_workers(descriptors)).map(Port::Served)
            }
            port => Ok(port),
        }
    }
}

/// A port for MASTER_PORT; 0 is any free one. `served_at` is MASTER_ADDR where a store is to be served: no other
/// host is let in where none could be meant.
pub fn reserve(wanted: u16, served_at: Option<&[u8]>) -> Result<Port, Error> {
    let host = served_at.and_then(|host| std::str::from_utf8(host).ok()).filter(|host| is_loopback(host));
    let bound = match host {
        None => bind_everywhere(wanted),
        Some(host) => bind_first(&addresses(host, wanted)),
    };
    bound.map(|(socket, port)| Port::Kept(socket, port)).map_err(|errno| taken(wanted, errno))
}

fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    let found = (host, port).to_socket_addrs().map(Iterator::collect);
    found.unwrap_or_else(|_| vec![(Ipv4Addr::LOCALHOST, port).into()])
}

fn taken(port: u16, errno: Errno) -> Error {
    let what = if port == 0 { "no free port for MASTER_PORT".into() } else { format!("master_port {port}") };
    Error::system(what, errno as i32)
}
