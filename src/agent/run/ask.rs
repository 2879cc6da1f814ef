//! The question at the terminal: ^C pauses the workers, and asks whether they are to save a checkpoint before the
//! run is stopped. Another ^C stops it at once. In a thread of its own, which asks for things as a host does.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::context::Context;
use super::debug::Debuggers;
use crate::agent::{OVER, Shared};
use crate::control::pending::HostWish;
use crate::control::request::{Answer, Answers, RequestKind};
use crate::error::Error;
use crate::logs::output::Talker;
use crate::spec::Level;
use crate::sys::fd::Bell;
use crate::sys::signals::Inbox;
use crate::sys::{dispositions, fd, terminal};

/// How long workers may take to pause.
const PAUSE_TIME: Duration = Duration::from_secs(10);
const QUESTION: &str = "Should I save the checkpoint? [Y/n] ";

/// A question that is asked. With the end of this, which is that of the run, it has no more answers, and ends.
struct Asking {
    over: Arc<Bell>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
    fn start(
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
        talker: Talker,
        save_time: Duration,
    ) -> Result<Asking, Error> {
        let failed = |errno: nix::errno::Errno| Error::system("cannot ask at the terminal", errno as i32);
        let over = Arc::new(Bell::new().map_err(failed)?);
        let input = fd::duplicate(libc::STDIN_FILENO).map_err(failed)?;
        let dialogue = Dialogue {
            over: over.clone(),
            input: input.into(),
            inbox,
            shared: shared.clone(),
            talker,
            save_time,
        };
        let thread = std::thread::Builder::new()
            .name("ice-ask".into())
            .spawn(move || {
                dispositions::block_all();
                dialogue.hold();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Asking { over, shared, thread: Some(thread) })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.over.ring();
        self.shared.pending.close(OVER);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Dialogue {
    over: Arc<Bell>,
    input: std::fs::File,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    talker: Talker,
    save_time: Duration,
}

impl Dialogue {
    fn hold(mut self) {
        let _ = self.request(RequestKind::Pause, PAUSE_TIME);
        match self.question() {
            None => return,
            Some(false) => {}
            Some(true) => {
                if let Ok(Some(answers)) = self.request(RequestKind::Save, self.save_time) {
                    told(&answers).into_iter().for_each(|line| self.talker.say(line));
                }
            }
        }
        // One more would be a stop in a hurry.
        if !self.is_over() {
            self.inbox.stop(libc::SIGINT);
        }
    }

    fn is_over(&self) -> bool {
        fd::is_readable(self.over.as_fd())
    }

    fn request(&self, kind: RequestKind, limit: Duration) -> Result<Option<Answers>, Error> {
        self.shared.pending.ask(HostWish::Request(kind), limit, || self.inbox.ring())
    }

    /// None if the run is stopped meanwhile.
    fn question(&mut self) -> Option<bool> {
        let mut line = [0; 256];
        loop {
            if self.is_over() {
                return None;
            }
            self.talker.ask(QUESTION);
            let mut items =
                [&self.over.as_fd(), &self.input.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
            let _ = poll(&mut items, PollTimeout::NONE);
            if items[0].any().unwrap_or(false) {
                self.talker.answered(true);
                return None;
            }
            let count = self.input.read(&mut line).unwrap_or(0);
            self.talker.answered(count == 0);
            // At the end of its input nobody is there any more: what was computed is kept.
            let answer = if count == 0 { Some(true) } else { answer(&line[..count]) };
            if answer.is_some() {
                return answer;
            }
        }
    }
}

fn answer(line: &[u8]) -> Option<bool> {
    match line.trim_ascii() {
        b"" | b"y" | b"Y" | b"yes" => Some(true),
        b"n" | b"N" | b"no" => Some(false),
        _ => None,
    }
}

/// What became of the checkpoint, a line for each that is to blame.
fn told(answers: &Answers) -> Vec<String> {
    if answers.complete() {
        return vec!["the checkpoint is saved".into()];
    }
    let blame = |(rank, (answer, _)): (usize, &(Answer, Option<u64>))| {
        let what = match answer {
            Answer::Succeeded => return None,
            Answer::None => "has not answered in time",
            Answer::Failed => "could not save",
            Answer::Gone => "has ended",
        };
        Some(format!("no whole checkpoint: rank {rank} {what}"))
    };
    answers.ranks.iter().enumerate().filter_map(blame).collect()
}

/// Whoever sits at the terminal is asked, or was.
#[derive(Default)]
pub struct Question(Option<Asking>);

impl Question {
    /// ^C, where it is a question: the first is, if somebody can be asked (`is_running`: there are workers); others, and
    /// one that nobody can answer, stop the run.
    pub fn hear_interrupts(&mut self, context: &Context, debuggers: &mut Debuggers, is_running: bool) {
        for _ in 0..context.inbox.take_interrupts() {
            let asks = self.0.is_none()
                && context.inbox.stop_requested().is_none()
                && is_running
                && self.ask(context, debuggers);
            if !asks {
                context.inbox.stop(libc::SIGINT);
            }
        }
    }

    /// Whether somebody is asked.
    fn ask(&mut self, context: &Context, debuggers: &mut Debuggers) -> bool {
        debuggers.take_terminal_back();
        if !terminal::in_foreground(libc::STDIN_FILENO) {
            return false;
        }
        let started = context
            .output
            .talker()
            .map_err(|errno| Error::system("cannot write to the terminal", errno as i32))
            .and_then(|talker| {
                let (inbox, shared) = (context.inbox.clone(), context.shared.clone());
                Asking::start(inbox, shared, talker, context.spec.save_time())
            });
        match started {
            Ok(asking) => self.0 = Some(asking),
            Err(error) => {
                context.log(Level::Warning, || format!("nobody is asked for a checkpoint: {error}"));
            }
        }
        self.0.is_some()
    }

    /// Whether the stop that is under way came from there.
    pub fn is_answered(&self, context: &Context) -> bool {
        self.0.is_some() && context.inbox.stop_requested() == Some(libc::SIGINT)
    }

    /// The run is stopped: nobody needs to answer any more.
    pub fn call_off(&self) {
        if let Some(asking) = &self.0 {
            asking.over.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_is_yes_and_anything_else_asks_again() {
        let answers = ["\n", "y\n", "Y\n", "yes\n", " yes \r\n"].map(|line| answer(line.as_bytes()));
        assert_eq!(answers, [Some(true); 5]);
        assert_eq!(["n\n", "N\n", "no\n"].map(|line| answer(line.as_bytes())), [Some(false); 3]);
        assert_eq!(["what?\n", "yn\n", "nope"].map(|line| answer(line.as_bytes())), [None; 3]);
    }

    #[test]
    fn who_is_to_blame() {
        let answers = |ranks: &[Answer]| Answers {
            ranks: ranks.iter().map(|&answer| (answer, None)).collect(),
            took: Duration::ZERO,
        };
        assert_eq!(told(&answers(&[Answer::Succeeded])), ["the checkpoint is saved"]);
        let two = told(&answers(&[Answer::Gone, Answer::Succeeded, Answer::None]));
        assert_eq!(two.len(), 2);
        assert_eq!(two[1], "no whole checkpoint: rank 2 has not answered in time");
    }
}
