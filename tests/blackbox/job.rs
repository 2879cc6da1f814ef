//! Area JOB: the hosts of a job as one thing. What workers are asked for reaches all of them at one step.
//!
//! The workers are in lockstep: they meet in each step and in each checkpoint, and one that finds another elsewhere says
//! "mismatch" and fails, as a collective would have paired a checkpoint with a gradient.

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::*;
use crate::proxy::Proxy;
use crate::tests;
use crate::tool::*;

const ANSWER_NONE: i32 = 0;
const ANSWER_SUCCEEDED: i32 = 1;

pub fn tests() -> Vec<Trial> {
    tests![
        job_01_sigterm_to_all_hosts_apart_is_one_checkpoint,
        job_02_one_host_alone_is_stopped,
        job_04_hosts_that_ask_at_once_get_one_step,
        job_05_ranks_that_are_far_apart_act_where_the_furthest_is_not_yet,
        job_06_a_stuck_rank_of_another_host_costs_its_answer_only,
        job_06_a_host_that_stands_still_keeps_the_others_until_the_deadline_only,
        job_01_a_rank_that_waits_in_a_checkpoint_is_not_left_there,
        job_a_pause_and_a_stop_are_of_all_hosts,
        job_pauses_and_checkpoints_of_two_hosts_at_once,
        job_a_gentle_stop_ends_hosts_that_have_succeeded,
        job_an_agent_is_killed_in_the_midst_of_a_request,
        job_07_a_killed_agent_is_missed_at_once,
        job_07_who_comes_back_in_time_is_not_missed,
        job_09_the_host_of_the_store_is_there_again_in_time,
        job_12_a_newcomer_whose_program_is_missing_is_left_out,
        job_12_a_host_whose_workers_fail_again_and_again_is_left_out,
        job_13_a_newcomer_that_comes_and_goes_costs_few_rounds,
        job_16_a_job_at_the_store_of_another_is_told,
        job_16_one_host_too_many_is_told,
        job_17_all_hosts_say_which_of_them_was_stopped_and_how,
    ]
}

/// Workers in lockstep that work until they are stopped; those of each round for themselves.
fn lockstep(t: &Case, seconds: &str) -> Vec<String> {
    let words = ["--no-python", program("controlled").to_str().expect("a plain path")].map(String::from);
    let verbs = ["append", &t.path("ready.%o"), "x", "lockstep", &t.path("shared.%o"), "work"];
    let work = [&t.path("work.%g"), seconds, "0"];
    words.into_iter().chain(verbs.into_iter().chain(work).map(String::from)).collect()
}

/// The steps at which each rank has done something, and what.
fn done(t: &Case, ranks: usize) -> Vec<Vec<(String, u64)>> {
    let action = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].to_string(), words[3].parse().expect("a step"))
    };
    (0..ranks).map(|rank| t.lines(&format!("work.{rank}")).into_iter().map(action).collect()).collect()
}

/// All ranks have done the same at the same steps.
#[track_caller]
fn all_did(t: &Case, ranks: usize, kinds: &[&str]) {
    let done = done(t, ranks);
    for rank in &done {
        assert_eq!(rank, &done[0], "{done:?}");
    }
    let of: Vec<&str> = done[0].iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(of, kinds);
}

/// Agents of a job, each with options of its own.
fn start(job: &Job, options: &[&[&str]], worker: &[String]) -> Vec<Started> {
    let worker: Vec<&str> = worker.iter().map(String::as_str).collect();
    options.iter().map(|options| job.agent(options).words(&worker).spawn()).collect()
}

/// The same, where the first one serves the store.
fn start_beside_store(job: &Job, count: usize, worker: &[String]) -> Vec<Started> {
    let mut agents = start(job, &[&[]], worker);
    wait_for("the store", || listens(job.port));
    agents.extend(start(job, &vec![&[][..]; count - 1], worker));
    agents
}

fn job_01_sigterm_to_all_hosts_apart_is_one_checkpoint() {
    const HOSTS: usize = 3;
    for apart in [[0, 0, 0], [0, 3, 0], [20, 0, 300], [0, 700, 1400]] {
        let t = Case::new();
        let job = Job::fixed(&t, "3").with(&["--nproc-per-node", "2", "--checkpoint-before-stop", "30"]);
        let ranks = [&["--node-rank", "0"][..], &["--node-rank", "1"], &["--node-rank", "2"]];
        let agents = start(&job, &ranks, &lockstep(&t, "0.001"));
        t.wait_lines("ready.0", 2 * HOSTS);
        thread::scope(|scope| {
            for (agent, milliseconds) in agents.iter().zip(apart) {
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(milliseconds));
                    agent.signal(libc::SIGTERM);
                });
            }
        });
        for agent in agents {
            let ended = agent.finish();
            assert!(!ended.err().contains("mismatch"), "{}", ended.err());
            ended.within(Duration::from_secs(25));
        }
        all_did(&t, 2 * HOSTS, &["save"]);
        t.nothing_left();
    }
}

