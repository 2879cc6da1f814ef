//! The fork server, in its own process: it warms up once, then forks a worker for each request, tells the
//! agent how each one ends, and keeps the dead until it is told to reap them, so that no number of a
//! process group is given to anybody else meanwhile. It dies with the agent's thread, and its workers
//! with it.

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::client::{BIRTHS_AT_ONCE, WHOLE_ENVIRONMENT};
use super::wire::{ServerAnswer, ServerRequest};
use crate::control::page::Page;
use crate::control::worker::Control;
use crate::device::cpus::Cpus;
use crate::process::channel::{Strings, WorkerEnd};
use crate::process::function::{self, NOT_STARTED, Order, Surroundings, WorkerSide};
use crate::process::watcher;
use crate::spec::Callback;
use crate::sys::affinity::Mask;
use crate::sys::child::{self, Child, Environment, Function, Setup, Step};
use crate::sys::dispositions::{self, Reset};
use crate::sys::limits;
use crate::sys::packets::{Descriptors, Packets};
use crate::sys::process::{self, Waited};

const SOCKET: u64 = u64::MAX;

/// The server's life; returns its exit code when the agent is gone.
pub fn serve(
    (function, warm_up): (Callback, Option<Callback>),
    end: WorkerEnd,
    argument: Option<&'static [u8]>,
    order: &Order,
    socket: Packets,
    groups: OwnedFd,
) -> i32 {
    end.enter();
    let side = WorkerSide { rank: None, restarts: 0, argument, end: Some(end), control: Control::default() };
    let refuse = |why: &str| side.end.iter().for_each(|end| end.refuse(why));
    if let Some(warm_up) = warm_up {
        let code = side.call(warm_up);
        if code != 0 {
            let name = order.warm_up.as_deref().unwrap_or_default();
            refuse(&format!("the warm-up function {name:?} returned {code}"));
            return NOT_STARTED;
        }
    }
    child::prepare_children();
    // Each worker costs it a descriptor, as it does the agent; workers get what they are to have.
    let _raised = limits::Raised::to_hard();
    // Whatever is there: the exit statuses of workers are for us to take.
    dispositions::keep_children();
    // Before there are handlers that the workers are to keep.
    let reset = Reset::for_children().defaulting(order.signals.ignored).ignoring_all(order.signals.shield);
    function::prepare_crash_records_of_children(order.crash_records);
    let server = Server {
        function,
        argument,
        crash_records: order.crash_records,
        reset,
        groups: watcher::Table::open(groups).ok(),
        socket,
        common: Strings::default(),
        page: None,
        mark: None,
        environment: Environment::new(std::iter::empty()),
        directory: Ok(()),
        streams: Descriptors::default(),
        workers: Vec::new(),
    };
    match server.run() {
        Ok(()) => 0,
        Err(errno) => {
            refuse(&format!("the fork server cannot go on: {}", errno.desc()));
            NOT_STARTED
        }
    }
}

/// Has this worker run on the CPUs of a list, if there is one.
fn bind(list: &CStr) -> Result<(), Errno> {
    match list.to_str().ok().and_then(Cpus::parse) {
        Some(cpus) if cpus.is_empty() => Ok(()),
        Some(cpus) => Mask::of(cpus.iter()).apply(),
        None => Err(Errno::EBADMSG),
    }
}

struct Worker {
    slot: usize,
    child: Child,
    ended: bool,
}

struct Server {
    function: Callback,
    argument: Option<&'static [u8]>,
    crash_records: bool,
    reset: Reset,
    /// None where the agent has no watcher.
    groups: Option<watcher::Table>,
    socket: Packets,
    /// The environment that all workers of the attempt have.
    common: Strings,
    /// The page of the attempt: each worker is forked with it mapped.
    page: Option<Arc<Page>>,
    /// What each worker maps.
    mark: Option<OwnedFd>,
    environment: Environment,
    /// Whether this process is in the directory of the workers.
    directory: Result<(), Errno>,
    streams: Descriptors,
    workers: Vec<Worker>,
}

