//! One run of a spec, as its host sees it: start, wait, stop, look.

mod binding;
mod health;
pub mod preview;
mod run;
pub mod surroundings;

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use parking_lot::{Condvar, Mutex};

use crate::control::pace::{Pace, Paces};
use crate::control::page::Page;
use crate::control::pending::{HostWish, PendingRequests};
use crate::control::request::{Answers, RequestKind};
use crate::control::watch::Said;
use crate::device;
use crate::device::visibility::Source;
use crate::error::Error;
use crate::plan::assign::{Assignment, Host as DeviceHost, assign};
use crate::plan::{self, HostEnv};
use crate::probe::{self, Request};
use crate::process::{host, start};
use crate::ranks;
use crate::rendezvous::config::Rendezvous;
use crate::report::metrics::Times;
use crate::report::oom::OomKills;
use crate::report::{GroupState, Outcome, RunReport, Snapshot, SnapshotWorker};
use crate::spec::variables::{DESCENT, is_worker};
use crate::spec::{Checked, Level, Spec};
use crate::sys::fd::Bell;
use crate::sys::process::Subreaper;
use crate::sys::signals::{Handlers, Inbox};
use crate::sys::terminal::{self, Terminal};
use crate::sys::{child, dispositions, process};
use health::Pulse;

/// Why nobody answers any more.
const OVER: &str = "the run is over";

pub struct Agent {
    spec: Arc<Spec>,
    settled: Arc<Settled>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What is worked out when an agent is made, of the spec, the environment and the machine.
struct Settled {
    checked: Checked,
    /// With whom the job is shared, if with anybody.
    rendezvous: Option<Rendezvous>,
    devices: Assignment,
}

/// What the agent's thread shares with its host's.
struct Shared {
    phase: Mutex<Phase>,
    changed: Condvar,
    finished: Bell,
    snapshot: Mutex<Snapshot>,
    /// The page of the last attempt, for snapshots.
    page: Mutex<Option<Arc<Page>>>,
    /// What the last of them saw of the steps.
    paces: Mutex<Paces>,
    /// Where the host asks for something.
    pending: PendingRequests,
    /// Counted from the start on, by the thread that starts the run: it has nothing else to do.
    oom_kills: OnceCell<OomKills>,
    pulse: Pulse,
}

enum Phase {
    New,
    /// The thread makes what can be made before the run.
    Preparing,
    /// Why it could not.
    NotPrepared(Error),
    Prepared,
    /// The thread may begin the run, with this of the host.
    Begin(Box<Host>),
    Running,
    /// The agent is freed before its run began.
    Dropped,
    Over(Arc<RunReport>),
}

/// What is taken of the host when a run starts.
struct Host {
    env: HostEnv,
    working_dir: Option<PathBuf>,
    tmpdir: Option<PathBuf>,
    /// Where the agent's own parent wants the root cause written to, as torchrun's does.
    error_file: Option<PathBuf>,
    /// TORCHELASTIC_HEALTH_CHECK_PORT.
    health_port: Option<Vec<u8>>,
    handlers: Option<Handlers>,
    /// ICE_DESCENT: whose workers this process and its parents are.
    descent: Option<Vec<u8>>,
    subreaper: Option<Subreaper>,
}

impl Agent {
    pub fn new(spec: &Spec) -> Result<Agent, Error> {
        host::refuse_to_be_a_host();
        let mut spec = spec.clone();
        spec.refused()?;
        surroundings::complete(&mut spec)?;
        let devices = share_out(&spec)?;
        spec.local_world_size = devices.local_world_size;
        let checked = spec.check(var)?;
        start::check(&spec)?;
        let rendezvous = Rendezvous::of(&spec, var)?;
        spec.settle_terminal(terminal::is_terminal, terminal::is_same);
        if let Some(rank) = spec.debug_rank
            && let Err(errno) = Terminal::open()
        {
            let want = format!("there is no terminal for a debugger ({})", errno.desc());
            return Err(Error::config("debug_rank", rank, want));
        }
        start::of(&spec).resolve(&mut spec)?;
        let failed = |errno: nix::errno::Errno| Error::system("cannot make an eventfd", errno as i32);
        let workers = ranks::single(spec.local_world_size);
        let worker = |rank| SnapshotWorker {
            rank,
            pid: 0,
            outcome: Outcome::NeverStarted,
            said: Said::default(),
            pace: Pace::default(),
            section: None,
        };
        let snapshot = Snapshot {
            state: GroupState::Init,
            attempt: 0,
            workers: workers.into_iter().map(worker).collect(),
            times: Times::default(),
        };
        Ok(Agent {
            spec: Arc::new(spec),
            settled: Arc::new(Settled { checked, rendezvous, devices }),
            inbox: Arc::new(Inbox::new().map_err(failed)?),
            shared: Arc::new(Shared {
                phase: Mutex::new(Phase::New),
                changed: Condvar::new(),
                finished: Bell::new().map_err(failed)?,
                snapshot: Mutex::new(snapshot),
                page: Mutex::new(None),
                paces: Mutex::default(),
                pending: PendingRequests::default(),
                oom_kills: OnceCell::new(),
                pulse: Pulse::new(),
            }),
            thread: Mutex::new(None),
        })
    }

