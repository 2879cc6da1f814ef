//! Area DEV, the part of it that is about CPUs: what workers are bound to, on the machine that the tests run on.
//! The sets for other machines are in the unit tests of `src/device`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::dev::{stub, with_gpus};
use crate::harness::*;
use crate::sp::environment;
use crate::tool::tool;
use crate::{tests, tests_by_way};

const COMPACT: i32 = 5;
const THREADS: &str = "OMP_NUM_THREADS";

pub fn tests() -> Vec<Trial> {
    let mut all = tests![
        dev_12_off_unless_asked_for,
        dev_12_a_program_and_all_that_it_starts,
        dev_12_restarts_keep_it,
        dev_12_never_beyond_what_is_left_to_the_host,
        dev_12_the_host_is_not_touched,
        dev_12_a_thread_for_each_core,
        dev_12_what_the_kernel_refuses_is_a_start_error_for_programs,
        dev_09_more_workers_than_cores,
        dev_08_without_devices,
        dev_08_near_the_device,
        dev_08_values,
        dev_08_the_tool,
    ];
    all.extend(tests_by_way![Way::ALL;
        dev_12_a_function_and_all_that_it_starts,
        dev_12_what_the_kernel_refuses_is_a_start_error,
        dev_12_a_function_is_not_bound_unless_asked_for,
    ]);
    all
}

/// The physical cores that this process may use.
fn cores() -> Vec<BTreeSet<i64>> {
    let mut cores: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for cpu in own_cpus() {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.entry(fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string())).or_default().insert(cpu);
    }
    cores.into_values().collect()
}

fn own_cpus() -> BTreeSet<i64> {
    // SAFETY: an empty set, which the kernel fills; a plain look into it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
        (0..1024).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).map(|cpu| cpu as i64).collect()
    }
}

fn last_cpu() -> i64 {
    *own_cpus().last().expect("a CPU")
}

fn cpus(dump: &Value, key: &str) -> BTreeSet<i64> {
    dump[key].as_array().expect("CPUs").iter().map(|cpu| cpu.as_i64().expect("a CPU")).collect()
}

/// So many workers have all whole cores, each its own.
fn divided(sets: &[BTreeSet<i64>]) {
    assert_eq!(sets.iter().flatten().copied().collect::<BTreeSet<_>>(), own_cpus());
    for core in cores() {
        assert_eq!(sets.iter().filter(|set| !set.is_disjoint(&core)).count(), 1, "{core:?} in {sets:?}");
    }
}

/// A worker, a thread of it, its child, and a thread of that.
const DUMPS: [&str; 4] = ["self", "thread", "child", "thread-of-child"];

fn starts_others(t: &Case) -> Vec<String> {
    let [own, thread, child, both] = DUMPS.map(|name| t.path(&format!("%r.{name}")));
    let verbs =
        ["dump", &own, "thread", "dump", &thread, ";", "child", "dump", &child, "thread", "dump", &both];
    verbs.into_iter().chain([";", ";", "wait_children"]).map(str::to_string).collect()
}

fn binds_all(kind: Kind) {
    let t = Case::new();
    let ranks = cores().len().min(4);
    let verbs = starts_others(&t);
    let words: Vec<&str> = verbs.iter().map(String::as_str).collect();
    let host = t.host().set("local_world_size", ranks).set("cpu_binding", COMPACT).env_remove(THREADS);
    host.worker(kind, &words).run().succeeded();
    let of = |rank: usize, name: &str| t.json(&format!("{rank}.{name}"));
    let sets: Vec<_> = (0..ranks).map(|rank| cpus(&of(rank, "self"), "cpus")).collect();
    divided(&sets);
    for (rank, set) in sets.iter().enumerate() {
        for name in DUMPS {
            assert_eq!(&cpus(&of(rank, name), "cpus"), set, "{name}");
        }
        let own = of(rank, "self");
        // What was executed found itself bound; a forked copy was something else before.
        if !matches!(kind, Kind::Function(way) if way == Way::Fork || way.has_server()) {
            assert_eq!(&cpus(&own, "first_cpus"), set);
        }
        let count = cores().iter().filter(|core| !core.is_disjoint(set)).count();
        assert_eq!(environment(&own)[THREADS], count.to_string());
        if kind == Kind::Program {
            assert_eq!(own["argv"].as_array().expect("argv")[1..], verbs, "nothing is added");
        }
    }
}

