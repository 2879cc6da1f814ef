//! What a host left when it was gone.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::*;

/// What a host left: its exit status, its console, and the lines it wrote.
pub struct Run {
    pub status: ExitStatus,
    pub wall: Duration,
    /// How long its end was waited for, counted in looks.
    pub(super) waited: Duration,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub lines: Vec<Value>,
    pub(super) case: std::mem::ManuallyDrop<Case>,
}

impl Run {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn events(&self, step: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["do"] == step).collect()
    }

    /// The last line of a step.
    #[track_caller]
    pub fn event(&self, step: &str) -> &Value {
        self.events(step).pop().unwrap_or_else(|| panic!("no line of step {step}: {self}"))
    }

    /// The last result that the host was given.
    #[track_caller]
    pub fn result(&self) -> &Value {
        let with = self.lines.iter().rev().find(|line| line["result"].is_object());
        &with.unwrap_or_else(|| panic!("no result: {self}"))["result"]
    }

    #[track_caller]
    pub fn worker(&self, local_rank: usize) -> &Value {
        &self.result()["workers"][local_rank]
    }

    /// The end did not take longer than this, once it was waited for.
    #[track_caller]
    pub fn within(&self, limit: Duration) -> &Self {
        assert!(
            self.waited < limit,
            "it took {:?} to end ({:?} by the clock): {self}",
            self.waited,
            self.wall
        );
        self
    }

    #[track_caller]
    pub fn clean(&self) -> &Self {
        self.unclean().unwrap_or_else(|what| panic!("{what}: {self}"));
        self
    }

    /// The host ended well and left nothing: descriptors, threads, children, signals, processes, files.
    pub fn unclean(&self) -> Result<(), String> {
        if !self.status.success() {
            return Err(format!("the host ended with {:?}", self.status));
        }
        let (before, after) = (self.event("before"), self.event("after"));
        for what in ["fds", "threads", "children", "signals"] {
            if before[what] != after[what] {
                return Err(format!("{what} were {} before the run, {} after it", before[what], after[what]));
            }
        }
        self.case.left()
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.result()["end"], END_SUCCEEDED, "{self}");
        assert_eq!(self.result()["is_failed"], 0);
        assert_eq!(self.result()["message"], "");
        self.clean()
    }

    /// The run ended in this class, with that failed state, and left nothing.
    #[track_caller]
    pub fn failed_as(&self, end: i32) -> &Self {
        assert_eq!(self.result()["end"], end, "{self}");
        assert_eq!(self.result()["is_failed"], 1);
        assert_ne!(self.result()["message"], "");
        self.clean()
    }

    /// The spec was refused with a message that has all these parts, and nothing was started.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) -> &Self {
        let new = self.event("new");
        assert_eq!(new["status"], "ICE_ERROR_CONFIG", "{self}");
        let message = new["message"].as_str().expect("a message");
        for part in parts {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(!message.contains('\n'), "one line: {message}");
        assert!(self.lines.iter().all(|line| line["result"].is_null()), "{self}");
        self.clean()
    }

    pub fn exit_code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn exit_signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "host {:?} after {:?}", self.status, self.wall)?;
        for line in &self.lines {
            let text = line.to_string();
            writeln!(f, "  {}", &text[..text.char_indices().nth(3000).map_or(text.len(), |(at, _)| at)])?;
        }
        write!(f, "stdout: {}\nstderr: {}", cut(&self.out()), cut(&self.err()))
    }
}

fn cut(text: &str) -> &str {
    &text[..text.char_indices().nth(2000).map_or(text.len(), |(at, _)| at)]
}
