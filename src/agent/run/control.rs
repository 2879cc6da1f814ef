//! The agent's end of control: what the host and a stop ask the workers for, what workers ask for, what they let expire.
//! All in the one loop, which a call of a worker or a deadline wakes.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::control_channel::{Ask, ControlChannel, Standing};
use super::expiry::{Expiry, Overdue, Scene, learn};
use super::group::Group;
use crate::control::listener::Listener;
use crate::control::page::Page;
use crate::control::pending::{Ticket, Wish};
use crate::control::request::{Answers, Debugged, Kind, Reason};
use crate::control::section::LearntLimits;
use crate::control::watch::earlier;
use crate::error::Error;
use crate::logs::bar::Group as ShownGroup;
use crate::moment::Moment;
use crate::spec::Level;
use crate::standstill::Standstill;
use crate::supervise::Event;
use crate::sys::process::monotonic;

/// Where the spec wants no control of workers nothing of it is ever there.
#[derive(Default)]
pub struct Control {
    /// Of the attempt.
    open: Option<Open>,
    /// What the sections of attempts before this one tell of the next ones.
    learnt_limits: LearntLimits,
    /// That a worker asked for a restart, in words.
    restart_wish: Option<String>,
    /// Who asked for the stop at which workers end by themselves.
    gentle_stop: Option<Ticket>,
}

struct Open {
    channel: ControlChannel,
    expiry: Expiry,
    /// Ends with this.
    listener: Option<Listener>,
}

/// What has become of what the host asked for.
enum Taken {
    Done,
    /// It has to wait, for the group to run or for its answers.
    Waits,
    /// So has the stop that it is.
    Stop(Event),
}

impl Control {
    /// For a new attempt.
    pub fn open(&mut self, context: &Context, group: &Group, job_restarts: u32) -> Result<(), Error> {
        if !context.spec.has_control() {
            return Ok(());
        }
        let ranks = group.ranks();
        let channel = ControlChannel::new(ranks.len())?;
        let page = channel.page().clone();
        if context.spec.sections.are_wanted() {
            page.watch_sections(context.spec.sections.shortest(&self.learnt_limits));
        }
        *context.shared.page.lock() = Some(page.clone());
        self.open = Some(Open { channel, expiry: Expiry::new(ranks.len()), listener: None });
        context.output.begin_bar(|| {
            let ranks = ranks.iter().map(|rank| rank.global).collect();
            ShownGroup { page, ranks, restarts: job_restarts }
        });
        Ok(())
    }

    /// All workers are there: hears what they had to say up to now, and from now on.
    pub fn listen(&mut self, context: &Context) {
        let Some(open) = &mut self.open else { return };
        match Listener::start(open.channel.page(), context.inbox) {
            Ok(listener) => open.listener = Some(listener),
            Err(error) => context.log(Level::Warning, || {
                format!("no thread to hear the workers ({error}): their answers and timers are seen late")
            }),
        }
    }

    /// The attempt is over: who waits for answers gets those that came.
    pub fn close(&mut self, context: &Context, group: &Group) -> Option<Event> {
        let settled = self.settle(context, group, true);
        if let (Some(open), Some(_)) = (self.open.take(), context.spec.sections.learning) {
            learn(&mut self.learnt_limits, open.channel.page());
        }
        (settled == Standing::BeforeStop).then_some(Event::Answered)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What agent and workers of the attempt share.
    pub fn page(&self) -> Option<&Arc<Page>> {
        self.open.as_ref().map(|open| open.channel.page())
    }

    /// When there is something to do, whatever else happens.
    pub fn deadline(&self, context: &Context, is_running: bool) -> Option<Moment> {
        let asked = self.open.as_ref().and_then(|open| open.channel.deadline());
        let request = asked.or_else(|| context.shared.pending.first().map(|ticket| ticket.deadline));
        let look = self.open.as_ref().filter(|_| is_running).and_then(|open| open.expiry.deadline());
        earlier(request, look)
    }

    // ---- what the host asks for

    fn settle(&mut self, context: &Context, group: &Group, give_up: bool) -> Standing {
        let open = self.open.as_mut();
        open.map_or(Standing::Free, |open| open.channel.settle(context, group, give_up))
    }

    /// Takes answers, and then what the host asks for next.
    pub fn attend(&mut self, context: &Context, group: &Group, is_running: bool) -> Vec<Event> {
        let mut events = match self.settle(context, group, false) {
            Standing::UnderWay => return Vec::new(),
            Standing::BeforeStop => vec![Event::Answered],
            Standing::Free => Vec::new(),
        };
        while let Some(ticket) = context.shared.pending.first() {
            match self.take(context, group, is_running, ticket) {
                Taken::Done => {}
                Taken::Waits => break,
                Taken::Stop(event) => {
                    events.push(event);
                    break;
                }
            }
        }
        events
    }

    fn take(&mut self, context: &Context, group: &Group, is_running: bool, ticket: Ticket) -> Taken {
        let pending = &context.shared.pending;
        match ticket.wish {
            Wish::Resume => {
                if let Some(open) = &mut self.open {
                    open.channel.resume();
                }
                pending.settle(ticket, Answers::none(0));
                Taken::Done
            }
            Wish::Request(_) if ticket.deadline <= monotonic() => {
                pending.settle(ticket, Answers::none(group.ranks().len()));
                Taken::Done
            }
            Wish::Request(_) if !is_running || self.open.is_none() => Taken::Waits,
            Wish::Request(Kind::Stop) => {
                // The supervisor has it asked.
                self.gentle_stop = Some(ticket);
                Taken::Stop(Event::StopGently { until: ticket.deadline })
            }
            Wish::Request(kind) => {
                let (deadline, ticket) = (ticket.deadline, Some(ticket));
                let reason = Reason::Host;
                self.ask(context, group, Ask { kind, reason, deadline, ticket, before_stop: false });
                Taken::Waits
            }
        }
    }

    /// Before a stop. `is_answered`: whoever was asked has answered already, or did not want to. None if there are answers
    /// to wait for.
    pub fn ask_before_stop(
        &mut self,
        context: &Context,
        group: &mut Group,
        (kind, reason, deadline): (Kind, Reason, Moment),
        is_answered: bool,
    ) -> Option<Event> {
        // A request of the host's that is under way gives way.
        let settled = self.settle(context, group, true);
        let ticket = self.gentle_stop.take();
        if settled == Standing::BeforeStop || self.open.is_none() || is_answered {
            return Some(Event::Answered);
        }
        if let (Kind::Stop, Some(attempt)) = (kind, group.attempt_mut()) {
            attempt.expect_ends();
        }
        self.ask(context, group, Ask { kind, reason, deadline, ticket, before_stop: true });
        None
    }

    /// Has the workers save a checkpoint, for a signal.
    pub fn ask_to_save(&mut self, context: &Context, group: &Group, deadline: Moment) {
        let (kind, reason) = (Kind::Save, Reason::Host);
        self.ask(context, group, Ask { kind, reason, deadline, ticket: None, before_stop: false });
    }

    fn ask(&mut self, context: &Context, group: &Group, ask: Ask) {
        if let (Some(open), Some(_)) = (&mut self.open, group.attempt()) {
            open.channel.ask(context, group, ask);
        }
    }

    /// Whether workers are asked for something.
    pub fn is_asking(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.channel.asked_for().is_some())
    }

