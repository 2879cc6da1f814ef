//! The worker's side of the page. Without an agent, or without a page, everything succeeds and does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering, compiler_fence, fence};
use std::time::Duration;

use parking_lot::Mutex;

use super::page::{Page, SCOPE_MOST, TIMERS_MOST};
use super::request::{Answered, Debugged, Mine, Request, RequestKind, Verdict, verdict};
use super::section::{ENOUGH, Name, SECTIONS_MOST, Whereabouts};
use super::watch::{Timer, earlier};
use crate::error::Error;
use crate::moment::Moment;
use crate::sys::process::monotonic;
use crate::sys::shield;
use crate::sys::terminal::Streams;

/// In the place of the number of a pause: held at the step of a request, see `request`.
const HELD: u64 = u64::MAX;

/// What a worker has to talk to its agent, if it has one.
#[derive(Default)]
pub struct Control(Option<Line>);

struct Line {
    page: Arc<Page>,
    rank: usize,
    /// This process has to make barriers of its own between a step and a look.
    fenced: bool,
    /// The sequence at which there is nothing to do.
    settled: AtomicI32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paused: u64,
    paused_since: Moment,
    /// What was due at the last look.
    due: Option<Request>,
    /// How often it has called for a debugger.
    sessions: u64,
    debugging: Option<Debugging>,
}

