//! This agent as a member of a job of several hosts: what the supervisor wants of the others goes to them, what they say
//! becomes events; and the store that the workers of all hosts meet at.

use std::cell::Cell;
use std::time::Duration;

use super::context::Context;
use super::master_port::MasterPort;
use crate::error::Error;
use crate::moment::Moment;
use crate::plan::Meeting;
use crate::ranks::{self, Rank};
use crate::reminder::{Reminder, seconds};
use crate::rendezvous::backends::Opening;
use crate::rendezvous::config::Rendezvous;
use crate::rendezvous::leader::is_signal;
use crate::rendezvous::member::{Member, MemberWish, Notice, Round, Settings};
use crate::rendezvous::request::{View, Word};
use crate::rendezvous::state::{Ending, Node, State};
use crate::report::End;
use crate::report::exit_status::Exit;
use crate::spec::Level;
use crate::spec::names::{hostname_text, stopped_by};
use crate::store::server::{Config, Server};
use crate::supervise::Event;
use crate::sys::process::monotonic;
use crate::sys::random;

/// How long an agent that serves the rendezvous and did not succeed waits for the others to have heard why.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// How long the last words of an agent that was asked to stop may take, at most.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// Of a job of one host there is nothing.
#[derive(Default)]
pub struct Membership(Option<Met>);

/// The others, once they are met, and what was agreed with them.
struct Met {
    member: Member,
    /// Where they are met, in words.
    place: String,
    /// Since when that does not answer; none while it does.
    unreached: Option<Reminder>,
    /// The last one that this host takes, or took, part in.
    round: Option<Round>,
    /// Where its workers meet, if this agent serves that.
    store: Option<Server>,
    /// Why it does not, though it is to.
    store_error: Option<Error>,
    /// How all of them ended.
    ending: Option<Ending>,
    /// It was this host's failure that ended the job.
    was_us: bool,
    /// Nobody hears what this host says.
    is_lost: bool,
    /// Since when it is in no round, and waits for the next.
    joining: Option<Moment>,
}

/// What was heard from the others.
pub enum Heard {
    /// The place of the rendezvous answers, for the first time or again.
    Reached,
    /// The round has its nodes: who is who is known to all of them.
    Joined(Vec<Rank>, Event),
    /// What the workers of all hosts are asked for.
    Requested(View),
    Told(Event),
    /// The agent cannot go on.
    Failed(Error),
}

impl Membership {
    /// Whether others were met.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// No worker is left here: the next round may begin.
    pub fn join(&mut self, context: &Context, port: &mut MasterPort) -> Result<(), Error> {
        if let Some(met) = &mut self.0 {
            met.store = None;
        } else if let Some(rendezvous) = &context.settled.rendezvous {
            self.0 = Some(Met {
                member: meet(context, rendezvous)?,
                place: rendezvous.backend.to_string(),
                unreached: Some(Reminder::since(monotonic())),
                round: None,
                store: None,
                store_error: None,
                ending: None,
                was_us: false,
                is_lost: false,
                joining: None,
            });
        }
        let port = port.offer()?;
        if let Some(met) = &mut self.0 {
            met.joining = Some(monotonic());
            met.member.wish(MemberWish::Join { port });
        }
        context.log(Level::Info, || {
            let run_id = String::from_utf8_lossy(&context.run_id);
            format!("joining the rendezvous of run id {run_id} at {}", self.place())
        });
        Ok(())
    }

    /// A worker failed here: the workers of all hosts are to be stopped. `last`: the run is over here.
    pub fn announce(&mut self, reason: String, exit: Exit, last: bool) {
        if let Some(met) = &mut self.0 {
            met.was_us |= last;
            met.member.wish(MemberWish::Failed { reason, exit, last });
        }
    }

    /// All workers have succeeded here.
    pub fn arrive(&self, context: &Context) {
        context.log(Level::Info, || "all workers have succeeded here: waiting for the other hosts".into());
        if let Some(met) = &self.0 {
            met.member.wish(MemberWish::Done);
        }
    }

    /// Tells the others about requests to all workers.
    pub fn say(&self, words: Vec<Word>) {
        if let Some(met) = &self.0 {
            words.into_iter().for_each(|word| met.member.wish(MemberWish::Request(word)));
        }
    }

