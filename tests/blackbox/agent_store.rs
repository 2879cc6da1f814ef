//! Area STORE: the store that the agent of one host serves to its workers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::sp::environment;
use crate::tests;
use crate::tool::*;

/// A worker that meets the others at the store as a client and writes what it found: whether a key of an attempt
/// before was there. The first attempt fails then.
fn meets(t: &Case) -> String {
    let text = format!(
        "#!/bin/sh\n\
         echo $TORCHELASTIC_USE_AGENT_STORE $MASTER_PORT > {}.$TORCHELASTIC_RESTART_COUNT.$RANK\n\
         {} $MASTER_ADDR $MASTER_PORT check left barrier b 2 60 set left x barrier c 2 60 > {}.$TORCHELASTIC_RESTART_COUNT.$RANK\n\
         : > {done}.$TORCHELASTIC_RESTART_COUNT.$RANK\n\
         until [ -e {done}.$TORCHELASTIC_RESTART_COUNT.0 ] && [ -e {done}.$TORCHELASTIC_RESTART_COUNT.1 ]; do\n\
           sleep 0.01\n\
         done\n\
         [ $TORCHELASTIC_RESTART_COUNT != 0 ]\n",
        t.path("told"),
        program("store").display(),
        t.path("met"),
        done = t.path("done"),
    );
    t.write("meets", text.as_bytes(), 0o755)
}

/// All ranks are clients, and each attempt begins with an empty store, be it at the same port.
fn store_agent_serves_one_host_anew_for_each_attempt() {
    let names = ["127.0.0.1".to_string(), "localhost".into(), "::1".into()];
    for address in names {
        for port in [0, free_port()] {
            if address == "::1" && TcpListener::bind("[::1]:0").is_err() {
                continue;
            }
            let t = Case::new();
            let host = t.host().set("local_world_size", 2).set("max_restarts", 1).set("agent_store", 1);
            let host = host.set("master_addr", &address).set("master_port", port);
            host.set("program", meets(&t)).run().succeeded().clean();
            for attempt in 0..2 {
                for rank in 0..2 {
                    let met = t.lines(&format!("met.{attempt}.{rank}"));
                    assert_eq!(met, ["ICE_OK 0", "ICE_OK ", "ICE_OK ", "ICE_OK "], "{address} {port}");
                    let told = t.read(&format!("told.{attempt}.{rank}"));
                    assert!(told.starts_with("True "), "{told}");
                    assert!(port == 0 || told.ends_with(&format!(" {port}\n")), "{told}");
                }
            }
        }
    }
}

/// Functions and programs, however they start, find it by `ice_worker_store()`.
fn store_agent_serves_workers_of_every_kind() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = ["meet", &t.path("met"), "attempt", "0", "exit", "1", ";"];
        let host = t.host().set("local_world_size", 3).set("max_restarts", 1).set("agent_store", 1);
        host.controlled(kind, &verbs).run().succeeded().clean();
        let mut met = t.lines("met");
        met.sort();
        assert_eq!(met, ["0 6", "0 6", "1 6", "1 6", "2 6", "2 6"], "{}", kind.name());
    }
}

/// The thread that serves, if there is one.
fn serving_threads(pid: i32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    let name = |path: std::path::PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    tasks.filter(|task| name(task.path()).trim() == "ice-store").count()
}

const HELLO: [u8; 10] = [0, 0xce, 0xf7, 0x85, 0x3c, 13, 1, 2, 3, 4];

fn client(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(&HELLO).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == [1, 2, 3, 4]
}

