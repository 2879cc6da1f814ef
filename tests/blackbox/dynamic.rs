//! Area DYN: nodes that come, go and vanish; the restarts of a job (RST) that they share.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::control::{at_one_step, done};
use crate::harness::*;
use crate::nodes::*;
use crate::proxy::Proxy;
use crate::sp::environment;
use crate::store::{Serving, answers};
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        dyn_01_run_ids_part_jobs_at_one_store,
        dyn_02_the_last_call,
        dyn_04_dyn_05_cli_10_a_newcomer_makes_the_world_larger,
        dyn_04_obs_05_a_checkpoint_before_the_world_changes,
        rst_04_a_function_counts_restarts_as_the_environment_does,
        dyn_06_dyn_10_dyn_12_who_is_killed_is_missed,
        needs(etcd, setpriv): dyn_06_etcd_01_at_etcd_any_host_may_be_lost,
        dyn_08_a_spare_is_promoted,
        dyn_09_a_spare_is_not_needed,
        dyn_13_all_gone_and_others_go_on,
        dyn_14_dyn_36_closed_for_the_same_reason_for_all,
        dyn_16_fifty_agents_at_once,
        dyn_17_what_others_left_is_refused,
        dyn_18_clocks_ten_minutes_apart,
        dyn_20_an_outage_and_a_restart_after_it,
        dyn_21_the_host_of_the_store_dies,
        dyn_21_job_08_whether_the_job_has_succeeded_is_known_or_not,
        job_09_the_agent_that_serves_the_store_is_killed,
        dyn_24_who_serves_the_store,
        dyn_28_a_store_of_rank_0,
        dyn_29_each_round_has_an_empty_store,
        dyn_30_slow_workers_of_another_node_are_waited_for,
        dyn_a_join_timeout_of_one_while_others_wait,
        dyn_a_leader_that_stood_still_comes_back,
        dyn_one_that_stood_still_for_many_rounds_comes_back,
        dyn_sigterm_in_every_phase,
        dyn_two_agents_in_one_host,
        dyn_a_stop_while_it_joins,
        needs(unshare_pid): cli_16_two_nodes_as_pid_1,
        dyn_results_of_every_end,
        dyn_waiting_costs_next_to_nothing,
        dyn_200_rounds_leave_nothing,
        rst_04_membership_uses_up_no_restarts,
        rst_05_a_start_error_ends_the_job,
        dyn_36_a_stuck_worker_is_told_to_all_hosts,
        rst_06_a_start_error_in_round_1,
        rst_06_a_program_that_is_missing_for_a_moment_on_one_host,
        rst_08_rst_09_restarts_are_the_jobs,
        rst_09_two_failures_at_the_same_instant,
        rst_10_the_back_off_of_one_node,
    ]
}

/// Two nodes that run until they may end; the first one serves the store.
fn two(t: &Case, job: &Job) -> [Started; 2] {
    let first = job.first_agent(&[], |agent| agent.until_go(t));
    [first, job.agent(&[]).until_go(t).spawn()]
}

fn dyn_01_run_ids_part_jobs_at_one_store() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let agents: Vec<_> = ["a", "b/c", "a", "b/c"]
        .into_iter()
        .map(|run_id| {
            let job = Job::at_store(&t, "2", store.port).with(&["--rdzv-id", run_id]);
            job.agent(&[]).probe(&["append", &t.path("said"), "%i %g"]).spawn()
        })
        .collect();
    all_exited(agents, 0);
    let mut said = t.lines("said");
    said.sort();
    assert_eq!(said, ["a 0", "a 1", "b/c 0", "b/c 1"]);
    store.end();
    t.nothing_left();
}

fn dyn_02_the_last_call() {
    // A third one within the time, which is not waited for then.
    let t = Case::new();
    let job = Job::c10d(&t, "2:3").conf("last_call_timeout=60");
    let agents = [0, 1, 2].map(|_| job.agent(&[]).shell(&t, "exit 0").spawn());
    for agent in agents {
        let ended = agent.finish();
        ended.exited(0).within(Duration::from_secs(30));
    }
    round(&t, 0, 3);
    // None.
    let t = Case::new();
    let job = Job::c10d(&t, "2:3").conf("last_call_timeout=1");
    let agents = [0, 1].map(|_| job.agent(&[]).shell(&t, "exit 0").spawn());
    for agent in agents {
        let ended = agent.finish();
        assert!(ended.exited(0).wall >= Duration::from_secs(1), "{:?}", ended.wall);
    }
    round(&t, 0, 2);
    t.nothing_left();
}

fn dyn_04_dyn_05_cli_10_a_newcomer_makes_the_world_larger() {
    let t = Case::new();
    let logs = t.path("logs");
    let job = Job::c10d(&t, "1:2").with(&["--nproc-per-node", "4", "--redirects", "3", "--log-dir", &logs]);
    let worker = format!("echo here; exec $PROBE await {}", t.path("go"));
    let first = job.first_agent(&[], |agent| agent.shell(&t, &worker));
    round(&t, 0, 4);
    let second = job.agent(&[]).shell(&t, &worker).spawn();
    let words = round(&t, 1, 8);
    assert!(words.iter().all(|worker| worker[3] == "8" && worker[4] == words[0][4]), "{words:?}");
    go(&t);
    all_exited([first, second], 0);
    // What the workers of the first round said is still there.
    let attempts: Vec<_> = fs::read_dir(&logs)
        .expect("logs")
        .flatten()
        .filter(|run| (0..4).all(|rank| run.path().join(format!("attempt_0/{rank}/stdout.log")).exists()))
        .collect();
    assert_eq!(attempts.len(), 1);
    t.nothing_left();
}

