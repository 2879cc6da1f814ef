//! Area DEV: which devices workers get, what they are told of them, and the plan that says so beforehand.
//!
//! The GPUs are those of a stub of the CUDA driver (`tests/c/libcuda.c`).

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::dev::{stub, with_gpus};
use crate::harness::*;
use crate::sp::environment;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        dev_01_default_mode_hands_on_what_the_host_has,
        dev_02_virtual_local_rank,
        dev_02_each_rank_sees_its_own,
        dev_04_too_few_devices_are_a_config_error,
        dev_05_hip_variables,
        dev_06_the_real_local_rank,
        dev_13_counts_by_word,
        dev_cpus_need_no_devices,
        dev_sizes_that_differ,
        dev_setters_refuse,
        dev_omp_threads,
        dev_the_host_is_not_written_to,
        dev_the_plan_is_what_runs,
        dev_the_plan_of_functions_and_files,
        dev_icerun_shows_the_plan,
        dev_icerun_options,
        dev_icerun_starts_a_rank_for_each_of_8_gpus,
        dev_13_after_a_run_with_gpus_the_host_knows_no_driver,
        dev_02_a_rank_finds_its_device_alone,
        dev_uuids,
        dev_a_driver_that_fails_is_the_agents_error,
        dev_the_driver_is_asked_only_where_it_matters,
        dev_restart_without_a_gpu_that_fell_off_the_bus,
        dev_restart_though_the_driver_hangs,
        dev_stopped_while_the_driver_hangs,
    ]
}

const CUDA: &str = "CUDA_VISIBLE_DEVICES";
const HIP: &str = "HIP_VISIBLE_DEVICES";

const INHERIT: i32 = 0;
const OWN: i32 = 1;
const ALL: i32 = 2;

/// A host with eight GPUs.
fn gpus(t: &Case) -> Host<'_> {
    with_gpus(t, "8")
}

/// The command line tool, with eight GPUs.
fn tool_with_gpus<'a>(t: &'a Case, options: &[&str]) -> Tool<'a> {
    tool(t, options).env("LD_LIBRARY_PATH", stub()).env("STUB_CUDA_COUNT", "8")
}

/// The environment of each worker of a run.
fn environments(t: &Case, host: Host<'_>, kind: impl Into<Kind>) -> Vec<BTreeMap<String, String>> {
    let run = host.worker(kind, &["dump", &t.path("%g")]).run();
    run.succeeded();
    let count = run.result()["workers"].as_array().unwrap().len();
    (0..count).map(|rank| environment(&t.json(&rank.to_string()))).collect()
}

/// One variable of each worker; `-` where it is not set.
fn values(envs: &[BTreeMap<String, String>], name: &str) -> Vec<String> {
    envs.iter().map(|env| env.get(name).cloned().unwrap_or("-".into())).collect()
}

fn dev_01_default_mode_hands_on_what_the_host_has() {
    for value in ["2,5", "", "-1,x"] {
        let t = Case::new();
        let envs = environments(&t, t.host().set("local_world_size", 2).env(CUDA, value), false);
        assert_eq!(values(&envs, CUDA), [value, value]);
        assert_eq!(values(&envs, "LOCAL_RANK"), ["0", "1"]);
        for name in ["ICE_DEVICES", "ICE_DIST_BACKEND", "ICE_LOCAL_RANK"] {
            assert_eq!(values(&envs, name), ["-", "-"]);
        }
    }
}

fn dev_02_virtual_local_rank() {
    for kind in [Kind::Program, Way::Fork.into(), Way::Spawn.into(), Way::Forkserver.into()] {
        let t = Case::new();
        let host = || t.host().set("local_world_size", 2).set("virtual_local_rank", 1);
        let envs = environments(&t, host(), kind);
        assert_eq!(
            (values(&envs, CUDA), values(&envs, "LOCAL_RANK")),
            (strings(["0", "1"]), strings(["0", "0"]))
        );
        assert_eq!(values(&envs, "RANK"), ["0", "1"]);
        let envs = environments(&t, host().env(CUDA, "2, GPU-05"), kind);
        assert_eq!(values(&envs, CUDA), ["2", "GPU-05"]);
    }
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_string).to_vec()
}

