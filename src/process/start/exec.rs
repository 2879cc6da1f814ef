//! Workers that are programs: each is executed.

use std::path::Path;

use super::{Method, Newborn, Starter};
use crate::error::Error;
use crate::process::channel::Channel;
use crate::process::program::execute;
use crate::spec::Spec;
use crate::sys::child::{Child, Setup};

pub struct Exec;

impl Method for Exec {
    fn prepare(&self, _spec: &Spec, _working_dir: Option<&Path>) -> Result<Box<dyn Starter>, Error> {
        Ok(Box::new(Executed))
    }
}

struct Executed;

impl Starter for Executed {
    fn birth(&mut self, newborn: Newborn) -> Result<(Option<Child>, Option<Channel>), Error> {
        let (env, page) = (newborn.environment(), newborn.page_fd());
        let Newborn { spec, worker, setup, nursery, .. } = newborn;
        // The first after the streams: CONTROL_FD.
        let setup = Setup { protocol: page.as_slice(), ..setup };
        let child = execute(nursery, spec, &setup, &worker.paths, &worker.argv, &env)?;
        Ok((Some(child), None))
    }
}
