//! Since when the run, an attempt and its stages go on: for events, and for who looks at the group.

use std::time::Duration;

use super::context::Context;
use crate::moment::Moment;
use crate::report::event::Stage;
use crate::report::metrics::Times;
use crate::report::{GroupState, Outcome, Snapshot, SnapshotWorker};
use crate::sys::process::monotonic;

#[derive(Default)]
pub struct Timeline {
    times: Times,
    /// Since when all workers run, until the first signal of a stop.
    monitored: Option<Moment>,
    /// Since when the group is being stopped.
    stopping: Option<Moment>,
    /// When the stop of the last attempt began, once it is over.
    restarting: Option<Moment>,
}

impl Timeline {
    pub fn begin_run(&mut self) {
        self.times.run = Some(monotonic());
    }

    pub fn begin_attempt(&mut self) {
        (self.times.attempt, self.times.start, self.stopping) = (Some(monotonic()), None, None);
    }

    /// All workers of the attempt are born.
    pub fn started(&mut self, context: &Context, attempt: u32) {
        self.times.start = Some(since(self.times.attempt));
        stage(context, Stage::Start, attempt, self.times.attempt, None);
        self.restarted(context, attempt, None);
        self.monitored = Some(monotonic());
    }

    pub fn not_started(&mut self, context: &Context, attempt: u32, error: &str) {
        stage(context, Stage::Start, attempt, self.times.attempt, Some(error));
        self.restarted(context, attempt, Some(error));
    }

    /// Tells, where it is one, that a restart is over.
    fn restarted(&mut self, context: &Context, attempt: u32, error: Option<&str>) {
        let since = self.restarting.take();
        if since.is_some() {
            stage(context, Stage::Restart, attempt, since, error);
        }
    }

    pub fn begin_stop(&mut self) {
        self.stopping.get_or_insert_with(monotonic);
    }

    /// Since when the group is being stopped.
    pub fn stopping(&self) -> Option<Moment> {
        self.stopping
    }

    pub fn end_monitoring(&mut self, context: &Context, attempt: u32) {
        let begin = self.monitored.take();
        if begin.is_some() {
            stage(context, Stage::Monitor, attempt, begin, None);
        }
    }

    pub fn end_attempt(&mut self, context: &Context, attempt: u32) {
        if self.stopping.is_some() {
            stage(context, Stage::Stop, attempt, self.stopping, None);
        }
        stage(context, Stage::Attempt, attempt, self.times.attempt, None);
        self.restarting = Some(self.stopping.unwrap_or_else(monotonic));
    }

    /// How long the run has lasted.
    pub fn duration(&self) -> Duration {
        since(self.times.run)
    }

    /// For who looks at the group.
    pub fn publish(&self, context: &Context, state: GroupState, attempt: u32) {
        let mut snapshot = context.shared.snapshot.lock();
        if state == GroupState::Init {
            let never =
                |worker: &mut SnapshotWorker| (worker.pid, worker.outcome) = (0, Outcome::NeverStarted);
            snapshot.workers.iter_mut().for_each(never);
        }
        let Snapshot { state: now, attempt: number, times, .. } = &mut *snapshot;
        (*now, *number, *times) = (state, attempt, self.times);
    }
}

/// An event: something that the agent did with the whole group, from `begin` until now.
pub fn stage(context: &Context, stage: Stage, attempt: u32, begin: Option<Moment>, error: Option<&str>) {
    context.event(|origin| Some(origin.stage(stage, attempt, since(begin), error)));
}

/// How long ago that was.
fn since(begin: Option<Moment>) -> Duration {
    begin.map_or(Duration::ZERO, |begin| monotonic().saturating_sub(begin))
}