fn dev_02_each_rank_sees_its_own() {
    for (visibility, devices, visible, named, backend) in [
        (None, "cuda:*", ["2", "GPU-05"], ["cuda:0", "cuda:0"], "nccl"),
        (Some(OWN), "cuda:1,0", ["GPU-05", "2"], ["cuda:0", "cuda:0"], "nccl"),
        (Some(ALL), "cuda:1,0", ["GPU-05,2", "GPU-05,2"], ["cuda:0", "cuda:1"], "nccl"),
        (Some(INHERIT), "cuda:1,0", ["2,GPU-05", "2,GPU-05"], ["cuda:1", "cuda:0"], "nccl"),
        (None, "cuda:1,1", ["GPU-05", "GPU-05"], ["cuda:0", "cuda:0"], "gloo"),
        (None, "auto:*", ["2", "GPU-05"], ["cuda:0", "cuda:0"], "nccl"),
        (None, "GPU-05,GPU-05", ["GPU-05", "GPU-05"], ["cuda:0", "cuda:0"], "gloo"),
    ] {
        let t = Case::new();
        let host =
            gpus(&t).set("devices", devices).env(CUDA, "2,GPU-05").env("ICE_DEVICES", "of an outer agent");
        let host = match visibility {
            Some(visibility) => host.set("device_visibility", visibility),
            None => host,
        };
        let envs = environments(&t, host, false);
        assert_eq!(values(&envs, CUDA), visible, "{devices}");
        assert_eq!(values(&envs, "ICE_DEVICES"), named, "{devices}");
        assert_eq!(values(&envs, "ICE_DIST_BACKEND"), [backend, backend], "{devices}");
        assert_eq!(values(&envs, "LOCAL_RANK"), ["0", "1"]);
        assert_eq!(values(&envs, "LOCAL_WORLD_SIZE"), ["2", "2"]);
    }
    // Several for one, and several on one.
    let t = Case::new();
    let host = gpus(&t).set("devices", "cuda:*").set("devices_per_rank", 2).env(CUDA, "7,6,1,0");
    assert_eq!(values(&environments(&t, host, false), CUDA), ["7,6", "1,0"]);
    let host = gpus(&t).set("devices", "cuda:*").set("ranks_per_device", 2).env(CUDA, "7,6");
    let envs = environments(&t, host, false);
    assert_eq!(values(&envs, CUDA), ["7", "7", "6", "6"]);
    assert_eq!(envs[0]["ICE_DIST_BACKEND"], "gloo");
    // What the spec sets for all counts as the host's.
    let host = gpus(&t).set("env", "CUDA_VISIBLE_DEVICES=4,3").set("devices", "cuda:*").env(CUDA, "7,6");
    assert_eq!(values(&environments(&t, host, false), CUDA), ["4", "3"]);
    let host = gpus(&t).set("clean_env", 1).set("devices", "cuda:*").env(CUDA, "7,6");
    assert_eq!(values(&environments(&t, host, false), CUDA), ["7", "6"]);
}

fn dev_04_too_few_devices_are_a_config_error() {
    for (name, value, parts) in [
        (CUDA, "2,5", vec!["CUDA_VISIBLE_DEVICES is 2,5", "2 devices", "3 are needed"]),
        (CUDA, "", vec!["CUDA_VISIBLE_DEVICES", "0 devices", "3 are needed", "empty"]),
        (CUDA, "-1", vec!["CUDA_VISIBLE_DEVICES is -1", "0 devices", "3 are needed"]),
        (CUDA, "0,-1,1,2", vec!["1 device", "3 are needed", "-1"]),
        (CUDA, "0,1,2,-1,3", vec!["entry 4 of 5 is -1"]),
        (CUDA, "0,1,two,3", vec!["2 devices", "3 are needed", "two"]),
        (CUDA, "0,1,0,2", vec!["0 devices", "3 are needed", "0 twice"]),
        (HIP, "4", vec!["HIP_VISIBLE_DEVICES is 4", "1 device", "3 are needed"]),
        (HIP, "", vec!["HIP_VISIBLE_DEVICES", "0 devices", "3 are needed"]),
    ] {
        for field in ["virtual_local_rank", "device_visibility"] {
            let t = Case::new();
            let host = t.host().set("local_world_size", 3).set(field, 1).env(name, value);
            host.probe(&["touch", &t.path("started")]).step("new").run().refused(&parts);
            assert!(!t.dir.join("started").exists());
        }
    }
    let t = Case::new();
    let host = gpus(&t).set("devices", "cuda:0-3").env(CUDA, "2,5").probe(&[]).step("new");
    host.run().refused(&["CUDA_VISIBLE_DEVICES is 2,5", "2 devices", "cuda:0-3", "4 are needed"]);
    let host = gpus(&t).set("devices", "cuda:*").env(CUDA, "").probe(&[]).step("new");
    host.run().refused(&["CUDA_VISIBLE_DEVICES", "0 devices", "needs 1"]);
    let host = gpus(&t).set("devices", "cuda:0-8").probe(&[]).step("new");
    host.run().refused(&["devices is cuda:0-8", "number 8", "9 are needed", "8 devices"]);
    // The variable promises what is not there.
    let host = gpus(&t).set("devices", "cuda:*").set("local_world_size", 3).env(CUDA, "6,7,8").probe(&[]);
    host.step("new").run().refused(&["local_world_size is 3", "make 2"]);
}