fn dev_12_a_program_and_all_that_it_starts() {
    binds_all(Kind::Program);
}

fn dev_12_a_function_and_all_that_it_starts(way: Way) {
    binds_all(way.into());
}

fn not_bound(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).env_remove(THREADS);
    host.worker(kind, &["dump", &t.path("%r")]).run().succeeded();
    for rank in ["0", "1"] {
        assert_eq!(cpus(&t.json(rank), "cpus"), own_cpus());
        assert_eq!(environment(&t.json(rank))[THREADS], "1", "torchrun's rule");
    }
}

fn dev_12_off_unless_asked_for() {
    not_bound(Kind::Program);
    // Asked for, and not any more.
    let t = Case::new();
    let host = t.host().set("cpu_binding", COMPACT).set("cpu_binding", 0).set("cpu", last_cpu());
    host.probe(&["dump", &t.path("dump")]).run().succeeded();
    assert_eq!(cpus(&t.json("dump"), "cpus"), [last_cpu()].into());
}

fn dev_12_a_function_is_not_bound_unless_asked_for(way: Way) {
    not_bound(way.into());
}

fn dev_12_restarts_keep_it() {
    for kind in [Kind::Program, Kind::Function(Way::Fork), Kind::Function(Way::Forkserver)] {
        let t = Case::new();
        let ranks = cores().len().min(3);
        let host = t.host().set("local_world_size", ranks).set("max_restarts", 2);
        let verbs = ["dump", &t.path("%a.%r"), "append", &t.path("up.%a"), "x"];
        // All have begun when one fails.
        let (lines, count) = (t.path("up.%a"), ranks.to_string());
        let then = [
            "await_lines",
            &lines,
            &count,
            "until_attempt",
            "2",
            "rank",
            "0",
            "exit",
            "3",
            ";",
            "pause",
            ";",
        ];
        host.set("cpu_binding", COMPACT).worker(kind, &[&verbs[..], &then[..]].concat()).run().succeeded();
        let sets = |attempt: usize| -> Vec<_> {
            (0..ranks).map(|rank| cpus(&t.json(&format!("{attempt}.{rank}")), "cpus")).collect()
        };
        divided(&sets(0));
        assert_eq!((sets(1), sets(2)), (sets(0), sets(0)), "{kind:?}");
    }
}

fn dev_12_never_beyond_what_is_left_to_the_host() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("cpu", last_cpu()).set("cpu_binding", COMPACT).env_remove(THREADS);
        host.worker(kind, &["dump", &t.path("dump")]).run().succeeded();
        let dump = t.json("dump");
        assert_eq!(cpus(&dump, "cpus"), [last_cpu()].into(), "{kind:?}");
        assert_eq!(environment(&dump)[THREADS], "1");
    }
}

fn dev_12_the_host_is_not_touched() {
    for kind in [Kind::Program, Kind::Function(Way::Fork), Kind::Function(Way::Forkserver)] {
        let t = Case::new();
        let ranks = cores().len().min(2);
        let host = t.host().set("local_world_size", ranks).set("cpu_binding", COMPACT);
        let verbs = ["append", &t.path("up"), "x", "await", &t.path("go")];
        let running = host.worker(kind, &verbs).spawn();
        t.wait_lines("up", ranks);
        let list = |status: String| {
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).map(str::to_string);
            line.expect("a list")
        };
        let own = list(fs::read_to_string("/proc/self/status").expect("a status"));
        let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("threads");
        let statuses: Vec<_> =
            tasks.flatten().flat_map(|task| fs::read_to_string(task.path().join("status"))).collect();
        assert!(statuses.len() > 1, "the agent's thread is there too");
        for status in statuses {
            assert_eq!(list(status), own);
        }
        t.write("go", b"", 0o644);
        running.finish().succeeded();
    }
}

