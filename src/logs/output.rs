//! The output thread: everything of a run that may be slow, full or gone (the console, the host's
//! callbacks, filtered copies) is done here, beside the agent's loop, which never waits for it.
//!
//! Tee'd streams are files that workers write themselves; this thread follows them. It sleeps until
//! inotify tells that an idle file has grown. A file that grows all the time is read at intervals, so
//! that neither the worker nor this thread pays for an event per write.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, Inotify, WatchDescriptor};
use once_cell::unsync::OnceCell;
use parking_lot::Mutex;

use super::bar::{Bar, Group};
use super::console::{Console, Flushed};
use super::events::{Events, Places};
use super::follow::{CHUNK, Follower, Next, Read, Stream};
use super::lines::Piece;
use super::loss::Loss;
use super::relay::{self, Hear, Relay, Spills, Tap};
use super::run_dir::open_log;
use crate::report::event::Event;
use crate::shown::shown;
use crate::spec::streams::Streams;
use crate::spec::{Level, LogCallback, Modes, OutputCallback, Spec};
use crate::sys::dispositions;
use crate::sys::fd::{self, Bell};
use crate::sys::process::milliseconds;
use crate::sys::terminal;

/// Between two looks at files that keep growing.
const BREATH: Duration = Duration::from_millis(3);
/// How long what is to be shown before something else may take: a terminal may be stopped.
const SHOWN_WITHIN: Duration = Duration::from_millis(300);
/// Without inotify (its instances are limited per user): between two looks at all files.
const WITHOUT_EVENTS: Duration = Duration::from_millis(50);

/// How long the end of an attempt waits for its output to be in files; a disk that stands still gets no more.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);
/// The same for the end of a run, at least.
const LEAST: Duration = Duration::from_secs(1);

enum Command {
    Follow(Stream),
    /// There is something that a file did not take.
    Spilled(Arc<Spills>),
    /// The workers of this attempt are gone: show the rest of its streams and let go of them.
    Close {
        attempt: u32,
    },
    Log(Level, String),
    Event(Event),
    Bar(OfBar),
    Talk(Talk),
    /// Say when all before this is done.
    Tell(std::sync::mpsc::Sender<()>),
    /// Show what is left until this moment, then end.
    Finish {
        deadline: Instant,
    },
}

/// What the progress bar is told.
enum OfBar {
    Begin(Group),
    /// The worker in this slot has.
    Ended(usize),
    Hide(bool),
}

/// Something said to whoever sits at the terminal.
enum Talk {
    Ask(&'static str),
    /// Whether the answer has left the cursor within the row.
    Answered {
        within_row: bool,
    },
    Say(String),
}

/// Where a thread may talk to whoever sits at the terminal.
pub struct Talker(Arc<Queue>);

impl Talker {
    /// Shows a question, and nothing else until it is answered.
    pub fn ask(&self, question: &'static str) {
        self.0.push(Command::Talk(Talk::Ask(question)));
    }

    /// `within_row`: no newline was typed.
    pub fn answered(&self, within_row: bool) {
        self.0.push(Command::Talk(Talk::Answered { within_row }));
    }

    pub fn say(&self, line: String) {
        self.0.push(Command::Talk(Talk::Say(shown(&line).into_owned())));
    }
}

/// The agent's end of the thread, which is started when the first thing is handed to it.
pub struct Output<'a> {
    spec: &'a Spec,
    events: Places,
    started: OnceCell<Result<Started, Errno>>,
    /// Where output goes through the agent.
    relay: OnceCell<Result<Relay, Errno>>,
}

struct Started {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

struct Queue {
    commands: Mutex<VecDeque<Command>>,
    bell: Bell,
}

impl Queue {
    fn push(&self, command: Command) {
        self.commands.lock().push_back(command);
        self.bell.ring();
    }
}

impl Hear for Queue {
    fn warn(&self, text: String) {
        self.push(Command::Log(Level::Warning, text));
    }

