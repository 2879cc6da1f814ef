//! The state of a run as Prometheus reads it: its text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::event::{COUNTERS, counters};
use super::{End, GroupState, Outcome, Snapshot};
use crate::moment::Moment;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The runs of this process that have ended, in the order of `COUNTERS`.
static ENDED: [AtomicU64; COUNTERS.len()] = [const { AtomicU64::new(0) }; COUNTERS.len()];

/// A run of this process has ended.
pub fn count(end: End, restarts: u32) {
    for (total, one) in ENDED.iter().zip(counters(end, restarts)) {
        total.fetch_add(one, Ordering::Relaxed);
    }
}

/// When what began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    pub run: Option<Moment>,
    pub attempt: Option<Moment>,
    /// How long the last start of the group took.
    pub start: Option<Duration>,
}

/// What is told beside a snapshot.
pub struct Around<'a> {
    pub run_id: &'a [u8],
    pub role: &'a [u8],
    pub now: Moment,
    /// How long ago the agent's loop last turned.
    pub silent: Duration,
}

struct Text(String);

impl Text {
    /// The head of a metric, whose lines follow.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        self.metric(name, "gauge", help);
        self.value(name, "", value);
    }

    /// A line for each rank that has a value; nothing if none has.
    fn by_rank(&mut self, name: &str, help: &str, values: impl Iterator<Item = (usize, Option<f64>)>) {
        let mut is_first = true;
        for (rank, value) in values {
            let Some(value) = value else { continue };
            if std::mem::take(&mut is_first) {
                self.metric(name, "gauge", help);
            }
            self.value(name, &format!("{{rank=\"{rank}\"}}"), value);
        }
    }
}