    /// Refuses a handle in a forked copy of its process.
    pub fn check_process(&self) -> Result<(), Error> {
        if self.inbox.is_ours() { Ok(()) } else { Err(Error::Forked { handle: "agent" }) }
    }

    pub fn start(&self) -> Result<(), Error> {
        let mut phase = self.shared.phase.lock();
        let prepared = match *phase {
            Phase::New | Phase::NotPrepared(_) => false,
            Phase::Prepared => true,
            Phase::Preparing => return Err(Error::State { what: "this agent is being prepared" }),
            Phase::Begin(_) | Phase::Running => {
                return Err(Error::State { what: "this agent is already running" });
            }
            Phase::Dropped | Phase::Over(_) => {
                return Err(Error::State { what: "this agent has already run: make a new one" });
            }
        };
        self.check_host()?;
        let host = self.take_host(true)?;
        if prepared {
            *phase = Phase::Begin(Box::new(host));
            self.shared.changed.notify_all();
        } else {
            self.make_thread(host, false)?;
            *phase = Phase::Running;
        }
        drop(phase);
        self.shared.oom_kills.get_or_init(OomKills::watch);
        Ok(())
    }

    /// Makes what can be made before the run, and waits for it.
    pub fn prepare(&self) -> Result<(), Error> {
        let mut phase = self.shared.phase.lock();
        if !matches!(*phase, Phase::New | Phase::NotPrepared(_)) {
            return Err(Error::State { what: "this agent is prepared, or was started, already" });
        }
        self.check_host()?;
        let host = self.take_host(false)?;
        self.make_thread(host, true)?;
        self.shared.oom_kills.get_or_init(OomKills::watch);
        *phase = Phase::Preparing;
        while matches!(*phase, Phase::Preparing) {
            self.shared.changed.wait(&mut phase);
        }
        let error = match &*phase {
            Phase::NotPrepared(error) => error.clone(),
            Phase::Over(report) => Error::Internal { what: report.message.to_string_lossy().into_owned() },
            _ => return Ok(()),
        };
        drop(phase);
        self.join();
        Err(error)
    }

    /// What would make a run, or its end, go wrong.
    fn check_host(&self) -> Result<(), Error> {
        // PIDFD_GET_INFO tells the status of a child that the kernel did not keep.
        if dispositions::children_are_not_kept() && process::kernel_version() < (6, 15) {
            return Err(Error::State {
                what: "the host ignores SIGCHLD, so the kernel keeps no exit status of a worker: \
                       set SIGCHLD to its default before a run",
            });
        }
        start::of(&self.spec).check_process()
    }