/// The leader and first node, or another one; workers that hang in a collective notice nothing.
/// The world changes once, which is no restart.
fn rst_04_a_function_counts_restarts_as_the_environment_does() {
    let t = Case::new();
    let port = free_port();
    let (who, go_file) = (t.path("who"), t.path("go"));
    let host = t.host().set("nodes", "1:2").set("rendezvous", format!("c10d,localhost:{port}"));
    let host = host.set("rendezvous_option", "last_call_timeout=0.3").set("run_id", "job");
    let running = host.callback(&["ranks", &who, "await", &go_file]).spawn();
    t.wait_lines("who", 1);
    let second =
        Job::new(&t, "1:2", "c10d", &format!("localhost:{port}"), port).agent(&[]).until_go(&t).spawn();
    let lines = t.wait_lines("who", 2);
    go(&t);
    running.finish().succeeded();
    second.finish().exited(0);
    let counts: Vec<&str> = lines.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(counts, ["0", "0"], "{lines:?}");
}

/// All workers of a host are asked at one step, with the reason; events tell of the rounds.
fn dyn_04_obs_05_a_checkpoint_before_the_world_changes() {
    const PREEMPTION: &str = "2";
    const MEMBERSHIP: &str = "3";
    let t = Case::new();
    let job = Job::c10d(&t, "1:2").conf(QUICK);
    let (events, ready, file) = (t.path("events"), t.path("ready"), t.path("work.%r"));
    let options = ["--nproc-per-node", "2", "--checkpoint-before-stop", "20", "--event-file", &events];
    let controlled = program("controlled");
    let worker =
        ["--no-python", controlled.to_str().unwrap(), "append", &ready, "x", "work", &file, "0.001", "0"];
    let first = job.first_agent(&options, |agent| agent.words(&worker));
    t.wait_lines("ready", 2);
    let other = t.path("other");
    let worker =
        ["--no-python", controlled.to_str().unwrap(), "append", &ready, "x", "work", &other, "0.001", "0"];
    let second = job.agent(&options[2..4]).words(&worker).spawn();
    t.wait_lines("ready", 5);
    first.signal(libc::SIGTERM);
    ended_by_term(first);
    ended_by_term(second);
    let done = done(&t, 2);
    at_one_step(&done, &["save", "save"]);
    for rank in &done {
        assert_eq!([&rank[0][1], &rank[1][1]], [MEMBERSHIP, PREEMPTION]);
    }
    let events = t.lines("events").into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let rounds: Vec<_> = events
        .filter(|event| event["name"] == "torchelastic.rendezvous.status.SUCCEEDED")
        .map(|event| (event["metadata"]["round"].clone(), event["metadata"]["group_world_size"].clone()))
        .collect();
    assert_eq!(rounds, [(0.into(), 1.into()), (1.into(), 2.into())]);
    t.nothing_left();
}

fn dyn_06_dyn_10_dyn_12_who_is_killed_is_missed() {
    for victim in [0, 2] {
        let t = Case::new();
        let store = Serving::start(&t, &[]);
        let (job, agents) = three(&t, &store);
        let mut agents: Vec<_> = agents.into();
        round(&t, 0, 3);
        agents.remove(victim).kill();
        let words = round(&t, 1, 2);
        assert_eq!(words[0][4], words[1][4]);
        let port = words[0][4].rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        assert!(listens(port), "{words:?}");
        // A new one takes the place.
        agents.push(job.agent(&[]).until_go(&t).spawn());
        round(&t, 2, 3);
        go(&t);
        for (number, agent) in agents.into_iter().enumerate() {
            let ended = agent.finish();
            assert_eq!(ended.exited(0).err().contains("has vanished"), number < 2, "{}", ended.err());
        }
        store.end();
    }
}

