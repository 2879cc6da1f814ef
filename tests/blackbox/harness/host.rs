//! A host process, as a test describes it before it starts.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::*;
use crate::terminal::Terminal;

pub struct Host<'a> {
    pub(super) case: &'a Case,
    pub(super) steps: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
    pub(super) removed: Vec<String>,
    pub(super) wrapper: Vec<String>,
    pub(super) path: PathBuf,
    pub(super) stdin: Vec<u8>,
    pub(super) stdout: Option<Stdio>,
    pub(super) terminal: Option<[Stdio; 3]>,
    pub(super) limit: Duration,
}

impl<'a> Host<'a> {
    /// One step of host.c, in order.
    pub fn step(mut self, step: impl AsRef<OsStr>) -> Self {
        self.steps.push(step.as_ref().to_os_string());
        self
    }

    pub fn steps(self, steps: &[&str]) -> Self {
        steps.iter().fold(self, |host, step| host.step(step))
    }

    /// A field of the spec (or any other `KEY=VALUE` step).
    pub fn set(self, field: &str, value: impl std::fmt::Display) -> Self {
        self.step(format!("{field}={value}"))
    }

    /// The probe as the worker, with these verbs.
    pub fn probe(self, verbs: &[&str]) -> Self {
        let host = self.set("program", probe().display());
        verbs.iter().fold(host, |host, verb| host.set("arg", verb))
    }

    /// A callback as the worker that does these verbs.
    pub fn callback(self, verbs: &[&str]) -> Self {
        let host = self.step("callback=");
        verbs.iter().fold(host, |host, verb| host.set("verb", verb))
    }

    /// A function as the worker that does these verbs, and those behind a `--` as its warm-up.
    pub fn function(self, way: Way, verbs: &[&str]) -> Self {
        let host = match way {
            Way::Fork => return self.callback(verbs),
            _ if way.is_of_library() => self.set("library", program("libverbs.so").display()),
            _ => self,
        };
        let host = host.set("function", "verbs").set("start_method", way.method());
        verbs.iter().fold(host, |host, verb| host.set("verb", verb))
    }

    /// The probe or a function: for what must hold for both.
    pub fn worker(self, kind: impl Into<Kind>, verbs: &[&str]) -> Self {
        match kind.into() {
            Kind::Program => self.probe(verbs),
            Kind::Function(way) => self.function(way, verbs),
        }
    }

    /// The same with the verbs of control.h, with a page to talk to the agent.
    pub fn controlled(self, kind: impl Into<Kind>, verbs: &[&str]) -> Self {
        let host = self.set("control", 1);
        match kind.into() {
            Kind::Program => {
                let host = host.set("program", program("controlled").display());
                verbs.iter().fold(host, |host, verb| host.set("arg", verb))
            }
            Kind::Function(way) => host.function(way, verbs),
        }
    }

    /// A variable in the host's environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    pub fn env_remove(mut self, key: &str) -> Self {
        self.removed.push(key.into());
        self
    }

    /// Another file as the host: a copy, say, or a relative path.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// A program that runs the host, `["setsid"]` for instance.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| word.to_string()).collect();
        self
    }

    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    /// The host's stdout instead of a file that `Run::stdout` holds.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = Some(stdout);
        self
    }

    /// In the foreground of a terminal.
    pub fn on(mut self, terminal: &Terminal) -> Self {
        self.terminal = Some([(); 3].map(|()| terminal.stream()));
        self.under(&["setsid", "--ctty"])
    }

    /// Another limit for the host's life than `HOST_LIMIT`.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub fn run(self) -> Run {
        self.spawn().finish()
    }

    pub fn spawn(self) -> Running {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.case.dir.join(format!("host{number}.{name}"));
        let mut words: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        words.push(self.path.into());
        words.push(file("lines").into());
        words.extend(self.steps);
        let mut command = self.case.command(&words[0]);
        command.args(&words[1..]);
        command.envs(self.env).stdin(Stdio::null());
        for key in &self.removed {
            command.env_remove(key);
        }
        if !self.stdin.is_empty() {
            fs::write(file("in"), &self.stdin).expect("stdin");
            command.stdin(fs::File::open(file("in")).expect("stdin"));
        }
        // Files, not pipes: what a worker leaves behind must not hold the test up.
        command.stdout(self.stdout.unwrap_or_else(|| fs::File::create(file("out")).expect("stdout").into()));
        command.stderr(fs::File::create(file("err")).expect("stderr"));
        if let Some([stdin, stdout, stderr]) = self.terminal {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        let started = Instant::now();
        let child = spawned(&mut command);
        let base = self.case.dir.join(format!("host{number}"));
        Running {
            child,
            base,
            tag: self.case.tag.clone(),
            tmp: self.case.tmp(),
            started,
            limit: self.limit,
            done: false,
        }
    }
}
