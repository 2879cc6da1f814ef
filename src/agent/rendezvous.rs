//! The agent's part in a job of several hosts: what the supervisor wants of the others goes to them, what they say
//! becomes events; and the store that the workers of all hosts meet at.

use std::cell::Cell;
use std::time::Duration;

use super::port::{self, Port};
use super::reporter::Reporter;
use super::run::Run;
use crate::error::Error;
use crate::plan::Meeting;
use crate::ranks;
use crate::reminder::{Reminder, seconds};
use crate::rendezvous::backends::Opening;
use crate::rendezvous::config::Rendezvous;
use crate::rendezvous::member::{Member, Notice, Round, Settings, Wish};
use crate::rendezvous::state::{Ending, Node};
use crate::report::exit_status::Exit;
use crate::report::{End, root_cause, summary};
use crate::spec::Level;
use crate::spec::names::hostname_text;
use crate::store::server::{Config, Server};
use crate::supervise::Event;
use crate::sys::process::monotonic;
use crate::sys::random;

/// How long an agent that serves the rendezvous and did not succeed waits for the others to have heard why.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// How long the last words of an agent that was asked to stop may take, at most.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// The others, and what was agreed with them.
pub struct Others {
    pub(super) member: Member,
    /// Where they are met, in words.
    pub(super) place: String,
    /// Since when that does not answer; none while it does.
    pub(super) unreached: Option<Reminder>,
    /// The last one that this host takes, or took, part in.
    pub round: Option<Round>,
    /// Where its workers meet, if this agent serves that.
    store: Option<Server>,
    /// Why it does not, though it is to.
    pub store_error: Option<Error>,
    /// How all of them ended.
    ending: Option<Ending>,
    /// It was this host's failure that ended the job.
    was_us: bool,
    /// Nobody hears what this host says.
    is_lost: bool,
    /// Since when it is in no round, and waits for the next.
    pub(super) joining: Option<Duration>,
}

