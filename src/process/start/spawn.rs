//! `spawn`: a worker is a new process, in which a program looks for the function and calls it.

use std::os::fd::AsRawFd;
use std::path::Path;

use super::{Method, Newborn, Starter, refuse_callback};
use crate::error::Error;
use crate::process::channel::Channel;
use crate::process::image::Image;
use crate::process::program::execute;
use crate::spec::Spec;
use crate::sys::child::{Child, Setup};

pub struct Spawn;

impl Method for Spawn {
    fn check(&self, spec: &Spec) -> Result<(), Error> {
        refuse_callback(spec)
    }

    fn resolve(&self, spec: &mut Spec) -> Result<(), Error> {
        Image::of(spec, None).map(drop)
    }

    fn prepare(&self, spec: &Spec, working_dir: Option<&Path>) -> Result<Box<dyn Starter>, Error> {
        Ok(Box::new(Spawned { image: Image::of(spec, working_dir)? }))
    }
}

struct Spawned {
    image: Image,
}

impl Starter for Spawned {
    fn birth(&mut self, newborn: Newborn) -> Result<(Option<Child>, Option<Channel>), Error> {
        let (channel, env, page) = (newborn.channel()?, newborn.environment(), newborn.page_fd());
        let Newborn { spec, setup, nursery, null, .. } = newborn;
        self.image.tell(&channel)?;
        let argument = spec.argument.as_ref().map_or(null, |blob| blob.as_raw_fd());
        let protocol = [channel.fd(), argument, page.unwrap_or(null), null];
        let setup = Setup { protocol: &protocol, process: Some(channel.process()), ..setup };
        let child = execute(nursery, spec, &setup, self.image.paths(), &self.image.argv, &env)?;
        Ok((Some(child), Some(channel)))
    }
}
