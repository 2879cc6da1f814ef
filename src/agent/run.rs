//! The event loop of one run: it feeds the supervisor with what happens and does what it says.
//!
//! It waits in epoll for pidfds and requests, without a time-out while all is well. Nothing that may be
//! slow is done between a worker's exit and the signals that follow it.

mod finish;
mod store;
pub(super) mod stuck;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use self::finish::broken_off;
use self::stuck::Watch;
use super::ask::Asking;
use super::control::Conversation;
use super::debug::Debuggers;
use super::health::{About, Health, Place};
use super::on_signal::{Wanted, by_stop};
use super::port::Port;
use super::rendezvous::Others;
use super::reporter::Reporter;
use super::{Host, Settled, Shared, binding};
use crate::control::desk::Ticket;
use crate::control::section::Lessons;
use crate::device::numa::Share;
use crate::error::{Error, c_string_lossy, panic_text};
use crate::logs::events::Places;
use crate::logs::follow::Stream;
use crate::logs::output::Output;
use crate::logs::relay::Tap;
use crate::logs::run_dir::{RunDir, WorkerFiles, has_logs};
use crate::moment::Moment;
use crate::plan::{self, Job, Meeting, Plan};
use crate::probe::{Probe, Request};
use crate::process::attempt::{Attempt, Survivor, await_ends};
use crate::process::descent::{Finder, Mark, Since, worker_list};
use crate::process::launch::{Birth, Launcher};
use crate::process::start;
use crate::process::start::forkserver::{Answer, BIRTHS_AT_ONCE, Forkserver, Heard};
use crate::process::watcher::{self, Name, Table, Watcher};
use crate::ranks::{self, Rank};
use crate::reminder::Reminder;
use crate::report::event::{self, Origin, Stage};
use crate::report::metrics::{self, Times};
use crate::report::{Cause, End, GroupState, Outcome, RunReport, Snapshot, WorkerReport};
use crate::report::{message_of, root_cause, stuck_text, summary};
use crate::shown::on_one_line;
use crate::spec::names::{Signal, hostname};
use crate::spec::streams::Streams;
use crate::spec::variables::DESCENT;
use crate::spec::{Checked, Level, Spec};
use crate::standstill::{self, Standstill};
use crate::supervise::{Action, Event, Policy, Supervisor, Wait};
use crate::sys::child::Child;
use crate::sys::dispositions::{self, Reset};
use crate::sys::fd::above_stdio;
use crate::sys::limits;
use crate::sys::nameless;
use crate::sys::process::{Usage, milliseconds, monotonic, ticks};
use crate::sys::signals::Inbox;
use crate::sys::terminal;

/// How long after SIGKILL a worker that is still there is given up (it sleeps in the kernel).
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// How long descendants of dead workers may take to be gone after SIGKILL.
const EMPTY_GROUPS_WITHIN: Duration = Duration::from_secs(1);
/// How many failed attempts are remembered by their root cause.
const FAILURES: usize = 32;
const EVENTS: usize = 64;
/// Tokens of epoll events that are no local ranks.
const INBOX: u64 = u64::MAX;
const WATCHER: u64 = u64::MAX - 1;
const SERVER: u64 = u64::MAX - 2;
const TIMERS: u64 = u64::MAX - 3;
const SEARCHES: u64 = u64::MAX - 4;
const STORE: u64 = u64::MAX - 5;
const KEEPER: u64 = u64::MAX - 6;
/// How long births that are under way may still take once a stop was asked for.
const BIRTHS_WITHIN: Duration = Duration::from_secs(1);
/// How soon a stop is seen while births are under way and a signal waits to be handed on.
const LOOK_FOR_STOP: Duration = Duration::from_millis(10);
/// How long after a child's end those that were adopted are reaped: one look for many.
const REAP_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether an agent below a worker has stopped its own.
const GUESTS_LOOK: Duration = Duration::from_millis(10);

/// Runs a spec to its end, whatever happens: a panic becomes an agent error.
///
/// A run that is prepared first says what came of that to `begin`, which waits until the run may begin,
/// and gives what it then takes of the host. None if it never began.
pub fn to_its_end(
    spec: &Spec,
    settled: &Settled,
    inbox: &Arc<Inbox>,
    shared: &Arc<Shared>,
    host: Host,
    begin: Option<&dyn Fn(Result<(), Error>) -> Option<Host>>,
) -> Option<RunReport> {
    let run = || -> Result<Option<RunReport>, Error> {
        let raised = spec.raise_descriptor_limit.then(limits::Raised::to_hard).transpose();
        let _raised = raised.map_err(|errno| Error::system("cannot raise RLIMIT_NOFILE", errno as i32))?;
        let mut run = match Run::new(spec, settled, inbox, shared, host) {
            Ok(run) => run,
            Err(error) => match begin {
                None => return Err(error),
                Some(begin) => {
                    begin(Err(error));
                    return Ok(None);
                }
            },
        };
        if let Some(begin) = begin {
            let Some(host) = begin(run.prepare()) else {
                run.run_dir.as_ref().map(RunDir::tidy);
                return Ok(None);
            };
            run.take_over(host);
        }
        run.run().map(Some)
    };
    let report = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => Some(broken_off(spec, error)),
        Err(panic) => Some(broken_off(spec, Error::Internal { what: panic_text(&*panic) })),
    };
    report.inspect(|report| metrics::count(report.end, report.restarts))
}

/// TORCHELASTIC_RUN_ID.
pub fn run_id(spec: &Spec) -> Vec<u8> {
    spec.run_id.clone().unwrap_or_else(|| b"none".to_vec())
}

/// MASTER_ADDR of a job of one host.
fn master_addr(spec: &Spec) -> Vec<u8> {
    spec.master_addr.clone().unwrap_or_else(|| b"127.0.0.1".to_vec())
}

/// What is the same for all workers of one attempt.
pub fn job(
    (spec, checked): (&Spec, &Checked),
    run_id: Vec<u8>,
    master_port: u16,
    restarts: u32,
    meeting: Option<Meeting>,
    timer_file: Option<PathBuf>,
) -> Job {
    let (master_addr, master_port) = match &meeting {
        Some(meeting) => (meeting.master_addr.clone(), meeting.master_port),
        None => (master_addr(spec), master_port),
    };
    let (agent_store, descent) = (checked.agent_store, Vec::new());
    let hostname = hostname();
    Job { run_id, hostname, master_addr, master_port, agent_store, restarts, meeting, timer_file, descent }
}

/// Whom the run's workers start is found by a mark of the run.
fn finder(spec: &Spec) -> Finder {
    let method = start::of(spec);
    let mut finder = Finder::new(Mark::new(method.forks()).ok(), spec.subreaper);
    if method.forks() && !method.has_server() {
        finder.forked_program = std::fs::read_link("/proc/self/exe").ok();
    }
    finder
}