    fn spilled(&self, spills: Arc<Spills>) {
        self.push(Command::Spilled(spills));
    }
}

impl<'a> Output<'a> {
    pub fn new(spec: &'a Spec, events: Places) -> Output<'a> {
        Output { spec, events, started: OnceCell::new(), relay: OnceCell::new() }
    }

    fn started(&self) -> Result<&Started, Errno> {
        let started = self.started.get_or_init(|| Started::start(self.spec, &self.events));
        started.as_ref().map_err(|errno| *errno)
    }

    fn push(&self, command: Command) -> Result<(), Errno> {
        self.started().map(|started| started.queue.push(command))
    }

    /// A message for the host, made only if it wants one of this level.
    pub fn log(&self, level: Level, text: impl FnOnce() -> String) {
        if self.spec.log_callback.is_some() && level <= self.spec.log_level {
            // Without the thread there is nobody who could be told.
            let _ = self.push(Command::Log(level, text()));
        }
    }

    pub fn wants_events(&self) -> bool {
        self.spec.event_callback.is_some() || !self.events.is_empty()
    }

    /// For those who want events.
    pub fn event(&self, event: Event) {
        let _ = self.push(Command::Event(event));
    }

    pub fn follow(&self, stream: Stream) -> Result<(), Errno> {
        self.push(Command::Follow(stream))
    }

    /// Has what comes out of a worker's pipe written to its file. Whoever follows that does so already.
    pub fn relay(&self, attempt: u32, tap: Tap) -> Result<(), Errno> {
        let start = || Relay::start(self.started()?.queue.clone());
        self.relay.get_or_init(start).as_ref().map_err(|errno| *errno)?.add(attempt, tap);
        Ok(())
    }

    /// The workers of an attempt are gone: waits until what they wrote is in their files, as far as it can be.
    pub fn drain(&self, attempt: u32) {
        if let Some(Ok(relay)) = self.relay.get()
            && !relay.close(attempt, DRAINED_WITHIN)
        {
            self.log(Level::Warning, || {
                "the disk of the logs does not answer: the last output may be missing".into()
            });
        }
    }

    /// An attempt has begun: the bar is about that one.
    pub fn begin_bar(&self, group: impl FnOnce() -> Group) {
        if self.spec.progress_bar {
            let _ = self.push(Command::Bar(OfBar::Begin(group())));
        }
    }

    pub fn worker_ended(&self, slot: usize) {
        if self.spec.progress_bar {
            let _ = self.push(Command::Bar(OfBar::Ended(slot)));
        }
    }

    /// Somebody else has the terminal, or not any more.
    pub fn hide_bar(&self, hide: bool) {
        if self.spec.progress_bar {
            let _ = self.push(Command::Bar(OfBar::Hide(hide)));
        }
    }

    /// Has the bar off the terminal, and what was said there, before this returns; it need not wait long.
    pub fn leave_terminal(&self) {
        self.hide_bar(true);
        if let Some(Ok(started)) = self.started.get() {
            let (done, waits) = std::sync::mpsc::channel();
            started.queue.push(Command::Tell(done));
            let _ = waits.recv_timeout(SHOWN_WITHIN);
        }
    }

    pub fn talker(&self) -> Result<Talker, Errno> {
        self.started().map(|started| Talker(started.queue.clone()))
    }

    pub fn close(&self, attempt: u32) {
        if let Some(Ok(started)) = self.started.get() {
            started.queue.push(Command::Close { attempt });
        }
    }

    /// Waits until all is shown, or until the time is over.
    pub fn finish(&mut self, time: Duration) {
        if let Some(Ok(relay)) = self.relay.take() {
            relay.end(time.max(LEAST));
        }
        if let Some(Ok(started)) = self.started.take() {
            let now = Instant::now();
            let deadline = now.checked_add(time).unwrap_or(now + Duration::from_secs(1_000_000_000));
            started.queue.push(Command::Finish { deadline });
            let _ = started.thread.join();
        }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.finish(Duration::ZERO);
    }
}

impl Started {
    fn start(spec: &Spec, events: &Places) -> Result<Started, Errno> {
        let queue = Arc::new(Queue { commands: Mutex::new(VecDeque::new()), bell: Bell::new()? });
        let mut thread = Thread {
            queue: queue.clone(),
            sinks: Sinks {
                consoles: consoles(spec.console)?,
                callback: spec.output_callback,
                filters: [spec.stdout_filters.clone(), spec.stderr_filters.clone()],
                filtered: HashMap::new(),
                warnings: Vec::new(),
                lost: Loss::default(),
                timestamps: spec.log_timestamps,
                modes: spec.modes(),
            },
            log: spec.log_callback,
            log_level: spec.log_level,
            events: Events::new(spec, events)?,
            bar: spec.progress_bar.then(Bar::new),
            held: VecDeque::new(),
            inotify: None,
            by_watch: HashMap::new(),
            followers: Vec::new(),
            buffer: Vec::new(),
            finish: None,
        };
        let thread = std::thread::Builder::new()
            .name("ice-output".into())
            .spawn(move || {
                dispositions::block_all();
                thread.run();
            })
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        Ok(Started { queue, thread })
    }
}

/// Those of stdout and stderr; one for both where they are one terminal.
fn consoles((out, err): (RawFd, RawFd)) -> Result<Vec<Console>, Errno> {
    if terminal::is_same(out, err) {
        return Ok(vec![Console::new(err)?]);
    }
    Ok(vec![Console::new(out)?, Console::new(err)?])
}

struct Thread {
    queue: Arc<Queue>,
    sinks: Sinks,
    log: Option<LogCallback>,
    log_level: Level,
    events: Events,
    bar: Option<Bar>,
    /// What is for the host to say, and waits for the answer to a question.
    held: VecDeque<Command>,
    inotify: Option<Inotify>,
    by_watch: HashMap<WatchDescriptor, usize>,
    /// A slot per stream; the index is the stream's name.
    followers: Vec<Option<Follower>>,
    buffer: Vec<u8>,
    finish: Option<Instant>,
}

impl Thread {
    fn run(&mut self) {
        loop {
            self.obey();
            self.read_all();
            self.show_unfinished(Instant::now());
            self.look_at_bar(Instant::now());
            self.flush();
            self.say_warnings();
            if self.is_over() {
                return self.give_up();
            }
            self.sleep();
        }
    }

