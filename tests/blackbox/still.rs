//! Areas TIME and DYN: everything stands still for a while (stopped, frozen, a machine that is paused), and nobody is
//! worse off. And the first word of a worker that never comes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::*;
use crate::proxy::Proxy;
use crate::store::{Serving, answers};
use crate::tool::{Freezer, signal_mask, tool};
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let once = tests![
        time_21_heartbeats_of_a_frozen_job,
        time_21_steps_of_a_frozen_job,
        time_21_timers_of_a_frozen_job,
        time_21_sections_of_a_frozen_job,
        time_21_learnt_sections_of_a_frozen_job,
        time_21_file_timers_of_a_frozen_job,
        time_21_stragglers_of_a_frozen_job,
        time_21_uninterruptible_sleep_of_a_frozen_job,
        time_21_the_first_word_of_a_frozen_job,
        time_21_the_shutdown_of_a_frozen_job,
        time_21_a_checkpoint_before_the_stop_of_a_frozen_job,
        needs(freezer): time_21_by_a_cgroup,
        time_21_a_standstill_that_is_over_before_the_limit,
        time_21_again_and_again,
        time_21_one_that_is_stopped_alone_is_found,
        time_21_one_that_hangs_after_it_is_found,
        time_21_clients_of_the_health_port,
        dyn_10_a_frozen_host_whose_connection_is_gone,
        dyn_10_a_frozen_host_that_waits_for_others,
        time_22_by_icerun,
        time_22_values_and_only_told,
    ];
    let by_kind = tests_by_way![Kind::ALL; time_22_a_first_word_that_never_comes];
    [once, by_kind].into_iter().flatten().collect()
}

/// The limit of a test, and how long all stand still.
const LIMIT: f64 = 2.5;
const STILL: Duration = Duration::from_secs(4);

/// The host, its workers and its watcher stand still for so long.
fn freeze(t: &Case, time: Duration) {
    let all = t.processes();
    assert!(all.len() > 1, "a host and a worker");
    all_get(&all, libc::SIGSTOP);
    thread::sleep(time);
    all_get(&all, libc::SIGCONT);
}

fn all_get(pids: &[i32], signal: i32) {
    for &pid in pids {
        send(pid, signal);
    }
}

/// A worker does `verbs`, and is done soon after all have stood still for longer than its limit.
#[track_caller]
fn lives_through(t: &Case, host: Host, verbs: &[&str], freeze: impl FnOnce()) {
    let (up, go) = (t.path("up"), t.path("go"));
    let verbs = [verbs, &["append", &up, "x", "await", &go]].concat();
    let running = host.set("log_callback", t.path("log")).controlled(Kind::Program, &verbs).spawn();
    t.wait_lines("up", 1);
    freeze();
    t.touch("go");
    running.finish().succeeded();
    let told = t.lines("log").into_iter().filter(|line| line.contains("did not run for up to")).count();
    assert!(told > 0, "{:?}", t.lines("log"));
}

fn time_21_heartbeats_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("heartbeat_timeout", LIMIT);
    lives_through(&t, host, &["heartbeat"], || freeze(&t, STILL));
}

fn time_21_steps_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("heartbeat_timeout", LIMIT);
    lives_through(&t, host, &["step", "1"], || freeze(&t, STILL));
}

fn time_21_timers_of_a_frozen_job() {
    let t = Case::new();
    lives_through(&t, t.host(), &["expires", "s", &LIMIT.to_string()], || freeze(&t, STILL));
}

fn time_21_sections_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("section_limit", format!("s:{LIMIT}"));
    lives_through(&t, host, &["section", "s"], || freeze(&t, STILL));
}

fn time_21_learnt_sections_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("section_learning", format!("5,{LIMIT}"));
    lives_through(&t, host, &["sections", "s", "9", "0.001", "section", "s"], || freeze(&t, STILL));
}

fn time_21_file_timers_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("file_timers", 1);
    let verbs = ["append", &t.path("pid"), "%p", "timer", "%p", "s", &LIMIT.to_string(), "KILL"];
    lives_through(&t, host, &verbs, || {
        let worker = t.lines("pid")[0].parse().unwrap();
        // Nobody can say how much time one has left that is read only after the standstill.
        wait_for("the agent to read it", || is_empty(&timer_file(worker)));
        freeze(&t, STILL);
    });
}

