//! The dispatcher's way through the start of an attempt: what each part has to make first, then the births. While
//! something is waited for, requests are taken: a stop ends a start at any point.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::Run;
use super::births::{Births, Next};
use super::context::Context;
use super::fork_server::{Birth, Patience, Warmth};
use super::group::Group;
use super::job::job;
use super::timeline::stage;
use super::wake::Wake;
use crate::agent::binding;
use crate::device::numa::Share;
use crate::error::Error;
use crate::logs::follow::Stream;
use crate::logs::relay::Tap;
use crate::logs::run_dir::{RunDir, WorkerFiles};
use crate::plan::{self, Job, Plan};
use crate::probe::{Probe, Request};
use crate::process::descent::Mark;
use crate::process::launch;
use crate::process::start;
use crate::ranks::Rank;
use crate::report::event::Stage;
use crate::report::{GroupState, Outcome};
use crate::shown::on_one_line;
use crate::spec::Level;
use crate::spec::streams::Streams;
use crate::supervise::Event;
use crate::sys::child::Child;
use crate::sys::dispositions::{self, Reset};
use crate::sys::process::monotonic;
use crate::sys::{limits, terminal};

impl Run<'_> {
    pub(super) fn start(&mut self, number: u32) {
        self.look_at_waits();
        let size = self.context.spec.local_world_size;
        self.context.log(Level::Info, || format!("attempt {number}: starting {size} workers"));
        self.group.begin(number);
        self.control.forget_restart_wish();
        self.error = None;
        self.files.begin();
        self.timeline.begin_attempt();
        self.timeline.publish(&self.context, GroupState::Init, self.supervisor.attempt());
        match self.start_workers(number) {
            Ok(()) if self.is_starting(number) => {
                self.tell(Event::Started);
                self.watchers.start_second(&self.context, &mut self.descendants);
                self.timeline.started(&self.context, number);
                if self.supervisor.is_running() {
                    self.timeline.publish(&self.context, GroupState::Healthy, self.supervisor.attempt());
                    self.control.listen(&self.context);
                    self.converse();
                }
            }
            Ok(()) => {}
            Err(error) => {
                let text = error.to_string();
                self.timeline.not_started(&self.context, number, &text);
                self.start_failed(error);
                let level = if self.supervisor.goes_on() { Level::Warning } else { Level::Error };
                self.context.log(level, || text);
                // Workers that nobody listens for any more are not to be born.
                if self.server.births() > 0 {
                    self.server_gone();
                }
            }
        }
    }

    /// Whether this attempt may go on to start workers. The next one may be due already: its fork server is
    /// gone, and no worker was there to be stopped.
    fn is_starting(&self, number: u32) -> bool {
        self.supervisor.is_starting() && self.supervisor.attempt() == number
    }

    /// Starts workers until all run, one cannot be started, or a stop comes in between.
    fn start_workers(&mut self, number: u32) -> Result<(), Error> {
        self.take_requests();
        if !self.is_starting(number) {
            return Ok(());
        }
        if let Some(error) = self.membership.take_store_error() {
            return Err(error);
        }
        let (spec, settled) = (self.context.spec, self.context.settled);
        let method = start::of(spec);
        method.check_process()?;
        if method.has_server() {
            self.start_server()?;
        }
        if !self.supervisor.is_first_attempt() && self.is_starting(number) {
            self.look_at_devices(number)?;
        }
        if !self.is_starting(number) {
            return Ok(());
        }
        self.files.make_attempt(&self.context, &self.supervisor, number)?;
        self.name_run_dir();
        let assigning = Some(monotonic());
        let job = self.make_job(number)?;
        let shares = shares_of_cpus(&self.context, &self.group)?;
        let plan = Plan::new(spec, &settled.devices, job, &self.context.host.env, shares);
        stage(&self.context, Stage::Assign, number, assigning, None);
        self.control.open(&self.context, &self.group, self.supervisor.job_restarts())?;
        let page = self.control.page();
        if let Some(server) = self.server.get() {
            let mark = self.descendants.mark().and_then(Mark::page);
            self.launcher.prepare_server(server, &plan, page, mark)?;
        }
        check_descriptors(&self.context)?;
        let shield = dispositions::set_of(spec.shield());
        if let Some(page) = page {
            page.shield().store(shield, Ordering::Release);
        }
        // What comes before may take its time.
        self.standstill.begin(monotonic());
        // A fork server's workers are none of ours.
        let reset = if self.server.is_there() { Reset::nothing() } else { Reset::for_children() };
        let reset = reset.ignoring_all(shield);
        let mut births = Births::of(self.group.ranks().len());
        loop {
            match births.next(self.server.births(), self.context.inbox.has_requests()) {
                Next::Requests => self.take_requests(),
                Next::Await { left } => self.await_births(&plan, number, left)?,
                Next::Begin(index) if self.is_starting(number) => {
                    let started = self.start_worker(&plan, reset, number, index);
                    self.or_start_failed(index, started)?;
                }
                Next::Begin(_) | Next::Done => return Ok(()),
            }
        }
    }

    /// What is the same for all workers of the attempt.
    fn make_job(&mut self, number: u32) -> Result<Job, Error> {
        let context = &self.context;
        let meeting = self.membership.meeting(context);
        if meeting.is_none() {
            self.port.take(context)?;
        }
        let attempt = (number, !self.supervisor.is_first_attempt());
        let timer_file = self.stuck.begin(context, &self.files, &self.watchers, attempt)?;
        let about = (context.spec, &context.settled.checked);
        let (run_id, restarts) = (context.run_id.clone(), self.supervisor.restarts());
        let job = job(about, run_id, self.port.number(), restarts, meeting, timer_file);
        self.stuck.know(context, &job);
        Ok(Job { descent: self.descendants.marks(context, Mark::of_worker), ..job })
    }

    /// Starts the fork server if there is none, and waits until it is warm. A stop ends the wait: then
    /// there is none, and no error.
    pub(super) fn start_server(&mut self) -> Result<(), Error> {
        let (context, descendants) = (&self.context, &mut self.descendants);
        if !self.server.start(context, &mut self.launcher, &self.watchers, descendants)? {
            return Ok(());
        }
        loop {
            match self.server.warm(&self.context, &self.watchers, &mut self.descendants)? {
                Warmth::Warm => return Ok(()),
                Warmth::Requests => self.take_requests(),
            }
            if self.context.inbox.stop_requested().is_some() {
                self.server.call_off(&self.context, &self.watchers);
                return Ok(());
            }
        }
    }

    /// Before a restart: a GPU may have fallen off the bus, and those behind it have other numbers then. A stop
    /// ends the wait.
    fn look_at_devices(&mut self, number: u32) -> Result<(), Error> {
        let (spec, inbox, devices) = (self.context.spec, self.context.inbox, &self.context.settled.devices);
        if !devices.is_of_found_devices() {
            return Ok(());
        }
        let env = plan::probe_env(spec, &self.context.host.env);
        let found = Probe::start(&Request::of(spec, &env)).and_then(|mut probe| {
            while !probe.is_over(Some(inbox.as_fd()), |text| self.context.log(Level::Warning, || text)) {
                self.take_requests();
                if !self.is_starting(number) {
                    break;
                }
            }
            probe.finish()
        });
        match found {
            Ok(found) => return devices.compare(&found.list),
            Err(error) if self.is_starting(number) => self.context.log(Level::Warning, || {
                format!("the GPUs could not be looked at before the restart: {error}")
            }),
            Err(_) => {}
        }
        Ok(())
    }

    fn start_worker(&mut self, plan: &Plan, reset: Reset, number: u32, index: usize) -> Result<(), Error> {
        let (spec, rank) = (self.context.spec, self.group.ranks()[index]);
        let files = self.files.make_worker(&self.context, &self.supervisor, number, index)?;
        let group = self.watchers.slot(index);
        let birth = launch::Birth {
            rank: &rank,
            restarts: self.supervisor.restarts(),
            run_dir: self.files.run_dir(),
            files: &files,
            reset,
            group,
            server: self.server.get(),
            page: self.control.page(),
            terminal: self.debuggers.terminal_for(&self.context, index),
            mark: self.descendants.mark().and_then(Mark::page),
        };
        let born = self.launcher.launch(spec, plan, birth).inspect_err(|_| {
            files.remove_empty();
            if let Some(group) = group {
                group.store(0, Ordering::Release);
            }
        })?;
        let Some(attempt) = self.group.attempt_mut() else { return Ok(()) };
        attempt.workers[index].files = files;
        attempt.workers[index].channel = born.channel;
        if spec.log_through_agent {
            self.follow(plan, number, index, &born.taps)?;
            for tap in born.taps {
                let relayed = self.context.output.relay(number, tap);
                relayed.map_err(|errno| Error::system("cannot pass output on", errno as i32))?;
            }
        }
        match born.child {
            Some(child) => self.born(plan, number, index, child),
            None => Ok(()), // the server is to tell
        }
    }

    /// Notes why this worker could not be started.
    fn or_start_failed(&mut self, index: usize, started: Result<(), Error>) -> Result<(), Error> {
        if let (Err(error), Some(attempt)) = (&started, self.group.attempt_mut()) {
            attempt.workers[index].start_failure = Some(error.to_string());
        }
        started
    }

    /// A worker is there: watches it from now on.
    fn born(&mut self, plan: &Plan, number: u32, index: usize, child: Child) -> Result<(), Error> {
        let Some(attempt) = self.group.attempt_mut() else { return Ok(()) };
        let (pid, by_server) = (child.pid, self.server.is_there());
        attempt.born(index, child, by_server);
        self.control.worker_born(index);
        self.tell(Event::Born);
        let pidfd = self.group.attempt().and_then(|attempt| attempt.pidfd(index));
        if let (false, Some(pidfd)) = (by_server, pidfd) {
            let watched = self.context.poll.add(pidfd, Wake::Worker(index));
            watched.map_err(|errno| Error::system("cannot watch a worker", errno as i32))?;
        }
        let rank = &self.group.ranks()[index];
        self.context.log(Level::Debug, || format!("rank {} is PID {pid}", rank.global));
        self.context.event(|origin| Some(origin.worker_started(rank, pid, number)));
        self.context.show_worker(index, pid, Outcome::Running);
        let time = self.debuggers.hand_terminal(&self.context, &self.group);
        self.keep_time(time);
        if self.context.spec.log_through_agent { Ok(()) } else { self.follow(plan, number, index, &[]) }
    }

    /// Waits until no more than `left` births are under way at the fork server.
    fn await_births(&mut self, plan: &Plan, number: u32, left: usize) -> Result<(), Error> {
        let mut patience = Patience::new();
        loop {
            match self.server.next_birth(&self.context, left, &mut patience) {
                Birth::Enough => return Ok(()),
                Birth::Born { slot, child } => self.born(plan, number, slot, child)?,
                Birth::NotBorn { slot, errno } => {
                    let failed = Err(Error::system("the fork server cannot fork a worker", errno));
                    return self.or_start_failed(slot, failed);
                }
                Birth::Gone => {
                    self.server_gone();
                    return Ok(());
                }
            }
        }
    }

    /// Has the worker's streams followed to the console or the host, if that is wanted.
    fn follow(&self, plan: &Plan, number: u32, index: usize, taps: &[Tap]) -> Result<(), Error> {
        let (Some(attempt), Some(run_dir)) = (self.group.attempt(), self.files.run_dir()) else {
            return Ok(());
        };
        let worker = &attempt.workers[index];
        for stream in streams(&self.context, plan, (number, &worker.rank), (run_dir, &worker.files), taps) {
            let followed = self.context.output.follow(stream);
            followed.map_err(|errno| Error::system("cannot start the output thread", errno as i32))?;
        }
        Ok(())
    }
}

