//! What to run: an owned description, checked field by field as it is written and as a whole by `check`.

pub mod check;
pub mod config_file;
pub mod endpoint;
pub mod launcher;
pub mod names;
pub mod nodes;
pub mod on_signal;
pub mod options;
pub mod placement;
pub mod rendezvous_options;
pub mod streams;
pub mod text;
mod values;
pub mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::control::section::Limits;
use crate::device::numa::Binding;
use crate::device::strings::{Devices, Nproc};
use crate::device::visibility::Visibility;
use crate::error::Error;
use crate::scheduler::Choice;
use crate::sys::memory::Blob;
use nodes::Nodes;
use on_signal::OnSignal;
use placement::FromScheduler;
use streams::{LocalRanks, StreamMap, Streams};

pub use crate::sys::call::{Callback, HostPointer, WorkerFn};
pub use check::Checked;
pub use values::{below, c_bytes, not_empty, number, path, plain, seconds, seconds_in, signal};

pub const MAX_RESTARTS: i64 = i32::MAX as i64;
/// The log directory of a run without files.
const NO_LOGS: &str = "/dev/null";
pub const MAX_STDERR_TAIL: u64 = 1 << 24;

/// Permission bits of what a run makes in its directory.
#[derive(Clone, Copy)]
pub struct Modes {
    pub directory: u32,
    pub file: u32,
    /// Whatever the umask is.
    pub exact: bool,
}

/// A function that is found by name in a process of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// The shared object that has it; none for one that the program registered.
    pub library: Option<CString>,
    pub name: CString,
}

/// How a function gets a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMethod {
    Fork,
    Spawn,
    Forkserver,
}

impl StartMethod {
    pub fn name(self) -> &'static str {
        match self {
            StartMethod::Fork => "fork",
            StartMethod::Spawn => "spawn",
            StartMethod::Forkserver => "forkserver",
        }
    }
}

/// How much a message matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Error = 1,
    Warning = 2,
    Info = 3,
    Debug = 4,
}

/// A function of the host that takes log messages, with the host's pointer.
#[derive(Clone, Copy, Debug)]
pub struct LogCallback {
    pub function: extern "C" fn(*mut std::ffi::c_void, i32, *const std::ffi::c_char),
    pub user_data: HostPointer,
}

/// A function of the host that takes events, with the host's pointer.
#[derive(Clone, Copy, Debug)]
pub struct EventCallback {
    pub function: extern "C" fn(*mut std::ffi::c_void, *const std::ffi::c_char),
    pub user_data: HostPointer,
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventSource {
    Worker,
    Agent,
    Rendezvous,
}

impl EventSource {
    pub const ALL: [EventSource; 3] = [EventSource::Worker, EventSource::Agent, EventSource::Rendezvous];

    pub fn name(self) -> &'static str {
        match self {
            EventSource::Worker => "worker",
            EventSource::Agent => "agent",
            EventSource::Rendezvous => "rendezvous",
        }
    }

    pub fn parse(text: &str) -> Result<EventSource, Error> {
        let found = EventSource::ALL.into_iter().find(|source| source.name() == text);
        found.ok_or_else(|| {
            Error::config("event_handler", text, "the source must be worker, agent or rendezvous")
        })
    }
}

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum EventHandler {
    Null,
    Console,
    File(PathBuf),
}

impl EventHandler {
    pub fn parse(bytes: &[u8]) -> Result<EventHandler, Error> {
        match bytes {
            b"null" => Ok(EventHandler::Null),
            b"console" => Ok(EventHandler::Console),
            file => Ok(EventHandler::File(path("event_handler", file)?)),
        }
    }
}

/// A function of the host that takes output of workers in place of the console.
#[derive(Clone, Copy, Debug)]
pub struct OutputCallback {
    pub function: extern "C" fn(*mut std::ffi::c_void, i32, i32, *const u8, usize),
    pub user_data: HostPointer,
}

/// One change to a worker's environment, in the order it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum EnvEdit {
    Set(Vec<u8>, Vec<u8>),
    Unset(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    Null,
    Rank0,
    All,
}

/// Which macros are filled in in the arguments of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacroSet {
    Nothing,
    LocalRank,
    All,
}