/// As a label's value has to be written.
fn escaped(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `resident` is the memory of a process, in bytes.
pub fn text(snapshot: &Snapshot, around: &Around, resident: impl Fn(i32) -> Option<u64>) -> String {
    let mut out = Text(String::new());
    let since = |begin: Option<Moment>| begin.map(|begin| around.now.saturating_sub(begin).as_secs_f64());
    out.metric("libice_run_info", "gauge", "The run whose agent this is.");
    let (run_id, role) = (escaped(around.run_id), escaped(around.role));
    out.value("libice_run_info", &format!("{{run_id=\"{run_id}\",role=\"{role}\"}}"), 1);
    for (name, total) in COUNTERS.iter().zip(&ENDED) {
        let name = format!("libice_{name}");
        out.metric(&name, "counter", "Runs of this process that have ended, as torch counts them.");
        out.value(&name, "", total.load(Ordering::Relaxed));
    }
    out.metric("libice_group_state", "gauge", "1 for the state of the worker group.");
    for state in GroupState::ALL {
        let label = format!("{{state=\"{}\"}}", state.name());
        out.value("libice_group_state", &label, u8::from(state == snapshot.state));
    }
    out.metric("libice_restarts", "gauge", "Restarts of the group in this run.");
    out.value("libice_restarts", "", snapshot.attempt);
    out.gauge("libice_run_seconds", "How long the run has been going on.", since(snapshot.times.run));
    out.gauge("libice_attempt_seconds", "How long the attempt has been.", since(snapshot.times.attempt));
    let start = snapshot.times.start.map(|start| start.as_secs_f64());
    out.gauge("libice_start_seconds", "How long the last start of the group took.", start);
    let silent = around.silent.as_secs_f64();
    out.gauge("libice_agent_silent_seconds", "How long ago the agent's loop last turned.", Some(silent));
    let workers = &snapshot.workers;
    out.metric("libice_workers", "gauge", "Workers by what has become of them in this attempt.");
    type Is = fn(&Outcome) -> bool;
    let states: [(&str, Is); 4] = [
        ("waiting", |outcome| matches!(outcome, Outcome::NeverStarted)),
        ("running", |outcome| matches!(outcome, Outcome::Running)),
        ("exited", |outcome| matches!(outcome, Outcome::Exited { code: 0 })),
        ("failed", |outcome| {
            !matches!(outcome, Outcome::NeverStarted | Outcome::Running | Outcome::Exited { code: 0 })
        }),
    ];
    for (state, is) in states {
        let count = workers.iter().filter(|worker| is(&worker.outcome)).count();
        out.value("libice_workers", &format!("{{state=\"{state}\"}}"), count);
    }
    let ranks = || workers.iter().map(|worker| (worker.rank.global, worker));
    let step = ranks().map(|(rank, worker)| (rank, worker.said.step.map(|step| step as f64)));
    out.by_rank("libice_worker_step", "The step that the rank is at.", step);
    let lag = ranks().map(|(rank, worker)| (rank, worker.pace.lag.map(|lag| lag as f64)));
    out.by_rank("libice_worker_lag_steps", "How many steps it is behind the furthest.", lag);
    let at_step = ranks().map(|(rank, worker)| (rank, worker.pace.at_step.map(|time| time.as_secs_f64())));
    let help = "How long it has been seen at that step, by whoever looked.";
    out.by_rank("libice_worker_at_step_seconds", help, at_step);
    let memory = ranks().map(|(rank, worker)| {
        let runs = worker.outcome == Outcome::Running;
        (rank, if runs { resident(worker.pid).map(|bytes| bytes as f64) } else { None })
    });
    out.by_rank("libice_worker_resident_bytes", "The resident memory of its process.", memory);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::pace::Pace;
    use crate::control::watch::Said;
    use crate::report::SnapshotWorker;

    #[test]
    fn obs_metrics_are_text_that_prometheus_reads() {
        let ranks = crate::ranks::single(3);
        let worker = |index: usize, outcome, step: Option<u64>| SnapshotWorker {
            rank: ranks[index],
            pid: 100 + index as i32,
            outcome,
            said: Said { step, ..Said::default() },
            pace: Pace { lag: step.map(|step| 9 - step), at_step: step.map(|_| Duration::from_millis(1500)) },
            section: None,
        };
        let snapshot = Snapshot {
            state: GroupState::Healthy,
            attempt: 2,
            workers: vec![
                worker(0, Outcome::Running, Some(9)),
                worker(1, Outcome::Running, Some(4)),
                worker(2, Outcome::Exited { code: 3 }, None),
            ],
            times: Times {
                run: Some(Duration::from_secs(10)),
                attempt: Some(Duration::from_secs(15)),
                start: None,
            },
        };
        let around = Around {
            run_id: b"a \"job\"\n",
            role: b"\\r",
            now: Duration::from_secs(17),
            silent: Duration::ZERO,
        };
        let text = text(&snapshot, &around, |pid| (pid == 101).then_some(4096));
        for line in [
            r#"libice_run_info{run_id="a \"job\"\n",role="\\r"} 1"#,
            r#"libice_group_state{state="HEALTHY"} 1"#,
            r#"libice_group_state{state="STOPPED"} 0"#,
            "libice_restarts 2",
            "libice_run_seconds 7",
            "libice_attempt_seconds 2",
            r#"libice_workers{state="running"} 2"#,
            r#"libice_workers{state="failed"} 1"#,
            r#"libice_worker_step{rank="1"} 4"#,
            r#"libice_worker_lag_steps{rank="1"} 5"#,
            r#"libice_worker_at_step_seconds{rank="0"} 1.5"#,
            r#"libice_worker_resident_bytes{rank="1"} 4096"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
        assert!(!text.contains("libice_start_seconds") && !text.contains(r#"step{rank="2"}"#), "{text}");
        // Each metric has one head, and each line belongs to the head before it.
        let mut metric = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(head) => metric = head.split(' ').next().unwrap(),
                None if line.starts_with("# HELP ") => {}
                None => assert_eq!(line.split(['{', ' ']).next(), Some(metric)),
            }
        }
    }
}