/// The store of the workers goes with the first node, and the place to meet with none of them.
fn dyn_06_etcd_01_at_etcd_any_host_may_be_lost() {
    let t = Case::new();
    let (port, peer) = (free_port(), free_port());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let program = std::env::var("LIBICE_TEST_ETCD").ok().filter(|path| !path.is_empty());
    // The kernel ends it with the thread of the test.
    let mut etcd = t.command("setpriv");
    etcd.args(["--pdeathsig", "KILL"]).arg(program.unwrap_or("etcd".into()));
    etcd.args(["--data-dir", &t.path("etcd"), "--initial-advertise-peer-urls", &url(peer)]);
    etcd.args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)]);
    etcd.args(["--listen-peer-urls", &url(peer), "--initial-cluster", &format!("default={}", url(peer))]);
    etcd.stdout(Stdio::null()).stderr(fs::File::create(t.path("etcd.log")).unwrap());
    let mut etcd = etcd.env("ETCD_UNSUPPORTED_ARCH", "arm64").spawn().unwrap();
    let job = Job::new(&t, "1:2", "etcd", &format!("127.0.0.1:{port}"), port).conf(QUICK);
    // Agents wait for it as long as for each other.
    let [first, second] = [(); 2].map(|()| job.agent(&[]).until_go(&t).spawn());
    let before = round(&t, 0, 2);
    assert_eq!(before[0][4], before[1][4], "{before:?}");
    let (mut gone, mut stays) = (first, second);
    if !gone.err_so_far().contains("group rank 0") {
        std::mem::swap(&mut gone, &mut stays);
    }
    gone.kill();
    let after = round(&t, 1, 1);
    assert_ne!(after[0][4], before[0][4], "where they meet has moved");
    go(&t);
    assert!(stays.finish().exited(0).err().contains("has vanished"));
    etcd.kill().unwrap();
    etcd.wait().unwrap();
    no_process_left(&t);
}

fn dyn_08_a_spare_is_promoted() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf(QUICK);
    let [first, second] = two(&t, &job);
    round(&t, 0, 2);
    let spare = job.agent(&[]).until_go(&t).spawn();
    spare.says("a spare: the job has its 2 nodes");
    second.kill();
    assert_eq!(round(&t, 1, 2)[1][3], "2");
    go(&t);
    all_exited([first, spare], 0);
    no_process_left(&t);
}

fn dyn_09_a_spare_is_not_needed() {
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let agents = two(&t, &job);
    round(&t, 0, 2);
    let spare = job.agent(&[]).shell(&t, "exit 0").spawn();
    spare.says("a spare");
    go(&t);
    all_exited(agents, 0);
    assert!(spare.finish().exited(0).err().contains("without this node"));
    t.nothing_left();
}

fn dyn_13_all_gone_and_others_go_on() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let job = Job::at_store(&t, "2", store.port);
    let agents = [0, 1].map(|_| job.agent(&[]).until_go(&t).spawn());
    round(&t, 0, 2);
    agents.iter().for_each(|agent| agent.signal(libc::SIGTERM));
    agents.into_iter().for_each(ended_by_term);
    go(&t);
    let agents = [0, 1].map(|_| job.agent(&[]).until_go(&t).spawn());
    all_exited(agents, 0);
    let later = t.lines("rounds").into_iter().filter(|line| !line.starts_with("0 "));
    assert_eq!(later.count(), 2);
    store.end();
    t.nothing_left();
}

fn dyn_14_dyn_36_closed_for_the_same_reason_for_all() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let job = Job::at_store(&t, "2", store.port);
    let first = job.agent(&["--node-rank", "0"]).until_go(&t).spawn();
    let second = job.agent(&["--node-rank", "1"]).shell(&t, "exit 7").spawn();
    for agent in [first, second] {
        let ended = agent.finish();
        assert!(ended.exited(7).err().contains("rank 1 (local rank 0"), "{}", ended.err());
    }
    let late = job.agent(&[]).shell(&t, "exit 0").run();
    let text = late.exited(125).err();
    assert!(text.contains("closed") && text.contains("run id job") && text.contains("rank 1"), "{text}");
    late.within(Duration::from_secs(10));
    store.end();
    t.nothing_left();
}

fn dyn_16_fifty_agents_at_once() {
    let t = Case::new();
    let job = Job::c10d(&t, "50").with(&["--log-level", "warning"]);
    let agents: Vec<_> = (0..50).map(|_| job.agent(&[]).shell(&t, "exit 0").spawn()).collect();
    all_exited(agents, 0);
    for (rank, words) in round(&t, 0, 50).iter().enumerate() {
        assert_eq!(words[1..4], [rank.to_string(), rank.to_string(), "50".into()]);
    }
    t.nothing_left();
}

/// Also the state of torchrun's agents, which begins with a pickle in base64.
fn dyn_17_what_others_left_is_refused() {
    for value in ["gASVgQAAAAAAAACMP3RvcmNo", "garbage", "libice_rendezvous_2"] {
        let t = Case::new();
        let store = Serving::start(&t, &[]);
        answers(&t, store.port, &format!("set torch.rendezvous.job {value}"));
        let ended = Job::at_store(&t, "1", store.port).agent(&[]).shell(&t, "exit 0").run();
        let text = ended.exited(125).err();
        assert!(text.contains("was not written by this version") && text.contains(&value[..7]), "{text}");
        assert_eq!(answers(&t, store.port, "get torch.rendezvous.job 1"), [format!("ICE_OK {value}")]);
        store.end();
        t.nothing_left();
    }
}

fn dyn_18_clocks_ten_minutes_apart() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf("keep_alive_interval=0.1,keep_alive_max_attempt=8");
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let second = job.agent(&[]).until_go(&t);
    let second = second.env("LD_PRELOAD", &program("libclock.so").display().to_string());
    let second = second.env("CLOCK_STEP", &t.write("step", b"600", 0o644)).spawn();
    round(&t, 0, 2);
    // As long as it would take to miss one.
    thread::sleep(Duration::from_millis(1200));
    go(&t);
    for agent in [first, second] {
        let ended = agent.finish();
        assert!(!ended.exited(0).err().contains("is over"), "{}", ended.err());
    }
    assert_eq!(t.lines("rounds").len(), 2);
}