fn timer_file(worker: i32) -> String {
    let environ = std::fs::read(format!("/proc/{worker}/environ")).expect("a process");
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let variable = environ.split('\0').find_map(|item| item.strip_prefix("TORCHELASTIC_TIMER_FILE="));
    variable.expect("its variable").to_string()
}

/// Whether nothing is in this FIFO that nobody has read.
fn is_empty(fifo: &str) -> bool {
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(fifo).expect("a FIFO");
    let mut unread = 0;
    // SAFETY: FIONREAD writes one int.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut unread) }, 0);
    unread == 0
}

fn time_21_stragglers_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("straggler_timeout", LIMIT).set("local_world_size", 2);
    let done = t.path("done");
    lives_through(&t, host, &["rank", "0", "append", &done, "%p", "exit", "0", ";"], || {
        let first = t.wait_lines("done", 1)[0].parse().unwrap();
        wait_for("the end of the first", || gone(first));
        thread::sleep(Duration::from_millis(100));
        freeze(&t, STILL);
    });
}

fn time_21_uninterruptible_sleep_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("uninterruptible_timeout", LIMIT).set("monitor_interval", 0.2);
    let host = host.set("stack_timeout", 0);
    let running = host.probe(&["append", &t.path("up"), "%p", "stuck", "6"]).spawn();
    let pid = t.wait_lines("up", 1)[0].parse().unwrap();
    wait_for("its sleep", || state(pid) == Some('D'));
    // It is seen.
    thread::sleep(Duration::from_millis(500));
    freeze(&t, STILL);
    running.finish().succeeded();
}

fn time_21_the_first_word_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("initial_heartbeat_timeout", LIMIT);
    lives_through(&t, host, &[], || freeze(&t, STILL));
}

fn time_21_the_shutdown_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("signals", "SIGTERM").set("shutdown_timeout", LIMIT);
    let host = host.set("log_callback", t.path("log"));
    let verbs = ["exit_on", "TERM", "7", "4.5", "append", &t.path("up"), "%p", "pause"];
    let running = host.probe(&verbs).spawn();
    let pid = t.wait_lines("up", 1)[0].parse().unwrap();
    running.signal(libc::SIGTERM);
    wait_for("the signal", || t.lines("log").iter().any(|line| line.contains("sent SIGTERM")));
    wait_for("the worker to hear it", || signal_mask(pid, "ShdPnd") == 0);
    freeze(&t, STILL);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.worker(0)["exit_code"], 7, "it ended by itself: {run}");
}

fn time_21_a_checkpoint_before_the_stop_of_a_frozen_job() {
    let t = Case::new();
    let host = t.host().set("signals", "SIGTERM").set("checkpoint_before_stop", LIMIT);
    let host = host.set("log_callback", t.path("log"));
    let verbs = ["slow", "4.5", "append", &t.path("up"), "x", "work", &t.path("asked"), "0.01", "0"];
    let running = host.controlled(Kind::Program, &verbs).spawn();
    t.wait_lines("up", 1);
    running.signal(libc::SIGTERM);
    t.wait_lines("asked", 1);
    freeze(&t, STILL);
    running.finish().failed_as(END_INTERRUPTED);
    let told: Vec<_> = t.lines("log").into_iter().filter(|line| line.contains("request to save")).collect();
    assert!(told.len() == 1 && told[0].contains(": 1 did"), "{told:?}");
    assert_eq!(t.lines("asked").len(), 1, "asked once");
}

fn time_21_by_a_cgroup() {
    let t = Case::new();
    let host = t.host().set("heartbeat_timeout", LIMIT);
    lives_through(&t, host, &["heartbeat"], || {
        let freezer = Freezer::new();
        t.processes().into_iter().for_each(|pid| freezer.freeze(pid));
        thread::sleep(STILL);
        freezer.thaw();
    });
}

/// It took most of the worker's time, not all of it.
fn time_21_a_standstill_that_is_over_before_the_limit() {
    let t = Case::new();
    let host = t.host().set("section_limit", "s:8");
    lives_through(&t, host, &["section", "s"], || {
        freeze(&t, Duration::from_secs(6));
        // It would be late by now.
        thread::sleep(Duration::from_secs(3));
    });
}

