//! Area SCHED: one line under every scheduler. A Slurm, Open MPI's and MPICH's launchers are real where they are installed;
//! of the others there are the variables.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libtest_mimic::Trial;

use crate::dev::stub;
use crate::harness::*;
use crate::nodes::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        sched_01_tasks_of_a_step_are_one_job,
        sched_01_what_is_given_counts,
        sched_01_a_port_that_is_taken_is_passed_over,
        sched_01_a_port_that_looks_free_is_passed_over,
        sched_01_one_host_is_as_without_a_scheduler,
        sched_04_two_agents_with_rank_0_are_refused,
        sched_01_where_each_value_is_from,
        sched_01_none_is_asked_by_a_worker_or_if_it_is_not_wanted,
        sched_01_a_program_may_ask,
        needs(net_namespaces, slurmctld, munged): sched_01_a_real_slurm,
        sched_04_tasks_that_do_not_fit_are_refused,
        sched_04_agents_of_one_host_share_its_gpus,
        needs(mpiexec): sched_05_ranks_of_mpi_are_agents,
        sched_06_an_indexed_job,
        sched_07_hosts_by_the_variables_of_torch,
        sched_08_a_stop_after_a_checkpoint_may_have_a_status_of_its_own,
        sched_08_a_stopped_job_is_queued_again,
        needs(net_namespaces, slurmctld, munged): sched_08_a_real_slurm_starts_it_again,
        sched_08_the_termination_log,
        sched_09_threads_are_the_cpus_of_the_task,
        needs(net_namespaces, slurmctld, munged): sched_10_a_real_slurm_loses_a_node,
    ]
}

/// One after the other: they have a munged in common.
static ONE_SLURM: Mutex<()> = Mutex::new(());

/// A Slurm of four nodes on this machine.
struct Slurm {
    dir: String,
    _one: MutexGuard<'static, ()>,
}

impl Slurm {
    fn up(t: &Case) -> Slurm {
        let one = ONE_SLURM.lock().unwrap_or_else(PoisonError::into_inner);
        let slurm = Slurm { dir: t.path(&format!("ice-{}", job(t))), _one: one };
        assert!(slurm.script(&["up", &slurm.dir]).status().expect("a script").success());
        slurm
    }

    /// Not a case's own: its daemons are no processes of a run.
    fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new(root().join("tests/slurm"));
        command.args(words);
        command
    }

    fn on<'a>(&'a self, host: &'a str) -> [&'a str; 4] {
        [concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm"), "on", &self.dir, host]
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = self.script(&["down", &self.dir]).status();
    }
}

/// The number of a job that no other test has: agents of one job meet at a port that is made of it.
fn job(t: &Case) -> String {
    t.path("").chars().filter(char::is_ascii_digit).collect()
}

/// What its tasks find who see each one node of this machine.
fn task<'a>(t: &'a Case, rank: u32, tasks: u32, options: &[&str]) -> Tool<'a> {
    let (job, rank, tasks) = (job(t), rank.to_string(), tasks.to_string());
    let variables = [
        ("SLURM_JOB_ID", &*job),
        ("SLURM_STEP_ID", "3"),
        ("SLURM_PROCID", &*rank),
        ("SLURM_NODEID", &rank),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NTASKS", &tasks),
        ("SLURM_NNODES", &tasks),
        ("SLURM_STEP_NODELIST", "localhost"),
    ];
    variables.iter().fold(tool(t, options), |tool, (name, value)| tool.env(name, value))
}

/// A worker that adds a line: its rank, the number of workers, the run id.
fn sign(tool: Tool<'_>, t: &Case) -> Started {
    let script = format!("echo $RANK/$WORLD_SIZE $TORCHELASTIC_RUN_ID >> {}", t.path("signed"));
    tool.words(&["--no-python", "sh", "-c", &script]).spawn()
}

fn signed(t: &Case) -> Vec<String> {
    let mut lines = t.lines("signed");
    lines.sort();
    lines
}

