//! What every part of a run reads and none changes, and where a part says what it does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::job::run_id;
use super::wake::{Poll, Wake};
use crate::agent::{Host, Settled, Shared};
use crate::error::Error;
use crate::logs::events::Places;
use crate::logs::output::Output;
use crate::reminder::{Reminder, seconds};
use crate::report::Outcome;
use crate::report::event::{self, Origin};
use crate::spec::names::hostname;
use crate::spec::{Level, Spec};
use crate::sys::nameless;
use crate::sys::process::monotonic;
use crate::sys::signals::Inbox;

pub struct Context<'a> {
    pub spec: &'a Spec,
    pub settled: &'a Settled,
    pub inbox: &'a Arc<Inbox>,
    pub shared: &'a Arc<Shared>,
    pub host: Host,
    pub run_id: Vec<u8>,
    pub output: Output<'a>,
    pub poll: Poll,
    origin: Option<Origin>,
}

impl<'a> Context<'a> {
    pub fn new(
        spec: &'a Spec,
        settled: &'a Settled,
        inbox: &'a Arc<Inbox>,
        shared: &'a Arc<Shared>,
        host: Host,
    ) -> Result<Context<'a>, Error> {
        let poll = Poll::new().map_err(|errno| Error::system("cannot make an epoll", errno as i32))?;
        poll.add(inbox, Wake::Inbox).map_err(|errno| Error::system("cannot watch requests", errno as i32))?;
        let (events, error) = Places::open(spec, host.working_dir.as_deref());
        error.map_or(Ok(()), Err)?;
        let output = Output::new(spec, events);
        let origin = origin(spec, &output);
        Ok(Context { spec, settled, inbox, shared, host, run_id: run_id(spec), output, poll, origin })
    }

    pub fn log(&self, level: Level, text: impl FnOnce() -> String) {
        self.output.log(level, text);
    }

    /// An event, made only if somebody wants it.
    pub fn event(&self, make: impl FnOnce(&Origin) -> Option<event::Event>) {
        if let Some(event) = self.origin.as_ref().and_then(make) {
            self.output.event(event);
        }
    }

    /// In a wait: says what is due; how long until there is more to say.
    pub fn remind(&self, reminder: &mut Reminder, what: impl FnOnce(String) -> String) -> Duration {
        if let Some(waited) = reminder.look(monotonic()) {
            self.log(Level::Warning, || what(seconds(waited)));
        }
        reminder.due().saturating_sub(monotonic())
    }

    /// Such a wait is over.
    pub fn remind_no_more(&self, reminder: &Reminder, what: impl FnOnce(String) -> String) {
        if let Some(waited) = reminder.over(monotonic()) {
            self.log(Level::Warning, || what(seconds(waited)));
        }
    }

    /// For who looks at the group.
    pub fn show_worker(&self, index: usize, pid: i32, outcome: Outcome) {
        let worker = &mut self.shared.snapshot.lock().workers[index];
        (worker.pid, worker.outcome) = (pid, outcome);
    }

    /// The host's working directory when the run started.
    pub fn working_dir(&self) -> &Path {
        self.host.working_dir.as_deref().unwrap_or(Path::new(""))
    }

    /// Where what has no name may lie, if it cannot be in memory.
    pub fn directories(&self) -> Vec<PathBuf> {
        nameless::directories(self.host.tmpdir.clone().unwrap_or_else(|| PathBuf::from("/tmp")))
    }
}

/// Makes events, where somebody wants them.
pub fn origin(spec: &Spec, output: &Output) -> Option<Origin> {
    output.wants_events().then(|| Origin::new(spec, &run_id(spec), &hostname()))
}