fn dev_05_hip_variables() {
    let t = Case::new();
    let host = || t.host().env(HIP, "4,6").env(CUDA, "0,1");
    let envs = environments(&t, host().set("local_world_size", 2).set("virtual_local_rank", 1), false);
    assert_eq!((values(&envs, CUDA), values(&envs, HIP)), (strings(["4", "6"]), strings(["4", "6"])));
    let envs = environments(&t, host().set("devices", "cuda:*").set("device_visibility", ALL), false);
    assert_eq!((values(&envs, CUDA), values(&envs, HIP)), (strings(["4,6", "4,6"]), strings(["4,6", "4,6"])));
    let envs = environments(&t, host().set("local_world_size", 2), false);
    assert_eq!((values(&envs, CUDA), values(&envs, HIP)), (strings(["0,1", "0,1"]), strings(["4,6", "4,6"])));
}

fn dev_06_the_real_local_rank() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("virtual_local_rank", 1);
    let host = host.probe(&["dump", &t.path("%g")]).set("arg", "--").set("arg", "a${local_rank}b");
    host.run().succeeded();
    for rank in 0..3 {
        let dump = t.json(&rank.to_string());
        let env = environment(&dump);
        assert_eq!(
            (env["LOCAL_RANK"].as_str(), env["ICE_LOCAL_RANK"].as_str()),
            ("0", rank.to_string().as_str())
        );
        assert_eq!(dump["argv"].as_array().unwrap().last().unwrap(), &format!("a{rank}b"));
    }
}

/// How many workers there are, without a start.
fn planned(host: Host<'_>) -> usize {
    let run = host.probe(&[]).steps(&["new", "plan"]).run();
    run.event("plan")["workers"].as_array().unwrap().len()
}

/// How many CPUs this test may use, as nproc(1) counts them, and no more than its group is granted.
fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn dev_13_counts_by_word() {
    let t = Case::new();
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "cpu")), cpus());
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "auto").env(CUDA, "")), cpus());
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "gpu").env(CUDA, "5,2,3")), 3);
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "auto").env(CUDA, "5,2,3")), 3);
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "7")), 7);
    assert_eq!(planned(gpus(&t).set("devices", "cpu:*")), cpus());
    // The last word counts.
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "7").set("local_world_size", 3)), 3);
    assert_eq!(planned(gpus(&t).set("local_world_size", 3).set("nproc_per_node", "7")), 7);
    // One CPU is as many as `taskset` leaves.
    if in_path("taskset") {
        let one = gpus(&t).set("nproc_per_node", "cpu").under(&["taskset", "-c", "0"]);
        assert_eq!(planned(one), 1);
    }
    let host = gpus(&t).set("nproc_per_node", "gpu").env(CUDA, "").probe(&[]).step("new");
    host.run().refused(&["CUDA_VISIBLE_DEVICES", "0 devices", "nproc_per_node gpu"]);
    // One worker for each device: it sees its own.
    let envs = environments(&t, gpus(&t).set("nproc_per_node", "gpu").env(CUDA, "5,2"), false);
    assert_eq!(values(&envs, CUDA), ["5", "2"]);
    // Without the variable those that the driver finds.
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "gpu")), 8);
    assert_eq!(planned(gpus(&t).set("nproc_per_node", "auto")), 8);
    assert_eq!(planned(with_gpus(&t, "0").set("nproc_per_node", "auto")), cpus());
    let host = with_gpus(&t, "0").set("nproc_per_node", "gpu").probe(&[]).step("new");
    host.run().refused(&["nproc_per_node is gpu", "sees 0", "the CUDA driver finds no GPU"]);
}

fn dev_cpus_need_no_devices() {
    let t = Case::new();
    let envs = environments(&t, t.host().set("devices", "cpu:0-2").env(CUDA, ""), false);
    assert_eq!(values(&envs, CUDA), ["", "", ""]);
    assert_eq!(values(&envs, "ICE_DEVICES"), ["cpu:0", "cpu:1", "cpu:2"]);
    assert_eq!(values(&envs, "ICE_DIST_BACKEND"), ["gloo", "gloo", "gloo"]);
    let envs = environments(&t, t.host().set("devices", "auto").env(CUDA, ""), false);
    assert_eq!(values(&envs, "ICE_DEVICES"), ["cpu:0"]);
}