fn sched_01_tasks_of_a_step_are_one_job() {
    let t = Case::new();
    all_end_well((0..3).map(|rank| sign(task(&t, rank, 3, &[]), &t)));
    assert_eq!(signed(&t), [0, 1, 2].map(|rank| format!("{rank}/3 slurm-{}.3", job(&t))));
}

fn all_end_well(agents: impl Iterator<Item = Started>) {
    for agent in agents.collect::<Vec<_>>() {
        agent.finish().exited(0);
    }
}

fn sched_01_what_is_given_counts() {
    let t = Case::new();
    let port = free_port();
    let endpoint = format!("localhost:{port}");
    let own = [
        "--rdzv-endpoint",
        &endpoint,
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "mine",
        "--nproc-per-node",
        "2",
    ];
    // The scheduler says two hosts, and their ranks.
    all_end_well((0..2).map(|rank| sign(task(&t, rank, 2, &own), &t)));
    assert_eq!(signed(&t), ["0/4 mine", "1/4 mine", "2/4 mine", "3/4 mine"]);
    let t = Case::new();
    sign(task(&t, 1, 2, &["--nnodes", "1"]), &t).finish().exited(0);
    sign(task(&t, 1, 2, &["--nnodes", "1", "--rdzv-id", "x"]), &t).finish().exited(0);
    assert_eq!(signed(&t), [format!("0/1 slurm-{}.3", job(&t)), "0/1 x".into()]);
    // Workers and agents meet at the same host and port, as without a scheduler.
    let t = Case::new();
    let port = free_port().to_string();
    let own = ["--master-addr", "127.0.0.1", "--master-port", &port];
    let script = format!("echo $RANK $MASTER_ADDR:$MASTER_PORT >> {}", t.path("signed"));
    all_end_well(
        (0..2).map(|rank| task(&t, rank, 2, &own).words(&["--no-python", "sh", "-c", &script]).spawn()),
    );
    assert_eq!(signed(&t), [format!("0 127.0.0.1:{port}"), format!("1 127.0.0.1:{port}")]);
}

/// Where the agents of a step meet.
fn endpoint(t: &Case) -> String {
    let ended = task(t, 0, 2, &["--dry-run"]).probe(&[]).run();
    ended.exited(0);
    let out = ended.out();
    let line = out.lines().find_map(|line| line.strip_prefix("rendezvous_endpoint: ")).expect("an endpoint");
    line.split(' ').next().expect("a word").to_string()
}

fn sched_01_a_port_that_is_taken_is_passed_over() {
    let t = Case::new();
    let endpoint = endpoint(&t);
    let port: u16 = endpoint.strip_prefix("localhost:").expect("this host").parse().expect("a port");
    // Somebody who takes connections and says nothing; and behind him the store of another job.
    let _silent = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let place = format!("localhost:{}", port + 1);
    let other = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", &place, "--rdzv-id", "other"];
    let other = tool(&t, &other).probe(&[]).spawn();
    wait_for("the other's store", || listens(port + 1));
    all_end_well((0..2).map(|rank| sign(task(&t, rank, 2, &["--rdzv-conf", "join_timeout=60"]), &t)));
    assert_eq!(signed(&t), [0, 1].map(|rank| format!("{rank}/2 slurm-{}.3", job(&t))));
    other.signal(libc::SIGTERM);
    ended_by_term(other);
}

/// Both may serve, but one of them alone is the first.
fn sched_04_two_agents_with_rank_0_are_refused() {
    let t = Case::new();
    let first = task(&t, 0, 2, &[]).probe(&["await", &t.path("go")]).spawn();
    let port: u16 = endpoint(&t).rsplit_once(':').expect("a port").1.parse().expect("a port");
    wait_for("the store", || listens(port));
    let twin = task(&t, 0, 2, &[]).probe(&[]).run();
    twin.exited(125);
    assert!(twin.err().contains("another agent of this job has it"), "{}", twin.err());
    let second = task(&t, 1, 2, &[]).probe(&[]).spawn();
    t.touch("go");
    all_end_well([first, second].into_iter());
}

