//! ^Z at a terminal: the workers are in groups of their own, which it does not reach. So they are stopped, then this
//! process stops itself, and when somebody continues it they go on too.

use super::run::Run;
use crate::spec::Level;
use crate::sys::signals;

impl Run<'_> {
    /// Stands still, and all workers with it, until somebody continues this process.
    pub(super) fn suspend(&mut self) {
        if self.is_debugging() {
            return self.log(Level::Info, || "not suspended: a rank is at its debugger".into());
        }
        self.log(Level::Info, || "suspended, with all workers".into());
        // A stopped worker is still watched, and dies with this process.
        self.suspend_workers(true);
        self.output.leave_terminal();
        signals::suspend_self();
        self.shared.pulse.beat();
        self.begin_timers_anew();
        self.output.hide_bar(false);
        self.suspend_workers(false);
        self.log(Level::Info, || "continued, with all workers".into());
    }

    fn suspend_workers(&self, suspend: bool) {
        if let Some(attempt) = &self.attempt {
            attempt.suspend(suspend);
        }
    }
}