fn dyn_20_an_outage_and_a_restart_after_it() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let proxy = Proxy::before(store.port);
    let job = Job::at_store(&t, "2", proxy.port).with(&["--max-restarts", "1"]);
    let failing = format!("$PROBE await {}; exit $((1 - ICE_ROUND))", t.path("go"));
    let agents = [0, 1].map(|_| job.agent(&[]).shell(&t, &failing).spawn());
    round(&t, 0, 2);
    proxy.cut(true);
    for agent in &agents {
        agent.says("the rendezvous is not reached");
    }
    // They fail in the outage, and go on after it.
    go(&t);
    for agent in &agents {
        agent.says("joining the rendezvous");
    }
    proxy.cut(false);
    all_exited(agents, 0);
    round(&t, 1, 2);
    store.end();
    t.nothing_left();
}

fn dyn_21_the_host_of_the_store_dies() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf("lost_timeout=1.5");
    let [first, second] = two(&t, &job);
    round(&t, 0, 2);
    let begin = std::time::Instant::now();
    first.kill();
    let ended = second.finish();
    assert!(ended.exited(125).err().contains("lost rendezvous"), "{}", ended.err());
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    no_process_left(&t);
}

fn dyn_21_job_08_whether_the_job_has_succeeded_is_known_or_not() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf(QUICK);
    let [first, second] = two(&t, &job);
    round(&t, 0, 2);
    first.kill();
    second.says("the rendezvous is not reached");
    go(&t);
    let ended = second.finish();
    let said = "it is not known whether the job has succeeded";
    assert!(ended.exited(125).err().contains(said), "{}", ended.err());
    no_process_left(&t);
    // The workers of the host that is lost had succeeded.
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let first = job.first_agent(&[], |agent| agent.shell(&t, "exit 0"));
    let second = job.agent(&[]).until_go(&t).spawn();
    round(&t, 0, 2);
    first.says("waiting for the other hosts");
    // So that this one has heard of it, of which it says nothing.
    thread::sleep(Duration::from_secs(2));
    first.kill();
    go(&t);
    second.finish().exited(0);
    no_process_left(&t);
}

/// It is not waited for `lost_timeout`, as for a network.
fn job_09_the_agent_that_serves_the_store_is_killed() {
    for fixed in [false, true] {
        let t = Case::new();
        let job = if fixed { Job::fixed(&t, "2") } else { Job::c10d(&t, "2") };
        let rank = |number| if fixed { vec!["--node-rank", number] } else { vec![] };
        let first = job.first_agent(&rank("0"), |agent| agent.until_go(&t));
        let second = job.agent(&rank("1")).until_go(&t).spawn();
        round(&t, 0, 2);
        let name = format!("(PID {}), which served it, is gone", first.pid());
        first.kill();
        let ended = second.finish();
        assert!(ended.exited(125).err().contains(&name), "{}", ended.err());
        ended.within(Duration::from_secs(30));
        no_process_left(&t);
    }
}

fn dyn_24_who_serves_the_store() {
    let t = Case::new();
    // Nobody is asked to.
    let job = Job::c10d(&t, "1").conf("is_host=no,join_timeout=1");
    let ended = job.agent(&[]).shell(&t, "exit 0").run();
    assert!(ended.exited(125).err().contains("time-out"), "{}", ended.err());
    assert!(!listens(job.port));
    // One who insists on a port that is taken.
    let store = Serving::start(&t, &[]);
    let job = Job::at_store(&t, "1", store.port).conf("is_host=yes");
    let ended = job.agent(&[]).shell(&t, "exit 0").run();
    assert!(ended.exited(125).err().contains("cannot be served here"), "{}", ended.err());
    // By the name of this host; and without the last word: it is served already.
    let here = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    for place in [here.trim(), "127.0.0.1", "[::1]"] {
        let port = free_port();
        let job = Job::new(&t, "2", "c10d", &format!("{place}:{port}"), port);
        let agents = [0, 1].map(|_| job.agent(&[]).probe(&[]).spawn());
        all_exited(agents, 0);
    }
    store.end();
    t.nothing_left();
}

fn dyn_28_a_store_of_rank_0() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]);
    // Both are on one host here: the other one must not listen at the same port.
    let worker = "$PROBE dump %/$RANK append %/all x await_lines %/all 2
        [ $RANK != 0 ] || $PROBE listen %/listen.0"
        .replace('%', &t.dir.to_string_lossy());
    let agents = ["0", "1"].map(|rank| {
        let agent = job.agent(&["--node-rank", rank]).env("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1");
        agent.shell(&t, &worker).spawn()
    });
    all_exited(agents, 0);
    let envs = [0, 1].map(|rank| environment(&t.json(&rank.to_string())));
    assert_eq!(envs[0]["MASTER_PORT"], envs[1]["MASTER_PORT"]);
    assert_eq!(envs[1]["TORCHELASTIC_USE_AGENT_STORE"], "False");
    assert_eq!(t.lines("listen.0"), ["ok"]);
    t.nothing_left();
}