/// Workers that need no store cost no thread; no other host gets in; who says half a word holds nobody up; and at
/// the end of an attempt whoever is left of it loses its connection, though the next has the same port.
fn store_agent_serves_only_who_comes_and_only_here() {
    let t = Case::new();
    let port = free_port();
    let host = t.host().set("agent_store", 1).set("master_port", port).set("max_restarts", 1);
    let verbs =
        ["append", &t.path("began"), "%a", "await", &t.path("go.%a"), "attempt", "0", "exit", "1", ";"];
    let running = host.probe(&verbs).spawn();
    t.wait_lines("began", 1);
    assert_eq!(serving_threads(running.pid()), 0, "nobody came yet");
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err(), "at MASTER_ADDR alone");
    let mut half = client(port);
    half.write_all(&HELLO[..3]).expect("it takes what is sent");
    let mut old = client(port);
    assert!(is_served(&mut old));
    assert_eq!(serving_threads(running.pid()), 1);
    std::fs::write(t.dir.join("go.0"), "").unwrap();
    t.wait_lines("began", 2);
    for mut left in [old, half] {
        assert_eq!(left.read(&mut [0; 8]).unwrap_or(0), 0, "its store is gone");
    }
    assert!(is_served(&mut client(port)));
    std::fs::write(t.dir.join("go.1"), "").unwrap();
    running.finish().succeeded().clean();
    wait_for("the port", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

fn store_agent_needs_its_port() {
    let t = Case::new();
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let host = t.host().set("agent_store", 1).set("max_restarts", 3).set("master_port", port);
    let run = host.probe(&["touch", &t.path("ran")]).run();
    run.failed_as(END_START_ERROR);
    assert_eq!(run.result()["errno"], libc::EADDRINUSE);
    assert!(run.result()["message"].as_str().unwrap().contains(&port.to_string()));
    assert!(!t.dir.join("ran").exists());
}

/// Where nobody asks for it, or it could not be spoken with, rank 0 serves it as ever.
fn store_agent_leaves_it_to_rank_0() {
    let t = Case::new();
    let secret = t.write("secret", b"sixteen bytes or more", 0o600);
    let on = || t.host().set("agent_store", 1);
    for (name, host) in [
        ("default", t.host()),
        ("off", t.host().set("agent_store", 0)),
        ("not shared", on().env("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")),
        ("secret", on().env("ICE_STORE_SECRET_FILE", &secret)),
    ] {
        let verbs = ["dump", &t.path("dump.%r"), "meet", &t.path(name)];
        host.set("local_world_size", 3).controlled(Kind::Program, &verbs).run().succeeded();
        assert_eq!(environment(&t.json("dump.0"))["TORCHELASTIC_USE_AGENT_STORE"], "False", "{name}");
        assert_eq!(t.lines(name).len(), 3, "{name}");
    }
}

fn store_icerun_serves_unless_it_is_told_not_to() {
    let t = Case::new();
    let port = free_port().to_string();
    let options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"];
    tool(&t, &options).words(&["--no-python", &meets(&t)]).run().exited(0);
    assert_eq!(t.lines("met.1.0")[0], "ICE_OK 0");
    // What would be started is what is started.
    for (option, value) in [(vec![], "True"), (vec!["--no-agent-store"], "False")] {
        let plan = tool(&t, &["--dry-run"]).words(&option).words(&["--no-python", "true"]).run();
        let line = format!("TORCHELASTIC_USE_AGENT_STORE={value}\n");
        assert!(plan.exited(0).out().contains(&line), "{}", plan.out());
        let verbs = ["dump", &t.path("dump"), "listen", &t.path(value)];
        tool(&t, &["--master-port", &port]).words(&option).probe(&verbs).run().exited(0);
        let env = environment(&t.json("dump"));
        assert_eq!((env["TORCHELASTIC_USE_AGENT_STORE"].as_str(), &env["MASTER_PORT"]), (value, &port));
    }
    // The port is taken if somebody listens there already, and rank 0's otherwise.
    assert_eq!(t.lines("True"), [format!("errno {}", libc::EADDRINUSE)]);
    assert_eq!(t.lines("False"), ["ok"]);
    t.nothing_left();
}

const CLIENT: &[u8] = br#"
import datetime, os, sys
import torch
import torch.distributed as dist

minute = datetime.timedelta(seconds=60)
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False, minute)
old = store.check(["left"])
store.set("here" + os.environ["RANK"], "x")
store.wait(["here0", "here1"], minute)
store.set("left", "x")
dist.init_process_group("gloo", timeout=minute)
value = torch.ones(1)
dist.all_reduce(value)
dist.destroy_process_group()
with open(os.path.join(sys.argv[1], "done"), "a") as done:
    done.write(f"{old} {value.item()}\n")
sys.exit(os.environ["TORCHELASTIC_RESTART_COUNT"] == "0")
"#;

/// As under torchrun: a script may come to MASTER_ADDR and MASTER_PORT as a client only.
fn store_agent_serves_clients_of_torch() {
    let t = Case::new();
    let python = torch_python().expect("a Python with torch");
    let script = t.write("client.py", CLIENT, 0o644);
    let options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", &script, &t.path("")];
    tool(&t, &options).env("PYTHON_EXEC", python.to_str().expect("a path")).run().exited(0);
    let mut done = t.lines("done");
    done.sort();
    assert_eq!(done[2..], ["False 2.0", "False 2.0"], "{done:?}");
    t.nothing_left();
}

pub fn tests() -> Vec<Trial> {
    tests![
        store_agent_serves_one_host_anew_for_each_attempt,
        store_agent_serves_workers_of_every_kind,
        store_agent_serves_only_who_comes_and_only_here,
        store_agent_needs_its_port,
        store_agent_leaves_it_to_rank_0,
        store_icerun_serves_unless_it_is_told_not_to,
        needs(torch): store_agent_serves_clients_of_torch,
    ]
}