/// At a debugger, with the streams of before, where it has the terminal's in their place.
struct Debugging(#[expect(dead_code, reason = "what its end puts back")] Option<Streams>);

impl Control {
    /// For the rank that has this slot of the page.
    pub fn new(page: Arc<Page>, rank: usize) -> Control {
        if rank >= page.ranks() {
            return Control(None);
        }
        page.begin(rank, monotonic());
        shield::raise_over(&page, Page::shield);
        let fenced = page.is_fenced();
        Control(Some(Line { page, rank, fenced, settled: AtomicI32::new(0), state: Mutex::default() }))
    }

    /// For a program: from what the variable says. A descriptor that is not the page's any more is no error.
    pub fn from_variable(value: &str) -> Control {
        let numbers =
            value.split_once(':').and_then(|(fd, rank)| Some((fd.parse().ok()?, rank.parse().ok()?)));
        let page = |(fd, rank)| Page::open(fd).map(|page| Control::new(Arc::new(page), rank));
        numbers.and_then(page).unwrap_or_default()
    }

    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    pub fn step(&self, step: u64) {
        if let Some(line) = &self.0 {
            line.page.set_step(line.rank, step);
        }
    }

    pub fn progress(&self, done: u64, total: u64) {
        if let Some(line) = &self.0 {
            line.page.set_progress(line.rank, done, total);
        }
    }

    pub fn heartbeat(&self) {
        if let Some(line) = &self.0 {
            line.page.set_heartbeat(line.rank, monotonic());
        }
    }

    /// What is due now. Waits while this rank is paused.
    pub fn poll(&self) -> Option<Request> {
        let line = self.0.as_ref()?;
        // Between the store of a step and this load: see `request`.
        line.fence();
        if line.page.sequence() == line.settled.load(Ordering::Relaxed) {
            return None;
        }
        line.look()
    }

    /// Answers what was due at the last look; None if nothing was.
    pub fn acknowledge(&self, success: bool) -> Result<(), Error> {
        let due = self.0.as_ref().and_then(|line| line.state.lock().due.take().map(|due| (line, due)));
        let Some((line, request)) = due else {
            return Err(Error::State { what: "no request is due: ice_worker_poll() says when one is" });
        };
        let mut state = line.state.lock();
        if request.kind == RequestKind::Pause && success {
            line.pause(&mut state, request.id);
        }
        let answer = Answered { id: request.id, success, step: line.page.step(line.rank) };
        line.page.answer(line.rank, answer);
        Ok(())
    }

    /// Waits until this rank is the one at its debugger. It has the terminal then, if there is one.
    pub fn debug_begin(&self) -> Result<(), Error> {
        let Some(line) = &self.0 else { return Ok(()) };
        let debugged = {
            let mut state = line.state.lock();
            if state.debugging.is_some() {
                return Err(Error::State {
                    what: "this worker is at its debugger: ice_worker_debug_end() first",
                });
            }
            state.sessions += 1;
            Debugged { rank: line.rank, session: state.sessions }
        };
        line.page.set_debug(line.rank, debugged.session);
        loop {
            let sequence = line.page.sequence();
            match line.page.view(sequence) {
                Some(view) if view.debugged == Some(debugged) => break,
                _ => line.page.wait(sequence),
            }
        }
        line.state.lock().debugging = Some(Debugging(Streams::on_terminal()));
        Ok(())
    }

    /// The streams are what they were before, and the others go on.
    pub fn debug_end(&self) -> Result<(), Error> {
        let Some(line) = &self.0 else { return Ok(()) };
        match line.state.lock().debugging.take() {
            None => {
                Err(Error::State { what: "this worker is at no debugger: ice_worker_debug_begin() first" })
            }
            Some(debugging) => {
                drop(debugging);
                line.page.set_debug(line.rank, 0);
                Ok(())
            }
        }
    }

    /// Arms the timer of a scope, in place of one that it has.
    pub fn expires(&self, scope: &[u8], lasts: Duration) -> Result<(), Error> {
        let Some(line) = &self.0 else { return Ok(()) };
        let scope = scope_name(scope);
        let _alone = line.state.lock();
        let known = line.timer_of(scope);
        let index = known.or_else(|| (0..TIMERS_MOST).find(|&index| line.timer(index).is_none()));
        let Some(index) = index else {
            let what = format!("{TIMERS_MOST} timers are armed, there is no room for {scope:?}");
            return Err(Error::Argument { what });
        };
        let timer = Timer { scope: scope.into(), expires: monotonic() + lasts, lasts };
        line.page.set_timer(line.rank, index, Some(&timer));
        line.page.expect_look(timer.expires);
        Ok(())
    }

    /// Lets the timer of a scope go, if there is one.
    pub fn release(&self, scope: &[u8]) {
        let Some(line) = &self.0 else { return };
        let _alone = line.state.lock();
        if let Some(index) = line.timer_of(scope_name(scope)) {
            line.page.set_timer(line.rank, index, None);
        }
    }

    /// Is in this section from now on, or with the empty name in none; the one before came to its end.
    pub fn section(&self, name: Name) -> Result<(), Error> {
        let Some(line) = &self.0 else { return Ok(()) };
        let _alone = line.state.lock();
        let (page, rank, now) = (&line.page, line.rank, monotonic());
        let section = match name == Name::default() {
            true => None,
            false => Some(page.section(rank, name).ok_or_else(|| {
                let what = format!("{SECTIONS_MOST} sections have a name, there is no room to be {name}");
                Error::Argument { what }
            })?),
        };
        let before = page.place(rank);
        page.set_place(rank, Whereabouts { section, since: now });
        let times = before
            .and_then(|place| Some(page.end_section(rank, place.section?, now.saturating_sub(place.since))));
        let Some(shortest) = page.shortest_section() else { return Ok(()) };
        // What was learnt of the first, or of the others, may be enough by now.
        if times.is_some_and(|times| times == 1 || times == ENOUGH + 1) {
            page.want_look();
        } else {
            page.expect_look(now.saturating_add(shortest));
        }
        Ok(())
    }

    /// Asks for a restart of the group.
    pub fn want_restart(&self) {
        if let Some(line) = &self.0 {
            line.page.want_restart(line.rank);
        }
    }
}

/// As much of a name as there is room for.
fn scope_name(scope: &[u8]) -> &[u8] {
    &scope[..scope.len().min(SCOPE_MOST)]
}

impl Line {
    fn timer(&self, index: usize) -> Option<Timer> {
        self.page.timer(self.rank, index)
    }

    fn timer_of(&self, scope: &[u8]) -> Option<usize> {
        (0..TIMERS_MOST).find(|&index| self.timer(index).is_some_and(|timer| timer.scope == scope))
    }

    /// Between a store of this rank and a look at what the agent says, which makes a barrier between its own.
    fn fence(&self) {
        if self.fenced { fence(Ordering::SeqCst) } else { compiler_fence(Ordering::SeqCst) }
    }

    /// The agent has said something.
    #[cold]
    fn look(&self) -> Option<Request> {
        loop {
            let sequence = self.page.sequence();
            let Some(view) = self.page.view(sequence) else {
                if sequence & 1 != 0 {
                    self.page.wait(sequence);
                }
                continue;
            };
            let mut state = self.state.lock();
            let answered = self.page.answered(self.rank).id;
            let debugged = view.debugged.is_some_and(|debugged| debugged.rank == self.rank);
            let step = self.page.step(self.rank);
            let mine = Mine { step, answered, paused: state.paused, debugged };
            let verdict = verdict(&view, &mine);
            let is_held = state.paused == HELD && verdict == Verdict::Pause;
            if state.paused != 0 && state.paused != view.paused_by && !is_held {
                self.wake_up(&mut state);
            }
            match verdict {
                Verdict::Due(request) => {
                    self.page.set_begun(self.rank, request.id);
                    self.fence();
                    if self.page.sequence() != sequence {
                        // It may have been taken back from those who have not begun.
                        continue;
                    }
                    state.due = Some(request);
                    return Some(request);
                }
                Verdict::Later => return None,
                Verdict::Nothing => {
                    self.settled.store(sequence, Ordering::Relaxed);
                    return None;
                }
                Verdict::Pause => {
                    if state.paused == 0 {
                        // Time stands still for it, as for one that is paused.
                        self.pause(&mut state, HELD);
                    }
                    drop(state);
                    self.page.wait(sequence);
                }
            }
        }
    }

    /// It is paused from now on, by this request.
    fn pause(&self, state: &mut State, by: u64) {
        (state.paused, state.paused_since) = (by, monotonic());
        self.page.set_paused(self.rank, by);
    }

    /// The pause is over: what was armed before it has as long to go as it had then.
    fn wake_up(&self, state: &mut State) {
        let now = monotonic();
        let paused = now.saturating_sub(state.paused_since);
        let mut first = None;
        for index in 0..TIMERS_MOST {
            if let Some(timer) = self.timer(index) {
                let expires = timer.expires + paused;
                self.page.move_timer(self.rank, index, expires);
                first = earlier(first, Some(expires));
            }
        }
        let said = self.page.said(self.rank);
        if said.heartbeat.is_some() {
            self.page.set_heartbeat(self.rank, now);
        }
        if let Some(place) = said.place {
            self.page.set_place(self.rank, Whereabouts { since: place.since + paused, ..place });
            first = earlier(first, self.page.shortest_section().map(|shortest| now.saturating_add(shortest)));
        }
        state.paused = 0;
        self.page.set_paused(self.rank, 0);
        if let Some(first) = first {
            self.page.expect_look(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Reason, View, common_step};
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// What the agent does to publish a request.
    fn publish(page: &Page, sequence: i32, id: u64, kind: RequestKind, paused_by: u64) -> i32 {
        page.announce(sequence);
        let at_step = common_step((0..page.ranks()).map(|rank| page.step(rank)));
        let request =
            Request { id, kind, reason: Reason::Host, at_step, held: false, deadline: Duration::MAX };
        page.publish(sequence, &View { request: Some(request), paused_by, debugged: None })
    }

    #[test]
    fn without_an_agent_all_succeeds_and_nothing_happens() {
        for control in [
            Control::default(),
            Control::from_variable(""),
            Control::from_variable("3"),
            Control::from_variable("9999:0"),
            Control::from_variable("0:0"),
        ] {
            control.step(1);
            control.progress(1, 2);
            control.heartbeat();
            assert!(control.poll().is_none() && !control.is_open());
            assert_eq!(control.expires(b"a", Duration::ZERO), Ok(()));
            control.release(b"a");
            assert_eq!(control.section(Name::new(b"step")), Ok(()));
            control.want_restart();
            assert!(control.acknowledge(true).is_err());
        }
        let page = Arc::new(Page::new(1).unwrap());
        assert!(!Control::new(page, 1).is_open());
    }

    /// The race of `request`, played by threads that do as little as possible between two steps.
    #[test]
    fn ranks_in_a_hurry_act_at_one_step() {
        const RANKS: usize = 3;
        let page = Arc::new(Page::new(RANKS).unwrap());
        let over = AtomicBool::new(false);
        let acted = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for rank in 0..RANKS {
                let (page, over, acted) = (page.clone(), &over, &acted);
                scope.spawn(move || {
                    let control = Control::new(page.clone(), rank);
                    let mut step = 0;
                    let others = || (0..RANKS).map(|rank| page.step(rank).unwrap_or(0)).min();
                    while !over.load(Ordering::Relaxed) {
                        // As ranks that compute together: none runs away from the others.
                        if others().is_some_and(|slowest| step > slowest + 50) {
                            std::thread::yield_now();
                            continue;
                        }
                        control.step(step);
                        if let Some(request) = control.poll() {
                            acted.lock().push((request.id, step));
                            control.acknowledge(true).unwrap();
                        }
                        step += 1;
                    }
                });
            }
            let mut sequence = 0;
            for id in 1..=400 {
                sequence = publish(&page, sequence, id, RequestKind::Save, 0);
                let end = monotonic() + Duration::from_secs(20);
                while (0..RANKS).any(|rank| page.answered(rank).id != id) && monotonic() < end {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let acted = acted.into_inner();
        assert_eq!(acted.len(), 400 * RANKS);
        for id in 1..=400 {
            let steps: Vec<_> = acted.iter().filter(|(of, _)| *of == id).map(|(_, step)| step).collect();
            assert!(steps.iter().all(|step| *step == steps[0]), "request {id}: {steps:?}");
        }
    }

    #[test]
    fn job_01_a_rank_is_held_where_it_would_act_and_acts_where_all_do() {
        let page = Arc::new(Page::new(1).unwrap());
        let control = Control::new(page.clone(), 0);
        control.step(5);
        control.expires(b"step", Duration::from_secs(60)).unwrap();
        let before = page.timer(0, 0).unwrap().expires;
        page.announce(0);
        let request = Request {
            id: 1,
            kind: RequestKind::Save,
            reason: Reason::Host,
            at_step: 6,
            held: true,
            deadline: Duration::MAX,
        };
        let view = |request| View { request: Some(request), paused_by: 0, debugged: None };
        let sequence = page.publish(0, &view(request));
        assert!(control.poll().is_none(), "not at this step");
        control.step(6);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| control.poll());
            while !page.said(0).paused {
                std::thread::yield_now();
            }
            page.announce(sequence);
            page.publish(sequence, &view(Request { at_step: 8, held: false, ..request }));
            assert_eq!(waits.join().unwrap(), None, "it goes on to the step of all");
        });
        assert!(!page.said(0).paused && page.timer(0, 0).unwrap().expires > before, "time stood still");
        let due = [7, 8].map(|step| {
            control.step(step);
            control.poll().map(|request| request.at_step)
        });
        assert_eq!(due, [None, Some(8)]);
    }

    #[test]
    fn a_pause_keeps_a_rank_until_the_resume() {
        let page = Arc::new(Page::new(1).unwrap());
        let control = Control::new(page.clone(), 0);
        control.step(5);
        control.expires(b"step", Duration::from_secs(60)).unwrap();
        control.section(Name::new(b"step")).unwrap();
        let before = page.timer(0, 0).unwrap().expires;
        let entered = page.place(0).unwrap().since;
        let sequence = publish(&page, 0, 1, RequestKind::Pause, 1);
        assert!(control.poll().is_none(), "not at this step");
        control.step(6);
        assert_eq!(
            control.poll().map(|request| (request.kind, request.at_step)),
            Some((RequestKind::Pause, 6))
        );
        control.acknowledge(true).unwrap();
        assert!(page.said(0).paused);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| control.poll().map(|request| request.kind));
            std::thread::sleep(Duration::from_millis(20));
            let sequence = publish(&page, sequence, 2, RequestKind::Save, 1);
            assert_eq!(waits.join().unwrap(), Some(RequestKind::Save), "where it stands");
            control.acknowledge(false).unwrap();
            let waits = scope.spawn(|| control.poll().map(|request| request.kind));
            std::thread::sleep(Duration::from_millis(20));
            assert!(page.said(0).paused && !waits.is_finished());
            page.announce(sequence);
            page.publish(sequence, &View { request: None, paused_by: 0, debugged: None });
            assert_eq!(waits.join().unwrap(), None);
        });
        assert!(!page.said(0).paused);
        assert!(page.timer(0, 0).unwrap().expires >= before + Duration::from_millis(20), "time stood still");
        assert!(page.place(0).unwrap().since >= entered + Duration::from_millis(20), "in its section too");
    }

    #[test]
    fn time_18_the_agent_is_called_when_it_may_have_learnt_something() {
        let page = Arc::new(Page::new(1).unwrap());
        let control = Control::new(page.clone(), 0);
        let pass = |name: &[u8]| control.section(Name::new(name)).unwrap();
        pass(b"step");
        pass(b"");
        assert_eq!(page.rung(), 0, "nobody watches");
        page.watch_sections(None);
        page.begin(0, monotonic());
        // The first comes to its end with the second's begin; the fifth after it with the seventh's.
        let rung = [(); 9].map(|()| {
            pass(b"step");
            page.rung()
        });
        assert_eq!(rung, [0, 1, 1, 1, 1, 1, 2, 2, 2]);
        // One that has a limit, while the agent sleeps.
        page.watch_sections(Some(Duration::from_secs(1)));
        pass(b"step");
        page.set_next_look(Some(monotonic()));
        pass(b"step");
        assert_eq!(page.rung(), 3);
        for index in 1..SECTIONS_MOST {
            pass(&[b'0' + index as u8]);
        }
        let error = control.section(Name::new(b"one more")).unwrap_err().to_string();
        assert!(error.contains("one more"), "{error}");
    }

    #[test]
    fn one_rank_is_at_its_debugger_and_does_not_pause() {
        let page = Arc::new(Page::new(2).unwrap());
        let [one, other] = [0, 1].map(|rank| Control::new(page.clone(), rank));
        assert!(one.debug_end().is_err());
        std::thread::scope(|scope| {
            let begins = scope.spawn(|| one.debug_begin());
            while page.debug(0) == 0 {
                std::thread::yield_now();
            }
            page.announce(0);
            let request = Request {
                id: 1,
                kind: RequestKind::Pause,
                reason: Reason::Host,
                at_step: 0,
                held: false,
                deadline: Duration::MAX,
            };
            let debugged = Some(Debugged { rank: 0, session: page.debug(0) });
            page.publish(0, &View { request: Some(request), paused_by: 1, debugged });
            begins.join().unwrap().unwrap();
        });
        assert!(one.debug_begin().is_err());
        assert_eq!((one.poll(), other.poll().map(|request| request.kind)), (None, Some(RequestKind::Pause)));
        one.debug_end().unwrap();
        assert_eq!(page.debug(0), 0);
    }

    #[test]
    fn a_later_process_of_a_rank_begins_anew() {
        let page = Arc::new(Page::new(1).unwrap());
        let first = Control::new(page.clone(), 0);
        first.step(7);
        first.expires(b"step", Duration::from_secs(1)).unwrap();
        publish(&page, 0, 1, RequestKind::Save, 0);
        first.step(8);
        assert!(first.poll().is_some());
        first.acknowledge(true).unwrap();
        let second = Control::new(page.clone(), 0);
        assert_eq!((page.step(0), page.timer(0, 0)), (None, None));
        assert_eq!(second.poll(), None, "that was answered");
    }

    #[test]
    fn time_02_scopes_are_replaced_released_and_limited() {
        let page = Arc::new(Page::new(1).unwrap());
        let control = Control::new(page.clone(), 0);
        control.release(b"unknown");
        control.expires(b"a", Duration::from_secs(1)).unwrap();
        control.expires(b"a", Duration::from_secs(9)).unwrap();
        assert_eq!(page.timer(0, 0).map(|timer| timer.lasts), Some(Duration::from_secs(9)));
        assert_eq!(page.timer(0, 1), None);
        control.release(b"a");
        assert_eq!(page.timer(0, 0), None);
        for index in 0..TIMERS_MOST {
            control.expires(format!("{index}").as_bytes(), Duration::from_secs(1)).unwrap();
        }
        assert!(control.expires(b"one more", Duration::ZERO).is_err());
        assert!(control.expires(b"3", Duration::ZERO).is_ok());
    }
}
