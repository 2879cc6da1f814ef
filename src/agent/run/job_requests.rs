//! Requests that reach the workers of all hosts of a job at one step, as this agent takes part in them: what it has
//! asked for and what is answered to whom, and what becomes of its own workers. See `rendezvous::request`.

use std::time::Duration;

use crate::control::pending::Ticket;
use crate::control::request::{Answer, Reason, RequestKind};
use crate::moment::Moment;
use crate::rendezvous::request::{Ask, Progress, RankAnswer, Seen, View, Word};

/// How long after its deadline who asked waits for the answers of other hosts.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// How much earlier workers have to answer, so that their answers are there by the deadline: this part of the time, at
/// most so much.
const EARLIER: (u32, Duration) = (10, Duration::from_millis(250));

#[derive(Clone, Debug, Default)]
pub struct JobRequests {
    /// How many asks there were.
    asks: u64,
    own: Vec<Own>,
    current: Option<Current>,
    /// What the workers here have said to the last one that was over for them.
    said: Vec<RankAnswer>,
    is_paused: bool,
    words: Vec<Word>,
}

/// Which request somebody here waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The one that this agent asked for, by its own number.
    Ask(u64),
    /// The one of the job with this number, that another host asked for.
    Request(u64),
}

/// Somebody here waits for the answers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Own {
    of: Of,
    waiter: Waiter,
}

/// Who waits for answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiter {
    pub kind: RequestKind,
    pub begin: Moment,
    pub until: Moment,
    /// A thread of the host.
    pub ticket: Option<Ticket>,
    /// A stop.
    pub before_stop: bool,
}

/// The request of the job that is not over for the workers here.
#[derive(Clone, Debug, PartialEq)]
struct Current {
    seen: Seen,
    until: Moment,
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// They do not run yet.
    Due,
    Held,
    Acting,
}

/// What is to be done with the workers here, or to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Todo {
    Resume,
    /// They are to end by themselves, for another host.
    StopGently {
        until: Moment,
    },
    Act {
        at_step: u64,
    },
    /// Nobody acts: those that are held go on.
    LetGo,
    /// By global rank.
    Tell {
        waiter: Waiter,
        answers: Vec<RankAnswer>,
    },
}

impl JobRequests {
    /// Has the workers of all hosts asked. `leaves`: the signal by which this host is stopped then, if it is.
    pub fn ask(&mut self, waiter: Waiter, reason: Reason, leaves: Option<i32>, now: Moment) {
        self.asks += 1;
        let within = waiter.until.saturating_sub(now);
        self.words.push(Word::Ask(Ask {
            ask: self.asks,
            kind: waiter.kind,
            reason,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            leaves,
        }));
        self.own.push(Own { of: Of::Ask(self.asks), waiter });
    }

    /// Waits for what another host has asked for; false if there is no such request.
    pub fn wait_for_others(&mut self, waiter: Waiter) -> bool {
        let current = self.current.as_ref().filter(|current| current.seen.kind == waiter.kind);
        let of = current.map(|current| Of::Request(current.seen.number));
        self.own.extend(of.map(|of| Own { of, waiter }));
        of.is_some()
    }

    pub fn resume(&mut self) {
        self.words.push(Word::Resume);
    }

    /// Whether somebody here waits for answers.
    pub fn is_asking(&self) -> bool {
        !self.own.is_empty()
    }

    pub fn deadline(&self) -> Option<Moment> {
        self.own.iter().map(|own| own.waiter.until.saturating_add(ON_THE_WAY)).min()
    }