/// Signals sent to a group that is to stop: first the optional early warning, then the stop signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopSignals {
    pub pre_stop: Option<(i32, Duration)>,
    pub stop: i32,
}

/// How long cuInit may take: seconds for each GPU, where the driver is not kept loaded.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the agent's loop may stand still, as torch has it.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Spec {
    pub role: Vec<u8>,
    /// Of an agent's copy: what came of the four fields below.
    pub local_world_size: usize,
    pub nproc: Option<Nproc>,
    pub devices: Option<Devices>,
    pub devices_per_rank: usize,
    pub ranks_per_device: usize,
    pub visibility: Option<Visibility>,
    pub virtual_local_rank: bool,
    pub device_uuids: bool,
    pub program: Option<CString>,
    pub args: Vec<CString>,
    pub macros: MacroSet,
    pub callback: Option<Callback>,
    pub function: Option<Function>,
    pub start_method: Option<StartMethod>,
    pub argument: Option<Arc<Blob>>,
    pub warm_up: Option<CString>,
    pub runner: Option<CString>,
    pub crash_records: bool,
    pub env: Vec<EnvEdit>,
    pub rank_env: BTreeMap<usize, Vec<EnvEdit>>,
    pub clean_env: bool,
    /// Variables of the host that a clean environment has all the same.
    pub keep_env: BTreeSet<Vec<u8>>,
    pub working_dir: Option<CString>,
    pub stdin: Stdin,
    pub cpu_binding: Option<Binding>,

    pub max_restarts: u32,
    pub restart_backoff: Option<(Duration, Duration)>,
    pub min_uptime: Duration,
    pub no_restart_exit_codes: BTreeSet<i32>,
    /// Zero: any number of them.
    pub attempts_without_progress: u32,
    pub monitor_interval: Duration,
    pub shutdown_timeout: Option<Duration>,
    pub probe_timeout: Duration,
    pub health_port: Option<u16>,
    pub health_address: IpAddr,
    pub health_socket: Option<PathBuf>,
    pub health_timeout: Duration,
    pub stop_signals: StopSignals,
    pub handled_signals: Vec<i32>,
    pub pass_signals: Vec<i32>,
    /// What is said of one signal alone.
    pub on_signal: BTreeMap<i32, OnSignal>,
    /// A SIGTSTP stops the workers, then this process.
    pub suspend: bool,
    /// Names in a signal list that this system does not know: a warning each, not an error.
    pub unknown_signals: Vec<String>,
    pub kill_group_on_success: bool,
    /// Whether the process adopts what loses its parent.
    pub subreaper: bool,

    pub file_timers: Option<bool>,
    pub uninterruptible_timeout: Option<Duration>,
    /// How long workers may go on when one has ended well; zero: as long as they like.
    pub straggler_timeout: Duration,
    /// How long the stack of a stuck worker may take.
    pub stack_timeout: Duration,
    /// A program, and its arguments, that looks at one.
    pub stack_command: Vec<CString>,
    pub control: bool,
    /// Zero: heartbeats are not asked for.
    pub heartbeat_timeout: Duration,
    /// Zero: a worker need never say a word.
    pub initial_heartbeat_timeout: Duration,
    /// What a worker is sent that lets something expire; 0 for nothing.
    pub timer_signal: i32,
    pub sections: Limits,
    /// The time that workers have to save before a stop; zero: none, they are not asked to.
    pub checkpoint_before_stop: Duration,
    /// Of a run that was stopped after all had saved.
    pub saved_exit_status: Option<i32>,
    pub ask_on_interrupt: bool,
    /// Whether the soft limit of descriptors is the hard one while the run lasts.
    pub raise_descriptor_limit: bool,
    /// Whether workers of a host that is a rank of MPI get nothing of its launcher's variables.
    pub scrub_launcher: bool,
    pub debug_rank: Option<usize>,
    pub progress_bar: bool,
    /// Of an agent's copy: streams whose terminal has the bar. Who writes there goes through a file.
    pub beside_bar: Streams,

    pub master_addr: Option<Vec<u8>>,
    pub master_port: u16,
    /// Whether the agent serves the store that workers meet at; if nobody says so, that of several hosts does.
    pub agent_store: Option<bool>,
    pub run_id: Option<Vec<u8>>,
    pub nodes: Nodes,
    /// Who is asked about what the spec leaves open.
    pub scheduler: Choice,
    /// Of an agent's copy: what came of it, and how many CPUs its workers have between them.
    pub sources: Vec<FromScheduler>,
    pub cpus: Option<usize>,

    pub log_dir: Option<PathBuf>,
    pub redirects: StreamMap,
    pub tee: StreamMap,
    pub merge_stderr: bool,
    pub log_prefix_template: Option<Vec<u8>>,
    pub local_ranks_filter: Option<LocalRanks>,
    /// Whether these three may name local ranks that there are not.
    pub allow_absent_ranks: bool,
    pub stdout_filters: Vec<Vec<u8>>,
    pub stderr_filters: Vec<Vec<u8>>,
    pub log_timestamps: bool,
    pub stderr_tail: usize,
    /// Of directories and files.
    pub log_modes: Option<(u32, u32)>,
    /// Workers write to pipes, and the agent to the log files.
    pub log_through_agent: bool,
    pub console: (i32, i32),
    pub output_callback: Option<OutputCallback>,
    pub event_callback: Option<EventCallback>,
    /// By source; that of none is for all that have none of their own.
    pub event_handlers: BTreeMap<Option<EventSource>, EventHandler>,
    pub log_callback: Option<LogCallback>,
    pub log_level: Level,

    /// The first value that a setter refused: `check` repeats it, so that a host may look once.
    pub refused: Option<Error>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            role: b"default".to_vec(),
            local_world_size: 1,
            nproc: None,
            devices: None,
            devices_per_rank: 1,
            ranks_per_device: 1,
            visibility: None,
            virtual_local_rank: false,
            device_uuids: false,
            program: None,
            args: Vec::new(),
            macros: MacroSet::All,
            callback: None,
            function: None,
            start_method: None,
            argument: None,
            warm_up: None,
            runner: None,
            crash_records: true,
            env: Vec::new(),
            rank_env: BTreeMap::new(),
            clean_env: false,
            keep_env: BTreeSet::new(),
            working_dir: None,
            stdin: Stdin::Null,
            cpu_binding: None,
            max_restarts: 3,
            restart_backoff: None,
            min_uptime: Duration::ZERO,
            no_restart_exit_codes: BTreeSet::new(),
            attempts_without_progress: 0,
            monitor_interval: Duration::from_millis(100),
            shutdown_timeout: None,
            probe_timeout: PROBE_TIMEOUT,
            health_port: None,
            health_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            health_socket: None,
            health_timeout: HEALTH_TIMEOUT,
            stop_signals: StopSignals { pre_stop: None, stop: libc::SIGTERM },
            handled_signals: Vec::new(),
            pass_signals: Vec::new(),
            on_signal: BTreeMap::new(),
            suspend: false,
            unknown_signals: Vec::new(),
            kill_group_on_success: true,
            subreaper: false,
            file_timers: None,
            uninterruptible_timeout: None,
            straggler_timeout: Duration::ZERO,
            stack_timeout: Duration::from_secs(5),
            stack_command: Vec::new(),
            control: false,
            heartbeat_timeout: Duration::ZERO,
            initial_heartbeat_timeout: Duration::ZERO,
            timer_signal: libc::SIGKILL,
            sections: Limits::default(),
            checkpoint_before_stop: Duration::ZERO,
            saved_exit_status: None,
            ask_on_interrupt: false,
            raise_descriptor_limit: false,
            scrub_launcher: false,
            debug_rank: None,
            progress_bar: false,
            beside_bar: Streams::NONE,
            master_addr: None,
            master_port: 0,
            agent_store: None,
            run_id: None,
            nodes: Nodes::default(),
            scheduler: Choice::Nobody,
            sources: Vec::new(),
            cpus: None,
            log_dir: None,
            redirects: StreamMap::default(),
            tee: StreamMap::default(),
            merge_stderr: false,
            log_prefix_template: None,
            local_ranks_filter: None,
            allow_absent_ranks: false,
            stdout_filters: Vec::new(),
            stderr_filters: Vec::new(),
            log_timestamps: false,
            stderr_tail: 4096,
            log_modes: None,
            log_through_agent: false,
            console: (1, 2),
            output_callback: None,
            event_callback: None,
            event_handlers: BTreeMap::new(),
            log_callback: None,
            log_level: Level::Debug,
            refused: None,
        }
    }
}

