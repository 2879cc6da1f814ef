//! Whoever looks at a run that does not go on is told what it waits for, and until when: after some seconds, then ever
//! more rarely; and that it goes on again.

use std::time::Duration;

use super::run::Run;
use crate::moment::Moment;
use crate::reminder::{Reminder, seconds};
use crate::rendezvous::roll;
use crate::spec::Level;
use crate::supervise::Wait;
use crate::sys::process::monotonic;

impl Run<'_> {
    /// When `look_at_waits` is due, if nothing happens before.
    pub(super) fn vigil_deadline(&self) -> Option<Moment> {
        let unreached = self.others.as_ref().and_then(|others| others.unreached);
        let waits = self.vigil.filter(|(wait, _)| unreached.is_none() || !is_for_others(wait));
        [unreached, waits.map(|(_, reminder)| reminder)].into_iter().flatten().map(|wait| wait.due()).min()
    }

    pub(super) fn look_at_waits(&mut self) {
        let now = monotonic();
        let wait = self.supervisor.wait();
        if self.vigil.map(|(wait, _)| wait) != wait {
            if let Some((wait, reminder)) = self.vigil.take() {
                self.remind_no_more(&reminder, |waited| over(&wait, &waited));
            }
            self.vigil = wait.map(|wait| (wait, Reminder::since(now)));
        }
        if let Some(mut reminder) = self.others.as_ref().and_then(|others| others.unreached) {
            if let Some(waited) = reminder.look(now) {
                self.log(Level::Warning, || self.unreached_text(waited));
                self.others.iter_mut().for_each(|others| others.unreached = Some(reminder));
            }
            if self.vigil.is_some_and(|(wait, _)| is_for_others(&wait)) {
                return;
            }
        }
        if let Some((wait, mut reminder)) = self.vigil
            && let Some(waited) = reminder.look(now)
        {
            self.log(Level::Warning, || self.wait_text(&wait, waited));
            self.vigil = Some((wait, reminder));
        }
    }

    /// The place of the rendezvous answers, for the first time or again.
    pub(super) fn is_reached(&mut self) {
        let Some(others) = &mut self.others else { return };
        let Some(reminder) = others.unreached.take() else { return };
        let place = others.place.clone();
        self.remind_no_more(&reminder, |waited| {
            format!("connected to the rendezvous at {place} after {waited}")
        });
        // Who is still missing has not been looked at before.
        if self.vigil.is_some_and(|(wait, _)| is_for_others(&wait)) {
            self.vigil = None;
        }
    }

    /// In a wait of its own: says what is due; how long until there is more to say.
    pub(super) fn remind(&self, reminder: &mut Reminder, what: impl FnOnce(String) -> String) -> Duration {
        if let Some(waited) = reminder.look(monotonic()) {
            self.log(Level::Warning, || what(seconds(waited)));
        }
        reminder.due().saturating_sub(monotonic())
    }

    /// Such a wait is over.
    pub(super) fn remind_no_more(&self, reminder: &Reminder, what: impl FnOnce(String) -> String) {
        if let Some(waited) = reminder.over(monotonic()) {
            self.log(Level::Warning, || what(seconds(waited)));
        }
    }

    fn unreached_text(&self, waited: Duration) -> String {
        let Some(others) = &self.others else { return String::new() };
        let why = others.member.trouble().unwrap_or_else(|| "no answer yet".into());
        let then = match (others.joining, self.rendezvous()) {
            (_, None) => String::new(),
            (Some(since), Some(rendezvous)) => {
                format!("; given up in {}", left(since.saturating_add(rendezvous.options.join_timeout)))
            }
            (None, Some(rendezvous)) => {
                let left = rendezvous.options.lost_timeout.saturating_sub(waited);
                format!("; healthy workers go on for {}", seconds(left))
            }
        };
        format!("the rendezvous at {} is not reached for {}: {why}{then}", others.place, seconds(waited))
    }

    fn wait_text(&self, wait: &Wait, waited: Duration) -> String {
        let waited = seconds(waited);
        let (others, rendezvous) = (self.others.as_ref(), self.rendezvous());
        let state = others.and_then(|others| others.member.state());
        match wait {
            Wait::Round => {
                let who = match (state, rendezvous) {
                    (Some(state), Some(rendezvous)) => roll::of_round(&state, &rendezvous.rules),
                    _ => "the one that leads them knows who is missing".into(),
                };
                let since = others.and_then(|others| others.joining);
                let limit =
                    since.zip(rendezvous).map(|(since, all)| since.saturating_add(all.options.join_timeout));
                // A spare has none.
                let then = limit.filter(|limit| *limit > monotonic());
                let then = then.map_or(String::new(), |limit| format!("; given up in {}", left(limit)));
                format!("waiting for other hosts for {waited}: {who}{then}")
            }
            Wait::Others { until } => {
                let who = state.map_or(String::new(), |state| format!(" ({})", roll::of_barrier(&state)));
                format!("waiting for the workers of other hosts for {waited}{who}; left in {}", left(*until))
            }
            Wait::Answers { until } => {
                let who = ranks(self.owing());
                format!("waiting for {who} to save or end as asked for {waited}; stopped in {}", left(*until))
            }
            Wait::Ends { until } => {
                let lives = (0..self.ranks.len()).filter(|&index| self.lives(index));
                let who = ranks(lives.map(|index| self.ranks[index].global).collect());
                format!("waiting for {who} to end for {waited}; what comes next comes in {}", left(*until))
            }
            Wait::BackOff { until } => format!("waiting before the restart; it is in {}", left(*until)),
        }
    }
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
