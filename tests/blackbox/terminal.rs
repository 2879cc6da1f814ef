//! Area TIME: a real terminal, its progress bar and debuggers. Questions are in ask.rs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::{Started, tool};

pub fn tests() -> Vec<Trial> {
    tests![
        needs(setsid): obs_bar_below_the_lines,
        needs(setsid): obs_bar_is_never_mixed_with_lines,
        needs(setsid): log_14_bar_below_a_line_that_is_rewritten,
        needs(setsid): obs_bar_counts_restarts,
        needs(setsid): obs_bar_is_as_wide_as_the_terminal,
        obs_bar_is_not_where_there_is_no_terminal,
        needs(setsid): log_18_bar_on_a_terminal_that_is_stopped,
        needs(setsid, python3): time_debug_breakpoint_in_python,
        needs(setsid): time_debug_interrupts_are_for_the_worker,
        needs(setsid): time_debug_a_question_takes_the_terminal_back,
        needs(setsid): time_debug_every_kind_of_worker,
        needs(setsid): time_debug_nothing_is_taken_from_the_background,
        needs(setsid): time_debug_timers_stand_still,
        needs(setsid): time_debug_a_call_of_a_worker,
        needs(setsid): time_debug_one_after_the_other,
        needs(setsid): time_debug_without_a_terminal,
        needs(setsid, stty): time_debug_the_modes_of_the_terminal_are_put_back,
        needs(setsid): sig_tostop_stops_nobody,
    ]
}

pub const CTRL_C: &str = "\x03";

/// A terminal, and what it shows.
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    shown: String,
    pieces: Receiver<Vec<u8>>,
}

pub fn terminal() -> Terminal {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: two places for descriptors; no name, settings or size are given.
    assert_eq!(unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast()) }, 0);
    // SAFETY: the kernel just made both for us.
    let (master, slave) = unsafe {
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    };
    let (send, pieces) = channel();
    let mut reader = master.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // EIO: nobody has it open any more.
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    Terminal { master, slave, shown: String::new(), pieces }
}

impl Terminal {
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal");
    }

    /// Waits until it shows this once more.
    pub fn await_text(&mut self, text: &str) {
        while !self.shown.contains(text) {
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.shown += &String::from_utf8_lossy(&piece),
                Err(_) => panic!("waited in vain for {text:?}; the terminal shows {:?}", self.shown),
            }
        }
        let end = self.shown.find(text).expect("just seen") + text.len();
        self.shown.drain(..end);
    }

    /// What it shows when all who had it are gone.
    pub fn rest(self) -> String {
        let Terminal { slave, mut shown, pieces, .. } = self;
        drop(slave);
        while let Ok(piece) = pieces.recv_timeout(PATIENCE) {
            shown += &String::from_utf8_lossy(&piece);
        }
        shown
    }

    pub fn stream(&self) -> Stdio {
        self.slave.try_clone().expect("a descriptor").into()
    }

    fn modes(&self) -> libc::termios {
        // SAFETY: a termios is plain numbers, and the descriptor that of a terminal.
        unsafe {
            let mut modes = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.slave.as_raw_fd(), &mut modes), 0);
            modes
        }
    }

    fn set_local_flag(&self, flag: libc::tcflag_t) {
        let mut modes = self.modes();
        modes.c_lflag |= flag;
        // SAFETY: the modes are those of a terminal.
        assert_eq!(unsafe { libc::tcsetattr(self.slave.as_raw_fd(), libc::TCSANOW, &modes) }, 0);
    }

    fn set_columns(&self, columns: u16) {
        let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads one winsize.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    }
}

/// What somebody sees in the end who has got these bytes on a terminal that is high enough.
fn screen(bytes: &str) -> Vec<String> {
    let (mut rows, mut row, mut column, mut saved) = (vec![Vec::new()], 0, 0, (0, 0));
    let mut bytes = bytes.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => column = 0,
            b'\n' => row += 1,
            0x1b => match bytes.next() {
                Some(b'7') => saved = (row, column),
                Some(b'8') => (row, column) = saved,
                Some(b'D') => row += 1,
                Some(b'[') => match bytes.next() {
                    Some(b'A') => row -= 1,
                    Some(b'K') => rows[row].truncate(column),
                    other => panic!("ESC [ {other:?}"),
                },
                other => panic!("ESC {other:?}"),
            },
            byte => {
                let line: &mut Vec<u8> = &mut rows[row];
                line.resize(line.len().max(column + 1), b' ');
                line[column] = byte;
                column += 1;
            }
        }
        rows.resize(rows.len().max(row + 1), Vec::new());
    }
    rows.iter().map(|row| String::from_utf8_lossy(row).trim_end().to_string()).collect()
}