fn dev_sizes_that_differ() {
    let t = Case::new();
    let host = |size| gpus(&t).set("local_world_size", size).set("devices", "cuda:*").env(CUDA, "3,4");
    assert_eq!(planned(host(2)), 2);
    host(4).probe(&[]).step("new").run().refused(&["local_world_size is 4", "cuda:*", "make 2", "2 devices"]);
    let pairs = host(2).set("devices_per_rank", 2).probe(&[]).step("new");
    pairs.run().refused(&["local_world_size is 2", "make 1"]);
    // Ranks are checked against the size that comes of the devices.
    let host = |rank| gpus(&t).set("devices", "cuda:*").env(CUDA, "3,4").set("local_ranks_filter", rank);
    host("2").probe(&[]).step("new").run().refused(&["local_ranks_filter is 2", "which is 2"]);
    assert_eq!(planned(host("1")), 2);
    let host = gpus(&t).set("devices", "cuda:*").env(CUDA, "3,4").set("rank_env", "1:CUDA_VISIBLE_DEVICES=3");
    host.probe(&[]).step("new").run().refused(&["rank_env", "CUDA_VISIBLE_DEVICES", "inherit"]);
}

fn dev_setters_refuse() {
    for (field, value, part) in [
        ("devices", "gpu:0", "cuda:0-2,7"),
        ("devices", "cuda:3-1", "1-3"),
        ("devices", "", "must be auto"),
        ("devices", "cpu:GPU-1", "cuda:GPU-1"),
        ("nproc_per_node", "many", "gpu, cpu or auto"),
        ("nproc_per_node", "0", "1 to 16384"),
        ("device_visibility", "3", "0, 1 or 2"),
        ("devices_per_rank", "0", "1 to 16384"),
        ("ranks_per_device", "-1", "1 to 16384"),
        ("probe_timeout", "0", "more than 0"),
        ("probe_timeout", "-3", "probe_timeout is -3"),
        ("env", "ICE_DEVICES=cuda:0", "ICE_DEVICES"),
        ("env", "ICE_LOCAL_RANK=0", "ICE_LOCAL_RANK"),
    ] {
        let t = Case::new();
        t.host().set(field, value).probe(&[]).step("new").run().refused(&[part]);
    }
    let t = Case::new();
    let host = || t.host().set("local_world_size", 2).set("virtual_local_rank", 1).probe(&[]);
    host().set("device_visibility", ALL).step("new").run().refused(&["virtual_local_rank", "own"]);
    host().set("device_visibility", INHERIT).step("new").run().refused(&["virtual_local_rank", "own"]);
    let both = host().set("devices_per_rank", 2).set("ranks_per_device", 3).step("new");
    both.run().refused(&["devices_per_rank is 2", "ranks_per_device is 3"]);
    let nothing = host().env("LD_LIBRARY_PATH", stub()).env("STUB_CUDA_COUNT", "0");
    nothing.set("device_uuids", 1).env(HIP, "0,1").step("new").run().refused(&["device_uuids", "device 0"]);
}

fn dev_omp_threads() {
    let t = Case::new();
    let seen = |host: Host<'_>| values(&environments(&t, host, false), "OMP_NUM_THREADS");
    let two = || t.host().set("local_world_size", 2);
    assert_eq!(seen(two()), ["1", "1"]);
    assert_eq!(seen(t.host()), ["-"]);
    assert_eq!(seen(two().env("OMP_NUM_THREADS", "5")), ["5", "5"]);
    assert_eq!(seen(two().env("OMP_NUM_THREADS", "")), ["", ""]);
    assert_eq!(seen(two().set("env", "OMP_NUM_THREADS=6")), ["6", "6"]);
    assert_eq!(seen(two().set("rank_env", "1:OMP_NUM_THREADS=6")), ["1", "6"]);
    assert_eq!(seen(two().set("unset_env", "OMP_NUM_THREADS")), ["-", "-"]);
    assert_eq!(seen(two().set("clean_env", 1).env("OMP_NUM_THREADS", "5")), ["1", "1"]);
}

