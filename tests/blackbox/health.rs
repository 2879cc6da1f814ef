//! Area TIME, the health port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::Freezer;

pub fn tests() -> Vec<Trial> {
    tests![
        time_16_alive_while_the_run_goes_on,
        time_16_the_variable_names_the_port,
        time_16_a_port_that_cannot_be_had,
        needs(freezer): time_16_a_loop_that_stands_still,
        time_17_clients_that_are_slow_many_or_garbage,
        time_health_values,
    ]
}

/// A host with a health port, and that port, once its worker is up; the worker waits for the file `go`.
fn with_port(t: &Case, host: Host<'_>) -> (Running, u16) {
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
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the health port");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().unwrap().to_string(), serde_json::from_str(body).unwrap_or(Value::Null))
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
    // IPv6 too, where this machine has it.
    if let Ok(mut stream) = TcpStream::connect(("::1", port)) {
        stream.write_all(b"GET / HTTP/1.0\n\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    }
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
    let gone = Instant::now();
    t.write("go", b"", 0o644);
    running.finish().succeeded();
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
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
