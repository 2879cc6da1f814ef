//! Faults at every place: each system call of a run fails in turn (E2E-06), and descriptors, processes and memory run
//! out after any number of them. Whatever fails, there is an answer with its errno, soon, and nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{
    Case, END_AGENT_ERROR, END_START_ERROR, END_SUCCEEDED, Host, Run, STATE_UNKNOWN, probe, program,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        e2e_06_each_call_fails_in_turn_programs,
        e2e_06_each_call_fails_in_turn_callbacks,
        sp_21_any_descriptor_may_be_the_last,
        needs(root): sp_22_any_process_may_be_the_last,
        fn_values_that_no_memory_holds,
        fn_values_despite_a_file_size_limit,
    ]
}

/// One failure, one restart, tee'd logs, messages, handlers: most of what an agent does.
fn eventful<'a>(t: &'a Case, callback: bool) -> Host<'a> {
    let host = t.host().set("local_world_size", 2).set("max_restarts", 1).set("shutdown_timeout", 1);
    let host = host
        .set("log_dir", t.path("logs"))
        .set("tee", 3)
        .set("log_callback", t.path("log"))
        .set("signals", "USR2");
    let verbs = ["write", "1", "line\\n", "attempt", "0", "rank", "1", "exit", "1", ";", "pause", ";"];
    host.worker(callback, &verbs).limit(Duration::from_secs(25))
}

/// The errno that a call may well have, by its name.
fn errno_of(call: &str) -> i32 {
    match call {
        "clone" | "fork" | "pthread_create" => libc::EAGAIN,
        "mmap" | "epoll_ctl" | "ftruncate" => libc::ENOMEM,
        "mkdir" | "chmod" => libc::EACCES,
        "inotify_add_watch" => libc::ENOSPC,
        "bind" => libc::EADDRINUSE,
        "syscall-424" => libc::EPERM, // pidfd_send_signal, where a filter of system calls does not know it
        _ => libc::EMFILE,
    }
}

/// What every run must come to: a result or a refusal that has the errno, and nothing left.
fn judge(run: &Run, what: &str, errno: i32) -> Result<(), String> {
    if !run.status.success() {
        let last =
            run.lines.last().map_or(String::new(), |line| format!("{} {}", line["do"], line["status"]));
        return Err(format!("{what}: the host ended with {:?} after {last}", run.status));
    }
    for step in ["new", "start"] {
        let Some(line) = run.events(step).pop().cloned() else { continue };
        if line["status"] != "ICE_OK" {
            let named = line["message"].as_str().unwrap_or_default().contains(':');
            return match line["status"].as_str() {
                Some("ICE_ERROR_SYSTEM") if named => Ok(()),
                _ => Err(format!("{what}: {step} gives {} ({})", line["status"], line["message"])),
            };
        }
    }
    let wait = run.event("wait");
    if wait["status"] != "ICE_OK" {
        return Err(format!("{what}: no result in time: {}", wait["status"]));
    }
    let result = &wait["result"];
    let end = result["end"].as_i64().unwrap_or(-1) as i32;
    let told = result["errno"] == errno;
    let good = match end {
        END_SUCCEEDED => true,
        // An exit status that cannot be had is a lost worker, for which there is no errno.
        END_AGENT_ERROR if result["state"] == STATE_UNKNOWN => true,
        END_START_ERROR | END_AGENT_ERROR => told && result["message"] != "",
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(format!("{what}: end {end}, errno {}, {}", result["errno"], result["message"]))
    }
}

fn clean(run: &Run, what: &str) -> Result<(), String> {
    run.unclean().map_err(|left| format!("{what}: {left}"))
}

fn with_fault<'a>(host: Host<'a>, t: &Case, fault: &str) -> Host<'a> {
    let host = host.env("LD_PRELOAD", program("faults").to_str().unwrap()).env("FAULT_LOG", &t.path("calls"));
    let armed = format!("setenv=FAULT={fault}");
    host.steps(&["before", &armed, "new", "start", "wait=40", "free_agent", "unsetenv=FAULT"])
}

