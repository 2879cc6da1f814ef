//! What a run would start, worked out as the run does it, but with nothing made.

use std::ffi::CString;
use std::path::PathBuf;

use super::run::timer_file::TimerFile;
use super::{Agent, binding, run};
use crate::error::{Error, c_string_lossy};
use crate::logs::run_dir::RunDir;
use crate::plan::assign::Backend;
use crate::plan::{Job, Plan};
use crate::process::descent;
use crate::ranks::{self, Rank};

/// What stands for the mark that a run makes when it starts.
const PLANNED_MARK: &str = "XXXXXXXXXXXXXXXX.worker";

/// The first attempt of a run, as it would be started now.
pub struct Preview {
    pub backend: Option<Backend>,
    pub workers: Vec<WorkerPreview>,
    /// What a scheduler has said: option, value, and where it is from.
    pub sources: Vec<[CString; 3]>,
}

pub struct WorkerPreview {
    pub rank: Rank,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    /// Empty where none are assigned; likewise what follows.
    pub devices: CString,
    pub visible_devices: CString,
    pub stdout_log: CString,
    pub stderr_log: CString,
    pub error_file: CString,
    /// What it is bound to, as the kernel writes a list; empty if it is not.
    pub cpus: CString,
}

impl Agent {
    pub fn preview(&self) -> Result<Preview, Error> {
        use std::os::unix::ffi::OsStrExt;
        let (spec, devices) = (&*self.spec, &self.settled.devices);
        let host = self.take_host(false)?;
        let run_id = run::run_id(spec);
        let working_dir = host.working_dir.unwrap_or_default();
        let run_dir =
            RunDir::planned(spec, &self.settled.checked, &run_id, &working_dir, host.tmpdir.as_deref());
        let shares = binding::shares(spec, devices)?;
        let timer_file = TimerFile::place(
            &self.settled.checked,
            run_dir.as_ref(),
            0,
            &working_dir,
            host.tmpdir.as_deref(),
        );
        let job = run::job((spec, &self.settled.checked), run_id, spec.master_port, 0, None, timer_file);
        let descent = descent::worker_list(host.descent.as_deref(), PLANNED_MARK);
        let job = Job { descent, ..job };
        let plan = Plan::new(spec, devices, job, &host.env, shares);
        let path = |path: Option<PathBuf>| {
            path.map(|path| c_string_lossy(path.as_os_str().as_bytes())).unwrap_or_default()
        };
        let worker = |rank: Rank| {
            let (streams, merge) = (spec.file_streams(rank.local), spec.merge_stderr);
            let files = run_dir.as_ref().map(|dir| dir.worker_files(0, rank.local, streams, merge));
            let files = files.unwrap_or_default();
            let worker = plan.worker(&rank, files.error.as_ref());
            let common = worker.common.as_deref().unwrap_or(plan.common_env());
            let cpus =
                worker.cpus.map(|cpus| c_string_lossy(cpus.to_string().as_bytes())).unwrap_or_default();
            let mine = devices.ranks.get(rank.local);
            WorkerPreview {
                rank,
                env: common.iter().chain(&worker.own).cloned().collect(),
                argv: worker.argv,
                devices: mine.map(|mine| c_string_lossy(mine.named().as_bytes())).unwrap_or_default(),
                visible_devices: mine
                    .and_then(|mine| mine.visible.as_deref())
                    .map(|visible| c_string_lossy(visible.as_bytes()))
                    .unwrap_or_default(),
                stdout_log: path(files.stdout),
                stderr_log: path(files.stderr),
                error_file: path(files.error),
                cpus,
            }
        };
        let workers = ranks::single(spec.local_world_size).into_iter().map(worker).collect();
        let text = |text: &str| c_string_lossy(text.as_bytes());
        let sources = spec.sources.iter();
        let sources =
            sources.map(|said| [text(said.option), text(&said.value), text(&said.source)]).collect();
        Ok(Preview { backend: devices.backend, workers, sources })
    }
}
