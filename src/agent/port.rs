//! MASTER_PORT: a port that nobody else is given while an attempt runs.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket, sockopt,
};

use crate::error::Error;
use crate::sys::fd::above_stdio;

/// A port for MASTER_PORT, kept by a bound socket that does not listen: the kernel gives it to nobody
/// who asks for a free one, and rank 0 can still listen there (both have SO_REUSEADDR).
pub fn reserve_port(wanted: u16) -> Result<(OwnedFd, u16), Error> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, wanted));
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted));
    let reserved = reserve(AddressFamily::Inet6, any_v6).or_else(|errno| match errno {
        // A host without IPv6.
        Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL => reserve(AddressFamily::Inet, any_v4),
        errno => Err(errno),
    });
    reserved.map_err(|errno| {
        let what =
            if wanted == 0 { "no free port for MASTER_PORT".into() } else { format!("master_port {wanted}") };
        Error::system(what, errno as i32)
    })
}

fn reserve(family: AddressFamily, address: SocketAddr) -> Result<(OwnedFd, u16), Errno> {
    let socket = above_stdio(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port =
        bound.as_sockaddr_in6().map(|v6| v6.port()).or_else(|| bound.as_sockaddr_in().map(|v4| v4.port()));
    Ok((socket, port.unwrap_or(address.port())))
}
