//! What all tests share. Tests see the library as its users do: through the C ABI, in a host process of its own
//! (`tests/c/host.c`), with workers that do what a command line says (`tests/c/probe.c`, verbs in `verbs.h`).
//!
//! ```ignore
//! fn sp_01_arguments_arrive() {
//!     let t = Case::new();                               // a directory of its own, gone after a success
//!     let run = t
//!         .host()                                        // local_world_size 1, max_restarts 0, time-out 5 s
//!         .set("local_world_size", 4)                    // FIELD=VALUE of the spec
//!         .probe(&["dump", &t.path("%r.json"), "--", "a b"]) // the worker; `.function(way, &[..])` for a function
//!         .run();                                        // until the host is gone; never longer than 2 minutes
//!     run.succeeded();                                   // the run's end, and nothing was left behind
//!     assert_eq!(t.json("0.json")["argv"][4], "a b");
//!     assert_eq!(run.result()["workers"][0]["exit_code"], 0);
//! }
//! pub fn tests() -> Vec<Trial> {
//!     tests![sp_01_arguments_arrive, needs(valgrind): sp_02_other]
//! }
//! ```
//!
//! - `Way` names how a function starts and where it is; `tests_by_way![Way::ALL; name]` makes a test of `fn name(way: Way)`
//!   for each. `.worker(kind, &[..])` with a `Kind` is for what holds for programs too.
//! - `Host::step("start")` adds any step of host.c; without one for the agent the host does `run`. Every step that
//!   writes a line is found with `run.event("wait")`, `run.events("wait")`.
//! - `Host::spawn()` instead of `run()` for tests that act meanwhile: `running.signal(libc::SIGTERM)`,
//!   `running.wait_event("start")`, `running.finish()`.
//! - `wait_for("what", || condition)` polls for 20 s; `t.wait_lines("file", 3)`; `gone(pid)`; `alive(pid)`. Any other
//!   limit is for `soon(limit, || condition)`, or for `run.within(limit)`, that the end came in time: patience is
//!   counted in looks, not by the clock.
//! - `run.clean()` is that nothing is left: no descendant, no descriptor, thread, child or
//!   temporary file more than before, signal dispositions and mask as before. `succeeded()` and `failed_as()` check it.
//! - `icerun()` is the path of the command line tool: `t.command(icerun()).args(..)` is tagged as a host is, and
//!   `t.nothing_left()` then says whether a process of this case still lives.
//! - What a test needs and this machine may lack is named with `needs(..)`: the test then counts as ignored.

mod built;
mod case;
mod host;
mod needs;
mod numbers;
mod processes;
mod run;
mod running;
mod worker;

use std::fs;
use std::io::Write;
use std::process::Child;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

pub use built::*;
pub use case::*;
pub use host::*;
pub use needs::*;
pub use numbers::*;
pub use processes::*;
pub use run::*;
pub use running::*;
pub use worker::*;

/// How long a test waits for anything that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Within which a run ends that waits for no time-out: less than the 30 seconds that workers have to end by default.
pub const AT_ONCE: Duration = Duration::from_secs(25);
/// Between two looks. Patience is counted in looks, not by the clock: a machine that stands still for some seconds
/// (a snapshot of it is taken, say) is no failure of what it stood still in.
const PAUSE: Duration = Duration::from_millis(5);
/// The same while the end of a host is waited for.
pub const LOOK: Duration = Duration::from_millis(2);
/// A program that was written a moment ago is busy as long as a child that another test has just forked, and that has
/// not executed its own yet, holds a copy of the descriptor.
pub fn spawned(command: &mut Command) -> Child {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < 1000 => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            child => return child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        }
    }
}

/// How long a host may live.
pub const HOST_LIMIT: Duration = Duration::from_secs(300);
/// Every process of a case carries this variable, so that those left behind are found.
const TAG: &str = "LIBICE_TEST_CASE";

/// Registers functions as tests under their own names; `needs(a, b): name` makes a test ignored where the machine
/// lacks one of these, see `lacks`.
#[macro_export]
macro_rules! tests {
    (@one $name:ident) => { $crate::harness::needing(stringify!($name), &[], || { $name(); Ok(()) }) };
    (@one $name:ident, $($need:ident)+) => {
        $crate::harness::needing(stringify!($name), &[$(stringify!($need)),+], || { $name(); Ok(()) })
    };
    (@list [$($done:expr,)*]) => { vec![$($done),*] };
    (@list [$($done:expr,)*] needs($($need:ident),+): $name:ident $(, $($rest:tt)*)?) => {
        $crate::tests!(@list [$($done,)* $crate::tests!(@one $name, $($need)+),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $name:ident $(, $($rest:tt)*)?) => {
        $crate::tests!(@list [$($done,)* $crate::tests!(@one $name),] $($($rest)*)?)
    };
    ($($rest:tt)*) => { $crate::tests!(@list [] $($rest)*) };
}

/// A test that is ignored, aloud, if something it needs is not there.
pub fn needing(
    name: &str,
    needs: &[&str],
    run: impl FnOnce() -> Result<(), libtest_mimic::Failed> + Send + 'static,
) -> libtest_mimic::Trial {
    let missing: Vec<String> = needs.iter().filter_map(|need| lacks(need)).collect();
    if !missing.is_empty() && !listing() {
        eprintln!("{name} is ignored: {}", missing.join(", "));
    }
    let trial = name.to_string();
    libtest_mimic::Trial::test(name, move || timed(&trial, run)).with_ignored_flag(!missing.is_empty())
}

/// Appends what a test takes to the file that LIBICE_TEST_TIMES names: seconds and name.
fn timed<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let Some(path) = std::env::var_os("LIBICE_TEST_TIMES").filter(|path| !path.is_empty()) else {
        return run();
    };
    let started = Instant::now();
    let done = run();
    let line = format!("{:8.3} {name}\n", started.elapsed().as_secs_f64());
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of times");
    done
}

fn listing() -> bool {
    std::env::args().any(|arg| arg == "--list")
}

/// Polls until something is so; panics after `PATIENCE`.
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(soon(PATIENCE, condition), "waited in vain for {what}");
}

/// Polls until something is so; false if it is not within this time, counted in looks.
pub fn soon(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for look in 0.. {
        if condition() {
            return true;
        }
        if PAUSE * look >= limit {
            return false;
        }
        thread::sleep(PAUSE);
    }
    false
}
