//! What agent and workers of one attempt say to each other on their page: requests of the host and before a stop, one
//! after the other, pauses, and who is at a debugger.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::group::Group;
use crate::control::page::Page;
use crate::control::pending::Ticket;
use crate::control::request::{
    Answer, Answers, Debugged, Reason, Request, RequestKind, Saved, View, common_step,
};
use crate::error::Error;
use crate::moment::Moment;
use crate::rendezvous::request::{RankAnswer, Seen};
use crate::spec::Level;
use crate::sys::process::monotonic;

pub struct ControlChannel {
    page: Arc<Page>,
    sequence: i32,
    next_id: u64,
    view: View,
    asked: Option<Asked>,
    /// The number of a request of the job that is over for the ranks, and what they said to it.
    answers: Option<(u64, Vec<RankAnswer>)>,
    /// The last checkpoint of all ranks that was not asked for by the job.
    saved: Option<Saved>,
    /// The pause of the others while a rank is at its debugger, 0 for none.
    debug_pause: u64,
}

/// A request that has not got all its answers.
#[derive(Clone, Copy)]
struct Asked {
    request: Request,
    begin: Moment,
    /// Who waits for them, if it is a thread of the host.
    ticket: Option<Ticket>,
    /// A stop waits for them too.
    before_stop: bool,
    /// Its number, if it is one of the job: the other hosts wait for the answers.
    of_job: Option<u64>,
    /// Who waited for the answers has them.
    told: bool,
    /// Its time is over, and it stands all the same.
    stands: bool,
    /// Nobody before this rank owes an answer.
    owes: usize,
}

impl Asked {
    /// Nobody waits for the answers yet.
    fn new(request: Request, begin: Moment) -> Asked {
        Asked {
            request,
            begin,
            ticket: None,
            before_stop: false,
            of_job: None,
            told: false,
            stands: false,
            owes: 0,
        }
    }
}

/// What workers are to be asked for.
#[derive(Clone, Copy)]
pub struct Ask {
    pub kind: RequestKind,
    pub reason: Reason,
    pub deadline: Moment,
    /// Who waits for the answers, if it is a thread of the host.
    pub ticket: Option<Ticket>,
    /// A stop waits for them too.
    pub before_stop: bool,
}

/// What has become of the request that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none.
    Free,
    /// An answer may still come.
    UnderWay,
    /// It is over now, and a stop waited for it.
    BeforeStop,
}

impl ControlChannel {
    pub fn new(ranks: usize) -> Result<ControlChannel, Error> {
        let page = Page::new(ranks)
            .map_err(|errno| Error::system("cannot make memory for the control of workers", errno as i32))?;
        Ok(ControlChannel {
            page: Arc::new(page),
            sequence: 0,
            next_id: 1,
            view: View { request: None, paused_by: 0, debugged: None },
            asked: None,
            answers: None,
            saved: None,
            debug_pause: 0,
        })
    }

    pub fn page(&self) -> &Arc<Page> {
        &self.page
    }

    fn say(&mut self, view: View) {
        self.view = view;
        self.sequence = self.page.publish(self.sequence, &view);
    }

    /// Says something else, of which nothing depends on what ranks do meanwhile.
    fn change(&mut self, view: View) {
        self.page.announce(self.sequence);
        self.say(view);
    }

    /// Publishes a request for the ranks that live: see `control::request`.
    fn request(
        &mut self,
        (kind, reason): (RequestKind, Reason),
        deadline: Moment,
        held: bool,
        lives: impl Fn(usize) -> bool,
    ) -> Request {
        let id = self.next_id;
        self.next_id += 1;
        let living = || (0..self.page.ranks()).filter(|&rank| lives(rank));
        self.page.expect_answers(id, living().count());
        self.page.announce(self.sequence);
        let steps = living().map(|rank| self.page.step(rank));
        let request = Request { id, kind, reason, at_step: common_step(steps), held, deadline };
        let paused_by = if kind == RequestKind::Pause && !held { id } else { self.view.paused_by };
        self.say(View { request: Some(request), paused_by, ..self.view });
        request
    }

    /// Whether a rank is in the midst of this request. Once it is announced none begins.
    fn has_begun(&self, request: &Request, group: &Group) -> bool {
        (0..self.page.ranks()).any(|rank| group.lives(rank) && self.page.is_at(rank, request.id))
    }

    /// Ends a request for a checkpoint; false if a rank is in its midst, and may wait there for the others: those that
    /// are late are to follow it. Of several hosts nobody can know that none is.
    fn withdraw_save(&mut self, asked: &Asked, group: &Group) -> bool {
        self.page.announce(self.sequence);
        let stands = asked.of_job.is_some() || self.has_begun(&asked.request, group);
        self.say(View { request: stands.then_some(asked.request), ..self.view });
        !stands
    }

