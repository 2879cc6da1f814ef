//! Whoever looks at a run that does not go on is told what it waits for, and until when: after some seconds, then ever
//! more rarely; and that it goes on again.

use std::time::Duration;

use super::context::Context;
use super::control::Control;
use super::group::Group;
use super::rendezvous::Membership;
use crate::moment::Moment;
use crate::reminder::{Reminder, seconds};
use crate::rendezvous::roll;
use crate::spec::Level;
use crate::supervise::Wait;
use crate::sys::process::monotonic;

/// What is waited for, and when that is said next.
#[derive(Default)]
pub struct Waits(Option<(Wait, Reminder)>);

impl Waits {
    /// When to look, if nothing happens before.
    pub fn deadline(&self, membership: &Membership) -> Option<Moment> {
        let unreached = membership.unreached();
        let wait = self.0.filter(|(wait, _)| unreached.is_none() || !is_for_others(wait));
        let reminders = [unreached, wait.map(|(_, reminder)| reminder)];
        reminders.into_iter().flatten().map(|reminder| reminder.due()).min()
    }

    /// Says what is due. `wait`: what the supervisor waits for.
    pub fn look(
        &mut self,
        context: &Context,
        wait: Option<Wait>,
        membership: &mut Membership,
        (group, control): (&Group, &Control),
    ) {
        let now = monotonic();
        if self.0.map(|(wait, _)| wait) != wait {
            if let Some((wait, reminder)) = self.0.take() {
                context.remind_no_more(&reminder, |waited| over(&wait, &waited));
            }
            self.0 = wait.map(|wait| (wait, Reminder::since(now)));
        }
        if let Some(mut reminder) = membership.unreached() {
            if let Some(waited) = reminder.look(now) {
                context.log(Level::Warning, || unreached_text(context, membership, waited));
                membership.set_unreached(reminder);
            }
            if self.0.is_some_and(|(wait, _)| is_for_others(&wait)) {
                return;
            }
        }
        if let Some((wait, reminder)) = &mut self.0
            && let Some(waited) = reminder.look(now)
        {
            let waited = seconds(waited);
            context.log(Level::Warning, || match *wait {
                Wait::Round => round_text(context, membership, &waited),
                Wait::Others { until } => {
                    let state = membership.state();
                    let who = state.map_or(String::new(), |state| format!(" ({})", roll::of_barrier(&state)));
                    let left = left(until);
                    format!("waiting for the workers of other hosts for {waited}{who}; left in {left}")
                }
                Wait::Answers { until } => {
                    let (who, left) = (ranks(control.owing(group)), left(until));
                    format!("waiting for {who} to save or end as asked for {waited}; stopped in {left}")
                }
                Wait::Ends { until } => {
                    let living = group.living().map(|(index, _)| group.ranks()[index].global);
                    let (who, left) = (ranks(living.collect()), left(until));
                    format!("waiting for {who} to end for {waited}; what comes next comes in {left}")
                }
                Wait::BackOff { until } => format!("waiting before the restart; it is in {}", left(until)),
            });
        }
    }

    /// The place of the rendezvous answers: who is still missing there has not been looked at before.
    pub fn rendezvous_is_reached(&mut self) {
        if self.0.is_some_and(|(wait, _)| is_for_others(&wait)) {
            self.0 = None;
        }
    }
}

fn unreached_text(context: &Context, membership: &Membership, waited: Duration) -> String {
    let then = match (membership.joining(), &context.settled.rendezvous) {
        (_, None) => String::new(),
        (Some(since), Some(rendezvous)) => {
            format!("; given up in {}", left(since.saturating_add(rendezvous.options.join_timeout)))
        }
        (None, Some(rendezvous)) => {
            let left = rendezvous.options.lost_timeout.saturating_sub(waited);
            format!("; healthy workers go on for {}", seconds(left))
        }
    };
    let (place, why, waited) = (membership.place(), membership.trouble(), seconds(waited));
    format!("the rendezvous at {place} is not reached for {waited}: {why}{then}")
}

fn round_text(context: &Context, membership: &Membership, waited: &str) -> String {
    let rendezvous = context.settled.rendezvous.as_ref();
    let who = match (membership.state(), rendezvous) {
        (Some(state), Some(rendezvous)) => roll::of_round(&state, &rendezvous.rules),
        _ => "the one that leads them knows who is missing".into(),
    };
    let limit = membership.joining().zip(rendezvous);
    let limit = limit.map(|(since, all)| since.saturating_add(all.options.join_timeout));
    // A spare has none.
    let then = limit.filter(|limit| *limit > monotonic());
    let then = then.map_or(String::new(), |limit| format!("; given up in {}", left(limit)));
    format!("waiting for other hosts for {waited}: {who}{then}")
}

/// Whether it is the other hosts that are waited for.
fn is_for_others(wait: &Wait) -> bool {
    matches!(wait, Wait::Round | Wait::Others { .. })
}

fn left(until: Moment) -> String {
    seconds(until.saturating_sub(monotonic()))
}

fn over(wait: &Wait, waited: &str) -> String {
    match wait {
        Wait::Round => format!("the wait for other hosts is over after {waited}"),
        Wait::Others { .. } => format!("the wait for the workers of other hosts is over after {waited}"),
        Wait::Answers { .. } => {
            format!("the wait for workers that were asked to save or end is over after {waited}")
        }
        Wait::Ends { .. } => format!("the wait for workers to end is over after {waited}"),
        Wait::BackOff { .. } => format!("the wait before the restart is over after {waited}"),
    }
}

/// `rank 3`, or some of them.
fn ranks(ranks: Vec<usize>) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = ranks.iter().take(SHOWN).map(usize::to_string).collect();
    if ranks.len() > SHOWN {
        shown.push(format!("{} more", ranks.len() - SHOWN));
    }
    match shown.len() {
        0 => "the workers".into(),
        1 => format!("rank {}", shown[0]),
        _ => format!("ranks {}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_ranks_are_named() {
        assert_eq!(ranks(vec![3]), "rank 3");
        assert_eq!(ranks(vec![3, 5]), "ranks 3, 5");
        assert_eq!(ranks((0..64).collect()), "ranks 0, 1, 2, 3, 4, 5, 6, 7, 56 more");
    }
}
