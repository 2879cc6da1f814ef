//! What is built once: the library, the C programs of the tests, icerun.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

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
    // What cargo sets for this test would have dependencies built anew that look at it (ring does), each time.
    for (name, _) in std::env::vars_os() {
        let is_of_package = |name: &str| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR"
        };
        if name.to_str().is_some_and(is_of_package) {
            command.env_remove(name);
        }
    }
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
