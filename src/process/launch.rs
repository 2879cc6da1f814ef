//! The birth of one worker: everything a child needs, whatever its start method, is prepared here.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use nix::errno::Errno;

use crate::control::page::Page;
use crate::error::Error;
use crate::logs::relay::Tap;
use crate::logs::run_dir::{RunDir, WorkerFiles};
use crate::plan::{Plan, as_c_strs};
use crate::process::channel::Channel;
use crate::process::program::{self, explain};
use crate::process::start::forkserver::Forkserver;
use crate::process::start::{self, NewServer, Newborn, Starter};
use crate::process::watcher::Table;
use crate::ranks::Rank;
use crate::spec::streams::Streams;
use crate::spec::{Spec, Stdin};
use crate::sys::affinity::Mask;
use crate::sys::child::{self, Child, Nursery, Setup};
use crate::sys::dispositions::Reset;
use crate::sys::fd;
use crate::sys::limits;
use crate::sys::memory::{self, Mapping};
use crate::sys::slices::Slices;
use crate::sys::terminal;

const NO_MEMFD: &str = "functions, values and the control page need memory that no process can cut under another: \
                        memfd_create";

/// What is the same for all workers of a run.
pub struct Launcher {
    nursery: Nursery,
    /// Two words in which the child that is being executed says why it could not start.
    slots: Mapping,
    null: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// A worker is in the background of the console, as its group is none of the host's: this terminal would stop
    /// it where it writes.
    console_stops_writers: bool,
    working_dir: Option<CString>,
    slices: Option<Slices>,
    starter: Box<dyn Starter>,
}

/// What differs from one birth to the next.
pub struct Birth<'a> {
    pub rank: &'a Rank,
    pub restarts: u32,
    pub run_dir: Option<&'a RunDir>,
    pub files: &'a WorkerFiles,
    /// Taken once per attempt.
    pub reset: Reset,
    /// Where it notes its group for the watcher.
    pub group: Option<&'a AtomicI32>,
    /// For workers that it forks.
    pub server: Option<&'a mut Forkserver>,
    /// What the agent and the workers of the attempt share, if they do.
    pub page: Option<&'a Arc<Page>>,
    /// For its streams: it is to be in the foreground of this.
    pub terminal: Option<RawFd>,
    /// What it maps if it is forked by this process.
    pub mark: Option<RawFd>,
}

/// What came of a birth.
pub struct Born {
    /// None while the fork server has not answered.
    pub child: Option<Child>,
    pub channel: Option<Channel>,
    /// Its streams, where they go through the agent.
    pub taps: Vec<Tap>,
}

impl Launcher {
    /// In the agent's thread. `working_dir` is the host's when the run started, if it can be named.
    pub fn new(spec: &Spec, working_dir: Option<PathBuf>) -> Result<Launcher, Error> {
        let failed = |errno: Errno| Error::system("cannot prepare to start workers", errno as i32);
        if let (true, Some(errno)) = (spec.method().is_some() || spec.has_control(), memory::memfd_refusal())
        {
            return Err(Error::system(NO_MEMFD, errno as i32));
        }
        // A descriptor that the host has closed stands for /dev/null.
        let host = |fd: RawFd| {
            if child::is_open(fd) { fd::duplicate(fd).map(Some).map_err(failed) } else { Ok(None) }
        };
        Ok(Launcher {
            nursery: Nursery::new().map_err(failed)?,
            slots: Mapping::anonymous_shared(8).map_err(failed)?,
            // Among the descriptors from 3 on it stands for one that is not there: it must not be one of them.
            null: fd::null().and_then(fd::above_protocol).map_err(failed)?,
            stdin: if spec.stdin == Stdin::Null { None } else { host(0)? },
            stdout: host(spec.console.0)?,
            stderr: host(spec.console.1)?,
            console_stops_writers: [spec.console.0, spec.console.1].into_iter().any(terminal::stops_writers),
            starter: start::of(spec).prepare(spec, working_dir.as_deref())?,
            working_dir: directory(spec, working_dir),
            slices: Slices::shorten(),
        })
    }

    /// Why a forked worker could not start, if it said so.
    pub fn start_error(&self, spec: &Spec, channel: &Channel) -> Option<Error> {
        let (step, errno) = channel.report().read()?;
        Some(explain(spec, self.working_dir.as_deref(), step, errno, &[]))
    }