fn time_21_again_and_again() {
    let t = Case::new();
    let host = t.host().set("heartbeat_timeout", 5);
    lives_through(&t, host, &["heartbeat"], || {
        for _ in 0..4 {
            freeze(&t, Duration::from_millis(2500));
            thread::sleep(Duration::from_millis(200));
        }
    });
}

fn time_21_one_that_is_stopped_alone_is_found() {
    let t = Case::new();
    let host = t.host().set("heartbeat_timeout", 1);
    let verbs = ["append", &t.path("up"), "%p", "heartbeats", "1000", "0.02"];
    let running = host.controlled(Kind::Program, &verbs).spawn();
    let pid = t.wait_lines("up", 1)[0].parse().unwrap();
    thread::sleep(Duration::from_millis(100));
    send(pid, libc::SIGSTOP);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    assert!(run.worker(0)["message"].as_str().unwrap().contains("no heartbeat"), "{run}");
}

fn time_21_one_that_hangs_after_it_is_found() {
    for (setting, value, verb) in [
        ("heartbeat_timeout", LIMIT.to_string(), "heartbeat"),
        ("initial_heartbeat_timeout", LIMIT.to_string(), "disarm x"),
        ("section_limit", format!("s:{LIMIT}"), "section s"),
        ("control", "1".into(), "expires s 2.5"),
    ] {
        let t = Case::new();
        let up = t.path("up");
        let verbs: Vec<&str> = verb.split(' ').chain(["append", &up, "x", "pause"]).collect();
        let running = t.host().set(setting, value).controlled(Kind::Program, &verbs).spawn();
        t.wait_lines("up", 1);
        freeze(&t, STILL);
        let run = running.finish();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.worker(0)["cause"], CAUSE_TIMED_OUT, "{run}");
        assert!(run.wall < STILL + Duration::from_secs(20), "{run}");
    }
}

fn time_21_clients_of_the_health_port() {
    let t = Case::new();
    let host = t.host().set("health_check", "0,1").set("log_callback", t.path("log"));
    let (up, go) = (t.path("up"), t.path("go"));
    let running = host.probe(&["append", &up, "x", "await", &go]).spawn();
    t.wait_lines("up", 1);
    let port = || {
        let lines = t.lines("log");
        let line = lines.iter().find(|line| line.contains("the health port is "))?;
        line.rsplit(' ').next()?.parse::<u16>().ok()
    };
    wait_for("the port", || port().is_some());
    let mut client = TcpStream::connect(("127.0.0.1", port().unwrap())).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    // Longer than a client may take.
    freeze(&t, STILL);
    thread::sleep(Duration::from_millis(100));
    client.write_all(b"\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    t.touch("go");
    running.finish().succeeded();
}

/// Meanwhile its connection to the store is ended, as whatever is between may do.
fn dyn_10_a_frozen_host_whose_connection_is_gone() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let proxy = Proxy::before(store.port);
    let others = t.processes();
    let job = Job::at_store(&t, "1", proxy.port).conf("keep_alive_interval=0.5,lost_timeout=2");
    let agent = job.agent(&[]).until_go(&t).spawn();
    round(&t, 0, 1);
    thread::sleep(Duration::from_millis(300));
    let own: Vec<_> = t.processes().into_iter().filter(|pid| !others.contains(pid)).collect();
    all_get(&own, libc::SIGSTOP);
    proxy.reset();
    thread::sleep(STILL);
    all_get(&own, libc::SIGCONT);
    agent.says("the rendezvous is not reached");
    thread::sleep(Duration::from_millis(500));
    go(&t);
    agent.finish().exited(0);
    store.end();
    t.nothing_left();
}

fn dyn_10_a_frozen_host_that_waits_for_others() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let job = Job::at_store(&t, "2", store.port).conf("keep_alive_interval=0.5,join_timeout=5");
    let first = job.agent(&[]).until_go(&t).spawn();
    wait_for("a state", || answers(&t, store.port, "num_keys")[0] != "ICE_OK 0");
    thread::sleep(Duration::from_millis(300));
    first.signal(libc::SIGSTOP);
    thread::sleep(Duration::from_secs(7));
    first.signal(libc::SIGCONT);
    let second = job.agent(&[]).until_go(&t).spawn();
    round(&t, 0, 2);
    go(&t);
    all_exited([first, second], 0);
    store.end();
    t.nothing_left();
}