    /// What is to be told to the other hosts.
    pub fn take_words(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    /// What all hosts know of requests has changed.
    pub fn hear(&mut self, view: View, now: Moment) -> Vec<Todo> {
        let mut todo = Vec::new();
        if std::mem::replace(&mut self.is_paused, view.is_paused) && !view.is_paused {
            todo.push(Todo::Resume);
        }
        let Some(seen) = view.request else { return todo };
        // Its end may not have been heard.
        let before = self.current.as_ref().map(|current| current.seen.number);
        if let Some(before) = before.filter(|before| *before != seen.number) {
            match view.acted.get(&before) {
                Some(&at_step) => todo.extend(self.act(at_step)),
                None => todo.extend(self.let_go()),
            }
            self.current = None;
        }
        match seen.progress {
            Progress::Held => {
                if before == Some(seen.number) {
                    return todo;
                }
                let (part, most) = EARLIER;
                let time = seen.within - (seen.within / part).min(most);
                let until = now.saturating_add(time);
                if seen.kind == RequestKind::Stop && !self.own.iter().any(|own| own.waiter.before_stop) {
                    todo.push(Todo::StopGently { until });
                }
                self.current = Some(Current { seen, until, hold: Hold::Due });
                self.said.clear();
            }
            Progress::Acting { at_step } => todo.extend(self.act(at_step)),
            Progress::Over { at_step } => {
                // Where others have acted they act too, however late they hear of it.
                match at_step {
                    Some(at_step) => todo.extend(self.act(at_step)),
                    None => todo.extend(self.let_go()),
                }
                todo.extend(self.told(&seen));
            }
        }
        todo
    }

    fn act(&mut self, at_step: u64) -> Option<Todo> {
        let current = self.current.as_mut()?;
        match current.hold {
            Hold::Held => {
                current.hold = Hold::Acting;
                Some(Todo::Act { at_step })
            }
            // It went on without them.
            Hold::Due => {
                self.current = None;
                None
            }
            Hold::Acting => None,
        }
    }

    fn let_go(&mut self) -> Option<Todo> {
        let current = self.current.take()?;
        (current.hold == Hold::Held).then_some(Todo::LetGo)
    }

    fn told(&mut self, seen: &Seen) -> Vec<Todo> {
        let is_told = |own: &Own| match own.of {
            Of::Ask(number) => seen.asks.contains(&number),
            Of::Request(number) => seen.number == number,
        };
        let tell = |own: Own| Todo::Tell { waiter: own.waiter, answers: seen.answers.clone() };
        let told = self.own.iter().copied().filter(|own| is_told(own)).map(tell).collect();
        self.own.retain(|own| !is_told(own));
        told
    }

    /// Who waits for answers, but not for longer.
    pub fn late(&mut self, now: Moment) -> Vec<Waiter> {
        let is_late = |own: &Own| own.waiter.until.saturating_add(ON_THE_WAY) <= now;
        let late = self.own.iter().filter(|own| is_late(own)).map(|own| own.waiter).collect();
        self.own.retain(|own| !is_late(own));
        late
    }

    /// The round is over, or the others are lost: who waits for answers has those that came, and nobody is held.
    pub fn forget(&mut self) -> (Vec<Waiter>, Option<Todo>) {
        self.is_paused = false;
        (self.own.drain(..).map(|own| own.waiter).collect(), self.let_go())
    }

    // ---- the workers here

    /// The request for which they are to be held now, and until when they have time.
    pub fn due(&self) -> Option<(&Seen, Moment)> {
        let current = self.current.as_ref().filter(|current| current.hold == Hold::Due)?;
        Some((&current.seen, current.until))
    }

    /// They are held at this step.
    pub fn held(&mut self, step: u64) {
        if let Some(current) = &mut self.current {
            current.hold = Hold::Held;
            self.words.push(Word::Holds { number: current.seen.number, step });
        }
    }

    /// They have answered the request `number`.
    pub fn answered(&mut self, number: u64, ranks: Vec<RankAnswer>) {
        self.current.take_if(|current| current.seen.number == number);
        self.said.clone_from(&ranks);
        self.words.push(Word::Answers { number, ranks });
    }

    /// What they have said to the last request that was over for them, by local rank; empty once another has begun.
    pub fn said(&self) -> &[RankAnswer] {
        &self.said
    }

    /// They will not do what is asked for next: it is said at once, so that nobody does.
    pub fn refuse(&mut self, ranks: usize) {
        if let Some(current) = self.current.as_ref().filter(|current| current.hold != Hold::Acting) {
            let ranks = vec![(Answer::None, None); ranks];
            self.words.push(Word::Answers { number: current.seen.number, ranks });
        }
    }

    /// Whether somebody here waits for a checkpoint.
    pub fn is_saving(&self) -> bool {
        self.own.iter().any(|own| own.waiter.kind == RequestKind::Save)
    }

    /// There are none that could answer.
    pub fn answered_by_nobody(&mut self, ranks: Vec<RankAnswer>) {
        if let Some(current) = &self.current {
            self.answered(current.seen.number, ranks);
        }
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::request::Answer;

    const SECOND: Duration = Duration::from_secs(1);

    fn waiter(kind: RequestKind, before_stop: bool) -> Waiter {
        Waiter { kind, begin: SECOND, until: 4 * SECOND, ticket: None, before_stop }
    }

    fn view(number: u64, kind: RequestKind, progress: Progress, asks: &[u64]) -> View {
        let answers = vec![(Answer::Succeeded, Some(7)); 3];
        let request = Seen {
            number,
            kind,
            reason: Reason::Host,
            within: 3 * SECOND,
            progress,
            asks: asks.to_vec(),
            answers,
        };
        View { request: Some(request), acted: BTreeMap::from([(8, 9)]), is_paused: false }
    }

    #[test]
    fn job_01_workers_are_held_and_act_and_who_asked_is_told() {
        let mut requests = JobRequests::default();
        requests.ask(waiter(RequestKind::Save, true), Reason::Preemption, Some(15), SECOND);
        assert!(matches!(&requests.take_words()[..], [Word::Ask(Ask { ask: 1, within_ms: 3000, .. })]));
        assert_eq!(requests.hear(view(5, RequestKind::Save, Progress::Held, &[1]), SECOND), []);
        let (seen, until) = requests.due().unwrap();
        assert_eq!((seen.number, until), (5, 4 * SECOND - EARLIER.1));
        requests.held(6);
        assert_eq!(requests.due(), None);
        assert_eq!(requests.take_words(), [Word::Holds { number: 5, step: 6 }]);
        let acting = view(5, RequestKind::Save, Progress::Acting { at_step: 7 }, &[1]);
        assert_eq!(requests.hear(acting.clone(), SECOND), [Todo::Act { at_step: 7 }]);
        assert_eq!(requests.hear(acting, SECOND), [], "once");
        requests.answered(5, vec![(Answer::Succeeded, Some(7))]);
        assert_eq!(requests.said(), [(Answer::Succeeded, Some(7))], "whatever becomes of the others");
        assert!(matches!(&requests.take_words()[..], [Word::Answers { number: 5, .. }]));
        let over = view(5, RequestKind::Save, Progress::Over { at_step: Some(7) }, &[1]);
        let told = requests.hear(over, SECOND);
        assert!(
            matches!(&told[..], [Todo::Tell { waiter, answers }] if waiter.before_stop && answers.len() == 3)
        );
        assert!(!requests.is_asking());
    }

    #[test]
    fn job_01_who_hears_late_of_a_step_acts_there_and_else_goes_on() {
        let mut requests = JobRequests::default();
        for (progress, todo) in [
            (Progress::Over { at_step: Some(9) }, Todo::Act { at_step: 9 }),
            (Progress::Over { at_step: None }, Todo::LetGo),
        ] {
            requests.hear(view(1, RequestKind::Save, Progress::Held, &[]), SECOND);
            requests.held(6);
            assert_eq!(requests.hear(view(1, RequestKind::Save, progress, &[]), SECOND), [todo]);
            requests.answered_by_nobody(vec![]);
        }
        // Another one follows one whose end was not heard.
        requests.hear(view(2, RequestKind::Save, Progress::Held, &[]), SECOND);
        requests.held(6);
        assert_eq!(requests.hear(view(3, RequestKind::Save, Progress::Held, &[]), SECOND), [Todo::LetGo]);
        assert!(requests.due().is_some_and(|(seen, _)| seen.number == 3));
        requests.hear(view(8, RequestKind::Save, Progress::Held, &[]), SECOND);
        requests.held(6);
        let next = view(9, RequestKind::Save, Progress::Held, &[]);
        assert_eq!(requests.hear(next, SECOND), [Todo::Act { at_step: 9 }], "as all others did");
        assert!(requests.due().is_some_and(|(seen, _)| seen.number == 9));
        requests.take_words();
        requests.answered(8, vec![]);
        assert_eq!(requests.take_words(), [Word::Answers { number: 8, ranks: vec![] }]);
        assert!(requests.due().is_some());
    }

    #[test]
    fn a_stop_that_another_host_asks_for_is_one_of_this_host_too() {
        let mut requests = JobRequests::default();
        assert!(!requests.wait_for_others(waiter(RequestKind::Stop, true)));
        let held = view(2, RequestKind::Stop, Progress::Held, &[]);
        assert!(matches!(requests.hear(held, SECOND)[..], [Todo::StopGently { .. }]));
        assert!(requests.wait_for_others(waiter(RequestKind::Stop, true)));
        let over = view(2, RequestKind::Stop, Progress::Over { at_step: Some(9) }, &[]);
        assert!(matches!(&requests.hear(over, SECOND)[..], [Todo::Tell { .. }]));
    }

    #[test]
    fn job_06_nobody_waits_for_ever() {
        let mut requests = JobRequests::default();
        requests.ask(waiter(RequestKind::Save, false), Reason::Host, None, SECOND);
        assert_eq!(requests.deadline(), Some(4 * SECOND + ON_THE_WAY));
        assert_eq!(requests.late(4 * SECOND), []);
        assert_eq!(requests.late(5 * SECOND), [waiter(RequestKind::Save, false)]);
        requests.ask(waiter(RequestKind::Save, false), Reason::Host, None, SECOND);
        requests.hear(view(2, RequestKind::Save, Progress::Held, &[]), SECOND);
        requests.held(6);
        assert_eq!(requests.forget(), (vec![waiter(RequestKind::Save, false)], Some(Todo::LetGo)));
    }

    #[test]
    fn a_pause_ends_for_all() {
        let mut requests = JobRequests::default();
        let paused = |is_paused| View { request: None, acted: BTreeMap::new(), is_paused };
        assert_eq!(requests.hear(paused(true), SECOND), []);
        assert_eq!(requests.hear(paused(false), SECOND), [Todo::Resume]);
        assert_eq!(requests.hear(paused(false), SECOND), []);
    }
}
