//! Requests that all ranks act on at the same step, without a collective among them.
//!
//! A rank says at which step it is (`step`, one store), then looks whether something is due (`look`, one
//! load). The agent
//!
//! 1. announces a request: the sequence becomes odd; a rank that looks from now on waits for 4;
//! 2. makes every rank pass a memory barrier (`sys::barrier`);
//! 3. reads the step of each rank, and chooses K, one more than the greatest;
//! 4. publishes the request with K: the sequence is even again, and those that wait go on.
//!
//! *No rank gets past K unaware.* Let m be the step of a rank that 3 read, so m < K, and t its first step with
//! t >= K at which it looks. In the rank's own order the store of t comes before that look. If the look had been
//! made before the barrier of 2, the store would have been made before it too, and 3 would have read t or a
//! later step, but m < t. So the look comes after the barrier, finds the announcement or the request, and in
//! the end the request. A rank that looks at a step below K goes on, whether it had to wait or not.
//!
//! *All act at the same step.* Each acts at its first look at a step not below K: at K where ranks count their
//! steps one by one, else at the next step at which all look, if they all look at the same ones.
//!
//! *Nobody waits long.* The agent does nothing between 1 and 4 that depends on a rank: it is a matter of
//! microseconds, however the ranks depend on each other. A rank that is stuck or gone costs nothing but its
//! answer: who asked learns of it at the deadline, or when it is gone.
//!
//! A rank that has said no step acts at its next look; so does one that keeps a pause, at the step where it
//! stands.
//!
//! *Of several hosts* each agent chooses a K of its own in this way, and has its ranks held there: who comes to it
//! waits. When all hosts have, the greatest of these is the step of all (`rendezvous::request`): nobody is past it, and
//! those that were held before it go on to it. A rank that is held has done its part of all steps before, so no rank
//! below K waits for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    Pause = 1,
    Save = 2,
    Stop = 3,
}

impl RequestKind {
    /// None for a number that only a later version knows.
    pub fn from_number(number: u64) -> Option<RequestKind> {
        match number {
            1 => Some(RequestKind::Pause),
            2 => Some(RequestKind::Save),
            3 => Some(RequestKind::Stop),
            _ => None,
        }
    }
}

/// Why it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The host wants it.
    Host = 1,
    /// The run is about to be stopped.
    Preemption = 2,
    Membership = 3,
}

impl Reason {
    pub fn from_number(number: u64) -> Reason {
        const PREEMPTION: u64 = Reason::Preemption as u64;
        const MEMBERSHIP: u64 = Reason::Membership as u64;
        match number {
            PREEMPTION => Reason::Preemption,
            MEMBERSHIP => Reason::Membership,
            _ => Reason::Host,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Not 0, and another for each request.
    pub id: u64,
    pub kind: RequestKind,
    pub reason: Reason,
    pub at_step: u64,
    /// Nobody acts yet: who comes to that step waits until the hosts of the job have agreed on one.
    pub held: bool,
    pub deadline: Moment,
}

/// The request as a worker finds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub request: Option<Request>,
    /// The pause that stands, 0 for none.
    pub paused_by: u64,
    /// The rank that is at its debugger, if one is.
    pub debugged: Option<Debugged>,
}

/// A rank at its debugger, and for which of its calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Debugged {
    pub rank: usize,
    pub session: u64,
}

/// What a worker knows of itself when it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mine {
    pub step: Option<u64>,
    /// The last request that it answered.
    pub answered: u64,
    /// The pause that it keeps, 0 for none.
    pub paused: u64,
    /// It is at its debugger: the others pause, not this one.
    pub debugged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// To be done now.
    Due(Request),
    /// Wait for the agent to say something else.
    Pause,
    /// Nothing yet: look again at the next step.
    Later,
    /// Nothing, until the agent says something else.
    Nothing,
}

pub fn verdict(view: &View, mine: &Mine) -> Verdict {
    let paused = mine.paused != 0 && mine.paused == view.paused_by;
    match view.request {
        Some(request) if request.id == mine.answered => {}
        Some(request) if mine.debugged && request.kind == RequestKind::Pause => {}
        Some(request) if paused || mine.step.is_none_or(|step| step >= request.at_step) => {
            return if request.held { Verdict::Pause } else { Verdict::Due(request) };
        }
        Some(_) => return Verdict::Later,
        None => {}
    }
    if paused { Verdict::Pause } else { Verdict::Nothing }
}