fn dyn_29_each_round_has_an_empty_store() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "2"]);
    let script = format!(
        "{} $MASTER_ADDR $MASTER_PORT barrier begin 2 60 check left barrier seen 2 60 set left x \
         barrier end 2 60 >> {store} || exit 9; $PROBE await_lines {store} $((10 * ICE_ROUND + 10)); \
         [ $ICE_ROUND = 2 ] || exit 1; exec $PROBE await {}",
        program("store").display(),
        t.path("go"),
        store = t.path("store"),
    );
    let agents = [0, 1].map(|_| job.agent(&[]).shell(&t, &script).spawn());
    t.wait_lines("store", 2 * 5 * 3);
    go(&t);
    all_exited(agents, 0);
    assert_eq!(t.lines("store").iter().filter(|line| *line == "ICE_OK 0").count(), 2 * 3);
    for number in 0..3 {
        let words = round(&t, number, 2);
        assert_eq!(words[0][4], words[1][4]);
    }
    t.nothing_left();
}

fn dyn_30_slow_workers_of_another_node_are_waited_for() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]).conf(QUICK);
    // Longer than it takes to miss somebody.
    let slow = job.agent(&[]).shell(&t, "[ $ICE_ROUND = 1 ] || exec $PROBE exit_on TERM 2.5 0 pause");
    let slow = slow.spawn();
    let failing = "[ $ICE_ROUND = 1 ] || { $PROBE sleep 0.3; exit 1; }";
    let quick = job.agent(&[]).shell(&t, failing).spawn();
    for agent in [slow, quick] {
        let ended = agent.finish();
        assert!(!ended.exited(0).err().contains("vanished"), "{}", ended.err());
    }
    round(&t, 1, 2);
    t.nothing_left();
}

fn dyn_a_join_timeout_of_one_while_others_wait() {
    let t = Case::new();
    let job = Job::c10d(&t, "3");
    let first = job.first_agent(&[], |agent| agent.shell(&t, "exit 0"));
    let impatient = job.agent(&["--rdzv-conf", "join_timeout=1"]).shell(&t, "exit 0").run();
    assert!(impatient.exited(125).err().contains("fewer than 3 nodes"), "{}", impatient.err());
    let others = [0, 1].map(|_| job.agent(&[]).shell(&t, "exit 0").spawn());
    all_exited(others, 0);
    first.finish().exited(0);
    assert_eq!(t.lines("rounds").len(), 3);
    t.nothing_left();
}

/// The agents of a job of 2 to 3 nodes at a store of its own; the first one leads.
fn three<'a>(t: &'a Case, store: &Serving) -> (Job<'a>, [Started; 3]) {
    let job = Job::at_store(t, "2:3", store.port).conf(QUICK).conf("last_call_timeout=60");
    let leader = job.agent(&[]).until_go(t).spawn();
    wait_for("the leader", || answers(t, store.port, "num_keys")[0] != "ICE_OK 0");
    let [second, third] = [0, 1].map(|_| job.agent(&[]).until_go(t).spawn());
    (job, [leader, second, third])
}

fn dyn_a_leader_that_stood_still_comes_back() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let (_, agents) = three(&t, &store);
    round(&t, 0, 3);
    agents[0].signal(libc::SIGSTOP);
    round(&t, 1, 2);
    agents[0].signal(libc::SIGCONT);
    round(&t, 2, 3);
    go(&t);
    let said = all_exited(agents, 0);
    assert!(said[0].contains("round 0 is over"), "{}", said[0]);
    store.end();
    t.nothing_left();
}

/// Meanwhile there are more states than are kept.
fn dyn_one_that_stood_still_for_many_rounds_comes_back() {
    for still in [0, 2] {
        let t = Case::new();
        let store = Serving::start(&t, &[]);
        let (job, agents) = three(&t, &store);
        round(&t, 0, 3);
        let stopped = agents[still].pid();
        agents[still].signal(libc::SIGSTOP);
        round(&t, 1, 2);
        // Each one that comes and goes makes two more rounds.
        for number in [2, 4, 6] {
            let passing = job.agent(&[]).until_go(&t).spawn();
            round(&t, number, 3);
            passing.signal(libc::SIGTERM);
            ended_by_term(passing);
            round(&t, number + 1, 2);
        }
        assert!(send(stopped, libc::SIGCONT));
        round(&t, 8, 3);
        go(&t);
        all_exited(agents, 0);
        store.end();
        t.nothing_left();
    }
}

