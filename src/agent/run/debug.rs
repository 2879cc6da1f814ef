//! Who has the terminal: the rank that calls for a debugger, else the one that the spec names, as long as it
//! lives, else the host. While a rank has it no timer runs.

use std::os::fd::{AsRawFd, RawFd};

use super::context::Context;
use super::control::Control;
use super::group::Group;
use crate::control::request::Debugged;
use crate::spec::{Level, Spec};
use crate::sys::process;
use crate::sys::terminal::Terminal;

/// Debuggers of the workers.
#[derive(Default)]
pub struct Debuggers {
    /// The rank whose call for a debugger is served now; others that call wait for its end.
    called: Option<Debugged>,
    terminal: Option<Terminal>,
    /// Whose group is in its foreground; the host's if none.
    foreground: Option<usize>,
    /// Time stood still at the last look.
    still: bool,
}

/// What time does for the limits of workers.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    AsBefore,
    /// It stood still: what has passed up to now counts for nobody.
    BeginsAnew,
}

impl Debuggers {
    /// Whether time stands still.
    pub fn are_there(&self, context: &Context, group: &Group) -> bool {
        self.called.is_some() || named_rank(context.spec, group).is_some()
    }

    /// Whether a rank has it, or would if there were one.
    pub fn is_terminal_lent(&self) -> bool {
        self.foreground.is_some()
    }

    /// The terminal for the streams of a worker that is about to start; none if it has others.
    pub fn terminal_for(&mut self, context: &Context, rank: usize) -> Option<RawFd> {
        if context.spec.debug_rank != Some(rank) {
            return None;
        }
        if !self.open_terminal() {
            context.log(Level::Warning, || {
                format!("local rank {rank} has no terminal: this process is not in the foreground of one")
            });
            return None;
        }
        let terminal = self.terminal.as_mut()?;
        // The worker puts itself into the foreground, before it reads.
        terminal.remember();
        Some(terminal.as_raw_fd())
    }

    /// Whether there is one that can be lent.
    fn open_terminal(&mut self) -> bool {
        if self.terminal.is_none() {
            self.terminal = Terminal::open().ok();
        }
        self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Workers have called for a debugger, or are done with one, or have ended.
    pub fn attend(
        &mut self,
        context: &Context,
        group: &Group,
        control: &mut Control,
        is_running: bool,
    ) -> Time {
        let (Some(page), Some(_)) = (control.page().cloned(), group.attempt()) else {
            return self.hand_terminal(context, group);
        };
        if let Some(Debugged { rank, session }) = self.called
            && (!group.lives(rank) || page.debug(rank) != session)
        {
            self.called = None;
            control.end_debugging();
        }
        let mut calls = (0..page.ranks()).map(|rank| Debugged { rank, session: page.debug(rank) });
        let next = calls.find(|call| call.session != 0 && group.lives(call.rank));
        let next = next.filter(|_| self.called.is_none() && is_running);
        self.called = self.called.or(next);
        // Before it learns that its turn has come.
        let time = self.hand_terminal(context, group);
        if let Some(debugged) = next {
            control.begin_debugging(group, debugged);
        }
        time
    }

    /// The attempt is over.
    pub fn forget(&mut self, context: &Context, group: &Group) -> Time {
        self.called = None;
        self.hand_terminal(context, group)
    }

    /// Sees to it that the terminal is with whom it is to be.
    pub fn hand_terminal(&mut self, context: &Context, group: &Group) -> Time {
        let rank = self.called.map(|call| call.rank).or(named_rank(context.spec, group));
        let still = rank.is_some();
        let stood_still = std::mem::replace(&mut self.still, still);
        let time = if stood_still && !still { Time::BeginsAnew } else { Time::AsBefore };
        if rank == self.foreground {
            return time;
        }
        let process_group = rank.and_then(|rank| Some(group.attempt()?.workers[rank].group()));
        match process_group.filter(|&number| number != 0) {
            Some(number) if self.open_terminal() => {
                let lent = self.terminal.as_mut().map(|terminal| terminal.lend(number));
                // One that has tried to read before was stopped for it.
                let _ = process::signal_group(number, libc::SIGCONT);
                context.log(Level::Info, || match lent {
                    Some(Ok(())) => format!("the terminal is with process group {number}"),
                    _ => format!("process group {number} cannot have the terminal"),
                });
            }
            // A debugger that needs none.
            Some(_) => {}
            None => self.take_terminal_back(),
        }
        self.foreground = rank;
        context.output.hide_bar(rank.is_some());
        time
    }

    /// A question is to be asked there, or nobody needs it any more.
    pub fn take_terminal_back(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
    }
}

/// The rank that the spec names, while it lives.
fn named_rank(spec: &Spec, group: &Group) -> Option<usize> {
    spec.debug_rank.filter(|&rank| group.lives(rank))
}
