//! The limit of descriptors (RLIMIT_NOFILE): what a run needs, what happens when there are none left.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::no_process_left;

pub fn tests() -> Vec<Trial> {
    tests![
        sp_21_each_worker_costs_what_the_header_says,
        sp_21_the_need_is_said_before_there_is_a_worker,
        sp_21_the_limit_is_raised_for_the_run_alone,
        sp_21_icerun_raises_the_limit_and_workers_have_the_old_one,
        time_17_a_health_port_without_descriptors_waits_quietly,
    ]
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

fn sp_21_each_worker_costs_what_the_header_says() {
    let costs = [
        (Kind::Program, [("redirects", 0), ("redirects", 3), ("tee", 1), ("tee", 3)], [1, 1, 2, 3]),
        (
            Kind::Function(Way::Fork),
            [("redirects", 0), ("redirects", 3), ("tee", 1), ("tee", 3)],
            [2, 2, 3, 4],
        ),
        (
            Kind::Function(Way::Spawn),
            [("redirects", 0), ("control", 1), ("tee", 1), ("tee", 3)],
            [2, 2, 3, 4],
        ),
        (
            Kind::Function(Way::Forkserver),
            [("redirects", 0), ("control", 1), ("tee", 1), ("tee", 3)],
            [2, 2, 3, 4],
        ),
    ];
    for (kind, settings, costs) in costs {
        for ((field, value), cost) in settings.into_iter().zip(costs) {
            let [few, many] = [2, 12].map(|size| {
                let t = Case::new();
                let host = t.host().set("local_world_size", size).set("log_dir", t.path("logs"));
                let running =
                    host.set(field, value).worker(kind, &["append", &t.path("up"), "%r", "pause"]).spawn();
                t.wait_lines("up", size);
                // Followers are opened by a thread of their own: until the number has not changed for a while.
                let (mut count, mut same) = (0, 0);
                wait_for("a number of descriptors that stays", || {
                    let now = descriptors(running.pid());
                    same = if now == count { same + 1 } else { 0 };
                    count = now;
                    same > 40
                });
                running.kill();
                count
            });
            assert_eq!(many - few, 10 * cost, "{kind:?} {field}={value}");
        }
    }
}

fn sp_21_the_need_is_said_before_there_is_a_worker() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("local_world_size", 40).set("log_dir", t.path("logs")).set("tee", 3);
        let run =
            host.step("limit=nofile:100").worker(kind, &["append", &t.path("pids"), "%p", "pause"]).run();
        run.failed_as(END_START_ERROR);
        assert_eq!(run.result()["errno"], libc::EMFILE);
        let message = run.result()["message"].as_str().expect("a message");
        let need = if kind == Kind::Program { "need 120 descriptors" } else { "need 160 descriptors" };
        assert!(message.contains("RLIMIT_NOFILE is 100") && message.contains(need), "{message}");
        assert_eq!(t.lines("pids").len(), 0);
        assert_eq!(run.result()["workers"][0]["outcome"], OUTCOME_NEVER_STARTED);
    }
}

fn soft_limit(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(3).expect("a number").to_string()
}

fn sp_21_the_limit_is_raised_for_the_run_alone() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("local_world_size", 40).set("log_dir", t.path("logs")).set("tee", 3);
        let running = host
            .set("raise_descriptor_limit", 1)
            .set("max_restarts", 1)
            .step("limit=nofile:64")
            .worker(
                kind,
                &[
                    "dump",
                    &t.path("%r"),
                    "attempt",
                    "0",
                    "code",
                    "1",
                    ";",
                    "append",
                    &t.path("up"),
                    "%r",
                    "await",
                    &t.path("go"),
                ],
            )
            .steps(&["start", "wait=60", "exec_sleep=20"])
            .spawn();
        t.wait_lines("up", 40);
        assert_ne!(soft_limit(running.pid()), "64", "{kind:?}");
        t.touch("go");
        let wait = running.wait_event("wait");
        assert_eq!(wait["result"]["end"], END_SUCCEEDED, "{kind:?}: {wait}");
        assert_eq!(soft_limit(running.pid()), "64", "{kind:?}");
        assert_eq!(t.json("39")["limit_nofile"], 64, "{kind:?}");
        running.kill();
    }
}

fn sp_21_icerun_raises_the_limit_and_workers_have_the_old_one() {
    let t = Case::new();
    let script = "ulimit -Sn 64; exec \"$@\"";
    let output = t
        .command("bash")
        .args(["-c", script, "bash"])
        .arg(icerun())
        .args(["--no-python", "--nproc-per-node", "40", "--tee", "3"])
        .arg(probe())
        .args(["dump", &t.path("%r")])
        .output()
        .expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(t.json("39")["limit_nofile"], 64);
    no_process_left(&t);
}

/// Of all threads, in seconds.
fn cpu_time(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    // SAFETY: it only looks a constant up.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    [11, 12].iter().map(|&index| fields[index].parse::<f64>().expect("a number")).sum::<f64>() / ticks
}

fn set_soft_limit(pid: i32, soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffers have the size of an rlimit.
    let done = unsafe {
        libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) == 0
            && libc::prlimit(
                pid,
                libc::RLIMIT_NOFILE,
                &libc::rlimit { rlim_cur: soft, ..limit },
                std::ptr::null_mut(),
            ) == 0
    };
    assert!(done, "the limit of {pid} cannot be set");
}

fn time_17_a_health_port_without_descriptors_waits_quietly() {
    let t = Case::new();
    let host = t.host().set("health_check", "0,30").set("log_callback", t.path("log"));
    let running = host.probe(&["touch", &t.path("up"), "await", &t.path("go")]).spawn();
    t.wait_file("up");
    let port = || -> Option<u16> {
        let line = t.lines("log").into_iter().find(|line| line.contains("the health port is"))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    wait_for("the health port", || port().is_some());
    // No number that is free is below the limit.
    set_soft_limit(running.pid(), 3);
    let mut stream = TcpStream::connect(("127.0.0.1", port().expect("a port"))).expect("the health port");
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("a request");
    let before = cpu_time(running.pid());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_time(running.pid()) - before;
    assert!(used < 0.5, "{used} seconds of 2 were used to wait");
    set_soft_limit(running.pid(), 256);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    t.touch("go");
    running.finish().succeeded();
}
