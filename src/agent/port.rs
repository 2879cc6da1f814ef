//! MASTER_PORT: a port that nobody else is given while an attempt runs.

use std::os::fd::OwnedFd;

use crate::error::Error;
use crate::sys::listener::bind_everywhere;

/// A port for MASTER_PORT, kept by a bound socket that does not listen: the kernel gives it to nobody
/// who asks for a free one, and rank 0 can still listen there (both have SO_REUSEADDR).
pub fn reserve_port(wanted: u16) -> Result<(OwnedFd, u16), Error> {
    bind_everywhere(wanted).map_err(|errno| {
        let what =
            if wanted == 0 { "no free port for MASTER_PORT".into() } else { format!("master_port {wanted}") };
        Error::system(what, errno as i32)
    })
}
