//! Area STAT: static rendezvous, and what of the command line leads to it.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        stat_01_stat_05_two_nodes_and_a_restart,
        stat_02_what_is_missing_is_named,
        stat_04_rank_1_may_come_first,
        stat_04_who_waits_in_vain,
        stat_06_a_node_rank_twice,
        stat_08_addresses_of_ipv6,
        stat_09_two_jobs_with_default_settings,
        stat_10_a_node_that_vanishes_ends_the_job,
        cli_08_old_style_of_two_nodes,
    ]
}

/// The workers say in each round whether a key of the round before is there, and leave one.
fn stat_01_stat_05_two_nodes_and_a_restart() {
    let t = Case::new();
    let job = Job::fixed(&t, "2").with(&["--nproc-per-node", "2", "--max-restarts", "1"]);
    let store = program("store");
    let script = format!(
        "{} $MASTER_ADDR $MASTER_PORT barrier begin$ICE_ROUND 4 60 check left barrier seen$ICE_ROUND 4 60 \
         set left x add n 1 barrier end$ICE_ROUND 4 60 >> {} || exit 9; [ $ICE_ROUND = 1 ] || [ $RANK != 3 ] || exit 5; \
         exec $PROBE await {}",
        store.display(),
        t.path("store"),
        t.path("go"),
    );
    // Whoever of them is there first.
    let agents = ["1", "0"].map(|rank| {
        let agent = job.agent(&["--node-rank", rank]).shell(&t, &script).spawn();
        agent.says("joining the rendezvous");
        agent
    });
    for number in 0..2 {
        for (rank, words) in round(&t, number, 4).iter().enumerate() {
            assert_eq!(words[1], (rank / 2).to_string());
            assert_eq!(words[4], format!("localhost:{}", job.port));
        }
    }
    // None saw what another one, or another round, has left.
    let said = |what: &str| t.lines("store").iter().filter(|line| *line == what).count();
    wait_for("the sums", || (1..=4).all(|sum| said(&format!("ICE_OK {sum}")) == 2));
    assert_eq!(said("ICE_OK 0"), 8);
    go(&t);
    all_exited(agents, 0);
    t.nothing_left();
}

fn stat_02_what_is_missing_is_named() {
    let t = Case::new();
    let with = |options: &[&str]| tool(&t, &["--nnodes", "2"]).words(options).probe(&[]).run();
    with(&["--rdzv-endpoint", "here", "--node-rank", "0"]).refused(&["rendezvous_endpoint", "port"]);
    with(&["--rdzv-endpoint", "here:0", "--node-rank", "0"]).refused(&["rendezvous_endpoint", "port"]);
    with(&["--rdzv-endpoint", "here:1", "--node-rank", "2"]).refused(&["node_rank", "2"]);
    with(&["--rdzv-endpoint", "here:1", "--node-rank", "x"]).refused(&["node-rank", "x"]);
    let range = tool(&t, &["--nnodes", "1:2", "--rdzv-endpoint", "here:1"]).probe(&[]).run();
    range.refused(&["1:2", "fixed number"]);
}

fn stat_04_rank_1_may_come_first() {
    let t = Case::new();
    let job = Job::fixed(&t, "2");
    let mut second = job.agent(&["--node-rank", "1"]).shell(&t, "exit 0").spawn();
    second.says("the rendezvous is not reached");
    assert!(second.is_running());
    let first = job.agent(&["--node-rank", "0"]).shell(&t, "exit 0").spawn();
    all_exited([first, second], 0);
    assert_eq!(round(&t, 0, 2)[0][1], "0");
    t.nothing_left();
}

fn stat_04_who_waits_in_vain() {
    for rank in ["0", "1"] {
        let t = Case::new();
        let job = Job::fixed(&t, "2").conf("join_timeout=1.5");
        let ended = job.agent(&["--node-rank", rank]).shell(&t, "exit 0").run();
        ended.exited(125);
        let (text, wall) = (ended.err(), ended.wall);
        assert!(text.contains("time-out") && text.contains("run id job") && text.contains("1.5s"), "{text}");
        assert!(wall >= Duration::from_millis(1500) && wall < Duration::from_secs(15), "{wall:?}");
        t.nothing_left();
    }
}

fn stat_06_a_node_rank_twice() {
    // Both want to serve.
    let t = Case::new();
    let job = Job::fixed(&t, "2");
    let first = job.first_agent(&["--node-rank", "0"], |agent| agent.shell(&t, "exit 0"));
    let second = job.agent(&["--node-rank", "0"]).shell(&t, "exit 0").run();
    assert!(second.exited(125).err().contains("cannot be served here"), "{}", second.err());
    // The other one is not harmed.
    let third = job.agent(&["--node-rank", "1"]).shell(&t, "exit 0").spawn();
    all_exited([first, third], 0);
    t.nothing_left();
    // Nobody can tell which of two is right.
    let t = Case::new();
    let job = Job::fixed(&t, "3");
    let agents = ["0", "1", "1"].map(|rank| job.agent(&["--node-rank", rank]).shell(&t, "exit 0").spawn());
    for agent in agents {
        let ended = agent.finish();
        let text = ended.err();
        assert!(!ended.status.success() && text.contains("node rank 1 was given to"), "{text}");
    }
    assert_eq!(t.lines("rounds").len(), 0);
    t.nothing_left();
}

fn stat_08_addresses_of_ipv6() {
    for backend in ["static", "c10d"] {
        let t = Case::new();
        let port = free_port();
        let job = Job::new(&t, "2", backend, &format!("[::1]:{port}"), port);
        let agents = ["0", "1"].map(|rank| job.agent(&["--node-rank", rank]).shell(&t, "exit 0").spawn());
        all_exited(agents, 0);
        for words in round(&t, 0, 2) {
            assert!(words[4].starts_with("::1:"), "{words:?}");
        }
        t.nothing_left();
    }
}

fn stat_09_two_jobs_with_default_settings() {
    let t = Case::new();
    let jobs = [0, 1].map(|_| tool(&t, &["--nproc-per-node", "2"]).shell(&t, "exit 0").spawn());
    all_exited(jobs, 0);
    assert_eq!(t.lines("rounds").len(), 4);
    t.nothing_left();
}

fn stat_10_a_node_that_vanishes_ends_the_job() {
    let t = Case::new();
    let job = Job::fixed(&t, "2").with(&["--max-restarts", "3"]).conf(QUICK);
    let [first, second] = ["0", "1"].map(|rank| job.agent(&["--node-rank", rank]).until_go(&t).spawn());
    round(&t, 0, 2);
    second.kill();
    let ended = first.finish();
    assert!(!ended.status.success() && ended.err().contains("has vanished"), "{}", ended.err());
    no_process_left(&t);
}

fn cli_08_old_style_of_two_nodes() {
    let t = Case::new();
    let port = free_port().to_string();
    let agents = ["0", "1"].map(|rank| {
        let options =
            ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", &port, "--node-rank", rank];
        tool(&t, &options).shell(&t, "exit 0").spawn()
    });
    all_exited(agents, 0);
    for (rank, words) in round(&t, 0, 2).iter().enumerate() {
        assert_eq!(words[1..], [&rank.to_string(), &rank.to_string(), "2", &format!("127.0.0.1:{port}")]);
    }
    t.nothing_left();
}