fn dyn_sigterm_in_every_phase() {
    // Before there is a store.
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf("is_host=false");
    let agent = job.agent(&[]).shell(&t, "exit 0").spawn();
    agent.says("the rendezvous is not reached");
    agent.signal(libc::SIGTERM);
    ended_by_term(agent);
    // One that waits for others, or is a spare; one that runs: the others go on without it.
    let job = Job::c10d(&t, "2");
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let second = job.agent(&["--nnodes", "2"]).until_go(&t).spawn();
    round(&t, 0, 2);
    let spare = job.agent(&[]).until_go(&t).spawn();
    spare.says("a spare");
    spare.signal(libc::SIGTERM);
    ended_by_term(spare);
    second.signal(libc::SIGTERM);
    ended_by_term(second);
    first.says_times("joining the rendezvous", 2);
    first.signal(libc::SIGTERM);
    ended_by_term(first);
    assert_eq!(t.lines("rounds").len(), 2);
    // While the store does not answer.
    for joining in [true, false] {
        let store = Serving::start(&t, &[]);
        let job = Job::at_store(&t, if joining { "2" } else { "1" }, store.port).conf(QUICK);
        let before = t.lines("rounds").len();
        let agent = job.agent(&[]).until_go(&t).spawn();
        match joining {
            true => wait_for("a state", || answers(&t, store.port, "num_keys")[0] != "ICE_OK 0"),
            false => drop(t.wait_lines("rounds", before + 1)),
        }
        store.stand_still(true);
        // It is in the midst of a request.
        thread::sleep(Duration::from_millis(400));
        agent.signal(libc::SIGTERM);
        ended_by_term(agent);
        store.stand_still(false);
        store.end();
    }
    // The one that serves the store ends the job for all: there is no store any more.
    let t = Case::new();
    let [first, second] = two(&t, &Job::c10d(&t, "2"));
    round(&t, 0, 2);
    first.signal(libc::SIGTERM);
    ended_by_term(first);
    ended_by_term(second);
    t.nothing_left();
}

fn dyn_two_agents_in_one_host() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("nodes", "2:2")
        .set("rendezvous", format!("c10d,localhost:{}", free_port()))
        .probe(&["append", &t.path("ranks"), "%g"])
        .step("run_beside_another")
        .run();
    run.succeeded();
    let mut ranks = t.lines("ranks");
    ranks.sort();
    assert_eq!(ranks, ["0", "1", "2", "3"]);
    assert_eq!(run.events("run_beside_another").len(), 2);
}

/// A host as a node of a job of two.
fn node<'a>(t: &'a Case, port: u16) -> Host<'a> {
    let host = t.host().set("nodes", "2:2").set("rendezvous", format!("c10d,localhost:{port}"));
    host.set("local_world_size", 2).set("rendezvous_option", "join_timeout=60")
}

fn dyn_a_stop_while_it_joins() {
    let t = Case::new();
    let port = free_port();
    let host = node(&t, port).probe(&[]).set("stop_thread", format!("0:{}", t.path("stop"))).step("start");
    let running = host.set("wait", 60).step("join").spawn();
    wait_for("the store", || listens(port));
    t.write("stop", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["workers"].as_array().map(Vec::len), Some(2));
    assert!(run.result()["workers"].as_array().unwrap().iter().all(|worker| worker["outcome"] == 0));
}

fn cli_16_two_nodes_as_pid_1() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]);
    let script = format!("[ $ICE_ROUND = 1 ] || exit 3; exec $PROBE await {}", t.path("go"));
    let agents = [0, 1].map(|_| {
        let agent = job.agent(&[]).shell(&t, &script);
        agent.under(&["unshare", "--pid", "--fork", "--mount-proc"]).spawn()
    });
    round(&t, 1, 2);
    go(&t);
    all_exited(agents, 0);
    no_process_left(&t);
}

fn dyn_results_of_every_end() {
    // A success after a failure on the other node.
    let t = Case::new();
    let port = free_port();
    let failing = ["once", &t.path("failed"), "exit", "3", ";", "await", &t.path("go")];
    let first = node(&t, port).set("node_rank", 0).set("max_restarts", 1).probe(&["await", &t.path("go")]);
    let second = node(&t, port).set("node_rank", 1).set("max_restarts", 1).probe(&failing);
    let first = first.steps(&["start", "await_healthy"]).set("await", t.path("failed"));
    let first =
        first.set("await_lines", format!("{}:1", t.path("go"))).steps(&["snapshot", "wait=60"]).spawn();
    let second = second.spawn();
    t.wait_file("failed");
    t.write("go", b"x\n", 0o644);
    for (number, running) in [first, second].into_iter().enumerate() {
        let run = running.finish();
        run.succeeded();
        let result = run.result();
        assert_eq!([&result["round"], &result["job_restarts"], &result["exit_code"]], [1, 1, 0], "{run}");
        assert_eq!(result["restarts"], number, "{run}");
        for local in 0..2 {
            let worker = run.worker(local);
            let ranks = [&worker["global_rank"], &worker["local_rank"], &worker["role_rank"]];
            assert_eq!(ranks, [2 * number + local, local, 2 * number + local]);
            assert_eq!(worker["attempt"], 1);
        }
    }
    // A failure elsewhere.
    let t = Case::new();
    let port = free_port();
    let first = node(&t, port).set("node_rank", 0).probe(&["pause"]).spawn();
    wait_for("the store", || listens(port));
    let second = node(&t, port).set("node_rank", 1).probe(&["rank", "1", "exit", "9", ";", "pause"]).spawn();
    for (number, running) in [first, second].into_iter().enumerate() {
        let run = running.finish();
        run.failed_as(END_WORKER_FAILURE);
        let result = run.result();
        assert_eq!([&result["exit_code"], &result["round"], &result["job_restarts"]], [9, 0, 0], "{run}");
        assert!(result["message"].as_str().unwrap().contains("rank 3 (local rank 1"), "{run}");
        let causes =
            [CAUSE_STOPPED_BY_AGENT, if number == 0 { CAUSE_STOPPED_BY_AGENT } else { CAUSE_OWN_FAILURE }];
        assert_eq!([&run.worker(0)["cause"], &run.worker(1)["cause"]], causes, "{run}");
        assert_eq!(run.result()["root_cause"].is_null(), number == 0, "{run}");
    }
    // Nobody came.
    let t = Case::new();
    let run = node(&t, free_port()).set("rendezvous_option", "join_timeout=0.5").probe(&[]).run();
    run.failed_as(END_AGENT_ERROR);
    assert_eq!(run.result()["workers"].as_array().map(Vec::len), Some(2));
    for worker in run.result()["workers"].as_array().unwrap() {
        assert_eq!((&worker["outcome"], &worker["cause"]), (&0.into(), &CAUSE_NEVER_STARTED.into()), "{run}");
    }
}

