//! What the workers of all hosts are asked for, at one step: a value that the leader changes and all nodes read.
//!
//! ```text
//!          all nodes hold their workers          all have answered, or the time is over
//!   Held ------------------------------> Acting ---------------------------------------> Over
//!     |  the time or the round is over, or there is no node that could hold its workers   ^
//!     +-----------------------------------------------------------------------------------+
//! ```
//!
//! Each node has its workers held at a step that none of them is past (`control::request`), and says which. The
//! greatest of these is the step of all. So all ranks act at one step, or none does: a node that holds its workers lets
//! them go by the word of a state alone, and a state is one for all.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::{Node, State, Why};
use crate::control::request::{Answer, Reason, RequestKind};
use crate::ranks::MAX_LOCAL_WORLD_SIZE;

/// Who asks joins a request that gives this much less time, in milliseconds.
const MORE_TIME_MS: u64 = 1000;
/// How often one node may join it.
const ASKS_OF_ONE: usize = 8;
/// No rank is so many steps ahead of another: who says so is not believed.
const TOO_FAR_APART: u64 = 1 << 40;

/// The answer of a rank, and at which step it was.
pub type RankAnswer = (Answer, Option<u64>);

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    Held,
    Acting {
        at_step: u64,
    },
    /// None if nobody was to act.
    Over {
        at_step: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Another for each request of the job.
    pub number: u64,
    pub kind: RequestKind,
    pub reason: Reason,
    /// How many milliseconds workers have from when their node hears of it.
    pub within_ms: u64,
    pub progress: Progress,
    /// Who asked: the node, and its own number of what it asked for.
    pub asks: Vec<(String, u64)>,
    /// Nodes that are stopped when it is over, and by which signal, 0 for none.
    pub leaving: Vec<(String, i32)>,
    /// Nodes that are not waited for.
    pub without: Vec<String>,
    /// The round is over with it, for this reason.
    pub then: Option<Why>,
    /// At which step each node holds its workers.
    pub held: BTreeMap<String, u64>,
    /// By local rank.
    pub answers: BTreeMap<String, Vec<RankAnswer>>,
}

/// What a node asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// The node's own number for it.
    pub ask: u64,
    pub kind: RequestKind,
    pub reason: Reason,
    pub within_ms: u64,
    /// The signal by which the node is stopped then, if it is; 0 for none.
    pub leaves: Option<i32>,
}

/// What a node tells the leader of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Ask(Ask),
    /// A pause is to end.
    Resume,
    /// Its workers are held at this step, for the request `number`.
    Holds {
        number: u64,
        step: u64,
    },
    /// What became of it there.
    Answers {
        number: u64,
        ranks: Vec<RankAnswer>,
    },
}

impl JobRequest {
    pub fn new(number: u64, kind: RequestKind, reason: Reason, within: Duration) -> JobRequest {
        JobRequest {
            number,
            kind,
            reason,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            progress: Progress::Held,
            asks: Vec::new(),
            leaving: Vec::new(),
            without: Vec::new(),
            then: None,
            held: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    pub fn of_ask(number: u64, id: &str, ask: Ask) -> JobRequest {
        let within = Duration::from_millis(ask.within_ms);
        let mut request = JobRequest::new(number, ask.kind, ask.reason, within);
        request.join(id, ask);
        request
    }

    pub fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Over { .. })
    }