fn job_02_one_host_alone_is_stopped() {
    let t = Case::new();
    let options = ["--nproc-per-node", "2", "--checkpoint-before-stop", "30", "--max-restarts", "0"];
    let job = Job::c10d(&t, "2:3").with(&options);
    let mut agents = start_beside_store(&job, 3, &lockstep(&t, "0.001"));
    t.wait_lines("ready.0", 6);
    let leaves = agents.pop().expect("an agent");
    leaves.signal(libc::SIGTERM);
    ended_by_term(leaves);
    // The others go on without it, which is no restart for a failure.
    t.wait_lines("ready.1", 4);
    all_did(&t, 6, &["save"]);
    agents.iter().for_each(|agent| agent.signal(libc::SIGTERM));
    for agent in agents {
        let ended = agent.finish();
        assert!(ended.err().contains("has left the job: stopped by SIGTERM"), "{}", ended.err());
        assert!(!ended.err().contains("mismatch"), "{}", ended.err());
    }
    t.nothing_left();
}

/// A host, in the sense of the library, as one of two.
fn host<'a>(t: &'a Case, port: u16, verbs: &[&str]) -> Host<'a> {
    let host = t.host().set("nodes", "2:2").set("rendezvous", format!("c10d,localhost:{port}"));
    let host = host.set("local_world_size", 2).set("rendezvous_option", "join_timeout=60").set("control", 1);
    host.controlled(Kind::Program, verbs)
}

fn job_04_hosts_that_ask_at_once_get_one_step() {
    const TIMES: usize = 50;
    let t = Case::new();
    let port = free_port();
    let (shared, ready, work) = (t.path("shared"), t.path("ready"), t.path("work.%g"));
    let verbs = ["append", &ready, "x", "lockstep", &shared, "work", &work, "0.0005", "0"];
    let asks = |steps: &[&str]| {
        let host = host(&t, port, &verbs).steps(&["start", &format!("await_lines={ready}:4")]);
        host.step(format!("checkpoints={TIMES}")).steps(steps).step("wait=60").spawn()
    };
    let one = asks(&[&format!("dump_self={}", t.path("one"))]);
    wait_for("the store", || listens(port));
    let other = asks(&[&format!("await={}", t.path("one")), "request_stop=20"]);
    for run in [one.finish(), other.finish()] {
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.event("checkpoints")["complete"], TIMES, "{run}");
    }
    // One for both, or one after the other.
    let steps = done(&t, 4);
    assert!(steps.iter().all(|rank| *rank == steps[0]), "{steps:?}");
    assert!((TIMES + 1..=2 * TIMES + 1).contains(&steps[0].len()), "{steps:?}");
    t.nothing_left();
}

fn job_05_ranks_that_are_far_apart_act_where_the_furthest_is_not_yet() {
    let t = Case::new();
    let port = free_port();
    let work = t.path("work.%g");
    let verbs = ["append", &t.path("ready"), "x", "work", &work, "0.0002", "0"];
    let ahead = ["append", &t.path("ready"), "x", "from", "500", "work", &work, "0.0002", "0"];
    let asks = host(&t, port, &verbs)
        .steps(&["start", &format!("await_lines={}:4", t.path("ready")), "checkpoint=20", "request_stop=20"])
        .step("wait=60")
        .spawn();
    wait_for("the store", || listens(port));
    let other = host(&t, port, &ahead).steps(&["start", "wait=60"]).spawn();
    let run = asks.finish();
    run.failed_as(END_INTERRUPTED);
    // Those of the other host, too.
    for name in ["checkpoint", "request_stop"] {
        assert_eq!(run.event(name)["answers"], serde_json::json!(vec![ANSWER_SUCCEEDED; 4]), "{run}");
    }
    let steps = run.event("checkpoint")["steps"].as_array().expect("steps").clone();
    assert!(steps.iter().all(|step| *step == steps[0] && step.as_u64() >= Some(500)), "{run}");
    other.finish().failed_as(END_INTERRUPTED);
    all_did(&t, 4, &["save", "stop"]);
    t.nothing_left();
}

