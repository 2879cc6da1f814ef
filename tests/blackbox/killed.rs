//! Area SEC: what is left when the agent is killed, alone or with what watches over its workers.

use std::fs;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::{children, four_at_a_time, tool};

pub fn tests() -> Vec<Trial> {
    tests![sec_06_200_killed_agents_leave_no_name, sec_06_an_agent_and_a_watcher_killed_together]
}

/// Names in the directory for temporary files.
fn names(t: &Case) -> Vec<String> {
    let names = fs::read_dir(t.tmp()).expect("a directory").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn sec_06_200_killed_agents_leave_no_name() {
    four_at_a_time(200, |i| {
        let t = Case::new();
        let socket = t.path("tmp/health");
        let options =
            ["--nproc-per-node", "2", "--file-timers", "--health-socket", &socket, "--max-restarts", "1"];
        let (up, again) = (t.path("up"), t.path("again"));
        // Half of them in a second attempt, whose names are others.
        let fails = if i % 2 == 0 { "0" } else { "7" };
        let verbs = [
            "append", &up, "x", "attempt", fails, "rank", "0", "exit", "1", ";", ";", "append", &again, "x",
            "pause",
        ];
        let running = tool(&t, &options).probe(&verbs).spawn();
        t.wait_lines("again", 2);
        wait_for("its names", || fs::metadata(&socket).is_ok() && names(&t).len() >= 2);
        send(running.pid(), libc::SIGKILL);
        running.kill();
        wait_for("the end of its names", || names(&t).is_empty());
        t.nothing_left();
    });
}

fn sec_06_an_agent_and_a_watcher_killed_together() {
    for killed in [&["ice-watcher"][..], &["ice-keeper"]] {
        four_at_a_time(20, |_| {
            let t = Case::new();
            // A grandchild in a session of its own, which no signal to a group reaches.
            let script = format!("setsid sh -c 'echo $$ >> {}; exec sleep 600' & wait", t.path("pids"));
            let running = tool(&t, &["--no-python", "sh", "-c", &script]).spawn();
            let pid = t.wait_lines("pids", 1)[0].parse().expect("a number");
            let watchers = |name: &str| -> Vec<i32> {
                let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                children(running.pid()).into_iter().filter(|pid| comm(pid).trim() == name).collect()
            };
            wait_for("both watchers", || {
                ["ice-watcher", "ice-keeper"].iter().all(|name| !watchers(name).is_empty())
            });
            let mut all: Vec<i32> = killed.iter().flat_map(|name| watchers(name)).collect();
            all.push(running.pid());
            for pid in all {
                send(pid, libc::SIGKILL);
            }
            running.kill();
            wait_for("the end of the grandchild", || gone(pid));
            wait_for("the end of its names", || names(&t).is_empty());
            t.nothing_left();
        });
    }
}