    fn obey(&mut self) {
        self.queue.bell.quiet();
        loop {
            // Not in the condition of a `while let`: the lock must not be held while the host is called.
            let held = if self.sinks.terminal().is_asking() { None } else { self.held.pop_front() };
            let command = held.or_else(|| self.queue.commands.lock().pop_front());
            match command {
                None => return,
                // The host may write to the terminal itself.
                Some(command @ (Command::Log(..) | Command::Event(_)))
                    if self.sinks.terminal().is_asking() =>
                {
                    self.held.push_back(command);
                }
                Some(Command::Follow(stream)) => self.follow(stream),
                Some(Command::Spilled(spills)) => {
                    let is_theirs = |follower: &&mut Follower| {
                        follower.stream.spills.as_ref().is_some_and(|own| Arc::ptr_eq(own, &spills))
                    };
                    if let Some(follower) = self.followers.iter_mut().flatten().find(is_theirs) {
                        follower.next = Next::Now;
                    }
                }
                Some(Command::Close { attempt }) => {
                    for follower in self.followers.iter_mut().flatten() {
                        if follower.stream.attempt == attempt {
                            follower.closing = true;
                            follower.next = Next::Now;
                        }
                    }
                    self.with_bar(Bar::end);
                }
                Some(Command::Log(level, text)) => self.say(level, &text),
                Some(Command::Event(event)) => {
                    self.sinks.terminal().step_aside();
                    self.events.take(event, self.sinks.terminal());
                }
                Some(Command::Bar(of_bar)) => self.tell_bar(of_bar),
                Some(Command::Talk(talk)) => {
                    let terminal = self.sinks.terminal();
                    match talk {
                        Talk::Ask(question) => terminal.ask(question.as_bytes()),
                        Talk::Answered { within_row } => terminal.answered(within_row),
                        Talk::Say(line) => terminal.add_line(format!("{line}\n").as_bytes()),
                    }
                }
                Some(Command::Tell(done)) => {
                    self.flush();
                    let _ = done.send(());
                }
                Some(Command::Finish { deadline }) => {
                    self.finish = Some(deadline);
                    self.sinks.terminal().answered(true);
                }
            }
        }
    }

    fn tell_bar(&mut self, what: OfBar) {
        let Some(bar) = &mut self.bar else { return };
        match what {
            OfBar::Begin(group) => bar.begin(group),
            OfBar::Ended(slot) => bar.ended(slot),
            OfBar::Hide(hide) => {
                bar.hide(hide);
                self.with_bar(Bar::look);
            }
        }
    }

    fn look_at_bar(&mut self, now: Instant) {
        if self.bar.as_ref().and_then(Bar::deadline).is_some_and(|at| at <= now) {
            self.with_bar(Bar::look);
        }
    }

