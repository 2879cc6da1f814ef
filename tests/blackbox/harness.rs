//! What all tests share. Tests see the library as its users do: through the C ABI, in a host process of its own
//! (`tests/c/host.c`), with workers that do what a command line says (`tests/c/probe.c`, verbs in `verbs.h`).
//!
//! ```ignore
//! fn sp_01_arguments_arrive() {
//!     let t = Case::new();                               // a directory of its own, gone after a success
//!     let run = t
//!         .host()                                        // local_world_size 1, max_restarts 0, time-out 5 s
//!         .set("local_world_size", 4)                    // FIELD=VALUE of the spec
//!         .probe(&["dump", &t.path("%r.json"), "--", "a b"]) // the worker; `.function(way, &[..])` for a function
//!         .run();                                        // until the host is gone; never longer than 2 minutes
//!     run.succeeded();                                   // the run's end, and nothing was left behind
//!     assert_eq!(t.json("0.json")["argv"][4], "a b");
//!     assert_eq!(run.result()["workers"][0]["exit_code"], 0);
//! }
//! pub fn tests() -> Vec<Trial> {
//!     tests![sp_01_arguments_arrive, needs(valgrind): sp_02_other]
//! }
//! ```
//!
//! - `Way` names how a function starts and where it is; `tests_by_way![Way::ALL; name]` makes a test of `fn name(way: Way)`
//!   for each. `.worker(kind, &[..])` with a `Kind` is for what holds for programs too.
//! - `Host::step("start")` adds any step of host.c; without one for the agent the host does `run`. Every step that
//!   writes a line is found with `run.event("wait")`, `run.events("wait")`.
//! - `Host::spawn()` instead of `run()` for tests that act meanwhile: `running.signal(libc::SIGTERM)`,
//!   `running.wait_event("start")`, `running.finish()`.
//! - `wait_for("what", || condition)` polls for 20 s; `t.wait_lines("file", 3)`; `gone(pid)`; `alive(pid)`. Any other
//!   limit is for `soon(limit, || condition)`, or for `run.within(limit)`, that the end came in time: patience is
//!   counted in looks, not by the clock.
//! - `run.clean()` is that nothing is left: no descendant, no descriptor, thread, child or
//!   temporary file more than before, signal dispositions and mask as before. `succeeded()` and `failed_as()` check it.
//! - `icerun()` is the path of the command line tool: `t.command(icerun()).args(..)` is tagged as a host is, and
//!   `t.nothing_left()` then says whether a process of this case still lives.
//! - What a test needs and this machine may lack is named with `needs(..)`: the test then counts as ignored.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::terminal::Terminal;

/// How long a test waits for anything that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Within which a run ends that waits for no time-out: less than the 30 seconds that workers have to end by default.
pub const AT_ONCE: Duration = Duration::from_secs(25);
/// Between two looks. Patience is counted in looks, not by the clock: a machine that stands still for some seconds
/// (a snapshot of it is taken, say) is no failure of what it stood still in.
const PAUSE: Duration = Duration::from_millis(5);
/// The same while the end of a host is waited for.
pub const LOOK: Duration = Duration::from_millis(2);
/// A program that was written a moment ago is busy as long as a child that another test has just forked, and that has
/// not executed its own yet, holds a copy of the descriptor.
pub fn spawned(command: &mut Command) -> Child {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < 1000 => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            child => return child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        }
    }
}

/// How long a host may live.
pub const HOST_LIMIT: Duration = Duration::from_secs(300);
/// Every process of a case carries this variable, so that those left behind are found.
const TAG: &str = "LIBICE_TEST_CASE";