    /// What was heard from the others, one thing after the other. `next_round`: the one that a failure to join is for.
    pub fn hear(&mut self, context: &Context, port: &mut MasterPort, next_round: u64) -> Option<Heard> {
        loop {
            let met = self.0.as_mut()?;
            match met.member.notice()? {
                Notice::Log(level, text) => context.log(level, || text),
                Notice::Reached => {
                    let Some(reminder) = met.unreached.take() else { continue };
                    context.remind_no_more(&reminder, |waited| {
                        format!("connected to the rendezvous at {} after {waited}", met.place)
                    });
                    return Some(Heard::Reached);
                }
                Notice::Unreached { since } => met.unreached = Some(Reminder::since(since)),
                Notice::Joined(round) => {
                    return Some(match met.joined(context, port, *round) {
                        Ok((ranks, event)) => Heard::Joined(ranks, event),
                        Err(error) => Heard::Failed(error),
                    });
                }
                Notice::Over { round, why } => {
                    context.log(Level::Info, || format!("round {round} is over: {why}"));
                    return Some(Heard::Told(Event::RoundOver));
                }
                Notice::Requested(view) => return Some(Heard::Requested(view)),
                Notice::Ended(ending) => return Some(Heard::Told(met.ended(context, ending))),
                Notice::NotNeeded => {
                    context.log(Level::Info, || "the job has succeeded without this node, a spare".into());
                    return Some(Heard::Told(Event::NotNeeded));
                }
                Notice::Failed(error) => {
                    (met.is_lost, met.unreached) = (true, None);
                    met.end_joining(context, next_round, Err(&error.to_string()));
                    return Some(Heard::Failed(error));
                }
            }
        }
    }

    /// Why the job ended, and with which exit code, if it was for what happened on another host.
    pub fn failed_elsewhere(&self) -> Option<(&str, Exit)> {
        match self.0.as_ref()? {
            Met { was_us: false, ending: Some(Ending::Closed { reason, exit }), .. } => {
                Some((reason.as_str(), *exit))
            }
            _ => None,
        }
    }

    /// Which host was stopped, and by which signal, 0 for none, if it was another one that ended the job so.
    pub fn stopped_elsewhere(&self) -> Option<(&str, i32)> {
        match self.0.as_ref()?.ending.as_ref()? {
            Ending::Stopped { host, signal } => Some((host, *signal)),
            _ => None,
        }
    }

    /// Why the workers have no store though this agent is to serve it.
    pub fn take_store_error(&mut self) -> Option<Error> {
        self.0.as_mut()?.store_error.take()
    }

    /// Where the others are met, in words.
    pub fn place(&self) -> &str {
        self.0.as_ref().map_or("", |met| &met.place)
    }

    /// Since when this host waits for its next round.
    pub fn joining(&self) -> Option<Moment> {
        self.0.as_ref()?.joining
    }

    /// Who has come, or has succeeded, as far as is known.
    pub fn state(&self) -> Option<State> {
        self.0.as_ref()?.member.state()
    }

    /// What reminds of a place that does not answer; none while it does.
    pub fn unreached(&self) -> Option<Reminder> {
        self.0.as_ref()?.unreached
    }

    pub fn set_unreached(&mut self, reminder: Reminder) {
        if let Some(met) = &mut self.0 {
            met.unreached = Some(reminder);
        }
    }

    /// Why the place was not reached by the last try.
    pub fn trouble(&self) -> String {
        let trouble = self.0.as_ref().and_then(|met| met.member.trouble());
        trouble.unwrap_or_else(|| "no answer yet".into())
    }

    /// What workers are told of the round.
    pub fn meeting(&self, context: &Context) -> Option<Meeting> {
        let round = self.0.as_ref()?.round.as_ref()?;
        let first = round.nodes.first()?;
        let backend = &context.settled.rendezvous.as_ref()?.backend;
        let shared = round.shared_port.and(backend.endpoint_of_workers());
        Some(Meeting {
            round: round.number,
            job_restarts: round.restarts,
            agent_serves: first.serves,
            master_addr: shared.map_or(&first.addr, |endpoint| &endpoint.host).clone().into_bytes(),
            master_port: shared.map_or(first.port, |endpoint| endpoint.port),
        })
    }

