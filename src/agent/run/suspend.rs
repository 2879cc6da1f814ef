//! ^Z at a terminal: the workers are in groups of their own, which it does not reach. So they are stopped, then this
//! process stops itself, and when somebody continues it they go on too.

use super::context::Context;
use super::group::Group;
use crate::spec::Level;
use crate::sys::signals;

/// Stands still, and all workers with it, until somebody continues this process. The workers wait for `go_on`.
pub fn stand_still(context: &Context, group: &Group) {
    context.log(Level::Info, || "suspended, with all workers".into());
    // A stopped worker is still watched, and dies with this process.
    suspend(group, true);
    context.output.leave_terminal();
    signals::suspend_self();
    context.shared.pulse.beat();
}

pub fn go_on(context: &Context, group: &Group) {
    context.output.hide_bar(false);
    suspend(group, false);
    context.log(Level::Info, || "continued, with all workers".into());
}

fn suspend(group: &Group, suspend: bool) {
    if let Some(attempt) = group.attempt() {
        attempt.suspend(suspend);
    }
}