/// The host of the store passes over a port that is taken on another of its addresses; it looks free to the others.
fn sched_01_a_port_that_looks_free_is_passed_over() {
    let t = Case::new();
    let port: u16 = endpoint(&t).rsplit_once(':').expect("a port").1.parse().expect("a port");
    let _taken = TcpListener::bind(("127.0.0.2", port)).unwrap();
    all_end_well((0..2).map(|rank| sign(task(&t, rank, 2, &["--rdzv-conf", "join_timeout=60"]), &t)));
    assert_eq!(signed(&t).len(), 2);
}

fn sched_01_where_each_value_is_from() {
    let t = Case::new();
    let ended = task(&t, 1, 2, &["--dry-run"]).env("SLURM_CPUS_PER_TASK", "4").probe(&[]).run();
    ended.exited(0);
    let out = ended.out();
    for line in [
        "nodes: 2 (SLURM_NNODES)",
        "node_rank: 1 (SLURM_NODEID)",
        "rendezvous_endpoint: localhost:",
        "(SLURM_STEP_NODELIST, port: of the run id)",
        &format!("run_id: slurm-{}.3 (SLURM_JOB_ID, SLURM_STEP_ID)", job(&t)),
        "OMP_NUM_THREADS: 4 CPUs, by the number of workers (SLURM_CPUS_PER_TASK)",
    ] {
        assert!(out.contains(line), "{line}:\n{out}");
    }
    // What is given has no line.
    let out = task(&t, 1, 2, &["--dry-run", "--nnodes", "2", "--rdzv-id", "x"]).probe(&[]).run().out();
    assert!(!out.contains("nodes:") && !out.contains("run_id:") && out.contains("node_rank:"), "{out}");
}

fn sched_01_one_host_is_as_without_a_scheduler() {
    let t = Case::new();
    let port = free_port();
    let script = "echo $MASTER_ADDR:$MASTER_PORT";
    for place in
        [&["--rdzv-endpoint", &format!("127.0.0.1:{port}")][..], &["--master-port", &port.to_string()]]
    {
        let ended = task(&t, 0, 1, place).words(&["--no-python", "sh", "-c", script]).run();
        ended.exited(0);
        assert_eq!(ended.out().trim(), format!("127.0.0.1:{port}"), "{place:?}: {}", ended.err());
    }
    // Nobody to be met, and no store that a neighbour may have.
    let ended = task(&t, 0, 1, &["--rdzv-backend", "c10d", "--log-level", "info"]).probe(&[]).run();
    ended.exited(0);
    assert!(!ended.err().contains("joining the rendezvous"), "{}", ended.err());
}

fn sched_01_none_is_asked_by_a_worker_or_if_it_is_not_wanted() {
    let t = Case::new();
    for (options, variables) in [
        (&["--scheduler", "none"][..], &[][..]),
        (&["--standalone"], &[]),
        // Of a run around this one.
        (&[], &[("TORCHELASTIC_RUN_ID", "outer"), ("RANK", "0"), ("WORLD_SIZE", "2")]),
    ] {
        let tool =
            variables.iter().fold(task(&t, 1, 2, options), |tool, (name, value)| tool.env(name, value));
        let script = "echo $RANK/$WORLD_SIZE $TORCHELASTIC_RUN_ID";
        let ended = tool.words(&["--no-python", "sh", "-c", script]).run();
        ended.exited(0);
        assert!(ended.out().starts_with("0/1 ") && !ended.out().contains("slurm"), "{}", ended.out());
    }
    let ended = tool(&t, &["--scheduler", "pbs"]).probe(&[]).run();
    ended.exited(2);
    assert!(ended.err().contains("PBS_JOBID and PBS_NODEFILE must be in the environment"), "{}", ended.err());
    let ended = tool(&t, &["--scheduler", "slrum"]).probe(&[]).run();
    ended.exited(2);
    assert!(ended.err().contains("--scheduler slrum") && ended.err().contains("slurm"), "{}", ended.err());
}