    /// The run is over here, in this way.
    pub fn leave(&mut self, context: &Context, end: End, message: &str) {
        let Some(Met { member, ending, store, is_lost, .. }) = self.0.take() else { return };
        let rendezvous = context.settled.rendezvous.as_ref();
        let close_timeout = rendezvous.map_or(Duration::ZERO, |place| place.options.close_timeout);
        let within = match end {
            End::Interrupted => close_timeout.min(STOPPED_WITHIN),
            _ => close_timeout,
        };
        // One that did waits for them to have gone; whoever has not asked by then counts as gone.
        let gone_within = rendezvous.map_or(TOLD_WITHIN, |place| place.options.answer_within());
        let (reason, linger) = match end {
            End::Succeeded if ending.is_some() => (String::new(), gone_within),
            End::Succeeded => ("has succeeded".to_string(), Duration::ZERO),
            End::NotNeeded => ("was not needed".to_string(), Duration::ZERO),
            _ => (message.to_string(), TOLD_WITHIN),
        };
        let signal = context.inbox.stop_requested().filter(|_| end == End::Interrupted);
        if matches!(end, End::StartError | End::AgentError) && ending.is_none() && !is_lost {
            member.wish(MemberWish::Unfit { reason: message.to_string() });
        }
        let reminder = Cell::new(Reminder::since(monotonic()));
        let hurried = move || {
            let (now, mut next) = (monotonic(), reminder.get());
            if let Some(waited) = next.look(now) {
                let left = seconds(within.max(linger).saturating_sub(waited));
                context.log(Level::Warning, || {
                    format!(
                        "waiting for {} for the other hosts to hear of the end; left without them in {left}",
                        seconds(waited)
                    )
                });
            }
            reminder.set(next);
            match end {
                End::Succeeded => context.inbox.stop_requested().is_some(),
                _ => context.inbox.in_a_hurry(),
            }
        };
        for notice in member.leave((reason, signal), within, linger, hurried) {
            if let Notice::Log(level, text) = notice {
                context.log(level, || text);
            }
        }
        drop(store);
    }
}

impl Met {
    /// The job has ended for all.
    fn ended(&mut self, context: &Context, mut ending: Ending) -> Event {
        // What came over the network is not believed.
        if let Ending::Stopped { signal, .. } = &mut ending
            && !is_signal(*signal)
        {
            *signal = 0;
        }
        let event = match &ending {
            Ending::Succeeded => {
                context.log(Level::Info, || "all hosts have succeeded".into());
                Event::JobSucceeded
            }
            Ending::Stopped { host, signal } => {
                context.log(Level::Info, || format!("the job is over: {} at {host}", stopped_by(*signal)));
                Event::JobStopped { signal: *signal }
            }
            Ending::Closed { reason, exit } => {
                context.log(Level::Info, || format!("the job is over: {reason}"));
                if exit.code.is_some() { Event::JobFailed } else { Event::JobClosed }
            }
        };
        self.ending = Some(ending);
        event
    }

    /// An event: this host is in a round, or never will be.
    fn end_joining(&mut self, context: &Context, round: u64, joined: Result<(usize, usize), &str>) {
        if let Some(since) = self.joining.take() {
            context.event(|origin| Some(origin.rendezvous(round, monotonic() - since, joined)));
        }
    }