impl Spec {
    /// In a place that everybody shares they are the user's alone, as mkdtemp(3) has it. In a directory that he names his
    /// umask decides, but others never may write there: they could be in the way of the next attempt.
    pub fn modes(&self) -> Modes {
        match (self.log_modes, &self.log_dir) {
            (Some((directory, file)), _) => Modes { directory, file, exact: true },
            (None, None) => Modes { directory: 0o700, file: 0o600, exact: false },
            (None, Some(_)) => Modes { directory: 0o775, file: 0o664, exact: false },
        }
    }

    /// A message for the host from the thread that calls, where there is no run.
    pub fn say(&self, level: Level, text: &str) {
        if let Some(log) = self.log_callback.filter(|_| level <= self.log_level) {
            let text = crate::error::c_string_lossy(text.as_bytes());
            (log.function)(log.user_data.0 as *mut std::ffi::c_void, level as i32, text.as_ptr());
        }
    }

    /// Lets one setter change the spec; what it refuses is remembered for `check`.
    pub fn edit(&mut self, change: impl FnOnce(&mut Spec) -> Result<(), Error>) -> Result<(), Error> {
        let done = change(self);
        if let (Err(error @ Error::Config { .. }), None) = (&done, &self.refused) {
            self.refused = Some(error.clone());
        }
        done
    }