    pub fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms)
    }

    /// Whether somebody who asks is content with this request. Who has much more time is not.
    pub fn may_join(&self, id: &str, ask: &Ask) -> bool {
        let asks = self.asks.iter().filter(|(node, _)| node == id).count();
        let has_time = ask.within_ms <= self.within_ms.saturating_add(MORE_TIME_MS);
        !self.is_over() && self.kind == ask.kind && has_time && asks < ASKS_OF_ONE
    }

    /// Somebody else asks for the same: there is one step for both, and both get all answers.
    pub fn join(&mut self, id: &str, ask: Ask) {
        self.asks.push((id.into(), ask.ask));
        self.leaving.extend(ask.leaves.map(|signal| (id.into(), signal)));
    }

    /// A node holds its workers. One that is heard twice does not change its mind.
    pub fn hold(&mut self, number: u64, id: &str, step: u64) {
        if number == self.number && self.progress == Progress::Held {
            self.held.entry(id.into()).or_insert(step);
        }
    }

    pub fn answer(&mut self, number: u64, id: &str, ranks: Vec<RankAnswer>) {
        if number == self.number && !self.is_over() {
            self.answers.entry(id.into()).or_insert(ranks);
        }
    }

    /// Goes on if it can; whether it did. `awaited`: the nodes that have workers.
    pub fn go_on<'a>(&mut self, awaited: impl Iterator<Item = &'a str> + Clone) -> bool {
        let before = self.progress;
        let awaited = awaited.filter(|id| !self.without.iter().any(|without| without == id));
        let answered = |id: &str| self.answers.contains_key(id);
        match self.progress {
            // One of them cannot have its workers held: these may be at any step.
            Progress::Held if awaited.clone().any(|id| self.cannot_act(id)) => self.give_up(),
            Progress::Held => {
                if awaited.clone().all(|id| self.held.contains_key(id) || answered(id)) {
                    let steps = || awaited.clone().filter_map(|id| self.held.get(id));
                    self.progress = match (steps().min(), steps().max()) {
                        (Some(least), Some(&at_step)) if at_step - least < TOO_FAR_APART => {
                            Progress::Acting { at_step }
                        }
                        _ => Progress::Over { at_step: None },
                    };
                }
            }
            Progress::Acting { at_step } => {
                if awaited.clone().all(answered) {
                    self.progress = Progress::Over { at_step: Some(at_step) };
                }
            }
            Progress::Over { .. } => {}
        }
        self.progress != before
    }

    /// Whether a node has workers that will not do what is asked.
    fn cannot_act(&self, id: &str) -> bool {
        let none = |ranks: &Vec<RankAnswer>| ranks.iter().any(|(answer, _)| *answer == Answer::None);
        self.answers.get(id).is_some_and(none)
    }

    /// Nobody is waited for any more.
    pub fn give_up(&mut self) {
        self.progress = match self.progress {
            Progress::Held => Progress::Over { at_step: None },
            Progress::Acting { at_step } => Progress::Over { at_step: Some(at_step) },
            over => over,
        };
    }

    /// The answers of all ranks, by their global rank. Who has not answered may have had no workers any more.
    pub fn answers(&self, nodes: &[Node], done: &[String]) -> Vec<RankAnswer> {
        let of_node = |node: &Node| {
            let none = if done.contains(&node.id) { Answer::Gone } else { Answer::None };
            let mut ranks = self.answers.get(&node.id).cloned().unwrap_or_default();
            // What came over the network is not believed.
            ranks.resize(node.local_world_size.min(MAX_LOCAL_WORLD_SIZE as usize), (none, None));
            ranks
        };
        nodes.iter().flat_map(of_node).collect()
    }
}

/// A request as one node finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub request: Option<Seen>,
    /// At which step all were to act, by the number of the request.
    pub acted: BTreeMap<u64, u64>,
    /// Whether a pause stands.
    pub is_paused: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub number: u64,
    pub kind: RequestKind,
    pub reason: Reason,
    pub within: Duration,
    pub progress: Progress,
    /// The node's own numbers of what it asked for.
    pub asks: Vec<u64>,
    /// By global rank, once it is over.
    pub answers: Vec<RankAnswer>,
}

