//! What agents know in common, and what they tell their leader: plain values, as text that says its version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::request::{Ask, JobRequest, Word};
use crate::error::Error;
use crate::report::exit_status::Exit;

/// What a value of ours begins with, and the version of the protocol. Another one is refused.
const OURS: &str = "libice rendezvous ";
const VERSION: &str = "2";

/// One agent, as it joins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Made anew by each agent; never told again from another run.
    pub id: String,
    /// For people: host and pid.
    pub name: String,
    /// Where the other hosts reach this one.
    pub addr: String,
    /// Kept for the store that workers meet at, should this node have group rank 0.
    pub port: u16,
    /// Whether the agent serves that store, not its rank 0.
    pub serves: bool,
    pub role: String,
    pub local_world_size: usize,
    /// Where it wants to stand among the others; those without a wish come after, in the order in which they came.
    pub order: Option<u64>,
    /// Of its first message; kept as long as the node is there, so that ranks move as little as can be.
    #[serde(default)]
    pub seniority: u64,
    /// The place where agents meet is gone when this one is.
    pub has_place: bool,
    /// The first round that it may still join, and the restarts that it knows of: a job goes on from there whose states are
    /// lost.
    #[serde(default)]
    pub from_round: u64,
    #[serde(default)]
    pub restarts: u32,
    /// After how many milliseconds without a heartbeat it is missed.
    pub dead_after_ms: u64,
}

impl Node {
    /// The host's name.
    pub fn host(&self) -> &str {
        self.name.split(" (").next().unwrap_or(&self.name)
    }
}

#[cfg(test)]
impl Node {
    /// One of a test, with one worker.
    pub fn named(id: &str) -> Node {
        Node {
            id: id.into(),
            name: format!("node {id}"),
            addr: "127.0.0.1".into(),
            port: 1,
            serves: true,
            role: "default".into(),
            local_world_size: 1,
            ..Node::default()
        }
    }
}

/// Why a round is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nothing was before this round.
    First,
    /// A worker failed.
    Failure(String),
    /// A node left, or vanished, or came.
    Membership(String),
}

impl Why {
    pub fn text(&self) -> &str {
        match self {
            Why::First => "",
            Why::Failure(text) | Why::Membership(text) => text,
        }
    }
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Succeeded,
    /// For a reason that all agents report, with the end of a worker if there is one.
    Closed {
        reason: String,
        #[serde(flatten)]
        exit: Exit,
    },
    /// One of its hosts was stopped, without which it cannot go on; by this signal, 0 for none.
    Stopped {
        host: String,
        signal: i32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nodes join the round.
    Gathering,
    /// The round has its nodes.
    Complete,
    Ended(Ending),
}

/// One link of the chain of states. It is never changed: the next one follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Made anew with the first link.
    pub job: String,
    /// Who writes the next one, by its id; none: whoever comes first.
    pub leader: Option<String>,
    /// How many messages are taken account of.
    pub taken: u64,
    pub round: u64,
    /// How often the job was restarted because a worker failed.
    pub restarts: u32,
    pub phase: Phase,
    /// Why the round before this one is over.
    pub why: Why,
    /// Complete: by group rank. Gathering: those that are expected back.
    pub nodes: Vec<Node>,
    /// Gathering: those that have come so far.
    pub joined: Vec<Node>,
    /// Those of `nodes` whose workers have all succeeded, by id.
    pub done: Vec<String>,
    /// Those of `done` that are there no longer, by id: they take part in no further round.
    pub gone: Vec<String>,
    /// They wait for a place.
    pub spares: Vec<Node>,
    /// Who cannot take part, and why; the last of them.
    pub refused: Vec<(String, String)>,
    /// How often workers have failed, by the id of their node.
    pub failures: BTreeMap<String, u32>,
    /// How often newcomers were lost or of no use soon after they had come, by host.
    pub flaps: BTreeMap<String, u32>,
    /// Nodes that take part no more, and why.
    pub left_out: BTreeMap<String, String>,
    /// What the workers of the round are asked for, or were last.
    pub request: Option<JobRequest>,
    /// What they are to be asked for after that; the nodes that ask.
    pub asks: Vec<(String, Ask)>,
    /// How many requests there were.
    pub requests: u64,
    /// The pause is to end with the request that is under way.
    pub resumes: bool,
    /// At which step all were to act, by the number of the request: the last of those of the round.
    pub acted: BTreeMap<u64, u64>,
    /// The number of the request by which workers are paused, 0 while they are not.
    pub paused_by: u64,
}

