//! The fork server of a run, where it has one: its start, the births that are under way there, its end.

use std::os::fd::AsFd;
use std::time::Duration;

use super::context::Context;
use super::descendants::Descendants;
use super::wake::Wake;
use super::watchers::Watchers;
use crate::error::{Error, c_string_lossy};
use crate::moment::Moment;
use crate::plan;
use crate::process::descent::{Mark, Since};
use crate::process::launch::Launcher;
use crate::process::start::forkserver::{Forkserver, Heard, ServerAnswer};
use crate::reminder::Reminder;
use crate::spec::Level;
use crate::spec::variables::DESCENT;
use crate::sys::child::Child;
use crate::sys::process::{monotonic, ticks};

/// How long births that are under way may still take once a stop was asked for.
const BIRTHS_WITHIN: Duration = Duration::from_secs(1);
/// How soon a stop is seen while births are under way and a signal waits to be handed on.
const LOOK_FOR_STOP: Duration = Duration::from_millis(10);

pub struct ForkServer {
    server: Option<Forkserver>,
    /// One that is not warm yet, and what reminds of that.
    warming: Option<(Forkserver, Reminder)>,
    since: Since,
    /// How the last one ended, if it did so by itself.
    end: Option<String>,
}

/// What ended a wait for the warm-up.
pub enum Warmth {
    Warm,
    /// There are requests to be taken.
    Requests,
}

/// What ended a wait for births.
pub enum Birth {
    /// No more are under way than may be.
    Enough,
    Born {
        slot: usize,
        child: Child,
    },
    NotBorn {
        slot: usize,
        errno: i32,
    },
    /// The server is gone, or does not answer.
    Gone,
}

/// How long births are waited for.
pub struct Patience {
    /// Once a stop was asked for.
    deadline: Option<Moment>,
    reminder: Reminder,
}

impl Patience {
    pub fn new() -> Patience {
        Patience { deadline: None, reminder: Reminder::since(monotonic()) }
    }
}

impl ForkServer {
    pub fn none() -> ForkServer {
        let since = Since { begun: Duration::ZERO, ticks: 0, first: 0 };
        ForkServer { server: None, warming: None, since, end: None }
    }

    /// Starts one if there is none; whether its warm-up has to be waited for.
    pub fn start(
        &mut self,
        context: &Context,
        launcher: &mut Launcher,
        watchers: &Watchers,
        descendants: &mut Descendants,
    ) -> Result<bool, Error> {
        match self.hear() {
            None => {}
            // It was killed since, with no worker.
            Some(Heard::Gone) => drop(self.forget(context, watchers, descendants)),
            Some(_) => return Ok(false),
        }
        let mut env = plan::server_env(context.spec, &context.host.env);
        let descent = descendants.marks(context, Mark::of_server);
        if !descent.is_empty() {
            env.push(c_string_lossy(&[DESCENT.as_bytes(), b"=", &descent].concat()));
        }
        let begun = Since { begun: monotonic(), ticks: ticks(), first: 0 };
        let groups = watchers.table().map(|table| (table, slot(context)));
        let server = launcher.start_server(context.spec, &env, groups)?;
        descendants.add_helper(server.pid());
        self.since = Since { first: server.pid(), ..begun };
        self.warming = Some((server, Reminder::since(monotonic())));
        Ok(true)
    }

    /// Waits until it is warm, or until there are requests.
    pub fn warm(
        &mut self,
        context: &Context,
        watchers: &Watchers,
        descendants: &mut Descendants,
    ) -> Result<Warmth, Error> {
        while let Some((server, reminder)) = &mut self.warming {
            match server.hear() {
                Heard::Answer(ServerAnswer::Ready, _) => self.is_warm(context, descendants)?,
                Heard::Nothing if context.inbox.has_requests() => return Ok(Warmth::Requests),
                Heard::Nothing => {
                    let pid = server.pid();
                    let left = context.remind(reminder, |waited| {
                        format!("the fork server (PID {pid}) has not been warm for {waited}")
                    });
                    server.wait(Some(context.inbox.as_fd()), Some(left));
                }
                Heard::Answer(..) | Heard::Gone => {
                    watchers.note(slot(context), 0);
                    let end = self.warming.take().map(|(server, _)| server.end());
                    return Err(Error::Start { what: end.unwrap_or_default() });
                }
            }
        }
        Ok(Warmth::Warm)
    }

