//! Area TIME, the health port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::{Freezer, tool};

pub fn tests() -> Vec<Trial> {
    tests![
        time_16_alive_while_the_run_goes_on,
        time_16_the_variable_names_the_port,
        time_16_a_port_that_cannot_be_had,
        needs(freezer): time_16_a_loop_that_stands_still,
        time_17_clients_that_are_slow_many_or_garbage,
        time_health_values,
        obs_metrics_of_a_run,
        obs_metrics_of_many_ranks_and_a_slow_client,
        obs_metrics_count_the_runs_of_a_process,
        time_16_a_socket_at_a_path,
        time_16_a_socket_that_cannot_be_had,
        time_16_other_addresses,
        time_16_icerun_options,
    ]
}

/// A host with a health port, and that port, once its worker is up; the worker waits for the file `go`.
pub fn with_port(t: &Case, host: Host<'_>) -> (Running, u16) {
    let host = host.set("log_callback", t.path("log"));
    let running = host.probe(&["touch", &t.path("up"), "await", &t.path("go")]).spawn();
    t.wait_file("up");
    let port = || {
        let line = t.lines("log").into_iter().find(|line| line.contains("the health port is"))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    wait_for("the health port", || port().is_some());
    (running, port().expect("just seen"))
}

/// The status line and the body.
pub fn get(port: u16) -> (String, Value) {
    let (head, body) = ask(connect(port), "/health");
    (head.lines().next().unwrap().to_string(), serde_json::from_str(&body).unwrap_or(Value::Null))
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the health port");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The head and the body of what is at this path.
fn ask(mut stream: impl Read + Write, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_string(), body.to_string())
}

/// The value of this line of the metrics.
#[track_caller]
fn metric(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn time_16_alive_while_the_run_goes_on() {
    let t = Case::new();
    let (running, port) = with_port(&t, t.host().set("health_check", "0,5"));
    for _ in 0..20 {
        let (status, body) = get(port);
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!((&body["state"], &body["agent_restarts"]), (&"HEALTHY".into(), &0.into()));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now - body["last_progress"].as_u64().unwrap() < 60, "{body}");
        assert!(body["seconds_since"].as_f64().unwrap() < 5.0, "an idle loop answers: {body}");
    }
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err(), "at 127.0.0.1 alone");
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it goes with the run");
}

fn time_16_the_variable_names_the_port() {
    let t = Case::new();
    let (running, port) = with_port(&t, t.host().env("TORCHELASTIC_HEALTH_CHECK_PORT", "0"));
    assert_eq!(get(port).0, "HTTP/1.1 200 OK");
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    // Nobody asked: there is none.
    let t = Case::new();
    t.host().set("log_callback", t.path("log")).probe(&["exit", "0"]).run().succeeded();
    assert!(!t.read("log").contains("health"));
}

fn time_16_a_port_that_cannot_be_had() {
    let taken = TcpListener::bind(("::", 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0))).expect("a port");
    let port = taken.local_addr().unwrap().port().to_string();
    for (text, part) in
        [(port.as_str(), "EADDRINUSE"), ("many", "\"many\""), ("65536", "0 to 65535"), ("", "0 to 65535")]
    {
        let t = Case::new();
        let host = t.host().env("TORCHELASTIC_HEALTH_CHECK_PORT", text).set("log_callback", t.path("log"));
        host.probe(&["exit", "0"]).run().succeeded();
        let warnings: Vec<_> =
            t.lines("log").into_iter().filter(|line| line.contains("no health port")).collect();
        assert_eq!(warnings.len(), 1, "{text}");
        assert!(warnings[0].starts_with("2 ") && warnings[0].contains(part), "{warnings:?}");
    }
}

fn time_16_a_loop_that_stands_still() {
    let t = Case::new();
    let (running, port) = with_port(&t, t.host().set("health_check", "0,0.3"));
    let freezer = Freezer::new();
    freezer.freeze_thread(thread_of(running.pid(), "ice-agent"));
    wait_for("503", || get(port).0 == "HTTP/1.1 503 Service Unavailable");
    freezer.thaw();
    wait_for("200", || get(port).0 == "HTTP/1.1 200 OK");
    t.write("go", b"", 0o644);
    running.finish().succeeded();
}

/// The thread of a process that has this name.
fn thread_of(pid: i32, name: &str) -> i32 {
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.find(named).unwrap_or_else(|| panic!("no thread {name}"));
    task.file_name().to_str().unwrap().parse().unwrap()
}