/// Makes events, where somebody wants them.
fn origin(spec: &Spec, output: &Output) -> Option<Origin> {
    output.wants_events().then(|| Origin::new(spec, &run_id(spec), &hostname()))
}

pub(super) struct Run<'a> {
    pub(super) spec: &'a Spec,
    pub(super) settled: &'a Settled,
    pub(super) inbox: &'a Arc<Inbox>,
    pub(super) shared: &'a Arc<Shared>,
    host: Host,
    pub(super) ranks: Vec<Rank>,
    pub(super) run_id: Vec<u8>,
    epoll: Epoll,
    pub(super) supervisor: Supervisor,
    actions: VecDeque<Action>,
    pub(super) attempt: Option<Attempt>,
    /// What agent and workers say to each other, where the spec wants them to.
    pub(super) conversation: Option<Conversation>,
    /// What the sections of attempts before this one tell of the next ones.
    pub(super) lessons: Lessons,
    /// That a worker asked for a restart, in words.
    pub(super) restart_wish: Option<String>,
    /// Who asked for the stop at which workers end by themselves.
    pub(super) gentle_stop: Option<Ticket>,
    launcher: Launcher,
    /// After `attempt`, as what follows: a panic drops the workers while they are still watched.
    server: Option<Forkserver>,
    server_since: Since,
    /// How the last fork server ended, if it did so by itself.
    pub(super) server_end: Option<String>,
    watcher: Option<Watcher>,
    /// A second one.
    keeper: Option<Watcher>,
    groups: Option<Table>,
    run_dir: Option<RunDir>,
    /// The files of this attempt could not be made: its workers do without.
    without_files: bool,
    pub(super) output: Output<'a>,
    /// Whoever sits at the terminal is asked, or was.
    pub(super) asking: Option<Asking>,
    pub(super) debuggers: Debuggers,
    origin: Option<Origin>,
    times: Times,
    /// Since when all workers run, until the first signal of a stop.
    monitored: Option<Duration>,
    /// Since when the group is being stopped.
    stopping: Option<Duration>,
    /// When the stop of the last attempt began, once it is over.
    restarting: Option<Duration>,
    health: Option<Health>,
    /// The other hosts of the job, once they are met.
    pub(super) others: Option<Others>,
    /// What is waited for, and when that is said next.
    pub(super) vigil: Option<(Wait, Reminder)>,
    /// Keeps MASTER_PORT from being given away while an attempt runs.
    pub(super) port: Option<Port>,
    /// For workers that are stuck.
    watch: Watch,
    /// When this loop did not run though it was to.
    pub(super) standstill: Standstill,
    stop_told: bool,
    hurry_told: bool,
    /// The signals that stop the run, and may be meant for workers and agent at once.
    pub(super) stops: Vec<i32>,
    pub(super) wanted_save: Option<Wanted>,
    /// Why the run cannot go on, for a start error or agent error.
    pub(super) error: Option<Error>,
    workers: Vec<WorkerReport>,
    failures: Vec<WorkerReport>,
    finder: Finder,
    /// Who could not be ended, in words.
    left: Vec<String>,
    /// When what was adopted and has ended is reaped.
    reap_at: Option<Duration>,
    /// When it is looked again whether agents of workers have stopped theirs.
    guests_look: Option<Duration>,
    guests_until: Option<Duration>,
    end: Option<End>,
}