fn dev_12_a_thread_for_each_core() {
    let count = cores().len().to_string();
    for (steps, host_value, wanted) in [
        (&[][..], None, Some(count.as_str())),
        (&[], Some("7"), Some("7")),
        (&["env=OMP_NUM_THREADS=3"], Some("7"), Some("3")),
        (&["rank_env=0:OMP_NUM_THREADS=3"], None, Some("3")),
        (&["unset_env=OMP_NUM_THREADS"], Some("7"), None),
        (&["unset_rank_env=0:OMP_NUM_THREADS"], None, None),
        (&["clean_env=1"], Some("7"), Some(count.as_str())),
        (&["rank_env=0:OTHER=1"], None, Some(count.as_str())),
    ] {
        let t = Case::new();
        let host = t.host().steps(steps).set("cpu_binding", COMPACT);
        let host = match host_value {
            Some(value) => host.env(THREADS, value),
            None => host.env_remove(THREADS),
        };
        host.probe(&["dump", &t.path("dump")]).run();
        let have = environment(&t.json("dump")).get(THREADS).cloned();
        assert_eq!(have.as_deref(), wanted, "{steps:?} {host_value:?}");
    }
}

fn refused_by_the_kernel(kind: Kind) {
    let t = Case::new();
    let deny = libc::SYS_sched_setaffinity;
    let host = t.host().set("cpu_binding", COMPACT).set("deny", deny).set("log_dir", t.path("logs"));
    let run = host.worker(kind, &["touch", &t.path("ran")]).run();
    run.failed_as(END_START_ERROR);
    let message = run.result()["message"].as_str().expect("a message");
    assert!(message.contains("bind") && message.contains("EPERM"), "{message}");
    assert_eq!(run.result()["errno"], libc::EPERM);
    assert!(!t.dir.join("ran").exists());
}

fn dev_12_what_the_kernel_refuses_is_a_start_error_for_programs() {
    refused_by_the_kernel(Kind::Program);
}

fn dev_12_what_the_kernel_refuses_is_a_start_error(way: Way) {
    refused_by_the_kernel(way.into());
}

fn dev_09_more_workers_than_cores() {
    let t = Case::new();
    let host = t.host().set("cpu", last_cpu()).set("cpu_binding", COMPACT).set("local_world_size", 3);
    let run = host.probe(&["touch", &t.path("ran")]).run();
    run.failed_as(END_START_ERROR);
    let message = run.result()["message"].as_str().expect("a message");
    assert!(message.contains("used: 1") && message.contains("workers: 3"), "{message}");
    assert!(!t.dir.join("ran").exists());
}

