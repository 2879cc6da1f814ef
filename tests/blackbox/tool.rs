//! The command line tool in a test, and what several areas need beside the harness.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::terminal::Terminal;

/// icerun with these arguments, its console in files of the case.
pub struct Tool<'a> {
    case: &'a Case,
    words: Vec<String>,
    env: Vec<(String, String)>,
    clear: bool,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    stdin: Option<Stdio>,
}

/// `tool(&t, &["--nproc-per-node", "2"])`; the worker follows with `probe` or `script`.
pub fn tool<'a>(case: &'a Case, options: &[&str]) -> Tool<'a> {
    tool_of(case, &icerun(), options)
}

/// Another program in its place.
pub fn tool_of<'a>(case: &'a Case, program: &Path, options: &[&str]) -> Tool<'a> {
    let mut words = vec![program.to_str().expect("a plain path").to_string()];
    words.extend(options.iter().map(|word| word.to_string()));
    Tool { case, words, env: Vec::new(), clear: false, stdout: None, stderr: None, stdin: None }
}

impl Tool<'_> {
    /// The probe as the worker.
    pub fn probe(self, verbs: &[&str]) -> Self {
        let path = probe();
        self.words(&["--no-python", path.to_str().expect("a plain path")]).words(verbs)
    }

    pub fn words(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| word.to_string()));
        self
    }

    /// A program that runs icerun, `["nohup"]` for instance.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.words = wrapper.iter().map(|word| word.to_string()).chain(self.words).collect();
        self
    }

    /// In the foreground of a terminal.
    pub fn on(self, terminal: &Terminal) -> Self {
        self.under(&["setsid", "--ctty"]).streams(terminal)
    }

    /// On a terminal, with whatever puts it into the foreground.
    pub fn streams(self, terminal: &Terminal) -> Self {
        let [stdin, stdout, stderr] = [(); 3].map(|()| terminal.stream());
        self.stdin(stdin).stdout(stdout).stderr(stderr)
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Nothing of the test's environment, as with `env -i`.
    pub fn clear_env(mut self) -> Self {
        self.clear = true;
        self
    }

    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = Some(stdout);
        self
    }

    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = Some(stderr);
        self
    }

    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdin = Some(stdin);
        self
    }

    pub fn run(self) -> Ended {
        self.spawn().finish()
    }

    pub fn spawn(self) -> Started {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.case.dir.join(format!("icerun{number}.{name}"));
        let (out, err) = (file("out"), file("err"));
        let mut command = self.case.command(&self.words[0]);
        if self.clear {
            let kept: Vec<_> = command
                .get_envs()
                .map(|(key, value)| (key.to_owned(), value.map(|v| v.to_owned())))
                .collect();
            command = Command::new(&self.words[0]);
            command.env_clear();
            command.envs(kept.into_iter().filter_map(|(key, value)| Some((key, value?))));
        }
        command.args(&self.words[1..]).envs(self.env);
        command.stdin(self.stdin.unwrap_or_else(Stdio::null));
        command.stdout(self.stdout.unwrap_or_else(|| fs::File::create(&out).expect("stdout").into()));
        command.stderr(self.stderr.unwrap_or_else(|| fs::File::create(&err).expect("stderr").into()));
        let started = Instant::now();
        let child = spawned(&mut command);
        Started { child, out, err, started, done: false }
    }
}

/// icerun while it runs.
pub struct Started {
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
    started: Instant,
    done: bool,
}