fn time_22_a_first_word_that_never_comes(kind: Kind) {
    // One that opens its handle and is silent; the other has said something, whatever it was.
    for word in ["step 1", "heartbeat", "section s", "section -"] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).set("initial_heartbeat_timeout", 1);
        let rest = ["append", &t.path("up"), "x", "pause"];
        let verbs: Vec<&str> =
            ["rank", "0"].into_iter().chain(word.split(' ')).chain([";"]).chain(rest).collect();
        let run = host.controlled(kind, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        let worker = run.worker(1);
        assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGKILL.into(), &CAUSE_TIMED_OUT.into()));
        let message = worker["message"].as_str().unwrap();
        assert!(message.contains("since it began, and no heartbeat"), "{message}");
        assert!(message.contains("1.000 s are allowed"), "{message}");
        assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT, "{run}");
        if kind != Kind::Program {
            break;
        }
    }
    // It has the whole time in each attempt, and then its heartbeats are missed.
    let t = Case::new();
    let host =
        t.host().set("max_restarts", 1).set("initial_heartbeat_timeout", 2).set("heartbeat_timeout", 0.5);
    let verbs = ["sleep", "1.2", "attempt", "0", "exit", "3", ";", "heartbeat", "pause"];
    let run = host.controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 1);
    let message = run.worker(0)["message"].as_str().unwrap().to_string();
    assert!(message.contains("no heartbeat and no step"), "{message}");
}

fn time_22_by_icerun() {
    // One that never comes as far as to open a handle.
    let t = Case::new();
    let ended = tool(&t, &["--initial-heartbeat-timeout", "0.5"]).probe(&["pause"]).run();
    assert_eq!(ended.status.code(), Some(124), "{}", ended.err());
    assert!(ended.err().contains("no heartbeat, step or section yet"), "{}", ended.err());
    let t = Case::new();
    let output = t
        .command(icerun())
        .env("PET_INITIAL_HEARTBEAT_TIMEOUT", "0.5")
        .args(["--no-python"])
        .arg(program("probe"))
        .arg("pause")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let t = Case::new();
    tool(&t, &["--initial-heartbeat-timeout", "soon"])
        .probe(&[])
        .run()
        .refused(&["--initial-heartbeat-timeout", "soon"]);
    // A script's processes, one after the other: each has the whole time, once it has opened its handle.
    let t = Case::new();
    let script = "\"$0\" step 1 sleep 2 exit 0; \"$0\" disarm x sleep 1 heartbeat exit 0";
    let controlled = program("controlled").display().to_string();
    tool(&t, &["--initial-heartbeat-timeout", "2"])
        .words(&["--no-python", "/bin/sh", "-c", script, &controlled])
        .run()
        .exited(0);
}

fn time_22_values_and_only_told() {
    let t = Case::new();
    for (value, want) in
        [("-1", "initial_heartbeat_timeout is -1"), ("nan", "initial_heartbeat_timeout is NaN")]
    {
        t.host()
            .set("initial_heartbeat_timeout", value)
            .probe(&[])
            .step("new")
            .run()
            .refused(&[want, "seconds"]);
    }
    let host = t.host().set("timer_signal", 0).set("log_callback", t.path("log"));
    let host = host.set("initial_heartbeat_timeout", 0.2).set("heartbeat_timeout", 0.2);
    host.controlled(Kind::Program, &["sleep", "1.2", "heartbeat", "exit", "0"]).run().succeeded();
    let told = t.lines("log").into_iter().filter(|line| line.contains("only reported")).count();
    assert_eq!(told, 1, "{:?}", t.lines("log"));
    // A pause is no silence.
    let verbs = ["append", &t.path("ready"), "x", "look", &t.path("work"), "0.01", "0"];
    let run = t
        .host()
        .set("initial_heartbeat_timeout", 3)
        .controlled(Kind::Program, &verbs)
        .steps(&["start", &format!("await_lines={}:1", t.path("ready")), "pause_workers=20", "sleep=4"])
        .steps(&["snapshot", "resume", "request_stop=20", "wait=60"])
        .run();
    assert_eq!(run.event("snapshot")["workers"][0]["outcome"], OUTCOME_RUNNING, "{run}");
    run.failed_as(END_INTERRUPTED);
}