fn dev_the_host_is_not_written_to() {
    let t = Case::new();
    let host = gpus(&t).set("devices", "cuda:*").set("virtual_local_rank", 1).env(CUDA, "3,4");
    let host = host.probe(&["dump", &t.path("%g")]);
    host.steps(&["plan", "run", "free_agent", &format!("dump_self={}", t.path("host"))]).run().succeeded();
    let env = environment(&t.json("host"));
    assert_eq!(env[CUDA], "3,4");
    for name in ["OMP_NUM_THREADS", "ICE_DEVICES", "ICE_LOCAL_RANK", "ICE_DIST_BACKEND", "LOCAL_RANK"] {
        assert!(!env.contains_key(name), "{name}");
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn dev_the_plan_is_what_runs() {
    let t = Case::new();
    let host = gpus(&t).set("devices", "cuda:*").env(CUDA, "3,4").set("log_dir", "/dev/null");
    let host = host.set("rank_env", "1:MINE=x").set("master_port", 0);
    let run = host.probe(&["dump", &t.path("%g"), "--", "r${rank}"]).steps(&["plan", "run", "plan"]).run();
    run.succeeded();
    let plans = run.events("plan");
    assert_eq!(plans[0]["workers"], plans[1]["workers"], "a plan may be made at any time");
    assert_eq!((&plans[0]["backend"], &plans[0]["spec_backend"]), (&"nccl".into(), &"nccl".into()));
    for (rank, planned) in plans[0]["workers"].as_array().unwrap().iter().enumerate() {
        let dump = t.json(&rank.to_string());
        for name in ["global_rank", "local_rank", "role_rank"] {
            assert_eq!(planned[name], rank);
        }
        assert_eq!(planned["argv"], dump["argv"]);
        assert_eq!(planned["argc"], dump["argv"].as_array().unwrap().len());
        assert_eq!(planned["devices"], format!("cuda:{rank}"));
        assert_eq!(planned["visible_devices"], ["3", "4"][rank]);
        // All but the port and the mark of the run, which are chosen at the start.
        let sorted = |list: &Value| {
            let mut env: Vec<String> = texts(list).into_iter().map(str::to_string).collect();
            env.retain(|entry| !entry.starts_with("MASTER_PORT=") && !entry.starts_with("ICE_DESCENT="));
            env.sort();
            env
        };
        assert_eq!(sorted(&planned["env"]), sorted(&dump["env"]));
        assert!(texts(&planned["env"]).contains(&"MASTER_PORT=0"));
        for name in ["stdout_log", "stderr_log", "error_file"] {
            assert_eq!(planned[name], "", "{name}");
        }
    }
}

fn dev_the_plan_of_functions_and_files() {
    let t = Case::new();
    let logs = t.path("logs");
    let host = t.host().set("log_dir", &logs).set("run_id", "job/7").set("redirects", "0:3,1:2");
    let host = host.set("local_world_size", 2).callback(&["exit", "0"]);
    let run = host.steps(&["new", "plan"]).run();
    run.clean();
    let workers = &run.event("plan")["workers"];
    let file = |rank: usize, name: &str| format!("{logs}/job_7_XXXXXXXX/attempt_0/{rank}/{name}");
    assert_eq!(workers[0]["stdout_log"], file(0, "stdout.log"));
    assert_eq!(workers[0]["stderr_log"], file(0, "stderr.log"));
    assert_eq!(
        (&workers[1]["stdout_log"], &workers[1]["stderr_log"]),
        (&"".into(), &file(1, "stderr.log").into())
    );
    assert_eq!(workers[1]["error_file"], file(1, "error.json"));
    assert_eq!((&workers[0]["argc"], &workers[0]["argv"]), (&0.into(), &Value::Array(Vec::new())));
    assert_eq!((&workers[0]["devices"], &workers[0]["visible_devices"]), (&"".into(), &"".into()));
    assert!(!t.dir.join("logs").exists(), "nothing is made");
}

fn dev_icerun_shows_the_plan() {
    let t = Case::new();
    let started = t.path("started");
    let options =
        ["--dry-run", "--devices", "cuda:1,0", "--redirects", "3", "--log-dir", "logs", "--rdzv-id", "j"];
    let shown = tool_with_gpus(&t, &options)
        .env(CUDA, "2,5")
        .probe(&["touch", &started, "--", "a b", "${local_rank}"])
        .run();
    let text = shown.exited(0).out();
    assert_eq!(shown.err(), "");
    let lines: Vec<&str> = text.lines().collect();
    let columns = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_string).collect() };
    assert!(lines[0].starts_with("RANK  LOCAL  DEVICES  CUDA_VISIBLE_DEVICES  CPUS  STDOUT"), "{text}");
    let logs = t.path("logs/j_XXXXXXXX/attempt_0");
    for (rank, devices, visible) in [(0, "cuda:1", "5"), (1, "cuda:0", "2")] {
        let files = ["stdout.log", "stderr.log", "error.json"].map(|name| format!("{logs}/{rank}/{name}"));
        let rank = rank.to_string();
        let wanted: Vec<String> =
            [&rank, &rank, devices, visible, "-"].map(str::to_string).into_iter().chain(files).collect();
        assert_eq!(columns(lines[1 + rank.parse::<usize>().unwrap()]), wanted);
    }
    assert!(text.contains(&format!("touch {started} -- 'a b' 1\n")), "{text}");
    let (all, ranks) = text.split_once("\nrank 0\n").unwrap();
    assert!(all.contains("  WORLD_SIZE=2\n") && all.contains("  OMP_NUM_THREADS=1\n"), "{text}");
    assert!(ranks.contains("  CUDA_VISIBLE_DEVICES=5\n") && ranks.contains("  LOCAL_RANK=1\n"), "{text}");
    // What the workers have from icerun's own environment is no news.
    assert!(!text.contains("TMPDIR="), "{text}");
    assert!(!t.dir.join("started").exists() && !t.dir.join("logs").exists());
    t.nothing_left();
    // Wrong options are wrong in a dry run too.
    tool_with_gpus(&t, &["--dry-run", "--devices", "cuda:0-3"])
        .env(CUDA, "2,5")
        .probe(&[])
        .run()
        .refused(&["2 devices", "4"]);
}

