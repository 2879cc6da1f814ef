//! Area E2E: whole jobs.

use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

const ALL_REDUCE: &[u8] = br#"
import os, sys
import torch
import torch.distributed as dist

names = ["RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_WORLD_SIZE",
         "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
         "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCH_NCCL_ASYNC_ERROR_HANDLING"]
missing = [name for name in names if name not in os.environ]
assert not missing, missing

# The same port again after a restart: the first attempt fails after it has listened.
dist.init_process_group("gloo", init_method="env://")
rank, size = dist.get_rank(), dist.get_world_size()
value = torch.tensor([float(rank + 1)])
dist.all_reduce(value)
assert value.item() == size * (size + 1) / 2, value
dist.barrier()
dist.destroy_process_group()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ.get("FAIL_ONCE") and rank == 1:
    sys.exit(13)
open(os.path.join(sys.argv[1], f"sum.{rank}"), "w").write(str(value.item()))
"#;

fn e2e_01_a_torch_script_runs_unmodified() {
    let t = Case::new();
    let python = torch_python().expect("a Python with torch");
    let script = t.write("all_reduce.py", ALL_REDUCE, 0o644);
    let ended =
        tool(&t, &["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", &script, &t.path("")])
            .env("PYTHON_EXEC", python.to_str().expect("a path"))
            .env("FAIL_ONCE", "1")
            .run();
    ended.exited(0);
    for rank in 0..2 {
        assert_eq!(t.read(&format!("sum.{rank}")), "3.0");
    }
    assert!(ended.err().contains("13"), "the failure of the first attempt is told: {}", ended.err());
    t.nothing_left();
}

const RECORD: &[u8] = br#"
import os
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    if os.environ["RANK"] == "1":
        raise ValueError("no such data set: 'x'")
    import time
    time.sleep(100)

main()
"#;

fn e2e_01_torchs_record_is_read() {
    let t = Case::new();
    let python = torch_python().expect("a Python with torch");
    let script = t.write("record.py", RECORD, 0o644);
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("log_dir", t.path("logs"))
        .set("redirects", 3)
        .set("program", python.display())
        .set("arg", script)
        .run();
    run.failed_as(END_WORKER_FAILURE);
    let root = &run.result()["root_cause"];
    let field = |name: &str| root[name].as_str().expect("a text").to_string();
    assert_eq!(root["global_rank"], 1);
    assert!(field("message").contains("ValueError: no such data set: 'x'"), "{root}");
    assert!(field("call_stack").contains("Traceback") && field("call_stack").contains("record.py"), "{root}");
    assert!(root["error_timestamp"].as_i64().is_some_and(|time| time > 1_700_000_000), "{root}");
    assert!(field("stderr_tail").contains("ValueError"), "{root}");
}

fn e2e_02_a_trainer_survives_ten_kills() {
    let t = Case::new();
    let mut dice = Dice::new();
    fs::create_dir(t.dir.join("train")).expect("a directory");
    let dir = t.path("train");
    let running = t
        .host()
        .set("local_world_size", 4)
        .set("max_restarts", 100)
        .set("program", program("trainer").display())
        .set("arg", &dir)
        .set("arg", 2000)
        .spawn();
    for attempt in 0..10 {
        let pids = pids_in(&t, &format!("train/pids.{attempt}"), 4);
        std::thread::sleep(Duration::from_millis(20 + dice.below(60)));
        assert!(send(pids[dice.below(4) as usize], libc::SIGKILL));
    }
    t.write("train/finish", b"", 0o644);
    let run = running.finish();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 10, "{run}");
    assert_eq!(run.result()["failures"].as_array().map(Vec::len), Some(10));
    for rank in 0..4 {
        let expected = (rank + 1) * 2000 * 2001 / 2;
        assert_eq!(t.read(&format!("train/checkpoint.{rank}")), format!("2000 {expected}\n"));
    }
}

fn e2e_05_little_time_is_lost() {
    let t = Case::new();
    let run = || tool(&t, &["--nproc-per-node", "8", "--no-python", "true"]).run();
    let best = (0..10).map(|_| run()).inspect(|ended| _ = ended.exited(0)).map(|ended| ended.wall).min();
    assert!(best < Some(Duration::from_millis(500)), "eight times `true` took {best:?}");
}

/// What one run comes to when call number `when` of a kind fails.
fn with_fault(call: &str, error: &str, when: usize) -> bool {
    let t = Case::new();
    let log = t.path("calls");
    // The count is one for each process and thread, so workers and the watcher meet their faults too.
    let inject = format!("inject={call}:error={error}:when={when}");
    let trace = format!("trace={call}");
    let strace = ["strace", "-f", "-q", "-o", &log, "-e", &trace, "-e", &inject];
    let ended = tool(
        &t,
        &["--nproc-per-node", "2", "--tee", "3", "--log-dir", &t.path("logs"), "--shutdown-timeout", "1"],
    )
    .under(&strace)
    .probe(&["print", "x"])
    .run();
    let hit = t.read("calls").contains("(INJECTED)");
    let code = ended.status.code();
    assert!(code.is_some(), "{call} {when}: {ended:?}");
    if code != Some(0) {
        assert!(!ended.err().is_empty(), "{call} {when}: no reason for exit status {code:?}");
    }
    no_process_left(&t);
    hit
}

fn e2e_06_a_failing_system_call_is_no_disaster() {
    let calls = [
        ("clone,clone3,vfork,fork", "EAGAIN"),
        ("pipe2,eventfd2,memfd_create", "EMFILE"),
        ("openat,open", "EMFILE"),
        ("dup,dup2,dup3,fcntl", "EMFILE"),
        ("epoll_create1,epoll_ctl", "ENOMEM"),
        ("socket,bind", "ENOBUFS"),
        ("mkdir,mkdirat", "ENOSPC"),
        ("ftruncate,setpgid,prctl", "EPERM"),
    ];
    four_at_a_time(calls.len(), |i| {
        let (call, error) = calls[i];
        let mut hits = 0;
        for when in 1..40 {
            if with_fault(call, error, when) {
                hits += 1;
            } else if when > 3 {
                break;
            }
        }
        assert!(hits > 0, "{call} was never called");
    });
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(torch): e2e_01_a_torch_script_runs_unmodified,
        needs(torch): e2e_01_torchs_record_is_read,
        e2e_02_a_trainer_survives_ten_kills,
        e2e_05_little_time_is_lost,
        needs(strace): e2e_06_a_failing_system_call_is_no_disaster,
    ]
}