impl View {
    /// `nodes`: those of the round.
    pub fn of(id: &str, state: &State, nodes: &[Node]) -> View {
        let State { request, acted, paused_by, done, .. } = state;
        let seen = |request: &JobRequest| Seen {
            number: request.number,
            kind: request.kind,
            reason: request.reason,
            within: request.within(),
            progress: request.progress,
            asks: request.asks.iter().filter(|(node, _)| node == id).map(|(_, ask)| *ask).collect(),
            answers: if request.is_over() { request.answers(nodes, done) } else { Vec::new() },
        };
        View { request: request.as_ref().map(seen), acted: acted.clone(), is_paused: *paused_by != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: RequestKind, reason: Reason, ask: u64, leaves: Option<i32>) -> Ask {
        Ask { ask, kind, reason, within_ms: 3000, leaves }
    }

    fn request() -> JobRequest {
        JobRequest::of_ask(7, "a", ask(RequestKind::Save, Reason::Host, 1, None))
    }

    const NODES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn job_05_all_act_at_the_furthest_of_the_steps_where_they_are_held() {
        let mut request = request();
        for (id, step) in [("a", 500), ("b", 3)] {
            request.hold(7, id, step);
            assert!(!request.go_on(NODES.into_iter()), "c may be further");
        }
        request.hold(6, "c", 1000);
        assert!(!request.go_on(NODES.into_iter()), "of another request");
        request.hold(7, "c", 501);
        assert!(request.go_on(NODES.into_iter()));
        assert_eq!(request.progress, Progress::Acting { at_step: 501 });
        request.hold(7, "d", 9000);
        assert!(!request.go_on(NODES.into_iter()));
    }

    #[test]
    fn job_04_who_asks_for_the_same_meanwhile_joins_unless_he_has_much_more_time() {
        let mut request = request();
        let other = ask(RequestKind::Save, Reason::Preemption, 4, Some(15));
        assert!(request.may_join("b", &other));
        assert!(!request.may_join("b", &Ask { within_ms: 30_000, ..other.clone() }));
        assert!(!request.may_join("b", &Ask { kind: RequestKind::Pause, ..other.clone() }));
        request.join("b", other);
        assert_eq!(request.leaving, [("b".to_string(), 15)]);
        let view = View::of("b", &State { request: Some(request), ..State::new("a") }, &[]);
        assert_eq!(view.request.map(|seen| seen.asks), Some(vec![4]));
    }

    #[test]
    fn job_06_it_is_over_with_the_last_answer_or_given_up() {
        let mut request = request();
        NODES.iter().for_each(|id| request.hold(7, id, 2));
        assert!(request.go_on(NODES.into_iter()));
        let saved = vec![(Answer::Succeeded, Some(2))];
        request.answer(7, "a", saved.clone());
        request.answer(7, "b", vec![(Answer::Failed, Some(2)); 9]);
        request.answer(7, "b", saved.clone());
        assert!(!request.go_on(NODES.into_iter()));
        let mut late = request.clone();
        late.give_up();
        assert_eq!(late.progress, Progress::Over { at_step: Some(2) });
        let nodes = NODES.map(Node::named);
        let failed = (Answer::Failed, Some(2));
        assert_eq!(late.answers(&nodes, &[]), [saved[0], failed, (Answer::None, None)]);
        assert_eq!(late.answers(&nodes, &["c".into()])[2], (Answer::Gone, None));
        request.answer(7, "c", saved);
        assert!(request.go_on(NODES.into_iter()));
        assert!(request.is_over());
    }

    #[test]
    fn job_01_nobody_acts_where_the_workers_of_one_node_will_not_or_it_lies() {
        let mut request = self::request();
        request.hold(7, "a", 5);
        request.answer(7, "b", vec![(Answer::None, None)]);
        assert!(request.go_on(NODES.into_iter()));
        assert_eq!(request.progress, Progress::Over { at_step: None });
        let mut request = self::request();
        NODES.iter().zip([5, 6, u64::MAX]).for_each(|(id, step)| request.hold(7, id, step));
        assert!(request.go_on(NODES.into_iter()));
        assert_eq!(request.progress, Progress::Over { at_step: None });
    }

    #[test]
    fn who_has_no_workers_is_not_waited_for() {
        let mut request = request();
        request.hold(7, "a", 5);
        request.without.push("b".into());
        assert!(!request.go_on(NODES.into_iter()));
        assert!(request.go_on(["a", "b"].into_iter()), "the workers of c have succeeded");
        assert_eq!(request.progress, Progress::Acting { at_step: 5 });
        let mut none = self::request();
        assert!(none.go_on([].into_iter()));
        assert_eq!(none.progress, Progress::Over { at_step: None });
        none.give_up();
        assert_eq!(none.progress, Progress::Over { at_step: None });
    }
}
