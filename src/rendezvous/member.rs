//! An agent's part in a rendezvous: a thread that joins, gives signs of life, leads if it has to, and tells the
//! agent what becomes of the rounds. Whatever the way to the others takes, the agent's own loop does not wait for it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::backend::{Backend, create};
use super::leader::{Leader, Rules};
use super::request::{Progress, View, Word};
use super::state::{Ending, Message, Node, Phase, State, decode, encode};
use crate::error::Error;
use crate::moment::Moment;
use crate::report::exit_status::Exit;
use crate::spec::Level;
use crate::spec::rendezvous_options::Options;
use crate::standstill::lost;
use crate::store::interrupt::Interrupter;
use crate::sys::dispositions;
use crate::sys::fd::Bell;
use crate::sys::process::{monotonic, poll_timeout};

mod judge;
mod leave;
mod liveness;
mod lost;
#[cfg(test)]
pub mod tests;

const STACK: usize = 512 << 10;
/// Between two tries to reach the place: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How soon somebody in a hurry is noticed by an agent that goes.
const LOOK: Duration = Duration::from_millis(50);
/// How many states stay behind the last one, for those who are late.
const STATES_KEPT: u64 = 8;
/// How many keys that nobody needs any more are removed in one turn.
const REMOVED_AT_ONCE: usize = 64;

/// What the agent asks for.
#[derive(Debug)]
pub enum MemberWish {
    /// To be in the next round; `port` is kept for a store.
    Join { port: u16 },
    /// A worker failed; `last` if the run is over for this agent.
    Failed { reason: String, exit: Exit, last: bool },
    /// All workers of the round have succeeded.
    Done,
    /// About a request to the workers of all hosts.
    Request(Word),
    /// This node cannot take part. The job is to end for all if it needs it.
    Unfit { reason: String },
    /// The agent goes: `reason` is for the others, if they did not end together; `signal` that by which it was stopped,
    /// if it was, 0 for none. A place that it serves is there until all have gone, for as long as `linger`.
    Leave { reason: String, signal: Option<i32>, linger: Duration },
}

/// What the agent is told.
#[derive(Debug, PartialEq)]
pub enum Notice {
    /// The round is complete and has this node.
    Joined(Box<Round>),
    /// The round is over: its workers are to be stopped, the agent joins again.
    Over {
        round: u64,
        why: String,
    },
    /// What the workers of all hosts are asked for.
    Requested(View),
    Ended(Ending),
    /// The job has succeeded without this node, which waited for a place.
    NotNeeded,
    /// The rendezvous is over for this agent alone.
    Failed(Error),
    /// The place answers.
    Reached,
    /// It has not answered since, see `Member::trouble`.
    Unreached {
        since: Moment,
    },
    Log(Level, String),
}

/// A round that this node takes part in.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub number: u64,
    /// How often the job was restarted for a failed worker.
    pub restarts: u32,
    /// By group rank.
    pub nodes: Vec<Node>,
    /// The place of this one.
    pub group_rank: usize,
    /// The port of a store that all workers share with the rendezvous.
    pub shared_port: Option<u16>,
}

/// What does not change.
pub struct Settings {
    pub rules: Rules,
    pub options: Options,
    /// Of the run, for messages.
    pub run_id: String,
    /// The address of this host that the other agents get. None: that of the connection to the back end.
    pub local_addr: Option<String>,
}

/// The agent's end.
pub struct Member {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    /// Closed by the thread as it ends.
    end: Receiver<()>,
    interrupter: Interrupter,
}

struct Shared {
    wishes: Mutex<VecDeque<MemberWish>>,
    bell: Bell,
    notices: Mutex<VecDeque<Notice>>,
    /// Why the place was not reached by the last try.
    trouble: Mutex<Option<String>>,
    /// Nodes whose way to the place has ended, with their heartbeats then.
    losses: Mutex<Vec<(String, u64)>>,
    /// What this node knows of the others, if it leads them: nobody else knows who has come, or has succeeded.
    state: Mutex<Option<State>>,
}

