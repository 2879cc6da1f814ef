//! The probe as its host sees it: a short-lived process that asks the CUDA driver, which is never
//! initialised in the host: `cuInit` there would break every worker that is forked later, may hang for
//! good, and may crash.

mod inspect;
mod report;

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::device::Found;
use crate::error::Error;
use crate::process::channel::{Channel, ChannelKind};
use crate::process::program::{Failure, Single};
use crate::process::{host, image};
use crate::reminder::{Reminder, seconds};
use crate::spec::Spec;
use crate::standstill::lost;
use crate::sys::child::{Child, Setup, Step};
use crate::sys::dispositions;
use crate::sys::fd;
use crate::sys::process::{self, Status, Waited};
use report::Report;

pub use inspect::serve;

/// How long a killed process may take to end before it counts as stuck in the kernel.
const KILLED_WITHIN: Duration = Duration::from_secs(3);

pub struct Request<'a> {
    /// The workers': CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER and the loader's variables count.
    pub env: &'a [CString],
    /// The program of the probe where the library has no file of its own.
    pub runner: Option<&'a CString>,
    /// How a runner is named, for a message: "with ice_spec_set_runner()".
    pub how: &'a str,
    pub limit: Duration,
}

impl<'a> Request<'a> {
    /// For the workers of a spec.
    pub fn of(spec: &'a Spec, env: &'a [CString]) -> Request<'a> {
        let (runner, limit) = (spec.runner.as_ref(), spec.probe_timeout);
        Request { env, runner, how: "with ice_spec_set_runner()", limit }
    }
}

/// Asks the driver, in a process that dies with this thread. `say` is told if that takes its time.
pub fn probe(request: &Request, say: impl Fn(String)) -> Result<Found, Error> {
    let mut probe = Probe::start(request)?;
    while !probe.is_over(None, &say) {}
    probe.finish()
}

/// A probe under way.
pub struct Probe {
    channel: Channel,
    path: CString,
    child: Child,
    limit: Duration,
    deadline: Duration,
    reminder: Reminder,
}

impl Probe {
    pub fn start(request: &Request) -> Result<Probe, Error> {
        host::refuse_to_be_a_host();
        reap_stuck();
        let (path, argv) = image::own_process(request.runner, c"ice-probe".into(), request.how)
            .map_err(|why| Error::config("runner", "NULL", why))?;
        let channel = Channel::new(ChannelKind::Probe)
            .map_err(|errno| Error::system("cannot prepare a probe", errno as i32))?;
        let child = start(&channel, &path, &argv, &without_stubs(request.env))?;
        let now = process::monotonic();
        let (limit, deadline) = (request.limit, now.saturating_add(request.limit));
        Ok(Probe { channel, path, child, limit, deadline, reminder: Reminder::since(now) })
    }

    /// Waits until it has ended, its time is over, the bell rings, or there was something to `say`; not in the last
    /// two cases.
    pub fn is_over(&mut self, bell: Option<BorrowedFd>, say: impl Fn(String)) -> bool {
        let begin = process::monotonic();
        let due = self.deadline.min(self.reminder.due()).max(begin);
        let ended = process::ends_within(&self.child.pidfd, due.saturating_sub(begin), bell);
        let now = process::monotonic();
        // If this process stood still, the probe most likely did, too.
        self.deadline = self.deadline.saturating_add(lost(begin, due, now));
        let is_over = ended || now >= self.deadline;
        if is_over {
            if let Some(waited) = self.reminder.over(now) {
                say(format!("the GPU probe is over after {}", seconds(waited)));
            }
        } else if let Some(waited) = self.reminder.look(now) {
            let left = seconds(self.deadline.saturating_sub(now));
            say(format!(
                "the CUDA driver has been asked for its GPUs for {} (PID {}); given up in {left}",
                seconds(waited),
                self.child.pid,
            ));
        }
        is_over
    }

    /// What came of it. One that has not ended is killed.
    pub fn finish(self) -> Result<Found, Error> {
        let ended = process::has_ended(&self.child.pidfd);
        let end = end(self.child, ended);
        let report = self.channel.strings().ok().flatten().map(|strings| Report::from_strings(&strings));
        match report {
            Some(Some(report)) => conclude(report),
            Some(None) => Err(Error::Device { what: "the report of the probe is cut short".into() }),
            None => Err(explain(&self.channel, &self.path, end, self.limit)),
        }
    }
}

fn conclude(report: Report) -> Result<Found, Error> {
    let what = match report {
        Report::Devices { driver_version, devices, message } => {
            return Ok(Found { driver_version, list: devices, message });
        }
        Report::Failed { call, code, text } if text.is_empty() => {
            format!("the CUDA driver failed: {call} returned {code}")
        }
        Report::Failed { call, code, text } => {
            format!("the CUDA driver failed: {call} returned {code}: {text}")
        }
        Report::Missing { symbol } => {
            format!("the CUDA driver is not one that can be asked: it lacks {symbol}")
        }
    };
    Err(Error::Device { what })
}