impl Started {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        assert!(send(self.pid(), signal), "icerun is gone");
    }

    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe to its stdin")
    }

    pub fn out_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    pub fn err_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits until its messages have this text.
    #[track_caller]
    pub fn says(&self, text: &str) {
        self.says_times(text, 1);
    }

    /// The same, so many times.
    #[track_caller]
    pub fn says_times(&self, text: &str, count: usize) {
        let said = soon(PATIENCE, || self.err_so_far().matches(text).count() >= count);
        assert!(said, "'{text}' x {count} is not said: {}", self.err_so_far());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for icerun").is_none()
    }

    pub fn finish(mut self) -> Ended {
        let mut looks = 0;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for icerun") {
                break status;
            }
            assert!(LOOK * looks < HOST_LIMIT, "icerun still runs: {}", self.err_so_far());
            thread::sleep(LOOK);
            looks += 1;
        };
        self.done = true;
        Ended {
            status,
            wall: self.started.elapsed(),
            waited: LOOK * looks,
            stdout: fs::read(&self.out).unwrap_or_default(),
            stderr: fs::read(&self.err).unwrap_or_default(),
        }
    }

    pub fn kill(mut self) {
        self.child.kill().expect("kill icerun");
        self.child.wait().expect("wait for icerun");
        self.done = true;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What icerun left.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub wall: Duration,
    /// How long its end was waited for, counted in looks.
    waited: Duration,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The end did not take longer than this, once it was waited for.
    #[track_caller]
    pub fn within(&self, limit: Duration) -> &Self {
        assert!(self.waited < limit, "it took {:?} to end: {self:?}", self.waited);
        self
    }

    #[track_caller]
    pub fn exited(&self, code: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{:?}\nstdout: {}\nstderr: {}",
            self.status,
            self.out(),
            self.err()
        );
        self
    }

    /// Wrong arguments: one line on stderr with all these parts, and nothing on stdout.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) -> &Self {
        self.exited(2);
        let text = self.err();
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        for part in parts {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        assert_eq!(self.out(), "");
        self
    }
}

/// Numbers that look random and differ from call to call, but not from one test run to the next.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        static SEED: AtomicU64 = AtomicU64::new(1);
        Dice(SEED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A port that nobody listens at. Not one of those that the kernel gives away: it might give it to somebody before
/// the test has it.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let below = text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32768usize);
    let range = 10_000..below.max(12_000);
    let begin = std::process::id() as usize * 97;
    loop {
        let number = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (range.start + number % range.len()) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Does `work(i)` for all i below `count`, four at a time; the first panic stops the rest.
pub fn four_at_a_time(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count || failed.load(Ordering::Relaxed) > 0 {
                        return;
                    }
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(i)));
                    if let Err(panic) = result {
                        failed.fetch_add(1, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

/// No process of the case lives any more; files are not looked at (a killed host cannot remove them).
#[track_caller]
pub fn no_process_left(t: &Case) {
    t.no_process_left().unwrap_or_else(|what| panic!("{what}"));
}

pub fn children(pid: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    all
}

/// A mask of /proc/PID/status, `SigCgt` for instance.
pub fn signal_mask(pid: i32, which: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(which)).unwrap_or_default();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or("0"), 16).expect("a mask")
}

pub fn has_signal(mask: u64, signal: i32) -> bool {
    mask & (1 << (signal - 1)) != 0
}

/// The run directory of a run that had `log_dir` for itself.
pub fn only_run_dir(log_dir: &Path) -> PathBuf {
    let mut runs: Vec<_> =
        fs::read_dir(log_dir).expect("the log dir").flatten().map(|entry| entry.path()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

/// The pids that probes wrote with `append FILE %p`.
pub fn pids_in(t: &Case, file: &str, count: usize) -> Vec<i32> {
    t.wait_lines(file, count).iter().map(|line| line.trim().parse().expect("a pid")).collect()
}

pub fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a text").to_string()
}

/// A freezer group of the test's own, thawed and removed at its end.
pub struct Freezer(PathBuf);

impl Freezer {
    pub fn new() -> Freezer {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("libice-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = freezer().expect("a freezer").join(name);
        fs::create_dir_all(&path).expect("a freezer group");
        Freezer(path)
    }

    pub fn freeze(&self, pid: i32) {
        self.freeze_by("cgroup.procs", pid);
    }

    /// One thread alone.
    pub fn freeze_thread(&self, tid: i32) {
        self.freeze_by("tasks", tid);
    }

    fn freeze_by(&self, file: &str, number: i32) {
        fs::write(self.0.join(file), number.to_string()).expect("into the group");
        fs::write(self.0.join("freezer.state"), "FROZEN").expect("freeze");
        wait_for("the freeze", || {
            fs::read_to_string(self.0.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN")
        });
    }

    pub fn thaw(&self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
