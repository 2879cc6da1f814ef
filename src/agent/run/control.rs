//! The agent's end of control: what the host and a stop ask the workers for, what workers ask for, what they let expire.
//! All in the one loop, which a call of a worker or a deadline wakes.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::control_channel::{Ask, ControlChannel, Standing};
use super::expiry::{Expiry, Overdue, Scene, learn};
use super::group::Group;
use super::job_requests::{JobRequests, Todo, Waiter};
use crate::control::listener::Listener;
use crate::control::page::Page;
use crate::control::pending::{HostWish, Ticket};
use crate::control::request::{Answer, Answers, Debugged, Reason, RequestKind, Saved};
use crate::control::section::LearntLimits;
use crate::control::watch::earlier;
use crate::error::Error;
use crate::logs::bar::Group as ShownGroup;
use crate::moment::Moment;
use crate::rendezvous::request::{RankAnswer, View, Word};
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
    /// Of a job of several hosts, whose workers are all asked at once.
    job: JobRequests,
    /// The other hosts hear this one.
    is_in_round: bool,
    /// Who said that they end by themselves, for a stop that waits for that.
    ending: Vec<usize>,
    /// The last checkpoint of all.
    saved: Option<Saved>,
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
        self.answer_others(group, true);
        self.ending.clear();
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
        let asked = earlier(asked, self.job.deadline());
        // What waits for a request that stands has no turn yet; who asked for it waits no longer than he wants to.
        let stands = self.open.as_ref().is_some_and(|open| open.channel.stands());
        let first = || context.shared.pending.first().filter(|_| !stands).map(|ticket| ticket.deadline);
        let request = asked.or_else(first);
        let look = self.open.as_ref().filter(|_| is_running).and_then(|open| open.expiry.deadline());
        earlier(request, look)
    }

    // ---- what the host asks for

    fn settle(&mut self, context: &Context, group: &Group, give_up: bool) -> Standing {
        let Some(open) = &mut self.open else { return Standing::Free };
        let standing = open.channel.settle(context, group, give_up);
        self.saved = open.channel.take_saved().or(self.saved);
        standing
    }

    /// The last checkpoint that all ranks of the job have saved.
    pub fn saved(&self) -> Option<Saved> {
        self.saved
    }

    /// Takes answers, and then what the host asks for next. `is_undisturbed`: workers run, and none was signalled.
    pub fn attend(
        &mut self,
        context: &Context,
        group: &Group,
        is_running: bool,
        is_undisturbed: bool,
    ) -> Vec<Event> {
        let standing = self.settle(context, group, false);
        let can_hold = is_undisturbed && standing != Standing::UnderWay;
        let mut events = self.attend_job(context, group, can_hold);
        match standing {
            _ if self.job.is_asking() => return events,
            Standing::UnderWay if context.settled.rendezvous.is_none() => return events,
            Standing::BeforeStop => events.push(Event::Answered),
            Standing::UnderWay | Standing::Free => {}
        }
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
            HostWish::Resume => {
                if context.settled.rendezvous.is_some() {
                    self.job.resume();
                } else if let Some(open) = &mut self.open {
                    open.channel.resume();
                }
                pending.settle(ticket, Answers::none(0));
                Taken::Done
            }
            HostWish::Request(_) if ticket.deadline <= monotonic() => {
                pending.settle(ticket, Answers::none(world_size(group)));
                Taken::Done
            }
            HostWish::Request(_) if !is_running || self.open.is_none() => Taken::Waits,
            HostWish::Request(RequestKind::Stop) => {
                // The supervisor has it asked.
                self.gentle_stop = Some(ticket);
                Taken::Stop(Event::StopGently { until: ticket.deadline })
            }
            HostWish::Request(kind) => {
                let (deadline, ticket) = (ticket.deadline, Some(ticket));
                let reason = Reason::Host;
                self.ask(context, group, Ask { kind, reason, deadline, ticket, before_stop: false }, None);
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
        (kind, reason, deadline): (RequestKind, Reason, Moment),
        is_answered: bool,
    ) -> Option<Event> {
        let is_job = context.settled.rendezvous.is_some();
        // A request of the host's that is under way gives way. One that the other hosts take part in does not.
        let settled = if is_job { Standing::Free } else { self.settle(context, group, true) };
        let ticket = self.gentle_stop.take();
        let is_alone = is_job && !self.is_in_round;
        if settled == Standing::BeforeStop || self.open.is_none() || is_answered || is_alone {
            return Some(Event::Answered);
        }
        if let (RequestKind::Stop, Some(attempt)) = (kind, group.attempt_mut()) {
            attempt.expect_ends();
        }
        // The others are to know before this host's workers are gone.
        let leaves = (kind == RequestKind::Save && reason == Reason::Preemption)
            .then(|| context.inbox.stop_requested().unwrap_or(0));
        self.ask(context, group, Ask { kind, reason, deadline, ticket, before_stop: true }, leaves);
        None
    }

    /// Has the workers save a checkpoint, for a signal.
    pub fn ask_to_save(&mut self, context: &Context, group: &Group, deadline: Moment) {
        let (kind, reason) = (RequestKind::Save, Reason::Host);
        self.ask(context, group, Ask { kind, reason, deadline, ticket: None, before_stop: false }, None);
    }

    /// `leaves`: the signal by which this host is stopped then, if it is.
    fn ask(&mut self, context: &Context, group: &Group, ask: Ask, leaves: Option<i32>) {
        let (Some(open), Some(_)) = (&mut self.open, group.attempt()) else { return };
        if context.settled.rendezvous.is_none() {
            return open.channel.ask(context, group, ask);
        }
        let Ask { kind, reason, deadline: until, ticket, before_stop } = ask;
        let now = monotonic();
        let begin = ticket.map_or(now, |ticket| ticket.begin);
        let waiter = Waiter { kind, begin, until, ticket, before_stop };
        // A stop of another host's is one and the same.
        let is_asked = kind == RequestKind::Stop && ticket.is_none() && self.job.wait_for_others(waiter);
        if !is_asked {
            self.job.ask(waiter, reason, leaves, now);
        }
    }

    /// Whether workers are asked for something.
    pub fn is_asking(&self) -> bool {
        let asks = self.open.as_ref().is_some_and(|open| open.channel.asked_for().is_some());
        asks || self.job.is_asking()
    }

    // ---- what the workers of all hosts are asked for

    /// What is to be told to the other hosts.
    pub fn take_words(&mut self) -> Vec<Word> {
        self.job.take_words()
    }

    pub fn enter_round(&mut self) {
        self.is_in_round = true;
    }

    /// The hosts know something new of requests.
    pub fn hear_job(&mut self, context: &Context, group: &Group, view: View) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(seen) = view.request.as_ref().filter(|seen| seen.kind == RequestKind::Save) {
            self.saved = Saved::of(&seen.answers).or(self.saved);
        }
        for todo in self.job.hear(view, monotonic()) {
            match todo {
                Todo::StopGently { until } => events.push(Event::StopGently { until }),
                Todo::Tell { waiter, answers } => events.extend(self.answer(context, group, waiter, answers)),
                Todo::Resume | Todo::Act { .. } | Todo::LetGo => self.have_workers(context, todo),
            }
        }
        if !context.spec.has_control() {
            self.job.answered_by_nobody(vec![(Answer::None, None); group.ranks().len()]);
        }
        events
    }

    /// The round is over, or the others are lost.
    pub fn leave_round(&mut self, context: &Context, group: &Group) -> Vec<Event> {
        self.is_in_round = false;
        let answers = self.answers_so_far(group);
        let (waiters, todo) = self.job.forget();
        todo.into_iter().for_each(|todo| self.have_workers(context, todo));
        let answer = |waiter| self.answer(context, group, waiter, answers.clone());
        waiters.into_iter().filter_map(answer).collect()
    }

    /// The workers here are about to be stopped: none is to be kept from hearing it, nor go on as long as those of other
    /// hosts may act.
    pub fn refuse(&mut self, group: &Group) {
        self.job.refuse(group.ranks().len());
    }

    fn have_workers(&mut self, context: &Context, todo: Todo) {
        let Some(Open { channel, .. }) = &mut self.open else { return };
        match todo {
            Todo::Resume => channel.resume(),
            Todo::Act { at_step } => channel.act(context, at_step),
            Todo::LetGo => channel.let_go(),
            Todo::StopGently { .. } | Todo::Tell { .. } => {}
        }
    }

    /// Has the workers here held if that is due, tells the others what they answered, and who waits here that there is
    /// nothing more to wait for.
    fn attend_job(&mut self, context: &Context, group: &Group, can_hold: bool) -> Vec<Event> {
        self.answer_others(group, false);
        match (&mut self.open, self.job.due()) {
            (Some(open), Some(_)) if !open.channel.can_hold() => {
                self.job.answered_by_nobody(vec![(Answer::None, None); group.ranks().len()]);
            }
            (Some(open), Some((seen, until))) if can_hold => {
                let step = open.channel.hold(group, seen, until);
                self.job.held(step);
            }
            _ => {}
        }
        let late = self.job.late(monotonic());
        let answers = if late.is_empty() { Vec::new() } else { self.answers_so_far(group) };
        let answer = |waiter| self.answer(context, group, waiter, answers.clone());
        let mut events: Vec<Event> = late.into_iter().filter_map(answer).collect();
        if !self.ending.is_empty() && !self.ending.iter().any(|&rank| group.lives(rank)) {
            self.ending.clear();
            events.push(Event::Answered);
        }
        events
    }

    /// `is_over`: there are no workers any more.
    fn answer_others(&mut self, group: &Group, is_over: bool) {
        if let Some((number, ranks)) = self.open.as_mut().and_then(|open| open.channel.take_answers()) {
            self.job.answered(number, ranks);
        }
        if is_over {
            self.job.answered_by_nobody(vec![(Answer::Gone, None); group.ranks().len()]);
        }
    }

    /// What is known here, of all ranks of the job by their global rank.
    fn answers_so_far(&self, group: &Group) -> Vec<RankAnswer> {
        let mut answers = vec![(Answer::None, None); world_size(group)];
        let so_far = self.open.as_ref().and_then(|open| open.channel.answers_so_far(group));
        let here = so_far.unwrap_or_else(|| self.job.said().to_vec());
        for (rank, answer) in group.ranks().iter().zip(here) {
            answers[rank.global] = answer;
        }
        answers
    }

    /// Who has waited for answers has them.
    fn answer(
        &mut self,
        context: &Context,
        group: &Group,
        waiter: Waiter,
        answers: Vec<RankAnswer>,
    ) -> Option<Event> {
        let Waiter { kind, begin, ticket, before_stop, .. } = waiter;
        if kind == RequestKind::Stop && before_stop {
            // Those that said they would end are given the time.
            let says_so = |rank: usize| answers.get(group.ranks()[rank].global).map(|answer| answer.0);
            self.ending = (0..group.ranks().len())
                .filter(|&rank| says_so(rank) == Some(Answer::Succeeded) && group.lives(rank))
                .collect();
        }
        let took = monotonic().saturating_sub(begin);
        if let Some(ticket) = ticket {
            context.shared.pending.settle(ticket, Answers { ranks: answers, took });
        }
        (before_stop && self.ending.is_empty()).then_some(Event::Answered)
    }

    /// Whether the workers are asked to save, and go on.
    pub fn is_saving(&self) -> bool {
        let asks = self.open.as_ref().is_some_and(|open| open.channel.asked_for() == Some(RequestKind::Save));
        asks || self.job.is_saving()
    }

    /// The global ranks of those whose answer is waited for.
    pub fn owing(&self, group: &Group) -> Vec<usize> {
        let owing = self.open.iter().flat_map(|open| open.channel.owing(group));
        owing.map(|rank| group.ranks()[rank].global).collect()
    }

    /// A worker has ended: one who waits for its answer need not any more. Whether anybody does.
    pub fn miss_answer(&self) -> bool {
        let is_missed = self.open.as_ref().is_some_and(|open| open.channel.miss_answer());
        is_missed || !self.ending.is_empty()
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

fn world_size(group: &Group) -> usize {
    group.ranks().first().map_or(0, |rank| rank.world_size)
}