fn dev_icerun_options() {
    let t = Case::new();
    let dumped = |tool: Tool, count: usize, name: &str| -> Vec<String> {
        tool.probe(&["dump", &t.path("%g")]).run().exited(0);
        let envs: Vec<_> = (0..count).map(|rank| environment(&t.json(&rank.to_string()))).collect();
        values(&envs, name)
    };
    let gpu =
        |options: &[&str]| tool_with_gpus(&t, &["--nproc-per-node", "gpu"]).words(options).env(CUDA, "2,5");
    assert_eq!(dumped(gpu(&[]), 2, CUDA), ["2", "5"]);
    assert_eq!(dumped(gpu(&["--virtual-local-rank"]), 2, "LOCAL_RANK"), ["0", "0"]);
    // A script for torchrun finds what it knows.
    assert_eq!(dumped(gpu(&["--device-visibility", "inherit"]), 2, CUDA), ["2,5", "2,5"]);
    assert_eq!(dumped(gpu(&["--device-visibility", "inherit"]), 2, "LOCAL_RANK"), ["0", "1"]);
    let virtual_rank = || tool(&t, &["--nproc-per-node", "2", "--virtual-local-rank"]);
    assert_eq!(dumped(virtual_rank().env(CUDA, "2,5"), 2, CUDA), ["2", "5"]);
    assert_eq!(dumped(virtual_rank(), 2, "LOCAL_RANK"), ["0", "0"]);
    assert_eq!(dumped(virtual_rank(), 2, "ICE_LOCAL_RANK"), ["0", "1"]);
    // And the rest.
    let devices =
        |options: &[&str]| tool_with_gpus(&t, &["--devices", "cuda:*"]).words(options).env(CUDA, "7,6,1,0");
    assert_eq!(dumped(devices(&[]), 4, CUDA), ["7", "6", "1", "0"]);
    assert_eq!(dumped(devices(&["--devices-per-rank", "2"]), 2, CUDA), ["7,6", "1,0"]);
    assert_eq!(dumped(devices(&["--ranks-per-device", "2"]), 8, CUDA)[..3], ["7", "7", "6"]);
    assert_eq!(dumped(devices(&["--device-visibility", "all"]), 4, CUDA)[0], "7,6,1,0");
    assert_eq!(dumped(tool(&t, &[]).env("PET_DEVICES", "cpu:0-1"), 2, "ICE_DEVICES"), ["cpu:0", "cpu:1"]);
    for (options, parts) in [
        (vec!["--nproc-per-node", "gpu"], vec!["nproc_per_node", "gpu", "0"]),
        (vec!["--devices", "tpu:0"], vec!["--devices tpu:0", "cuda:0-2,7"]),
        (vec!["--device-visibility", "some"], vec!["--device-visibility some", "inherit"]),
        (vec!["--devices-per-rank", "0"], vec!["--devices-per-rank 0"]),
        (vec!["--nproc-per-node", "4", "--devices", "cpu:0-2"], vec!["local_world_size is 4", "make 3"]),
    ] {
        tool(&t, &options).env(CUDA, "").probe(&[]).run().refused(&parts);
    }
    // torchrun says the same, once.
    let note =
        |tool: Tool| tool.probe(&["exit", "0"]).run().exited(0).err().matches("OMP_NUM_THREADS").count();
    assert_eq!(note(tool(&t, &["--nproc-per-node", "2"])), 1);
    assert_eq!(note(tool(&t, &["--nproc-per-node", "1"])), 0);
    assert_eq!(note(tool(&t, &["--nproc-per-node", "2"]).env("OMP_NUM_THREADS", "3")), 0);
    assert_eq!(note(tool(&t, &["--nproc-per-node", "2", "--env", "OMP_NUM_THREADS=3"])), 0);
}

