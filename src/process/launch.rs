//! The birth of one worker: everything a child needs is prepared here, then it is executed, forked, or
//! asked of the fork server.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use nix::errno::Errno;

use crate::control::page::Page;
use crate::error::{Error, c_string_lossy};
use crate::logs::relay::Tap;
use crate::logs::run_dir::{RunDir, WorkerFiles};
use crate::plan::{Plan, WorkerPlan, as_c_strs};
use crate::process::channel::{Channel, Kind, WorkerEnd};
use crate::process::forkserver::{Forkserver, WHOLE_ENVIRONMENT};
use crate::process::function::{self, Surroundings};
use crate::process::image::Image;
use crate::process::watcher::Table;
use crate::ranks::Rank;
use crate::spec::streams::Streams;
use crate::spec::{Callback, Spec, StartMethod, Stdin};
use crate::sys::affinity::Mask;
use crate::sys::child::{self, Child, Function, Nursery, Pointers, Program, Report, Setup, Step};
use crate::sys::confined::is_refusal;
use crate::sys::dispositions::Reset;
use crate::sys::fd;
use crate::sys::limits;
use crate::sys::memory::{self, Blob, Mapping};
use crate::sys::packets::Packets;
use crate::sys::process;
use crate::sys::slices::Slices;
use crate::sys::terminal;

