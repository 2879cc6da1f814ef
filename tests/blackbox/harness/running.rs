//! A host process while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

/// A host that runs.
pub struct Running {
    pub(super) child: Child,
    pub(super) base: PathBuf,
    pub(super) tag: String,
    pub(super) tmp: PathBuf,
    pub(super) started: Instant,
    pub(super) limit: Duration,
    pub(super) done: bool,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        assert!(send(self.pid(), signal), "the host is gone");
    }

    /// The lines that the host has written up to now.
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.base)
    }

    /// What the host's console shows up to now.
    pub fn out_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.base.with_extension("out")).unwrap_or_default()).into_owned()
    }

    /// Waits until the host has written a line of this step.
    pub fn wait_event(&self, step: &str) -> Value {
        let find = || self.events().into_iter().find(|event| event["do"] == step);
        wait_for(&format!("the host's step {step}"), || find().is_some());
        find().expect("just seen")
    }

    /// Waits for the end of the host, which must come within its limit.
    pub fn finish(self) -> Run {
        let (limit, base) = (self.limit, self.base.clone());
        let (run, stood) = self.finish_or_kill();
        if let Some(stood) = stood {
            let lines = fs::read_to_string(base.with_extension("lines")).unwrap_or_default();
            panic!("the host still runs after {limit:?}: {stood}; its lines:\n{lines}");
        }
        run
    }

    /// Waits for the end of the host; if it takes longer than its limit it is killed, and the processes of the case
    /// are described as they were then.
    pub fn finish_or_kill(mut self) -> (Run, Option<String>) {
        let (mut stood, mut looks) = (None, 0);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the host") {
                break status;
            }
            if LOOK * looks > self.limit && stood.is_none() {
                let processes = processes_of(&self.tag);
                stood = Some(processes.iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join("; "));
                self.child.kill().expect("kill the host");
            }
            thread::sleep(LOOK);
            looks += 1;
        };
        self.done = true;
        let run = Run {
            status,
            wall: self.started.elapsed(),
            waited: LOOK * looks,
            stdout: fs::read(self.base.with_extension("out")).unwrap_or_default(),
            stderr: fs::read(self.base.with_extension("err")).unwrap_or_default(),
            lines: read_events(&self.base),
            case: Case { dir: self.tmp.parent().expect("the case").to_path_buf(), tag: self.tag.clone() }
                .quiet(),
        };
        (run, stood)
    }

    /// Kills the host with SIGKILL and waits for it.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the host");
        self.child.wait().expect("wait for the host");
        self.done = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(super) fn read_events(base: &Path) -> Vec<Value> {
    let text = fs::read_to_string(base.with_extension("lines")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