/// Registers functions as tests under their own names; `needs(a, b): name` makes a test ignored where the machine
/// lacks one of these, see `lacks`.
#[macro_export]
macro_rules! tests {
    (@one $name:ident) => { $crate::harness::needing(stringify!($name), &[], || { $name(); Ok(()) }) };
    (@one $name:ident, $($need:ident)+) => {
        $crate::harness::needing(stringify!($name), &[$(stringify!($need)),+], || { $name(); Ok(()) })
    };
    (@list [$($done:expr,)*]) => { vec![$($done),*] };
    (@list [$($done:expr,)*] needs($($need:ident),+): $name:ident $(, $($rest:tt)*)?) => {
        $crate::tests!(@list [$($done,)* $crate::tests!(@one $name, $($need)+),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $name:ident $(, $($rest:tt)*)?) => {
        $crate::tests!(@list [$($done,)* $crate::tests!(@one $name),] $($($rest)*)?)
    };
    ($($rest:tt)*) => { $crate::tests!(@list [] $($rest)*) };
}

/// A test that is ignored, aloud, if something it needs is not there.
pub fn needing(
    name: &str,
    needs: &[&str],
    run: impl FnOnce() -> Result<(), libtest_mimic::Failed> + Send + 'static,
) -> libtest_mimic::Trial {
    let missing: Vec<String> = needs.iter().filter_map(|need| lacks(need)).collect();
    if !missing.is_empty() && !listing() {
        eprintln!("{name} is ignored: {}", missing.join(", "));
    }
    let trial = name.to_string();
    libtest_mimic::Trial::test(name, move || timed(&trial, run)).with_ignored_flag(!missing.is_empty())
}

/// Appends what a test takes to the file that LIBICE_TEST_TIMES names: seconds and name.
fn timed<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let Some(path) = std::env::var_os("LIBICE_TEST_TIMES").filter(|path| !path.is_empty()) else {
        return run();
    };
    let started = Instant::now();
    let done = run();
    let line = format!("{:8.3} {name}\n", started.elapsed().as_secs_f64());
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of times");
    done
}

fn listing() -> bool {
    std::env::args().any(|arg| arg == "--list")
}

/// Says what is missing for a need; a need that nobody knows is a program to be found in PATH.
fn lacks(need: &str) -> Option<String> {
    let missing = |text: &str| Some(text.to_string());
    match need {
        // SAFETY: no arguments, and it cannot fail.
        "root" if unsafe { libc::geteuid() } != 0 => missing("needs root"),
        "root" => None,
        "qemu_x86_64" if !cfg!(target_arch = "x86_64") || !in_path("qemu-x86_64") => {
            missing("needs qemu-x86_64 in PATH, and an x86-64 machine")
        }
        "qemu_x86_64" => None,
        "ptrace" if !cfg!(target_arch = "x86_64") || !may_trace_children() => {
            missing("needs ptrace(2) of children, on x86-64")
        }
        "ptrace" => None,
        "cxx" if !in_path("g++") => missing("needs g++"),
        "cxx" => None,
        "torch" if torch_python().is_none() => {
            missing("needs LIBICE_TEST_TORCH_PYTHON, a Python with PyTorch")
        }
        "torch" => None,
        "freezer" if freezer().is_none() => missing("needs a freezer cgroup that can be written to"),
        "freezer" => None,
        "memory_8g" if available_memory() < 8 << 30 => missing("needs 8 GiB of free memory"),
        "memory_8g" => None,
        "unshare_pid" if !works(Command::new("unshare").args(["--pid", "--fork", "true"])) => {
            missing("needs unshare --pid")
        }
        "unshare_pid" => None,
        "unshare_mount" if !works(Command::new("unshare").args(["--mount", "true"])) => {
            missing("needs unshare --mount")
        }
        "unshare_mount" => None,
        // Before Linux 6.14 the limit is that of the whole machine: hands off.
        "own_pid_max" if kernel() < (6, 14) => {
            missing("needs a limit of pids for each namespace (Linux 6.14)")
        }
        "own_pid_max" => None,
        "memory_group" if !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() => {
            missing("needs the memory controller of cgroup version 1")
        }
        "memory_group" => None,
        "net_namespaces" if !has_net_namespace("true") => {
            missing("needs root and network namespaces (ip netns)")
        }
        "net_namespaces" => None,
        "netem" if !has_net_namespace("tc qdisc add dev lo root netem delay 1ms") => {
            missing("needs a kernel with netem")
        }
        "netem" => None,
        "loader" if loader().is_none() => missing("needs the dynamic loader of glibc where it usually is"),
        "loader" => None,
        "dev_full" if !Path::new("/dev/full").exists() => missing("needs /dev/full"),
        "dev_full" => None,
        "pci" if fs::read_dir("/sys/bus/pci/devices").is_ok_and(|mut list| list.next().is_some()) => None,
        "pci" => missing("needs a PCI device in sysfs"),
        "etcd" if !cfg!(feature = "etcd") => missing("needs the cargo feature etcd"),
        "etcd"
            if !in_path("etcd")
                && std::env::var_os("LIBICE_TEST_ETCD").is_none_or(|path| path.is_empty()) =>
        {
            missing("needs etcd in PATH, or LIBICE_TEST_ETCD, the path of one")
        }
        "etcd" => None,
        "libc_a" if !has_libc_a() => missing("needs the C library's libc.a"),
        "libc_a" => None,
        program if in_path(program) => None,
        program => Some(format!("needs {program} in PATH")),
    }
}

/// Yama's 0 and 1 let a parent trace its children; a sandbox may not let it at all.
fn may_trace_children() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or("0".into());
    // SAFETY: the child only asks for what is asked, and ends.
    let allowed = unsafe {
        match libc::fork() {
            0 => libc::_exit((libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0) as i32),
            pid => {
                let mut status = 0;
                libc::waitpid(pid, &raw mut status, 0) == pid && status == 0
            }
        }
    };
    allowed && matches!(scope.trim(), "0" | "1")
}

