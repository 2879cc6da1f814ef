//! From a dead worker and its files to its report.

use std::path::Path;

use crate::error::c_string_lossy;
use crate::process::attempt::Worker;
use crate::report::oom::OomKills;
use crate::report::{Cause, Outcome, WorkerReport, error_file, message_of, stuck_text};
use crate::spec::Spec;
use crate::spec::names::hostname;
use crate::sys::file::{self, Unusable};
use crate::sys::process::Usage;

/// Makes reports of dead workers.
pub struct Reporter<'a> {
    pub spec: &'a Spec,
    pub oom: Option<&'a OomKills>,
    /// How the fork server of the attempt ended, if it did so by itself.
    pub server_end: Option<&'a str>,
}

impl Reporter<'_> {
    pub fn bare(worker: &Worker, attempt: u32) -> WorkerReport {
        let ended = worker.ended;
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_ref().map_or_else(Default::default, |path| c_string_lossy(path_bytes(path)))
        };
        WorkerReport {
            rank: worker.rank,
            pid: worker.pid,
            outcome: worker.outcome(),
            cause: worker.cause(),
            start_failed: worker.start_failure.is_some(),
            likely_oom: false,
            order: ended.and_then(|ended| ended.order),
            attempt,
            start_ns: worker.start_ns,
            end_ns: ended.map_or(0, |ended| ended.end_ns),
            end_unix_ns: ended.map_or(0, |ended| ended.end_unix_ns),
            usage: ended.map_or_else(Usage::default, |ended| ended.usage),
            value: None,
            message: Default::default(),
            call_stack: Default::default(),
            error_timestamp: 0,
            error_data: None,
            error_file: Default::default(),
            stderr_tail: vec![0],
            stdout_log: path(&worker.files.stdout),
            stderr_log: path(&worker.files.stderr),
            stack: c_string_lossy(worker.stack.as_bytes()),
            hostname: c_string_lossy(&hostname()),
        }
    }

    pub fn report(&self, worker: &Worker, attempt: u32, succeeded: bool) -> WorkerReport {
        let mut report = Self::bare(worker, attempt);
        if report.cause == Cause::Success {
            if let (true, Some(channel)) = (succeeded, &worker.channel) {
                match channel.value() {
                    Ok(value) => report.value = value,
                    Err(errno) => {
                        let text = format!("the value cannot be mapped: {}", errno.desc());
                        report.message = c_string_lossy(text.as_bytes());
                    }
                }
            }
            return report;
        }
        report.likely_oom = report.cause == Cause::OwnFailure
            && report.signal() == libc::SIGKILL
            && self.oom.is_some_and(OomKills::any);
        let mut text = match &worker.value_fault {
            Some(fault) if report.outcome == (Outcome::Exited { code: 0 }) => fault.clone(),
            _ => message_of(report.outcome, report.cause, report.pid, report.likely_oom),
        };
        if let (true, Some(end)) = (worker.orphaned, self.server_end) {
            text = format!("{text}: {end}, and its workers go with it");
        }
        if report.outcome == Outcome::Stuck {
            text = stuck_text(report.pid, worker.unsignallable);
        }
        if let (Cause::NeverStarted, Some(why)) = (report.cause, &worker.start_failure) {
            text = why.clone();
        }
        let written = worker.files.error.as_ref().filter(|_| worker.pid != 0);
        let contents = written.map_or(Ok(None), |path| error_file::read(path));
        if let Err(unusable) = &contents {
            text = format!("{text} (its error file {unusable}: not read)");
        }
        report.message = c_string_lossy(text.as_bytes());
        if let (Ok(Some(contents)), Some(path)) = (contents, written) {
            if !contents.message.is_empty() {
                report.message = c_string_lossy(contents.message.as_bytes());
            }
            report.call_stack = c_string_lossy(contents.call_stack.as_bytes());
            report.error_timestamp = contents.timestamp;
            report.error_data = Some(contents.raw);
            report.error_file = c_string_lossy(path_bytes(path));
        }
        if let Some(verdict) = &worker.verdict {
            // Whatever it had to say itself, this is why it had to end.
            let text = [verdict.as_bytes(), b"; ", report.message.to_bytes()].concat();
            report.message = c_string_lossy(&text);
        }
        if report.cause != Cause::StoppedByAgent {
            let file = if self.spec.merge_stderr { &worker.files.stdout } else { &worker.files.stderr };
            if let Some(path) = file {
                report.stderr_tail = tail(path, self.spec.stderr_tail).unwrap_or_default();
                report.stderr_tail.push(0);
            }
        }
        report
    }
}

/// The last `bytes` of a worker's log, from the start of a line.
fn tail(path: &Path, bytes: usize) -> Result<Vec<u8>, Unusable> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file::open(path, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(bytes as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(bytes as u64).read_to_end(&mut tail)?;
    if from > 0
        && let Some(end) = tail.iter().position(|&byte| byte == b'\n')
        && end + 1 < tail.len()
    {
        tail.drain(..=end);
    }
    Ok(tail)
}

pub fn path_bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}
