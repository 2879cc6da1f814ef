//! Area WAIT: a run that does not go on says what it waits for, and that it goes on again.

use libtest_mimic::Trial;

use crate::dev::with_gpus;
use crate::harness::*;
use crate::nodes::*;
use crate::proxy::Proxy;
use crate::store::Serving;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        wait_01_a_place_that_does_not_answer_and_then_does,
        wait_02_a_store_that_is_lost_in_the_middle,
        wait_03_hosts_that_have_not_come,
        wait_04_hosts_that_have_not_succeeded,
        wait_05_workers_that_do_not_end,
        wait_05_nothing_is_said_without_a_callback,
        wait_06_a_checkpoint_before_a_stop,
        wait_07_the_back_off_before_a_restart,
        wait_08_a_warm_up,
        wait_09_gpus,
        wait_10_a_run_id_that_nobody_gave,
        wait_11_what_standalone_does_not_hear,
    ]
}

/// Of one host, as its user has it: without more messages than there are.
fn plain<'a>(t: &'a Case, endpoint: &str, conf: &str) -> Tool<'a> {
    let place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-conf", conf];
    tool(t, &["--nnodes", "2", "--rdzv-id", "job"]).words(&place)
}

fn wait_01_a_place_that_does_not_answer_and_then_does() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let (refusing, silent) = (Proxy::before(store.port), Proxy::before(store.port));
    refusing.cut(true);
    silent.silence(true);
    let quick = format!("is_host=false,last_call_timeout=0.3,{QUICK}");
    let agents = [&refusing, &silent].map(|proxy| plain(&t, &proxy.endpoint(), &quick).until_go(&t).spawn());
    for (agent, proxy) in agents.iter().zip([&refusing, &silent]) {
        agent.says(&format!("the rendezvous at {} is not reached for ", proxy.endpoint()));
        assert!(agent.err_so_far().contains("given up in "), "{}", agent.err_so_far());
    }
    refusing.cut(false);
    silent.silence(false);
    for (agent, proxy) in agents.iter().zip([&refusing, &silent]) {
        agent.says(&format!("connected to the rendezvous at {} after ", proxy.endpoint()));
    }
    round(&t, 0, 2);
    go(&t);
    all_exited(agents, 0);
    store.end();
    t.nothing_left();
}

fn wait_02_a_store_that_is_lost_in_the_middle() {
    let t = Case::new();
    let store = Serving::start(&t, &[]);
    let proxy = Proxy::before(store.port);
    let agents =
        [0, 1].map(|_| plain(&t, &proxy.endpoint(), &format!("is_host=false,{QUICK}")).until_go(&t).spawn());
    round(&t, 0, 2);
    proxy.cut(true);
    for agent in &agents {
        agent.says("is not reached for ");
        assert!(agent.err_so_far().contains("healthy workers go on for "), "{}", agent.err_so_far());
    }
    proxy.cut(false);
    for agent in &agents {
        agent.says("connected to the rendezvous at ");
    }
    go(&t);
    all_exited(agents, 0);
    store.end();
    t.nothing_left();
}

fn wait_03_hosts_that_have_not_come() {
    let t = Case::new();
    let endpoint = format!("localhost:{}", free_port());
    let first = plain(&t, &endpoint, "last_call_timeout=0.3").until_go(&t).spawn();
    // Of a given set it is known who is missing.
    let place = ["--rdzv-backend", "static", "--rdzv-endpoint", &format!("localhost:{}", free_port())];
    let fixed = tool(&t, &["--nnodes", "3", "--node-rank", "0", "--rdzv-id", "fixed"]).words(&place);
    let fixed = fixed.until_go(&t).spawn();
    first.says("waiting for other hosts for ");
    assert!(first.err_so_far().contains(": 1 of 2 hosts are there ("), "{}", first.err_so_far());
    assert!(first.err_so_far().contains("; given up in "), "{}", first.err_so_far());
    fixed.says("missing: node rank 1, node rank 2");
    fixed.signal(libc::SIGTERM);
    ended_by_term(fixed);
    let second = plain(&t, &endpoint, "last_call_timeout=0.3").until_go(&t).spawn();
    first.says("the wait for other hosts is over after ");
    go(&t);
    all_exited([first, second], 0);
    t.nothing_left();
}

fn wait_04_hosts_that_have_not_succeeded() {
    let t = Case::new();
    let endpoint = format!("localhost:{}", free_port());
    let agent = |worker: &str| plain(&t, &endpoint, "last_call_timeout=0.3").shell(&t, worker).spawn();
    // The one that leads knows whom the others wait for, and who waits alone leads.
    let first = agent("exit 0");
    first.says("1 of 2 hosts are there");
    let agents = [first, agent(&format!("exec $PROBE await {}", t.path("go")))];
    wait_for("the one that is done", || {
        let said = agents[0].err_so_far();
        said.contains("waiting for the workers of other hosts for ") && said.contains("(not done yet: ")
    });
    go(&t);
    all_exited(agents, 0);
    t.nothing_left();
}