fn time_17_clients_that_are_slow_many_or_garbage() {
    let t = Case::new();
    let (running, port) = with_port(&t, t.host().set("health_check", "0,5"));
    // Slow ones: more than are heard at once, and they say nothing, or half a request.
    let mut slow: Vec<TcpStream> = Vec::new();
    for index in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        if index % 2 == 0 {
            stream.write_all(b"GET /").unwrap();
        }
        slow.push(stream);
    }
    // Garbage, and far too much of it.
    for garbage in [&b"\x00\xff\r\n\r\n"[..], b"POST / HTTP/1.1\r\n\r\n", &[b'G'; 100_000]] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let _ = stream.write_all(garbage);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
    }
    // Others wait for the slow ones to be given up, no longer.
    let asked = Instant::now();
    assert_eq!(get(port).0, "HTTP/1.1 200 OK");
    assert!(asked.elapsed() < PATIENCE);
    // The agent has never waited: a worker's end is seen at once.
    t.write("go", b"", 0o644);
    running.finish().within(Duration::from_secs(5)).succeeded();
    drop(slow);
}

fn time_health_values() {
    let t = Case::new();
    for (value, parts) in [
        ("65536,1", ["health_port is 65536", "-1 to 65535"]),
        ("-2,1", ["health_port is -2", "-1 to 65535"]),
        ("0,-1", ["health_timeout is -1", "seconds"]),
    ] {
        t.host().set("health_check", value).probe(&[]).step("new").run().refused(&parts);
    }
}

/// A host with a socket and workers that talk; what its socket answers for the metrics.
fn controlled<'a>(t: &'a Case, host: Host<'a>, verbs: &[&str]) -> Running {
    let (up, go) = (t.path("up"), t.path("go"));
    let verbs = [verbs, &["append", &up, "x", "await", &go]].concat();
    host.set("health_socket", t.path("socket")).controlled(Kind::Program, &verbs).spawn()
}

fn metrics(t: &Case) -> String {
    let (head, body) = ask(UnixStream::connect(t.path("socket")).expect("the socket"), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
    body
}

fn obs_metrics_of_a_run() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("max_restarts", 1).set("run_id", "job \"7\"");
    let verbs =
        ["attempt", "0", "exit", "3", ";", "rank", "0", "step", "40", ";", "rank", "2", "step", "37", ";"];
    let running = controlled(&t, host, &verbs);
    t.wait_lines("up", 3);
    let first = metrics(&t);
    std::thread::sleep(Duration::from_millis(50));
    let last = metrics(&t);
    for (name, value) in [
        ("libice_run_info{run_id=\"job \\\"7\\\"\",role=\"default\"}", 1.0),
        ("libice_group_state{state=\"HEALTHY\"}", 1.0),
        ("libice_group_state{state=\"INIT\"}", 0.0),
        ("libice_restarts", 1.0),
        ("libice_run_total", 0.0),
        ("libice_workers{state=\"running\"}", 3.0),
        ("libice_workers{state=\"failed\"}", 0.0),
        ("libice_worker_step{rank=\"0\"}", 40.0),
        ("libice_worker_step{rank=\"2\"}", 37.0),
        ("libice_worker_lag_steps{rank=\"0\"}", 0.0),
        ("libice_worker_lag_steps{rank=\"2\"}", 3.0),
    ] {
        assert_eq!(metric(&last, name), value, "{name}");
    }
    assert!(!last.contains("libice_worker_step{rank=\"1\"}"), "it says no steps: {last}");
    let at_step = "libice_worker_at_step_seconds{rank=\"0\"}";
    assert!(metric(&last, at_step) - metric(&first, at_step) >= 0.05, "{first} {last}");
    assert!(metric(&last, "libice_worker_resident_bytes{rank=\"1\"}") > 4096.0);
    let seconds = ["libice_run_seconds", "libice_attempt_seconds", "libice_start_seconds"]
        .map(|name| metric(&last, name));
    assert!(seconds[0] >= seconds[1] && seconds[1] >= 0.05 && seconds[2] > 0.0, "{seconds:?}");
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    assert!(!t.dir.join("socket").exists(), "it goes with the run");
}

/// More than a socket takes at once, and a client that takes nothing of it.
fn obs_metrics_of_many_ranks_and_a_slow_client() {
    let t = Case::new();
    let running = controlled(&t, t.host().set("local_world_size", 48), &["step", "1"]);
    t.wait_lines("up", 48);
    let mut slow = UnixStream::connect(t.path("socket")).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let text = metrics(&t);
    assert_eq!(text.lines().filter(|line| line.starts_with("libice_worker_step{")).count(), 48);
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    drop(slow);
}