fn job_06_a_stuck_rank_of_another_host_costs_its_answer_only() {
    let t = Case::new();
    let port = free_port();
    let work = ["work", &t.path("work.%g"), "0.001", "0"];
    let ready = ["append", &t.path("ready"), "x"];
    let verbs = [&ready[..], &work].concat();
    let stuck = [&ready[..], &["rank", "1", "step", "3", "stop", ";"], &work].concat();
    let asks = host(&t, port, &verbs)
        .steps(&["start", &format!("await_lines={}:4", t.path("ready")), "checkpoint=3", "stop=9", "wait=60"])
        .spawn();
    wait_for("the store", || listens(port));
    let other = host(&t, port, &stuck).steps(&["start", "wait=60"]).spawn();
    let run = asks.finish();
    let answers = [ANSWER_SUCCEEDED, ANSWER_SUCCEEDED, ANSWER_SUCCEEDED, ANSWER_NONE];
    assert_eq!(run.event("checkpoint")["answers"], serde_json::json!(answers), "{run}");
    let took = run.event("checkpoint")["call_ns"].as_i64().expect("a time");
    assert!((2_000_000_000..10_000_000_000).contains(&took), "{took}");
    other.finish();
    t.nothing_left();
}

fn job_06_a_host_that_stands_still_keeps_the_others_until_the_deadline_only() {
    let t = Case::new();
    let port = free_port();
    let verbs = ["append", &t.path("ready"), "x", "work", &t.path("work.%g"), "0.001", "0"];
    let asks = host(&t, port, &verbs)
        .steps(&["start", &format!("await={}", t.path("go")), "checkpoint=1", "checkpoint=20"])
        .steps(&["request_stop=20", "wait=60"])
        .spawn();
    wait_for("the store", || listens(port));
    let other = host(&t, port, &verbs).steps(&["start", "wait=60"]).spawn();
    t.wait_lines("ready", 4);
    other.signal(libc::SIGSTOP);
    t.write("go", b"", 0o644);
    thread::sleep(Duration::from_millis(2500));
    other.signal(libc::SIGCONT);
    let run = asks.finish();
    // None of them acts, as it is not known where the others are; and all of them once that is known.
    let answers = |number: usize| run.events("checkpoint")[number]["answers"].clone();
    assert_eq!(answers(0), serde_json::json!(vec![ANSWER_NONE; 4]), "{run}");
    assert_eq!(answers(1), serde_json::json!(vec![ANSWER_SUCCEEDED; 4]), "{run}");
    other.finish().failed_as(END_INTERRUPTED);
    all_did(&t, 4, &["save", "stop"]);
    t.nothing_left();
}

/// At the deadline the ranks of one host are in the midst of the checkpoint; those of the other come to it later.
fn job_01_a_rank_that_waits_in_a_checkpoint_is_not_left_there() {
    let t = Case::new();
    let port = free_port();
    let (shared, ready, work) = (t.path("shared"), t.path("ready"), t.path("work.%g"));
    let verbs =
        |seconds| ["append", &ready, "x", "lockstep", &shared, "work", &work, seconds, "0"].map(String::from);
    let host = |seconds| host(&t, port, &verbs(seconds).each_ref().map(String::as_str));
    let asks = host("0.001")
        .steps(&["start", &format!("await_lines={ready}:4"), "sleep=0.5", "checkpoint=1"])
        // Nothing else is asked of those that wait there.
        .steps(&["checkpoint=20", "sleep=3", "checkpoint=20", "request_stop=20", "wait=60"])
        .spawn();
    wait_for("the store", || listens(port));
    let other = host("1").steps(&["start", "wait=60"]).spawn();
    let run = asks.finish();
    run.failed_as(END_INTERRUPTED);
    other.finish().failed_as(END_INTERRUPTED);
    let complete: Vec<_> = run.events("checkpoint").iter().map(|event| event["complete"].clone()).collect();
    assert_eq!(complete.last(), Some(&1.into()), "{run}");
    let done = done(&t, 4);
    assert!(done.iter().all(|rank| *rank == done[0]), "{done:?}");
    t.nothing_left();
}