/// The streams of a worker that are followed.
fn streams(
    context: &Context,
    plan: &Plan,
    (number, rank): (u32, &Rank),
    (run_dir, files): (&RunDir, &WorkerFiles),
    taps: &[Tap],
) -> Vec<Stream> {
    let spec = context.spec;
    let shown = spec.console_streams(rank.local);
    let streams = [
        (Streams::STDOUT, &files.stdout, &spec.stdout_filters, "filtered_stdout.log"),
        (Streams::STDERR, &files.stderr, &spec.stderr_filters, "filtered_stderr.log"),
    ];
    let mut followed = Vec::new();
    for (which, path, filters, filtered) in streams {
        let Some(path) = path else { continue };
        let to_console = shown.has(which);
        if !to_console && filters.is_empty() {
            continue;
        }
        let prefix = plan.macros(rank).expand(&context.settled.checked.log_prefix_template);
        let (out, err) = spec.console;
        let is_seen = to_console && terminal::is_terminal(if which == Streams::STDOUT { out } else { err });
        followed.push(Stream {
            local_rank: rank.local,
            attempt: number,
            which,
            path: path.clone(),
            prefix: if is_seen {
                on_one_line(&String::from_utf8_lossy(&prefix)).into_bytes()
            } else {
                prefix
            },
            to_console,
            filtered: (!filters.is_empty()).then(|| run_dir.attempt_dir(number).join(filtered)),
            spills: taps.iter().find(|tap| tap.which == which).map(|tap| tap.spills.clone()),
        });
    }
    followed
}

/// Better now than half way.
fn check_descriptors(context: &Context) -> Result<(), Error> {
    let Some((open, allowed)) = limits::open_and_allowed() else { return Ok(()) };
    let needed = context.spec.descriptors();
    if (open + needed) as u64 <= allowed {
        return Ok(());
    }
    let what = format!(
        "{} workers need {needed} descriptors more than the {open} that are open, RLIMIT_NOFILE is {allowed}: raise it \
         (ulimit -n), or have fewer workers or fewer streams tee'd",
        context.spec.local_world_size
    );
    Err(Error::system(what, Errno::EMFILE as i32))
}

/// For each attempt anew: what the agent may use may have changed.
fn shares_of_cpus(context: &Context, group: &Group) -> Result<Vec<Share>, Error> {
    let shares = binding::shares(context.spec, &context.settled.devices)?;
    for (rank, Share { cpus, cores }) in group.ranks().iter().zip(&shares) {
        context.log(Level::Debug, || {
            format!("rank {} is for CPUs {cpus}, physical cores: {cores}", rank.global)
        });
    }
    Ok(shares)
}
