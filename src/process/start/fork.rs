//! `fork`: a worker is a copy of this process, which calls a function that is there.

use std::os::fd::AsRawFd;
use std::path::Path;

use super::{Method, Newborn, STACK, Starter};
use crate::error::Error;
use crate::process::channel::{Channel, WorkerEnd};
use crate::process::function::{self, NOT_STARTED, Surroundings};
use crate::process::program::not_born;
use crate::process::registry;
use crate::spec::{Callback, Spec};
use crate::sys::child::{self, Child, Function, Setup};
use crate::sys::memory::{Blob, Mapping};
use crate::sys::{library, process};

/// The stack for functions where the limit of a main thread's is none.
const UNLIMITED_STACK: usize = 64 << 20;

pub struct Fork;

impl Method for Fork {
    fn check(&self, spec: &Spec) -> Result<(), Error> {
        if spec.function.as_ref().is_some_and(|function| function.library.is_some()) {
            let want = "a function of a shared object starts in a clean process: spawn or forkserver";
            return Err(Error::config("start_method", spec.start_method().name(), want));
        }
        Ok(())
    }

    fn resolve(&self, spec: &mut Spec) -> Result<(), Error> {
        if let Some(function) = &spec.function {
            let found = registry::find(&function.name)
                .map_err(|want| Error::config("function", function.name.to_string_lossy(), want))?;
            spec.callback = Some(found);
        }
        Ok(())
    }

    fn check_process(&self) -> Result<(), Error> {
        if library::cuda_is_initialised() { Err(Error::fork_after_cuda()) } else { Ok(()) }
    }

    /// The function runs on it.
    fn stack(&self) -> usize {
        process::stack_limit().unwrap_or(UNLIMITED_STACK).max(STACK)
    }

    fn forks(&self) -> bool {
        true
    }

    fn prepare(&self, spec: &Spec, _working_dir: Option<&Path>) -> Result<Box<dyn Starter>, Error> {
        let Some(callback) = spec.callback else {
            return Err(Error::Internal { what: "a function was not looked for".into() });
        };
        let argument = spec.argument.as_ref().map(|blob| Blob::map(blob.as_raw_fd())).transpose();
        let argument =
            argument.map_err(|errno| Error::system("cannot prepare to start workers", errno as i32))?;
        function::prepare_crash_records(spec.crash_records);
        Ok(Box::new(Forked { callback, argument: argument.map(Mapping::leak_readable) }))
    }
}

struct Forked {
    callback: Callback,
    /// Workers find it in their memory.
    argument: Option<&'static [u8]>,
}

impl Starter for Forked {
    fn birth(&mut self, newborn: Newborn) -> Result<(Option<Child>, Option<Channel>), Error> {
        let (channel, env) = (newborn.channel()?, newborn.environment());
        let Newborn { spec, setup, page, mark, .. } = newborn;
        let setup = Setup { report: Some(channel.report()), mark, ..setup };
        let mut run = || match WorkerEnd::open(channel.fd()) {
            Ok(end) => {
                let (argument, crash_records) = (self.argument, spec.crash_records);
                function::run(
                    self.callback,
                    end,
                    Surroundings { argument, crash_records, page: page.cloned() },
                )
            }
            Err(_) => NOT_STARTED,
        };
        let function = Function { env: Some(&env), keep: channel.fd(), run: &mut run };
        let child = child::fork(&setup, function).map_err(|errno| not_born("cannot fork a worker", errno))?;
        Ok((Some(child), Some(channel)))
    }
}