impl Member {
    /// `ring` is called after each notice, in the thread.
    pub fn start(
        mut backend: Box<dyn Backend>,
        settings: Settings,
        node: Node,
        ring: impl Fn() + Send + 'static,
    ) -> Result<Member, Error> {
        let bell = Bell::new().map_err(|errno| Error::system("cannot make an eventfd", errno as i32))?;
        let shared = Arc::new(Shared {
            wishes: Mutex::default(),
            bell,
            notices: Mutex::default(),
            trouble: Mutex::default(),
            losses: Mutex::default(),
            state: Mutex::default(),
        });
        let heard = shared.clone();
        backend.tell_of_losses(Arc::new(move |id, beat| {
            heard.losses.lock().push((id.into(), beat));
            heard.bell.ring();
        }));
        let interrupter = backend.interrupter();
        let (at_end, end) = mpsc::channel();
        let part = Part {
            backend,
            settings,
            node,
            ring: Box::new(ring),
            shared: shared.clone(),
            chain: None,
            job: None,
            leader: None,
            stage: Stage::Idle,
            outbox: VecDeque::new(),
            beat: 0,
            beat_at: Duration::ZERO,
            from_round: 0,
            is_done: false,
            left: None,
            nodes: Vec::new(),
            done: Vec::new(),
            told: (0, None, false),
            is_reached: false,
            leaders_beat: (None, Duration::ZERO),
            lost_leader: None,
            thawed: None,
            answered: Duration::ZERO,
            trash: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("ice-rendezvous".into())
            .stack_size(STACK)
            .spawn(move || {
                let _at_end = at_end;
                dispositions::block_all();
                part.run();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Member { shared, thread, end, interrupter })
    }

    pub fn wish(&self, wish: MemberWish) {
        self.shared.wishes.lock().push_back(wish);
        self.shared.bell.ring();
    }

    pub fn notice(&self) -> Option<Notice> {
        self.shared.notices.lock().pop_front()
    }

    /// What is wrong with the way to the place, as far as that is known.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }

    /// Who has come, or has succeeded, as far as is known: by the node that leads.
    pub fn state(&self) -> Option<State> {
        self.shared.state.lock().clone()
    }

    /// Goes; returns when the others know, or do not know `within` that time, or when somebody is `hurried`: a place
    /// that does not answer keeps nobody from going. What was not heard yet comes back.
    pub fn leave(
        self,
        (reason, signal): (String, Option<i32>),
        within: Duration,
        linger: Duration,
        hurried: impl Fn() -> bool,
    ) -> VecDeque<Notice> {
        self.wish(MemberWish::Leave { reason, signal, linger });
        let mut begin = monotonic();
        let mut until = begin.saturating_add(within.max(linger));
        while self.end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let now = monotonic();
            until = until.saturating_add(lost(begin, begin + LOOK, now));
            begin = now;
            if hurried() || now >= until {
                self.interrupter.interrupt();
                break;
            }
        }
        let _ = self.thread.join();
        std::mem::take(&mut *self.shared.notices.lock())
    }
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Idle,
    /// `until`: none while it is a spare. `posted`: the number of its message.
    Joining {
        until: Option<Moment>,
        posted: Option<u64>,
    },
    In {
        round: u64,
    },
    /// It was told of an end, its own or that of all.
    Out,
}

/// The state that is known, and its place in the chain.
struct Chain {
    number: u64,
    state: State,
}

/// What the anchor says.
#[derive(Serialize, Deserialize)]
struct Anchor {
    /// The place of a state that is not far from the last.
    state: u64,
}

/// The thread's end.
struct Part {
    backend: Box<dyn Backend>,
    settings: Settings,
    node: Node,
    ring: Box<dyn Fn() + Send>,
    shared: Arc<Shared>,
    chain: Option<Chain>,
    /// The one that the chain is of: a place that has lost it may have another.
    job: Option<String>,
    leader: Option<Leader>,
    stage: Stage,
    /// What is still to be told to the leader.
    outbox: VecDeque<Message>,
    beat: u64,
    /// When the next sign of life is due.
    beat_at: Moment,
    /// The first round that it may still join.
    from_round: u64,
    /// Whether it was said that all workers of the round have succeeded.
    is_done: bool,
    /// The round that the agent has left for the next one before it was over.
    left: Option<u64>,
    /// Those of the round.
    nodes: Vec<Node>,
    /// Those of them whose workers are known to have succeeded, by id.
    done: Vec<String>,
    /// What the agent was told of requests: the last one, how far it had come, whether a pause stands.
    told: (u64, Option<Progress>, bool),
    /// Whether the place has answered, and the agent was told so.
    is_reached: bool,
    /// The last one of the leader, and when it was another one.
    leaders_beat: (Option<u64>, Moment),
    /// The leader whose way to the place has ended: its id, its heartbeat then, and when that was.
    lost_leader: Option<(String, u64, Moment)>,
    /// When this agent was seen to have stood still.
    thawed: Option<Moment>,
    /// When the place was last reached.
    answered: Moment,
    trash: VecDeque<String>,
}

fn state_key(number: u64) -> String {
    format!("state/{number}")
}

fn inbox_key(number: u64) -> String {
    format!("inbox/{number}")
}

fn done_key(round: u64, id: &str) -> String {
    format!("done/{round}/{id}")
}

/// The counter of the inbox.
const INBOX: &str = "inbox";
/// Says where the chain is.
const ANCHOR: &str = "";

/// Whether the place could not be reached, so that another try may do better.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::System { .. } | Error::Store { .. })
}

