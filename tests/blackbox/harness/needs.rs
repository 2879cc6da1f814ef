//! What a test needs and a machine may lack.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::*;

/// Says what is missing for a need; a need that nobody knows is a program to be found in PATH.
pub(super) fn lacks(need: &str) -> Option<String> {
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
            missing("needs a Python with PyTorch: tests/torch-environment, or LIBICE_TEST_TORCH_PYTHON")
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

/// The Python that a variable names, or the one that `tests/torch-environment` has made.
pub fn torch_python() -> Option<PathBuf> {
    let filled = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    filled("LIBICE_TEST_TORCH_PYTHON").or_else(|| {
        let cache = filled("XDG_CACHE_HOME").or_else(|| Some(filled("HOME")?.join(".cache")))?;
        Some(cache.join("libice/torch/bin/python")).filter(|python| python.exists())
    })
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
