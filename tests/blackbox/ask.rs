//! Area TIME: ^C at a real terminal, where workers use the library.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::control::{at_one_step, done};
use crate::harness::*;
use crate::tests;
use crate::tool::{Started, tool};

pub fn tests() -> Vec<Trial> {
    tests![
        needs(setsid): time_ask_enter_saves_and_stops,
        needs(setsid): time_ask_no_stops_without,
        needs(setsid): time_ask_another_interrupt_stops_at_once,
        needs(setsid): time_ask_ranks_that_cannot_save,
        needs(setsid): time_ask_nothing_without_control,
        time_ask_nothing_without_a_terminal,
    ]
}

/// A terminal, and what it shows.
struct Terminal {
    master: File,
    shown: String,
    pieces: Receiver<Vec<u8>>,
}

fn terminal() -> (Terminal, OwnedFd) {
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
    (Terminal { master, shown: String::new(), pieces }, slave)
}

impl Terminal {
    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal");
    }

    /// Waits until it shows this once more.
    fn await_text(&mut self, text: &str) {
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
    fn rest(mut self) -> String {
        while let Ok(piece) = self.pieces.recv_timeout(Duration::from_secs(5)) {
            self.shown += &String::from_utf8_lossy(&piece);
        }
        self.shown
    }
}

const INTERRUPT: &str = "\x03";
const QUESTION: &str = "Should I save the checkpoint? [Y/n] ";

/// icerun at a terminal, with two workers that go from step to step.
fn at_work(t: &Case, options: &[&str], verbs: &[&str]) -> (Started, Terminal) {
    let (terminal, slave) = terminal();
    let stream = || Stdio::from(slave.try_clone().expect("a descriptor"));
    let started = tool(t, &["--nproc-per-node", "2", "--quiet"])
        .words(options)
        .words(&["--no-python", program("controlled").to_str().unwrap()])
        .words(verbs)
        .words(&["work", &t.path("work.%r"), "0.001", "20", "append", &t.path("ready"), "x"])
        .words(&["from", "20", "work", &t.path("work.%r"), "0.001", "0"])
        .under(&["setsid", "--ctty"])
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn();
    drop(slave);
    t.wait_lines("ready", 2);
    (started, terminal)
}

fn time_ask_enter_saves_and_stops() {
    for answer in ["\n", "y\n", "yes\n"] {
        let t = Case::new();
        let (started, mut terminal) = at_work(&t, &["--control"], &[]);
        terminal.types(INTERRUPT);
        terminal.await_text(QUESTION);
        // Anything else asks again.
        terminal.types("what?\n");
        terminal.await_text(QUESTION);
        terminal.types(answer);
        terminal.await_text("the checkpoint is saved");
        assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
        at_one_step(&done(&t, 2), &["pause", "save"]);
    }
}

fn time_ask_no_stops_without() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--heartbeat-timeout", "30"], &[]);
    terminal.types(INTERRUPT);
    terminal.await_text(QUESTION);
    terminal.types("n\n");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
    at_one_step(&done(&t, 2), &["pause"]);
    assert!(!terminal.rest().contains("checkpoint"));
}

fn time_ask_another_interrupt_stops_at_once() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--control"], &[]);
    terminal.types(INTERRUPT);
    terminal.await_text(QUESTION);
    terminal.types(INTERRUPT);
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
    at_one_step(&done(&t, 2), &["pause"]);
}

fn time_ask_ranks_that_cannot_save() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--control"], &["rank", "1", "refuse", ";"]);
    terminal.types(INTERRUPT);
    terminal.await_text(QUESTION);
    terminal.types("\n");
    terminal.await_text("no whole checkpoint: local rank 1 could not save");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
}

fn time_ask_nothing_without_control() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &[], &[]);
    terminal.types(INTERRUPT);
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
    at_one_step(&done(&t, 2), &[]);
    assert!(!terminal.rest().contains("Should I"));
}

fn time_ask_nothing_without_a_terminal() {
    let t = Case::new();
    let started = tool(&t, &["--control", "--no-python", program("controlled").to_str().unwrap()])
        .words(&["work", &t.path("work.%r"), "0.001", "20", "append", &t.path("ready"), "x"])
        .words(&["from", "20", "work", &t.path("work.%r"), "0.001", "0"])
        .spawn();
    t.wait_lines("ready", 1);
    started.signal(libc::SIGINT);
    let ended = started.finish();
    assert_eq!(ended.status.signal(), Some(libc::SIGINT));
    assert!(t.lines("work.0").is_empty() && !ended.err().contains("Should I"));
}
