//! One test: its directory, its mark, and what it must not leave behind.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::*;

/// One test's directory and tag. The directory stays if the test fails, and its path is said.
pub struct Case {
    pub dir: PathBuf,
    pub(super) tag: String,
}

impl Default for Case {
    fn default() -> Self {
        Self::new()
    }
}

impl Case {
    pub fn new() -> Case {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let tag = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("libice-test-{tag}"));
        // Of a test that failed long ago, in a process that had this number.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("tmp")).expect("the case's directory");
        Case { dir, tag }
    }

    /// The path of a file of this case, as text: probes and hosts take it on their command lines.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a plain path").to_string()
    }

    /// Where the library makes its temporary directories in this case.
    pub fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines of a file; none if there is no such file.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_string).collect()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} lines in {name}"), || self.lines(name).len() >= count);
        self.lines(name)
    }

    pub fn wait_file(&self, name: &str) {
        wait_for(name, || self.dir.join(name).exists());
    }

    pub fn touch(&self, name: &str) {
        self.write(name, b"", 0o644);
    }

    /// Makes a file, with an execute bit where asked.
    pub fn write(&self, name: &str, contents: &[u8], mode: u32) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, contents).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self.path(name)
    }

    /// A host with the usual settings: one worker, no restart, a shutdown time-out of 5 s.
    pub fn host(&self) -> Host<'_> {
        let host = Host {
            case: self,
            steps: Vec::new(),
            env: Vec::new(),
            removed: Vec::new(),
            wrapper: Vec::new(),
            path: program("host"),
            stdin: Vec::new(),
            stdout: None,
            terminal: None,
            limit: HOST_LIMIT,
        };
        host.set("max_restarts", 0).set("shutdown_timeout", 5)
    }

    /// A host with nothing set.
    pub fn bare_host(&self) -> Host<'_> {
        let mut host = self.host();
        host.steps.clear();
        host
    }

    /// Any other program, tagged as a host is.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(TAG, &self.tag).env("TMPDIR", self.tmp()).stdin(Stdio::null());
        // The agents of a case have a secret of their own, and leave the user's alone.
        command.env("XDG_CONFIG_HOME", self.dir.join("config"));
        // Cores and the like stay in the case.
        command.current_dir(&self.dir);
        for name in HOST_VARIABLES {
            command.env_remove(name);
        }
        command
    }

    /// Live processes of this case (other than hosts that still run, if any).
    pub fn processes(&self) -> Vec<i32> {
        processes_of(&self.tag)
    }

    #[track_caller]
    pub fn nothing_left(&self) {
        self.left().unwrap_or_else(|what| panic!("{what}"));
    }

    /// Soon no process of this case lives any more. The promise is a second; a busy machine gets more, as nothing
    /// that the tests start ends by itself so soon.
    pub fn no_process_left(&self) -> Result<(), String> {
        let mut left = Vec::new();
        let none = || {
            left = self.processes();
            left.is_empty()
        };
        if soon(Duration::from_secs(5), none) {
            return Ok(());
        }
        let shown: Vec<String> = left.iter().map(|pid| describe(*pid)).collect();
        kill_all(&left);
        Err(format!("processes were left behind: {}", shown.join("; ")))
    }

    /// The same, and there is no temporary file of the library's.
    pub fn left(&self) -> Result<(), String> {
        self.no_process_left()?;
        let files: Vec<_> =
            fs::read_dir(self.tmp()).expect("tmp").flatten().map(|entry| entry.path()).collect();
        if files.is_empty() { Ok(()) } else { Err(format!("temporary files were left behind: {files:?}")) }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        kill_all(&self.processes());
        if thread::panicking() {
            eprintln!("the files of the failed test are in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Variables of the test run itself that would change what a host does.
const HOST_VARIABLES: &[&str] = &[
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
    "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "LD_LIBRARY_PATH",
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_TIMER_FILE",
    "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
];

impl Case {
    /// The same case, but without an end.
    pub(super) fn quiet(self) -> std::mem::ManuallyDrop<Case> {
        std::mem::ManuallyDrop::new(self)
    }
}
