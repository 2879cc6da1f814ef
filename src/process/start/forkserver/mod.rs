//! `forkserver`: a worker is a copy of a process that was made once and warmed up. `server` is that process, `client`
//! is the agent's handle of it, `wire` is what they say to each other.

mod client;
pub mod server;
mod wire;

use std::os::fd::AsRawFd;
use std::path::Path;

pub use self::client::{BIRTHS_AT_ONCE, Forkserver, Heard};
pub use self::wire::ServerAnswer;

use self::client::WHOLE_ENVIRONMENT;
use super::{Method, NewServer, Newborn, Starter, refuse_callback};
use crate::error::{Error, c_string_lossy};
use crate::plan::as_c_strs;
use crate::process::channel::{Channel, ChannelKind};
use crate::process::image::Image;
use crate::process::program::execute;
use crate::spec::Spec;
use crate::sys::child::{Child, Pointers, Setup};
use crate::sys::fd;
use crate::sys::packets::Packets;

pub struct FromServer;

impl Method for FromServer {
    fn check(&self, spec: &Spec) -> Result<(), Error> {
        refuse_callback(spec)
    }

    fn resolve(&self, spec: &mut Spec) -> Result<(), Error> {
        Image::of(spec, None).map(drop)
    }

    fn forks(&self) -> bool {
        true
    }

    fn has_server(&self) -> bool {
        true
    }

    fn prepare(&self, spec: &Spec, working_dir: Option<&Path>) -> Result<Box<dyn Starter>, Error> {
        Ok(Box::new(Served { image: Image::of(spec, working_dir)? }))
    }
}

struct Served {
    /// The server's.
    image: Image,
}

impl Starter for Served {
    fn birth(&mut self, newborn: Newborn) -> Result<(Option<Child>, Option<Channel>), Error> {
        let channel = newborn.channel()?;
        let Newborn { worker, rank, setup, own_streams, server, .. } = newborn;
        let Some(server) = server else {
            return Err(Error::Internal { what: "no fork server".into() });
        };
        let list = worker.cpus.map(|cpus| c_string_lossy(cpus.to_string().as_bytes()));
        // A rank with variables of its own gets all of them, the others what differs.
        let all = worker.common.iter().flat_map(|common| as_c_strs(common));
        let mark = if worker.common.is_some() { WHOLE_ENVIRONMENT } else { c"" };
        let first = [mark, list.as_deref().unwrap_or_default()];
        channel
            .tell(first.into_iter().chain(all).chain(as_c_strs(&worker.own)))
            .map_err(|errno| Error::system("cannot make memory for an environment", errno as i32))?;
        server
            .ask(rank.local, setup.stdio, own_streams, &channel)
            .map_err(|errno| Error::system("cannot ask the fork server", errno as i32))?;
        Ok((None, Some(channel)))
    }

    fn start_server(&mut self, server: NewServer) -> Result<Forkserver, Error> {
        let NewServer { spec, env, setup, groups, nursery, null } = server;
        let failed = |errno: nix::errno::Errno| Error::system("cannot prepare a fork server", errno as i32);
        let channel = Channel::new(ChannelKind::Server).map_err(failed)?;
        self.image.tell(&channel)?;
        let (ours, theirs) = Packets::pair().map_err(failed)?;
        let theirs = fd::above_protocol(theirs.into_fd()).map_err(failed)?;
        let argument = spec.argument.as_ref().map_or(null, |blob| blob.as_raw_fd());
        let protocol = [channel.fd(), argument, theirs.as_raw_fd(), groups];
        let setup = Setup {
            protocol: &protocol,
            process: Some(channel.process()),
            // What is meant for the agent is not to end it, with all workers, before the agent hears of it.
            reset: setup.reset.ignoring_all(self.image.order.signals.ignored),
            ..setup
        };
        let env = Pointers::new(as_c_strs(env));
        let child = execute(nursery, spec, &setup, self.image.paths(), &self.image.argv, &env)?;
        Ok(Forkserver::new(child, channel, ours))
    }
}