fn each_call_fails_in_turn(callback: bool) {
    let t = Case::new();
    with_fault(eventful(&t, callback), &t, "count:0:0").run().succeeded();
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for name in t.lines("calls") {
        *calls.entry(name).or_default() += 1;
    }
    assert!(calls.len() > 8 && calls.values().sum::<usize>() > 30, "{calls:?}");
    // waitid: an errno for a child that is there would be a lie, and the child would stay a zombie.
    calls.remove("syscall-247");
    let mut wrong = Vec::new();
    for (name, count) in calls {
        for number in 1..=count.min(15) {
            let t = Case::new();
            let what = format!("{name} number {number}");
            let errno = errno_of(&name);
            let fault = format!("{name}:{number}:{errno}");
            let (run, _) = with_fault(eventful(&t, callback), &t, &fault).spawn().finish_or_kill();
            wrong.extend(judge(&run, &what, errno).and_then(|()| clean(&run, &what)).err());
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

fn e2e_06_each_call_fails_in_turn_programs() {
    each_call_fails_in_turn(false);
}

fn e2e_06_each_call_fails_in_turn_callbacks() {
    each_call_fails_in_turn(true);
}

fn sp_21_any_descriptor_may_be_the_last() {
    let mut wrong = Vec::new();
    for callback in [false, true] {
        // The host itself has 16: its output is descriptor 15.
        for limit in 16..50 {
            let t = Case::new();
            let what = format!("callback {callback}, {limit} descriptors");
            // The limit is lifted before the host looks at itself.
            let host = eventful(&t, callback).step("before").set("limit", format!("nofile:{limit}"));
            let run = host
                .steps(&["new", "start", "wait=40", "free_agent", "limit=nofile:1000"])
                .spawn()
                .finish_or_kill()
                .0;
            wrong.extend(judge(&run, &what, libc::EMFILE).and_then(|()| clean(&run, &what)).err());
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

fn sp_22_any_process_may_be_the_last() {
    use std::os::unix::fs::PermissionsExt;
    let mut wrong = Vec::new();
    for callback in [false, true] {
        for limit in 1..8 {
            let t = Case::new();
            for dir in [t.dir.clone(), t.tmp()] {
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
            }
            std::fs::copy(probe(), t.dir.join("probe")).unwrap();
            let uid = 300_000 + std::process::id() % 100_000 + 200_000 * u32::from(callback) + 10 * limit;
            let host = eventful(&t, callback).step("chdir=/");
            let host = if callback { host } else { host.set("program", t.path("probe")) };
            let host = host.steps(&["before", &format!("limit=nproc:{limit}"), &format!("uid={uid}")]);
            let run = host.steps(&["new", "start", "wait=40", "free_agent"]).spawn().finish_or_kill().0;
            let what = format!("callback {callback}, {limit} processes");
            wrong.extend(judge(&run, &what, libc::EAGAIN).and_then(|()| clean(&run, &what)).err());
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

fn fn_values_that_no_memory_holds() {
    let t = Case::new();
    let run = t.host().callback(&["return", "small", "return_buffer", "1152921504606846976"]).run();
    // The verb ends the worker with 90 where the call fails, and says what it was.
    assert_eq!(run.worker(0)["exit_code"], 90, "{run}");
    assert!(run.err().contains("ICE_ERROR_SYSTEM"), "{}", run.err());
    run.clean();
}

fn fn_values_despite_a_file_size_limit() {
    // Values are memory: a limit for files either does not matter or is an error of the call, never SIGXFSZ.
    let t = Case::new();
    let run = t.host().step("limit=fsize:200000").callback(&["return_bytes", "5000000"]).run();
    let succeeded = run.result()["end"] == END_SUCCEEDED && run.worker(0)["value_size"] == 5_000_000;
    assert!(succeeded || run.err().contains("ICE_ERROR_SYSTEM"), "{run}");
    run.clean();
}