/// icerun in the foreground of a terminal with workers that use the library; both are words with blanks between.
fn controlled(t: &Case, terminal: &Terminal, options: &str, verbs: &str) -> Started {
    let path = program("controlled");
    let options: Vec<&str> = options.split_whitespace().collect();
    let verbs: Vec<&str> = verbs.split_whitespace().collect();
    tool(t, &options).words(&["--no-python", path.to_str().unwrap()]).words(&verbs).on(terminal).spawn()
}

fn obs_bar_below_the_lines() {
    let t = Case::new();
    let mut terminal = terminal();
    let ranks = r"progress 30 100 rank 0 step 32 ; rank 1 step 30 ; await";
    let verbs = format!(r"{ranks} {} write 2 line\n write 1 another\n", t.path("on"));
    let started = controlled(&t, &terminal, "--nproc-per-node 2 --progress-bar --quiet", &verbs);
    terminal.await_text("30/100");
    terminal.await_text(", rank 1 is 2 behind");
    t.touch("on");
    started.finish().exited(0);
    let rows = screen(&terminal.rest());
    assert_eq!(rows.iter().filter(|row| row.starts_with("[default")).count(), 4, "{rows:?}");
    let bars: Vec<&String> = rows.iter().filter(|row| row.contains("/100")).collect();
    assert_eq!(bars.len(), 1, "{rows:?}");
    let last = rows.iter().rfind(|row| !row.is_empty());
    assert_eq!(last, Some(bars[0]), "it stays: {rows:?}");
}

fn obs_bar_is_never_mixed_with_lines() {
    const LINES: usize = 300;
    let t = Case::new();
    let terminal = terminal();
    let step = |step| {
        let stream = 1 + step % 2;
        format!(r"progress {step} {LINES} step {step} write {stream} [whole]\n sleep 0.003 ")
    };
    let verbs: String = (1..=LINES).map(step).collect();
    let options = "--nproc-per-node 3 --progress-bar --event-log-handler console --log-level debug";
    controlled(&t, &terminal, options, &verbs).finish().exited(0);
    let shown = terminal.rest();
    assert!(shown.matches("/300").count() > 2, "it moved");
    let rows = screen(&shown);
    for rank in 0..3 {
        let line = format!("[default{rank}]:[whole]");
        assert_eq!(rows.iter().filter(|row| **row == line).count(), LINES, "{rows:?}");
    }
    for row in &rows {
        let known =
            ["[default", "icerun: ", "{", "[#", "[>", "[-"].iter().any(|start| row.starts_with(start));
        assert!(row.is_empty() || known, "{row:?}");
    }
    assert_eq!(rows.iter().filter(|row| row.contains("300/300")).count(), 1, "{rows:?}");
}

fn log_14_bar_below_a_line_that_is_rewritten() {
    let t = Case::new();
    let mut terminal = terminal();
    let (on, end) = (t.path("on"), t.path("end"));
    let verbs = format!(r"progress 1 4 write 2 \r10% await {on} write 2 \r20% progress 2 4 await {end}");
    let started = controlled(&t, &terminal, "--progress-bar --quiet", &verbs);
    terminal.await_text("[default0]:\r10%");
    terminal.await_text("1/4");
    t.touch("on");
    terminal.await_text("\r20%");
    terminal.await_text("2/4");
    t.touch("end");
    started.finish().exited(0);
    // What was awaited has been taken off.
    let rest = terminal.rest();
    assert!(!rest.contains("[default0]"), "one prefix: {rest:?}");
}

fn obs_bar_counts_restarts() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = format!("attempt 0 step 5 exit 3 ; step 1 await {}", t.path("end"));
    let started = controlled(&t, &terminal, "--progress-bar --max-restarts 1 --quiet", &verbs);
    terminal.await_text("step 1, 1 restart");
    t.touch("end");
    started.finish().exited(0);
}

fn obs_bar_is_as_wide_as_the_terminal() {
    let t = Case::new();
    let mut terminal = terminal();
    terminal.set_columns(50);
    let verbs = format!("progress 1 4 await {} progress 2 4 await {}", t.path("on"), t.path("end"));
    let started = controlled(&t, &terminal, "--progress-bar --quiet", &verbs);
    terminal.await_text("] 1/4");
    terminal.set_columns(30);
    terminal.await_text("\r\x1b[K");
    t.touch("on");
    terminal.await_text("] 2/4");
    t.touch("end");
    started.finish().exited(0);
    let rows = screen(&terminal.rest());
    assert!(rows.iter().all(|row| row.len() < 30), "{rows:?}");
}