fn sched_01_a_program_may_ask() {
    let t = Case::new();
    let host = |rank: &str, name: &str| {
        let host = t.host().set("scheduler", name).probe(&["append", &t.path("ranks"), "%g/%w"]);
        let host = host.env("MASTER_ADDR", "localhost").env("MASTER_PORT", &free_port().to_string());
        host.env("WORLD_SIZE", "1").env("RANK", rank)
    };
    host("0", "auto").run().succeeded();
    host("0", "environment").run().succeeded();
    assert_eq!(t.lines("ranks").len(), 2);
    // No variable of a scheduler is read where nobody asks for it.
    t.host().env("WORLD_SIZE", "2").env("RANK", "1").probe(&[]).run().succeeded();
}

fn sched_01_a_real_slurm() {
    let t = Case::new();
    let slurm = Slurm::up(&t);
    let srun = |tasks: &str| -> Vec<String> {
        let on = slurm.on("ctl");
        on.iter().chain(&["srun", "-N2", "-n", tasks]).map(|word| word.to_string()).collect()
    };
    let under = |tool: Tool<'_>, words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        tool.under(&words).spawn().finish()
    };
    let script = format!("echo $RANK/$WORLD_SIZE $MASTER_ADDR $OMP_NUM_THREADS >> {}", t.path("signed"));
    let ended = under(tool(&t, &["--no-python", "sh", "-c", &script]), &srun("2"));
    ended.exited(0);
    assert_eq!(signed(&t), ["0/2 node1 1", "1/2 node1 1"]);
    // A failure on one node is the step's.
    let script = "test $RANK = 0 || exit 7; sleep 300";
    under(tool(&t, &["--no-python", "sh", "-c", script]), &srun("2")).exited(7);
    let ended = under(tool(&t, &["--no-python", "true"]), &srun("4"));
    ended.exited(2);
    assert!(ended.err().contains("srun --nodes=2 --ntasks=2"), "{}", ended.err());
    let four =
        tool(&t, &["--nnodes", "4", "--no-python", "sh", "-c", &format!("echo $RANK >> {}", t.path("four"))]);
    under(four, &srun("4")).exited(0);
    let mut ranks = t.lines("four");
    ranks.sort();
    assert_eq!(ranks, ["0", "1", "2", "3"]);
    // A batch script without srun: on one node it is a job of this host, on two it says what is missing.
    let job = t.path("job.sh");
    let icerun = icerun().display().to_string();
    t.write(
        "job.sh",
        format!("#!/bin/sh\n{icerun} --no-python sh -c 'echo $RANK/$WORLD_SIZE $TORCHELASTIC_RUN_ID'\n")
            .as_bytes(),
        0o755,
    );
    let out = t.path("batch.out");
    let batch = |size: [&str; 2]| {
        let on = slurm.on("ctl");
        let words: Vec<&str> =
            on.into_iter().chain(["sbatch", "--wait", "-o", &out]).chain(size).chain([&*job]).collect();
        let status = t.command(words[0]).args(&words[1..]).stdout(std::process::Stdio::null()).status();
        (status.expect("sbatch").code(), t.lines("batch.out"))
    };
    let (code, mut lines) = batch(["-N1", "-n3"]);
    lines.sort();
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(
        lines.len() == 3 && lines[0].starts_with("0/3 slurm-") && lines[2].starts_with("2/3 slurm-"),
        "{lines:?}"
    );
    let (code, lines) = batch(["-N2", "-n2"]);
    assert!(
        code == Some(2) && lines[0].contains("srun --nodes=2 --ntasks=2 before the command"),
        "{lines:?}"
    );
}

fn sched_04_tasks_that_do_not_fit_are_refused() {
    let t = Case::new();
    let four = |options: &[&str]| task(&t, 3, 4, options).env("SLURM_NNODES", "2").probe(&[]).run();
    let ended = four(&[]);
    ended.exited(2);
    assert!(ended.err().contains("4 tasks of Slurm on 2 nodes"), "{}", ended.err());
    assert_eq!(ended.err().lines().count(), 1, "{}", ended.err());
    four(&["--dry-run", "--nnodes", "4"]).exited(0);
    // A rank without a place to meet.
    let ended = tool(&t, &[]).env("RANK", "1").env("WORLD_SIZE", "2").probe(&[]).run();
    ended.exited(2);
    assert!(
        ended.err().contains("MASTER_ADDR") && ended.err().contains("--rdzv-endpoint"),
        "{}",
        ended.err()
    );
}

