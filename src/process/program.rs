//! A program in a new process: the first of some files that can be executed, or why none could.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::error::Error;
use crate::plan::as_c_strs;
use crate::spec::Spec;
use crate::sys::child::{Child, Nursery, Pointers, Program, Report, Setup, Step};
use crate::sys::confined::is_refusal;
use crate::sys::memory::Mapping;
use crate::sys::process;

/// A file that was just written may still be open for writing in another child of the host that is about
/// to exec (ETXTBSY): tried again for half a second.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Starts the first of these files that can be executed.
pub fn execute(
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
    /// See `report`.
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
        let setup = Setup { report: Some(report(&self.words)), ..setup };
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
        process::wait_for_end(&child.pidfd);
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

/// Two words in which a child that is being executed says why it could not start.
pub fn report(words: &Mapping) -> Report<'_> {
    let report = Report { step: words.word(0), errno: words.word(1) };
    report.clear();
    report
}

/// Where a sandbox is to blame the call is named, so that its owner knows what to allow.
pub fn not_born(what: &str, errno: Errno) -> Error {
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

/// A failed start in words: what, and what is wrong with it.
pub fn explain(
    spec: &Spec,
    working_dir: Option<&CStr>,
    step: Step,
    errno: Errno,
    paths: &[CString],
) -> Error {
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
            let directory = working_dir.map(|dir| PathBuf::from(OsStr::from_bytes(dir.to_bytes())));
            let found = paths.iter().any(|path| {
                let path = Path::new(OsStr::from_bytes(path.to_bytes()));
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