    /// Starts one worker.
    pub fn launch(&mut self, spec: &Spec, plan: &Plan, birth: Birth) -> Result<Born, Error> {
        let Birth { rank, restarts, run_dir, files, reset, group, server, page, terminal, mark } = birth;
        let worker = plan.worker(rank, files.error.as_ref());
        let mut taps = Vec::new();
        let mut open = |path: &Option<PathBuf>, which: Streams| match (run_dir, path) {
            (Some(run_dir), Some(path)) if spec.log_through_agent => {
                let (tap, theirs) = Tap::new(which, path, run_dir)?;
                taps.push(tap);
                Ok(Some(theirs))
            }
            (Some(run_dir), Some(path)) => run_dir.open_log(path).map(Some),
            _ => Ok(None),
        };
        let out_file = open(&files.stdout, Streams::STDOUT)?;
        let err_file = open(&files.stderr, Streams::STDERR)?;
        let stdio = match terminal {
            Some(terminal) => [terminal; 3],
            None => self.stdio(spec, rank.local, &out_file, &err_file),
        };
        let cpus = worker.cpus.map(|cpus| Mask::of(cpus.iter()));
        let setup = Setup {
            stdio,
            protocol: &[],
            terminal,
            working_dir: self.working_dir.as_deref(),
            // At the debugger ^Z does nothing: whoever started the run would not know of it.
            reset: match terminal {
                Some(_) => reset.ignoring(libc::SIGTSTP),
                None => self.beside_terminal(reset),
            },
            report: Some(program::report(&self.slots)),
            descriptors: limits::of_children(),
            slices: self.slices,
            cpus: cpus.as_ref(),
            group,
            process: None,
            mark: None,
        };
        let newborn = Newborn {
            spec,
            plan,
            worker: &worker,
            rank,
            restarts,
            setup,
            own_streams: terminal.is_some() || out_file.is_some() || err_file.is_some(),
            page,
            mark,
            server,
            nursery: &mut self.nursery,
            null: self.null.as_raw_fd(),
        };
        let (child, channel) = self.starter.birth(newborn)?;
        Ok(Born { child, channel, taps })
    }

    fn beside_terminal(&self, reset: Reset) -> Reset {
        if self.console_stops_writers { reset.ignoring(libc::SIGTTOU) } else { reset }
    }

    /// The three streams of a worker.
    fn stdio(
        &self,
        spec: &Spec,
        local_rank: usize,
        out_file: &Option<OwnedFd>,
        err_file: &Option<OwnedFd>,
    ) -> [RawFd; 3] {
        let null = self.null.as_raw_fd();
        let to_file = spec.file_streams(local_rank);
        // Without a run directory a redirected stream goes nowhere.
        let target =
            |file: &Option<OwnedFd>, redirected: bool, console: &Option<OwnedFd>| match (file, console) {
                (Some(file), _) => file.as_raw_fd(),
                (None, Some(console)) if !redirected => console.as_raw_fd(),
                _ => null,
            };
        let stdout = target(out_file, to_file.has(Streams::STDOUT), &self.stdout);
        let stderr = if spec.merge_stderr {
            stdout
        } else {
            target(err_file, to_file.has(Streams::STDERR), &self.stderr)
        };
        let stdin = match (&self.stdin, spec.stdin) {
            (Some(stdin), Stdin::All) => stdin.as_raw_fd(),
            (Some(stdin), Stdin::Rank0) if local_rank == 0 => stdin.as_raw_fd(),
            _ => null,
        };
        [stdin, stdout, stderr]
    }

    /// Starts the fork server with an environment that has nothing of a worker's. Its streams are the
    /// host's, as the spec has it.
    pub fn start_server(
        &mut self,
        spec: &Spec,
        env: &[CString],
        groups: Option<(&Table, usize)>,
    ) -> Result<Forkserver, Error> {
        let null = self.null.as_raw_fd();
        let console = |console: &Option<OwnedFd>| console.as_ref().map_or(null, OwnedFd::as_raw_fd);
        let setup = Setup {
            stdio: [null, console(&self.stdout), console(&self.stderr)],
            protocol: &[],
            terminal: None,
            working_dir: self.working_dir.as_deref(),
            reset: self.beside_terminal(Reset::for_children()),
            report: Some(program::report(&self.slots)),
            descriptors: limits::of_children(),
            slices: self.slices,
            cpus: None,
            group: groups.map(|(table, slot)| table.slot(slot)),
            process: None,
            mark: None,
        };
        let groups = groups.map_or(null, |(table, _)| table.fd());
        self.starter.start_server(NewServer { spec, env, setup, groups, nursery: &mut self.nursery, null })
    }

    /// Tells the fork server what the workers of an attempt have in common.
    pub fn prepare_server(
        &self,
        server: &mut Forkserver,
        plan: &Plan,
        page: Option<&Arc<Page>>,
        mark: Option<RawFd>,
    ) -> Result<(), Error> {
        let working_dir = self.working_dir.as_deref().unwrap_or_default();
        let strings = std::iter::once(working_dir).chain(as_c_strs(plan.common_env()));
        let page = page.and_then(|page| page.fd());
        server
            .prepare(strings, page, mark)
            .map_err(|errno| Error::system("cannot ask the fork server", errno as i32))
    }

    /// The host's directory when the run starts, for a launcher that was made before.
    pub fn set_working_dir(&mut self, spec: &Spec, working_dir: Option<PathBuf>) {
        self.working_dir = directory(spec, working_dir);
    }
}

/// Where workers start: in the spec's directory as seen from the host's, or in the host's.
fn directory(spec: &Spec, host: Option<PathBuf>) -> Option<CString> {
    use std::os::unix::ffi::OsStringExt;
    match (host, &spec.working_dir) {
        (None, own) => own.clone(),
        (Some(host), None) => CString::new(host.into_os_string().into_vec()).ok(),
        (Some(host), Some(own)) => {
            let own = PathBuf::from(std::ffi::OsString::from_vec(own.to_bytes().to_vec()));
            CString::new(host.join(own).into_os_string().into_vec()).ok()
        }
    }
}