fn sched_04_agents_of_one_host_share_its_gpus() {
    let t = Case::new();
    let seen = |local: &str, size: &str, options: &[&str]| {
        let tool = tool(&t, &["--dry-run"]).words(options);
        let tool = tool.env("LD_LIBRARY_PATH", stub()).env("STUB_CUDA_COUNT", "8");
        let tool = tool.env("OMPI_COMM_WORLD_RANK", local).env("OMPI_COMM_WORLD_SIZE", size);
        let tool = tool.env("OMPI_COMM_WORLD_LOCAL_RANK", local).env("OMPI_COMM_WORLD_LOCAL_SIZE", size);
        let ended = tool.probe(&[]).run();
        ended.exited(0);
        let out = ended.out();
        let rows = out
            .lines()
            .skip_while(|line| !line.starts_with("RANK"))
            .skip(1)
            .take_while(|line| !line.is_empty());
        let device = |row: &str| row.split_whitespace().nth(2).expect("a device").to_string();
        rows.map(device).collect::<Vec<_>>()
    };
    assert_eq!(seen("0", "2", &[]), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]);
    assert_eq!(seen("1", "2", &[]), ["cuda:4", "cuda:5", "cuda:6", "cuda:7"]);
    assert_eq!(seen("7", "8", &[]), ["cuda:7"]);
    assert_eq!(seen("0", "1", &[]).len(), 8);
    assert_eq!(seen("1", "2", &["--nproc-per-node", "1"]), ["-"]);
}

fn sched_05_ranks_of_mpi_are_agents() {
    let named = [".openmpi", ".mpich"].iter().any(|name| in_path(&format!("mpiexec{name}")));
    let names = if named { vec![".openmpi", ".mpich"] } else { vec![""] };
    for name in names.into_iter().filter(|name| in_path(&format!("mpiexec{name}"))) {
        let t = Case::new();
        let tool = tool(&t, &["--nproc-per-node", "2"]).under(&[&format!("mpiexec{name}"), "-n", "2"]);
        // Open MPI's does not like to be root's, or to have more ranks than cores.
        let tool = tool.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        let tool = tool.env("OMPI_MCA_rmaps_base_oversubscribe", "1");
        sign(tool, &t).finish().exited(0);
        let lines = signed(&t);
        assert_eq!(lines.len(), 4, "mpiexec{name}: {lines:?}");
        let id = lines[0].strip_prefix("0/4 ").expect("the first rank");
        assert_eq!(lines, (0..4).map(|rank| format!("{rank}/4 {id}")).collect::<Vec<_>>(), "mpiexec{name}");
    }
}

fn sched_06_an_indexed_job() {
    let t = Case::new();
    let endpoint = format!("localhost:{}", free_port());
    let options =
        ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", &endpoint, "--rdzv-id", "job"];
    let pod = |index: &str| tool(&t, &options).env("JOB_COMPLETION_INDEX", index);
    all_end_well(["0", "1"].into_iter().map(|index| sign(pod(index), &t)));
    assert_eq!(signed(&t), ["0/2 job", "1/2 job"]);
    // One that does not say how many there are is of this host alone, as it may be.
    let t = Case::new();
    sign(tool(&t, &[]).env("JOB_COMPLETION_INDEX", "1"), &t).finish().exited(0);
    assert!(signed(&t)[0].starts_with("0/1 "));
}

fn sched_07_hosts_by_the_variables_of_torch() {
    let t = Case::new();
    let port = free_port().to_string();
    let host = |rank: &str| {
        let tool =
            tool(&t, &["--nproc-per-node", "2"]).env("MASTER_ADDR", "localhost").env("MASTER_PORT", &port);
        sign(tool.env("WORLD_SIZE", "2").env("RANK", rank), &t)
    };
    all_end_well(["1", "0"].into_iter().map(host));
    assert_eq!(signed(&t), ["0/4 none", "1/4 none", "2/4 none", "3/4 none"]);
}