/// The program that runs dynamic programs.
pub fn loader() -> Option<String> {
    let places = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    places.into_iter().find(|path| Path::new(path).exists()).map(str::to_string)
}

/// The compiler names a file with its directory only if it is there.
fn has_libc_a() -> bool {
    let output = cc().arg("-print-file-name=libc.a").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
}

/// The version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn works(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub fn torch_python() -> Option<PathBuf> {
    std::env::var_os("LIBICE_TEST_TORCH_PYTHON").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Whether a command works in a network namespace of its own.
fn has_net_namespace(command: &str) -> bool {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("ice-{}-p{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let works_there = works(Command::new("ip").args(["netns", "add", &name]))
        && works(Command::new("ip").args(["netns", "exec", &name]).args(command.split(' ')));
    let _ = works(Command::new("ip").args(["netns", "del", &name]));
    works_there
}

/// A version 1 freezer hierarchy in which a test can make a group of its own.
pub fn freezer() -> Option<PathBuf> {
    let mount = Path::new("/sys/fs/cgroup/freezer");
    let probe = mount.join(format!("libice-test-probe-{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    let usable = probe.join("freezer.state").exists();
    let _ = fs::remove_dir(&probe);
    usable.then(|| mount.to_path_buf())
}

pub fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

// --- what is built once ---

/// Compiled programs and the library, in one directory.
pub struct Built {
    pub dir: PathBuf,
    /// Why there is no command line tool: the tests that need it fail with this, the others run.
    tool: Result<(), String>,
}

static BUILT: OnceLock<Built> = OnceLock::new();

/// Compiles tests/c and the command line tool against the library that cargo has just built.
pub fn build() {
    let built = Built::make().unwrap_or_else(|error| {
        eprintln!("the C programs of the tests do not build: {error}");
        std::process::exit(101);
    });
    BUILT.set(built).ok().expect("built once");
}

pub fn built() -> &'static Built {
    BUILT.get().expect("main() builds first")
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program made from `tests/c/NAME.c`; `libNAME.so` from `tests/c/libNAME.c`.
pub fn program(name: &str) -> PathBuf {
    built().dir.join(name)
}

pub fn probe() -> PathBuf {
    program("probe")
}

pub fn icerun() -> PathBuf {
    if let Err(error) = &built().tool {
        panic!("there is no command line tool: {error}");
    }
    program("icerun")
}

/// The shared library under test.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("current_exe");
    exe.parent().expect("a directory").join("libice.so")
}

/// The compiler call for a C program that links the library.
pub fn cc() -> Command {
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-I"]);
    cc.arg(root().join("include"));
    cc
}

pub fn link(cc: &mut Command, dir: &Path) {
    // A program that loads the library by itself (dlopen.c) must not have it from its start.
    cc.arg("-Wl,--as-needed")
        .arg("-L")
        .arg(dir)
        .arg("-lice")
        .arg(format!("-Wl,-rpath,{}", dir.display()))
        .arg("-pthread");
}

impl Built {
    fn make() -> Result<Built, String> {
        build_library()?;
        let library = library();
        if !library.exists() {
            return Err(format!("there is no {}", library.display()));
        }
        let dir = library.parent().and_then(Path::parent).expect("deps lies in a profile").join("blackbox-c");
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        for name in ["libice.so", "libice.so.0.1"] {
            // Renamed into place: another test run may use the link at this moment.
            let temporary = dir.join(format!("{name}.{}", std::process::id()));
            let _ = fs::remove_file(&temporary);
            std::os::unix::fs::symlink(&library, &temporary).map_err(|error| error.to_string())?;
            fs::rename(&temporary, dir.join(name)).map_err(|error| error.to_string())?;
        }
        let mut jobs: Vec<(String, Vec<PathBuf>)> = Vec::new();
        for source in sources(&root().join("tests/c")) {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = match stem.as_str() {
                "libcuda" => "libcuda.so.1".into(),
                library if library.starts_with("lib") => format!("{library}.so"),
                _ => stem,
            };
            jobs.push((name, vec![source]));
        }
        let tool: Vec<PathBuf> = sources(&root().join("c_examples"))
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("icerun")))
            .collect();
        jobs.push(("icerun".into(), tool));
        let mut results: Vec<Result<(), String>> = thread::scope(|scope| {
            let started: Vec<_> =
                jobs.iter().map(|(name, files)| scope.spawn(|| compile(&dir, name, files))).collect();
            started.into_iter().map(|job| job.join().expect("a compile job")).collect()
        });
        let tool = results.pop().expect("the tool is the last job");
        results.into_iter().collect::<Result<(), String>>()?;
        Ok(Built { dir, tool })
    }
}