fn job_a_pause_and_a_stop_are_of_all_hosts() {
    let t = Case::new();
    let port = free_port();
    let shared = t.path("shared");
    let verbs =
        ["append", &t.path("ready"), "x", "lockstep", &shared, "work", &t.path("work.%g"), "0.001", "0"];
    let asks = host(&t, port, &verbs)
        .steps(&["start", &format!("await_lines={}:4", t.path("ready")), "pause_workers=20", "checkpoint=20"])
        .steps(&["resume", "checkpoint=20", "request_stop=20", "wait=60"])
        .spawn();
    wait_for("the store", || listens(port));
    let other = host(&t, port, &verbs).steps(&["start", "wait=60"]).spawn();
    let run = asks.finish();
    run.failed_as(END_INTERRUPTED);
    other.finish().failed_as(END_INTERRUPTED);
    all_did(&t, 4, &["pause", "save", "save", "stop"]);
    let steps: Vec<u64> = done(&t, 4)[0].iter().map(|(_, step)| *step).collect();
    assert!(steps[0] == steps[1] && steps[1] < steps[2], "saved where it stood, then on: {steps:?}");
    t.nothing_left();
}

/// Pauses end while checkpoints of the other host are under way, and the other way round.
fn job_pauses_and_checkpoints_of_two_hosts_at_once() {
    let t = Case::new();
    let port = free_port();
    let (shared, ready, work) = (t.path("shared"), t.path("ready"), t.path("work.%g"));
    let verbs = ["append", &ready, "x", "lockstep", &shared, "work", &work, "0.0005", "0"];
    let begin = ["start".to_string(), format!("await_lines={ready}:4")];
    let begin = begin.each_ref().map(String::as_str);
    let saves = host(&t, port, &verbs).steps(&begin).step("checkpoints=40");
    let saves = saves.steps(&[&format!("dump_self={}", t.path("saved")), "wait=60"]).spawn();
    wait_for("the store", || listens(port));
    let mut pauses = host(&t, port, &verbs).steps(&begin);
    for _ in 0..20 {
        pauses = pauses.steps(&["pause_workers=20", "resume"]);
    }
    let pauses = pauses.steps(&[&format!("await={}", t.path("saved")), "request_stop=20", "wait=60"]).spawn();
    let (saves, pauses) = (saves.finish(), pauses.finish());
    saves.failed_as(END_INTERRUPTED);
    pauses.failed_as(END_INTERRUPTED);
    assert_eq!(saves.event("checkpoints")["complete"], 40, "{saves}");
    assert!(pauses.events("pause_workers").iter().all(|event| event["complete"] == 1), "{pauses}");
    let done = done(&t, 4);
    assert!(done.iter().all(|rank| *rank == done[0]), "{done:?}");
    t.nothing_left();
}

fn job_a_gentle_stop_ends_hosts_that_have_succeeded() {
    let t = Case::new();
    let port = free_port();
    let (ready, work) = (t.path("ready"), t.path("work.%g"));
    let verbs = ["append", &ready, "x", "work", &work, "0.001", "0"];
    let asks = host(&t, port, &verbs).set("nodes", "1:2").set("run_id", "job");
    let asks = asks.set("rendezvous_option", "last_call_timeout=0.3");
    let asks =
        asks.steps(&["start", &format!("await={}", t.path("go")), "request_stop=20", "wait=60"]).spawn();
    wait_for("the store", || listens(port));
    t.wait_lines("ready", 2);
    let job = Job::new(&t, "1:2", "c10d", &format!("localhost:{port}"), port).with(&["--control"]);
    let succeeded = job.agent(&[]).shell(&t, "exit 0").spawn();
    succeeded.says("waiting for the other hosts");
    t.wait_lines("ready", 4);
    t.write("go", b"", 0o644);
    asks.finish().failed_as(END_INTERRUPTED);
    let ended = succeeded.finish();
    assert!(ended.exited(143).err().contains("interrupted"), "{}", ended.err());
    assert_eq!(t.lines("rounds").len(), 1, "nothing is started again");
    t.nothing_left();
}