impl Part {
    fn run(mut self) {
        self.answered = monotonic();
        let mut failing: Option<Duration> = None;
        while self.take_wishes() {
            if self.stage == Stage::Out {
                // Only a leave is waited for.
                self.pause(None);
                continue;
            }
            let done = self.turn();
            self.warn();
            match done {
                Ok(()) => (self.answered, failing) = (monotonic(), None),
                Err(error) if is_passing(&error) => {
                    // The connection is made anew, and with it what was read.
                    (self.leader, self.chain) = (None, None);
                    *self.shared.trouble.lock() = Some(error.to_string());
                    if std::mem::take(&mut self.is_reached) {
                        self.tell(Notice::Unreached { since: self.answered });
                    }
                    let pause = failing.unwrap_or_else(|| {
                        self.log(Level::Info, format!("the rendezvous is not reached: {error}"));
                        PAUSES.0
                    });
                    if let Some(error) = self.is_too_long(&error) {
                        self.give_up(error);
                    } else {
                        // Who serves the place may give up one that is not back soon.
                        let longest = PAUSES.1.min(self.settings.options.reconnect_timeout / 3);
                        failing = Some((pause * 2).min(longest.max(PAUSES.0)));
                        let begin = monotonic();
                        self.pause(Some(pause));
                        self.give_back(begin, begin + pause);
                    }
                }
                Err(error) => self.give_up(error),
            }
        }
    }

    /// Waits for the agent to want something.
    fn pause(&self, time: Option<Duration>) {
        let mut items = [PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut items, time.map_or(PollTimeout::NONE, poll_timeout));
    }

    fn tell(&mut self, notice: Notice) {
        self.shared.notices.lock().push_back(notice);
        (self.ring)();
    }

    fn log(&mut self, level: Level, text: String) {
        self.tell(Notice::Log(level, text));
    }

    /// Says what the back end has to say.
    fn warn(&mut self) {
        while let Some(text) = self.backend.warning() {
            self.log(Level::Warning, text);
        }
    }

    /// It waited from `begin` on, and was to go on when it was `due`. If it did not, it stood still, and most likely
    /// others with it: what it missed counts for nobody.
    fn give_back(&mut self, begin: Moment, due: Moment) {
        let now = monotonic();
        let lost = lost(begin, due, now);
        if lost.is_zero() {
            return;
        }
        self.answered = self.answered.saturating_add(lost);
        self.leaders_beat.1 = now;
        if let Some(leader) = &mut self.leader {
            leader.give_back(lost, now);
        }
        if let Stage::Joining { until: Some(until), .. } = &mut self.stage {
            *until = until.saturating_add(lost);
        }
    }

    // ---- what the agent wants

    /// False when it is time to go.
    fn take_wishes(&mut self) -> bool {
        self.shared.bell.quiet();
        while let Some(wish) = { self.shared.wishes.lock().pop_front() } {
            let id = self.node.id.clone();
            match wish {
                MemberWish::Join { port } => {
                    self.node.port = port;
                    if let Stage::In { round } = self.stage {
                        self.left = Some(round);
                    }
                    let until = Some(monotonic() + self.settings.options.join_timeout);
                    self.stage = Stage::Joining { until, posted: None };
                    self.is_done = false;
                }
                MemberWish::Failed { reason, exit, last } => {
                    if let Stage::In { round } = self.stage {
                        let reason = format!("{}: {reason}", self.node.name);
                        self.outbox.push_back(Message::Failed { id, round, reason, exit, last });
                    }
                }
                MemberWish::Done => {
                    if let Stage::In { round } = self.stage {
                        self.is_done = true;
                        self.outbox.push_back(Message::Done { id, round });
                    }
                }
                MemberWish::Request(word) => {
                    if let Stage::In { round } = self.stage {
                        self.outbox.push_back(Message::Request { id, round, word });
                    }
                }
                MemberWish::Unfit { reason } => {
                    let reason = format!("{}: {reason}", self.node.name);
                    // The job does not outlive the place.
                    self.outbox.push_back(match self.backend.serves() {
                        true => Message::Close { reason },
                        false => Message::Unfit { id, reason },
                    });
                }
                MemberWish::Leave { reason, signal, linger } => {
                    self.go(reason, signal, linger);
                    return false;
                }
            }
        }
        true
    }

