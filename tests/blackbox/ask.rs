//! Area TIME: ^C at a real terminal, where workers use the library.

use std::os::unix::process::ExitStatusExt;

use libtest_mimic::Trial;

use crate::control::{at_one_step, done};
use crate::harness::*;
use crate::terminal::{CTRL_C, Terminal, terminal};
use crate::tests;
use crate::tool::{Started, tool};

pub fn tests() -> Vec<Trial> {
    tests![
        needs(setsid): time_ask_enter_saves_and_stops,
        needs(setsid): time_ask_no_stops_without,
        needs(setsid): time_ask_another_interrupt_stops_at_once,
        needs(setsid): time_ask_ranks_that_cannot_save,
        needs(setsid): time_ask_a_no_is_a_no_for_the_stop_too,
        needs(setsid): time_ask_lines_wait_for_the_answer,
        needs(setsid): time_ask_another_stop_ends_the_question,
        needs(setsid): time_ask_is_an_option_of_the_library,
        needs(setsid): time_ask_nothing_without_control,
        time_ask_nothing_without_a_terminal,
    ]
}

const QUESTION: &str = "Should I save the checkpoint? [Y/n] ";

/// icerun at a terminal, with two workers that go from step to step.
fn at_work(t: &Case, options: &[&str], verbs: &[&str]) -> (Started, Terminal) {
    let terminal = terminal();
    let started = tool(t, &["--nproc-per-node", "2", "--quiet"])
        .words(options)
        .words(&["--no-python", program("controlled").to_str().unwrap()])
        .words(verbs)
        .words(&["work", &t.path("work.%r"), "0.001", "20", "append", &t.path("ready"), "x"])
        .words(&["from", "20", "work", &t.path("work.%r"), "0.001", "0"])
        .on(&terminal)
        .spawn();
    t.wait_lines("ready", 2);
    (started, terminal)
}

fn time_ask_enter_saves_and_stops() {
    for answer in ["\n", "y\n", "yes\n"] {
        let t = Case::new();
        let (started, mut terminal) = at_work(&t, &["--control"], &[]);
        terminal.types(CTRL_C);
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
    terminal.types(CTRL_C);
    terminal.await_text(QUESTION);
    terminal.types("n\n");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
    at_one_step(&done(&t, 2), &["pause"]);
    assert!(!terminal.rest().contains("checkpoint"));
}

fn time_ask_another_interrupt_stops_at_once() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--control"], &[]);
    terminal.types(CTRL_C);
    terminal.await_text(QUESTION);
    terminal.types(CTRL_C);
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
    at_one_step(&done(&t, 2), &["pause"]);
}

fn time_ask_ranks_that_cannot_save() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--control"], &["rank", "1", "refuse", ";"]);
    terminal.types(CTRL_C);
    terminal.await_text(QUESTION);
    terminal.types("\n");
    terminal.await_text("no whole checkpoint: rank 1 could not save");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
}

fn time_ask_a_no_is_a_no_for_the_stop_too() {
    for (typed, done_then) in [("n\n", &["pause"][..]), ("y\n", &["pause", "save"])] {
        let t = Case::new();
        let (started, mut terminal) = at_work(&t, &["--checkpoint-before-stop", "30"], &[]);
        terminal.types(CTRL_C);
        terminal.await_text(QUESTION);
        terminal.types(typed);
        assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
        at_one_step(&done(&t, 2), done_then);
    }
}

fn time_ask_lines_wait_for_the_answer() {
    let t = Case::new();
    let mut terminal = terminal();
    let (speak, spoken) = (t.path("speak"), t.path("spoken"));
    // Some other process of a rank, which does not pause.
    let speaks = ["child", "await", &speak, "write", "1", "a line\\n", "append", &spoken, "x", ";"];
    let options = ["--nproc-per-node", "2", "--control", "--tee", "3", "--log-level", "info"];
    let started = tool(&t, &options)
        .words(&["--event-log-handler", "console", "--no-python", program("controlled").to_str().unwrap()])
        .words(&["append", &t.path("ready"), "x"])
        .words(&speaks)
        .words(&["work", &t.path("work.%r"), "0.001", "0"])
        .on(&terminal)
        .spawn();
    t.wait_lines("ready", 2);
    terminal.await_text("STARTED");
    terminal.types(CTRL_C);
    terminal.await_text("asked the workers to pause");
    terminal.await_text(QUESTION);
    t.touch("speak");
    t.wait_lines("spoken", 2);
    terminal.types("n\n");
    terminal.await_text("n\r\n");
    terminal.await_text("[default1]:a line\r\n");
    assert_eq!(started.finish().status.signal(), Some(libc::SIGINT));
}

fn time_ask_another_stop_ends_the_question() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &["--control"], &[]);
    terminal.types(CTRL_C);
    terminal.await_text(QUESTION);
    started.signal(libc::SIGTERM);
    assert_eq!(started.finish().status.signal(), Some(libc::SIGTERM));
    at_one_step(&done(&t, 2), &["pause"]);
}

fn time_ask_is_an_option_of_the_library() {
    let t = Case::new();
    let mut terminal = terminal();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("ask_on_interrupt", 1)
        .controlled(
            Kind::Program,
            &["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"],
        )
        .steps(&["before", "start", "mark=started", "wait=60", "after"])
        .on(&terminal)
        .spawn();
    t.wait_lines("ready", 2);
    terminal.types(CTRL_C);
    terminal.await_text(QUESTION);
    terminal.types("\n");
    terminal.await_text("the checkpoint is saved");
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["signal"], libc::SIGINT);
    assert_eq!(run.event("before")["signals"], run.event("after")["signals"], "put back");
    at_one_step(&done(&t, 2), &["pause", "save"]);
}

fn time_ask_nothing_without_control() {
    let t = Case::new();
    let (started, mut terminal) = at_work(&t, &[], &[]);
    terminal.types(CTRL_C);
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