/// A step that no rank has looked at yet, once the request is announced.
pub fn common_step(steps: impl Iterator<Item = Option<u64>>) -> u64 {
    steps.flatten().max().map_or(0, |step| step.saturating_add(1))
}

/// A worker's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    pub id: u64,
    pub success: bool,
    pub step: Option<u64>,
}

/// What became of a request at one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// None, up to the deadline.
    None,
    Succeeded,
    Failed,
    /// The rank ended without one.
    Gone,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Of all ranks of the job by their global rank, with the step at which each answered; within an agent of its ranks
    /// alone, by local rank.
    pub ranks: Vec<(Answer, Option<u64>)>,
    /// From the request to the last answer, or to the deadline.
    pub took: Duration,
}

impl Answers {
    /// Of a request that came to no rank: those that live did not answer.
    pub fn none(ranks: usize) -> Answers {
        Answers { ranks: vec![(Answer::None, None); ranks], took: Duration::ZERO }
    }

    /// The answers up to now to the request `id`, and whether another is to come.
    pub fn so_far(id: u64, ranks: impl Iterator<Item = (Answered, bool)>) -> (Answers, bool) {
        let mut open = false;
        let answer = |(answered, lives): (Answered, bool)| {
            open |= answered.id != id && lives;
            match answered {
                Answered { id: of, success: true, step } if of == id => (Answer::Succeeded, step),
                Answered { id: of, success: false, step } if of == id => (Answer::Failed, step),
                _ if lives => (Answer::None, None),
                _ => (Answer::Gone, None),
            }
        };
        let ranks = ranks.map(answer).collect();
        (Answers { ranks, took: Duration::ZERO }, open)
    }

    /// Whether every rank did as it was asked.
    pub fn complete(&self) -> bool {
        self.ranks.iter().all(|(answer, _)| *answer == Answer::Succeeded)
    }
}

/// A checkpoint that all ranks have saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Where ranks say their steps.
    pub step: Option<u64>,
}

