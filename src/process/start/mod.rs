//! How workers get their processes. Each start method is a file or a folder behind [`Method`], and a line in `of`.

mod exec;
mod fork;
pub mod forkserver;
mod spawn;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

use self::forkserver::Forkserver;
use crate::control::page::Page;
use crate::error::Error;
use crate::plan::{Plan, WorkerPlan, as_c_strs};
use crate::process::channel::Channel;
use crate::ranks::Rank;
use crate::spec::{Spec, StartMethod};
use crate::sys::child::{Child, Nursery, Pointers, Setup};

/// The stack of a thread that calls no function of a worker.
const STACK: usize = 512 << 10;

/// The method by which the workers of a spec start.
pub fn of(spec: &Spec) -> &'static dyn Method {
    match spec.method() {
        None => &exec::Exec,
        Some(StartMethod::Fork) => &fork::Fork,
        Some(StartMethod::Spawn) => &spawn::Spawn,
        Some(StartMethod::Forkserver) => &forkserver::FromServer,
    }
}

/// A start method.
pub trait Method {
    /// Refuses what a spec wants and this method cannot do.
    fn check(&self, _spec: &Spec) -> Result<(), Error> {
        Ok(())
    }

    /// Looks in this process for what workers are to run: what is wrong with it is better known now than later.
    fn resolve(&self, _spec: &mut Spec) -> Result<(), Error> {
        Ok(())
    }

    /// Refuses to start workers from this process as it is now.
    fn check_process(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The stack of the agent's thread.
    fn stack(&self) -> usize {
        STACK
    }

    /// Whether workers are copies of a process that was there before, and are known by what they map.
    fn forks(&self) -> bool {
        false
    }

    /// Whether workers are children of a fork server.
    fn has_server(&self) -> bool {
        false
    }

    /// Makes what a run needs, in the agent's thread. `working_dir` is the host's.
    fn prepare(&self, spec: &Spec, working_dir: Option<&Path>) -> Result<Box<dyn Starter>, Error>;
}

/// A start method in one run.
pub trait Starter {
    /// Starts one worker. There is no child yet where a fork server is to tell of it, and no channel to a program.
    fn birth(&mut self, newborn: Newborn) -> Result<(Option<Child>, Option<Channel>), Error>;

    fn start_server(&mut self, _server: NewServer) -> Result<Forkserver, Error> {
        Err(Error::Internal { what: "this start method has no fork server".into() })
    }
}

/// A worker that is to be born, with all that does not depend on the method.
pub struct Newborn<'a> {
    pub spec: &'a Spec,
    pub plan: &'a Plan<'a>,
    pub worker: &'a WorkerPlan<'a>,
    pub rank: &'a Rank,
    pub restarts: u32,
    pub setup: Setup<'a>,
    /// Whether there are streams that no other worker has.
    pub own_streams: bool,
    /// What the agent and the workers of the attempt share, if they do.
    pub page: Option<&'a Arc<Page>>,
    /// What it maps if it is forked by this process.
    pub mark: Option<RawFd>,
    pub server: Option<&'a mut Forkserver>,
    pub nursery: &'a mut Nursery,
    pub null: RawFd,
}

impl<'a> Newborn<'a> {
    fn channel(&self) -> Result<Channel, Error> {
        Channel::for_worker(self.rank, self.restarts)
            .map_err(|errno| Error::system("cannot make memory for a value", errno as i32))
    }

    fn environment(&self) -> Pointers<'a> {
        let common = self.worker.common.as_deref().unwrap_or(self.plan.common_env());
        Pointers::new(as_c_strs(common).chain(as_c_strs(&self.worker.own)))
    }

    fn page_fd(&self) -> Option<RawFd> {
        self.page.and_then(|page| page.fd())
    }
}

/// A fork server that is to be started.
pub struct NewServer<'a> {
    pub spec: &'a Spec,
    /// Has nothing of a worker's.
    pub env: &'a [CString],
    pub setup: Setup<'a>,
    /// The watcher's table, or /dev/null.
    pub groups: RawFd,
    pub nursery: &'a mut Nursery,
    pub null: RawFd,
}

/// The rules for the workers of a spec which are functions: those of its method, and of what goes with some only.
pub fn check(spec: &Spec) -> Result<(), Error> {
    if spec.program.is_some() {
        return Ok(());
    }
    let method = of(spec);
    method.check(spec)?;
    if let (Some(name), false) = (&spec.warm_up, method.has_server()) {
        let want = "only a fork server warms up: set the start method forkserver";
        return Err(Error::config("warm_up", name.to_string_lossy(), want));
    }
    let in_library = spec.function.as_ref().is_some_and(|function| function.library.is_some());
    if let (Some(path), false) = (&spec.runner, in_library) {
        let want = "only a function of a shared object needs one";
        return Err(Error::config("runner", path.to_string_lossy(), want));
    }
    Ok(())
}

/// For methods whose workers have nothing of this process's memory.
fn refuse_callback(spec: &Spec) -> Result<(), Error> {
    if spec.callback.is_none() {
        return Ok(());
    }
    let want = "the pointer of a callback means nothing in a new process: register the function with \
                ice_worker_register() and name it with ice_spec_set_function()";
    Err(Error::config("start_method", spec.start_method().name(), want))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Callback, Function, HostPointer};

    extern "C-unwind" fn nothing(_worker: *mut std::ffi::c_void, _user_data: *mut std::ffi::c_void) -> i32 {
        0
    }

    #[test]
    fn what_a_method_cannot_do_is_refused() {
        let callback = Some(Callback { function: nothing, user_data: HostPointer(0) });
        let named = |library: Option<CString>| Some(Function { library, name: c"f".into() });
        let registered = || Spec { function: named(None), ..Spec::default() };
        let of_library = || Spec { function: named(Some(c"lib.so".into())), ..Spec::default() };
        let (spawn, server) = (Some(StartMethod::Spawn), Some(StartMethod::Forkserver));
        let warm_up = Some(c"w".into());
        for (spec, wanted) in [
            (Spec { callback, start_method: spawn, ..Spec::default() }, "start_method is spawn: the pointer"),
            (Spec { callback, start_method: server, ..Spec::default() }, "start_method is forkserver: the"),
            (
                Spec { start_method: Some(StartMethod::Fork), ..of_library() },
                "start_method is fork: a function",
            ),
            (Spec { warm_up: warm_up.clone(), ..registered() }, "warm_up is w: only a fork server"),
            (Spec { runner: Some(c"r".into()), ..registered() }, "runner is r: only a function"),
        ] {
            let error = check(&spec).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        for spec in [
            Spec { callback, ..Spec::default() },
            Spec { runner: Some(c"r".into()), ..of_library() },
            Spec { start_method: server, warm_up: warm_up.clone(), ..registered() },
            Spec { program: Some(c"p".into()), warm_up, ..Spec::default() },
        ] {
            assert_eq!(check(&spec), Ok(()));
        }
    }
}