/// Cargo does not build a library that no test can link in Rust when it is asked for one test only
/// (`cargo test --test blackbox`): what lies beside the test could be of last week.
fn build_library() -> Result<(), String> {
    let Some(mut build) = cargo("build") else { return Ok(()) };
    let output = build.args(["--quiet", "--lib"]).output().map_err(|error| format!("{build:?}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{build:?}:\n{stderr}")) }
}

/// The cargo that runs these tests, for the same package, profile and target; none if no cargo does.
pub fn cargo(subcommand: &str) -> Option<Command> {
    let cargo = std::env::var_os("CARGO")?;
    let exe = std::env::current_exe().expect("current_exe");
    let profile_dir = exe.ancestors().nth(2).expect("target/PROFILE/deps/EXE");
    let mut target_dir = profile_dir.parent().expect("the target directory");
    let mut command = Command::new(cargo);
    command.args([subcommand, "--manifest-path"]).arg(root().join("Cargo.toml"));
    match profile_dir.file_name().and_then(OsStr::to_str).expect("a profile") {
        "debug" => &mut command,
        profile => command.args(["--profile", profile]),
    };
    if !cfg!(feature = "etcd") {
        command.arg("--no-default-features");
    }
    if !target_dir.join("CACHEDIR.TAG").exists() {
        command.arg("--target").arg(target_dir.file_name().expect("a target"));
        target_dir = target_dir.parent().expect("the target directory");
    }
    command.arg("--target-dir").arg(target_dir);
    Some(command)
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension() == Some(OsStr::new("c"))).collect();
    files.sort();
    files
}

fn compile(dir: &Path, name: &str, files: &[PathBuf]) -> Result<(), String> {
    let temporary = dir.join(format!("{name}.{}", std::process::id()));
    let mut cc = cc();
    if name == "icerun" {
        // Its files say themselves what they need.
        cc.arg("-U_GNU_SOURCE");
    }
    // The one that hosts preload, and the shared objects.
    if name == "faults" || name.starts_with("lib") {
        cc.args(["-shared", "-fPIC"]);
    }
    if name == "libcuda.so.1" {
        cc.arg("-Wl,-soname,libcuda.so.1");
    }
    cc.args(files).arg("-o").arg(&temporary);
    link(&mut cc, dir);
    cc.arg("-ldl").arg("-lm");
    let output = cc.output().map_err(|error| format!("{cc:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{cc:?}:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&temporary, dir.join(name)).map_err(|error| error.to_string())
}

// --- a case ---

/// One test's directory and tag. The directory stays if the test fails, and its path is said.
pub struct Case {
    pub dir: PathBuf,
    tag: String,
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

fn processes_of(tag: &str) -> Vec<i32> {
    let wanted = format!("{TAG}={tag}").into_bytes();
    pids()
        .into_iter()
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|item| item == wanted)
        })
        .collect()
}