    /// The round has its nodes: who is who is known to all of them.
    fn joined(
        &mut self,
        context: &Context,
        port: &mut MasterPort,
        round: Round,
    ) -> Result<(Vec<Rank>, Event), Error> {
        let sizes: Vec<(&str, usize)> =
            round.nodes.iter().map(|node| (node.role.as_str(), node.local_world_size)).collect();
        // What came over the network is not believed.
        if !fits(&sizes, round.group_rank, context.spec.local_world_size) {
            return Err(Error::Rendezvous { what: "the rendezvous has wrong numbers of workers".into() });
        }
        let ranks = ranks::of_nodes(&sizes, round.group_rank);
        let mut snapshot = context.shared.snapshot.lock();
        snapshot.workers.iter_mut().zip(&ranks).for_each(|(worker, rank)| worker.rank = *rank);
        drop(snapshot);
        let is_first = round.group_rank == 0 && round.shared_port.is_none();
        let serves = round.nodes[0].serves;
        let socket = port.settle(is_first && serves, is_first && !serves);
        let config = Config::beside_workers(context.spec.descriptors());
        let store = socket.map(|socket| Server::start_on(socket, &config)).transpose();
        context.log(Level::Info, || {
            format!(
                "round {}: group rank {} of {} nodes, {} workers in all; the others are {}",
                round.number,
                round.group_rank,
                round.nodes.len(),
                ranks.first().map_or(0, |rank| rank.world_size),
                names(&round),
            )
        });
        self.end_joining(context, round.number, Ok((round.group_rank, round.nodes.len())));
        let joined = Event::Joined {
            round: u32::try_from(round.number).unwrap_or(u32::MAX),
            restarts: round.restarts,
        };
        self.round = Some(round);
        // The others have begun: they are told when this host's workers are not started.
        (self.store, self.store_error) = match store {
            Ok(store) => (store, None),
            Err(error) => (None, Some(error)),
        };
        Ok((ranks, joined))
    }
}

/// Whether these nodes, by their roles and numbers of workers, can be those of a round with this one in it.
fn fits(sizes: &[(&str, usize)], group_rank: usize, local_world_size: usize) -> bool {
    let may_be = |size: usize| (1..=ranks::MAX_LOCAL_WORLD_SIZE as usize).contains(&size);
    sizes.get(group_rank).is_some_and(|(_, size)| *size == local_world_size)
        && sizes.iter().all(|(_, size)| may_be(*size))
}

fn meet(context: &Context, rendezvous: &Rendezvous) -> Result<Member, Error> {
    let run_id = String::from_utf8_lossy(&context.run_id).into_owned();
    let Rendezvous { rules, options, .. } = rendezvous;
    let backend = rendezvous.backend.open(&Opening {
        run_id: &run_id,
        options,
        descriptors: context.spec.descriptors(),
        note: &|text| context.log(Level::Info, || text),
    })?;
    let node = Node {
        id: new_id()?,
        name: format!("{} (PID {})", hostname_text(), std::process::id()),
        addr: String::new(),
        port: 0,
        serves: rendezvous.serves,
        role: String::from_utf8_lossy(&context.spec.role).into_owned(),
        local_world_size: context.spec.local_world_size,
        order: rendezvous.rank,
        seniority: 0,
        from_round: 0,
        restarts: 0,
        has_place: false,
        dead_after_ms: u64::try_from(rules.dead_after.as_millis()).unwrap_or(u64::MAX),
    };
    let settings = Settings {
        rules: rules.clone(),
        options: options.clone(),
        run_id,
        local_addr: rendezvous.local_addr.clone(),
    };
    let inbox = context.inbox.clone();
    Member::start(backend, settings, node, move || inbox.ring())
}

/// Told by no other agent.
fn new_id() -> Result<String, Error> {
    let bytes = random::bytes::<16>();
    let bytes = bytes.map_err(|errno| Error::system("no random bytes", errno as i32))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Some of the other nodes' names.
fn names(round: &Round) -> String {
    const SHOWN: usize = 8;
    let others = round.nodes.iter().enumerate().filter(|(rank, _)| *rank != round.group_rank);
    let mut names: Vec<&str> = others.map(|(_, node)| node.name.as_str()).take(SHOWN + 1).collect();
    if names.len() > SHOWN {
        names[SHOWN] = "...";
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_over_the_network_is_not_believed() {
        assert!(fits(&[("a", 2), ("b", 3)], 1, 3));
        assert!(!fits(&[("a", 2), ("b", 3)], 0, 3), "this node has another number of workers");
        assert!(!fits(&[("a", 2), ("b", 0)], 0, 2));
        assert!(!fits(&[("a", 2), ("b", usize::MAX)], 0, 2));
        assert!(!fits(&[("a", 2)], 1, 2), "this node is not in it");
    }
}