fn job_an_agent_is_killed_in_the_midst_of_a_request() {
    for victim in [0, 1, 2] {
        let t = Case::new();
        let store = crate::store::Serving::start(&t, &[]);
        let options = ["--nproc-per-node", "2", "--on-signal", "USR1=checkpoint", "--max-restarts", "0"];
        let job = Job::at_store(&t, "2:3", store.port).with(&options).conf(QUICK);
        let mut agents = start(&job, &[&[][..]; 3], &lockstep(&t, "0.001"));
        t.wait_lines("ready.0", 6);
        agents.iter().for_each(|agent| agent.signal(libc::SIGUSR1));
        agents.remove(victim).kill();
        t.wait_lines("ready.1", 4);
        // All of those that have saved, with the killed ones or not, did so at one step.
        let done = done(&t, 6);
        let saved: Vec<_> = done.iter().flatten().collect();
        assert!(saved.iter().all(|save| *save == saved[0]), "{done:?}");
        agents[0].signal(libc::SIGTERM);
        agents[1].signal(libc::SIGTERM);
        for agent in agents {
            let ended = agent.finish();
            assert!(!ended.err().contains("mismatch"), "{}", ended.err());
            assert!(
                ended.status.code() == Some(1) || ended.status.signal() == Some(libc::SIGTERM),
                "{ended:?}"
            );
        }
        store.end();
        t.nothing_left();
    }
}

/// By its connection: heartbeats would tell after 15 seconds.
fn job_07_a_killed_agent_is_missed_at_once() {
    let t = Case::new();
    let job = Job::c10d(&t, "2:3");
    let first = job.first_agent(&[], |tool| tool.until_go(&t));
    let [second, third] = [(); 2].map(|()| job.agent(&[]).until_go(&t).spawn());
    round(&t, 0, 3);
    let begun = Instant::now();
    third.kill();
    assert_eq!(round(&t, 1, 2)[0][3], "2");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    go(&t);
    let said = all_exited([first, second], 0);
    assert!(said.iter().any(|said| said.contains("has vanished: its connection has ended")), "{said:?}");
    no_process_left(&t);
}

/// Its way to the store breaks, and it comes back: no round is over for it.
fn job_07_who_comes_back_in_time_is_not_missed() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf("reconnect_timeout=20");
    let first = job.first_agent(&["--node-rank", "0"], |tool| tool.until_go(&t));
    let proxy = Proxy::before(job.port);
    let through = Job::at_store(&t, "2", proxy.port).conf("reconnect_timeout=20");
    let second = through.agent(&["--node-rank", "1"]).until_go(&t).spawn();
    round(&t, 0, 2);
    for _ in 0..3 {
        proxy.reset();
        thread::sleep(Duration::from_millis(300));
    }
    go(&t);
    let said = all_exited([first, second], 0);
    assert!(
        !said.iter().any(|said| said.contains("vanished") || said.contains("round 0 is over")),
        "{said:?}"
    );
}

/// Each time it costs the others a round, so it waits for longer and longer.
fn job_13_a_newcomer_that_comes_and_goes_costs_few_rounds() {
    let t = Case::new();
    let job = Job::c10d(&t, "1:2");
    let stays = job.first_agent(&[], |tool| tool.until_go(&t));
    round(&t, 0, 1);
    for number in 0..5 {
        let newcomer = job.agent(&[]).until_go(&t).spawn();
        match number {
            0 => drop(round(&t, 1, 2)),
            _ => wait_for("a wait", || newcomer.err_so_far().contains("come and gone 1 times")),
        }
        newcomer.kill();
        if number == 0 {
            round(&t, 2, 1);
        }
    }
    go(&t);
    stays.finish().exited(0);
    let last = t.lines("rounds").iter().filter_map(|line| line.split(' ').next()?.parse().ok()).max();
    assert!(last <= Some(3), "{last:?}");
}

/// As another process, with an empty store: the others have not ended yet.
fn job_09_the_host_of_the_store_is_there_again_in_time() {
    for fixed in [false, true] {
        let t = Case::new();
        let job = if fixed { Job::fixed(&t, "2") } else { Job::c10d(&t, "2") };
        let job = job.with(&["--max-restarts", "3"]);
        let first = |options: &[&str]| {
            let options = [&["--node-rank", "0"], options].concat();
            job.first_agent(&options, |tool| tool.until_go(&t))
        };
        let lost = first(&[]);
        // It fails once, so that the job has a round behind it.
        let script = format!("[ $ICE_ROUND = 0 ] && exit 3; exec $PROBE await {}", t.path("go"));
        let stays = job.agent(&["--node-rank", "1"]).shell(&t, &script).spawn();
        round(&t, 1, 2);
        lost.kill();
        let back = first(&[]);
        let both = round(&t, 2, 2);
        assert_eq!((&*both[0][3], &*both[1][3]), ("2", "2"));
        go(&t);
        let said = all_exited([back, stays], 0);
        assert!(said[1].contains("and its store is there again"), "{said:?}");
        no_process_left(&t);
    }
}

