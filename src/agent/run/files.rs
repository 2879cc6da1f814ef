//! The run directory, and the files of the workers in it; or what is done where they cannot be had.

use super::context::Context;
use crate::error::Error;
use crate::logs::leftovers;
use crate::logs::run_dir::{RunDir, WorkerFiles, has_logs};
use crate::spec::{Level, Spec};
use crate::supervise::Supervisor;

#[derive(Default)]
pub struct Files {
    run_dir: Option<RunDir>,
    /// The files of this attempt could not be made: its workers do without.
    without: bool,
}

impl Files {
    /// Makes the run directory if there is none. Where nobody asked for one and none can be made, workers do without
    /// error files.
    pub fn make(&mut self, context: &Context) -> Result<(), Error> {
        if self.run_dir.is_some() {
            return Ok(());
        }
        let Context { spec, settled, host, run_id, .. } = context;
        let tmpdir = host.tmpdir.as_deref();
        self.run_dir = match RunDir::create(spec, &settled.checked, run_id, context.working_dir(), tmpdir) {
            Err(error) if spec.log_dir.is_none() && !has_logs(spec) => {
                context.log(Level::Warning, || format!("workers have no error files: {error}"));
                None
            }
            made => made?,
        };
        Ok(())
    }

    /// An attempt begins.
    pub fn begin(&mut self) {
        self.without = false;
    }

    pub fn make_attempt(
        &mut self,
        context: &Context,
        supervisor: &Supervisor,
        number: u32,
    ) -> Result<(), Error> {
        self.make(context)?;
        match self.run_dir.as_mut().map_or(Ok(()), |run_dir| run_dir.make_attempt(number)) {
            Err(error) => self.do_without(context, supervisor, error),
            Ok(()) => Ok(()),
        }
    }

    /// The files of a worker, or none where they cannot be had.
    pub fn make_worker(
        &mut self,
        context: &Context,
        supervisor: &Supervisor,
        number: u32,
        index: usize,
    ) -> Result<WorkerFiles, Error> {
        let Some(run_dir) = self.run_dir.as_mut() else { return Ok(WorkerFiles::default()) };
        let spec = context.spec;
        let (streams, merge) = (spec.file_streams(index), spec.merge_stderr);
        // What goes through the agent is shown all the same.
        let without = match spec.log_through_agent {
            true => WorkerFiles {
                error: None,
                stack: None,
                ..run_dir.worker_files(number, index, streams, merge)
            },
            false => WorkerFiles::default(),
        };
        if self.without {
            return Ok(without);
        }
        let made = run_dir.make_worker(number, index, streams, merge);
        if run_dir.was_remade() {
            let path = run_dir.path().to_path_buf();
            context.log(Level::Warning, || format!("{} was removed by somebody: made again", path.display()));
        }
        made.or_else(|error| self.do_without(context, supervisor, error).map(|()| without))
    }

    fn do_without(&mut self, context: &Context, supervisor: &Supervisor, error: Error) -> Result<(), Error> {
        if !may_do_without(context.spec, &error, supervisor.is_first_attempt(), supervisor.has_restarts()) {
            return Err(error);
        }
        self.without = true;
        context.log(Level::Warning, || {
            format!("{error}: workers of this attempt have no error files, and what is redirected is lost")
        });
        Ok(())
    }

    pub fn run_dir(&self) -> Option<&RunDir> {
        self.run_dir.as_ref()
    }

    /// The same, unless this attempt does without.
    pub fn usable(&self) -> Option<&RunDir> {
        self.run_dir.as_ref().filter(|_| !self.without)
    }

    /// An attempt is over: removes what it left empty.
    pub fn tidy_attempt(&self, number: u32, workers: usize) {
        if let Some(run_dir) = &self.run_dir {
            run_dir.tidy_attempt(number, workers);
        }
    }

    /// The run is over: the run directory, if there is anything in it.
    pub fn tidy(&self, spec: &Spec) -> Option<&RunDir> {
        let kept = self.run_dir.as_ref().filter(|run_dir| run_dir.tidy());
        if let (None, Some(run_dir)) = (&spec.log_dir, &self.run_dir) {
            run_dir.path().parent().into_iter().for_each(leftovers::clear);
        }
        kept
    }
}

/// A restart does not fail for want of logs, as a first start does, where they were asked for: somebody may have removed
/// what the run directory is in. A full disk is tried again while there are restarts.
fn may_do_without(spec: &Spec, error: &Error, is_first: bool, has_restarts: bool) -> bool {
    let full = matches!(error, Error::System { errno: libc::ENOSPC | libc::EDQUOT, .. });
    let asked_for = (spec.log_dir.is_some() || has_logs(spec)) && !spec.log_through_agent;
    !(asked_for && (is_first || full && has_restarts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_fails_for_want_of_logs_and_a_restart_does_not() {
        let asked_for = Spec { log_dir: Some("/logs".into()), ..Spec::default() };
        let gone = Error::system("no directory", libc::ENOENT);
        let full = Error::system("no directory", libc::ENOSPC);
        assert!(!may_do_without(&asked_for, &gone, true, true));
        assert!(may_do_without(&asked_for, &gone, false, true));
        assert!(!may_do_without(&asked_for, &full, false, true), "there may be room at the next restart");
        assert!(may_do_without(&asked_for, &full, false, false));
        assert!(may_do_without(&Spec::default(), &gone, true, true), "nobody asked for one");
        let through_agent = Spec { log_through_agent: true, ..asked_for };
        assert!(may_do_without(&through_agent, &gone, true, true));
    }
}