fn dev_icerun_starts_a_rank_for_each_of_8_gpus() {
    let t = Case::new();
    let log = t.path("driver");
    let tool = tool_with_gpus(&t, &["--nproc-per-node", "gpu"]).env("STUB_CUDA_LOG", &log);
    tool.probe(&["dump", &t.path("%g")]).run().exited(0);
    let envs: Vec<_> = (0..8).map(|rank| environment(&t.json(&rank.to_string()))).collect();
    assert_eq!(values(&envs, CUDA), strings(["0", "1", "2", "3", "4", "5", "6", "7"]));
    assert_eq!(values(&envs, "LOCAL_RANK"), strings(["0", "1", "2", "3", "4", "5", "6", "7"]));
    assert_eq!(envs[7]["ICE_DEVICES"], "cuda:0");
    assert_eq!(envs[7]["ICE_DIST_BACKEND"], "nccl");
    assert_eq!(t.lines("driver").len(), 1, "asked once, in a process of its own");
}

fn dev_13_after_a_run_with_gpus_the_host_knows_no_driver() {
    for kind in [Kind::Program, Way::Fork.into(), Way::Spawn.into(), Way::ForkserverOfLibrary.into()] {
        let t = Case::new();
        let host = gpus(&t).env("STUB_CUDA_LOG", &t.path("asked")).set("nproc_per_node", "gpu");
        let host = host.set("max_restarts", 1).worker(kind, &["until_attempt", "1", "exit", "1", ";"]);
        let running = host.steps(&["run", "mapped=libcuda"]).spawn();
        let host = running.pid().to_string();
        let run = running.finish();
        run.succeeded();
        assert_eq!(run.result()["workers"].as_array().unwrap().len(), 8);
        assert_eq!(run.event("mapped")["found"], 0);
        let asked = t.lines("asked");
        assert!(
            asked.len() == 2 && asked[0] != asked[1] && !asked.contains(&host),
            "{asked:?}, the host is {host}"
        );
    }
}

/// The workers ask the driver themselves.
fn dev_02_a_rank_finds_its_device_alone() {
    for (visibility, found) in [(OWN, 1), (ALL, 3), (INHERIT, 8)] {
        let t = Case::new();
        let host = gpus(&t).set("devices", "cuda:6,2,GPU-05").set("device_visibility", visibility);
        let host = host.set("redirects", "3").set("log_dir", t.path("logs"));
        let run = host.set("program", program("devices").display()).set("arg", library().display()).run();
        run.succeeded();
        for (rank, gpu) in [6, 2, 5].into_iter().enumerate() {
            let path = run.worker(rank)["stdout_log"].as_str().unwrap().to_string();
            let text = std::fs::read_to_string(path).unwrap();
            let devices: Vec<&str> = text.lines().skip(1).collect();
            assert_eq!(devices.len(), found, "{text}");
            let index = match visibility {
                OWN => 0,
                ALL => rank,
                _ => gpu,
            };
            assert!(devices[index].ends_with(&format!("Stub GPU {gpu}")), "{text}");
        }
    }
}