fn obs_bar_is_not_where_there_is_no_terminal() {
    let t = Case::new();
    let worker = program("controlled");
    let ended = tool(&t, &["--progress-bar", "--no-python", worker.to_str().unwrap()])
        .words(&["step", "3", "sleep", "0.6", "write", "2", "line\\n", "control", &t.path("has")])
        .run();
    ended.exited(0);
    assert_eq!(ended.err(), "line\n");
    assert!(t.read("has").starts_with('1'), "workers find the same in either case");
}

fn log_18_bar_on_a_terminal_that_is_stopped() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = format!("progress 1 9 await {} lines 2 20000 text progress 2 9", t.path("on"));
    let options = format!("--progress-bar --quiet --shutdown-timeout 1 --log-dir {}", t.path("logs"));
    let started = controlled(&t, &terminal, &options, &verbs);
    terminal.await_text("1/9");
    terminal.types("\x13"); // ^S
    std::thread::sleep(Duration::from_millis(300)); // nobody tells when it has stopped
    t.touch("on");
    let ended = started.finish();
    ended.exited(0);
    ended.within(Duration::from_secs(20));
}

fn time_debug_breakpoint_in_python() {
    let t = Case::new();
    let mut terminal = terminal();
    let text = "import os\nx = 41\nif os.environ['RANK'] == '1':\n    breakpoint()\n    print('x is', x)\n";
    let script = t.write("debugged.py", text.as_bytes(), 0o644);
    let options = ["--nproc-per-node", "2", "--debug-rank", "1", "--tee", "3", &script];
    let started = tool(&t, &options).on(&terminal).spawn();
    terminal.await_text("(Pdb) ");
    terminal.types("x = x + 1\n");
    terminal.await_text("(Pdb) ");
    terminal.types("c\n");
    terminal.await_text("x is 42");
    started.finish().exited(0);
}

fn time_debug_interrupts_are_for_the_worker() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = ["exit_on", "INT", "7", "0", "append", &t.path("ready"), "x", "pause"];
    let started = tool(&t, &["--debug-rank", "0", "--control"]).probe(&verbs).on(&terminal).spawn();
    t.wait_lines("ready", 1);
    terminal.types(CTRL_C);
    started.finish().exited(7);
    assert!(!terminal.rest().contains("Should I"));
}

fn time_debug_a_question_takes_the_terminal_back() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = format!("append {} x work {} 0.001 0", t.path("ready"), t.path("work"));
    let started = controlled(&t, &terminal, "--debug-rank 0 --control", &verbs);
    t.wait_lines("ready", 1);
    started.signal(libc::SIGINT);
    terminal.await_text("[Y/n] ");
    terminal.types("y\n");
    terminal.await_text("the checkpoint is saved");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
}

fn time_debug_every_kind_of_worker() {
    for kind in Kind::ALL {
        let t = Case::new();
        let mut terminal = terminal();
        let verbs = ["append", &t.path("ready"), "x", "stdin", &t.path("read.%r")];
        let host = t.host().set("local_world_size", 2).set("debug_rank", 1);
        let running = host.controlled(kind, &verbs).on(&terminal).spawn();
        t.wait_lines("ready", 2);
        terminal.types("abc\n\x04");
        running.finish().succeeded();
        assert_eq!((t.lines("read.0"), t.lines("read.1")), (vec!["0".into()], vec!["4".into()]), "{kind:?}");
    }
}

fn time_debug_nothing_is_taken_from_the_background() {
    let t = Case::new();
    let mut terminal = terminal();
    // A shell with job control: what it starts in the background is in a group of its own.
    let command = "set -m; \"$@\" & wait $!; echo ended with $?; read line; echo read $line";
    let started = tool(&t, &["--debug-rank", "0", "--no-python", probe().to_str().unwrap()])
        .words(&["stdin", &t.path("read")])
        .under(&["sh", "-c", command, "sh"])
        .on(&terminal)
        .spawn();
    terminal.await_text("local rank 0 has no terminal");
    terminal.await_text("ended with 0");
    terminal.types("abc\n");
    terminal.await_text("read abc");
    started.finish().exited(0);
    assert_eq!(t.lines("read"), ["0"]);
}