/// The CPU time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let words: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split(' ').collect();
    words[12].parse::<u64>().expect("a number") + words[13].parse::<u64>().expect("a number")
}

fn dyn_waiting_costs_next_to_nothing() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf(QUICK);
    // One that waits for others; two whose workers run; one in the barrier.
    let first = job.first_agent(&[], |agent| agent.shell(&t, "exit 0"));
    let cost = |pids: &[i32]| {
        let begin: u64 = pids.iter().map(|pid| ticks(*pid)).sum();
        thread::sleep(Duration::from_secs(1));
        pids.iter().map(|pid| ticks(*pid)).sum::<u64>() - begin
    };
    assert!(cost(&[first.pid()]) < 10);
    let second = job.agent(&[]).until_go(&t).spawn();
    first.says("waiting for the other hosts");
    assert!(cost(&[first.pid(), second.pid()]) < 10);
    go(&t);
    all_exited([first, second], 0);
}

fn dyn_200_rounds_leave_nothing() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let job = Job::at_store(&t, "2", store.port).with(&["--max-restarts", "1000", "--log-level", "warning"]);
    // In two of the rounds nothing moves until it was looked at.
    let script = format!(
        "case $ICE_ROUND in 5|205) $PROBE await {}$ICE_ROUND;; esac; [ $ICE_ROUND = 205 ]",
        t.path("looked")
    );
    let failing = job.agent(&["--node-rank", "0"]).shell(&t, &script).spawn();
    let other = job.agent(&["--node-rank", "1"]).shell(&t, "exit 0").spawn();
    let takes = |pid: i32| {
        let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).expect("a process").count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        let memory: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
        (entries("fd"), entries("task"), memory)
    };
    let keys = || -> u64 {
        let said = answers(&t, store.port, "num_keys").remove(0);
        said.strip_prefix("ICE_OK ").and_then(|number| number.parse().ok()).expect("a number")
    };
    let [early, late] = [5, 205].map(|number| {
        let last = format!("{number} 0 ");
        // As many rounds take their time: as long as there are new ones.
        let mut looks = 0..PATIENCE.as_secs() * 5;
        let mut seen = 0;
        while !t.lines("rounds").iter().any(|line| line.starts_with(&last)) {
            let count = t.lines("rounds").len();
            if std::mem::replace(&mut seen, count) == count {
                assert!(looks.next().is_some(), "round {number} does not come");
            }
            thread::sleep(Duration::from_millis(200));
        }
        // Until the other one is in the barrier.
        thread::sleep(Duration::from_millis(300));
        let found = ([failing.pid(), other.pid()].map(takes), keys());
        t.write(&format!("looked{number}"), b"", 0o644);
        found
    });
    for (early, late) in early.0.into_iter().zip(late.0) {
        assert_eq!((early.0, early.1), (late.0, late.1), "descriptors and threads");
        assert!(late.2 < early.2 + 2048, "KiB of memory: {} then {}", early.2, late.2);
    }
    assert!(late.1 <= early.1 + 4, "keys: {} then {}", early.1, late.1);
    all_exited([failing, other], 0);
    store.end();
    t.nothing_left();
}

fn rst_04_membership_uses_up_no_restarts() {
    let t = Case::new();
    let job = Job::c10d(&t, "1:2").with(&["--max-restarts", "0"]);
    let dump = format!("$PROBE dump {}.$ICE_ROUND; exec $PROBE await {}", t.path("env"), t.path("go"));
    let first = job.first_agent(&[], |agent| agent.shell(&t, &dump));
    for number in 0..5 {
        round(&t, 2 * number, 1);
        let other = job.agent(&[]).until_go(&t).spawn();
        round(&t, 2 * number + 1, 2);
        other.signal(libc::SIGTERM);
        ended_by_term(other);
    }
    round(&t, 10, 1);
    wait_for("its environment", || {
        fs::read_to_string(t.path("env.10")).is_ok_and(|text| text.ends_with("}\n"))
    });
    let env = environment(&t.json("env.10"));
    for name in ["TORCHELASTIC_RESTART_COUNT", "ICE_JOB_RESTART_COUNT"] {
        assert_eq!(env[name], "0", "{name}");
    }
    go(&t);
    first.finish().exited(0);
    t.nothing_left();
}

