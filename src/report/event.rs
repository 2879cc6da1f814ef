//! What happens in a run, for machines: one line of JSON each, in torch's form, so that what reads the
//! events of a torchrun agent reads these.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Cause, End, RunReport, WorkerReport};
use crate::ranks::Rank;
use crate::shown::shown;
use crate::spec::{EventSource, Spec};
use crate::sys::process::since_1970;

/// Torch's counters of runs. The first counts all.
pub const COUNTERS: [&str; 5] = [
    "run_total",
    "run_success_with_retry",
    "run_success_without_retry",
    "run_failed_with_retry",
    "run_failed_without_retry",
];

/// What a run adds to each of them: 1 to the first, and to one of the others.
pub fn counters(end: End, restarts: u32) -> [u64; COUNTERS.len()] {
    let run = (end == End::Succeeded, restarts > 0);
    let [a, b, c, d] =
        [(true, true), (true, false), (false, true), (false, false)].map(|kind| u64::from(kind == run));
    [1, a, b, c, d]
}

/// What the agent does with the whole group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What each rank gets: devices, CPUs, files, its environment.
    Assign,
    /// Until all workers run, or cannot.
    Start,
    /// From then on until the first failure or stop, or until all have ended well.
    Monitor,
    /// From the first signal until all are gone.
    Stop,
    /// From the begin of the start until all are gone.
    Attempt,
    /// From the first signal to the workers of one attempt until all of the next one run.
    Restart,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Assign => "ASSIGN_WORKER_RANKS",
            Stage::Start => "START",
            Stage::Monitor => "MONITOR",
            Stage::Stop => "STOP",
            Stage::Attempt => "ATTEMPT",
            Stage::Restart => "RESTART",
        }
    }
}

/// With three digits after the point: the start of a group is a matter of few.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

pub struct Event {
    pub source: EventSource,
    /// JSON, with a newline at its end.
    pub line: String,
}

/// What all events of a run have in common.
pub struct Origin {
    common: Map<String, Value>,
}

impl Origin {
    pub fn new(spec: &Spec, run_id: &[u8], hostname: &[u8]) -> Origin {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let common = json!({
            "run_id": text(run_id),
            "role": text(&spec.role),
            "hostname": text(hostname),
            "agent_pid": std::process::id(),
            // torch's name for the one of a job of one host, too.
            "rdzv_backend": spec.nodes.place.as_ref().map_or("static", |(backend, _)| backend),
        });
        let Value::Object(common) = common else { return Origin { common: Map::new() } };
        Origin { common }
    }

    pub fn worker_started(&self, rank: &Rank, pid: i32, attempt: u32) -> Event {
        self.status(EventSource::Worker, "STARTED", worker(rank, pid, attempt))
    }

    /// A worker that was found to be stuck, with the signal that it is sent for it, 0 for none.
    pub fn worker_stuck(&self, rank: &Rank, pid: i32, attempt: u32, why: &str, signal: i32) -> Event {
        let mut fields = worker(rank, pid, attempt);
        fields["error"] = why.into();
        fields["signal"] = signal.into();
        self.status(EventSource::Worker, "STUCK", fields)
    }

    /// The final state of a worker that was started, or could not be; none for others.
    pub fn worker_ended(&self, report: &WorkerReport) -> Option<Event> {
        let state = match report.cause {
            Cause::Success => "SUCCEEDED",
            Cause::OwnFailure | Cause::TimedOut | Cause::Lost | Cause::Stuck => "FAILED",
            Cause::StoppedByAgent => "TERMINATED",
            Cause::NeverStarted if report.start_failed => "FAILED",
            Cause::NeverStarted => return None,
        };
        let mut fields = worker(&report.rank, report.pid, report.attempt);
        fields["exit_code"] = report.exit_code().into();
        fields["signal"] = report.signal().into();
        fields["duration_ms"] = (report.end_ns.saturating_sub(report.start_ns) / 1_000_000).max(0).into();
        if state == "FAILED" {
            fields["error"] = report.message.to_string_lossy().into();
        }
        Some(self.status(EventSource::Worker, state, fields))
    }