impl Run<'_> {
    /// Where this run meets others, if it does.
    pub(super) fn rendezvous(&self) -> Option<&Rendezvous> {
        self.settled.rendezvous.as_ref()
    }

    /// No worker is left here: the next round may begin.
    pub(super) fn join(&mut self) {
        match self.try_to_join() {
            Ok(()) => {}
            Err(error) if self.others.is_none() => self.agent_failed(error),
            Err(error) => {
                let text = error.to_string();
                self.start_failed(error);
                if self.supervisor.goes_on() {
                    self.error = None;
                    self.log(Level::Warning, || format!("{text}: joining later"));
                }
            }
        }
    }

    fn try_to_join(&mut self) -> Result<(), Error> {
        if let Some(others) = &mut self.others {
            others.store = None;
        } else if let Some(rendezvous) = self.rendezvous() {
            let member = self.meet(rendezvous)?;
            self.others = Some(Others {
                member,
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
        self.port = None;
        let port = self.port.insert(port::reserve(0, None)?).number();
        if let Some(others) = &mut self.others {
            others.joining = Some(monotonic());
            others.member.wish(Wish::Join { port });
        }
        self.log(Level::Info, || {
            let place = self.others.as_ref().map_or("", |others| &others.place);
            format!("joining the rendezvous of run id {} at {place}", String::from_utf8_lossy(&self.run_id))
        });
        Ok(())
    }

    fn meet(&self, rendezvous: &Rendezvous) -> Result<Member, Error> {
        let run_id = String::from_utf8_lossy(&self.run_id).into_owned();
        let Rendezvous { rules, options, .. } = rendezvous;
        let backend = rendezvous.backend.open(&Opening {
            run_id: &run_id,
            options,
            descriptors: self.spec.descriptors(),
            note: &|text| self.log(Level::Info, || text),
        })?;
        let node = Node {
            id: new_id()?,
            name: format!("{} (PID {})", hostname_text(), std::process::id()),
            addr: String::new(),
            port: 0,
            serves: rendezvous.serves,
            role: String::from_utf8_lossy(&self.spec.role).into_owned(),
            local_world_size: self.spec.local_world_size,
            order: rendezvous.rank,
            seniority: 0,
        };
        let settings = Settings {
            rules: rules.clone(),
            options: options.clone(),
            run_id,
            local_addr: rendezvous.local_addr.clone(),
        };
        let inbox = self.inbox.clone();
        Member::start(backend, settings, node, move || inbox.ring())
    }

    /// A worker failed here: the workers of all hosts are to be stopped.
    pub(super) fn announce(&mut self, last: bool) {
        let Some(attempt) = &self.attempt else { return };
        let reporter = Reporter { spec: self.spec, oom: None, server_end: self.server_end.as_deref() };
        let over = attempt.workers.iter().filter(|worker| worker.ended.is_some() || worker.verdict.is_some());
        let reports: Vec<_> = over.map(|worker| reporter.report(worker, attempt.number, false)).collect();
        let root = root_cause(&reports).map(|root| &reports[root]);
        let failed = || self.error.as_ref().map_or_else(|| "a worker failed".into(), Error::to_string);
        let reason = root.map_or_else(failed, summary::line);
        let exit = root.map_or_else(Exit::default, Exit::from);
        if let Some(others) = &mut self.others {
            others.was_us |= last;
        }
        self.tell_others(Wish::Failed { reason, exit, last });
    }

    /// All workers have succeeded here.
    pub(super) fn arrive(&mut self) {
        self.log(Level::Info, || "all workers have succeeded here: waiting for the other hosts".into());
        self.tell_others(Wish::Done);
    }

    fn tell_others(&self, wish: Wish) {
        if let Some(others) = &self.others {
            others.member.wish(wish);
        }
    }

    /// What was heard from the others.
    pub(super) fn hear_others(&mut self) {
        while let Some(notice) = self.others.as_ref().and_then(|others| others.member.notice()) {
            match notice {
                Notice::Log(level, text) => self.log(level, || text),
                Notice::Reached => self.is_reached(),
                Notice::Unreached { since } => {
                    if let Some(others) = &mut self.others {
                        others.unreached = Some(Reminder::since(since));
                    }
                }
                Notice::Joined(round) => {
                    if let Err(error) = self.joined(*round) {
                        self.agent_failed(error);
                    }
                }
                Notice::Over { round, why } => {
                    self.log(Level::Info, || format!("round {round} is over: {why}"));
                    self.tell(Event::RoundOver);
                }
                Notice::Ended(ending) => self.job_ended(ending),
                Notice::NotNeeded => {
                    self.log(Level::Info, || "the job has succeeded without this node, a spare".into());
                    self.tell(Event::NotNeeded);
                }
                Notice::Failed(error) => {
                    if let Some(others) = &mut self.others {
                        (others.is_lost, others.unreached) = (true, None);
                    }
                    self.rendezvous_ended(self.supervisor.next_round(), Err(&error.to_string()));
                    self.agent_failed(error);
                }
            }
        }
    }

    /// Why the job ended, and with which exit code, if it was for what happened on another host.
    pub(super) fn failed_elsewhere(&self) -> Option<(String, Exit)> {
        match self.others.as_ref()? {
            Others { was_us: false, ending: Some(Ending::Closed { reason, exit }), .. } => {
                Some((reason.clone(), *exit))
            }
            _ => None,
        }
    }

    fn job_ended(&mut self, ending: Ending) {
        let Some(others) = &mut self.others else { return };
        others.ending = Some(ending.clone());
        match ending {
            Ending::Succeeded => {
                self.log(Level::Info, || "all hosts have succeeded".into());
                self.tell(Event::JobSucceeded);
            }
            Ending::Closed { reason, exit } => {
                self.log(Level::Info, || format!("the job is over: {reason}"));
                self.tell(if exit.code.is_some() { Event::JobFailed } else { Event::JobClosed });
            }
        }
    }

    /// An event: this host is in a round, or never will be.
    fn rendezvous_ended(&mut self, round: u64, joined: Result<(usize, usize), &str>) {
        let since = self.others.as_mut().and_then(|others| others.joining.take());
        if let Some(since) = since {
            self.event(|origin| Some(origin.rendezvous(round, monotonic() - since, joined)));
        }
    }

    fn agent_failed(&mut self, error: Error) {
        self.log(Level::Error, || error.to_string());
        self.error.get_or_insert(error);
        self.tell(Event::AgentFailed);
    }

    /// The round has its nodes: who is who is known to all of them.
    fn joined(&mut self, round: Round) -> Result<(), Error> {
        let sizes: Vec<(&str, usize)> =
            round.nodes.iter().map(|node| (node.role.as_str(), node.local_world_size)).collect();
        let fits = |size: usize| (1..=ranks::MAX_LOCAL_WORLD_SIZE as usize).contains(&size);
        // What came over the network is not believed.
        if sizes[round.group_rank].1 != self.spec.local_world_size
            || !sizes.iter().all(|(_, size)| fits(*size))
        {
            return Err(Error::Rendezvous { what: "the rendezvous has wrong numbers of workers".into() });
        }
        self.ranks = ranks::of_nodes(&sizes, round.group_rank);
        let workers = &mut self.shared.snapshot.lock().workers;
        workers.iter_mut().zip(&self.ranks).for_each(|(worker, rank)| worker.rank = *rank);
        let first = &round.nodes[0];
        let is_first = round.group_rank == 0;
        let keeps_port = is_first && !first.serves && round.shared_port.is_none();
        let store = match self.port.take() {
            Some(Port::Kept(socket, _)) if is_first && first.serves && round.shared_port.is_none() => {
                Server::start_on(socket, &Config::beside_workers(self.spec.descriptors())).map(Some)
            }
            port => {
                self.port = port.filter(|_| keeps_port);
                Ok(None)
            }
        };
        self.log(Level::Info, || {
            format!(
                "round {}: group rank {} of {} nodes, {} workers in all; the others are {}",
                round.number,
                round.group_rank,
                round.nodes.len(),
                self.ranks.first().map_or(0, |rank| rank.world_size),
                names(&round),
            )
        });
        self.rendezvous_ended(round.number, Ok((round.group_rank, round.nodes.len())));
        let joined = Event::Joined {
            round: u32::try_from(round.number).unwrap_or(u32::MAX),
            restarts: round.restarts,
        };
        if let Some(others) = &mut self.others {
            others.round = Some(round);
            // The others have begun: they are told when this host's workers are not started.
            (others.store, others.store_error) = match store {
                Ok(store) => (store, None),
                Err(error) => (None, Some(error)),
            };
        }
        self.tell(joined);
        Ok(())
    }

    /// What workers are told of the round.
    pub(super) fn meeting(&self) -> Option<Meeting> {
        let round = self.others.as_ref()?.round.as_ref()?;
        let first = round.nodes.first()?;
        let shared = round.shared_port.and(self.rendezvous()?.backend.endpoint_of_workers());
        Some(Meeting {
            round: round.number,
            job_restarts: round.restarts,
            agent_serves: first.serves,
            master_addr: shared.map_or(&first.addr, |endpoint| &endpoint.host).clone().into_bytes(),
            master_port: shared.map_or(first.port, |endpoint| endpoint.port),
        })
    }

    /// The run is over here, in this way.
    pub(super) fn leave_others(&mut self, end: End, message: &str) {
        let Some(Others { member, ending, store, is_lost, .. }) = self.others.take() else { return };
        let close_timeout = self.rendezvous().map_or(Duration::ZERO, |place| place.options.close_timeout);
        let within = match end {
            End::Interrupted => close_timeout.min(STOPPED_WITHIN),
            _ => close_timeout,
        };
        // One that did waits for them to have gone; whoever has not asked by then counts as gone.
        let gone_within = self.rendezvous().map_or(TOLD_WITHIN, |place| place.options.answer_within());
        let (reason, linger) = match end {
            End::Succeeded if ending.is_some() => (String::new(), gone_within),
            End::Succeeded => ("has succeeded".to_string(), Duration::ZERO),
            End::NotNeeded => ("was not needed".to_string(), Duration::ZERO),
            _ => (message.to_string(), TOLD_WITHIN),
        };
        if matches!(end, End::StartError | End::AgentError) && ending.is_none() && !is_lost {
            member.wish(Wish::Close { reason: message.to_string() });
        }
        let (run, reminder) = (&*self, Cell::new(Reminder::since(monotonic())));
        let hurried = move || {
            let (now, mut next) = (monotonic(), reminder.get());
            if let Some(waited) = next.look(now) {
                let left = seconds(within.max(linger).saturating_sub(waited));
                run.log(Level::Warning, || {
                    format!(
                        "the other hosts have not heard of the end for {}; left in {left}",
                        seconds(waited)
                    )
                });
            }
            reminder.set(next);
            match end {
                End::Succeeded => run.inbox.stop_requested().is_some(),
                _ => run.inbox.in_a_hurry(),
            }
        };
        for notice in member.leave(reason, within, linger, hurried) {
            if let Notice::Log(level, text) = notice {
                self.log(level, || text);
            }
        }
        drop(store);
    }
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