    fn make_thread(&self, host: Host, prepare: bool) -> Result<(), Error> {
        let stack = start::of(&self.spec).stack();
        let (spec, settled) = (self.spec.clone(), self.settled.clone());
        let (inbox, shared) = (self.inbox.clone(), self.shared.clone());
        let thread = std::thread::Builder::new()
            .name("ice-agent".into())
            .stack_size(stack)
            .spawn(move || {
                dispositions::block_all_in_parent();
                let begin = |prepared| shared.begin(prepared);
                let begin: Option<&dyn Fn(Result<(), Error>) -> Option<Host>> =
                    if prepare { Some(&begin) } else { None };
                let report = run::to_its_end(&spec, &settled, &inbox, &shared, host, begin);
                let Some(report) = report else { return };
                shared.pending.close(OVER);
                *shared.phase.lock() = Phase::Over(Arc::new(report));
                shared.changed.notify_all();
                shared.finished.ring();
            })
            .map_err(|error| Error::no_thread(&error))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// `to_run`: with the handlers that stand for the time of a run.
    fn take_host(&self, to_run: bool) -> Result<Host, Error> {
        let spec = &self.spec;
        let (meanings, children) = (spec.meanings(), spec.subreaper);
        let handlers = (to_run && (children || !meanings.is_empty()))
            .then(|| Handlers::install(&self.inbox, &meanings, children))
            .transpose()
            .map_err(|errno| Error::system("cannot handle signals for one more agent", errno as i32))?;
        child::under_valgrind(); // looks at the environment, here
        let path = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Host {
            env: host_env(),
            working_dir: std::env::current_dir().ok(),
            tmpdir: path("TMPDIR"),
            error_file: path("TORCHELASTIC_ERROR_FILE"),
            // Where this process is a worker its agent has that port.
            health_port: var("TORCHELASTIC_HEALTH_CHECK_PORT").filter(|_| !is_worker(var)),
            handlers,
            descent: var(DESCENT).filter(|marks| !marks.is_empty()),
            subreaper: (to_run && spec.subreaper).then(Subreaper::become_one),
        })
    }

    /// Waits for the end; for ever without a limit.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Arc<RunReport>, Error> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut phase = self.shared.phase.lock();
        let report = loop {
            match &*phase {
                Phase::New | Phase::Preparing | Phase::NotPrepared(_) | Phase::Prepared | Phase::Dropped => {
                    return Err(Error::State { what: "this agent was not started" });
                }
                Phase::Over(report) => break report.clone(),
                Phase::Begin(_) | Phase::Running => match deadline {
                    None => self.shared.changed.wait(&mut phase),
                    Some(deadline) => {
                        if self.shared.changed.wait_until(&mut phase, deadline).timed_out()
                            && !matches!(*phase, Phase::Over(_))
                        {
                            return Err(Error::Timeout {
                                what: "the time-out passed, the run still goes on".into(),
                            });
                        }
                    }
                },
            }
        };
        drop(phase);
        self.join();
        Ok(report)
    }

    /// The thread has nothing left to do but to end: when this returns, it has.
    fn join(&self) {
        let mut thread = self.thread.lock();
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }

    pub fn poll_fd(&self) -> RawFd {
        self.shared.finished.as_raw_fd()
    }

    /// Async-signal-safe. False in a forked copy.
    pub fn stop(&self, signal: i32) -> bool {
        let ours = self.inbox.is_ours();
        if ours {
            self.inbox.stop(signal);
        }
        ours
    }

    /// Async-signal-safe. False in a forked copy.
    pub fn pass_signal(&self, signal: i32) -> bool {
        let ours = self.inbox.is_ours();
        if ours {
            self.inbox.pass(signal);
        }
        ours
    }

    pub fn snapshot(&self) -> Snapshot {
        self.shared.look()
    }