    /// Has the bar say how it is to be now.
    fn with_bar(&mut self, look: impl FnOnce(&mut Bar, Instant, usize) -> Option<String>) {
        let Some(bar) = &mut self.bar else { return };
        if let Some(row) = look(bar, Instant::now(), self.sinks.columns()) {
            self.sinks.terminal().set_footer(row.as_bytes());
        }
    }

    fn follow(&mut self, stream: Stream) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; CHUNK];
            match fd::inotify() {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(errno) => self.sinks.warnings.push(format!(
                    "no inotify instance can be had ({}), tee'd streams are looked at every {} ms",
                    errno.desc(),
                    WITHOUT_EVENTS.as_millis()
                )),
            }
        }
        let path = stream.path.clone();
        match Follower::open(stream) {
            Ok(follower) => match self.followers.iter_mut().position(|slot| slot.is_none()) {
                Some(free) => self.followers[free] = Some(follower),
                None => self.followers.push(Some(follower)),
            },
            Err(unusable) => {
                self.sinks.warnings.push(format!("{} {unusable}: it is not followed", path.display()));
            }
        }
    }

    /// Takes turns over all files that may have more, until none has or its console takes no more.
    fn read_all(&mut self) {
        const TURNS: usize = 64; // then commands and timers have theirs
        for _ in 0..TURNS {
            let mut more = false;
            for id in 0..self.followers.len() {
                more |= self.read_one(id);
            }
            self.flush();
            if !more {
                return;
            }
        }
    }

    /// Reads one piece of one file; true if there may be more at once.
    fn read_one(&mut self, id: usize) -> bool {
        let now = Instant::now();
        let Some(follower) = &mut self.followers[id] else { return false };
        let due = match follower.next {
            Next::Now => true,
            Next::At(moment) => moment <= now,
            Next::OnEvent => false,
        };
        if !due || self.sinks.is_full(&follower.stream) {
            return false;
        }
        if self.sinks.is_pointless(&follower.stream) {
            self.let_go(id);
            return false;
        }
        match follower.read(&mut self.buffer) {
            Read::Some(count) => {
                self.sinks.take(id, follower, &self.buffer[..count]);
                let more = follower.closing || count == self.buffer.len() || follower.has_spills();
                follower.next = if more { Next::Now } else { Next::At(now + BREATH) };
                more
            }
            Read::End if follower.closing => {
                self.sinks.finish(id, follower);
                self.let_go(id);
                false
            }
            Read::End if follower.watch.is_some() || follower.proc_path().is_none() => {
                follower.next = Next::OnEvent;
                false
            }
            Read::End => {
                let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
                let inotify = self.inotify.as_ref();
                let path = follower.proc_path().unwrap_or_default();
                match inotify.and_then(|inotify| inotify.add_watch(&path, flags).ok()) {
                    Some(watch) => {
                        self.by_watch.insert(watch, id);
                        follower.watch = Some(watch);
                        // What came between the read and the watch has no event.
                        follower.next = Next::Now;
                        true
                    }
                    None => {
                        follower.next = Next::At(now + WITHOUT_EVENTS);
                        false
                    }
                }
            }
            Read::Failed(error) => {
                let path = follower.stream.path.display();
                self.sinks.warnings.push(format!("{path} cannot be read any further: {error}"));
                self.sinks.finish(id, follower);
                self.let_go(id);
                false
            }
        }
    }

    fn let_go(&mut self, id: usize) {
        if let Some(watch) = self.followers[id].take().and_then(|follower| follower.watch) {
            self.by_watch.remove(&watch);
            if let Some(inotify) = &self.inotify {
                let _ = inotify.rm_watch(watch);
            }
        }
    }

    fn show_unfinished(&mut self, now: Instant) {
        for (id, follower) in self.followers.iter_mut().enumerate() {
            if let Some(follower) = follower
                && follower.show_at.is_some_and(|at| at <= now)
                && !self.sinks.is_full(&follower.stream)
            {
                self.sinks.flush_line(id, follower);
            }
        }
    }

    fn flush(&mut self) {
        let names: &[&str] =
            if self.sinks.consoles.len() == 1 { &["stdout and stderr"] } else { &["stdout", "stderr"] };
        for (console, name) in self.sinks.consoles.iter_mut().zip(names) {
            match console.flush() {
                Flushed::All | Flushed::Stuck => {}
                Flushed::Gone(errno) => self.sinks.warnings.push(format!(
                    "the console for {name} is gone ({}): workers go on, their output is in their files",
                    errno.desc()
                )),
                Flushed::Failed(errno, is_first) => {
                    if is_first {
                        self.sinks
                            .warnings
                            .push(format!("the console for {name} lost output: {}", errno.desc()));
                    }
                }
            }
        }
        self.sinks.warnings.extend(self.events.flush());
    }

    fn say_warnings(&mut self) {
        for warning in std::mem::take(&mut self.sinks.warnings) {
            self.say(Level::Warning, &warning);
        }
    }

    fn say(&mut self, level: Level, text: &str) {
        if let Some(log) = self.log.filter(|_| level <= self.log_level) {
            self.sinks.terminal().step_aside();
            let text: CString = crate::error::c_string_lossy(shown(text).as_bytes());
            (log.function)(log.user_data.0 as *mut std::ffi::c_void, level as i32, text.as_ptr());
        }
    }

    fn is_over(&self) -> bool {
        let Some(deadline) = self.finish else { return false };
        let all_shown = self.followers.iter().all(Option::is_none)
            && self.sinks.consoles.iter().chain(self.events.places()).all(|console| console.waiting() == 0);
        all_shown || Instant::now() >= deadline
    }

    fn give_up(&mut self) {
        let mut warnings = Vec::new();
        if self.bar.is_some() {
            self.sinks.terminal().leave_footer();
            self.flush();
        }
        if self.followers.iter().any(Option::is_some) || self.sinks.consoles.iter().any(|c| c.waiting() > 0) {
            self.say(Level::Warning, "the console takes no output: what it did not show is in the log files");
        }
        for total in self.sinks.consoles.iter().filter_map(|console| console.lost().total()) {
            warnings.push(format!("the console lost {total}"));
        }
        if let Some(total) = self.sinks.lost.total() {
            warnings.push(format!("{total} are missing in the filtered logs"));
        }
        warnings.extend(self.events.total());
        for warning in warnings {
            self.say(Level::Warning, &warning);
        }
        if self.events.places().any(|place| place.waiting() > 0) {
            self.say(Level::Warning, "the event file takes no more: the last events are not in it");
        }
    }

    /// Sleeps until there is something to do: for ever, if no file grows and nothing is unfinished.
    fn sleep(&mut self) {
        let now = Instant::now();
        let mut wake: Option<Instant> = self.finish;
        let mut at = |moment: Instant| wake = Some(wake.map_or(moment, |wake| wake.min(moment)));
        if let Some(look) = self.bar.as_ref().and_then(Bar::deadline) {
            at(look);
        }
        for follower in self.followers.iter().flatten() {
            // A full console wakes this thread when it takes more.
            if self.sinks.is_full(&follower.stream) {
                continue;
            }
            if let Some(moment) = follower.show_at {
                at(moment);
            }
            match follower.next {
                Next::Now => at(now),
                Next::At(moment) => at(moment),
                Next::OnEvent => {}
            }
        }
        let timeout = match wake {
            None => PollTimeout::NONE,
            Some(wake) => PollTimeout::try_from(milliseconds(wake.saturating_duration_since(now)))
                .unwrap_or(PollTimeout::ZERO),
        };
        self.wait(timeout);
    }

    fn wait(&mut self, timeout: PollTimeout) {
        let inotify = self.inotify.as_ref();
        let mut fds = vec![PollFd::new(self.queue.bell.as_fd(), PollFlags::POLLIN)];
        if let Some(inotify) = inotify {
            fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        let consoles = self.sinks.consoles.iter().chain(self.events.places());
        for console in consoles.filter(|console| console.waiting() > 0) {
            fds.push(PollFd::new(console.poll_fd(), PollFlags::POLLOUT));
        }
        let _ = poll(&mut fds, timeout);
        drop(fds);
        let Some(events) = inotify.and_then(|inotify| inotify.read_events().ok()) else { return };
        for event in events {
            // IN_IGNORED follows each one-shot event; a full queue (IN_Q_OVERFLOW) has no watch of its own.
            let woken: Vec<usize> = match self.by_watch.remove(&event.wd) {
                Some(id) => vec![id],
                None if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => {
                    (0..self.followers.len()).collect()
                }
                None => continue,
            };
            for id in woken {
                if let Some(Some(follower)) = self.followers.get_mut(id) {
                    follower.watch = None;
                    follower.next = Next::Now;
                }
            }
        }
    }
}

