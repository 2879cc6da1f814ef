//! Faults at system calls: any one of an agent's fails, and nothing hangs, nothing is left, and what is lost is said.
//!
//! LIBICE_TEST_FAULT_SEED and LIBICE_TEST_FAULT_SECONDS choose which, and for how long; the seed is printed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![needs(ptrace): sec_faults_at_random_system_calls]
}

/// Errors that a kernel may give for nearly everything.
const ERRORS: [i32; 8] = [
    libc::ENOMEM,
    libc::EMFILE,
    libc::EAGAIN,
    libc::EINTR,
    libc::ENOSPC,
    libc::EIO,
    libc::ENOSYS,
    libc::EPERM,
];
const LATE: i32 = 199;
const RANKS: usize = 4;

/// What one run with a fault came to; what was wrong with it, if anything was.
fn one(fault: u64, errno: i32) -> (Option<u64>, Result<(), String>) {
    let t = Case::new();
    let (logs, report) = (t.path("logs"), t.path("report"));
    let mut command = t.command(program("inject"));
    command.args([&fault.to_string(), &errno.to_string(), "30", &report]).arg(icerun());
    command.args([
        "--standalone",
        "--no-python",
        "--nproc-per-node",
        &RANKS.to_string(),
        "--max-restarts",
        "1",
    ]);
    command.args(["--tee", "3", "--log-dir", &logs, "--control", "--file-timers", "--health-port", "0"]);
    command.args(["--event-file", &t.path("events"), "--shutdown-timeout", "5"]).arg(program("controlled"));
    command.args(["step", "1", "expires", "s", "60", "write", "2", "err %r %a\\n"]);
    command.args([
        "attempt",
        "0",
        "rank",
        "1",
        "exit",
        "7",
        ";",
        "sleep",
        "20",
        ";",
        "write",
        "1",
        "end %r %a\\n",
    ]);
    let output = command.env("OMP_NUM_THREADS", "1").output().expect("the injector");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    let report = t.read("report");
    if let Some(count) = report.strip_prefix("none ") {
        return (count.trim().parse().ok(), Ok(()));
    }
    let wrong = |what: &str| {
        let files: Vec<_> =
            fs::read_dir(&logs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        Err(format!("{what}: errno {errno} at {report}, {:?}\n{out}{err}{files:?}", output.status))
    };
    let code = output.status.code().unwrap_or(-output.status.signal().unwrap_or(0));
    // Whoever was killed in its sleep takes a moment to be gone.
    if let Err(what) = t.no_process_left() {
        return (None, wrong(&format!("left: {what}")));
    }
    let lost = ["lost", "cannot", "warn", "without"].iter().any(|word| err.contains(word));
    let all = |text: &str, tell: &str| {
        (0..RANKS).all(|rank| text.contains(&format!("[default{rank}]:{tell} {rank} 1")))
    };
    let checked = match code {
        LATE => wrong("it hangs"),
        _ if err.contains("panicked") || err.contains("internal error") => wrong("a defect"),
        ..0 | 129.. => wrong("a signal"),
        0 if all(&out, "end") && all(&err, "err") => Ok(()),
        0 if lost => Ok(()),
        0 => wrong("output is lost, and nothing says so"),
        _ if err.lines().any(|line| line.starts_with("icerun: ")) => Ok(()),
        _ => wrong("no word of the reason"),
    };
    (None, checked)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn sec_faults_at_random_system_calls() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = number("LIBICE_TEST_FAULT_SEED").unwrap_or(clock % 1_000_000_000);
    let seconds = number("LIBICE_TEST_FAULT_SECONDS").unwrap_or(60);
    eprintln!("LIBICE_TEST_FAULT_SEED={seed}");
    let (count, ok) = one(u64::MAX, libc::EIO);
    ok.unwrap();
    let count = count.expect("how many calls there are");
    assert!(count > 500, "{count} calls");
    let (begun, state, runs) = (Instant::now(), AtomicU64::new(seed), AtomicUsize::new(0));
    // splitmix64: each step of the state is one number.
    let random = || {
        let mut x =
            state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            while begun.elapsed() < Duration::from_secs(seconds) && failures.len() < 3 {
                let random = random();
                let (_, ended) = one(1 + random % count, ERRORS[(random >> 32) as usize % ERRORS.len()]);
                failures.extend(ended.err());
                runs.fetch_add(1, Ordering::Relaxed);
            }
            failures
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let runs = runs.into_inner();
    assert!(failures.is_empty(), "seed {seed}, {runs} runs: {}", failures.join("\n\n"));
    assert!(runs > 0);
}