    fn has_ended(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| matches!(chain.state.phase, Phase::Ended(_)))
    }

    // ---- one turn

    /// Does what is due, and waits for more.
    fn turn(&mut self) -> Result<(), Error> {
        if self.chain.is_none() {
            self.backend.connect()?;
            self.enter()?;
            // Whoever serves the place has seen the last connection end.
            self.beat_at = self.beat_at.min(monotonic());
            if !std::mem::replace(&mut self.is_reached, true) {
                *self.shared.trouble.lock() = None;
                self.tell(Notice::Reached);
            }
        }
        self.post_join();
        self.hear_losses();
        self.say()?;
        // Signs of life are looked for before anybody is missed.
        self.beat()?;
        self.lead()?;
        self.judge();
        self.take_over()?;
        self.tidy()?;
        match self.stage {
            // Whoever serves the place sees that it is needed by one less.
            Stage::Out if self.has_ended() => self.backend.disconnect(),
            Stage::Out => {}
            _ => return self.wait(),
        }
        Ok(())
    }

    /// Finds the chain, or begins it.
    fn enter(&mut self) -> Result<(), Error> {
        let begins = self.job.is_none() && self.backend.may_lead();
        let waits = self.job.is_none() && !begins;
        let mut there = self.find(ANCHOR, waits)?;
        if there.is_none() && begins {
            there = create(&mut *self.backend, ANCHOR, &encode(&Anchor { state: 0 }))?;
        }
        let mut number = match there {
            None => 0,
            Some(text) => decode::<Anchor>(&text, "anchor")?.state,
        };
        let mut text = self.find(&state_key(number), waits)?;
        if text.is_none() && number == 0 && begins {
            let own = encode(&State::new(&self.node.id));
            text = Some(create(&mut *self.backend, &state_key(0), &own)?.unwrap_or(own));
        }
        let Some(mut text) = text else {
            let what =
                if self.job.is_some() { "there is no state of it any more" } else { "it has not begun" };
            return Err(Error::Store { what: what.into() });
        };
        while let Some(found) = self.backend.get(&state_key(number + 1))? {
            (number, text) = (number + 1, found.value);
        }
        self.adopt(number, &text)
    }

    /// The value of a key, which may be waited for: another agent is to make it.
    fn find(&mut self, key: &str, waits: bool) -> Result<Option<Vec<u8>>, Error> {
        let mut found = self.backend.get(key)?;
        if found.is_none() && waits {
            let until = Instant::now() + self.settings.options.keep_alive_interval;
            if self.backend.wait(key, until, self.shared.bell.as_fd())? {
                found = self.backend.get(key)?;
            }
        }
        Ok(found.map(|found| found.value))
    }

    /// This is the state now.
    fn adopt(&mut self, number: u64, text: &[u8]) -> Result<(), Error> {
        let state: State = decode(text, &state_key(number))?;
        if *self.job.get_or_insert_with(|| state.job.clone()) != state.job {
            self.begin_anew(&state)?;
        }
        self.leaders_beat = (None, monotonic());
        let id = &self.node.id;
        let leads = state.leader.as_ref() == Some(id);
        self.leader = leads.then(|| Leader::new(self.settings.rules.clone(), id, state.clone(), monotonic()));
        self.chain = Some(Chain { number, state });
        Ok(())
    }

    /// Puts the wish to join among what is to be said, unless it was said.
    fn post_join(&mut self) {
        let Some(Chain { state, .. }) = &self.chain else { return };
        let Stage::Joining { posted, until } = self.stage else { return };
        let id = &self.node.id;
        let has = |nodes: &[Node]| nodes.iter().any(|node| node.id == *id);
        let is_known = match state.phase {
            Phase::Gathering => has(&state.joined) || has(&state.spares),
            _ => has(&state.nodes) || has(&state.spares),
        };
        let is_queued = self.outbox.iter().any(|message| matches!(message, Message::Join(_)));
        let is_read = posted.is_none_or(|number| number < state.taken);
        if matches!(state.phase, Phase::Ended(_)) || is_known || is_queued || !is_read {
            return;
        }
        if self.node.addr.is_empty() {
            let found = self.settings.local_addr.clone().or_else(|| self.backend.address());
            self.node.addr = found.unwrap_or_else(|| "127.0.0.1".into());
        }
        self.node.has_place = self.backend.serves();
        self.node.from_round = self.from_round;
        self.stage = Stage::Joining { until, posted: Some(u64::MAX) };
        self.outbox.push_back(Message::Join(self.node.clone()));
    }

    /// Says what there is to say.
    fn say(&mut self) -> Result<(), Error> {
        while let Some(message) = self.outbox.front() {
            let text = encode(message);
            if let Message::Done { id, round } = message {
                self.backend.put(&done_key(*round, id), b"")?;
            }
            let is_join = matches!(message, Message::Join(_));
            let mut number = self.backend.next(INBOX)?;
            // The leader may have given the place up.
            while create(&mut *self.backend, &inbox_key(number), &text)?.is_some() {
                number = self.backend.next(INBOX)?;
            }
            self.outbox.pop_front();
            if let (true, Stage::Joining { posted, .. }) = (is_join, &mut self.stage) {
                *posted = Some(number);
            }
        }
        Ok(())
    }

    /// The leader's work.
    fn lead(&mut self) -> Result<(), Error> {
        let Some(leader) = &mut self.leader else { return Ok(()) };
        while let Some(found) = self.backend.get(&inbox_key(leader.taken()))? {
            // A message that cannot be read is counted, and has no effect.
            let message = decode(&found.value, "inbox").unwrap_or(Message::Void);
            leader.receive(message, monotonic());
        }
        self.look_at_doubted()?;
        self.leader.iter_mut().for_each(|leader| leader.tick(monotonic()));
        self.publish()?;
        // How one request has ended is known to all, this agent too, before the next one begins.
        self.judge();
        self.leader.iter_mut().for_each(|leader| leader.next_request(monotonic()));
        self.publish()
    }

    /// Writes the next state, if there is something new.
    fn publish(&mut self) -> Result<(), Error> {
        let (Some(leader), Some(chain)) = (&mut self.leader, &self.chain) else { return Ok(()) };
        let Some(state) = leader.publish() else { return Ok(()) };
        let number = chain.number + 1;
        if state.phase == Phase::Complete && chain.state.phase != Phase::Complete {
            self.backend.between_rounds()?;
        }
        if let Some(other) = create(&mut *self.backend, &state_key(number), &encode(&state))? {
            // Somebody else leads by now.
            return self.adopt(number, &other);
        }
        self.backend.put(ANCHOR, &encode(&Anchor { state: number }))?;
        // A message stays until a state takes account of it: another leader would read it again.
        self.trash.extend((chain.state.taken..state.taken).map(inbox_key));
        if let Some(old) = number.checked_sub(STATES_KEPT) {
            self.trash.push_back(state_key(old));
        }
        if state.leader.as_ref() != Some(&self.node.id) {
            self.leader = None;
        }
        self.chain = Some(Chain { number, state });
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), Error> {
        for _ in 0..REMOVED_AT_ONCE {
            let Some(key) = self.trash.pop_front() else { break };
            self.backend.delete(&key)?;
        }
        Ok(())
    }

    /// Waits for the next message, or the next state, until something else is due.
    fn wait(&mut self) -> Result<(), Error> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let next_state = chain.number + 1;
        let key = match &self.leader {
            Some(leader) => inbox_key(leader.taken()),
            None => state_key(next_state),
        };
        let joins = match self.stage {
            Stage::Joining { until, .. } => until,
            _ => None,
        };
        let due = self.leader.as_ref().and_then(Leader::deadline);
        let lost = self.lost_leader.as_ref().map(|(_, _, since)| *since + self.settings.rules.reconnect);
        let first =
            [Some(self.beat_at), joins, due, lost].into_iter().flatten().min().unwrap_or(self.beat_at);
        let begin = monotonic();
        let until = Instant::now() + first.saturating_sub(begin);
        let is_there = self.backend.wait(&key, until, self.shared.bell.as_fd());
        // A place that is slow to answer is no standstill.
        self.give_back(begin, first.max(begin).saturating_add(self.settings.options.answer_within()));
        let is_there = is_there?;
        if is_there && self.leader.is_none() {
            match self.backend.get(&key)? {
                Some(found) => self.adopt(next_state, &found.value)?,
                // It is gone again: this node is far behind.
                None => self.enter()?,
            }
        }
        Ok(())
    }
}