    /// The end of the run, with torch's counters: exactly one of the four is 1.
    pub fn agent_ended(&self, report: &RunReport, duration_ms: u64) -> Event {
        let succeeded = report.end.is_good();
        let mut fields = json!({
            "agent_restarts": report.restarts,
            "duration_ms": duration_ms,
            "flakiness": report.flakiness,
        });
        for (name, value) in COUNTERS.iter().zip(counters(report.end, report.restarts)) {
            fields[name] = value.into();
        }
        if !succeeded {
            fields["error"] = report.message.to_string_lossy().into();
            fields["end"] = report.end.name().into();
            if let Some(root) = report.root_cause {
                fields["root_cause"] = report.workers[root].rank.global.into();
            }
        }
        self.status(EventSource::Agent, if succeeded { "SUCCEEDED" } else { "FAILED" }, fields)
    }

    /// Something that the agent did with the whole group is done, or went wrong.
    pub fn stage(&self, stage: Stage, attempt: u32, took: Duration, error: Option<&str>) -> Event {
        let mut fields = json!({ "agent_restarts": attempt, "duration_ms": milliseconds(took) });
        if let Some(error) = error {
            fields["error"] = error.into();
        }
        self.event(EventSource::Agent, "stage", stage.name(), fields)
    }

    /// A rendezvous is over, with the place that this agent has among so many, or with what went wrong.
    pub fn rendezvous(&self, round: u64, took: Duration, joined: Result<(usize, usize), &str>) -> Event {
        let mut fields = json!({ "round": round, "duration_ms": milliseconds(took) });
        let state = match joined {
            Ok((group_rank, group_world_size)) => {
                fields["group_rank"] = group_rank.into();
                fields["group_world_size"] = group_world_size.into();
                "SUCCEEDED"
            }
            Err(error) => {
                fields["error"] = error.into();
                "FAILED"
            }
        };
        self.status(EventSource::Rendezvous, state, fields)
    }

    fn status(&self, source: EventSource, state: &str, fields: Value) -> Event {
        self.event(source, "status", state, fields)
    }

    fn event(&self, source: EventSource, kind: &str, state: &str, fields: Value) -> Event {
        let mut metadata = self.common.clone();
        metadata.insert("state".into(), state.into());
        if let Value::Object(fields) = fields {
            metadata.extend(fields);
        }
        let event = json!({
            "name": format!("torchelastic.{}.{kind}.{state}", source.name()),
            "source": source.name().to_uppercase(),
            "timestamp": since_1970().as_millis() as u64,
            "metadata": metadata,
        });
        Event { source, line: shown(&format!("{event}\n")).into_owned() }
    }
}

fn worker(rank: &Rank, pid: i32, attempt: u32) -> Value {
    json!({
        "worker_id": pid,
        "global_rank": rank.global,
        "local_rank": rank.local,
        "role_rank": rank.role,
        "group_rank": rank.group,
        "world_size": rank.world_size,
        "agent_restarts": attempt,
    })
}

