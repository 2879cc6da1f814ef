//! The result for people: how the run ended, the root cause first, those the agent stopped last.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::{Cause, End, Outcome, RunReport, WorkerReport, how};
use crate::shown::{on_one_line, shown};
use crate::spec::names::Signal;

/// How many workers of one kind are listed before the rest is only counted.
const LISTED: usize = 16;
/// How many lines of a stack are shown.
const SHOWN: usize = 60;

pub fn text(report: &RunReport) -> String {
    shown(&written(report)).into_owned()
}

fn written(report: &RunReport) -> String {
    let mut out = String::new();
    let restarts = match report.restarts {
        0 => String::new(),
        1 => ", 1 restart".into(),
        n => format!(", {n} restarts"),
    };
    let count = report.workers.len();
    let what = match report.end {
        End::Succeeded => plural(count, "worker").into(),
        End::NotNeeded => "the job has succeeded without this node".into(),
        _ => report.message.to_string_lossy(),
    };
    let _ = writeln!(out, "{}: {what}{restarts}", report.end.name());
    if let Some(saved) = report.saved.filter(|_| report.end == End::Interrupted) {
        let at = saved.step.map_or(String::new(), |step| format!(", at step {step}"));
        let _ = writeln!(out, "  saved: all ranks{at}");
    }
    if report.end.is_good() {
        for failure in &report.failures {
            let _ = writeln!(out, "  attempt {} failed: {}", failure.attempt, line(failure));
        }
        left_behind(&mut out, report);
        return out;
    }
    let mut order: Vec<(usize, &WorkerReport)> = report.workers.iter().enumerate().collect();
    order.sort_by_key(|(index, worker)| {
        (Some(*index) != report.root_cause, place(worker.cause), worker.order.unwrap_or(usize::MAX))
    });
    let mut listed = [0usize; 7];
    for (index, worker) in order {
        if worker.cause == Cause::Success {
            continue;
        }
        let seen = &mut listed[place(worker.cause)];
        *seen += 1;
        if *seen > LISTED {
            continue;
        }
        if Some(index) == report.root_cause {
            let _ = writeln!(out, "  root cause: {}", line(worker));
            details(&mut out, worker);
        } else {
            let _ = writeln!(out, "  {}", line(worker));
        }
    }
    let hidden: usize = listed.iter().map(|seen| seen.saturating_sub(LISTED)).sum();
    if hidden > 0 {
        let _ = writeln!(out, "  ... and {}", plural(hidden, "more worker"));
    }
    left_behind(&mut out, report);
    if !report.run_dir.is_empty() {
        let _ = writeln!(out, "  files: {}", report.run_dir.to_string_lossy());
    }
    out
}

fn left_behind(out: &mut String, report: &RunReport) {
    for process in &report.left {
        let _ = writeln!(out, "  left behind: {process}");
    }
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Those that were stuck first, then own failures, then what the agent could not end or tell, stopped workers last.
fn place(cause: Cause) -> usize {
    match cause {
        Cause::TimedOut => 0,
        Cause::OwnFailure => 1,
        Cause::Lost => 2,
        Cause::Stuck => 3,
        Cause::NeverStarted => 4,
        Cause::Success => 5,
        Cause::StoppedByAgent => 6,
    }
}

/// One worker on one line.
pub fn line(worker: &WorkerReport) -> String {
    let mut out = format!("rank {} (local rank {}", worker.rank.global, worker.rank.local);
    if worker.pid != 0 {
        let _ = write!(out, ", pid {}", worker.pid);
    }
    out.push_str("): ");
    match worker.cause {
        Cause::StoppedByAgent => {
            let how = match worker.outcome {
                Outcome::Signaled { signal, .. } => Signal(signal).to_string(),
                _ => format!("exit code {}", worker.exit_code()),
            };
            let _ = write!(out, "stopped by the agent, {how}");
        }
        _ => {
            // What a worker has to say of itself does not tell how it ended.
            let how = if worker.error_data.is_some() { how(worker.outcome) } else { String::new() };
            let message = worker.message.to_string_lossy();
            let said = message.lines().next().unwrap_or("");
            let said = if said.is_empty() && worker.outcome == Outcome::NeverStarted {
                "never started"
            } else {
                said
            };
            let colon = if how.is_empty() || said.is_empty() { "" } else { ": " };
            let _ = write!(out, "{how}{colon}{said}");
        }
    }
    if worker.end_ns > 0 && worker.start_ns > 0 {
        let _ = write!(out, ", after {:.3} s", (worker.end_ns - worker.start_ns) as f64 / 1e9);
    }
    on_one_line(&out)
}

/// ISO 8601, of UTC.
fn time(unix_ns: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(unix_ns.max(0) as u64);
    humantime::format_rfc3339_millis(time).to_string()
}

fn details(out: &mut String, worker: &WorkerReport) {
    let message = worker.message.to_string_lossy();
    for text in [message.split_once('\n').map_or("", |(_, rest)| rest), &worker.call_stack.to_string_lossy()]
    {
        for line in text.lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    if worker.end_unix_ns > 0 {
        let _ = writeln!(out, "    time: {}", time(worker.end_unix_ns));
    }
    let _ = writeln!(out, "    host: {}", worker.hostname.to_string_lossy());
    let code = worker.exit_code();
    let _ = match worker.outcome {
        Outcome::Exited { .. } => writeln!(out, "    exit code: {code}"),
        Outcome::Signaled { signal, .. } => writeln!(out, "    exit code: {code} ({})", Signal(signal)),
        _ => Ok(()),
    };
    let stack = worker.stack.to_string_lossy();
    if !stack.is_empty() {
        let _ = writeln!(out, "    where it was:");
        for line in stack.lines().take(SHOWN) {
            let _ = writeln!(out, "    | {line}");
        }
        match stack.lines().count().saturating_sub(SHOWN) {
            0 => {}
            hidden => drop(writeln!(out, "    | ... and {}", plural(hidden, "more line"))),
        }
    }
    let file = worker.error_file.to_string_lossy();
    let _ = writeln!(out, "    error file: {}", if file.is_empty() { "<N/A>" } else { &file });
    for (name, path) in [("stdout", &worker.stdout_log), ("stderr", &worker.stderr_log)] {
        if !path.is_empty() {
            let _ = writeln!(out, "    {name}: {}", path.to_string_lossy());
        }
    }
    let tail = worker.stderr_tail.strip_suffix(b"\0").unwrap_or(&worker.stderr_tail);
    if !tail.is_empty() {
        let _ = writeln!(out, "    last lines of stderr:");
        for line in String::from_utf8_lossy(tail).lines() {
            let _ = writeln!(out, "    | {line}");
        }
    }
}
