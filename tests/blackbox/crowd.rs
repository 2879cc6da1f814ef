//! Area SEC: strangers that connect, hold what they got, and say nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::{Job, all_exited, go, round, round_of_both};
use crate::store::{Serving, VALIDATE, answers};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        sec_20_a_crowd_at_the_rendezvous_ends_no_job,
        sec_20_a_crowd_that_begins_leaves_descriptors_for_workers,
        sec_20_a_crowd_keeps_no_client_from_a_store,
        sec_04_200_idle_clients_of_the_health_port,
    ]
}

/// Few enough that the strangers are more, without taking them all from the tests beside this one.
const FEW: [&str; 4] = ["sh", "-c", "ulimit -n 128; exec \"$@\"", "sh"];
const MANY: usize = 160;

fn strangers(port: u16, say: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        // One that has been closed already does not mind.
        let _ = stream.write_all(say);
        stream
    };
    (0..MANY).map(connect).collect()
}

fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// With a crowd at its store an agent restarts its workers, and another agent comes in.
fn survives_a_crowd(t: &Case, conf: &str, says: &[u8]) {
    let job = Job::c10d(t, "1:2").conf(conf).with(&["--max-restarts", "1"]);
    let (failed, fail) = (t.path("failed"), t.path("fail"));
    let script = format!(
        "[ -e {failed} ] || {{ $PROBE await {fail}; touch {failed}; exit 1; }}; exec $PROBE await {}",
        t.path("go")
    );
    let first = job.first_agent(&[], |agent| agent.under(&FEW).shell(t, &script));
    round(t, 0, 1);
    let crowd = strangers(job.port, says);
    t.touch("fail");
    wait_for("a restart", || t.lines("rounds").len() >= 2);
    let second = job.agent(&[]).under(&FEW).until_go(t).spawn();
    round_of_both(t);
    go(t);
    all_exited([first, second], 0);
    drop(crowd);
    t.nothing_left();
}

fn sec_20_a_crowd_at_the_rendezvous_ends_no_job() {
    let t = Case::new();
    let secret = t.write("secret", b"a secret of all the agents", 0o600);
    survives_a_crowd(&t, &format!("secret_file={secret}"), b"");
    let t = Case::new();
    survives_a_crowd(&t, "timeout=60", b"");
}

fn sec_20_a_crowd_that_begins_leaves_descriptors_for_workers() {
    let t = Case::new();
    let job = Job::c10d(&t, "1").with(&["--max-restarts", "1"]);
    let (failed, fail) = (t.path("failed"), t.path("fail"));
    let script = format!("[ -e {failed} ] || {{ $PROBE await {fail}; touch {failed}; exit 1; }}");
    let agent = job.first_agent(&[], |agent| agent.under(&FEW).shell(&t, &script));
    round(&t, 0, 1);
    // Without a secret whoever begins as a client is one: he may stay, as far as there is room beside the workers.
    let crowd = strangers(job.port, &VALIDATE);
    t.touch("fail");
    let ended = agent.finish();
    assert!(ended.exited(0).err().contains("restart"), "{}", ended.err());
    drop(crowd);
    t.nothing_left();
}

fn sec_20_a_crowd_keeps_no_client_from_a_store() {
    let t = Case::new();
    for says in [&b""[..], &VALIDATE[..2]] {
        let mut command = t.command("sh");
        command.args(["-c", "ulimit -n 128; exec \"$0\" serve 127.0.0.1"]).arg(program("store"));
        let server = Serving::of(command);
        let mut crowd = strangers(server.port, says);
        assert_eq!(answers(&t, server.port, "set k 1 get k -1"), ["ICE_OK", "ICE_OK 1"]);
        // A few may stay, for as long as they may think.
        let open = crowd.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
        assert!((1..=32).contains(&open), "{open} of {MANY} are still there");
        server.end();
    }
}

fn sec_04_200_idle_clients_of_the_health_port() {
    let t = Case::new();
    let (running, port) = crate::health::with_port(&t, t.host().set("health_check", "0,30"));
    for says in [&b""[..], b"GET /met"] {
        let mut crowd = strangers(port, says);
        crowd.extend(strangers(port, says));
        let asked = Instant::now();
        assert_eq!(crate::health::get(port).0, "HTTP/1.1 200 OK");
        // It takes a few milliseconds; to wait for those who are silent would take two seconds for each few of them.
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    t.touch("go");
    running.finish().succeeded();
}
