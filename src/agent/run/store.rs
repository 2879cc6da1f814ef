//! MASTER_PORT of a job of one host, and the store there, where the agent serves it: a new one for each attempt, so
//! that nobody finds a word of an attempt before. Its thread starts when the first client comes; workers that need
//! no store cost none.

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::super::port::{self, Port};
use super::{Run, STORE, master_addr};
use crate::error::Error;
use crate::spec::Level;

impl Run<'_> {
    pub(super) fn reserve_port(&self) -> Result<Port, Error> {
        let served_at = self.settled.checked.agent_store.then(|| master_addr(self.spec));
        port::reserve(self.spec.master_port, served_at.as_deref())
    }

    /// The attempt that begins has a port.
    pub(super) fn take_port(&mut self) -> Result<(), Error> {
        let mut port = self.port.take().map_or_else(|| self.reserve_port(), Ok)?;
        if self.settled.checked.agent_store {
            port = port.open()?;
        }
        if let Some(queue) = port.queue() {
            let watched = self.epoll.add(queue, EpollEvent::new(EpollFlags::EPOLLIN, STORE));
            watched.map_err(|errno| Error::system("cannot watch the workers' store", errno as i32))?;
        }
        self.port = Some(port);
        Ok(())
    }

    /// Somebody wants to meet the others.
    pub(super) fn serve_store(&mut self) {
        let Some(port) = self.unwatch_port() else { return };
        match port.serve(self.spec.descriptors()) {
            Ok(port) => self.port = Some(port),
            // With its socket gone, who waits for it is told.
            Err(error) => self.log(Level::Error, || format!("workers have no store: {error}")),
        }
    }

    /// The attempt is over. Whoever is left of it loses its connection.
    pub(super) fn leave_port(&mut self) {
        self.unwatch_port();
    }

    /// Before it is closed: a sibling inside exec may hold a copy, and epoll would report it for ever.
    fn unwatch_port(&mut self) -> Option<Port> {
        let port = self.port.take()?;
        if let Some(queue) = port.queue() {
            let _ = self.epoll.delete(queue);
        }
        Some(port)
    }
}
