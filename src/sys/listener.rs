//! Sockets that are bound to, or listen for connections, over TCP, and at a path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, getsockname,
    listen, setsockopt, socket, sockopt,
};

use super::fd::above_stdio;

/// What `make` makes of one address, for all of this machine: one socket serves both families.
fn everywhere<T>(port: u16, make: impl Fn(SocketAddr) -> Result<T, Errno>) -> Result<T, Errno> {
    make(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|errno| match errno {
        // A host without IPv6.
        Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL => make(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        errno => Err(errno),
    })
}

/// On all addresses of this machine; the socket and its port.
pub fn listen_everywhere(port: u16) -> Result<(OwnedFd, u16), Errno> {
    everywhere(port, listen_at)
}

/// The same for a socket that does not listen yet: nobody else is given its port.
pub fn bind_everywhere(port: u16) -> Result<(OwnedFd, u16), Errno> {
    let socket = everywhere(port, bind_at)?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

/// Likewise, at the first of these that this host has.
pub fn bind_first(addresses: &[SocketAddr]) -> Result<(OwnedFd, u16), Errno> {
    let mut result = Err(Errno::EADDRNOTAVAIL);
    for address in addresses {
        result = bind_at(*address);
        // One that is taken is not to be passed by: clients would come to whoever has it.
        if !matches!(result, Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)) {
            break;
        }
    }
    let socket = result?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

/// At one address; without waiting, close-on-exec, above 2.
pub fn listen_at(address: SocketAddr) -> Result<(OwnedFd, u16), Errno> {
    let listener = bind_at(address)?;
    let port = listen_now(&listener)?;
    Ok((listener, port))
}

fn bind_at(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = above_stdio(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)?;
    // The port of a server that has just ended is free at once.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Lets a socket that is bound listen, if it does not yet, without waiting; its port.
pub fn listen_now(socket: &OwnedFd) -> Result<u16, Errno> {
    fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    listen(socket, Backlog::MAXALLOWABLE)?;
    port_of(socket)
}

/// The address of a host, if it is one; that of IPv4 where IPv6 only wraps it.
pub fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()).to_canonical()))
}

fn port_of(socket: &OwnedFd) -> Result<u16, Errno> {
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v6 = bound.as_sockaddr_in6().map(|v6| v6.port());
    v6.or_else(|| bound.as_sockaddr_in().map(|v4| v4.port())).ok_or(Errno::EAFNOSUPPORT)
}

/// At a path of a unix socket, in place of one that nobody listens at any more; likewise. The file is to be
/// removed by who has it made.
pub fn listen_at_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let new = || above_stdio(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    let (listener, address) = (new()?, UnixAddr::new(path)?);
    let is_socket = path.symlink_metadata().is_ok_and(|data| data.file_type().is_socket());
    if is_socket && connect(new()?.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED) {
        let _ = std::fs::remove_file(path);
    }
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}
