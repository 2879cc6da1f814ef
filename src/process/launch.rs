//! The birth of one worker: everything a child needs is prepared here, then it is spawned or forked.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::Error;
use crate::logs::run_dir::{RunDir, WorkerFiles};
use crate::plan::{Plan, WorkerPlan, as_c_strs};
use crate::process::callback::{self, Channel};
use crate::ranks::Rank;
use crate::spec::streams::Streams;
use crate::spec::{Spec, Stdin};
use crate::sys::child::{self, Child, Function, Nursery, Pointers, Program, Report, Setup, Step};
use crate::sys::dispositions::Reset;
use crate::sys::fd;
use crate::sys::memory::Mapping;
use crate::sys::slices::Slices;

/// A file that was just written may still be open for writing in another child of the host that is about
/// to exec (ETXTBSY): tried again for half a second.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What is the same for all workers of a run.
pub struct Launcher {
    nursery: Nursery,
    /// Two words per worker in which it says why it could not start.
    slots: Mapping,
    null: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    working_dir: Option<CString>,
    slices: Option<Slices>,
}

/// What differs from one birth to the next.
pub struct Birth<'a> {
    pub rank: &'a Rank,
    pub attempt: u32,
    pub run_dir: Option<&'a RunDir>,
    pub files: &'a WorkerFiles,
    /// Taken once per attempt.
    pub reset: Reset,
    /// Where it notes its group for the watcher.
    pub group: Option<&'a AtomicI32>,
}

/// A worker that was born.
pub struct Born {
    pub child: Child,
    pub channel: Option<Channel>,
}

impl Launcher {
    /// In the agent's thread. `working_dir` is the host's when the run started, if it can be named.
    pub fn new(spec: &Spec, working_dir: Option<PathBuf>) -> Result<Launcher, Errno> {
        use std::os::unix::ffi::OsStringExt;
        // A descriptor that the host has closed stands for /dev/null.
        let host = |fd: RawFd| if child::is_open(fd) { fd::duplicate(fd).map(Some) } else { Ok(None) };
        let working_dir = match (working_dir, &spec.working_dir) {
            (None, own) => own.clone(),
            (Some(host), None) => CString::new(host.into_os_string().into_vec()).ok(),
            (Some(host), Some(own)) => {
                let own = PathBuf::from(std::ffi::OsString::from_vec(own.to_bytes().to_vec()));
                CString::new(host.join(own).into_os_string().into_vec()).ok()
            }
        };
        Ok(Launcher {
            nursery: Nursery::new()?,
            slots: Mapping::anonymous_shared(spec.local_world_size * 8)?,
            null: fd::null()?,
            stdin: if spec.stdin == Stdin::Null { None } else { host(0)? },
            stdout: host(spec.console.0)?,
            stderr: host(spec.console.1)?,
            working_dir,
            slices: Slices::shorten(),
        })
    }

    /// Why a worker could not start, if it said so.
    pub fn start_error(&self, spec: &Spec, local_rank: usize) -> Option<Error> {
        let (step, errno) = report(&self.slots, local_rank).read()?;
        Some(explain(spec, self.working_dir.as_deref(), step, errno, &[]))
    }

    /// Starts one worker.
    pub fn launch(&mut self, spec: &Spec, plan: &Plan, birth: Birth) -> Result<Born, Error> {
        let Birth { rank, attempt, run_dir, files, reset, group } = birth;
        let worker = plan.worker(rank, files.error.as_ref());
        let open = |path: &Option<PathBuf>| match (run_dir, path) {
            (Some(run_dir), Some(path)) => run_dir.open_log(path).map(Some),
            _ => Ok(None),
        };
        let (out_file, err_file) = (open(&files.stdout)?, open(&files.stderr)?);
        let null = self.null.as_raw_fd();
        let to_file = spec.file_streams(rank.local);
        // Without a run directory a redirected stream goes nowhere.
        let target =
            |file: &Option<OwnedFd>, redirected: bool, console: &Option<OwnedFd>| match (file, console) {
                (Some(file), _) => file.as_raw_fd(),
                (None, Some(console)) if !redirected => console.as_raw_fd(),
                _ => null,
            };
        let stdout = target(&out_file, to_file.has(Streams::STDOUT), &self.stdout);
        let stderr = if spec.merge_stderr {
            stdout
        } else {
            target(&err_file, to_file.has(Streams::STDERR), &self.stderr)
        };
        let stdin = match (&self.stdin, spec.stdin) {
            (Some(stdin), Stdin::All) => stdin.as_raw_fd(),
            (Some(stdin), Stdin::Rank0) if rank.local == 0 => stdin.as_raw_fd(),
            _ => null,
        };
        let report = report(&self.slots, rank.local);
        report.clear();
        let setup = Setup {
            stdio: [stdin, stdout, stderr],
            working_dir: self.working_dir.as_deref(),
            reset,
            report,
            slices: self.slices,
            group,
        };
        match spec.callback {
            Some(callback) => {
                let channel = Channel::new()
                    .map_err(|errno| Error::system("cannot make memory for a value", errno as i32))?;
                let mut run = || callback::run(callback, *rank, attempt);
                let env = environment(plan, &worker);
                let function = Function { env: &env, third: channel.fd(), run: &mut run };
                let child = child::fork(&setup, function)
                    .map_err(|errno| Error::system("cannot fork a worker", errno as i32))?;
                Ok(Born { child, channel: Some(channel) })
            }
            None => {
                let child =
                    spawn(&mut self.nursery, &setup, plan, &worker).map_err(|failure| match failure {
                        Failure::Clone(errno) => Error::system("cannot start a process", errno as i32),
                        Failure::Child(step, errno) => {
                            explain(spec, self.working_dir.as_deref(), step, errno, &worker.paths)
                        }
                    })?;
                Ok(Born { child, channel: None })
            }
        }
    }
}

fn report(slots: &Mapping, index: usize) -> Report<'_> {
    Report { step: slots.word(2 * index), errno: slots.word(2 * index + 1) }
}

enum Failure {
    Clone(Errno),
    Child(Step, Errno),
}

fn spawn(nursery: &mut Nursery, setup: &Setup, plan: &Plan, worker: &WorkerPlan) -> Result<Child, Failure> {
    let argv = Pointers::new(as_c_strs(&worker.argv));
    let env = environment(plan, worker);
    let paths: Vec<&CStr> = as_c_strs(&worker.paths).collect();
    let program = Program { paths: &paths, argv: &argv, env: &env };
    for left in (0..BUSY_TRIES).rev() {
        let child = nursery.spawn(setup, &program).map_err(Failure::Clone)?;
        let Some((step, errno)) = setup.report.read() else { return Ok(child) };
        crate::sys::process::wait_for_end(&child.pidfd);
        if errno != Errno::ETXTBSY || left == 0 {
            return Err(Failure::Child(step, errno));
        }
        setup.report.clear();
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
    let name =
        spec.program.as_ref().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    let what = match step {
        Step::Redirect => "cannot redirect the streams of a worker".into(),
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
            match errno {
                Errno::ENOENT if found => format!("cannot start {name}: its interpreter is missing"),
                Errno::ENOENT if !name.contains('/') => {
                    format!("cannot start {name}: it is not in the PATH of the worker")
                }
                _ => format!("cannot start {name}"),
            }
        }
    };
    Error::system(what, errno as i32)
}