fn job_12_a_newcomer_whose_program_is_missing_is_left_out() {
    let t = Case::new();
    let job = Job::c10d(&t, "1:2").with(&["--max-restarts", "0"]);
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    round(&t, 0, 1);
    for number in 1..=2 {
        job.agent(&[]).words(&["--no-python", "/nowhere/program"]).run().exited(127);
        round(&t, 2 * number, 1);
    }
    go(&t);
    let ended = first.finish();
    assert!(ended.exited(0).err().contains("/nowhere/program"), "{}", ended.err());
    t.nothing_left();
}

fn job_12_a_host_whose_workers_fail_again_and_again_is_left_out() {
    // With restarts left, and with the last one used up.
    for (restarts, status) in [("3", 125), ("2", 5)] {
        let t = Case::new();
        let job = Job::c10d(&t, "1:2").with(&["--max-restarts", restarts, "--max-host-failures", "3"]);
        let first = job.first_agent(&[], |agent| agent.until_go(&t));
        round(&t, 0, 1);
        let bad = job.agent(&[]).shell(&t, "exit 5").run();
        let said = "left out, as its workers have failed 3 times";
        assert!(bad.exited(status).err().contains(said) || status == 5, "{}", bad.err());
        round(&t, 4, 1);
        go(&t);
        let ended = first.finish();
        assert!(ended.exited(0).err().contains(said), "{}", ended.err());
        t.nothing_left();
    }
}

fn job_16_a_job_at_the_store_of_another_is_told() {
    let t = Case::new();
    let text = "is served by a process that is not of this job";
    let first = Job::c10d(&t, "2");
    let endpoint = format!("localhost:{}", first.port);
    let [a, b] = [first.first_agent(&[], |tool| tool.until_go(&t)), first.agent(&[]).until_go(&t).spawn()];
    round(&t, 0, 2);
    let second = ["--rdzv-backend", "c10d", "--rdzv-endpoint", &endpoint, "--rdzv-id", "other"];
    let ended = tool(&t, &second).probe(&[]).run();
    ended.exited(0);
    assert!(ended.err().contains(text), "{}", ended.err());
    go(&t);
    assert!(all_exited([a, b], 0).iter().all(|said| !said.contains(text)));
}

/// It ends with 0, as a spare does, but nobody has asked for one.
fn job_16_one_host_too_many_is_told() {
    let t = Case::new();
    let quiet = ["--log-level", "warning"];
    let job = Job::c10d(&t, "2").with(&quiet);
    let agents = [job.first_agent(&[], |tool| tool.until_go(&t)), job.agent(&[]).until_go(&t).spawn()];
    round(&t, 0, 2);
    let third = job.agent(&[]).until_go(&t).spawn();
    wait_for("a word", || third.err_so_far().contains("a spare: the job has its 2 nodes"));
    go(&t);
    all_exited(agents, 0);
    third.finish().exited(0);
}

fn job_17_all_hosts_say_which_of_them_was_stopped_and_how() {
    for (fixed, saves, signal) in
        [(true, false, libc::SIGTERM), (true, true, libc::SIGTERM), (false, false, libc::SIGINT)]
    {
        let t = Case::new();
        let job = if fixed { Job::fixed(&t, "2") } else { Job::c10d(&t, "2") };
        let job = if saves { job.with(&["--checkpoint-before-stop", "20"]) } else { job };
        let rank = |number| if fixed { vec!["--node-rank", number] } else { vec![] };
        let worker = lockstep(&t, "0.001");
        let mut agents = start(&job, &[&rank("0")], &worker);
        wait_for("the store", || listens(job.port));
        agents.extend(start(&job, &[&rank("1")], &worker));
        t.wait_lines("ready.0", 2);
        let stopped = agents[0].pid();
        agents[0].signal(signal);
        for (number, agent) in agents.into_iter().enumerate() {
            let ended = agent.finish();
            assert_eq!(ended.status.signal(), Some(signal), "{}", ended.err());
            let name = if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
            let said = if number == 0 { String::new() } else { format!(" (PID {stopped})") };
            let line =
                ended.err().lines().find(|line| line.contains("interrupted: stopped by ")).map(String::from);
            let line = line.unwrap_or_else(|| panic!("{}", ended.err()));
            assert!(line.contains(&format!("stopped by {name}")) && line.ends_with(&said), "{line}");
        }
        t.nothing_left();
    }
}