impl State {
    /// The first link.
    pub fn new(leader: &str) -> State {
        State {
            job: leader.into(),
            leader: Some(leader.into()),
            taken: 0,
            round: 0,
            restarts: 0,
            phase: Phase::Gathering,
            why: Why::First,
            nodes: Vec::new(),
            joined: Vec::new(),
            done: Vec::new(),
            gone: Vec::new(),
            spares: Vec::new(),
            refused: Vec::new(),
            failures: BTreeMap::new(),
            flaps: BTreeMap::new(),
            left_out: BTreeMap::new(),
            request: None,
            asks: Vec::new(),
            requests: 0,
            resumes: false,
            acted: BTreeMap::new(),
            paused_by: 0,
        }
    }
}

/// What a node tells the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// It is ready for the next round.
    Join(Node),
    /// A worker of it failed in this round. `last`: it must not be started again.
    Failed {
        id: String,
        round: u64,
        reason: String,
        #[serde(flatten)]
        exit: Exit,
        last: bool,
    },
    /// All its workers of this round have succeeded.
    Done { id: String, round: u64 },
    /// About a request to the workers of all hosts.
    Request { id: String, round: u64, word: Word },
    /// It goes, in an orderly way.
    Leave { id: String, reason: String },
    /// It cannot take part, for this reason: the job is over if it needs it.
    Unfit { id: String, reason: String },
    /// The job is over for this reason.
    Close { reason: String },
    /// It is stopped by this signal, 0 for none, and the job with it.
    Stopped { host: String, signal: i32 },
    /// Its way to the place has ended, says who serves that; its heartbeat was this one then.
    Lost { id: String, beat: u64 },
    /// In the place of a message that was announced and did not come.
    Void,
}

pub fn encode(value: &impl Serialize) -> Vec<u8> {
    // These values have string keys only, so there is nothing that JSON could not say.
    let json = serde_json::to_string(value).unwrap_or_default();
    format!("{OURS}{VERSION} {json}").into_bytes()
}

/// `what`: of the key it was found at.
pub fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &str) -> Result<T, Error> {
    let refused = |why: String| {
        Err(Error::Rendezvous { what: format!("the rendezvous' {what} {why}; it is left as it is") })
    };
    let not_ours = || {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        refused(format!("was not written by this version of libice (it begins with {begin:?})"))
    };
    let Some(rest) = bytes.strip_prefix(OURS.as_bytes()) else { return not_ours() };
    let version = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    let Some(json) = rest.strip_prefix(format!("{VERSION} ").as_bytes()) else {
        if version.is_empty() || version.len() > 4 || !version.iter().all(u8::is_ascii_digit) {
            return not_ours();
        }
        let (theirs, library) = (String::from_utf8_lossy(version), env!("CARGO_PKG_VERSION"));
        return refused(format!(
            "is of version {theirs} of the protocol, and this libice ({library}) has version {VERSION}: all agents of a job need \
             the same"
        ));
    };
    match serde_json::from_slice(json) {
        Ok(value) => Ok(value),
        Err(error) => refused(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_19_another_version_is_refused_with_both_versions_named() {
        let said = |text: &str| decode::<State>(text.as_bytes(), "state/0").unwrap_err().to_string();
        let error = said("libice rendezvous 1 {}");
        assert!(
            error.contains("is of version 1 of the protocol") && error.contains("has version 2"),
            "{error}"
        );
        for other in ["gASV", "libice rendezvous", "libice rendezvous x {}", "libice rendezvous 99999 {}", ""]
        {
            let error = said(other);
            assert!(error.contains("was not written by this version"), "{error}");
        }
        let state = State::new("a");
        assert_eq!(decode::<State>(&encode(&state), "state/0"), Ok(state));
    }
}