    /// Asks all workers for something at one step, and waits for their answers.
    pub fn request(&self, kind: RequestKind, limit: Duration) -> Result<Answers, Error> {
        self.check_control()?;
        let answers = self.shared.pending.ask(HostWish::Request(kind), limit, || self.inbox.ring())?;
        let world_size =
            || self.shared.snapshot.lock().workers.first().map_or(0, |worker| worker.rank.world_size);
        Ok(answers.unwrap_or_else(|| Answers::none(world_size())))
    }

    /// Ends a pause.
    pub fn resume(&self) -> Result<(), Error> {
        self.check_control()?;
        self.shared.pending.tell(HostWish::Resume, || self.inbox.ring())
    }

    fn check_control(&self) -> Result<(), Error> {
        if !self.spec.has_control() {
            return Err(Error::State {
                what: "the spec has no control of workers: ice_spec_set_control() asks for it",
            });
        }
        match *self.shared.phase.lock() {
            Phase::Begin(_) | Phase::Running => Ok(()),
            Phase::Over(_) | Phase::Dropped => Err(Error::State { what: OVER }),
            _ => Err(Error::State { what: "this agent was not started" }),
        }
    }
}

/// A variable of this process.
fn var(name: &str) -> Option<Vec<u8>> {
    std::env::var_os(name).map(OsStringExt::into_vec)
}

/// The environment of this process.
fn host_env() -> HostEnv {
    plan::host_env(std::env::vars_os().map(|(key, value)| (key.into_vec(), value.into_vec())))
}

/// Who gets which devices, as the host's environment is now.
fn share_out(spec: &Spec) -> Result<Assignment, Error> {
    let host = DeviceHost {
        source: Source::of(|name| spec.var(name, var)),
        cpus: &device::usable_cpus,
        devices: &|| {
            let env = plan::probe_env(spec, &host_env());
            // No run, and so no thread for messages, is there yet.
            probe::probe(&Request::of(spec, &env), |text| spec.say(Level::Warning, &text))
        },
    };
    assign(spec, &host)
}

impl Shared {
    /// The group as it is now, with what the workers say.
    fn look(&self) -> Snapshot {
        let mut snapshot = self.snapshot.lock().clone();
        let Some(page) = self.page.lock().clone() else { return snapshot };
        for (rank, worker) in snapshot.workers.iter_mut().enumerate() {
            worker.said = page.said(rank);
            let section = worker.said.place.and_then(|place| place.section);
            worker.section = section.and_then(|section| page.course(rank, section)).map(|course| course.name);
        }
        let steps: Vec<_> = snapshot.workers.iter().map(|worker| worker.said.step).collect();
        let paces = self.paces.lock().look(snapshot.attempt, &steps, process::monotonic());
        snapshot.workers.iter_mut().zip(paces).for_each(|(worker, pace)| worker.pace = pace);
        snapshot
    }

    /// In the agent's thread, once it is prepared or could not be: waits until the run begins; none if it
    /// never will.
    fn begin(&self, prepared: Result<(), Error>) -> Option<Host> {
        let mut phase = self.phase.lock();
        match prepared {
            Ok(()) => *phase = Phase::Prepared,
            Err(error) => *phase = Phase::NotPrepared(error),
        }
        self.changed.notify_all();
        loop {
            match std::mem::replace(&mut *phase, Phase::Running) {
                Phase::Begin(host) => return Some(*host),
                Phase::Prepared => {
                    *phase = Phase::Prepared;
                    self.changed.wait(&mut phase);
                }
                other => {
                    *phase = other;
                    return None;
                }
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A forked copy has neither the thread nor the workers: only memory is freed.
        if self.inbox.is_ours() {
            self.inbox.stop(0);
            let mut phase = self.shared.phase.lock();
            if matches!(*phase, Phase::Prepared) {
                *phase = Phase::Dropped;
                self.shared.changed.notify_all();
            }
            drop(phase);
            let _ = self.wait(None);
            self.join();
        } else {
            std::mem::forget(self.thread.get_mut().take());
        }
    }
}