/// Torch's measure of a job, 0 to 100: how much of its restarts it used, 100 for one that failed.
pub fn flakiness(end: End, max_restarts: u32, restarts: u32) -> u32 {
    if !end.is_good() {
        return 100;
    }
    let (most, left) = (u64::from(max_restarts) + 1, u64::from(max_restarts.saturating_sub(restarts)) + 1);
    (100 - (100 * left).div_ceil(most).min(100)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(end: End, restarts: u32) -> RunReport {
        RunReport {
            end,
            state: end.into(),
            restarts,
            job_restarts: restarts,
            round: 0,
            exit_code: None,
            exit_status: 0,
            saved: None,
            flakiness: 7,
            signal: 0,
            errno: 0,
            message: c"why".into(),
            summary: Default::default(),
            run_dir: Default::default(),
            workers: Vec::new(),
            root_cause: None,
            failures: Vec::new(),
            left: Vec::new(),
        }
    }

    #[test]
    fn obs_02_flakiness() {
        assert_eq!(flakiness(End::Succeeded, 1, 0), 0);
        assert_eq!(flakiness(End::Succeeded, 10, 7), 63);
        assert_eq!(flakiness(End::Succeeded, 0, 0), 0);
        assert_eq!(flakiness(End::WorkerFailure, 10, 10), 100);
        assert_eq!(flakiness(End::Succeeded, u32::MAX, u32::MAX), 99);
    }

    #[test]
    fn obs_01_one_counter_is_1() {
        let spec = Spec::default();
        let origin = Origin::new(&spec, b"job", b"node");
        for (end, restarts, name) in [
            (End::Succeeded, 0, "run_success_without_retry"),
            (End::Succeeded, 2, "run_success_with_retry"),
            (End::WorkerFailure, 0, "run_failed_without_retry"),
            (End::Interrupted, 1, "run_failed_with_retry"),
        ] {
            let ended = origin.agent_ended(&report(end, restarts), 5);
            let event: Value = serde_json::from_str(&ended.line).unwrap();
            let metadata = event["metadata"].as_object().unwrap();
            let counters = metadata
                .iter()
                .filter(|(key, _)| key.starts_with("run_success") || key.starts_with("run_failed"));
            let ones: Vec<_> =
                counters.filter(|(_, value)| **value == 1).map(|(key, _)| key.as_str()).collect();
            assert_eq!((ones, &metadata["run_total"]), (vec![name], &1.into()));
            assert_eq!(metadata.contains_key("error"), end != End::Succeeded);
        }
    }

    #[test]
    fn obs_06_one_line_that_parses_back() {
        let spec = Spec { role: b"a \"role\"\n\xff".to_vec(), ..Spec::default() };
        let line =
            Origin::new(&spec, b"job\n", b"node").worker_started(&crate::ranks::single(2)[1], 42, 3).line;
        assert_eq!(line.matches('\n').count(), 1);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["name"], "torchelastic.worker.status.STARTED");
        assert_eq!(
            (&event["metadata"]["global_rank"], &event["metadata"]["worker_id"]),
            (&1.into(), &42.into())
        );
        assert_eq!(event["metadata"]["run_id"], "job\n");
        assert_eq!(event["metadata"]["rdzv_backend"], "static");
        assert!(event["timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    }

    #[test]
    fn obs_an_event_names_the_back_end_of_its_rendezvous() {
        let mut spec = Spec::default();
        spec.nodes.place = Some(("c10d".into(), "head".into()));
        let event = Origin::new(&spec, b"job", b"node").worker_started(&crate::ranks::single(1)[0], 42, 0);
        let event: Value = serde_json::from_str(&event.line).unwrap();
        assert_eq!(event["metadata"]["rdzv_backend"], "c10d");
    }

    #[test]
    fn obs_05_stages_and_rendezvous_have_durations() {
        let origin = Origin::new(&Spec::default(), b"job", b"node");
        let parse = |event: Event| serde_json::from_str::<Value>(&event.line).unwrap();
        let event = parse(origin.stage(Stage::Stop, 2, Duration::from_micros(1_234_567), None));
        assert_eq!(
            (&event["name"], &event["source"]),
            (&"torchelastic.agent.stage.STOP".into(), &"AGENT".into())
        );
        assert_eq!(
            (&event["metadata"]["duration_ms"], &event["metadata"]["agent_restarts"]),
            (&1234.567.into(), &2.into())
        );
        let event = parse(origin.rendezvous(3, Duration::from_secs(1), Ok((1, 4))));
        assert_eq!(event["name"], "torchelastic.rendezvous.status.SUCCEEDED");
        let metadata = &event["metadata"];
        assert_eq!((&metadata["round"], &metadata["duration_ms"]), (&3.into(), &1000.0.into()));
        assert_eq!((&metadata["group_rank"], &metadata["group_world_size"]), (&1.into(), &4.into()));
        let event = parse(origin.rendezvous(0, Duration::ZERO, Err("nobody came")));
        assert_eq!(
            (&event["metadata"]["state"], &event["metadata"]["error"]),
            (&"FAILED".into(), &"nobody came".into())
        );
    }
}