/// A process in words: its number, its command line, and for each thread its state and where in the kernel it is.
fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let mut text = words.join(" ");
    text.truncate(text.char_indices().nth(120).map_or(text.len(), |(at, _)| at));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads: Vec<String> = threads.map(|thread| describe_thread(&thread.path())).collect();
    format!("{pid} ({}: {})", text.trim(), threads.join(", "))
}

/// The stack is for root alone to see.
fn describe_thread(path: &Path) -> String {
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("gone");
    let stack = read("stack");
    let functions = stack.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next());
    format!("{} {state} in {}", read("comm").trim(), functions.take(4).collect::<Vec<_>>().join(" < "))
}

pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn kill_all(pids: &[i32]) {
    for pid in pids {
        send(*pid, 9);
    }
}

/// kill(2); false if there is no such process.
pub fn send(pid: i32, signal: i32) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// There is such a process and it is no zombie.
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !"ZX".contains(state))
}

/// There is no such process, or only its zombie.
pub fn gone(pid: i32) -> bool {
    !alive(pid)
}

/// The letter of a process's state in /proc, none if it is gone.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].chars().next()
}

/// Polls until something is so; panics after `PATIENCE`.
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(soon(PATIENCE, condition), "waited in vain for {what}");
}

/// Polls until something is so; false if it is not within this time, counted in looks.
pub fn soon(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for look in 0.. {
        if condition() {
            return true;
        }
        if PAUSE * look >= limit {
            return false;
        }
        thread::sleep(PAUSE);
    }
    false
}

// --- workers ---

/// How a function gets its process, and where it is: in the host or in `libverbs.so`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A callback.
    Fork,
    Spawn,
    SpawnOfLibrary,
    Forkserver,
    ForkserverOfLibrary,
}

impl Way {
    pub const ALL: [Way; 5] =
        [Way::Fork, Way::Spawn, Way::SpawnOfLibrary, Way::Forkserver, Way::ForkserverOfLibrary];
    /// Those that execute something for it.
    pub const NEW: [Way; 4] = [Way::Spawn, Way::SpawnOfLibrary, Way::Forkserver, Way::ForkserverOfLibrary];
    pub const SPAWN: [Way; 2] = [Way::Spawn, Way::SpawnOfLibrary];
    pub const SERVER: [Way; 2] = [Way::Forkserver, Way::ForkserverOfLibrary];

    /// For the name of a test.
    pub fn name(self) -> &'static str {
        match self {
            Way::Fork => "fork",
            Way::Spawn => "spawn",
            Way::SpawnOfLibrary => "spawn_of_a_library",
            Way::Forkserver => "forkserver",
            Way::ForkserverOfLibrary => "forkserver_of_a_library",
        }
    }

    /// The `ice_start_method`.
    pub fn method(self) -> i32 {
        match self {
            Way::Fork => 0,
            Way::Spawn | Way::SpawnOfLibrary => 1,
            Way::Forkserver | Way::ForkserverOfLibrary => 2,
        }
    }

    pub fn has_server(self) -> bool {
        self.method() == 2
    }

    pub fn is_of_library(self) -> bool {
        matches!(self, Way::SpawnOfLibrary | Way::ForkserverOfLibrary)
    }
}

/// What a worker is: for what must hold whatever it is. `false` is the probe, `true` a callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Program,
    Function(Way),
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Program,
        Kind::Function(Way::Fork),
        Kind::Function(Way::Spawn),
        Kind::Function(Way::SpawnOfLibrary),
        Kind::Function(Way::Forkserver),
        Kind::Function(Way::ForkserverOfLibrary),
    ];
}

impl Kind {
    /// For the name of a test.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Program => "program",
            Kind::Function(way) => way.name(),
        }
    }
}

impl From<Way> for Kind {
    fn from(way: Way) -> Kind {
        Kind::Function(way)
    }
}

impl From<bool> for Kind {
    fn from(callback: bool) -> Kind {
        if callback { Kind::Function(Way::Fork) } else { Kind::Program }
    }
}

