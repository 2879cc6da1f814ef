//! MASTER_PORT of this host while an attempt runs. In a job of one host, where the agent serves the store there, it is a
//! new one for each attempt, so that nobody finds a word of an attempt before. The thread of that store starts when the
//! first client comes; workers that need no store cost none.

use std::os::fd::OwnedFd;

use super::context::Context;
use super::job::master_addr;
use super::port::{self, Port};
use super::wake::Wake;
use crate::error::Error;
use crate::spec::Level;

#[derive(Default)]
pub struct MasterPort(Option<Port>);

impl MasterPort {
    /// For the next attempt of a job of one host.
    pub fn reserve(&mut self, context: &Context) -> Result<(), Error> {
        if self.0.is_none() {
            let served_at = context.settled.checked.agent_store.then(|| master_addr(context.spec));
            self.0 = Some(port::reserve(context.spec.master_port, served_at.as_deref())?);
        }
        Ok(())
    }

    /// The attempt that begins has a port.
    pub fn take(&mut self, context: &Context) -> Result<(), Error> {
        self.reserve(context)?;
        if !context.settled.checked.agent_store {
            return Ok(());
        }
        let Some(port) = self.0.take() else { return Ok(()) };
        let port = port.open()?;
        if let Some(queue) = port.queue() {
            let watched = context.poll.add(queue, Wake::Store);
            watched.map_err(|errno| Error::system("cannot watch the workers' store", errno as i32))?;
        }
        self.0 = Some(port);
        Ok(())
    }

    /// A client of the workers' store has come.
    pub fn serve(&mut self, context: &Context) {
        let Some(port) = self.unwatch(context) else { return };
        match port.serve(context.spec.descriptors()) {
            Ok(port) => self.0 = Some(port),
            // With its socket gone, who waits for it is told.
            Err(error) => context.log(Level::Error, || format!("workers have no store: {error}")),
        }
    }

    /// The attempt is over. Whoever is left of it loses its connection.
    pub fn leave(&mut self, context: &Context) {
        self.unwatch(context);
    }

    fn unwatch(&mut self, context: &Context) -> Option<Port> {
        let port = self.0.take()?;
        if let Some(queue) = port.queue() {
            context.poll.delete(queue);
        }
        Some(port)
    }

    /// 0 if there is none.
    pub fn number(&self) -> u16 {
        self.0.as_ref().map_or(0, Port::number)
    }

    /// For the next round of a job of several hosts: any free one, in case that this host turns out to be the first.
    pub fn offer(&mut self) -> Result<u16, Error> {
        self.0 = None;
        Ok(self.0.insert(port::reserve(0, None)?).number())
    }

    /// The round has its nodes. `serves`: the agent serves the workers' store there, on the socket that comes back.
    /// `keeps`: the port is kept for the worker of rank 0; else it is nobody's.
    pub fn settle(&mut self, serves: bool, keeps: bool) -> Option<OwnedFd> {
        match self.0.take() {
            Some(Port::Kept(socket, _)) if serves => Some(socket),
            port => {
                self.0 = port.filter(|_| keeps);
                None
            }
        }
    }
}