fn rst_05_a_start_error_ends_the_job() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "3"]);
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let second = job.agent(&[]).words(&["--no-python", "/nowhere/program"]).run();
    second.exited(127);
    let ended = first.finish();
    assert!(ended.exited(1).err().contains("/nowhere/program"), "{}", ended.err());
    t.nothing_left();
}

fn dyn_36_a_stuck_worker_is_told_to_all_hosts() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--file-timers", "--max-restarts", "0"]);
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let second = job.agent(&[]).shell(&t, "exec $PROBE timer %p s 0.2 TERM pause").spawn();
    // Not 143, as if a signal had come, and the same on the host that only hears of it.
    for said in all_exited([second, first], 124) {
        assert!(said.contains("held its timer"), "{said}");
    }
    t.nothing_left();
}

fn rst_06_a_start_error_in_round_1() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "3"]);
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let deletes_itself = t.write("once", b"#!/bin/sh\nrm \"$0\"\nexit 4\n", 0o755);
    let second = job.agent(&[]).words(&["--no-python", &deletes_itself]).run();
    // It may come back, so the restarts of the job are used up first.
    assert!(second.exited(127).err().contains("in attempt 3: "), "{}", second.err());
    let ended = first.finish();
    assert!(ended.exited(1).err().contains("in attempt 3: "), "{}", ended.err());
    t.nothing_left();
}

/// On a host that has begun: the others are told, stop their workers, and wait for it.
fn rst_06_a_program_that_is_missing_for_a_moment_on_one_host() {
    for first_is_missing in [false, true] {
        let t = Case::new();
        let job = Job::c10d(&t, "2").with(&["--max-restarts", "20"]);
        let once =
            format!("#!/bin/sh\nrm \"$0\"; until [ -e {} ]; do sleep 0.05; done; exit 4\n", t.path("fail"));
        let program = t.write("program", once.as_bytes(), 0o755);
        let (first, second) = if first_is_missing {
            let first = job.first_agent(&[], |agent| agent.words(&["--no-python", &program]));
            (first, job.agent(&[]).until_go(&t).spawn())
        } else {
            let first = job.first_agent(&[], |agent| agent.until_go(&t));
            (first, job.agent(&[]).words(&["--no-python", &program]).spawn())
        };
        let (with, other) = if first_is_missing { (&first, &second) } else { (&second, &first) };
        wait_for("a program that removes itself", || !std::path::Path::new(&program).exists());
        t.touch("fail");
        with.says("cannot start");
        other.says("ENOENT");
        let good = format!("#!/bin/sh\nexec {} await {}\n", probe().display(), t.path("go"));
        let whole = t.write("program.new", good.as_bytes(), 0o755);
        fs::rename(whole, &program).expect("it is back");
        go(&t);
        all_exited([first, second], 0);
        t.nothing_left();
    }
}

/// They fail in turn; the restarts of each count for all.
fn rst_08_rst_09_restarts_are_the_jobs() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "2"]);
    let script = |fails_in: &str| {
        let counts =
            "$ICE_ROUND $TORCHELASTIC_RESTART_COUNT $ICE_JOB_RESTART_COUNT $TORCHELASTIC_MAX_RESTARTS";
        let file = t.path("counts");
        format!(
            "echo \"$GROUP_RANK {counts}\" >> {file}; $PROBE await_lines {file} $((2 * ICE_ROUND + 2)); \
                 case $ICE_ROUND in {fails_in}) exit 6;; esac; exec $PROBE pause"
        )
    };
    let agents = [("0", "0|2"), ("1", "1")]
        .map(|(rank, fails_in)| job.agent(&["--node-rank", rank]).shell(&t, &script(fails_in)).spawn());
    all_exited(agents, 6);
    let mut counts = t.lines("counts");
    counts.sort();
    // The own restarts, and those of all.
    assert_eq!(counts, ["0 0 0 0 2", "0 1 1 1 2", "0 2 1 2 2", "1 0 0 0 2", "1 1 0 1 2", "1 2 1 2 2"]);
    t.nothing_left();
}

fn rst_09_two_failures_at_the_same_instant() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]);
    let script = format!("$PROBE await {}; exit $((1 - ICE_ROUND))", t.path("go"));
    let agents = [0, 1].map(|_| job.agent(&[]).shell(&t, &script).spawn());
    round(&t, 0, 2);
    go(&t);
    all_exited(agents, 0);
    round(&t, 1, 2);
    assert_eq!(t.lines("rounds").len(), 4);
    t.nothing_left();
}

fn rst_10_the_back_off_of_one_node() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]).conf(QUICK);
    let begin = std::time::Instant::now();
    let script = "exit $((1 - ICE_ROUND))";
    let failing = job.agent(&["--restart-backoff", "2.5"]).shell(&t, script).spawn();
    let other = job.agent(&[]).shell(&t, "[ $ICE_ROUND = 1 ] || exec $PROBE pause").spawn();
    all_exited([failing, other], 0);
    assert!(begin.elapsed() >= Duration::from_millis(2500));
    // In round 0 the other one may be stopped before it says a word.
    round(&t, 1, 2);
    t.nothing_left();
}