    fn is_warm(&mut self, context: &Context, descendants: &mut Descendants) -> Result<(), Error> {
        let Some((server, reminder)) = self.warming.take() else { return Ok(()) };
        let pid = server.pid();
        context.log(Level::Debug, || format!("the fork server is PID {pid}"));
        context.remind_no_more(&reminder, |waited| {
            format!("the fork server (PID {pid}) is warm after {waited}")
        });
        descendants.set_forked_program(std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        for fd in server.fds() {
            context
                .poll
                .add(fd, Wake::ForkServer)
                .map_err(|errno| Error::system("cannot watch the fork server", errno as i32))?;
        }
        self.server = Some(server);
        Ok(())
    }

    /// The run is stopped before it is warm: nobody needs it any more.
    pub fn call_off(&mut self, context: &Context, watchers: &Watchers) {
        if self.warming.take().is_some() {
            watchers.note(slot(context), 0);
        }
    }

    pub fn get(&mut self) -> Option<&mut Forkserver> {
        self.server.as_mut()
    }

    pub fn is_there(&self) -> bool {
        self.server.is_some()
    }

    /// How many births were asked for and not answered.
    pub fn births(&self) -> usize {
        self.server.as_ref().map_or(0, Forkserver::births)
    }

    /// How the last one ended, if it did so by itself.
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// What it said next, without waiting; none without a server.
    pub fn hear(&mut self) -> Option<Heard> {
        self.server.as_mut().map(Forkserver::hear)
    }

    /// What it told while the agent waited for something else.
    pub fn take_kept(&mut self) -> Vec<ServerAnswer> {
        self.server.as_mut().map(Forkserver::take_kept).unwrap_or_default()
    }

    /// Waits for the next birth as long as more than `left` are under way.
    pub fn next_birth(&mut self, context: &Context, left: usize, patience: &mut Patience) -> Birth {
        let (slots, inbox) = (slot(context), context.inbox);
        while let Some(server) = self.server.as_mut().filter(|server| server.births() > left) {
            match server.hear() {
                Heard::Answer(ServerAnswer::Born { slot, pid }, Some(pidfd)) if slot < slots => {
                    return Birth::Born { slot, child: Child { pid, pidfd } };
                }
                Heard::Answer(ServerAnswer::NotBorn { slot, errno }, _) if slot < slots => {
                    return Birth::NotBorn { slot, errno };
                }
                Heard::Answer(answer @ (ServerAnswer::Ended { .. } | ServerAnswer::Lost { .. }), _) => {
                    server.keep(answer);
                }
                Heard::Answer(..) | Heard::Gone => return Birth::Gone,
                Heard::Nothing if patience.deadline.is_some_and(|deadline| deadline <= monotonic()) => {
                    context.log(Level::Error, || "the fork server does not answer: killed".into());
                    return Birth::Gone;
                }
                Heard::Nothing => {
                    let stops = inbox.stop_requested().is_some() || inbox.is_interrupted();
                    if patience.deadline.is_none() && stops {
                        patience.deadline = Some(monotonic() + BIRTHS_WITHIN);
                    }
                    let (rung, births) = (inbox.has_requests(), server.births());
                    let next = context.remind(&mut patience.reminder, |waited| {
                        format!("{births} workers have not been forked by the fork server for {waited}")
                    });
                    let limit = limit(patience.deadline, rung, next, monotonic());
                    server.wait((!rung).then(|| inbox.as_fd()), Some(limit));
                }
            }
        }
        Birth::Enough
    }

    /// It is gone, or of no more use: makes sure that it is gone. False if there was none.
    pub fn gone(&mut self, context: &Context, watchers: &Watchers, descendants: &mut Descendants) -> bool {
        let Some(end) = self.forget(context, watchers, descendants) else { return false };
        self.end = Some(end);
        true
    }

    /// How it ended.
    fn forget(
        &mut self,
        context: &Context,
        watchers: &Watchers,
        descendants: &mut Descendants,
    ) -> Option<String> {
        let server = self.server.take()?;
        for fd in server.fds() {
            context.poll.delete(fd);
        }
        let end = server.end();
        context.log(Level::Warning, || format!("{end}: its workers go with it"));
        watchers.note(slot(context), 0);
        descendants.forget_helper(self.since.first);
        self.end_descendants(context, descendants);
        Some(end)
    }

    /// The run is over. `kill`: what its warm-up started goes with it.
    pub fn close(&mut self, context: &Context, descendants: &mut Descendants, kill: bool) {
        (self.server, self.warming) = (None, None);
        if kill {
            self.end_descendants(context, descendants);
        }
    }

    fn end_descendants(&mut self, context: &Context, descendants: &mut Descendants) {
        if self.since.first != 0 {
            descendants.end_of_server(context, &self.since);
            self.since.first = 0;
        }
    }
}

/// Its own in the table of the watchers, after those of the workers.
fn slot(context: &Context) -> usize {
    context.spec.local_world_size
}

/// How long to wait for a word about births. A signal to hand on (`rung`) is for all that were born, so it waits until
/// the server has told. The bell rings on meanwhile, and a stop is looked for.
fn limit(deadline: Option<Moment>, rung: bool, next_reminder: Duration, now: Moment) -> Duration {
    match deadline {
        Some(deadline) => deadline.saturating_sub(now),
        None if rung => LOOK_FOR_STOP,
        None => next_reminder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stop_bounds_the_wait_for_births() {
        let now = 100 * SECOND;
        assert_eq!(limit(None, false, 5 * SECOND, now), 5 * SECOND);
        assert_eq!(limit(None, true, 5 * SECOND, now), LOOK_FOR_STOP);
        assert_eq!(limit(Some(now + SECOND), true, 5 * SECOND, now), SECOND);
        assert_eq!(limit(Some(now - SECOND), false, 5 * SECOND, now), Duration::ZERO);
    }
}