fn wait_05_workers_that_do_not_end() {
    let t = Case::new();
    let running = tool(&t, &["--nproc-per-node", "2", "--shutdown-timeout", "8"])
        .probe(&["rank", "1", "ignore", "15", ";", "append", &t.path("up"), "x", "pause"])
        .spawn();
    t.wait_lines("up", 2);
    running.signal(libc::SIGTERM);
    running.says("waiting for rank 1 to end for ");
    running.says("the wait for workers to end is over after ");
    ended_by_term(running);
}

fn wait_05_nothing_is_said_without_a_callback() {
    let t = Case::new();
    let running = t
        .host()
        .set("shutdown_timeout", 6)
        .set("signals", "SIGTERM")
        .probe(&["ignore", "15", "append", &t.path("up"), "x", "pause"])
        .spawn();
    t.wait_lines("up", 1);
    running.signal(libc::SIGTERM);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.err(), "");
}

fn wait_06_a_checkpoint_before_a_stop() {
    let t = Case::new();
    let running = tool(&t, &["--control", "--checkpoint-before-stop", "7"])
        .probe(&["append", &t.path("up"), "x", "pause"])
        .spawn();
    t.wait_lines("up", 1);
    running.signal(libc::SIGTERM);
    running.says("to save or end as asked for ");
    running.says("the wait for workers that were asked to save or end is over after ");
    ended_by_term(running);
}

fn wait_07_the_back_off_before_a_restart() {
    let t = Case::new();
    let running = tool(&t, &["--max-restarts", "1", "--restart-backoff", "7"])
        .probe(&["until_attempt", "1", "exit", "3", ";", "exit", "0"])
        .spawn();
    running.says("waiting before the restart");
    running.finish().exited(0);
}

fn wait_08_a_warm_up() {
    let t = Case::new();
    let verbs = ["code", "0", "--", "await", &t.path("go")];
    let running = t
        .host()
        .function(Way::Forkserver, &verbs)
        .set("warm_up", "warm_up")
        .set("log_callback", t.path("log"))
        .spawn();
    let said = |text: &str| t.lines("log").iter().any(|line| line.starts_with("2 ") && line.contains(text));
    wait_for("a word", || said("the fork server (PID ") && said("has not been warm for "));
    go(&t);
    running.finish().succeeded();
    assert!(said("is warm after "), "{:?}", t.lines("log"));
}

fn wait_09_gpus() {
    let t = Case::new();
    let run = with_gpus(&t, "2")
        .env("STUB_CUDA_HANG", "cuInit")
        .set("devices", "cuda:*")
        .set("probe_timeout", 7)
        .set("log_callback", t.path("log"))
        .probe(&["exit", "0"])
        .run();
    assert!(!run.status.success() || run.events("run").is_empty() || !t.lines("log").is_empty(), "{run}");
    let log = t.lines("log");
    let asked = |line: &String| line.starts_with("2 the CUDA driver has been asked for its GPUs for ");
    assert!(log.iter().any(asked), "{log:?}");
}

fn wait_10_a_run_id_that_nobody_gave() {
    let t = Case::new();
    // Each host for itself would make up another one, and they would never meet.
    let port = free_port().to_string();
    let agents = ["0", "1"].map(|rank| {
        tool(&t, &["--nnodes", "2", "--node-rank", rank, "--master-addr", "127.0.0.1", "--rdzv-conf", QUICK])
            .env("PET_MASTER_PORT", &port)
            .probe(&["append", &t.path("ids"), "%i"])
            .spawn()
    });
    for said in all_exited(agents, 0) {
        assert!(said.contains("icerun: no --rdzv-id: the run id is none"), "{said}");
    }
    assert_eq!(t.lines("ids"), ["none", "none"]);
    let said = tool(&t, &["--nnodes", "1"]).probe(&["exit", "0"]).run().exited(0).err();
    assert!(!said.contains("run id"), "{said}");
}

fn wait_11_what_standalone_does_not_hear() {
    let t = Case::new();
    let said = tool(&t, &["--standalone", "--rdzv-backend", "etcd", "--rdzv-endpoint", "head:1"])
        .probe(&["exit", "0"])
        .run()
        .exited(0)
        .err();
    for option in ["--rdzv-backend etcd", "--rdzv-endpoint head:1"] {
        let line = format!("icerun: {option} has no effect beside --standalone");
        assert!(said.contains(&line), "{said}");
    }
    let said = tool(&t, &["--standalone"]).probe(&["exit", "0"]).run().exited(0).err();
    assert!(!said.contains("--standalone"), "{said}");
}
