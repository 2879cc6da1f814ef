//! The agent's end of the control page: requests of the host and of a stop, one after the other, and what
//! workers let expire. All in the one loop, which a call of a worker or a deadline wakes.

use std::sync::Arc;
use std::time::Duration;

use super::run::Run;
use crate::control::desk::{Ticket, Wish};
use crate::control::listener::Listener;
use crate::control::page::{Page, TIMERS_MOST};
use crate::control::request::{Answer, Answers, Debugged, Kind, Reason, Request, View, common_step};
use crate::control::section::{Course, Lessons, SECTIONS_MOST};
use crate::control::watch::{self, Beat, Silence, Stay, earlier};
use crate::error::Error;
use crate::logs::bar::Group;
use crate::moment::Moment;
use crate::spec::Level;
use crate::supervise::Event;
use crate::sys::process::monotonic;

/// The page of an attempt, and what is under way on it.
pub struct Conversation {
    pub page: Arc<Page>,
    /// Ends with this.
    listener: Option<Listener>,
    sequence: i32,
    next_id: u64,
    view: View,
    asked: Option<Asked>,
    beats: Vec<Beat>,
    /// When something expires, if nothing else happens. At once, to begin with.
    next_look: Option<Moment>,
    /// The pause of the others while a rank is at its debugger, 0 for none.
    debug_pause: u64,
    /// Timers that were armed before this begin anew at it.
    anew: Moment,
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
    /// Who waited for the answers has them.
    told: bool,
    /// Nobody before this rank owes an answer.
    owes: usize,
}

impl Conversation {
    fn new(ranks: usize) -> Result<Conversation, Error> {
        let page = Page::new(ranks)
            .map_err(|errno| Error::system("cannot make memory for the control of workers", errno as i32))?;
        Ok(Conversation {
            page: Arc::new(page),
            listener: None,
            sequence: 0,
            next_id: 1,
            view: View { request: None, paused_by: 0, debugged: None },
            asked: None,
            beats: vec![Beat::default(); ranks],
            debug_pause: 0,
            anew: Moment::ZERO,
            next_look: Some(Moment::ZERO),
        })
    }

    fn say(&mut self, view: View) {
        self.view = view;
        self.sequence = self.page.publish(self.sequence, &view);
    }

    /// Publishes a request for the ranks that live: see `control::request`.
    fn request(
        &mut self,
        kind: Kind,
        reason: Reason,
        deadline: Moment,
        lives: impl Fn(usize) -> bool,
    ) -> Request {
        let id = self.next_id;
        self.next_id += 1;
        let living = || (0..self.page.ranks()).filter(|&rank| lives(rank));
        self.page.expect_answers(id, living().count());
        self.page.announce(self.sequence);
        let steps = living().map(|rank| self.page.step(rank));
        let request = Request { id, kind, reason, at_step: common_step(steps), deadline };
        let paused_by = if kind == Kind::Pause { id } else { self.view.paused_by };
        self.say(View { request: Some(request), paused_by, ..self.view });
        request
    }

    /// Ends a request, or with `paused_by` 0 a pause.
    fn withdraw(&mut self, paused_by: u64) {
        self.page.announce(self.sequence);
        self.say(View { request: None, paused_by, ..self.view });
    }

    /// A rank is at its debugger from now on: the others pause, unless something else is asked of them.
    pub(super) fn begin_debugging(&mut self, debugged: Debugged, lives: impl Fn(usize) -> bool) {
        self.view.debugged = Some(debugged);
        if self.asked.is_none() && self.view.paused_by == 0 {
            self.debug_pause = self.request(Kind::Pause, Reason::Host, Moment::MAX, lives).id;
        } else {
            self.page.announce(self.sequence);
            self.say(self.view);
        }
    }

    /// The others go on.
    pub(super) fn end_debugging(&mut self) {
        let pause = std::mem::take(&mut self.debug_pause);
        let View { request, paused_by, .. } = self.view;
        self.page.announce(self.sequence);
        self.say(View {
            request: request.filter(|request| request.id != pause),
            paused_by: if paused_by == pause { 0 } else { paused_by },
            debugged: None,
        });
    }

    /// Time that has passed up to now does not count.
    pub(super) fn begin_anew(&mut self, now: Moment) {
        self.anew = now;
        self.beats.iter_mut().for_each(|beat| beat.excuse(now));
        self.next_look = Some(now);
    }

    /// The time of this rank begins.
    pub(super) fn worker_born(&mut self, rank: usize, now: Moment) {
        self.beats[rank].excuse(now);
    }

