//! Several agents of one job on one machine: icerun, once for each node.

use std::net::TcpStream;
use std::time::Duration;

use crate::harness::*;
use crate::tool::*;

/// Who gives no sign of life is missed after two seconds.
pub const QUICK: &str = "keep_alive_interval=0.2,keep_alive_max_attempt=10";

/// What all agents of a job are given.
pub struct Job<'a> {
    case: &'a Case,
    options: Vec<String>,
    conf: String,
    pub port: u16,
}

impl<'a> Job<'a> {
    /// They meet at a port of this machine; the first one there serves the store.
    pub fn c10d(case: &'a Case, nodes: &str) -> Job<'a> {
        let port = free_port();
        Job::new(case, nodes, "c10d", &format!("localhost:{port}"), port)
    }

    /// They meet at a store that is there already, or at what stands before it.
    pub fn at_store(case: &'a Case, nodes: &str, port: u16) -> Job<'a> {
        Job::new(case, nodes, "c10d", &format!("127.0.0.1:{port}"), port).conf("is_host=false")
    }

    /// A static rendezvous: each agent is to be given its `--node-rank`.
    pub fn fixed(case: &'a Case, nodes: &str) -> Job<'a> {
        let port = free_port();
        Job::new(case, nodes, "static", &format!("localhost:{port}"), port)
    }

    pub fn new(case: &'a Case, nodes: &str, backend: &str, endpoint: &str, port: u16) -> Job<'a> {
        let options = ["--nnodes", nodes, "--rdzv-backend", backend, "--rdzv-endpoint", endpoint];
        let conf = "join_timeout=60,last_call_timeout=0.3".into();
        let job = Job { case, options: Vec::new(), conf, port };
        job.with(&options).with(&["--rdzv-id", "job", "--log-level", "info", "--shutdown-timeout", "5"])
    }

    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| option.to_string()));
        self
    }

    /// More of `--rdzv-conf`; the last one counts.
    pub fn conf(mut self, conf: &str) -> Self {
        self.conf = format!("{},{conf}", self.conf);
        self
    }

    /// One of its agents, with options of its own.
    pub fn agent(&self, options: &[&str]) -> Tool<'a> {
        let all: Vec<&str> = self.options.iter().map(String::as_str).collect();
        tool(self.case, &all).words(&["--rdzv-conf", &self.conf]).words(options)
    }

    /// The agent that serves the store, which is there on return.
    pub fn first_agent(&self, options: &[&str], worker: impl FnOnce(Tool<'a>) -> Tool<'a>) -> Started {
        let started = worker(self.agent(options)).spawn();
        wait_for("the store", || listens(self.port));
        started
    }
}

impl Tool<'_> {
    /// A shell as the worker; `$PROBE` is the probe, and its first words go to the file `rounds`:
    /// round, group rank, global rank, world size, where the workers meet.
    pub fn shell(self, t: &Case, script: &str) -> Self {
        let line = "$ICE_ROUND $GROUP_RANK $RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT";
        let script = format!("echo \"{line}\" >> {}; {script}", t.path("rounds"));
        let probe = probe();
        self.env("PROBE", probe.to_str().expect("a plain path")).words(&[
            "--no-python",
            "/bin/sh",
            "-c",
            &script,
        ])
    }

    /// The same, that succeeds once the file `go` is there.
    pub fn until_go(self, t: &Case) -> Self {
        let script = format!("exec $PROBE await {}", t.path("go"));
        self.shell(t, &script)
    }
}

/// Lets the workers of `until_go` succeed.
pub fn go(t: &Case) {
    t.write("go", b"", 0o644);
}

/// What the workers of a round have written, each as its words, by global rank; once there are so many.
pub fn round(t: &Case, number: u32, count: usize) -> Vec<Vec<String>> {
    let of_round = || -> Vec<Vec<String>> {
        let lines = t.lines("rounds").into_iter();
        let words = lines.map(|line| line.split(' ').map(String::from).collect::<Vec<_>>());
        words.filter(|words| words[0] == number.to_string()).collect()
    };
    wait_for(&format!("{count} workers in round {number}"), || of_round().len() >= count);
    let mut found = of_round();
    found.sort_by_key(|words| words[2].parse::<usize>().expect("a rank"));
    assert_eq!(found.len(), count, "{found:?}");
    found
}

/// Waits for a round of two workers, whichever it is.
pub fn round_of_both(t: &Case) {
    wait_for("a round of both", || t.lines("rounds").iter().any(|line| line.split(' ').nth(3) == Some("2")));
}

/// Somebody listens at this port.
pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Waits for their ends, which have this exit status; what they have said.
#[track_caller]
pub fn all_exited(agents: impl IntoIterator<Item = Started>, code: i32) -> Vec<String> {
    let mut said = Vec::new();
    for agent in agents {
        said.push(agent.finish().exited(code).err());
    }
    said
}

/// It ended by SIGTERM, and promptly.
#[track_caller]
pub fn ended_by_term(agent: Started) {
    use std::os::unix::process::ExitStatusExt;
    let ended = agent.finish();
    assert_eq!(ended.status.signal(), Some(libc::SIGTERM), "{}", ended.err());
    ended.within(Duration::from_secs(15));
}