    /// Ends a pause, if there is one.
    pub fn resume(&mut self) {
        if self.view.paused_by != 0 {
            let request = self.view.request.filter(|request| request.kind != RequestKind::Pause);
            self.change(View { request, paused_by: 0, ..self.view });
        }
    }

    pub fn ask(&mut self, context: &Context, group: &Group, ask: Ask) {
        let Ask { kind, reason, deadline, ticket, before_stop } = ask;
        let begin = ticket.map_or_else(monotonic, |ticket| ticket.begin);
        let stands = self.view.request.filter(|old| old.kind == kind && kind == RequestKind::Save);
        let request = match stands.filter(|old| self.has_begun(old, group)) {
            // It is given up by who asked, but not by a rank that waits there for the others.
            Some(old) => self.prolong(Request { deadline, ..old }),
            None => self.request((kind, reason), deadline, false, |rank| group.lives(rank)),
        };
        self.asked = Some(Asked { ticket, before_stop, ..Asked::new(request, begin) });
        context.log(Level::Info, || asked_text(&request));
    }

    fn prolong(&mut self, request: Request) -> Request {
        self.change(View { request: Some(request), ..self.view });
        self.page.expect_each_answer(request.id);
        request
    }

    // ---- requests of a job of several hosts

    /// Has the ranks held at a step that none of them is past: that step.
    pub fn hold(&mut self, group: &Group, seen: &Seen, deadline: Moment) -> u64 {
        let what = (seen.kind, seen.reason);
        let request = self.request(what, deadline, true, |rank| group.lives(rank));
        self.asked = Some(Asked { of_job: Some(seen.number), ..Asked::new(request, monotonic()) });
        request.at_step
    }