fn dev_08_near_the_device() {
    let list = fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap_or_default();
    let parse = |list: &str| -> BTreeSet<i64> {
        let ranges = list.trim().split(',').filter(|range| !range.is_empty());
        let number = |text: &str| text.parse::<i64>().expect("a CPU");
        let ends = ranges.map(|range| range.split_once('-').unwrap_or((range, range)));
        ends.flat_map(|(first, last)| number(first)..=number(last)).collect()
    };
    let node = parse(&list);
    let near: BTreeSet<i64> =
        if node.is_empty() { own_cpus() } else { own_cpus().intersection(&node).copied().collect() };
    if near.is_empty() {
        let t = Case::new();
        let run =
            with_gpus(&t, "2").set("devices", "cuda:*").set("cpu_binding", 1).probe(&["exit", "0"]).run();
        run.failed_as(END_START_ERROR);
        assert!(run.result()["message"].as_str().expect("a message").contains("none of whose CPUs"));
        return;
    }
    // With devices named, and where workers choose by their local ranks.
    for (field, value) in [("devices", "cuda:*"), ("local_world_size", "2")] {
        let t = Case::new();
        let host = with_gpus(&t, "2").set(field, value).set("cpu_binding", 1);
        let run = host.probe(&["dump", &t.path("%r")]).steps(&["plan", "run"]).run();
        run.succeeded();
        for rank in ["0", "1"] {
            assert_eq!(cpus(&t.json(rank), "cpus"), near, "{field}");
        }
        let planned = run.event("plan")["workers"][1]["cpus"].as_str().unwrap();
        assert_eq!(parse(planned), near);
    }
    // Exclusive: whole cores, each its own, of node 0.
    let t = Case::new();
    let near_cores = cores().iter().filter(|core| !core.is_disjoint(&near)).count();
    let run = with_gpus(&t, "2").set("devices", "cuda:*").set("cpu_binding", 3);
    let run = run.probe(&["dump", &t.path("%r")]).run();
    if near_cores >= 2 {
        run.succeeded();
        let sets = ["0", "1"].map(|rank| cpus(&t.json(rank), "cpus"));
        assert!(sets[0].is_disjoint(&sets[1]));
        assert_eq!(sets.iter().flatten().copied().collect::<BTreeSet<_>>(), near);
    } else {
        run.failed_as(END_START_ERROR);
        let message = run.result()["message"].as_str().expect("a message");
        assert!(message.contains("devices: 2") && message.contains("used: 1"), "DEV-09: {message}");
    }
}

fn dev_08_without_devices() {
    for (binding, name) in [(1, "node"), (2, "socket"), (3, "exclusive"), (4, "core-complex")] {
        let t = Case::new();
        let host = with_gpus(&t, "0").set("cpu_binding", binding).set("max_restarts", 3);
        let run = host.probe(&["exit", "0"]).run();
        run.failed_as(END_START_ERROR);
        let message = run.result()["message"].as_str().expect("a message");
        assert!(message.contains(&format!("({name})")) && message.contains("devices: 0"), "{message}");
        assert_eq!(run.result()["restarts"], 0);
    }
}

fn dev_08_values() {
    for bad in ["-1", "6"] {
        let t = Case::new();
        let host = t.host().set("cpu_binding", bad).step("new");
        host.probe(&["exit", "0"]).run().refused(&["cpu_binding", bad, "0 to 5"]);
    }
}

fn dev_08_the_tool() {
    let t = Case::new();
    let ranks = cores().len().min(2).to_string();
    let bound = ["--numa-binding", "compact", "--nproc-per-node", &ranks, "--log-dir", "/dev/null"];
    let ended = tool(&t, &bound).probe(&["dump", &t.path("%r")]).run();
    assert_eq!((ended.exited(0).err().as_str(), ended.out().as_str()), ("", ""), "no note on threads");
    let dumps: Vec<_> =
        (0..ranks.parse().expect("a number")).map(|rank: i32| t.json(&rank.to_string())).collect();
    divided(&dumps.iter().map(|dump| cpus(dump, "cpus")).collect::<Vec<_>>());
    let ended = tool(&t, &bound).env(THREADS, "9").probe(&["dump", &t.path("%r")]).run();
    ended.exited(0);
    assert_eq!(environment(&t.json("0"))[THREADS], "9");
    let names = ["--numa-binding", "core-complex", "compact"];
    tool(&t, &["--numa-binding", "cores"]).probe(&["exit", "0"]).run().refused(&names);
    tool(&t, &["--numa-binding="]).probe(&["exit", "0"]).run().refused(&names);
    let ended = tool(&t, &["--numa-binding", "node"])
        .env("LD_LIBRARY_PATH", stub())
        .env("STUB_CUDA_COUNT", "0")
        .probe(&["exit", "0"])
        .run();
    assert_ne!(ended.status.code(), Some(0));
    assert!(ended.err().contains("(node)") && ended.err().contains("devices: 0"), "{}", ended.err());
}