fn dev_uuids() {
    let t = Case::new();
    let host = || gpus(&t).set("devices", "cuda:1,0").set("device_uuids", 1);
    let uuid = |gpu: usize| format!("GPU-{gpu:02x}112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(values(&environments(&t, host().env(CUDA, "3,4"), false), CUDA), [uuid(4), uuid(3)]);
    let host = host().set("device_visibility", ALL);
    assert_eq!(environments(&t, host, false)[0][CUDA], format!("{},{}", uuid(1), uuid(0)));
}

fn dev_a_driver_that_fails_is_the_agents_error() {
    let t = Case::new();
    let new = |name: &str, value: &str, status: &str, parts: &[&str]| {
        let host = gpus(&t).set("devices", "cuda:*").set("probe_timeout", 0.3).env(name, value);
        let run = host.probe(&["touch", &t.path("started")]).step("new").run();
        let event = run.event("new");
        assert_eq!(event["status"], status, "{run}");
        let message = event["message"].as_str().unwrap();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        run.clean();
    };
    new("STUB_CUDA_HANG", "cuInit", "ICE_ERROR_TIMEOUT", &["within 0.3 s", "cuInit"]);
    new("STUB_CUDA_CRASH", "cuInit", "ICE_ERROR_DEVICE", &["SIGSEGV", "cuInit"]);
    new("STUB_CUDA_FAIL", "cuInit=802", "ICE_ERROR_DEVICE", &["802", "system not yet initialized"]);
    assert!(!t.dir.join("started").exists());
}

fn dev_the_driver_is_asked_only_where_it_matters() {
    let asked = |settings: &[(&str, &str)]| {
        let t = Case::new();
        let host = gpus(&t).env("STUB_CUDA_LOG", &t.path("asked")).env(CUDA, "0,1");
        let host = settings.iter().fold(host, |host, (field, value)| host.set(field, value));
        let host = host.set("max_restarts", 1);
        host.probe(&["until_attempt", "1", "exit", "1", ";"]).run().succeeded();
        t.lines("asked").len()
    };
    assert_eq!(asked(&[("local_world_size", "2")]), 0);
    assert_eq!(asked(&[("local_world_size", "2"), ("virtual_local_rank", "1")]), 0);
    assert_eq!(asked(&[("devices", "cpu:0-1")]), 0);
    assert_eq!(asked(&[("nproc_per_node", "cpu")]), 0);
    // When the agent is made, and before the restart.
    assert_eq!(asked(&[("devices", "cuda:*")]), 2);
    assert_eq!(asked(&[("nproc_per_node", "gpu")]), 2);
}

fn dev_restart_without_a_gpu_that_fell_off_the_bus() {
    for (gone, uuids, part) in [
        ("1", "0", Some("cuda:1 (Stub GPU 1, GPU-01")),
        ("0", "1", Some("cuda:0 (Stub GPU 0, GPU-00")),
        // The others have other numbers then, but the same UUIDs.
        ("2", "0", None),
        ("2", "1", None),
    ] {
        let t = Case::new();
        let host = with_gpus(&t, "4").env("STUB_CUDA_GONE", &t.path("gone")).set("max_restarts", 3);
        let host = host.set("devices", "cuda:0,1,3").set("device_uuids", uuids);
        let verbs = ["rank", "1", "attempt", "0", "append", &t.path("gone"), gone, "exit", "9", ";", ";"];
        let run = host.probe(&verbs).run();
        let message = run.result()["message"].as_str().unwrap().to_string();
        match part {
            Some(part) => {
                run.failed_as(END_AGENT_ERROR);
                for part in [part, "in attempt 1", "no longer there", "finds 3 devices, 4 devices before"] {
                    assert!(message.contains(part), "'{part}' is not in: {message}");
                }
            }
            None if uuids == "1" => {
                run.succeeded();
                assert_eq!(run.result()["restarts"], 1);
            }
            None => {
                run.failed_as(END_AGENT_ERROR);
                for part in ["cuda:3 (Stub GPU 3", "local rank 2", "is now cuda:2", "device_uuids"] {
                    assert!(message.contains(part), "'{part}' is not in: {message}");
                }
            }
        }
    }
}

/// A driver that does not answer may still do for the workers: they will see.
fn dev_restart_though_the_driver_hangs() {
    let t = Case::new();
    let (hang, log) = (t.path("hang"), t.path("log"));
    let host = gpus(&t).env("STUB_CUDA_HANG", "cuInit").env("STUB_CUDA_HANG_IF", &hang);
    let host = host.set("log_callback", &log).set("probe_timeout", 0.3);
    let host = host.set("devices", "cuda:0,1").set("max_restarts", 1);
    let run = host.probe(&["until_attempt", "1", "touch", &hang, "exit", "1", ";"]).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 1);
    let said = t.read("log");
    assert!(
        said.contains("could not be looked at before the restart") && said.contains("within 0.3 s"),
        "{said}"
    );
}

fn dev_stopped_while_the_driver_hangs() {
    let t = Case::new();
    let hang = t.path("hang");
    let host = gpus(&t).env("STUB_CUDA_HANG", "cuInit").env("STUB_CUDA_HANG_IF", &hang);
    let host = host.env("STUB_CUDA_LOG", &t.path("asked")).set("probe_timeout", 100);
    let host = host.set("devices", "cuda:0,1").set("max_restarts", 1);
    let host = host.probe(&["until_attempt", "1", "touch", &hang, "exit", "1", ";"]);
    let asked = format!("await_lines={}:2", t.path("asked"));
    let run = host.steps(&["start", &asked, "stop=0", "wait=60"]).run();
    assert_eq!(run.result()["end"], END_INTERRUPTED, "{run}");
    run.clean();
}