fn obs_metrics_count_the_runs_of_a_process() {
    let t = Case::new();
    let (up, go) = (t.path("up"), t.path("go"));
    let verbs = ["once", &t.path("first"), "exit", "3", ";", "touch", &up, "await", &go];
    let host = t.host().set("health_socket", t.path("socket")).probe(&verbs);
    let host = host.steps(&["new", "run", "free_agent", "new", "start", "wait=60"]);
    let running = host.spawn();
    t.wait_file("up");
    let text = metrics(&t);
    for (name, value) in [("total", 1.0), ("failed_without_retry", 1.0), ("success_without_retry", 0.0)] {
        assert_eq!(metric(&text, &format!("libice_run_{name}")), value, "{name}");
    }
    t.write("go", b"", 0o644);
    running.finish().clean();
}

fn time_16_a_socket_at_a_path() {
    let t = Case::new();
    // One that somebody has left behind.
    drop(UnixListener::bind(t.path("socket")).unwrap());
    let running = controlled(&t, t.host().set("health_check", "-1,5"), &[]);
    t.wait_lines("up", 1);
    let (head, body) = ask(UnixStream::connect(t.path("socket")).unwrap(), "/");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.contains("\"HEALTHY\""), "{head} {body}");
    let (head, body) = ask(UnixStream::connect(t.path("socket")).unwrap(), "/metrics?name=x");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.contains("libice_restarts 0"), "{head} {body}");
    t.write("go", b"", 0o644);
    running.finish().succeeded();
}

fn time_16_a_socket_that_cannot_be_had() {
    let t = Case::new();
    t.write("file", b"mine", 0o644);
    let _taken = UnixListener::bind(t.path("taken")).unwrap();
    let long = t.path(&"x".repeat(120));
    for (path, part) in [
        (t.path("file"), "EADDRINUSE"),
        (t.path("taken"), "EADDRINUSE"),
        ("/nowhere/socket".into(), "ENOENT"),
        (long, "ENAMETOOLONG"),
    ] {
        let _ = std::fs::remove_file(t.path("log"));
        let host = t.host().set("health_socket", &path).set("log_callback", t.path("log"));
        host.probe(&["exit", "0"]).run().succeeded();
        let warnings: Vec<_> =
            t.lines("log").into_iter().filter(|line| line.contains("no health socket")).collect();
        assert_eq!(warnings.len(), 1, "{path}");
        assert!(warnings[0].starts_with("2 ") && warnings[0].contains(part), "{warnings:?}");
    }
    assert_eq!(t.read("file"), "mine");
    UnixStream::connect(t.path("taken")).expect("it is still there");
}

fn time_16_other_addresses() {
    let t = Case::new();
    let (running, port) = with_port(&t, t.host().set("health_check", "0,5").set("health_address", "0.0.0.0"));
    for address in ["127.0.0.1", "127.0.0.2"] {
        let stream = TcpStream::connect((address, port)).expect("the health port");
        assert!(ask(stream, "/metrics").0.starts_with("HTTP/1.1 200 OK"), "{address}");
    }
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    // One of another machine (TEST-NET-1).
    let t = Case::new();
    let host = t.host().set("health_check", "0,5").set("health_address", "192.0.2.1");
    host.set("log_callback", t.path("log")).probe(&["exit", "0"]).run().succeeded();
    assert!(t.read("log").contains("no health port: cannot listen at 192.0.2.1:0"), "{}", t.read("log"));
    for address in ["localhost", "", "1.2.3"] {
        let host = t.host().set("health_address", address).probe(&[]);
        host.step("new").run().refused(&["health_address is", "IP address"]);
    }
}

fn time_16_icerun_options() {
    let t = Case::new();
    let socket = t.path("socket");
    let options = ["--health-port", "0", "--health-address", "127.0.0.3", "--health-socket", &socket];
    let started = tool(&t, &[&options[..], &["--log-level", "info"]].concat());
    let started = started.probe(&["touch", &t.path("up"), "await", &t.path("go")]).spawn();
    t.wait_file("up");
    assert!(metrics(&t).contains("libice_restarts 0"));
    t.write("go", b"", 0o644);
    let ended = started.finish();
    assert!(ended.err().contains("the health port is "), "{}", ended.err());
    let t = Case::new();
    tool(&t, &["--health-address", "here"]).probe(&[]).run().refused(&["--health-address", "IP address"]);
    tool(&t, &["--health-port", "70000"]).probe(&[]).run().refused(&["--health-port", "65535"]);
}