    /// Whether the workers are asked to save, and go on.
    pub fn is_saving(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.channel.asked_for() == Some(Kind::Save))
    }

    /// The global ranks of those whose answer is waited for.
    pub fn owing(&self, group: &Group) -> Vec<usize> {
        let owing = self.open.iter().flat_map(|open| open.channel.owing(group));
        owing.map(|rank| group.ranks()[rank].global).collect()
    }

    /// A worker has ended: one who waits for its answer need not any more. Whether anybody does.
    pub fn miss_answer(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.channel.miss_answer())
    }

    // ---- what workers ask for, and say

    /// Whether a worker asks for a restart of the group, by now.
    pub fn hear_restart(&mut self, context: &Context, group: &Group, is_running: bool) -> Option<Event> {
        let rank = self.page().filter(|_| is_running)?.restart_wanted()?;
        let text = format!("rank {} asked for a restart of the group", group.ranks()[rank].global);
        context.log(Level::Warning, || text.clone());
        self.restart_wish = Some(text);
        Some(Event::RestartWanted)
    }

    /// That a worker asked for a restart in this attempt, in words.
    pub fn restart_wish(&self) -> Option<&str> {
        self.restart_wish.as_deref()
    }

    pub fn forget_restart_wish(&mut self) {
        self.restart_wish = None;
    }

    /// How far the job has come in this attempt: the greatest step of all ranks, else what the furthest has
    /// done. None if nobody says.
    pub fn reached(&self) -> Option<u64> {
        let page = self.page()?;
        let said = || (0..page.ranks()).map(|rank| page.said(rank));
        let done = || said().filter(|said| said.progress.1 > 0).map(|said| said.progress.0).max();
        said().filter_map(|said| said.step).max().or_else(done)
    }

    pub fn begin_debugging(&mut self, group: &Group, debugged: Debugged) {
        if let Some(open) = &mut self.open {
            open.channel.begin_debugging(debugged, |rank| group.lives(rank));
        }
    }

    pub fn end_debugging(&mut self) {
        if let Some(open) = &mut self.open {
            open.channel.end_debugging();
        }
    }

    // ---- what expires

    pub fn worker_born(&mut self, rank: usize) {
        if let Some(open) = &mut self.open {
            open.expiry.worker_born(rank, monotonic());
        }
    }

    /// Whether it is to be looked what has expired: a worker calls for that, or it is time.
    pub fn takes_look(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let is_time = open.expiry.deadline().is_some_and(|look| look <= monotonic());
            open.channel.page().take_look() || is_time
        })
    }

    /// Time stands still for all workers.
    pub fn stand_still(&mut self) {
        if let Some(Open { channel, expiry, .. }) = &mut self.open {
            expiry.stand_still(channel.page());
        }
    }

    /// What has expired of workers but these, who are to be ended anyway.
    pub fn look_for_expired(
        &mut self,
        context: &Context,
        group: &Group,
        standstill: &Standstill,
        excepted: Vec<usize>,
        now: Moment,
    ) -> Vec<Overdue> {
        let Some(Open { channel, expiry, .. }) = &mut self.open else { return Vec::new() };
        let (spec, page, learnt_limits) = (context.spec, channel.page(), &self.learnt_limits);
        let lives = &|rank: usize| group.lives(rank);
        expiry.look(&Scene { spec, lives, page, learnt_limits, standstill, now }, excepted)
    }

    /// Time that has passed up to now does not count.
    pub fn begin_anew(&mut self, now: Moment) {
        if let Some(open) = &mut self.open {
            open.expiry.begin_anew(now);
        }
    }

    /// So much of the time up to now counts for nobody.
    pub fn give_back(&mut self, lost: Duration) {
        if let Some(open) = &mut self.open {
            open.channel.give_back(lost);
        }
    }
}
