//! What workers have started, in whatever group or session it is: found while its line of ancestors lives by their
//! lists of children, afterwards as a child of this process where it is a subreaper, else by the mark that it carries.
//!
//! The mark is a variable of the worker's environment, which everything keeps that is executed from there. What a
//! forked worker forks has the environment of the host in /proc, so forked workers have a page mapped too whose name
//! is the mark: a fork keeps it, an exec the variable.

use std::collections::HashSet;
use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;

use crate::spec::variables::DESCENT;
use crate::sys::process::{self, Stat, monotonic};
use crate::sys::{fd, memory, random};

/// How the watchers of an agent are called: who has such a child is an agent's host.
const WATCHERS: [&[u8]; 2] = [b"ice-watcher", b"ice-keeper"];
/// How many descendants of one worker are looked at.
const MOST: usize = 4096;
/// How often it is looked again after somebody was found, who may have forked meanwhile.
const LOOKS: usize = 8;
/// Numbers may have been given out a second time after this long.
const NUMBERS_LAST: Duration = Duration::from_secs(10);
/// Up to how many numbers are tried one by one, before all processes of the machine are looked at.
const TRIED: i32 = 4096;
/// How long a look at the memory of one in uninterruptible sleep may take.
const LOOKS_WITHIN: Duration = Duration::from_millis(100);
/// How much of a command is shown.
const SHOWN: usize = 120;

/// What the processes of one run carry.
pub struct Mark {
    /// 16 characters that no other run has.
    token: String,
    /// The page of forked workers. Never mapped here: forks of the host are none of a worker's.
    page: Option<OwnedFd>,
}

impl Mark {
    /// `forks`: its workers are forked, by this process or by a fork server.
    pub fn new(forks: bool) -> Result<Mark, Errno> {
        let token = format!("{:016x}", u64::from_ne_bytes(random::bytes()?));
        let name = crate::error::c_string_lossy(format!("ice-{token}.worker").as_bytes());
        // Without it the variable has to do.
        let page = if forks { memory::memfd(&name).and_then(fd::above_protocol).ok() } else { None };
        Ok(Mark { token, page })
    }

    /// What both workers and the fork server have.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn of_worker(&self) -> String {
        format!("{}.worker", self.token)
    }

    /// Of a fork server, whose workers' forks show it too.
    pub fn of_server(&self) -> String {
        format!("{}.server", self.token)
    }

    pub fn page(&self) -> Option<RawFd> {
        self.page.as_ref().map(AsRawFd::as_raw_fd)
    }
}

/// The value of ICE_DESCENT: the marks of runs around this one, if there are any, and its own.
pub fn worker_list(outer: Option<&[u8]>, mark: &str) -> Vec<u8> {
    outer.into_iter().chain([mark.as_bytes()]).collect::<Vec<_>>().join(&b':')
}

/// A process by number and start, so that it is never mistaken for another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pub pid: i32,
    started: u64,
}

impl Process {
    pub fn is_there(self) -> bool {
        process::stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.has_ended())
    }

    pub fn signal(self, signal: i32) -> Result<(), Errno> {
        use std::os::fd::AsFd;
        let pidfd = process::pidfd_open(self.pid)?;
        // Asked while the descriptor is held: from here on it means the process that was asked about.
        if self.is_there() { process::signal(pidfd.as_fd(), signal) } else { Err(Errno::ESRCH) }
    }

    /// Whether it has ended; reaps it where it is a child of this process.
    fn has_ended(self) -> bool {
        let Some(stat) = process::stat(self.pid).filter(|stat| stat.started == self.started) else {
            return true;
        };
        if stat.has_ended() && stat.parent == std::process::id() as i32 {
            let _ = process::pidfd_open(self.pid).map(|pidfd| process::wait(&pidfd, true));
        }
        stat.has_ended()
    }
}

/// A descendant of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Descendant {
    pub process: Process,
    pub group: i32,
    /// It has an agent of its own.
    pub is_host: bool,
    /// It is below another agent's host, which stops it when it is told to stop.
    pub is_guarded: bool,
}