    /// All hosts have agreed on this step.
    pub fn act(&mut self, context: &Context, at_step: u64) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.request.held) else { return };
        (asked.request.at_step, asked.request.held) = (at_step, false);
        let request = asked.request;
        let paused_by = if request.kind == RequestKind::Pause { request.id } else { self.view.paused_by };
        self.change(View { request: Some(request), paused_by, ..self.view });
        context.log(Level::Info, || asked_text(&request));
    }

    /// Whether ranks can be held now: not while some of them are at a debugger's pause, nor in a checkpoint whose time is
    /// over. They would not act at a step of all.
    pub fn can_hold(&self) -> bool {
        self.debug_pause == 0 && !self.stands()
    }

    /// A request stands though its time is over.
    pub fn stands(&self) -> bool {
        self.asked.is_some_and(|asked| asked.stands)
    }

    /// Nobody is to act: those that are held go on.
    pub fn let_go(&mut self) {
        if self.asked.is_some_and(|asked| asked.request.held) {
            self.asked = None;
            self.change(View { request: None, ..self.view });
        }
    }

    /// The number of the request of the job that is over for the ranks, and what they said, by local rank; once.
    pub fn take_answers(&mut self) -> Option<(u64, Vec<RankAnswer>)> {
        self.answers.take()
    }

    /// What they have said to the one that is under way.
    pub fn answers_so_far(&self, group: &Group) -> Option<Vec<RankAnswer>> {
        let id = self.asked.filter(|asked| !asked.request.held)?.request.id;
        Some(self.answers_to(id, group).0.ranks)
    }

    fn answers_to(&self, id: u64, group: &Group) -> (Answers, bool) {
        let answered = (0..self.page.ranks()).map(|rank| (self.page.answered(rank), group.lives(rank)));
        Answers::so_far(id, answered)
    }

    // ---- what becomes of a request

    /// What workers are asked for, if they are.
    pub fn asked_for(&self) -> Option<RequestKind> {
        self.asked.map(|asked| asked.request.kind)
    }

    /// Until when they may answer. Those that are held are not to be let go before the other hosts have agreed.
    pub fn deadline(&self) -> Option<Moment> {
        let asked = self.asked.filter(|asked| !asked.request.held && !asked.stands);
        asked.map(|asked| asked.request.deadline)
    }

    /// The local ranks whose answer is waited for.
    pub fn owing<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = usize> + 'a {
        let asked = self.asked.iter().map(|asked| asked.request.id);
        asked.flat_map(move |id| {
            let owes = move |&rank: &usize| self.page.answered(rank).id != id && group.lives(rank);
            (0..self.page.ranks()).filter(owes)
        })
    }

    /// A worker has ended: one who waits for its answer need not any more. Whether anybody does.
    pub fn miss_answer(&self) -> bool {
        self.asked.inspect(|asked| self.page.expect_each_answer(asked.request.id)).is_some()
    }

    /// A request is under way while an answer may still come, until its deadline or until it is given up.
    pub fn settle(&mut self, context: &Context, group: &Group, give_up: bool) -> Standing {
        let Some(mut asked) = self.asked else { return Standing::Free };
        let (page, id) = (self.page.clone(), asked.request.id);
        let owes = |&rank: &usize| page.answered(rank).id != id && group.lives(rank);
        let owing = (asked.owes..page.ranks()).find(owes);
        let waits = !give_up && (asked.request.held || asked.request.deadline > monotonic());
        if let (Some(rank), true) = (owing, waits) {
            asked.owes = rank;
            self.asked = Some(asked);
            return Standing::UnderWay;
        }
        let (mut answers, open) = self.answers_to(id, group);
        let leaving = asked.before_stop
            && asked.request.kind == RequestKind::Stop
            && (0..page.ranks()).any(|rank| answers.ranks[rank].0 == Answer::Succeeded && group.lives(rank));
        answers.took = monotonic().saturating_sub(asked.begin);
        // Too late for a checkpoint of all; a late rank still joins a pause, or ends. Before anybody is told: what the
        // host does then may be what brings a late rank to where it looks.
        let stands = open
            && asked.request.kind == RequestKind::Save
            && (asked.stands || !self.withdraw_save(&asked, group));
        if !asked.told {
            // A checkpoint that is not there is what somebody will look for.
            let saves = matches!(asked.request.kind, RequestKind::Save | RequestKind::Stop);
            let missed =
                answers.ranks.iter().any(|(answer, _)| !matches!(answer, Answer::Succeeded | Answer::Gone));
            let level = if saves && missed { Level::Warning } else { Level::Info };
            context.log(level, || told(&asked.request, &answers));
            if asked.of_job.is_none() && asked.request.kind == RequestKind::Save {
                self.saved = Saved::of(&answers.ranks).or(self.saved);
            }
            if let Some(number) = asked.of_job {
                self.answers = Some((number, answers.ranks));
            } else if let Some(ticket) = asked.ticket {
                context.shared.pending.settle(ticket, answers);
            }
        }
        // Those that said they would end are given the time. Nothing else is asked of those that may wait for others in
        // the midst of a checkpoint.
        let stands = stands && !give_up && !asked.before_stop;
        if (leaving && waits) || stands {
            self.asked = Some(Asked { told: true, stands, ..asked });
            return Standing::UnderWay;
        }
        self.asked = None;
        if asked.before_stop { Standing::BeforeStop } else { Standing::Free }
    }

    /// A checkpoint that all ranks have saved since this was asked.
    pub fn take_saved(&mut self) -> Option<Saved> {
        self.saved.take()
    }

    /// A rank is at its debugger from now on: the others pause, unless something else is asked of them.
    pub fn begin_debugging(&mut self, debugged: Debugged, lives: impl Fn(usize) -> bool) {
        self.view.debugged = Some(debugged);
        if self.asked.is_none() && self.view.paused_by == 0 {
            self.debug_pause = self.request((RequestKind::Pause, Reason::Host), Moment::MAX, false, lives).id;
        } else {
            self.change(self.view);
        }
    }

    /// The others go on.
    pub fn end_debugging(&mut self) {
        let pause = std::mem::take(&mut self.debug_pause);
        let View { request, paused_by, .. } = self.view;
        self.change(View {
            request: request.filter(|request| request.id != pause),
            paused_by: if paused_by == pause { 0 } else { paused_by },
            debugged: None,
        });
    }

    /// So much of the time up to now counts for nobody. What is asked for before a stop has a later end; a request
    /// of the host's has none but the one that its caller waits for.
    pub fn give_back(&mut self, lost: Duration) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.before_stop) else { return };
        asked.request.deadline = asked.request.deadline.saturating_add(lost);
        let request = asked.request;
        if self.view.request.is_some_and(|told| told.id == request.id) {
            self.change(View { request: Some(request), ..self.view });
        }
    }
}

fn asked_text(request: &Request) -> String {
    let seconds = request.deadline.saturating_sub(monotonic()).as_secs_f64();
    format!("asked the workers to {} at step {}, within {seconds:.3} s", verb(request.kind), request.at_step)
}

fn verb(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Pause => "pause",
        RequestKind::Save => "save",
        RequestKind::Stop => "stop",
    }
}

fn told(request: &Request, answers: &Answers) -> String {
    let count = |wanted: Answer| answers.ranks.iter().filter(|(answer, _)| *answer == wanted).count();
    format!(
        "the request to {} at step {} took {:.3} s: {} did, {} could not, {} ended, {} did not answer",
        verb(request.kind),
        request.at_step,
        answers.took.as_secs_f64(),
        count(Answer::Succeeded),
        count(Answer::Failed),
        count(Answer::Gone),
        count(Answer::None),
    )
}