impl Server {
    /// Until the agent's end of the socket is closed.
    fn run(mut self) -> Result<(), Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&self.socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
        self.say(ServerAnswer::Ready, &[])?;
        loop {
            let mut events = [EpollEvent::empty(); 64];
            let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    SOCKET => match self.answer_requests(&epoll) {
                        Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                        answered => answered?,
                    },
                    pid => self.look(&epoll, pid as i32)?,
                }
            }
        }
    }

    fn say(&self, answer: ServerAnswer, descriptors: &[i32]) -> Result<(), Errno> {
        self.socket.send(answer.words(), descriptors)
    }

    fn answer_requests(&mut self, epoll: &Epoll) -> Result<(), Errno> {
        let mut announced = self.workers.len();
        loop {
            let request = self.socket.receive()?;
            // Births are announced together: each message wakes the agent, which has nothing to do but to
            // take the CPU from a worker.
            if request.is_none() || self.workers.len() >= announced + BIRTHS_AT_ONCE / 2 {
                announced = self.announce(epoll, announced)?;
            }
            let Some((words, descriptors)) = request else { return Ok(()) };
            match ServerRequest::read(words) {
                Some(ServerRequest::Common { length }) => {
                    let [Some(file), mark, page, ..] = descriptors else { return Err(Errno::EBADMSG) };
                    self.mark = mark;
                    self.page = page.and_then(|page| Page::open(page.as_raw_fd())).map(Arc::new);
                    self.common = Strings::read(file.as_raw_fd(), length)?;
                    self.prepare();
                }
                Some(ServerRequest::Streams) => self.streams = descriptors,
                Some(ServerRequest::Birth { slot }) => match self.give_birth(slot, &descriptors) {
                    Ok(child) => self.workers.push(Worker { slot, child, ended: false }),
                    Err(errno) => self.say(ServerAnswer::NotBorn { slot, errno: errno as i32 }, &[])?,
                },
                Some(ServerRequest::Reap) => {
                    for worker in self.workers.extract_if(.., |worker| worker.ended) {
                        process::wait(&worker.child.pidfd, true);
                    }
                    announced = self.workers.len();
                    self.say(ServerAnswer::Reaped, &[])?;
                }
                None => return Err(Errno::EBADMSG),
            }
        }
    }

    /// Tells of the workers from this one on, and watches them; how many workers there are.
    fn announce(&self, epoll: &Epoll, from: usize) -> Result<usize, Errno> {
        for Worker { slot, child, .. } in &self.workers[from..] {
            epoll.add(&child.pidfd, EpollEvent::new(EpollFlags::EPOLLIN, child.pid as u64))?;
            self.say(ServerAnswer::Born { slot: *slot, pid: child.pid }, &[child.pidfd.as_raw_fd()])?;
        }
        Ok(self.workers.len())
    }

    /// Does for all workers of an attempt what each would have to do.
    fn prepare(&mut self) {
        let mut strings = self.common.iter();
        let directory = strings.next().unwrap_or_default();
        self.environment = Environment::new(strings);
        self.directory = if directory.is_empty() { Ok(()) } else { nix::unistd::chdir(directory) };
    }

    /// Leaves what it can to the worker: each page that the server writes to between two forks is copied.
    fn give_birth(&self, slot: usize, descriptors: &Descriptors) -> Result<Child, Errno> {
        let ([Some(channel), ..], [Some(stdin), Some(stdout), Some(stderr), _]) =
            (descriptors, &self.streams)
        else {
            return Err(Errno::EBADMSG);
        };
        let setup = Setup {
            stdio: [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()],
            protocol: &[],
            terminal: None,
            working_dir: None,
            reset: self.reset,
            report: None,
            descriptors: limits::of_children(),
            slices: None,
            cpus: None, // see `work`
            group: self.groups.as_ref().map(|groups| groups.slot(slot)),
            process: None,
            mark: self.mark.as_ref().map(AsRawFd::as_raw_fd),
        };
        let keep = channel.as_raw_fd();
        // This process ignores what is meant for its agent: a stop that reaches the worker before it has dispositions
        // of its own is kept for it so, and lost otherwise.
        let _mask = dispositions::block_all_meanwhile();
        child::fork(&setup, Function { env: None, keep, run: &mut || self.work(keep) })
    }

    /// In the new worker.
    fn work(&self, channel: RawFd) -> i32 {
        let Ok(end) = WorkerEnd::open(channel) else { return NOT_STARTED };
        let Ok(own) = end.order() else { return NOT_STARTED };
        if let Err(errno) = self.directory {
            end.report().write(Step::WorkingDir, errno);
            return NOT_STARTED;
        }
        // As long as the process lives, as the server's own strings do.
        let own = ManuallyDrop::new(own);
        let mut strings = own.iter();
        let whole = strings.next() == Some(WHOLE_ENVIRONMENT);
        if let Err(errno) = bind(strings.next().unwrap_or_default()) {
            end.report().write(Step::Affinity, errno);
            return NOT_STARTED;
        }
        self.environment.set(whole, strings);
        let surroundings = Surroundings {
            argument: self.argument,
            crash_records: self.crash_records,
            page: self.page.clone(),
        };
        function::run(self.function, end, surroundings)
    }

    /// Tells how a worker ended, and leaves it a zombie.
    fn look(&mut self, epoll: &Epoll, pid: i32) -> Result<(), Errno> {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.child.pid == pid && !worker.ended)
        else {
            return Ok(());
        };
        let slot = worker.slot;
        let answer = match process::wait(&worker.child.pidfd, false) {
            Waited::Running => return Ok(()),
            Waited::Ended { status, usage, .. } => ServerAnswer::Ended { slot, status, usage },
            Waited::Lost => ServerAnswer::Lost { slot },
        };
        worker.ended = true;
        let _ = epoll.delete(worker.child.pidfd.as_fd());
        self.say(answer, &[])
    }
}