/// Who is below a process now, and whether that has an agent of its own. Needs `proc_is_ours`.
pub fn below(root: i32) -> (Vec<Descendant>, bool) {
    let own = std::cell::OnceCell::new();
    below_by(root, process::children, process::stat, |pid, stat| {
        if WATCHERS.contains(&&stat.name[..]) {
            return true;
        }
        // On a busy machine that may not run yet, and its workers do: they have a mark more than the root has.
        let own = || own.get_or_init(|| with_memory(root, move || variable(root)).flatten());
        stat.group == pid && own().as_ref().is_some_and(|own| is_of_inner_run(pid, own))
    })
}

/// Whether a process has the marks of this list, and further ones.
fn is_of_inner_run(pid: i32, list: &[u8]) -> bool {
    let value = with_memory(pid, move || variable(pid)).flatten();
    value.is_some_and(|value| value.strip_prefix(list).is_some_and(|rest| rest.starts_with(b":")))
}

fn below_by(
    root: i32,
    children: impl Fn(i32) -> Option<Vec<i32>>,
    stat: impl Fn(i32) -> Option<Stat>,
    tells_host: impl Fn(i32, &Stat) -> bool,
) -> (Vec<Descendant>, bool) {
    let mut found: Vec<Descendant> = Vec::new();
    let mut root_is_host = false;
    let mut todo = vec![(root, None::<usize>)];
    while let (Some((parent, place)), true) = (todo.pop(), found.len() < MOST) {
        let with_stat = |pid| Some((pid, stat(pid)?));
        let living: Vec<(i32, Stat)> = children(parent)
            .unwrap_or_default()
            .into_iter()
            .filter_map(with_stat)
            .filter(|(_, stat)| stat.parent == parent && !stat.has_ended())
            .collect();
        let is_host = living.iter().any(|(pid, stat)| tells_host(*pid, stat));
        match place {
            Some(place) => found[place].is_host = is_host,
            None => root_is_host = is_host,
        }
        let is_guarded = is_host || place.is_some_and(|place| found[place].is_guarded);
        for (pid, stat) in living {
            todo.push((pid, Some(found.len())));
            let process = Process { pid, started: stat.started };
            found.push(Descendant { process, group: stat.group, is_host: false, is_guarded });
        }
    }
    (found, root_is_host)
}

/// Since when there may be descendants of an attempt's workers.
#[derive(Clone, Copy)]
pub struct Since {
    pub begun: Duration,
    pub ticks: u64,
    /// The first worker's number; 0 if there was none.
    pub first: i32,
}

/// Who may be one of them, by number.
#[derive(Debug, PartialEq)]
enum Candidates {
    Numbers(std::ops::RangeInclusive<i32>),
    All,
}

/// Numbers are given out in turn: what was started since has one from the first worker's to the last one.
fn candidates(since: &Since, now: Duration, last: Option<i32>) -> Candidates {
    match last {
        Some(last)
            if (since.first..since.first.saturating_add(TRIED)).contains(&last)
                && now < since.begun + NUMBERS_LAST =>
        {
            Candidates::Numbers(since.first..=last)
        }
        _ => Candidates::All,
    }
}

/// Finds what has lost its ancestors.
#[derive(Default)]
pub struct Finder {
    pub mark: Option<Mark>,
    /// This process is a subreaper for the sake of the run: what loses its parent becomes its child.
    pub adopts: bool,
    /// Its children before the run.
    pub before: HashSet<i32>,
    /// Those of the agent that are no workers.
    pub helpers: Vec<i32>,
    /// What forked workers run.
    pub forked_program: Option<PathBuf>,
    is_blind: bool,
}

impl Finder {
    pub fn new(mark: Option<Mark>, adopts: bool) -> Finder {
        let own = std::process::id() as i32;
        let before = if adopts { process::children(own).unwrap_or_default() } else { Vec::new() };
        Finder {
            mark,
            adopts,
            before: before.into_iter().collect(),
            is_blind: !process::proc_is_ours(),
            ..Finder::default()
        }
    }

    /// Whether workers with these numbers, in order of birth, can have started anything: not if no number was given
    /// out since but theirs.
    pub fn may_find(&self, since: &Since, known: &HashSet<i32>) -> bool {
        !self.is_blind
            && since.first != 0
            && match candidates(since, monotonic(), process::last_number()) {
                Candidates::Numbers(numbers) => numbers.into_iter().any(|number| !known.contains(&number)),
                Candidates::All => true,
            }
    }

