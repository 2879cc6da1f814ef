//! Area SEC: the secret of the agents of a job, with which strangers are kept out of its rendezvous.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::{Job, all_exited, go, round, round_of_both};
use crate::store::VALIDATE;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        sec_03_a_stranger_ends_no_job,
        sec_03_a_secret_by_the_environment,
        sec_03_an_agent_with_another_secret,
        sec_03_a_secret_that_others_can_read,
        sec_03_a_home_that_cannot_be_written,
    ]
}

/// Does what any client of PyTorch can: writes to the key where its agents keep their state. What it gets back.
fn sabotage(port: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let string = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    let (key, value) = (string(b"/torch.rendezvous.job"), string(b"not a state"));
    stream.write_all(&[&VALIDATE[..], &[1], &key, &value, &[13, 1, 2, 3, 4]].concat()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    answer.to_vec()
}

/// Two agents of a job meet, the second of which comes after a stranger, who has this answer.
fn meet_beside_a_stranger(t: &Case, job: &Job, answer: &[u8]) {
    let first = job.first_agent(&[], |agent| agent.until_go(t));
    assert_eq!(sabotage(job.port), answer);
    let second = job.agent(&[]).until_go(t).spawn();
    round_of_both(t);
    go(t);
    all_exited([first, second], 0);
    t.nothing_left();
}

/// Says that a secret is wanted.
const REFUSED: &[u8] = b"ice?";

fn sec_03_a_stranger_ends_no_job() {
    let t = Case::new();
    meet_beside_a_stranger(&t, &Job::c10d(&t, "1:2"), REFUSED);
    // It is the user's own, and stays.
    let own = t.dir.join("config/libice/rendezvous_secret");
    assert_eq!(own.metadata().expect("a secret").permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read(&own).unwrap();
    std::fs::remove_file(t.path("go")).unwrap();
    std::fs::remove_file(t.path("rounds")).unwrap();
    meet_beside_a_stranger(&t, &Job::c10d(&t, "1:2"), REFUSED);
    assert_eq!(std::fs::read(&own).unwrap(), secret);
}

fn sec_03_a_secret_by_the_environment() {
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let agent = |options: &[&str]| job.agent(options).env("ICE_RENDEZVOUS_SECRET", "all agents have this");
    let script = format!("env > {}.$GROUP_RANK", t.path("env"));
    let first = agent(&[]).shell(&t, &script).spawn();
    let second = agent(&[]).shell(&t, &script).spawn();
    all_exited([first, second], 0);
    // It is for agents: a worker, and what it runs, does not get it.
    for rank in 0..2 {
        assert!(!t.read(&format!("env.{rank}")).contains("ICE_RENDEZVOUS_SECRET"));
    }
    assert!(!t.dir.join("config").exists(), "no other is made");
    let refused = job.agent(&[]).env("ICE_RENDEZVOUS_SECRET", "short").shell(&t, "exit 0").run();
    let said = refused.exited(2).err();
    assert!(said.contains("ICE_RENDEZVOUS_SECRET is \"5 bytes long\""), "{said}");
    t.nothing_left();
}

fn sec_03_an_agent_with_another_secret() {
    let t = Case::new();
    let job = Job::c10d(&t, "1:2");
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    round(&t, 0, 1);
    for secret in ["that of another job", ""] {
        // Without one it takes the user's, whose file is another one here.
        let other = job.agent(&[]).env("ICE_RENDEZVOUS_SECRET", secret);
        let other = other.env("XDG_CONFIG_HOME", &t.path("elsewhere")).shell(&t, "exit 0").run();
        let said = other.err();
        assert!(said.contains("has another one"), "{said}");
        let own = t.path("elsewhere/libice/rendezvous_secret");
        assert_eq!(
            said.contains(&own) && said.contains("ICE_RENDEZVOUS_SECRET"),
            secret.is_empty(),
            "{said}"
        );
    }
    go(&t);
    first.finish().exited(0);
    t.nothing_left();
}

fn sec_03_a_secret_that_others_can_read() {
    let t = Case::new();
    let job = Job::c10d(&t, "1");
    let secret = t.write("secret", b"a secret of all the agents", 0o600);
    let run = |mode| {
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(mode)).unwrap();
        job.agent(&["--rdzv-conf", &format!("secret_file={secret}")]).shell(&t, "exit 0").run()
    };
    for mode in [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o777] {
        let said = run(mode).exited(2).err();
        assert!(said.contains("secret_file is") && said.contains(&format!("mode {mode:04o}")), "{said}");
    }
    for mode in [0o600, 0o400, 0o640, 0o440] {
        run(mode).exited(0);
    }
    t.nothing_left();
}

fn sec_03_a_home_that_cannot_be_written() {
    let t = Case::new();
    // Nobody has asked for a secret: the job goes on as one without.
    let config = t.write("config", b"a file", 0o600);
    let job = Job::c10d(&t, "1:2").with(&["--log-level", "info"]);
    let first = job.first_agent(&[], |agent| agent.env("XDG_CONFIG_HOME", &config).until_go(&t));
    round(&t, 0, 1);
    first.says("is open to all who reach it");
    let second = job.agent(&[]).env("XDG_CONFIG_HOME", &config).until_go(&t).spawn();
    round_of_both(&t);
    go(&t);
    all_exited([first, second], 0);
    t.nothing_left();
}