/// The same tests for each of these ways, with `_by_` and its name behind theirs; `name needs(a)` as above.
#[macro_export]
macro_rules! tests_by_way {
    ($ways:expr; $($name:ident $(needs($($need:ident),+))?),* $(,)?) => {{
        let mut trials = Vec::new();
        for way in $ways {
            $(trials.push($crate::harness::needing(
                &format!("{}_by_{}", stringify!($name), way.name()),
                &[$($(stringify!($need)),+)?],
                move || { $name(way); Ok(()) },
            ));)*
        }
        trials
    }};
}

// --- a host ---

pub struct Host<'a> {
    case: &'a Case,
    steps: Vec<OsString>,
    env: Vec<(String, String)>,
    removed: Vec<String>,
    wrapper: Vec<String>,
    path: PathBuf,
    stdin: Vec<u8>,
    stdout: Option<Stdio>,
    terminal: Option<[Stdio; 3]>,
    limit: Duration,
}

impl<'a> Host<'a> {
    /// One step of host.c, in order.
    pub fn step(mut self, step: impl AsRef<OsStr>) -> Self {
        self.steps.push(step.as_ref().to_os_string());
        self
    }

    pub fn steps(self, steps: &[&str]) -> Self {
        steps.iter().fold(self, |host, step| host.step(step))
    }

    /// A field of the spec (or any other `KEY=VALUE` step).
    pub fn set(self, field: &str, value: impl std::fmt::Display) -> Self {
        self.step(format!("{field}={value}"))
    }

    /// The probe as the worker, with these verbs.
    pub fn probe(self, verbs: &[&str]) -> Self {
        let host = self.set("program", probe().display());
        verbs.iter().fold(host, |host, verb| host.set("arg", verb))
    }

    /// A callback as the worker that does these verbs.
    pub fn callback(self, verbs: &[&str]) -> Self {
        let host = self.step("callback=");
        verbs.iter().fold(host, |host, verb| host.set("verb", verb))
    }

    /// A function as the worker that does these verbs, and those behind a `--` as its warm-up.
    pub fn function(self, way: Way, verbs: &[&str]) -> Self {
        let host = match way {
            Way::Fork => return self.callback(verbs),
            _ if way.is_of_library() => self.set("library", program("libverbs.so").display()),
            _ => self,
        };
        let host = host.set("function", "verbs").set("start_method", way.method());
        verbs.iter().fold(host, |host, verb| host.set("verb", verb))
    }

    /// The probe or a function: for what must hold for both.
    pub fn worker(self, kind: impl Into<Kind>, verbs: &[&str]) -> Self {
        match kind.into() {
            Kind::Program => self.probe(verbs),
            Kind::Function(way) => self.function(way, verbs),
        }
    }

    /// The same with the verbs of control.h, with a page to talk to the agent.
    pub fn controlled(self, kind: impl Into<Kind>, verbs: &[&str]) -> Self {
        let host = self.set("control", 1);
        match kind.into() {
            Kind::Program => {
                let host = host.set("program", program("controlled").display());
                verbs.iter().fold(host, |host, verb| host.set("arg", verb))
            }
            Kind::Function(way) => host.function(way, verbs),
        }
    }

    /// A variable in the host's environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    pub fn env_remove(mut self, key: &str) -> Self {
        self.removed.push(key.into());
        self
    }

    /// Another file as the host: a copy, say, or a relative path.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// A program that runs the host, `["setsid"]` for instance.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| word.to_string()).collect();
        self
    }

    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    /// The host's stdout instead of a file that `Run::stdout` holds.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = Some(stdout);
        self
    }

    /// In the foreground of a terminal.
    pub fn on(mut self, terminal: &Terminal) -> Self {
        self.terminal = Some([(); 3].map(|()| terminal.stream()));
        self.under(&["setsid", "--ctty"])
    }

    /// Another limit for the host's life than `HOST_LIMIT`.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub fn run(self) -> Run {
        self.spawn().finish()
    }

    pub fn spawn(self) -> Running {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.case.dir.join(format!("host{number}.{name}"));
        let mut words: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        words.push(self.path.into());
        words.push(file("lines").into());
        words.extend(self.steps);
        let mut command = self.case.command(&words[0]);
        command.args(&words[1..]);
        command.envs(self.env).stdin(Stdio::null());
        for key in &self.removed {
            command.env_remove(key);
        }
        if !self.stdin.is_empty() {
            fs::write(file("in"), &self.stdin).expect("stdin");
            command.stdin(fs::File::open(file("in")).expect("stdin"));
        }
        // Files, not pipes: what a worker leaves behind must not hold the test up.
        command.stdout(self.stdout.unwrap_or_else(|| fs::File::create(file("out")).expect("stdout").into()));
        command.stderr(fs::File::create(file("err")).expect("stderr"));
        if let Some([stdin, stdout, stderr]) = self.terminal {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        let started = Instant::now();
        let child = spawned(&mut command);
        let base = self.case.dir.join(format!("host{number}"));
        Running {
            child,
            base,
            tag: self.case.tag.clone(),
            tmp: self.case.tmp(),
            started,
            limit: self.limit,
            done: false,
        }
    }
}

