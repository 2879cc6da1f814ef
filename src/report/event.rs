//! What happens in a run, for machines: one line of JSON each, in torch's form, so that what reads the
//! events of a torchrun agent reads these.

use serde_json::{Map, Value, json};

use super::{Cause, End, RunReport, WorkerReport};
use crate::ranks::Rank;
use crate::spec::Spec;
use crate::sys::process::since_1970;

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
            "rdzv_backend": "static",
        });
        let Value::Object(common) = common else { return Origin { common: Map::new() } };
        Origin { common }
    }

    pub fn worker_started(&self, rank: &Rank, pid: i32, attempt: u32) -> String {
        self.line("WORKER", "STARTED", worker(rank, pid, attempt))
    }

    /// A worker that was found to be stuck, with the signal that it is sent for it, 0 for none.
    pub fn worker_stuck(&self, rank: &Rank, pid: i32, attempt: u32, why: &str, signal: i32) -> String {
        let mut fields = worker(rank, pid, attempt);
        fields["error"] = why.into();
        fields["signal"] = signal.into();
        self.line("WORKER", "STUCK", fields)
    }

    /// The final state of a worker that was started; none for others.
    pub fn worker_ended(&self, report: &WorkerReport) -> Option<String> {
        let state = match report.cause {
            Cause::Success => "SUCCEEDED",
            Cause::OwnFailure | Cause::TimedOut | Cause::Lost | Cause::Stuck => "FAILED",
            Cause::StoppedByAgent => "TERMINATED",
            Cause::NeverStarted => return None,
        };
        let mut fields = worker(&report.rank, report.pid, report.attempt);
        fields["exit_code"] = report.exit_code().into();
        fields["signal"] = report.signal().into();
        fields["duration_ms"] = (report.end_ns.saturating_sub(report.start_ns) / 1_000_000).max(0).into();
        if state == "FAILED" {
            fields["error"] = report.message.to_string_lossy().into();
        }
        Some(self.line("WORKER", state, fields))
    }

    /// The end of the run, with torch's counters: exactly one of the four is 1.
    pub fn agent_ended(&self, report: &RunReport, duration_ms: u64) -> String {
        let succeeded = report.end == End::Succeeded;
        let again = report.restarts > 0;
        let counter = |success: bool, retry: bool| u8::from((success, retry) == (succeeded, again));
        let mut fields = json!({
            "agent_restarts": report.restarts,
            "duration_ms": duration_ms,
            "run_total": 1,
            "run_success_with_retry": counter(true, true),
            "run_success_without_retry": counter(true, false),
            "run_failed_with_retry": counter(false, true),
            "run_failed_without_retry": counter(false, false),
            "flakiness": report.flakiness,
        });
        if !succeeded {
            fields["error"] = report.message.to_string_lossy().into();
            fields["end"] = report.end.name().into();
            if let Some(root) = report.root_cause {
                fields["root_cause"] = report.workers[root].rank.global.into();
            }
        }
        self.line("AGENT", if succeeded { "SUCCEEDED" } else { "FAILED" }, fields)
    }

    fn line(&self, source: &str, state: &str, fields: Value) -> String {
        let mut metadata = self.common.clone();
        metadata.insert("state".into(), state.into());
        if let Value::Object(fields) = fields {
            metadata.extend(fields);
        }
        let event = json!({
            "name": format!("torchelastic.{}.status.{state}", source.to_lowercase()),
            "source": source,
            "timestamp": since_1970().as_millis() as u64,
            "metadata": metadata,
        });
        format!("{event}\n")
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
    if end != End::Succeeded {
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
            flakiness: 7,
            signal: 0,
            errno: 0,
            message: c"why".into(),
            summary: Default::default(),
            run_dir: Default::default(),
            workers: Vec::new(),
            root_cause: None,
            failures: Vec::new(),
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
            let line = origin.agent_ended(&report(end, restarts), 5);
            let event: Value = serde_json::from_str(&line).unwrap();
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
        let line = Origin::new(&spec, b"job\n", b"node").worker_started(&crate::ranks::single(2)[1], 42, 3);
        assert_eq!(line.matches('\n').count(), 1);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["name"], "torchelastic.worker.status.STARTED");
        assert_eq!(
            (&event["metadata"]["global_rank"], &event["metadata"]["worker_id"]),
            (&1.into(), &42.into())
        );
        assert_eq!(event["metadata"]["run_id"], "job\n");
        assert!(event["timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    }
}
