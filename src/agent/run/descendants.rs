//! What workers have started: it is known by a mark of the run, ended with them, and reaped.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::context::Context;
use crate::moment::Moment;
use crate::process::attempt::{Attempt, Survivor, await_ends};
use crate::process::descent::{Finder, Mark, Since, worker_list};
use crate::process::start;
use crate::spec::{Level, Spec};
use crate::sys::process::monotonic;

/// How long descendants of dead workers may take to be gone after SIGKILL.
pub const GONE_WITHIN: Duration = Duration::from_secs(1);
/// How long after a child's end those that were adopted are reaped: one look for many.
const REAP_AFTER: Duration = Duration::from_secs(1);

pub struct Descendants {
    finder: Finder,
    /// Who could not be ended, in words.
    left: Vec<String>,
    /// When what was adopted and has ended is reaped.
    reap_at: Option<Moment>,
}

impl Descendants {
    pub fn new(spec: &Spec) -> Descendants {
        let method = start::of(spec);
        let mut finder = Finder::new(Mark::new(method.forks()).ok(), spec.subreaper);
        if method.forks() && !method.has_server() {
            finder.forked_program = std::fs::read_link("/proc/self/exe").ok();
        }
        Descendants { finder, left: Vec::new(), reap_at: None }
    }

    pub fn finder(&self) -> &Finder {
        &self.finder
    }

    pub fn mark(&self) -> Option<&Mark> {
        self.finder.mark.as_ref()
    }

    /// The marks that workers, or the fork server, carry: that of this run, and of the runs around it.
    pub fn marks(&self, context: &Context, own: fn(&Mark) -> String) -> Vec<u8> {
        let mark = self.mark().map(own);
        mark.map(|mark| worker_list(context.host.descent.as_deref(), &mark)).unwrap_or_default()
    }

    /// A child of the agent's that is no worker.
    pub fn add_helper(&mut self, pid: i32) {
        self.finder.helpers.push(pid);
    }

    pub fn forget_helper(&mut self, pid: i32) {
        self.finder.helpers.retain(|&helper| helper != pid);
    }

    /// What workers run that a fork server forks.
    pub fn set_forked_program(&mut self, program: Option<PathBuf>) {
        self.finder.forked_program = program;
    }

    /// What a fork server's warm-up started does not outlive it.
    pub fn end_of_server(&mut self, context: &Context, since: &Since) {
        let Some(mark) = self.mark() else { return };
        let found = self.finder.kill(&[], &mark.of_server(), since, &HashSet::new());
        let left = await_ends(Vec::new(), found, GONE_WITHIN, context.spec.monitor_interval);
        self.note_left(context, left);
    }

    /// These are still there.
    pub fn note_left(&mut self, context: &Context, survivors: Vec<Survivor>) {
        for Survivor { name, errno } in survivors {
            let why = match errno {
                Some(errno) => format!("cannot be killed: {}", errno.desc()),
                None => "is still there after SIGKILL".into(),
            };
            context.log(Level::Warning, || format!("{name}, started by a worker, {why}"));
            self.left.push(format!("{name}: {why}"));
        }
    }

    pub fn take_left(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left)
    }

    /// A child has ended: perhaps one that was adopted.
    pub fn child_ended(&mut self) {
        self.reap_at.get_or_insert_with(|| monotonic() + REAP_AFTER);
    }

    /// When `reap` is due.
    pub fn deadline(&self) -> Option<Moment> {
        self.reap_at
    }

    /// The end of an attempt has reaped all that there was.
    pub fn forget_ended(&mut self, context: &Context) {
        self.reap_at = None;
        context.inbox.forget_ended_children();
    }

    /// Reaps what was adopted, some time after a child has ended.
    pub fn reap(&mut self, context: &Context, attempt: Option<&Attempt>) {
        if self.reap_at.is_some_and(|at| at <= monotonic()) {
            self.forget_ended(context);
            self.finder.reap(&attempt.map(Attempt::numbers).unwrap_or_default());
        }
    }

    /// The run is over.
    pub fn reap_all(&self) {
        if self.finder.adopts {
            self.finder.reap(&HashSet::new());
        }
    }
}
