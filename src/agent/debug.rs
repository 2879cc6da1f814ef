//! Who has the terminal: the rank that calls for a debugger, else the one that the spec names, as long as it
//! lives, else the host. While a rank has it no timer runs.

use super::run::Run;
use crate::control::request::Debugged;
use crate::spec::Level;
use crate::sys::process;
use crate::sys::terminal::Terminal;

/// Debuggers of the workers.
#[derive(Default)]
pub(super) struct Debuggers {
    /// Who has called for one, of those who did the first to be heard.
    called: Option<Debugged>,
    terminal: Option<Terminal>,
    /// Whose group is in its foreground; the host's if none.
    foreground: Option<usize>,
    /// Time stood still at the last look.
    still: bool,
}

impl Run<'_> {
    pub(super) fn is_debugging(&self) -> bool {
        self.debuggers.called.is_some() || self.named_rank().is_some()
    }

    /// Whether a rank has it, or would if there were one.
    pub(super) fn is_terminal_lent(&self) -> bool {
        self.debuggers.foreground.is_some()
    }

    /// The rank that the spec names, while it lives.
    fn named_rank(&self) -> Option<usize> {
        self.spec.debug_rank.filter(|&rank| self.lives(rank))
    }

    /// The terminal for the streams of a worker that is about to start; none if it has others.
    pub(super) fn terminal_for(&mut self, rank: usize) -> Option<&Terminal> {
        if self.spec.debug_rank != Some(rank) {
            return None;
        }
        if !self.open_terminal() {
            self.log(Level::Warning, || {
                format!("local rank {rank} has no terminal: this process is not in the foreground of one")
            });
            return None;
        }
        let terminal = self.debuggers.terminal.as_mut()?;
        // The worker puts itself into the foreground, before it reads.
        terminal.remember();
        Some(terminal)
    }

    /// Whether there is one that can be lent.
    fn open_terminal(&mut self) -> bool {
        let terminal = &mut self.debuggers.terminal;
        if terminal.is_none() {
            *terminal = Terminal::open().ok();
        }
        terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Workers have called for a debugger, or are done with one, or have ended.
    pub(super) fn attend_debuggers(&mut self) {
        let (Some(conversation), Some(attempt)) = (&mut self.conversation, &self.attempt) else {
            return self.hand_terminal();
        };
        let page = conversation.page.clone();
        let lives = |rank: usize| attempt.workers[rank].is_alive();
        if let Some(Debugged { rank, session }) = self.debuggers.called
            && (!lives(rank) || page.debug(rank) != session)
        {
            self.debuggers.called = None;
            conversation.end_debugging();
        }
        let mut calls = (0..page.ranks()).map(|rank| Debugged { rank, session: page.debug(rank) });
        let next = calls.find(|call| call.session != 0 && lives(call.rank));
        match next.filter(|_| self.debuggers.called.is_none() && self.supervisor.is_running()) {
            None => self.hand_terminal(),
            Some(debugged) => {
                self.debuggers.called = Some(debugged);
                // Before it learns that its turn has come.
                self.hand_terminal();
                if let (Some(conversation), Some(attempt)) = (&mut self.conversation, &self.attempt) {
                    conversation.begin_debugging(debugged, |rank| attempt.workers[rank].is_alive());
                }
            }
        }
    }

    /// The attempt is over.
    pub(super) fn forget_debuggers(&mut self) {
        self.debuggers.called = None;
        self.hand_terminal();
    }

    /// Sees to it that the terminal is with whom it is to be, and that time stands still or goes on.
    pub(super) fn hand_terminal(&mut self) {
        let rank = self.debuggers.called.map(|call| call.rank).or(self.named_rank());
        let still = rank.is_some();
        if std::mem::replace(&mut self.debuggers.still, still) && !still {
            self.begin_timers_anew();
        }
        if rank == self.debuggers.foreground {
            return;
        }
        let group = rank.and_then(|rank| Some(self.attempt.as_ref()?.workers[rank].group()));
        match group.filter(|&group| group != 0) {
            Some(group) if self.open_terminal() => {
                let lent = self.debuggers.terminal.as_mut().map(|terminal| terminal.lend(group));
                // One that has tried to read before was stopped for it.
                let _ = process::signal_group(group, libc::SIGCONT);
                self.log(Level::Info, || match lent {
                    Some(Ok(())) => format!("the terminal is with process group {group}"),
                    _ => format!("process group {group} cannot have the terminal"),
                });
            }
            // A debugger that needs none.
            Some(_) => {}
            None => {
                if let Some(terminal) = &mut self.debuggers.terminal {
                    terminal.take_back();
                }
            }
        }
        self.debuggers.foreground = rank;
        self.output.hide_bar(rank.is_some());
    }

    /// A question is to be asked there.
    pub(super) fn take_terminal_back(&mut self) {
        if let Some(terminal) = &mut self.debuggers.terminal {
            terminal.take_back();
        }
    }
}