impl Saved {
    /// None if one of them has not.
    pub fn of(ranks: &[(Answer, Option<u64>)]) -> Option<Saved> {
        let all = !ranks.is_empty() && ranks.iter().all(|(answer, _)| *answer == Answer::Succeeded);
        all.then(|| Saved { step: ranks.iter().filter_map(|(_, step)| *step).max() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(id: u64, kind: RequestKind, at_step: u64) -> Request {
        Request { id, kind, reason: Reason::Host, at_step, held: false, deadline: Duration::ZERO }
    }

    fn view(request: Request, paused_by: u64) -> View {
        View { request: Some(request), paused_by, debugged: None }
    }

    const NOTHING: View = View { request: None, paused_by: 0, debugged: None };

    #[test]
    fn job_01_nobody_acts_while_the_hosts_have_not_agreed_on_a_step() {
        let held = view(Request { held: true, ..request(1, RequestKind::Save, 10) }, 0);
        let at = |step, answered| Mine { step, answered, ..Mine::default() };
        assert_eq!(verdict(&held, &at(Some(9), 0)), Verdict::Later);
        assert_eq!(verdict(&held, &at(Some(10), 0)), Verdict::Pause);
        assert_eq!(verdict(&held, &at(None, 0)), Verdict::Pause);
        assert_eq!(
            verdict(&view(request(1, RequestKind::Save, 12), 0), &at(Some(10), 0)),
            Verdict::Later,
            "goes on"
        );
    }

    #[test]
    fn a_request_is_due_at_its_step_and_once() {
        let save = request(1, RequestKind::Save, 10);
        let at = |step, answered| Mine { step, answered, ..Mine::default() };
        assert_eq!(verdict(&view(save, 0), &at(Some(9), 0)), Verdict::Later);
        assert_eq!(verdict(&view(save, 0), &at(Some(10), 0)), Verdict::Due(save));
        assert_eq!(verdict(&view(save, 0), &at(Some(20), 0)), Verdict::Due(save), "steps by tens");
        assert_eq!(verdict(&view(save, 0), &at(None, 0)), Verdict::Due(save), "no steps at all");
        assert_eq!(verdict(&view(save, 0), &at(Some(10), 1)), Verdict::Nothing);
        assert_eq!(verdict(&NOTHING, &at(Some(10), 0)), Verdict::Nothing);
    }

    #[test]
    fn a_paused_rank_waits_saves_where_it_stands_and_goes_on() {
        let pause = request(1, RequestKind::Pause, 10);
        let paused = Mine { step: Some(10), answered: 1, paused: 1, debugged: false };
        assert_eq!(verdict(&view(pause, 1), &paused), Verdict::Pause);
        let save = request(2, RequestKind::Save, 11);
        assert_eq!(verdict(&view(save, 1), &paused), Verdict::Due(save));
        assert_eq!(verdict(&view(save, 1), &Mine { answered: 2, ..paused }), Verdict::Pause);
        assert_eq!(verdict(&View { request: None, paused_by: 1, debugged: None }, &paused), Verdict::Pause);
        assert_eq!(verdict(&NOTHING, &paused), Verdict::Nothing);
        // One that slept through the resume must not take the next pause for its own.
        let next = request(3, RequestKind::Pause, 11);
        assert_eq!(verdict(&view(next, 3), &paused), Verdict::Later);
    }

    #[test]
    fn the_step_is_beyond_all() {
        assert_eq!(common_step([Some(4), None, Some(6)].into_iter()), 7);
        assert_eq!(common_step([None, None].into_iter()), 0);
        assert_eq!(common_step([Some(u64::MAX)].into_iter()), u64::MAX);
    }

    #[test]
    fn answers_are_complete_when_nobody_who_lives_owes_one() {
        let of = |id, success| Answered { id, success, step: Some(3) };
        let (answers, open) =
            Answers::so_far(2, [(of(2, true), true), (of(2, false), true), (of(2, true), false)].into_iter());
        assert!(!open && !answers.complete());
        assert_eq!(answers.ranks[1], (Answer::Failed, Some(3)));
        let (answers, open) = Answers::so_far(2, [(of(1, true), true), (of(1, true), false)].into_iter());
        assert!(open);
        assert_eq!(answers.ranks, [(Answer::None, None), (Answer::Gone, None)]);
        let (answers, open) = Answers::so_far(2, [(of(2, true), true)].into_iter());
        assert!(!open && answers.complete());
    }

    /// A rank between two of its moves. A barrier has stores seen in their order, so that single moves of
    /// ranks and agent, in whatever order, are all there is to try.
    #[derive(Clone, Copy, Debug)]
    struct Model {
        step: u64,
        looks: bool,
        acted: Option<u64>,
    }

    #[derive(PartialEq)]
    enum Phase {
        Quiet,
        Announced,
        Published,
    }

    proptest! {
        /// Ranks at whatever steps, in whatever order they and the agent come to act: all act at one step.
        #[test]
        fn all_ranks_act_at_one_step(
            starts in prop::collection::vec(0u64..5, 1..5),
            moves in prop::collection::vec(0usize..6, 0..200),
        ) {
            let mut ranks: Vec<_> =
                starts.iter().map(|&step| Model { step, looks: true, acted: None }).collect();
            let (mut phase, mut read, mut view) = (Phase::Quiet, Vec::new(), NOTHING);
            let finish = (0..400).map(|turn| turn % (starts.len() + 1));
            for who in moves.into_iter().chain(finish) {
                let Some(rank) = ranks.get_mut(who) else {
                    match phase {
                        Phase::Quiet => phase = Phase::Announced,
                        Phase::Announced if read.len() < ranks.len() => read.push(Some(ranks[read.len()].step)),
                        Phase::Announced => {
                            view = self::view(request(1, RequestKind::Save, common_step(read.drain(..))), 0);
                            phase = Phase::Published;
                        }
                        Phase::Published => {}
                    }
                    continue;
                };
                if rank.acted.is_some() { continue; }
                if !rank.looks {
                    rank.step += 1;
                    rank.looks = true;
                } else if phase != Phase::Announced {
                    let mine = Mine { step: Some(rank.step), ..Mine::default() };
                    if let Verdict::Due(_) = verdict(&view, &mine) { rank.acted = Some(rank.step); }
                    rank.looks = false;
                }
            }
            let steps: Vec<_> = ranks.iter().map(|rank| rank.acted).collect();
            prop_assert!(steps[0].is_some() && steps.iter().all(|step| *step == steps[0]), "{steps:?}");
        }
    }
}