impl<'a> Run<'a> {
    fn new(
        spec: &'a Spec,
        settled: &'a Settled,
        inbox: &'a Arc<Inbox>,
        shared: &'a Arc<Shared>,
        host: Host,
    ) -> Result<Run<'a>, Error> {
        let failed = |what: &'static str| move |errno: Errno| Error::system(what, errno as i32);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("cannot make an epoll"))?;
        let epoll = Epoll(above_stdio(epoll.0).map_err(failed("cannot make an epoll"))?);
        epoll
            .add(inbox, EpollEvent::new(EpollFlags::EPOLLIN, INBOX))
            .map_err(failed("cannot watch requests"))?;
        let launcher = Launcher::new(spec, host.working_dir.clone())?;
        let (events, error) = Places::open(spec, host.working_dir.as_deref());
        error.map_or(Ok(()), Err)?;
        let output = Output::new(spec, events);
        let (supervisor, actions) = Supervisor::new(Policy {
            max_restarts: spec.max_restarts,
            restart_backoff: spec.restart_backoff,
            min_uptime: spec.min_uptime,
            no_restart_exit_codes: spec.no_restart_exit_codes.clone(),
            attempts_without_progress: spec.attempts_without_progress,
            stop: spec.stop_signals,
            shutdown_timeout: settled.checked.shutdown_timeout,
            save_before_stop: Some(spec.checkpoint_before_stop).filter(|time| !time.is_zero()),
            give_up_after: GIVE_UP_AFTER,
            rendezvous: settled.rendezvous.as_ref().map(|rendezvous| rendezvous.exit_barrier_timeout),
        });
        Ok(Run {
            spec,
            settled,
            inbox,
            shared,
            host,
            ranks: ranks::single(spec.local_world_size),
            run_id: run_id(spec),
            epoll,
            supervisor,
            actions: actions.into(),
            attempt: None,
            conversation: None,
            lessons: Lessons::default(),
            restart_wish: None,
            gentle_stop: None,
            launcher,
            server: None,
            server_since: Since { begun: Duration::ZERO, ticks: 0, first: 0 },
            server_end: None,
            watcher: None,
            keeper: None,
            groups: None,
            run_dir: None,
            without_files: false,
            origin: origin(spec, &output),
            output,
            asking: None,
            debuggers: Debuggers::default(),
            times: Times::default(),
            monitored: None,
            stopping: None,
            restarting: None,
            health: None,
            others: None,
            vigil: None,
            port: None,
            watch: Watch::default(),
            standstill: Standstill::default(),
            stop_told: false,
            hurry_told: false,
            stops: spec.stops_for_all(),
            wanted_save: None,
            error: None,
            workers: Vec::new(),
            failures: Vec::new(),
            finder: finder(spec),
            left: Vec::new(),
            reap_at: None,
            guests_look: None,
            guests_until: None,
            end: None,
        })
    }

    /// What can be done before the run begins.
    fn prepare(&mut self) -> Result<(), Error> {
        self.start_watcher();
        self.run_dir = self.make_run_dir()?;
        self.note_name(Name::RunDir, self.run_dir.as_ref().map(RunDir::path));
        if self.settled.rendezvous.is_none() {
            self.port = Some(self.reserve_port()?);
        }
        if start::of(self.spec).has_server() { self.start_server() } else { Ok(()) }
    }

    /// The run begins: what it takes of the host is taken now.
    fn take_over(&mut self, host: Host) {
        self.launcher.set_working_dir(self.spec, host.working_dir.clone());
        self.host = host;
    }

    fn run(mut self) -> Result<RunReport, Error> {
        for name in &self.spec.unknown_signals {
            self.log(Level::Warning, || format!("no signal is called {name}: it is left out of the list"));
        }
        let size = self.spec.local_world_size;
        for (field, rank) in self.spec.absent_ranks() {
            self.log(Level::Warning, || {
                format!("{field} names local rank {rank}, but there are {size} workers: it is left out")
            });
        }
        if let Some(name) = plan::scrubbed(self.spec, &self.host.env) {
            self.log(Level::Info, || {
                format!("a rank of MPI ({name}): workers get nothing of its launcher's variables")
            });
        }
        if let Some(text) = binding::one_cpu(self.spec) {
            self.log(Level::Warning, || text);
        }
        if self.groups.is_none() {
            self.start_watcher();
        }
        self.times.run = Some(monotonic());
        self.standstill.begin(monotonic());
        self.start_health();
        loop {
            self.act();
            self.look_at_waits();
            if let Some(end) = self.end {
                return Ok(self.finish(end));
            }
            self.wait_for_events();
        }
    }

    pub(super) fn log(&self, level: Level, text: impl FnOnce() -> String) {
        self.output.log(level, text);
    }

    /// An event, made only if somebody wants it.
    pub(super) fn event(&self, make: impl FnOnce(&Origin) -> Option<event::Event>) {
        if let Some(event) = self.origin.as_ref().and_then(make) {
            self.output.event(event);
        }
    }

    /// An event: something that the agent did with the whole group, from `since` until now.
    fn stage(&self, stage: Stage, attempt: u32, begin: Option<Duration>, error: Option<&str>) {
        self.event(|origin| Some(origin.stage(stage, attempt, since(begin), error)));
    }

    /// Tells the supervisor, and queues what it says.
    pub(super) fn tell(&mut self, event: Event) {
        if event != Event::Born && self.supervisor.wants_progress() {
            let reached = self.reached();
            self.supervisor.note_progress(reached);
        }
        let actions = self.supervisor.step(event, monotonic());
        self.actions.extend(actions);
    }

    fn act(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Join => self.join(),
                Action::Announce { last } => self.announce(last),
                Action::Arrive => self.arrive(),
                Action::Start { attempt } => self.start(attempt),
                Action::Ask { to, reason, until } => self.ask_before_stop(to, reason, until),
                Action::Signal(signal) => self.stop_workers(signal),
                Action::Kill => self.stop_workers(libc::SIGKILL),
                Action::GiveUp => {
                    for (pid, unsignallable) in
                        self.attempt.as_mut().map(Attempt::give_up).unwrap_or_default()
                    {
                        self.log(Level::Error, || stuck_text(pid, unsignallable));
                    }
                }
                Action::EndAttempt { .. } if self.waits_for_guests() => {
                    self.actions.push_front(action);
                    return;
                }
                Action::EndAttempt { succeeded } => self.end_attempt(succeeded),
                Action::Finish(end) => self.end = Some(end),
            }
        }
    }

    /// Nobody's run fails for want of a health check.
    fn start_health(&mut self) {
        let text = self.host.health_port.as_ref().map(|text| String::from_utf8_lossy(text).into_owned());
        let named = || {
            let text = text?;
            let port = text.trim().parse().ok();
            if port.is_none() {
                self.log(Level::Warning, || {
                    format!("no health port: TORCHELASTIC_HEALTH_CHECK_PORT is {text:?}, must be 0 to 65535")
                });
            }
            port
        };
        let mut places = Vec::new();
        if let Some(port) = self.spec.health_port.or_else(named) {
            let at = SocketAddr::new(self.spec.health_address, port);
            match Place::port(at) {
                Ok((place, port)) => {
                    self.log(Level::Info, || format!("the health port is {port}"));
                    places.push(place);
                }
                Err(error) => self.log(Level::Warning, || format!("no health port: {error}")),
            }
        }
        if let Some(path) = &self.spec.health_socket {
            let path = self.host.working_dir.as_ref().map_or(path.clone(), |directory| directory.join(path));
            match Place::socket(path.clone()) {
                Ok(place) => {
                    self.note_name(Name::HealthSocket, Some(&path));
                    places.push(place);
                }
                Err(error) => self.log(Level::Warning, || format!("no health socket: {error}")),
            }
        }
        if places.is_empty() {
            return;
        }
        let about = About {
            limit: self.spec.health_timeout,
            run_id: self.run_id.clone(),
            role: self.spec.role.clone(),
            descriptors: self.spec.descriptors(),
        };
        match Health::start(places, about, self.inbox.clone(), self.shared.clone()) {
            Ok(health) => self.health = Some(health),
            Err(error) => self.log(Level::Warning, || format!("no health check: {error}")),
        }
    }

    // ---- starting

    fn start_watcher(&mut self) {
        // One more slot for a fork server.
        let slots = self.ranks.len() + 1;
        let mark = self.finder.mark.as_ref();
        let table = self.groups.take().map_or_else(|| Table::new(slots, mark, &self.directories()), Ok);
        let started = table.and_then(|table| {
            let watcher = self.add_watcher(watcher::Place::First, WATCHER, &table)?;
            Ok((table, watcher))
        });
        match started {
            Ok((table, watcher)) => (self.groups, self.watcher) = (Some(table), Some(watcher)),
            Err(errno) => self.log(Level::Warning, || {
                format!(
                    "no watcher ({}): if this host is killed, descendants of workers may outlive it",
                    errno.desc()
                )
            }),
        }
    }

    /// Once the workers run, so that none of them has to wait for it.
    fn start_keeper(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        let Some(table) = self.groups.take() else { return };
        // One is enough for all but those who kill it.
        self.keeper = self.add_watcher(watcher::Place::Second, KEEPER, &table).ok();
        self.groups = Some(table);
    }

    /// Where what has no name may lie, if it cannot be in memory.
    fn directories(&self) -> Vec<PathBuf> {
        nameless::directories(self.host.tmpdir.clone().unwrap_or_else(|| PathBuf::from("/tmp")))
    }

    fn add_watcher(&mut self, place: watcher::Place, token: u64, table: &Table) -> Result<Watcher, Errno> {
        let watcher = Watcher::start(place, table, &self.directories())?;
        let _ = self.epoll.add(watcher.pidfd(), EpollEvent::new(EpollFlags::EPOLLIN, token));
        self.finder.helpers.push(watcher.pid());
        Ok(watcher)
    }

    /// Whether one that has ended could have been started at all.
    fn forget_watcher(&mut self, watcher: &Watcher) -> bool {
        let _ = self.epoll.delete(watcher.pidfd());
        self.finder.helpers.retain(|&helper| helper != watcher.pid());
        !watcher.could_not_start()
    }

    /// What has this name is not to outlive the host.
    pub(super) fn note_name(&self, name: Name, path: Option<&Path>) {
        if let Some(table) = &self.groups {
            let working_dir = self.host.working_dir.as_deref().unwrap_or(Path::new("/"));
            table.name(name, path.map(|path| working_dir.join(path)).as_deref());
        }
    }

    /// Starts the fork server if there is none, and waits until it is warm. A stop ends the wait: then
    /// there is none, and no error.
    fn start_server(&mut self) -> Result<(), Error> {
        match self.server.as_mut().map(Forkserver::hear) {
            None => {}
            // It was killed since, with no worker.
            Some(Heard::Gone) => drop(self.forget_server()),
            Some(_) => return Ok(()),
        }
        let mut env = plan::server_env(self.spec, &self.host.env);
        let descent = self.descent_of(Mark::of_server);
        if !descent.is_empty() {
            env.push(c_string_lossy(&[DESCENT.as_bytes(), b"=", &descent].concat()));
        }
        let begun = Since { begun: monotonic(), ticks: ticks(), first: 0 };
        let groups = self.groups.as_ref().map(|table| (table, self.ranks.len()));
        let mut server = self.launcher.start_server(self.spec, &env, groups)?;
        let pid = server.pid();
        let mut reminder = Reminder::since(monotonic());
        self.finder.helpers.push(pid);
        self.server_since = Since { first: pid, ..begun };
        loop {
            match server.hear() {
                Heard::Answer(Answer::Ready, _) => break,
                Heard::Nothing if self.inbox.stop_requested().is_some() => {
                    self.take_requests();
                    self.forget_server_group();
                    return Ok(());
                }
                // Then looked again: a stop may come at any moment.
                Heard::Nothing if self.inbox.has_requests() => self.take_requests(),
                Heard::Nothing => {
                    let left = self.remind(&mut reminder, |waited| {
                        format!("the fork server (PID {pid}) has not been warm for {waited}")
                    });
                    server.wait(Some(self.inbox.as_fd()), Some(left));
                }
                Heard::Answer(..) | Heard::Gone => {
                    self.forget_server_group();
                    return Err(Error::Start { what: server.end() });
                }
            }
        }
        self.log(Level::Debug, || format!("the fork server is PID {pid}"));
        self.remind_no_more(&reminder, |waited| {
            format!("the fork server (PID {pid}) is warm after {waited}")
        });
        self.finder.forked_program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        for fd in server.fds() {
            self.epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, SERVER))
                .map_err(|errno| Error::system("cannot watch the fork server", errno as i32))?;
        }
        self.server = Some(server);
        Ok(())
    }

    fn forget_server_group(&self) {
        if let Some(groups) = &self.groups {
            groups.note(self.ranks.len(), 0);
        }
    }

    fn start(&mut self, number: u32) {
        self.look_at_waits();
        self.log(Level::Info, || {
            format!("attempt {number}: starting {} workers", self.spec.local_world_size)
        });
        self.attempt = Some(Attempt::new(number, &self.ranks));
        (self.restart_wish, self.error, self.without_files) = (None, None, false);
        (self.times.attempt, self.times.start, self.stopping) = (Some(monotonic()), None, None);
        self.publish(GroupState::Init);
        match self.start_workers(number) {
            Ok(()) if self.is_starting(number) => {
                self.tell(Event::Started);
                self.start_keeper();
                let took = since(self.times.attempt);
                self.times.start = Some(took);
                self.stage(Stage::Start, number, self.times.attempt, None);
                self.restarted(number, None);
                self.monitored = Some(monotonic());
                if self.supervisor.is_running() {
                    self.publish(GroupState::Healthy);
                    self.listen();
                }
            }
            Ok(()) => {}
            Err(error) => {
                let text = error.to_string();
                self.stage(Stage::Start, number, self.times.attempt, Some(&text));
                self.restarted(number, Some(&text));
                self.start_failed(error);
                let level = if self.supervisor.goes_on() { Level::Warning } else { Level::Error };
                self.log(level, || text);
                // Workers that nobody listens for any more are not to be born.
                if self.server.as_ref().is_some_and(|server| server.births() > 0) {
                    self.server_gone();
                }
            }
        }
    }

    /// Something could not be started, in this attempt or for the next one.
    pub(super) fn start_failed(&mut self, error: Error) {
        let may_pass = error.may_pass();
        self.error.get_or_insert(error);
        self.tell(Event::StartFailed { may_pass });
    }

    /// Tells, where it is one, that a restart is over.
    fn restarted(&mut self, number: u32, error: Option<&str>) {
        let since = self.restarting.take();
        if since.is_some() {
            self.stage(Stage::Restart, number, since, error);
        }
    }

    /// Whether this attempt may go on to start workers. The next one may be due already: its fork server is
    /// gone, and no worker was there to be stopped.
    fn is_starting(&self, number: u32) -> bool {
        self.supervisor.is_starting() && self.supervisor.attempt() == number
    }

    /// Starts workers until all run, one cannot be started, or a stop comes in between.
    fn start_workers(&mut self, number: u32) -> Result<(), Error> {
        self.take_requests();
        if !self.is_starting(number) {
            return Ok(());
        }
        if let Some(error) = self.others.as_mut().and_then(|others| others.store_error.take()) {
            return Err(error);
        }
        let method = start::of(self.spec);
        method.check_process()?;
        if method.has_server() {
            self.start_server()?;
        }
        if !self.supervisor.is_first_attempt() && self.is_starting(number) {
            self.look_at_devices(number)?;
        }
        if !self.is_starting(number) {
            return Ok(());
        }
        if self.run_dir.is_none() {
            self.run_dir = self.make_run_dir()?;
        }
        if let Some(run_dir) = &mut self.run_dir
            && let Err(error) = run_dir.make_attempt(number)
        {
            self.do_without_files(error)?;
        }
        self.note_name(Name::RunDir, self.run_dir.as_ref().map(RunDir::path));
        let assigning = Some(monotonic());
        let meeting = self.meeting();
        if meeting.is_none() {
            self.take_port()?;
        }
        let master_port = self.port.as_ref().map_or(0, Port::number);
        let timer_file = self.watch_attempt(number)?;
        let restarts = self.supervisor.restarts();
        let job = job(
            (self.spec, &self.settled.checked),
            self.run_id.clone(),
            master_port,
            restarts,
            meeting,
            timer_file,
        );
        let job = Job { descent: self.descent_of(Mark::of_worker), ..job };
        let shares = self.shares_of_cpus()?;
        let plan = Plan::new(self.spec, &self.settled.devices, job, &self.host.env, shares);
        self.stage(Stage::Assign, number, assigning, None);
        self.open_page()?;
        let page = self.conversation.as_ref().map(|conversation| &conversation.page);
        if let Some(server) = &mut self.server {
            let mark = self.finder.mark.as_ref().and_then(Mark::page);
            self.launcher.prepare_server(server, &plan, page, mark)?;
        }
        self.check_descriptors()?;
        let shield = dispositions::set_of(self.spec.shield());
        if let Some(page) = page {
            page.shield().store(shield, Ordering::Release);
        }
        // What comes before may take its time.
        self.standstill.begin(monotonic());
        // A fork server's workers are none of ours.
        let reset = if self.server.is_some() { Reset::nothing() } else { Reset::for_children() };
        let reset = reset.ignoring_all(shield);
        for index in 0..self.ranks.len() {
            if self.inbox.has_requests() {
                // What is under way is there first: a stop is for all that were born.
                self.await_births(&plan, number, 0)?;
                self.take_requests();
            }
            if !self.is_starting(number) {
                return Ok(());
            }
            let started = self.start_worker(&plan, reset, number, index);
            self.or_start_failed(index, started)?;
            self.await_births(&plan, number, BIRTHS_AT_ONCE - 1)?;
        }
        self.await_births(&plan, number, 0)
    }

    /// Better now than half way.
    fn check_descriptors(&self) -> Result<(), Error> {
        let Some((open, allowed)) = limits::open_and_allowed() else { return Ok(()) };
        let needed = self.spec.descriptors();
        if (open + needed) as u64 <= allowed {
            return Ok(());
        }
        let what = format!(
            "{} workers need {needed} descriptors more than the {open} that are open, RLIMIT_NOFILE is {allowed}: raise it \
             (ulimit -n), or have fewer workers or fewer streams tee'd",
            self.ranks.len()
        );
        Err(Error::system(what, Errno::EMFILE as i32))
    }

    /// Before a restart: a GPU may have fallen off the bus, and those behind it have other numbers then. A stop
    /// ends the wait.
    fn look_at_devices(&mut self, number: u32) -> Result<(), Error> {
        if !self.settled.devices.is_of_found_devices() {
            return Ok(());
        }
        let env = plan::probe_env(self.spec, &self.host.env);
        let found = Probe::start(&Request::of(self.spec, &env)).and_then(|mut probe| {
            while !probe.is_over(Some(self.inbox.as_fd()), |text| self.log(Level::Warning, || text)) {
                self.take_requests();
                if !self.is_starting(number) {
                    break;
                }
            }
            probe.finish()
        });
        match found {
            Ok(found) => return self.settled.devices.compare(&found.list),
            Err(error) if self.is_starting(number) => self.log(Level::Warning, || {
                format!("the GPUs could not be looked at before the restart: {error}")
            }),
            Err(_) => {}
        }
        Ok(())
    }

    /// For each attempt anew: what the agent may use may have changed.
    fn shares_of_cpus(&self) -> Result<Vec<Share>, Error> {
        let shares = binding::shares(self.spec, &self.settled.devices)?;
        for (rank, Share { cpus, cores }) in self.ranks.iter().zip(&shares) {
            self.log(Level::Debug, || {
                format!("rank {} is for CPUs {cpus}, physical cores: {cores}", rank.global)
            });
        }
        Ok(shares)
    }

    /// The run directory. Where nobody asked for one and none can be made, workers do without error files.
    fn make_run_dir(&self) -> Result<Option<RunDir>, Error> {
        let working_dir = self.host.working_dir.clone().unwrap_or_default();
        let tmpdir = self.host.tmpdir.as_deref();
        match RunDir::create(self.spec, &self.settled.checked, &self.run_id, &working_dir, tmpdir) {
            Err(error) if self.spec.log_dir.is_none() && !has_logs(self.spec) => {
                self.log(Level::Warning, || format!("workers have no error files: {error}"));
                Ok(None)
            }
            made => made,
        }
    }

    /// The files of a worker, or none where they cannot be had.
    fn make_files(&mut self, number: u32, index: usize) -> Result<WorkerFiles, Error> {
        let Some(run_dir) = self.run_dir.as_mut() else { return Ok(WorkerFiles::default()) };
        let (streams, merge) = (self.spec.file_streams(index), self.spec.merge_stderr);
        // What goes through the agent is shown all the same.
        let without = match self.spec.log_through_agent {
            true => WorkerFiles {
                error: None,
                stack: None,
                ..run_dir.worker_files(number, index, streams, merge)
            },
            false => WorkerFiles::default(),
        };
        if self.without_files {
            return Ok(without);
        }
        let made = run_dir.make_worker(number, index, streams, merge);
        if run_dir.was_remade() {
            let path = run_dir.path().to_path_buf();
            self.log(Level::Warning, || format!("{} was removed by somebody: made again", path.display()));
        }
        made.or_else(|error| self.do_without_files(error).map(|()| without))
    }

    /// A restart does not fail for want of logs, as a first start does, where they were asked for: somebody may have
    /// removed what the run directory is in. A full disk is tried again while there are restarts.
    fn do_without_files(&mut self, error: Error) -> Result<(), Error> {
        let full = matches!(error, Error::System { errno: libc::ENOSPC | libc::EDQUOT, .. });
        let asked_for = self.spec.log_dir.is_some() || has_logs(self.spec);
        let asked_for = asked_for && !self.spec.log_through_agent;
        if asked_for && (self.supervisor.is_first_attempt() || full && self.supervisor.has_restarts()) {
            return Err(error);
        }
        self.without_files = true;
        self.log(Level::Warning, || {
            format!("{error}: workers of this attempt have no error files, and what is redirected is lost")
        });
        Ok(())
    }

    fn start_worker(&mut self, plan: &Plan, reset: Reset, number: u32, index: usize) -> Result<(), Error> {
        let rank = self.ranks[index];
        let files = self.make_files(number, index)?;
        let terminal = self.terminal_for(index).map(AsRawFd::as_raw_fd);
        let group = self.groups.as_ref().map(|groups| groups.slot(index));
        let (run_dir, server) = (self.run_dir.as_ref(), self.server.as_mut());
        let page = self.conversation.as_ref().map(|conversation| &conversation.page);
        let birth = Birth {
            rank: &rank,
            restarts: self.supervisor.restarts(),
            run_dir,
            files: &files,
            reset,
            group,
            server,
            page,
            terminal,
            mark: self.finder.mark.as_ref().and_then(Mark::page),
        };
        let born = self.launcher.launch(self.spec, plan, birth).inspect_err(|_| {
            files.remove_empty();
            if let Some(group) = group {
                group.store(0, Ordering::Release);
            }
        })?;
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        attempt.workers[index].files = files;
        attempt.workers[index].channel = born.channel;
        if self.spec.log_through_agent {
            self.follow(plan, index, number, &born.taps)?;
            for tap in born.taps {
                let relayed = self.output.relay(number, tap);
                relayed.map_err(|errno| Error::system("cannot pass output on", errno as i32))?;
            }
        }
        match born.child {
            Some(child) => self.born(plan, number, index, child),
            None => Ok(()), // the server is to tell
        }
    }

    /// Notes why this worker could not be started.
    fn or_start_failed(&mut self, index: usize, started: Result<(), Error>) -> Result<(), Error> {
        if let (Err(error), Some(attempt)) = (&started, &mut self.attempt) {
            attempt.workers[index].start_failure = Some(error.to_string());
        }
        started
    }

    /// A worker is there: watches it from now on.
    fn born(&mut self, plan: &Plan, number: u32, index: usize, child: Child) -> Result<(), Error> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let (pid, by_server) = (child.pid, self.server.is_some());
        attempt.born(index, child, by_server);
        if let Some(conversation) = &mut self.conversation {
            conversation.worker_born(index, monotonic());
        }
        self.tell(Event::Born);
        let attempt = self.attempt.as_ref();
        if let (false, Some(pidfd)) = (by_server, attempt.and_then(|attempt| attempt.pidfd(index))) {
            self.watch(pidfd, index)?;
        }
        self.log(Level::Debug, || format!("rank {} is PID {pid}", self.ranks[index].global));
        self.event(|origin| Some(origin.worker_started(&self.ranks[index], pid, number)));
        self.update_snapshot(index, pid, Outcome::Running);
        self.hand_terminal();
        if self.spec.log_through_agent { Ok(()) } else { self.follow(plan, index, number, &[]) }
    }

    fn watch(&self, pidfd: std::os::fd::BorrowedFd, index: usize) -> Result<(), Error> {
        self.epoll
            .add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))
            .map_err(|errno| Error::system("cannot watch a worker", errno as i32))
    }

    /// Waits until no more than `left` births are under way at the fork server.
    fn await_births(&mut self, plan: &Plan, number: u32, left: usize) -> Result<(), Error> {
        let (mut deadline, mut reminder) = (None, Reminder::since(monotonic()));
        while let Some(server) = self.server.as_mut().filter(|server| server.births() > left) {
            match server.hear() {
                Heard::Answer(Answer::Born { slot, pid }, Some(pidfd)) if slot < self.ranks.len() => {
                    self.born(plan, number, slot, Child { pid, pidfd })?;
                }
                Heard::Answer(Answer::NotBorn { slot, errno }, _) if slot < self.ranks.len() => {
                    let failed = Err(Error::system("the fork server cannot fork a worker", errno));
                    return self.or_start_failed(slot, failed);
                }
                Heard::Answer(answer @ (Answer::Ended { .. } | Answer::Lost { .. }), _) => {
                    server.keep(answer)
                }
                Heard::Answer(..) | Heard::Gone => {
                    self.server_gone();
                    return Ok(());
                }
                Heard::Nothing if deadline.is_some_and(|deadline| deadline <= monotonic()) => {
                    self.log(Level::Error, || "the fork server does not answer: killed".into());
                    self.server_gone();
                    return Ok(());
                }
                Heard::Nothing => {
                    let stops = self.inbox.stop_requested().is_some() || self.inbox.is_interrupted();
                    if deadline.is_none() && stops {
                        deadline = Some(monotonic() + BIRTHS_WITHIN);
                    }
                    let (rung, births) = (self.inbox.has_requests(), server.births());
                    let next = self.remind(&mut reminder, |waited| {
                        format!("{births} workers have not been forked by the fork server for {waited}")
                    });
                    // A signal to hand on is for all that were born, so it waits until the server has told. The
                    // bell rings on meanwhile, and a stop is looked for.
                    let limit = match deadline {
                        Some(deadline) => Duration::saturating_sub(deadline, monotonic()),
                        None if rung => LOOK_FOR_STOP,
                        None => next,
                    };
                    if let Some(server) = &self.server {
                        server.wait((!rung).then(|| self.inbox.as_fd()), Some(limit));
                    }
                }
            }
        }
        Ok(())
    }

    /// Has the worker's streams followed to the console or the host, if that is wanted.
    fn follow(&self, plan: &Plan, index: usize, number: u32, taps: &[Tap]) -> Result<(), Error> {
        let (Some(attempt), Some(run_dir)) = (&self.attempt, &self.run_dir) else { return Ok(()) };
        let worker = &attempt.workers[index];
        let shown = self.spec.console_streams(index);
        let streams = [
            (Streams::STDOUT, &worker.files.stdout, &self.spec.stdout_filters, "filtered_stdout.log"),
            (Streams::STDERR, &worker.files.stderr, &self.spec.stderr_filters, "filtered_stderr.log"),
        ];
        for (which, path, filters, filtered) in streams {
            let Some(path) = path else { continue };
            let to_console = shown.has(which);
            if !to_console && filters.is_empty() {
                continue;
            }
            let prefix = plan.macros(&worker.rank).expand(&self.settled.checked.log_prefix_template);
            let (out, err) = self.spec.console;
            let is_seen =
                to_console && terminal::is_terminal(if which == Streams::STDOUT { out } else { err });
            let stream = Stream {
                local_rank: index,
                attempt: number,
                which,
                path: path.clone(),
                prefix: if is_seen {
                    on_one_line(&String::from_utf8_lossy(&prefix)).into_bytes()
                } else {
                    prefix
                },
                to_console,
                filtered: (!filters.is_empty()).then(|| run_dir.attempt_dir(number).join(filtered)),
                spills: taps.iter().find(|tap| tap.which == which).map(|tap| tap.spills.clone()),
            };
            let followed = self.output.follow(stream);
            followed.map_err(|errno| Error::system("cannot start the output thread", errno as i32))?;
        }
        Ok(())
    }

    // ---- events

    fn wait_for_events(&mut self) {
        let now = self.now();
        let deadlines = [
            self.supervisor.deadline(),
            self.watch_deadline(),
            self.control_deadline(),
            self.vigil_deadline(),
            self.reap_at,
            self.guests_look,
        ];
        let wait = deadlines.into_iter().flatten().min().map(|deadline| {
            let left = deadline.saturating_sub(now);
            standstill::piece(left)
        });
        let timeout = wait.map_or(EpollTimeout::NONE, |wait| {
            EpollTimeout::try_from(milliseconds(wait)).unwrap_or(EpollTimeout::ZERO)
        });
        // What the fork server told while the agent waited for something else.
        let kept = self.server.as_mut().map(Forkserver::take_kept).unwrap_or_default();
        if !kept.is_empty() {
            for answer in kept {
                self.heard(answer);
            }
            return;
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        // Signals are blocked in this thread, so the only error is one that a retry ends.
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        self.shared.pulse.beat();
        let lost = self.standstill.wake(wait.map(|wait| now.saturating_add(wait)), monotonic());
        self.give_back(lost);
        for event in &events[..count] {
            match event.data() {
                INBOX => self.take_requests(),
                WATCHER => self.replace_watcher(),
                KEEPER => self.replace_keeper(),
                SERVER => self.hear_server(),
                STORE => self.serve_store(),
                TIMERS => self.hear_timers(),
                SEARCHES => {} // looked at below
                index => self.look(index as usize),
            }
            self.act();
            if self.end.is_some() {
                return;
            }
        }
        if self.control_deadline().is_some_and(|deadline| deadline <= monotonic()) {
            self.converse();
        }
        let is_due = |run: &mut Run| {
            let now = run.now();
            run.supervisor.deadline().is_some_and(|deadline| deadline <= now)
        };
        if is_due(self) && self.supervisor.is_in_doubt() {
            self.look_for_own_stop();
            self.act();
        }
        if is_due(self) {
            self.tell(Event::Deadline);
        }
        self.reap_adopted();
        self.look_after_stuck();
    }

    /// The time by which something may be found to be late: that in which nobody ran has been given back.
    pub(super) fn now(&mut self) -> Moment {
        let now = monotonic();
        let lost = self.standstill.work(now);
        self.give_back(lost);
        now
    }

    /// For so long nobody ran, at most: no limit counts it.
    fn give_back(&mut self, lost: Duration) {
        if lost.is_zero() {
            return;
        }
        if self.attempt.is_some() {
            let seconds = lost.as_secs_f64();
            self.log(Level::Info, || {
                format!("this agent did not run for up to {seconds:.3} s: no time limit counts them")
            });
        }
        self.supervisor.give_back(lost);
        self.watch.give_back(lost);
        self.guests_until = self.guests_until.map(|until| until + lost);
        if let Some(conversation) = &mut self.conversation {
            conversation.give_back(lost);
        }
    }

    pub(super) fn take_requests(&mut self) {
        self.shared.pulse.beat();
        let passed: Vec<i32> = self.inbox.take_passed().collect();
        if self.inbox.take_suspend() {
            self.suspend();
        }
        self.hear_interrupts();
        self.hear_saves();
        if let Some(signal) = self.inbox.stop_requested()
            && !std::mem::replace(&mut self.stop_told, true)
        {
            self.log(Level::Info, || format!("{}: stopping the workers", stop_text(signal)));
            self.stop_asking();
            self.excuse_ends();
            self.tell(self.stop_by(signal));
        }
        if self.inbox.in_a_hurry() && !std::mem::replace(&mut self.hurry_told, true) {
            self.log(Level::Info, || "a second interrupt: killing the workers".into());
            self.tell(Event::Hurry);
        }
        if let Some(attempt) = &self.attempt {
            passed.into_iter().for_each(|signal| attempt.pass(signal));
        }
        if self.inbox.child_ended() {
            self.reap_at.get_or_insert_with(|| monotonic() + REAP_AFTER);
        }
        self.hear_others();
        self.converse();
    }

    fn hear_server(&mut self) {
        while let Some(server) = &mut self.server {
            match server.hear() {
                Heard::Nothing => return,
                Heard::Answer(answer, _) => self.heard(answer),
                Heard::Gone => return self.server_gone(),
            }
        }
    }

    fn heard(&mut self, answer: Answer) {
        let (slot, outcome, usage) = match answer {
            Answer::Ended { slot, status, usage } => (slot, Outcome::from(status), usage),
            Answer::Lost { slot } => (slot, Outcome::Lost, Usage::default()),
            _ => return,
        };
        if self.attempt.as_mut().is_some_and(|attempt| attempt.told(slot, outcome, usage)) {
            self.ended(slot);
        }
    }

    /// The fork server is gone, or of no more use: the group goes with it.
    fn server_gone(&mut self) {
        let Some(end) = self.forget_server() else { return };
        self.server_end = Some(end);
        let groups = self.groups.as_ref();
        let orphans = self.attempt.as_mut().map(|attempt| attempt.orphan(groups)).unwrap_or_default();
        if let Some(attempt) = &self.attempt {
            for &index in &orphans {
                if let Some(pidfd) = attempt.pidfd(index) {
                    let _ = self.watch(pidfd, index);
                }
            }
        }
        self.tell(Event::ServerGone);
    }

    /// Makes sure that the fork server is gone; how it ended.
    fn forget_server(&mut self) -> Option<String> {
        let server = self.server.take()?;
        for fd in server.fds() {
            let _ = self.epoll.delete(fd);
        }
        let end = server.end();
        self.log(Level::Warning, || format!("{end}: its workers go with it"));
        self.forget_server_group();
        self.finder.helpers.retain(|&helper| helper != self.server_since.first);
        self.end_line_of_server();
        Some(end)
    }

    fn look(&mut self, index: usize) {
        let Some(attempt) = &mut self.attempt else { return };
        if !attempt.look(index) {
            return;
        }
        // Before it is closed: a sibling inside exec may hold a copy, and epoll would report it for ever.
        if let Some(pidfd) = attempt.pidfd(index) {
            let _ = self.epoll.delete(pidfd);
        }
        self.ended(index);
    }

    fn ended(&mut self, index: usize) {
        // It may have asked and then ended.
        self.hear_restart();
        let Some(attempt) = &mut self.attempt else { return };
        let worker = &mut attempt.workers[index];
        if let Some(groups) = &self.groups {
            groups.note(index, worker.group());
        }
        self.watch.forget(&self.epoll, index);
        // A function's worker tells only now that it could not start.
        let reported =
            worker.channel.as_ref().and_then(|channel| self.launcher.start_error(self.spec, channel));
        let start_error = reported.or_else(|| worker.start_error().map(|what| Error::Start { what }));
        if let Some(error) = &start_error {
            worker.never_started(error.to_string());
        }
        let worker = &attempt.workers[index];
        let (rank, pid, outcome, cause) = (worker.rank, worker.pid, worker.outcome(), worker.cause());
        let by_stop = by_stop(cause, outcome, &self.stops);
        let likely_failed = matches!(cause, Cause::OwnFailure | Cause::Lost | Cause::TimedOut);
        if let Some(error) = start_error {
            self.start_failed(error);
        }
        self.tell(match outcome {
            Outcome::Lost => Event::Lost,
            Outcome::Exited { code } => {
                Event::Exited { success: cause == Cause::Success, code: Some(code), by_stop }
            }
            _ => Event::Exited { success: false, code: None, by_stop },
        });
        if cause == Cause::Success {
            self.expect_stragglers();
        }
        if !likely_failed {
            self.log(Level::Debug, || format!("rank {} (PID {pid}) ended", rank.global));
        } else {
            self.log(Level::Info, || {
                format!("rank {} failed: {}", rank.global, message_of(outcome, cause, pid, false))
            });
        }
        self.update_snapshot(index, pid, outcome);
        self.output.worker_ended(index);
        self.miss_answer();
        if self.is_terminal_lent() {
            self.attend_debuggers();
        }
    }

    fn replace_keeper(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        if self.forget_watcher(&keeper) {
            self.log(Level::Warning, || "the second watcher was killed by somebody: starting another".into());
            self.start_keeper();
        }
    }

    /// Somebody killed the watcher: another one takes its place, with what it has to know.
    fn replace_watcher(&mut self) {
        let Some(watcher) = self.watcher.take() else { return };
        if !self.forget_watcher(&watcher) {
            let text =
                "the watcher cannot start: if this host is killed, descendants of workers may outlive it";
            return self.log(Level::Warning, || text.into());
        }
        self.log(Level::Warning, || "the watcher process was killed by somebody: starting another".into());
        self.start_watcher();
    }

    // ---- stopping

    fn stop_workers(&mut self, signal: i32) {
        if self.attempt.is_none() {
            return;
        }
        self.stopping.get_or_insert_with(monotonic);
        self.lower_shield();
        let Some(attempt) = &mut self.attempt else { return };
        let refused = attempt.stop(signal, &self.finder);
        self.end_shielded(signal);
        self.publish(GroupState::Stopped);
        self.end_of_monitoring();
        self.log(Level::Info, || format!("sent {} to the workers", Signal(signal)));
        for (pid, errno) in refused {
            self.log(Level::Warning, || format!("PID {pid} cannot be signalled: {}", errno.desc()));
        }
    }

    fn end_of_monitoring(&mut self) {
        let begin = self.monitored.take();
        if let (Some(_), Some(attempt)) = (begin, &self.attempt) {
            self.stage(Stage::Monitor, attempt.number, begin, None);
        }
    }

    fn end_attempt(&mut self, succeeded: bool) {
        self.end_of_monitoring();
        self.unwatch_attempt();
        self.close_page();
        let Some(mut attempt) = self.attempt.take() else { return };
        let kill = !succeeded || self.spec.kill_group_on_success;
        let (server, interval) = (self.server.as_mut(), self.spec.monitor_interval);
        let left = attempt.end(kill, server, &self.finder, EMPTY_GROUPS_WITHIN, interval);
        self.note_left(left);
        self.reap_at = None;
        self.inbox.forget_ended_children();
        if let Some(groups) = &self.groups {
            for slot in 0..attempt.workers.len() {
                groups.note(slot, 0);
            }
        }
        self.leave_port();
        // Before the reports, which look into the files.
        self.output.drain(attempt.number);
        self.output.close(attempt.number);
        let oom = self.shared.oom_kills.get();
        let reporter = Reporter { spec: self.spec, oom, server_end: self.server_end.as_deref() };
        let reports: Vec<WorkerReport> =
            attempt.workers.iter().map(|worker| reporter.report(worker, attempt.number, succeeded)).collect();
        for report in &reports {
            self.event(|origin| origin.worker_ended(report));
        }
        if self.stopping.is_some() {
            self.stage(Stage::Stop, attempt.number, self.stopping, None);
        }
        self.stage(Stage::Attempt, attempt.number, self.times.attempt, None);
        self.restarting = Some(self.stopping.unwrap_or_else(monotonic));
        if let (true, Some(oom)) = (reports.iter().any(|report| report.likely_oom), reporter.oom) {
            oom.look();
        }
        // That of an attempt which is not the last one is history.
        let start_error = if self.supervisor.goes_on() { self.error.take() } else { None };
        let failure = root_cause(&reports).map(|root| reports[root].certificate());
        let failure = failure.or_else(|| not_started(&reports, &start_error?));
        if let (false, Some(failure)) = (succeeded, failure) {
            if self.failures.len() == FAILURES {
                self.failures.remove(0);
            }
            // Of the last attempt the result tells all.
            let level = if self.supervisor.is_over() { Level::Info } else { Level::Warning };
            self.log(level, || format!("attempt {} failed: {}", attempt.number, summary::line(&failure)));
            self.failures.push(failure);
        }
        if let Some(run_dir) = &self.run_dir {
            run_dir.tidy_attempt(attempt.number, attempt.workers.len());
        }
        self.workers = reports;
    }

    /// Whether agents that workers have started still stop theirs, and have the time for it.
    fn waits_for_guests(&mut self) -> bool {
        self.guests_look = None;
        let (Some(attempt), Some(begin)) = (&mut self.attempt, self.stopping) else { return false };
        let now = monotonic();
        let until = *self.guests_until.get_or_insert(begin + self.settled.checked.shutdown_timeout);
        if now >= until || self.inbox.in_a_hurry() || !attempt.has_guests() {
            self.guests_until = None;
            return false;
        }
        // The end of what is no child is no event.
        self.guests_look = Some(now + GUESTS_LOOK);
        true
    }

    /// The marks that workers, or the fork server, carry.
    fn descent_of(&self, own: fn(&Mark) -> String) -> Vec<u8> {
        let mark = self.finder.mark.as_ref().map(own);
        mark.map(|mark| worker_list(self.host.descent.as_deref(), &mark)).unwrap_or_default()
    }

    /// What a fork server's warm-up started does not outlive it.
    fn end_line_of_server(&mut self) {
        let since = self.server_since;
        let (Some(mark), true) = (&self.finder.mark, since.first != 0) else { return };
        let found = self.finder.kill(&[], &mark.of_server(), &since, &HashSet::new());
        let interval = self.spec.monitor_interval;
        self.note_left(await_ends(Vec::new(), found, EMPTY_GROUPS_WITHIN, interval));
        self.server_since.first = 0;
    }

    fn note_left(&mut self, survivors: Vec<Survivor>) {
        for Survivor { name, errno } in survivors {
            let why = match errno {
                Some(errno) => format!("cannot be killed: {}", errno.desc()),
                None => "is still there after SIGKILL".into(),
            };
            self.log(Level::Warning, || format!("{name}, started by a worker, {why}"));
            self.left.push(format!("{name}: {why}"));
        }
    }

    /// Reaps what was adopted, some time after a child has ended.
    fn reap_adopted(&mut self) {
        if self.reap_at.is_some_and(|at| at <= monotonic()) {
            self.reap_at = None;
            self.inbox.forget_ended_children();
            let attempt = self.attempt.as_ref();
            self.finder.reap(&attempt.map(Attempt::numbers).unwrap_or_default());
        }
    }

    // ---- what others see

    fn publish(&self, state: GroupState) {
        let mut snapshot = self.shared.snapshot.lock();
        if state == GroupState::Init {
            let never = |worker: &mut crate::report::SnapshotWorker| {
                (worker.pid, worker.outcome) = (0, Outcome::NeverStarted)
            };
            snapshot.workers.iter_mut().for_each(never);
        }
        let Snapshot { state: now, attempt, times, .. } = &mut *snapshot;
        (*now, *attempt, *times) = (state, self.supervisor.attempt(), self.times);
    }

    fn update_snapshot(&self, index: usize, pid: i32, outcome: Outcome) {
        let worker = &mut self.shared.snapshot.lock().workers[index];
        (worker.pid, worker.outcome) = (pid, outcome);
    }
}

/// Of an attempt that failed at its start: the first worker that never was, with the reason.
fn not_started(reports: &[WorkerReport], error: &Error) -> Option<WorkerReport> {
    let first = reports.iter().find(|report| report.cause == Cause::NeverStarted)?;
    let message = c_string_lossy(error.to_string().as_bytes());
    Some(WorkerReport { message, ..first.certificate() })
}

/// How long ago that was.
fn since(begin: Option<Duration>) -> Duration {
    begin.map_or(Duration::ZERO, |begin| monotonic().saturating_sub(begin))
}

fn stop_text(signal: i32) -> String {
    match signal {
        0 => "stopped by request".into(),
        signal => format!("stopped by {}", Signal(signal)),
    }
}