/// A host that runs.
pub struct Running {
    child: Child,
    base: PathBuf,
    tag: String,
    tmp: PathBuf,
    started: Instant,
    limit: Duration,
    done: bool,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        assert!(send(self.pid(), signal), "the host is gone");
    }

    /// The lines that the host has written up to now.
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.base)
    }

    /// What the host's console shows up to now.
    pub fn out_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.base.with_extension("out")).unwrap_or_default()).into_owned()
    }

    /// Waits until the host has written a line of this step.
    pub fn wait_event(&self, step: &str) -> Value {
        let find = || self.events().into_iter().find(|event| event["do"] == step);
        wait_for(&format!("the host's step {step}"), || find().is_some());
        find().expect("just seen")
    }

    /// Waits for the end of the host, which must come within its limit.
    pub fn finish(self) -> Run {
        let (limit, base) = (self.limit, self.base.clone());
        let (run, stood) = self.finish_or_kill();
        if let Some(stood) = stood {
            let lines = fs::read_to_string(base.with_extension("lines")).unwrap_or_default();
            panic!("the host still runs after {limit:?}: {stood}; its lines:\n{lines}");
        }
        run
    }

    /// Waits for the end of the host; if it takes longer than its limit it is killed, and the processes of the case
    /// are described as they were then.
    pub fn finish_or_kill(mut self) -> (Run, Option<String>) {
        let (mut stood, mut looks) = (None, 0);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the host") {
                break status;
            }
            if LOOK * looks > self.limit && stood.is_none() {
                let processes = processes_of(&self.tag);
                stood = Some(processes.iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join("; "));
                self.child.kill().expect("kill the host");
            }
            thread::sleep(LOOK);
            looks += 1;
        };
        self.done = true;
        let run = Run {
            status,
            wall: self.started.elapsed(),
            waited: LOOK * looks,
            stdout: fs::read(self.base.with_extension("out")).unwrap_or_default(),
            stderr: fs::read(self.base.with_extension("err")).unwrap_or_default(),
            lines: read_events(&self.base),
            case: Case { dir: self.tmp.parent().expect("the case").to_path_buf(), tag: self.tag.clone() }
                .quiet(),
        };
        (run, stood)
    }

    /// Kills the host with SIGKILL and waits for it.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the host");
        self.child.wait().expect("wait for the host");
        self.done = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_events(base: &Path) -> Vec<Value> {
    let text = fs::read_to_string(base.with_extension("lines")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Case {
    /// The same case, but without an end.
    fn quiet(self) -> std::mem::ManuallyDrop<Case> {
        std::mem::ManuallyDrop::new(self)
    }
}

/// What a host left: its exit status, its console, and the lines it wrote.
pub struct Run {
    pub status: ExitStatus,
    pub wall: Duration,
    /// How long its end was waited for, counted in looks.
    waited: Duration,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub lines: Vec<Value>,
    case: std::mem::ManuallyDrop<Case>,
}

impl Run {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn events(&self, step: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["do"] == step).collect()
    }

    /// The last line of a step.
    #[track_caller]
    pub fn event(&self, step: &str) -> &Value {
        self.events(step).pop().unwrap_or_else(|| panic!("no line of step {step}: {self}"))
    }

    /// The last result that the host was given.
    #[track_caller]
    pub fn result(&self) -> &Value {
        let with = self.lines.iter().rev().find(|line| line["result"].is_object());
        &with.unwrap_or_else(|| panic!("no result: {self}"))["result"]
    }

    #[track_caller]
    pub fn worker(&self, local_rank: usize) -> &Value {
        &self.result()["workers"][local_rank]
    }

    /// The end did not take longer than this, once it was waited for.
    #[track_caller]
    pub fn within(&self, limit: Duration) -> &Self {
        assert!(
            self.waited < limit,
            "it took {:?} to end ({:?} by the clock): {self}",
            self.waited,
            self.wall
        );
        self
    }

    #[track_caller]
    pub fn clean(&self) -> &Self {
        self.unclean().unwrap_or_else(|what| panic!("{what}: {self}"));
        self
    }

    /// The host ended well and left nothing: descriptors, threads, children, signals, processes, files.
    pub fn unclean(&self) -> Result<(), String> {
        if !self.status.success() {
            return Err(format!("the host ended with {:?}", self.status));
        }
        let (before, after) = (self.event("before"), self.event("after"));
        for what in ["fds", "threads", "children", "signals"] {
            if before[what] != after[what] {
                return Err(format!("{what} were {} before the run, {} after it", before[what], after[what]));
            }
        }
        self.case.left()
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.result()["end"], END_SUCCEEDED, "{self}");
        assert_eq!(self.result()["is_failed"], 0);
        assert_eq!(self.result()["message"], "");
        self.clean()
    }

    /// The run ended in this class, with that failed state, and left nothing.
    #[track_caller]
    pub fn failed_as(&self, end: i32) -> &Self {
        assert_eq!(self.result()["end"], end, "{self}");
        assert_eq!(self.result()["is_failed"], 1);
        assert_ne!(self.result()["message"], "");
        self.clean()
    }

    /// The spec was refused with a message that has all these parts, and nothing was started.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) -> &Self {
        let new = self.event("new");
        assert_eq!(new["status"], "ICE_ERROR_CONFIG", "{self}");
        let message = new["message"].as_str().expect("a message");
        for part in parts {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(!message.contains('\n'), "one line: {message}");
        assert!(self.lines.iter().all(|line| line["result"].is_null()), "{self}");
        self.clean()
    }

    pub fn exit_code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn exit_signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "host {:?} after {:?}", self.status, self.wall)?;
        for line in &self.lines {
            let text = line.to_string();
            writeln!(f, "  {}", &text[..text.char_indices().nth(3000).map_or(text.len(), |(at, _)| at)])?;
        }
        write!(f, "stdout: {}\nstderr: {}", cut(&self.out()), cut(&self.err()))
    }
}