    /// What a setter refused.
    pub fn refused(&self) -> Result<(), Error> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    /// A variable as workers have it before the agent adds its own, but for a clean environment: that has
    /// no say in which devices the host was given.
    pub fn var(&self, name: &str, host: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let edited = self.env.iter().rev().find_map(|edit| match edit {
            EnvEdit::Set(key, value) if key == name.as_bytes() => Some(Some(value.clone())),
            EnvEdit::Unset(key) if key == name.as_bytes() => Some(None),
            _ => None,
        });
        edited.unwrap_or_else(|| host(name))
    }

    /// Whether workers get a variable of the host, where nothing is said of it.
    pub fn hands_on(&self, name: &[u8]) -> bool {
        !self.clean_env || self.keep_env.contains(name)
    }

    /// Which devices a rank sees: its own, as soon as devices are named or anything else is said of them.
    pub fn visibility(&self, named: bool) -> Visibility {
        let said = named
            || self.virtual_local_rank
            || self.device_uuids
            || self.devices_per_rank > 1
            || self.ranks_per_device > 1;
        self.visibility.unwrap_or(if said { Visibility::Own } else { Visibility::Inherit })
    }

    /// How a worker that is a function gets its process.
    pub fn start_method(&self) -> StartMethod {
        let default = if self.callback.is_some() { StartMethod::Fork } else { StartMethod::Spawn };
        self.start_method.unwrap_or(default)
    }

    /// How its workers start; none where they are programs.
    pub fn method(&self) -> Option<StartMethod> {
        self.program.is_none().then(|| self.start_method())
    }

    /// Where events of a source go; none where nobody said so.
    pub fn event_handler(&self, source: EventSource) -> Option<&EventHandler> {
        self.event_handlers.get(&Some(source)).or_else(|| self.event_handlers.get(&None))
    }

    /// Whether the agent and the workers share a page.
    pub fn has_control(&self) -> bool {
        self.control
            || self.progress_bar
            || !self.heartbeat_timeout.is_zero()
            || !self.initial_heartbeat_timeout.is_zero()
            || !self.checkpoint_before_stop.is_zero()
            || self.sections.are_wanted()
            || self.attempts_without_progress > 0
            || self.on_signal.values().any(|on_signal| on_signal.saves())
    }

    /// Takes back what needs a terminal where there is none; `is_terminal` tells of 0, and of the console.
    pub fn settle_terminal(&mut self, is_terminal: impl Fn(i32) -> bool, is_same: impl Fn(i32, i32) -> bool) {
        let (out, err) = self.console;
        self.control = self.has_control();
        self.ask_on_interrupt &= self.control && is_terminal(0) && is_terminal(err);
        // What workers write goes through files beside it.
        self.progress_bar &= is_terminal(err) && self.log_dir.as_deref() != Some(Path::new(NO_LOGS));
        if self.progress_bar {
            self.beside_bar = if is_same(out, err) { Streams::BOTH } else { Streams::STDERR };
        }
    }