/// Where lines go.
struct Sinks {
    consoles: Vec<Console>,
    callback: Option<OutputCallback>,
    filters: [Vec<Vec<u8>>; 2],
    /// None for one that could not be made.
    filtered: HashMap<PathBuf, Option<File>>,
    warnings: Vec<String>,
    /// What the filtered files did not take.
    lost: Loss,
    timestamps: bool,
    modes: Modes,
}

impl Sinks {
    /// Which console a stream has.
    fn console(&self, which: Streams) -> usize {
        index(which).min(self.consoles.len() - 1)
    }

    /// That of stderr: the one with the bar and the questions, where it is a terminal.
    fn terminal(&mut self) -> &mut Console {
        let last = self.consoles.len() - 1;
        &mut self.consoles[last]
    }

    fn columns(&mut self) -> usize {
        terminal::columns(self.terminal().poll_fd().as_raw_fd())
    }

    fn is_full(&self, stream: &Stream) -> bool {
        self.callback.is_none() && stream.to_console && self.consoles[self.console(stream.which)].is_full()
    }

    /// Whether nobody will see the stream: its console is gone, and no copy is asked for.
    fn is_pointless(&self, stream: &Stream) -> bool {
        let shown = self.callback.is_some() || !self.consoles[self.console(stream.which)].is_gone();
        stream.filtered.is_none() && !(stream.to_console && shown)
    }