fn cut(text: &str) -> &str {
    &text[..text.char_indices().nth(2000).map_or(text.len(), |(at, _)| at)]
}

// --- numbers of the header ---

pub const END_SUCCEEDED: i32 = 0;
pub const END_WORKER_FAILURE: i32 = 1;
pub const END_START_ERROR: i32 = 2;
pub const END_AGENT_ERROR: i32 = 3;
pub const END_INTERRUPTED: i32 = 4;

pub const STATE_UNKNOWN: i32 = 0;
pub const STATE_INIT: i32 = 1;
pub const STATE_HEALTHY: i32 = 2;
pub const STATE_STOPPED: i32 = 8;
pub const STATE_SUCCEEDED: i32 = 16;
pub const STATE_FAILED: i32 = 32;

pub const OUTCOME_NEVER_STARTED: i32 = 0;
pub const OUTCOME_RUNNING: i32 = 1;
pub const OUTCOME_EXITED: i32 = 2;
pub const OUTCOME_SIGNALED: i32 = 3;
pub const OUTCOME_STUCK: i32 = 4;
pub const OUTCOME_LOST: i32 = 5;

pub const CAUSE_SUCCESS: i32 = 0;
pub const CAUSE_OWN_FAILURE: i32 = 1;
pub const CAUSE_STOPPED_BY_AGENT: i32 = 2;
pub const CAUSE_STUCK: i32 = 3;
pub const CAUSE_NEVER_STARTED: i32 = 4;
pub const CAUSE_LOST: i32 = 5;
pub const CAUSE_TIMED_OUT: i32 = 6;