    /// So much of the time up to now counts for nobody. What is asked for before a stop has a later end; a request
    /// of the host's has none but the one that its caller waits for.
    pub(super) fn give_back(&mut self, lost: Duration) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.before_stop) else { return };
        asked.request.deadline = asked.request.deadline.saturating_add(lost);
        let request = asked.request;
        if self.view.request.is_some_and(|told| told.id == request.id) {
            self.page.announce(self.sequence);
            self.say(View { request: Some(request), ..self.view });
        }
    }
}

impl Run<'_> {
    /// For a new attempt.
    pub(super) fn open_page(&mut self) -> Result<(), Error> {
        if self.spec.has_control() {
            let conversation = Conversation::new(self.ranks.len())?;
            if self.spec.sections.are_wanted() {
                conversation.page.watch_sections(self.spec.sections.shortest(&self.lessons));
            }
            *self.shared.page.lock() = Some(conversation.page.clone());
            let page = conversation.page.clone();
            self.conversation = Some(conversation);
            let ranks = || self.ranks.iter().map(|rank| rank.global).collect();
            let restarts = self.supervisor.job_restarts();
            self.output.begin_bar(|| Group { page, ranks: ranks(), restarts });
        }
        Ok(())
    }

    /// All workers are there: hears what they had to say up to now, and from now on.
    pub(super) fn listen(&mut self) {
        let Some(conversation) = &mut self.conversation else { return };
        match Listener::start(&conversation.page, self.inbox) {
            Ok(listener) => conversation.listener = Some(listener),
            Err(error) => self.log(Level::Warning, || {
                format!("no thread to hear the workers ({error}): their answers and timers are seen late")
            }),
        }
        self.converse();
    }

    /// The attempt is over: who waits for answers gets those that came.
    pub(super) fn close_page(&mut self) {
        self.settle(true);
        if let (Some(conversation), Some(_)) = (&self.conversation, self.spec.sections.learning) {
            learn(&mut self.lessons, &conversation.page);
        }
        self.conversation = None;
        self.forget_debuggers();
    }

    /// When `converse` is due, whatever else happens.
    pub(super) fn control_deadline(&self) -> Option<Moment> {
        if !self.spec.has_control() {
            return None;
        }
        let conversation = self.conversation.as_ref();
        let asked = conversation.and_then(|conversation| conversation.asked);
        let request = match asked {
            Some(asked) => Some(asked.request.deadline),
            None => self.shared.desk.first().map(|ticket| ticket.deadline),
        };
        let request = earlier(request, self.wanted_save.map(|wanted| wanted.until));
        let look = conversation.and_then(|conversation| conversation.next_look);
        earlier(request, look.filter(|_| self.supervisor.is_running()))
    }

    /// Does what can be done now: takes answers, makes the next request, looks what expired.
    pub(super) fn converse(&mut self) {
        if !self.spec.has_control() {
            return;
        }
        self.attend();
        if self.supervisor.is_running() {
            self.attend_debuggers();
        }
        self.hear_restart();
        let due = self.conversation.as_ref().is_some_and(|conversation| {
            let is_time = conversation.next_look.is_some_and(|look| look <= monotonic());
            conversation.page.take_look() || is_time
        });
        if due && self.supervisor.is_running() {
            self.look_for_expired();
        }
    }

    /// Whether a worker asks for a restart of the group, by now.
    pub(super) fn hear_restart(&mut self) {
        let wanted = self.conversation.as_ref().and_then(|conversation| conversation.page.restart_wanted());
        if let (Some(rank), true) = (wanted, self.supervisor.is_running()) {
            let text = format!("rank {} asked for a restart of the group", self.ranks[rank].global);
            self.log(Level::Warning, || text.clone());
            self.restart_wish = Some(text);
            self.tell(Event::RestartWanted);
        }
    }

    /// How far the job has come in this attempt: the greatest step of all ranks, else what the furthest has
    /// done. None if nobody says.
    pub(super) fn reached(&self) -> Option<u64> {
        let page = &self.conversation.as_ref()?.page;
        let said = || (0..page.ranks()).map(|rank| page.said(rank));
        let done = || said().filter(|said| said.progress.1 > 0).map(|said| said.progress.0).max();
        said().filter_map(|said| said.step).max().or_else(done)
    }

    /// A worker has ended: one who waits for its answer need not any more.
    pub(super) fn miss_answer(&mut self) {
        if let (Some(asked), Some(conversation)) = (self.asked(), &self.conversation) {
            conversation.page.expect_each_answer(asked.request.id);
            self.attend();
        }
    }

    fn attend(&mut self) {
        if self.settle(false) {
            while let Some(ticket) = self.shared.desk.first() {
                if !self.take(ticket) {
                    break;
                }
            }
        }
        if self.wanted_save.is_some() && self.asked().is_none() {
            self.save_if_wanted();
        }
    }

    /// Whether the workers are asked to save, and go on.
    pub(super) fn is_saving(&self) -> bool {
        self.asked().is_some_and(|asked| asked.request.kind == Kind::Save)
    }

    pub(super) fn lives(&self, rank: usize) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.workers[rank].is_alive())
    }

    /// The global ranks of those whose answer is waited for.
    pub(super) fn owing(&self) -> Vec<usize> {
        let (Some(asked), Some(conversation)) = (self.asked(), &self.conversation) else { return Vec::new() };
        let owes =
            |rank: &usize| conversation.page.answered(*rank).id != asked.request.id && self.lives(*rank);
        (0..conversation.page.ranks()).filter(owes).map(|rank| self.ranks[rank].global).collect()
    }

    fn asked(&self) -> Option<Asked> {
        self.conversation.as_ref()?.asked
    }

    /// Whether no request is under way any more. One is while an answer may still come, until its deadline or
    /// until it is given up.
    fn settle(&mut self, give_up: bool) -> bool {
        let Some(conversation) = &self.conversation else { return true };
        let Some(mut asked) = conversation.asked else { return true };
        let (page, id) = (conversation.page.clone(), asked.request.id);
        let owes = |&rank: &usize| page.answered(rank).id != id && self.lives(rank);
        let owing = (asked.owes..page.ranks()).find(owes);
        let waits = !give_up && asked.request.deadline > monotonic();
        if let (Some(rank), true, Some(conversation)) = (owing, waits, &mut self.conversation) {
            asked.owes = rank;
            conversation.asked = Some(asked);
            return false;
        }
        let answered = (0..page.ranks()).map(|rank| (page.answered(rank), self.lives(rank)));
        let (mut answers, open) = Answers::so_far(id, answered);
        let leaving = asked.before_stop
            && asked.request.kind == Kind::Stop
            && (0..page.ranks()).any(|rank| answers.ranks[rank].0 == Answer::Succeeded && self.lives(rank));
        answers.took = monotonic().saturating_sub(asked.begin);
        // Too late for a checkpoint of all; a late rank still joins a pause, or ends. Before anybody is told: what the
        // host does then may be what brings a late rank to where it looks.
        if let (true, Kind::Save, Some(conversation)) = (open, asked.request.kind, &mut self.conversation) {
            conversation.withdraw(conversation.view.paused_by);
        }
        if !asked.told {
            // A checkpoint that is not there is what somebody will look for.
            let saves = matches!(asked.request.kind, Kind::Save | Kind::Stop);
            let missed =
                answers.ranks.iter().any(|(answer, _)| !matches!(answer, Answer::Succeeded | Answer::Gone));
            let level = if saves && missed { Level::Warning } else { Level::Info };
            self.log(level, || told(&asked.request, &answers));
            if let Some(ticket) = asked.ticket {
                self.shared.desk.settle(ticket, answers);
            }
        }
        let Some(conversation) = &mut self.conversation else { return true };
        // Those that said they would end are given the time.
        if leaving && waits {
            conversation.asked = Some(Asked { told: true, ..asked });
            return false;
        }
        conversation.asked = None;
        if asked.before_stop {
            self.tell(Event::Answered);
        }
        true
    }

    /// Takes what the host asks for; false if that has to wait, for the group to run or for its answers.
    fn take(&mut self, ticket: Ticket) -> bool {
        match ticket.wish {
            Wish::Resume => {
                if let Some(conversation) = &mut self.conversation
                    && conversation.view.paused_by != 0
                {
                    conversation.withdraw(0);
                }
                self.shared.desk.settle(ticket, Answers::none(0));
                true
            }
            Wish::Request(_) if ticket.deadline <= monotonic() => {
                self.shared.desk.settle(ticket, Answers::none(self.ranks.len()));
                true
            }
            Wish::Request(_) if !self.supervisor.is_running() || self.conversation.is_none() => false,
            Wish::Request(Kind::Stop) => {
                // The supervisor has it asked.
                self.gentle_stop = Some(ticket);
                self.tell(Event::StopGently { until: ticket.deadline });
                false
            }
            Wish::Request(kind) => {
                self.ask(kind, Reason::Host, ticket.deadline, Some(ticket), false);
                false
            }
        }
    }

    /// Before a stop.
    pub(super) fn ask_before_stop(&mut self, kind: Kind, reason: Reason, until: Moment) {
        // A request of the host's that is under way gives way.
        self.settle(true);
        let ticket = self.gentle_stop.take();
        // Whoever was asked, and answered or did not want to, is not asked again.
        let answered = kind == Kind::Save && self.asked_at_terminal();
        if self.conversation.is_none() || answered {
            return self.tell(Event::Answered);
        }
        if kind == Kind::Stop
            && let Some(attempt) = &mut self.attempt
        {
            attempt.expect_ends();
        }
        self.ask(kind, reason, until, ticket, true);
        self.converse();
    }

    pub(super) fn ask(
        &mut self,
        kind: Kind,
        reason: Reason,
        deadline: Moment,
        ticket: Option<Ticket>,
        before_stop: bool,
    ) {
        let begin = ticket.map_or_else(monotonic, |ticket| ticket.begin);
        let (conversation, attempt) = (self.conversation.as_mut(), self.attempt.as_ref());
        let (Some(conversation), Some(attempt)) = (conversation, attempt) else { return };
        let lives = |rank: usize| attempt.workers[rank].is_alive();
        let request = conversation.request(kind, reason, deadline, lives);
        conversation.asked = Some(Asked { request, begin, ticket, before_stop, told: false, owes: 0 });
        self.log(Level::Info, || {
            let seconds = deadline.saturating_sub(monotonic()).as_secs_f64();
            format!("asked the workers to {} at step {}, within {seconds:.3} s", verb(kind), request.at_step)
        });
    }

    // ---- what expires

    fn look_for_expired(&mut self) {
        if let (true, Some(conversation)) = (self.is_debugging(), &mut self.conversation) {
            // Nobody is to call for a timer that stands still.
            conversation.next_look = None;
            return conversation.page.set_next_look(Some(Moment::ZERO));
        }
        let now = self.now();
        let mut next = self.look_at_ranks(now);
        loop {
            let Some(conversation) = &mut self.conversation else { return };
            conversation.next_look = next;
            conversation.page.set_next_look(next);
            // A timer that was armed meanwhile called nobody.
            let again = self.look_at_ranks(now);
            if earlier(next, again) == next {
                return;
            }
            next = again;
        }
    }

    /// Ends the workers for which something has expired; when something expires next.
    fn look_at_ranks(&mut self, now: Moment) -> Option<Moment> {
        let (mut next, mut expired) = (None, Vec::new());
        let condemned: Vec<usize> = self.condemned().collect();
        let (Some(conversation), Some(attempt)) = (&mut self.conversation, &self.attempt) else {
            return None;
        };
        let limit = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let (first, further) = (self.spec.initial_heartbeat_timeout, self.spec.heartbeat_timeout);
        let limits = Silence { first: limit(first), further: limit(further) };
        let (page, sections) = (&conversation.page, &self.spec.sections);
        let mut learnt = None;
        let lessons = match sections.learning {
            None => &self.lessons,
            Some(_) => {
                let learnt = learnt.insert(self.lessons.clone());
                learn(learnt, page);
                page.watch_sections(sections.shortest(learnt));
                learnt
            }
        };
        for (rank, beat) in conversation.beats.iter_mut().enumerate() {
            let worker = &attempt.workers[rank];
            if !worker.is_alive() || condemned.contains(&rank) {
                continue;
            }
            // What is only told is looked behind for what else has expired: at most so many things.
            for _ in 0..TIMERS_MOST + 2 {
                let said = page.said(rank);
                let timers = (0..TIMERS_MOST).filter_map(|index| page.timer(rank, index));
                let timers = timers.map(|timer| timer.anew(conversation.anew));
                let stay = said.place.filter(|_| sections.are_wanted()).and_then(|place| {
                    let course = place.section.map(|section| page.course(rank, section));
                    let course = course.unwrap_or_else(|| Some(Course::default()))?;
                    let limit = sections.of(course.name, course.first.count == 0, lessons)?;
                    Some(Stay { name: course.name, since: place.since.max(conversation.anew), limit })
                });
                match watch::look(&said, timers, stay, beat, limits, &self.standstill, now) {
                    Ok(look) => {
                        next = earlier(next, look);
                        break;
                    }
                    Err(what) => expired.push((rank, what)),
                }
                if self.spec.timer_signal != 0 {
                    break;
                }
            }
        }
        for (rank, expired) in expired {
            self.overdue(rank, expired.to_string());
        }
        next
    }
}

/// What the ranks have seen of their sections in this attempt.
fn learn(lessons: &mut Lessons, page: &Page) {
    let ranks = 0..page.ranks();
    let courses = ranks.flat_map(|rank| (0..SECTIONS_MOST).filter_map(move |index| page.course(rank, index)));
    courses.for_each(|course| lessons.add(&course));
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Pause => "pause",
        Kind::Save => "save",
        Kind::Stop => "stop",
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