    fn take(&mut self, id: usize, follower: &mut Follower, bytes: &[u8]) {
        if follower.stream.to_console
            && let Some(callback) = self.callback
        {
            self.terminal().step_aside();
            let stream = index(follower.stream.which) as i32 + 1;
            let user_data = callback.user_data.0 as *mut std::ffi::c_void;
            (callback.function)(
                user_data,
                follower.stream.local_rank as i32,
                stream,
                bytes.as_ptr(),
                bytes.len(),
            );
            if follower.stream.filtered.is_none() {
                return;
            }
        }
        self.with_lines(id, follower, |follower, show| follower.feed(bytes, show));
    }

    fn flush_line(&mut self, id: usize, follower: &mut Follower) {
        self.with_lines(id, follower, |follower, show| follower.flush(show));
    }

    fn finish(&mut self, id: usize, follower: &mut Follower) {
        self.with_lines(id, follower, |follower, show| follower.finish(show));
    }

    /// Hands each piece of a stream to its console and, if a filter lets it through, to the filtered copy.
    fn with_lines(
        &mut self,
        id: usize,
        follower: &mut Follower,
        act: impl FnOnce(&mut Follower, &mut dyn FnMut(Piece)),
    ) {
        let which = index(follower.stream.which);
        let mut prefix = follower.stream.prefix.clone();
        if self.timestamps {
            let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
            prefix.splice(0..0, format!("{now} ").into_bytes());
        }
        let to_console = follower.stream.to_console && self.callback.is_none();
        let console = self.console(follower.stream.which);
        let console = &mut self.consoles[console];
        let filters = follower.stream.filtered.is_some().then_some(&self.filters[which]);
        let mut kept: Vec<u8> = Vec::new();
        act(follower, &mut |piece: Piece| {
            if to_console {
                console.add(id, &prefix, &piece);
            }
            if let Some(filters) = filters
                && filters.iter().any(|text| contains(&piece, text))
            {
                kept.extend_from_slice(&prefix);
                kept.extend_from_slice(piece.head);
                kept.extend_from_slice(piece.tail);
            }
        });
        if let (false, Some(path)) = (kept.is_empty(), &follower.stream.filtered) {
            self.write_filtered(path.clone(), &kept);
        }
    }

    fn write_filtered(&mut self, path: PathBuf, bytes: &[u8]) {
        let file = match self.filtered.entry(path) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let opened = open_log(new.key(), self.modes).map(File::from);
                new.insert(opened.inspect_err(|error| self.warnings.push(error.to_string())).ok())
            }
        };
        if let Some(open) = file
            && let Err((written, error)) = relay::write(open, bytes)
            && self.lost.add(&bytes[written..])
        {
            self.warnings.push(format!("a filtered log takes no more: {error}"));
        }
    }
}

fn contains(piece: &Piece, text: &[u8]) -> bool {
    if piece.head.is_empty() {
        return memchr::memmem::find(piece.tail, text).is_some();
    }
    memchr::memmem::find(&[piece.head, piece.tail].concat(), text).is_some()
}

fn index(stream: Streams) -> usize {
    if stream == Streams::STDOUT { 0 } else { 1 }
}