fn start(channel: &Channel, path: &CString, argv: &[CString], env: &[CString]) -> Result<Child, Error> {
    let failed = |errno: Errno| Error::system("cannot prepare a probe", errno as i32);
    let null = fd::null().and_then(fd::above_protocol).map_err(failed)?;
    let null = null.as_raw_fd();
    let mut single = Single::new().map_err(failed)?;
    let protocol = [channel.fd(), null, null, null];
    let setup = Setup { process: Some(channel.process()), ..Setup::plain([null; 3], &protocol) };
    // While it is born only: whoever interrupts the host meanwhile need not wait for the driver.
    let _mask = dispositions::block_all_meanwhile();
    single.spawn(setup, std::slice::from_ref(path), argv, env).map_err(|failure| match failure {
        Failure::Child(Step::Exec, errno) => {
            Error::system(format!("cannot start {}", path.to_string_lossy()), errno as i32)
        }
        Failure::Clone(errno) | Failure::Child(_, errno) => {
            Error::system("cannot start a probe", errno as i32)
        }
    })
}

/// How the process ended.
enum End {
    /// By itself, as far as is known.
    Ended(Option<Status>),
    /// It was killed when the time was over.
    Killed,
    /// It was killed, and has not ended.
    Stuck(i32),
}

/// Nothing of it is left, unless it is stuck in the kernel: then nobody waits for it.
fn end(child: Child, ended: bool) -> End {
    if !ended {
        let _ = process::signal_group(child.pid, libc::SIGKILL);
        process::kill(child.pid, &child.pidfd);
        if !process::ends_within(&child.pidfd, KILLED_WITHIN, None) {
            STUCK.lock().push(child.pidfd);
            return End::Stuck(child.pid);
        }
    }
    let status = match process::wait(&child.pidfd, false) {
        Waited::Ended { status, kept, .. } => {
            if kept {
                // What the driver has started, nvidia-modprobe say. The number is the zombie's until it is reaped.
                let _ = process::signal_group(child.pid, libc::SIGKILL);
                process::wait(&child.pidfd, true);
            }
            Some(status)
        }
        Waited::Running | Waited::Lost => None,
    };
    if ended { End::Ended(status) } else { End::Killed }
}

/// Probes that SIGKILL had not ended when they were last seen.
static STUCK: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// A later probe reaps them.
fn reap_stuck() {
    STUCK.lock().retain(|pidfd| matches!(process::wait(pidfd, true), Waited::Running));
}

/// Why there is no report.
fn explain(channel: &Channel, path: &CString, end: End, limit: Duration) -> Error {
    let doing = channel.doing().map_or("its start".into(), |doing| doing);
    let late = || {
        format!(
            "GPUs were not listed within {} s: the probe got no further than {doing}",
            limit.as_secs_f64()
        )
    };
    match end {
        End::Killed => Error::Timeout { what: late() },
        End::Stuck(pid) => Error::Timeout {
            what: format!("{}; process {pid} is stuck in the kernel, SIGKILL has not ended it", late()),
        },
        End::Ended(status) => {
            let ended = status.map_or("ended, nobody knows how".into(), |status| status.to_string());
            match channel.refusal() {
                Some(why) => Error::Start { what: why },
                None if channel.entered() => Error::Device {
                    what: format!("the process that asks the CUDA driver {ended} in {doing}"),
                },
                None => Error::Start {
                    what: format!(
                        "the probe, {}, {ended} before it began: the program has to call ice_worker_main() first \
                         in main",
                        path.to_string_lossy()
                    ),
                },
            }
        }
    }
}

/// The environment without directories of stubs: what cudarc finds there first, where a CUDA toolkit is
/// installed, is a library to link with, no driver.
fn without_stubs(env: &[CString]) -> Vec<CString> {
    const VARIABLE: &[u8] = b"LD_LIBRARY_PATH=";
    let stubs = |directory: &&[u8]| directory.strip_suffix(b"/").unwrap_or(directory).ends_with(b"/stubs");
    env.iter()
        .filter_map(|entry| {
            let Some(value) = entry.to_bytes().strip_prefix(VARIABLE) else { return Some(entry.clone()) };
            let directories = || value.split(|byte| matches!(byte, b':' | b';'));
            if !directories().any(|directory| stubs(&directory)) {
                return Some(entry.clone());
            }
            let kept: Vec<&[u8]> = directories().filter(|directory| !stubs(directory)).collect();
            // An empty value would mean the working directory.
            (!kept.is_empty()).then(|| CString::new([VARIABLE, &kept.join(&b':')].concat()).ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_stubs_are_not_searched() {
        let cases = [
            ("LD_LIBRARY_PATH=/a:/cuda/lib64/stubs:/b", Some("LD_LIBRARY_PATH=/a:/b")),
            ("LD_LIBRARY_PATH=/cuda/stubs/;/b;c", Some("LD_LIBRARY_PATH=/b:c")),
            ("LD_LIBRARY_PATH=/cuda/stubs", None),
            ("LD_LIBRARY_PATH=/a;:/stubsnot:", Some("LD_LIBRARY_PATH=/a;:/stubsnot:")),
            ("LD_LIBRARY_PATH=", Some("LD_LIBRARY_PATH=")),
            ("PATH=/cuda/stubs", Some("PATH=/cuda/stubs")),
        ];
        for (entry, kept) in cases {
            let env = without_stubs(&[CString::new(entry).unwrap()]);
            assert_eq!(env.first().map(|entry| entry.to_str().unwrap()), kept, "{entry}");
        }
    }
}