/// A file that was just written may still be open for writing in another child of the host that is about
/// to exec (ETXTBSY): tried again for half a second.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
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
    /// What a function of a new process runs in.
    image: Option<Image>,
    /// The argument, for forked workers: they find it in their memory.
    argument: Option<&'static [u8]>,
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
        let argument = match (&spec.argument, spec.method()) {
            (Some(blob), Some(StartMethod::Fork)) => {
                Some(Blob::map(blob.as_raw_fd()).map_err(failed)?.leak_readable())
            }
            _ => None,
        };
        if spec.method() == Some(StartMethod::Fork) {
            function::prepare_crash_records(spec.crash_records);
        }
        Ok(Launcher {
            nursery: Nursery::new().map_err(failed)?,
            slots: Mapping::anonymous_shared(8).map_err(failed)?,
            // Among the descriptors from 3 on it stands for one that is not there: it must not be one of them.
            null: fd::null().and_then(fd::above_protocol).map_err(failed)?,
            stdin: if spec.stdin == Stdin::Null { None } else { host(0)? },
            stdout: host(spec.console.0)?,
            stderr: host(spec.console.1)?,
            console_stops_writers: [spec.console.0, spec.console.1].into_iter().any(terminal::stops_writers),
            image: Image::of(spec, working_dir.as_deref())?,
            working_dir: directory(spec, working_dir),
            slices: Slices::shorten(),
            argument,
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
        let page_fd = page.and_then(|page| page.fd());
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
        let report = Report { step: self.slots.word(0), errno: self.slots.word(1) };
        report.clear();
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
            report: Some(report),
            descriptors: limits::of_children(),
            slices: self.slices,
            cpus: cpus.as_ref(),
            group,
            process: None,
            mark: None,
        };
        let channel = || {
            Channel::for_worker(rank, restarts)
                .map_err(|errno| Error::system("cannot make memory for a value", errno as i32))
        };
        match (spec.method(), spec.callback, server, &self.image) {
            (Some(StartMethod::Fork), Some(callback), ..) => {
                let channel = channel()?;
                let setup = Setup { report: Some(channel.report()), mark, ..setup };
                let env = environment(plan, &worker);
                let surroundings = || Surroundings {
                    argument: self.argument,
                    crash_records: spec.crash_records,
                    page: page.cloned(),
                };
                let child = fork(&setup, callback, channel.fd(), &surroundings, &env)?;
                Ok(Born { child: Some(child), channel: Some(channel), taps })
            }
            (Some(StartMethod::Forkserver), _, Some(server), _) => {
                let channel = channel()?;
                let list = worker.cpus.map(|cpus| c_string_lossy(cpus.to_string().as_bytes()));
                // A rank with variables of its own gets all of them, the others what differs.
                let all = worker.common.iter().flat_map(|common| as_c_strs(common));
                let mark = if worker.common.is_some() { WHOLE_ENVIRONMENT } else { c"" };
                let first = [mark, list.as_deref().unwrap_or_default()];
                channel
                    .tell(first.into_iter().chain(all).chain(as_c_strs(&worker.own)))
                    .map_err(|errno| Error::system("cannot make memory for an environment", errno as i32))?;
                let own_streams = terminal.is_some() || out_file.is_some() || err_file.is_some();
                server
                    .ask(rank.local, stdio, own_streams, &channel)
                    .map_err(|errno| Error::system("cannot ask the fork server", errno as i32))?;
                Ok(Born { child: None, channel: Some(channel), taps })
            }
            (Some(StartMethod::Forkserver), ..) => Err(Error::Internal { what: "no fork server".into() }),
            (Some(_), _, _, Some(image)) => {
                let channel = channel()?;
                tell(&channel, image)?;
                let argument = spec.argument.as_ref().map_or(self.null.as_raw_fd(), |blob| blob.as_raw_fd());
                let null = self.null.as_raw_fd();
                let protocol = [channel.fd(), argument, page_fd.unwrap_or(null), null];
                let setup = Setup { protocol: &protocol, process: Some(channel.process()), ..setup };
                let (paths, env) = (std::slice::from_ref(&image.path), environment(plan, &worker));
                let child = execute(&mut self.nursery, spec, &setup, paths, &image.argv, &env)?;
                Ok(Born { child: Some(child), channel: Some(channel), taps })
            }
            _ => {
                let env = environment(plan, &worker);
                // The first after the streams: CONTROL_FD.
                let setup = Setup { protocol: page_fd.as_slice(), ..setup };
                let child = execute(&mut self.nursery, spec, &setup, &worker.paths, &worker.argv, &env)?;
                Ok(Born { child: Some(child), channel: None, taps })
            }
        }
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
        let failed = |errno: Errno| Error::system("cannot prepare a fork server", errno as i32);
        let Some(image) = &self.image else {
            return Err(Error::Internal { what: "a fork server without an image".into() });
        };
        let channel = Channel::new(Kind::Server).map_err(failed)?;
        tell(&channel, image)?;
        let (ours, theirs) = Packets::pair().map_err(failed)?;
        let theirs = fd::above_protocol(theirs.into_fd()).map_err(failed)?;
        let null = self.null.as_raw_fd();
        let console = |console: &Option<OwnedFd>| console.as_ref().map_or(null, OwnedFd::as_raw_fd);
        let argument = spec.argument.as_ref().map_or(null, |blob| blob.as_raw_fd());
        let protocol =
            [channel.fd(), argument, theirs.as_raw_fd(), groups.map_or(null, |(table, _)| table.fd())];
        let report = Report { step: self.slots.word(0), errno: self.slots.word(1) };
        report.clear();
        let setup = Setup {
            stdio: [null, console(&self.stdout), console(&self.stderr)],
            protocol: &protocol,
            terminal: None,
            working_dir: self.working_dir.as_deref(),
            // What is meant for the agent is not to end it, with all workers, before the agent hears of it.
            reset: self.beside_terminal(Reset::for_children()).ignoring_all(image.order.signals.ignored),
            report: Some(report),
            descriptors: limits::of_children(),
            slices: self.slices,
            cpus: None,
            group: groups.map(|(table, slot)| table.slot(slot)),
            process: Some(channel.process()),
            mark: None,
        };
        let (paths, env) = (std::slice::from_ref(&image.path), Pointers::new(as_c_strs(env)));
        let child = execute(&mut self.nursery, spec, &setup, paths, &image.argv, &env)?;
        Ok(Forkserver::new(child, channel, ours))
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

fn tell(channel: &Channel, image: &Image) -> Result<(), Error> {
    channel
        .tell(image.order.to_strings().iter().map(CString::as_c_str))
        .map_err(|errno| Error::system("cannot make memory for an order", errno as i32))
}

fn fork(
    setup: &Setup,
    callback: Callback,
    channel: RawFd,
    surroundings: &dyn Fn() -> Surroundings,
    env: &Pointers,
) -> Result<Child, Error> {
    let mut run = || match WorkerEnd::open(channel) {
        Ok(end) => function::run(callback, end, surroundings()),
        Err(_) => function::NOT_STARTED,
    };
    child::fork(setup, Function { env: Some(env), keep: channel, run: &mut run })
        .map_err(|errno| not_born("cannot fork a worker", errno))
}

/// Where a sandbox is to blame the call is named, so that its owner knows what to allow.
fn not_born(what: &str, errno: Errno) -> Error {
    match process::pidfd_open_refusal() {
        Some(refusal) if refusal == errno => Error::system(
            format!(
                "{what}: the end of a child cannot be seen without a pidfd, which is refused here: pidfd_open"
            ),
            errno as i32,
        ),
        _ if is_refusal(errno) => Error::system(format!("{what}: clone"), errno as i32),
        _ => Error::system(what, errno as i32),
    }
}

/// Starts the first of these files that can be executed.
fn execute(
    nursery: &mut Nursery,
    spec: &Spec,
    setup: &Setup,
    paths: &[CString],
    argv: &[CString],
    env: &Pointers,
) -> Result<Child, Error> {
    let (files, argv) = (as_c_strs(paths).collect::<Vec<_>>(), Pointers::new(as_c_strs(argv)));
    spawn(nursery, setup, &Program { paths: &files, argv: &argv, env }).map_err(|failure| match failure {
        Failure::Clone(errno) => not_born("cannot start a process", errno),
        Failure::Child(step, errno) => explain(spec, setup.working_dir, step, errno, paths),
    })
}

/// What it takes to start a process beside those of a run.
pub struct Single {
    nursery: Nursery,
    /// See `Launcher::slots`.
    words: Mapping,
}

impl Single {
    pub fn new() -> Result<Single, Errno> {
        Ok(Single { nursery: Nursery::new()?, words: Mapping::anonymous_shared(8)? })
    }

    /// Starts the first of these files that can be executed, with all signals blocked in this thread.
    pub fn spawn(
        &mut self,
        setup: Setup,
        paths: &[CString],
        argv: &[CString],
        env: &[CString],
    ) -> Result<Child, Failure> {
        let report = Report { step: self.words.word(0), errno: self.words.word(1) };
        let setup = Setup { report: Some(report), ..setup };
        let files: Vec<&CStr> = as_c_strs(paths).collect();
        let (argv, env) = (Pointers::new(as_c_strs(argv)), Pointers::new(as_c_strs(env)));
        spawn(&mut self.nursery, &setup, &Program { paths: &files, argv: &argv, env: &env })
    }
}

/// Why a process did not start.
pub enum Failure {
    Clone(Errno),
    Child(Step, Errno),
}

/// Starts a program, with all signals blocked in this thread.
fn spawn(nursery: &mut Nursery, setup: &Setup, program: &Program) -> Result<Child, Failure> {
    for left in (0..BUSY_TRIES).rev() {
        let child = nursery.spawn(setup, program).map_err(Failure::Clone)?;
        let Some((step, errno)) = setup.report.as_ref().and_then(Report::read) else { return Ok(child) };
        crate::sys::process::wait_for_end(&child.pidfd);
        if errno != Errno::ETXTBSY || left == 0 {
            return Err(Failure::Child(step, errno));
        }
        if let Some(report) = &setup.report {
            report.clear();
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    unreachable!("the last try returns")
}

fn environment<'a>(plan: &'a Plan, worker: &'a WorkerPlan) -> Pointers<'a> {
    let common = worker.common.as_deref().unwrap_or(plan.common_env());
    Pointers::new(as_c_strs(common).chain(as_c_strs(&worker.own)))
}

/// A failed start in words: what, and what is wrong with it.
fn explain(spec: &Spec, working_dir: Option<&CStr>, step: Step, errno: Errno, paths: &[CString]) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let program = spec.program.as_ref().or(paths.first());
    let name = program.map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    let what = match step {
        Step::Redirect => "cannot redirect the streams of a worker".into(),
        Step::Affinity => "cannot bind a worker to its CPUs".into(),
        Step::WorkingDir => {
            format!(
                "cannot start in the working directory {}",
                working_dir.unwrap_or_default().to_string_lossy()
            )
        }
        Step::Exec => {
            let directory = working_dir.map(|dir| PathBuf::from(std::ffi::OsStr::from_bytes(dir.to_bytes())));
            let found = paths.iter().any(|path| {
                let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
                directory.as_ref().map_or(path.to_path_buf(), |directory| directory.join(path)).exists()
            });
            let what = match errno {
                Errno::ENOENT if found => format!("cannot start {name}: its interpreter is missing"),
                Errno::ENOENT if !name.contains('/') => {
                    format!("cannot start {name}: it is not in the PATH of the worker")
                }
                _ => format!("cannot start {name}"),
            };
            return Error::Program { what, errno: errno as i32 };
        }
    };
    Error::system(what, errno as i32)
}