/// A worker that saves when it is asked to, and works until it is stopped.
fn saver(t: &Case) -> Vec<String> {
    let words = ["--no-python", program("controlled").to_str().expect("a plain path")].map(String::from);
    let verbs = [
        "append".into(),
        t.path("ready"),
        "x".into(),
        "work".into(),
        t.path("work.%g"),
        "0.001".into(),
        "0".into(),
    ];
    words.into_iter().chain(verbs).collect()
}

fn stopped(t: &Case, options: &[&str], tool: impl FnOnce(Tool<'_>) -> Tool<'_>) -> Ended {
    let words = saver(t);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let started = tool(self::tool(t, &["--nproc-per-node", "2"]).words(options)).words(&words).spawn();
    t.wait_lines("ready", 2);
    started.signal(libc::SIGTERM);
    started.finish()
}

fn sched_08_a_stop_after_a_checkpoint_may_have_a_status_of_its_own() {
    let saving = ["--checkpoint-before-stop", "30"];
    for (options, status, saved) in [
        (&[&saving[..], &["--saved-exit-status", "75"]].concat()[..], Some(75), true),
        (&[&saving[..], &["--saved-exit-status", "0"]].concat(), Some(0), true),
        (&saving, None, true),
        (&["--saved-exit-status", "75"], None, false),
    ] {
        let t = Case::new();
        let ended = stopped(&t, options, |tool| tool);
        assert_eq!(ended.status.code(), status, "{options:?}: {}", ended.err());
        assert_eq!(ended.err().contains("saved: all ranks, at step "), saved, "{options:?}: {}", ended.err());
    }
    // Of two hosts both, whichever was stopped.
    let t = Case::new();
    let job = Job::fixed(&t, "2").with(&saving).with(&["--saved-exit-status", "75"]);
    let words = saver(&t);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let agents = ["0", "1"].map(|rank| job.agent(&["--node-rank", rank]).words(&words).spawn());
    t.wait_lines("ready", 2);
    agents[1].signal(libc::SIGTERM);
    all_exited(agents, 75);
}

fn sched_08_a_stopped_job_is_queued_again() {
    for (saves, rank, state, times) in [
        (true, "0", "RUNNING", 1),
        (true, "0", "COMPLETING", 0),
        (true, "1", "RUNNING", 0),
        (false, "0", "RUNNING", 0),
    ] {
        let t = Case::new();
        t.write("squeue", format!("#!/bin/sh\necho {state}\n").as_bytes(), 0o755);
        t.write("scontrol", format!("#!/bin/sh\necho $* >> {}\n", t.path("queue")).as_bytes(), 0o755);
        let path = format!("{}:{}", t.path(""), std::env::var("PATH").expect("a path"));
        let options: &[&str] =
            if saves { &["--checkpoint-before-stop", "30", "--requeue"] } else { &["--requeue"] };
        let ended = stopped(&t, options, |tool| {
            tool.env("PATH", &path)
                .env("SLURM_JOB_ID", "77")
                .env("SLURM_PROCID", rank)
                .words(&["--nnodes", "1"])
        });
        assert_eq!(t.lines("queue"), vec!["requeue 77"; times], "{}", ended.err());
        let is_refused = !saves || state != "RUNNING";
        assert_eq!(
            ended.err().contains("--requeue: not done"),
            is_refused && rank == "0" || !saves,
            "{}",
            ended.err()
        );
    }
    let t = Case::new();
    let ended = tool(&t, &["--requeue"]).probe(&[]).run();
    ended.exited(2);
    assert!(ended.err().contains("SLURM_JOB_ID"), "{}", ended.err());
}

fn sched_08_a_real_slurm_starts_it_again() {
    let t = Case::new();
    let slurm = Slurm::up(&t);
    let words = saver(&t).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let (icerun, again) = (icerun().display().to_string(), t.path("again"));
    // The second time there is nothing left to be done.
    let script = format!(
        "#!/bin/sh\n[ -z \"$SLURM_RESTART_COUNT\" ] || {{ echo $SLURM_RESTART_COUNT > {again}; exit 0; }}\n\
         srun -N2 -n2 {icerun} --requeue --checkpoint-before-stop 30 {words}\n"
    );
    t.write("job.sh", script.as_bytes(), 0o755);
    let tried = |words: &[&str]| {
        let on = slurm.on("ctl");
        let words: Vec<&str> = on.iter().chain(words).copied().collect();
        t.command(words[0]).args(&words[1..]).output().expect("a command of Slurm")
    };
    let run = |words: &[&str]| {
        let output = tried(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let job = run(&[
        "sbatch",
        "--parsable",
        "--requeue",
        "-N2",
        "-n2",
        "-o",
        &t.path("batch.out"),
        &t.path("job.sh"),
    ]);
    t.wait_lines("ready", 2);
    run(&["scancel", "--signal=TERM", &job]);
    // Slurm would wait for two minutes. Within the second in which it has revoked the first run's credentials it starts none.
    wait_for("the queue", || run(&["squeue", "-h", "-o", "%T"]) == "PENDING");
    wait_for("a start", || {
        tried(&["scontrol", "update", &format!("JobId={job}"), "StartTime=now+3"]).status.success()
    });
    wait_for("the second time", || !t.lines("again").is_empty());
    assert_eq!(t.lines("again"), ["1"]);
    // Both ranks have saved at one step.
    let steps = ["work.0", "work.1"]
        .map(|name| t.lines(name).last().and_then(|line| line.split(' ').nth(3).map(String::from)));
    assert!(steps[0].is_some() && steps[0] == steps[1], "{steps:?}");
}

fn sched_08_the_termination_log() {
    let t = Case::new();
    let run = |log: &str| {
        let options = ["--termination-log", log, "--no-python", "sh", "-c", "echo broken >&2; exit 7"];
        tool(&t, &options).run().exited(7);
    };
    run(&t.path("absent"));
    assert!(!std::path::Path::new(&t.path("absent")).exists());
    t.write("log", b"what was there", 0o644);
    run(&t.path("log"));
    let lines = t.lines("log");
    assert!(
        lines[0].starts_with("worker failure: ") && lines.iter().any(|line| line.contains("exit code: 7")),
        "{lines:?}"
    );
}

/// All its processes at once, as when its power is gone.
fn sched_10_a_real_slurm_loses_a_node() {
    let t = Case::new();
    let slurm = Slurm::up(&t);
    let options = ["--nnodes", "1:2", "--max-restarts", "3", "--rdzv-conf", "last_call_timeout=2"];
    let words = [&slurm.on("ctl")[..], &["srun", "--no-kill", "-N2", "-n2"]].concat();
    let started = tool(&t, &options).until_go(&t).under(&words).spawn();
    round(&t, 0, 2);
    let node = format!("{}-node2", slurm.dir.rsplit('/').next().expect("a name"));
    let pids = Command::new("ip").args(["netns", "pids", &node]).output().expect("ip");
    for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
        send(pid.parse().expect("a pid"), libc::SIGKILL);
    }
    assert_eq!(round(&t, 1, 1)[0][3], "1");
    go(&t);
    // Slurm waits for its own time-out before it gives the node up.
    let said = started.finish().err();
    assert!(said.contains("Node failure on node2"), "{said}");
}

fn sched_09_threads_are_the_cpus_of_the_task() {
    let t = Case::new();
    let threads = |workers: &str, variables: &[(&str, &str)]| {
        let tool = tool(&t, &["--nproc-per-node", workers]);
        let tool = variables.iter().fold(tool, |tool, (name, value)| tool.env(name, value));
        let ended = tool.words(&["--no-python", "sh", "-c", "echo $OMP_NUM_THREADS"]).run();
        ended.exited(0);
        ended.out().lines().next().expect("a line").to_string()
    };
    let six = ("SLURM_CPUS_PER_TASK", "6");
    assert_eq!(threads("2", &[six]), "3");
    assert_eq!(threads("4", &[six]), "1");
    assert_eq!(threads("8", &[six]), "1");
    assert_eq!(threads("1", &[six]), "6");
    assert_eq!(threads("2", &[six, ("OMP_NUM_THREADS", "5")]), "5");
}