    /// Streams of a rank that end in a file: asked for, tee'd, or kept from a console that the rank
    /// filter closes to it (torchrun drops those to null; nothing is lost here).
    pub fn file_streams(&self, local_rank: usize) -> Streams {
        if self.debug_rank == Some(local_rank) {
            return Streams::NONE;
        }
        if self.output_callback.is_some() {
            return Streams::BOTH;
        }
        let asked = self.redirects.of(local_rank) | self.tee.of(local_rank) | self.beside_bar;
        match &self.local_ranks_filter {
            Some(filter) if !filter.has(local_rank) => Streams::BOTH,
            _ => asked,
        }
    }

    /// How many descriptors the workers of an attempt cost the host, all together.
    pub fn descriptors(&self) -> usize {
        let own = if self.method().is_some() { 2 } else { 1 };
        let followed = |rank: usize| {
            let (files, shown) = (self.file_streams(rank), self.console_streams(rank));
            [(Streams::STDOUT, &self.stdout_filters), (Streams::STDERR, &self.stderr_filters)]
                .into_iter()
                .filter(|(which, _)| !(self.merge_stderr && *which == Streams::STDERR))
                .filter(|(which, filters)| files.has(*which) && (shown.has(*which) || !filters.is_empty()))
                .count()
        };
        (0..self.local_world_size).map(|rank| own + followed(rank)).sum()
    }

    /// Streams of a rank that are followed to the console (or the host's callback).
    pub fn console_streams(&self, local_rank: usize) -> Streams {
        if self.debug_rank == Some(local_rank) {
            return Streams::NONE;
        }
        let shown = self.local_ranks_filter.as_ref().is_none_or(|filter| filter.has(local_rank));
        match (shown, self.output_callback.is_some()) {
            (false, _) => Streams::NONE,
            (true, true) => Streams::BOTH,
            (true, false) => self.tee.of(local_rank) | self.beside_bar.without(self.redirects.of(local_rank)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Spec {
        Spec { program: Some(c"/bin/true".into()), ..Spec::default() }
    }

    #[test]
    fn what_needs_a_terminal_has_one() {
        let settled = |spec: &Spec, terminals: &[i32]| {
            let mut spec = spec.clone();
            let is = |fd: i32| terminals.contains(&fd);
            spec.settle_terminal(is, |one, other| is(one) && is(other));
            (spec.ask_on_interrupt, spec.progress_bar, spec.beside_bar)
        };
        let spec = Spec { ask_on_interrupt: true, progress_bar: true, ..program() };
        assert_eq!(settled(&spec, &[0, 1, 2]), (true, true, Streams::BOTH));
        assert_eq!(settled(&spec, &[2]), (false, true, Streams::STDERR));
        assert_eq!(settled(&spec, &[0, 1]), (false, false, Streams::NONE));
        let alone = Spec { ask_on_interrupt: true, ..program() };
        assert_eq!(settled(&alone, &[0, 1, 2]), (false, false, Streams::NONE), "nobody could save");
        let mut bar = Spec { redirects: StreamMap::parse("redirects", "1").unwrap(), ..spec };
        bar.settle_terminal(|_| true, |_, _| true);
        assert_eq!((bar.file_streams(0), bar.console_streams(0)), (Streams::BOTH, Streams::STDERR));
        bar.debug_rank = Some(0);
        assert_eq!((bar.file_streams(0), bar.console_streams(0)), (Streams::NONE, Streams::NONE));
    }

    #[test]
    fn a_refused_setter_is_repeated_by_check() {
        let mut spec = program();
        let first = spec.edit(|_| number("local_world_size", 0, 1, 9).map(drop)).unwrap_err();
        let _ = spec.edit(|_| number("max_restarts", -1, 0, 9).map(drop));
        assert_eq!(spec.check(|_| None).unwrap_err(), first);
        assert!(first.to_string().contains("local_world_size is 0"));
    }
}