    /// Descendants of workers that are no longer below one.
    fn orphans(&self, mark: &str, since: &Since, known: &HashSet<i32>) -> Vec<Process> {
        if self.is_blind || since.first == 0 {
            return Vec::new();
        }
        if let (true, Some(children)) = (self.adopts, process::children(std::process::id() as i32)) {
            let adopted = children.into_iter().filter(|pid| !self.before.contains(pid));
            let strange = |pid: &i32| !known.contains(pid) && !self.helpers.contains(pid);
            return adopted
                .filter(strange)
                .filter_map(|pid| self.look(pid, since, |pid| !is_of_another_run(pid, mark)))
                .collect();
        }
        if self.mark.is_none() {
            return Vec::new();
        }
        let look = |pid: i32| {
            let is_known = known.contains(&pid) || self.helpers.contains(&pid);
            if is_known { None } else { self.look(pid, since, |pid| self.carries(pid, mark)) }
        };
        match candidates(since, monotonic(), process::last_number()) {
            Candidates::Numbers(numbers) => numbers.filter_map(look).collect(),
            Candidates::All => process::numbers_in("/proc").into_iter().flatten().filter_map(look).collect(),
        }
    }

    fn look(&self, pid: i32, since: &Since, is_ours: impl Fn(i32) -> bool) -> Option<Process> {
        let stat = process::stat(pid)?;
        let may_be = !stat.has_ended() && stat.started >= since.ticks;
        // A thread has a number too, but no pidfd.
        let is_process = || process::pidfd_open(pid).is_ok();
        (may_be && is_ours(pid) && is_process()).then_some(Process { pid, started: stat.started })
    }

    fn carries(&self, pid: i32, mark: &str) -> bool {
        let (mark, program) = (mark.to_string(), self.forked_program.clone());
        with_memory(pid, move || {
            let in_environment = variable(pid).is_some_and(|value| has(&value, &mark));
            in_environment || program.is_some_and(|program| has_page(pid, &program, &mark))
        })
        .unwrap_or(false)
    }

    /// Kills these, and whoever else is left of the workers, until nobody new is found; who that was.
    pub fn kill(&self, noted: &[Process], mark: &str, since: &Since, known: &HashSet<i32>) -> Vec<Process> {
        let mut all = noted.to_vec();
        let kill = |processes: &[Process]| {
            for process in processes {
                let _ = process.signal(libc::SIGKILL);
            }
        };
        kill(&all);
        for _ in 0..LOOKS {
            let mut new = self.orphans(mark, since, known);
            let lines = new.iter().flat_map(|orphan| below(orphan.pid).0).map(|found| found.process);
            new.extend(lines.collect::<Vec<_>>());
            new.retain(|process| !all.contains(process));
            if new.is_empty() {
                break;
            }
            kill(&new);
            all.extend(new);
        }
        all
    }

    /// Those that lost their parents before they were told to stop. Only where that costs little.
    pub fn adopted(&self, since: &Since, known: &HashSet<i32>) -> Vec<Process> {
        match &self.mark {
            Some(mark) if self.adopts => {
                let mark = mark.of_worker();
                let mut orphans = self.orphans(&mark, since, known);
                // It may be a command of the agent's own.
                orphans.retain(|orphan| self.carries(orphan.pid, &mark));
                orphans
            }
            _ => Vec::new(),
        }
    }

    /// Reaps what this process has adopted and has ended.
    pub fn reap(&self, known: &HashSet<i32>) {
        for pid in process::children(std::process::id() as i32).unwrap_or_default() {
            let is_ours = known.contains(&pid) || self.helpers.contains(&pid) || self.before.contains(&pid);
            if !is_ours && let Some(stat) = process::stat(pid) {
                Process { pid, started: stat.started }.has_ended();
            }
        }
    }
}

/// Keeps those that have not ended; reaps those that have, where that is for this process to do.
pub fn keep_living(processes: &mut Vec<Process>) {
    processes.retain(|process| !process.has_ended());
}

/// A look at the memory of a process. Of one that the kernel holds such a look may wait as long: there it has a thread
/// of its own, and no answer after some time.
fn with_memory<T: Send + 'static>(pid: i32, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !process::stat(pid)?.is_uninterruptible() {
        return Some(look());
    }
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("ice-look".into()).stack_size(256 << 10);
    let thread = thread.spawn(move || drop(sender.send(look()))).ok()?;
    let answer = receiver.recv_timeout(LOOKS_WITHIN).ok();
    // One that the kernel holds is left alone.
    if answer.is_some() {
        let _ = thread.join();
    }
    answer
}