fn time_debug_timers_stand_still() {
    let t = Case::new();
    let terminal = terminal();
    let verbs =
        |time| format!("heartbeat expires a 0.3 rank 0 sleep {time} ; rank 1 sleep {time} ; disarm a");
    let options = "--nproc-per-node 2 --heartbeat-timeout 0.3";
    controlled(&t, &terminal, &format!("{options} --debug-rank 0"), &verbs(1)).finish().exited(0);
    controlled(&t, &terminal, options, &verbs(60)).finish().exited(124);
}

fn time_debug_a_call_of_a_worker() {
    let t = Case::new();
    let mut terminal = terminal();
    let at = |name: &str| t.path(name);
    let (ready, read, done) = (at("ready"), at("read"), at("done"));
    let (work0, work1) = (at("work.0"), at("work.1"));
    let rank0 = format!(r"await_lines {ready} 1 debug write 1 hello\n stdin {read} undebug append {done} x");
    let rank1 = format!("expires a 0.5 append {ready} x work {work1} 0.001 0");
    let verbs = format!("rank 0 {rank0} work {work0} 0.001 0 ; rank 1 {rank1} ;");
    let options =
        format!("--nproc-per-node 2 --heartbeat-timeout 1 --quiet --redirects 3 --log-dir {}", at("logs"));
    let started = controlled(&t, &terminal, &options, &verbs);
    // Its stream is a file until then.
    terminal.await_text("hello\r\n");
    t.wait_lines("work.1", 1);
    std::thread::sleep(Duration::from_millis(1500)); // longer than a timer or heartbeat may take
    terminal.types("abc\n\x04");
    t.wait_lines("done", 1);
    assert_eq!(t.lines("read"), ["4"]);
    // The timer of rank 1 runs again, and ends it.
    started.finish().exited(124);
    assert!(t.lines("work.1")[0].starts_with("pause"), "{:?}", t.lines("work.1"));
    assert!(t.lines("work.0").is_empty(), "it did not pause for itself");
}

fn time_debug_one_after_the_other() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = format!(r"debug write 1 hello\n stdin {} undebug", t.path("read"));
    let started = controlled(&t, &terminal, "--nproc-per-node 2 --control --quiet", &verbs);
    for count in 1..=2 {
        terminal.await_text("hello\r\n");
        terminal.types("\x04");
        t.wait_lines("read", count);
    }
    started.finish().exited(0);
    // Without a terminal there is nobody to be read from, and all goes on.
    let t = Case::new();
    let worker = program("controlled");
    tool(&t, &["--control", "--no-python", worker.to_str().unwrap()])
        .words(&["debug", "stdin", &t.path("read"), "undebug", "debug", "undebug"])
        .under(&["setsid"])
        .run()
        .exited(0);
    assert_eq!(t.lines("read"), ["0"]);
}

fn time_debug_without_a_terminal() {
    let t = Case::new();
    let one = || t.host().probe(&[]);
    one().set("debug_rank", -2).run().refused(&["debug_rank is -2"]);
    one().set("debug_rank", 1).run().refused(&["debug_rank is 1", "below local_world_size"]);
    let run = one().under(&["setsid"]).set("debug_rank", 0).run();
    run.refused(&["debug_rank is 0", "no terminal for a debugger"]);
}

fn time_debug_the_modes_of_the_terminal_are_put_back() {
    let t = Case::new();
    let terminal = terminal();
    let before = terminal.modes().c_lflag;
    let words = ["--debug-rank", "0", "--no-python", "stty", "-echo", "-icanon"];
    tool(&t, &words).on(&terminal).spawn().finish().exited(0);
    assert_eq!(terminal.modes().c_lflag, before);
}

fn sig_tostop_stops_nobody() {
    for options in ["", "--tee 3", "--progress-bar", "--debug-rank 0"] {
        let t = Case::new();
        let terminal = terminal();
        terminal.set_local_flag(libc::TOSTOP);
        let verbs = r"step 1 rank 1 debug write 1 hello\n undebug ; write 1 out\n write 2 err\n sleep 0.3";
        let options = format!("--nproc-per-node 2 --log-level debug --control {options}");
        controlled(&t, &terminal, &options, verbs).finish().exited(0);
        let shown = terminal.rest();
        for (text, count) in [("out\r\n", 2), ("err\r\n", 2), ("hello\r\n", 1)] {
            assert_eq!(shown.matches(text).count(), count, "{options:?} {shown}");
        }
    }
}