/// Whether a process runs this program, with the page of forked workers.
fn has_page(pid: i32, program: &Path, mark: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
        && std::fs::read(format!("/proc/{pid}/maps"))
            .is_ok_and(|maps| maps.split(|&byte| byte == b'\n').any(|line| is_page(line, mark)))
}

/// Whether a line of /proc/<pid>/maps is the page of forked workers.
fn is_page(line: &[u8], mark: &str) -> bool {
    let name = [b"/memfd:ice-", mark.as_bytes(), b" (deleted)"].concat();
    line.ends_with(&name)
}

/// ICE_DESCENT of a process, as it was executed with.
fn variable(pid: i32) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = [DESCENT.as_bytes(), b"="].concat();
    environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(&prefix[..])).map(<[u8]>::to_vec)
}

/// Whether a mark is one of a list.
fn has(list: &[u8], mark: &str) -> bool {
    list.split(|&byte| byte == b':').any(|one| one == mark.as_bytes())
}

fn is_of_another_run(pid: i32, mark: &str) -> bool {
    with_memory(pid, move || variable(pid)).flatten().is_some_and(|value| !has(&value, mark))
}

/// A process that is left, for people.
pub fn describe(pid: i32) -> String {
    let mut text = format!("PID {pid}");
    let Some(stat) = process::stat(pid) else { return text };
    let words = with_memory(pid, move || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    let words = words.unwrap_or_default();
    let words = words.strip_suffix(b"\0").unwrap_or(&words);
    let words = if words.is_empty() { &stat.name } else { words };
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let command: String = String::from_utf8_lossy(words).chars().take(SHOWN).map(plain).collect();
    let _ = write!(text, " ({command})");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn contain_numbers_are_tried_while_they_are_few_and_new() {
        let since = Since { begun: 100 * SECOND, ticks: 0, first: 1000 };
        assert_eq!(candidates(&since, 101 * SECOND, Some(1007)), Candidates::Numbers(1000..=1007));
        assert_eq!(candidates(&since, 101 * SECOND, Some(999)), Candidates::All, "they began anew");
        assert_eq!(candidates(&since, 101 * SECOND, Some(9000)), Candidates::All);
        assert_eq!(candidates(&since, 200 * SECOND, Some(1007)), Candidates::All);
        assert_eq!(candidates(&since, 101 * SECOND, None), Candidates::All);
    }

    #[test]
    fn contain_a_mark_is_one_of_a_list() {
        assert!(has(b"a.worker:b.worker", "b.worker") && has(b"a.worker", "a.worker"));
        assert!(!has(b"ba.worker:c", "a.worker") && !has(b"", "a.worker"));
    }

    #[test]
    fn contain_descendants_of_another_agent_are_its_own() {
        // 1 - 2 (timeout) - 3 (icerun) - 4 (watcher), 5 - 6; 1 - 7.
        let tree: HashMap<i32, Vec<i32>> =
            [(1, vec![2, 7]), (2, vec![3]), (3, vec![4, 5]), (5, vec![6])].into_iter().collect();
        let stat = |pid: i32| {
            let parent =
                tree.iter().find(|(_, children)| children.contains(&pid)).map(|(parent, _)| *parent)?;
            let name = if pid == 4 { WATCHERS[0].to_vec() } else { b"x".to_vec() };
            Some(Stat::of_test(name, parent))
        };
        let (found, is_host) =
            below_by(1, |pid| tree.get(&pid).cloned(), stat, |_, stat| stat.name == WATCHERS[0]);
        assert!(!is_host);
        let mut seen: Vec<_> =
            found.iter().map(|found| (found.process.pid, found.is_host, found.is_guarded)).collect();
        seen.sort_unstable();
        let want = [
            (2, false, false),
            (3, true, false),
            (4, false, true),
            (5, false, true),
            (6, false, true),
            (7, false, false),
        ];
        assert_eq!(seen, want);
        assert!(below_by(3, |pid| tree.get(&pid).cloned(), stat, |_, stat| stat.name == WATCHERS[0]).1);
    }
}
