//! Area DEV: the GPUs of this machine, which a stub of the CUDA driver (`tests/c/libcuda.c`) invents.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

/// Where the loader finds the stub.
pub fn stub() -> &'static str {
    built().dir.to_str().expect("a plain path")
}

/// A host whose loader finds the stub.
fn with_stub(t: &Case) -> Host<'_> {
    t.bare_host().env("LD_LIBRARY_PATH", stub()).step("before")
}

/// A host with so many GPUs. The kernel knows none of them, so that their node is node 0.
pub fn with_gpus<'a>(t: &'a Case, count: &str) -> Host<'a> {
    t.host().env("LD_LIBRARY_PATH", stub()).env("STUB_CUDA_COUNT", count)
}

/// A stub that lacks some functions; the directory it is in.
fn stub_without(t: &Case, functions: &[&str]) -> String {
    let dir = t.path(&functions.concat());
    std::fs::create_dir_all(&dir).expect("a directory");
    let mut cc = cc();
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]);
    cc.args(functions.iter().map(|name| format!("-DWITHOUT_{name}")));
    cc.arg(root().join("tests/c/libcuda.c")).arg("-o").arg(format!("{dir}/libcuda.so.1")).arg("-pthread");
    compiles(cc);
    dir
}

fn compiles(mut cc: Command) {
    let output = cc.output().expect("a C compiler");
    assert!(output.status.success(), "{cc:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// devices.c with libice linked statically.
fn static_host(t: &Case, name: &str, options: &[&str]) -> PathBuf {
    let program = t.dir.join(name);
    let mut cc = cc();
    cc.arg("-DLINKED").arg(root().join("tests/c/devices.c")).arg("-o").arg(&program);
    cc.arg(library().with_extension("a")).args(options).args(["-pthread", "-ldl", "-lm"]);
    compiles(cc);
    program
}

/// What a program prints, and its exit code.
fn prints(t: &Case, program: &Path, argument: Option<&Path>, env: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = t.command(program);
    command.env("LD_LIBRARY_PATH", &built().dir).args(argument).envs(env.iter().copied());
    let output = command.output().expect("a host");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    t.nothing_left();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

const ONE: &str = "ICE_OK \n0 GPU-00112233-4455-6677-8899-aabbccddeeff Stub GPU 0\n";

/// The list was handed out, and the run left nothing.
#[track_caller]
fn list(run: &Run) -> Vec<Value> {
    run.clean();
    assert_eq!(run.event("list_devices")["status"], "ICE_OK", "{run}");
    run.event("list_devices")["devices"].as_array().expect("a list").clone()
}

/// It was refused with a message that has all these parts, on one line, and the run left nothing.
#[track_caller]
fn fails(run: &Run, status: &str, parts: &[&str]) {
    run.clean();
    let event = run.event("list_devices");
    assert_eq!(event["status"], status, "{run}");
    let message = event["message"].as_str().expect("a message");
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    assert!(!message.contains('\n'), "one line: {message}");
}

/// The list is empty, and says why.
#[track_caller]
fn empty(run: &Run, parts: &[&str]) {
    assert_eq!(list(run).len(), 0);
    fails(run, "ICE_OK", parts);
}

fn dev_list_has_every_field() {
    let t = Case::new();
    let run =
        with_stub(&t).env("STUB_CUDA_COUNT", "3").env("STUB_CUDA_MIG", "1").set("list_devices", 0).run();
    let devices = list(&run);
    assert_eq!(run.event("list_devices")["driver_version"], 13040);
    assert_eq!(run.event("list_devices")["message"], "");
    let field = |name: &str| devices.iter().map(|device| device[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("index"), [0, 1, 2]);
    assert_eq!(field("is_mig"), [0, 1, 0]);
    assert_eq!(
        field("uuid"),
        [
            "GPU-00112233-4455-6677-8899-aabbccddeeff",
            "MIG-ab112233-4455-6677-8899-aabbccddeeff",
            "GPU-02112233-4455-6677-8899-aabbccddeeff",
        ]
    );
    assert_eq!(field("name"), ["Stub GPU 0", "Stub GPU 1", "Stub GPU 2"]);
    assert_eq!(field("memory_bytes"), [80u64 << 30, (80 << 30) + 1, (80 << 30) + 2]);
    assert_eq!(field("compute_major"), [9, 9, 9]);
    assert_eq!(field("compute_minor"), [0, 0, 0]);
    assert_eq!(field("pci_bus_id"), ["ffff:a0:00.0", "ffff:a1:00.0", "ffff:a2:00.0"]);
    assert_eq!(field("numa_node"), [0, 0, 0], "no such device in sysfs");
}

fn dev_13_the_driver_stays_out_of_the_host() {
    let t = Case::new();
    let running = t
        .bare_host()
        .env("STUB_CUDA_LOG", &t.path("pids"))
        .env("STUB_CUDA_DUMP", &t.path("probe.json"))
        .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        .env("LD_LIBRARY_PATH", &format!("/nowhere/stubs:{}", built().dir.display()))
        .step(format!("open=40:{}", t.path("opened")))
        .set("list_devices", 20)
        .set("mapped", "libcuda")
        .spawn();
    let host = running.pid();
    let run = running.finish();
    assert_eq!(list(&run).len(), 1);
    assert_eq!(run.event("mapped")["found"], 0);
    let (pids, state) = (pids_in(&t, "pids", 1), t.json("probe.json"));
    assert_eq!(pids.len(), 1);
    assert_ne!(pids[0], host);
    assert_eq!(state["ppid"], host);
    assert_eq!(state["pgid"], pids[0], "a group of its own");
    assert_eq!(state["parent_death_signal"], 9);
    assert_eq!(state["comm"], "ice-probe");
    assert_eq!(state["threads"], "1");
    assert_eq!(state["limit_core"], 0);
    for mask in ["blocked", "caught"] {
        assert_eq!(state[mask], "0000000000000000", "{mask}");
    }
    for item in state["fds"].as_array().expect("descriptors") {
        let (fd, link) = (item["fd"].as_i64().unwrap(), item["link"].as_str().unwrap());
        assert!(link == "/dev/null" || fd == 3 && link.starts_with("/memfd:"), "{item}");
        assert_eq!(item["cloexec"], i32::from(fd > 2), "{item}");
    }
    let env: Vec<&str> = state["env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let path = format!("LD_LIBRARY_PATH={}", built().dir.display());
    assert!(env.contains(&path.as_str()) && env.contains(&"CUDA_DEVICE_ORDER=PCI_BUS_ID"), "{env:?}");
}

fn dev_list_numa_node_from_sysfs() {
    let t = Case::new();
    let mut devices = std::fs::read_dir("/sys/bus/pci/devices").expect("PCI devices").flatten();
    let path = devices.next().expect("a PCI device").path();
    let node: i64 = std::fs::read_to_string(path.join("numa_node")).unwrap().trim().parse().unwrap();
    let id = path.file_name().unwrap().to_str().unwrap().to_uppercase();
    let run = with_stub(&t).env("STUB_CUDA_PCI", &id).set("list_devices", 10).run();
    let devices = list(&run);
    assert_eq!(devices[0]["numa_node"], node.max(0), "DEV-10");
    assert_eq!(devices[0]["pci_bus_id"], id.to_lowercase());
}

fn dev_list_a_hanging_driver() {
    for call in ["cuInit", "cuDriverGetVersion", "cuDeviceTotalMem_v2"] {
        let t = Case::new();
        let run = with_stub(&t)
            .env("STUB_CUDA_HANG", call)
            .env("STUB_CUDA_CHILD", call)
            .set("list_devices", 0.5)
            .run();
        fails(&run, "ICE_ERROR_TIMEOUT", &["within 0.5 s", call]);
        let wall = run.event("list_devices")["wall_ns"].as_i64().unwrap();
        assert!((500_000_000..2_500_000_000).contains(&wall), "{wall}");
        t.nothing_left();
    }
}

fn dev_list_exit_functions_of_the_driver_are_not_run() {
    let t = Case::new();
    let run = with_stub(&t).env("STUB_CUDA_AT_EXIT", "1").set("list_devices", 20).run();
    assert_eq!(list(&run).len(), 1);
}

fn dev_list_a_child_of_the_driver_is_not_left() {
    let t = Case::new();
    let run = with_stub(&t).env("STUB_CUDA_CHILD", "cuInit").set("list_devices", 20).run();
    assert_eq!(list(&run).len(), 1);
    t.nothing_left();
}

fn dev_list_a_crashing_driver() {
    for call in ["cuInit", "cuDeviceGetName"] {
        let t = Case::new();
        let run = with_stub(&t)
            .step("limit=core:1000000")
            .env("STUB_CUDA_CRASH", call)
            .set("list_devices", 20)
            .run();
        fails(&run, "ICE_ERROR_DEVICE", &["signal 11 (SIGSEGV)", call]);
        let cores = std::fs::read_dir(&t.dir).unwrap().flatten();
        assert!(cores.into_iter().all(|file| !file.file_name().to_str().unwrap().starts_with("core")));
        let run = with_stub(&t).env("STUB_CUDA_EXIT", call).set("list_devices", 20).run();
        fails(&run, "ICE_ERROR_DEVICE", &["exited with code 3", call]);
    }
}

fn dev_list_errors_of_the_driver() {
    let t = Case::new();
    let run = |fail: &str, count: &str| {
        with_stub(&t).env("STUB_CUDA_FAIL", fail).env("STUB_CUDA_COUNT", count).set("list_devices", 20).run()
    };
    fails(&run("cuInit=802", "1"), "ICE_ERROR_DEVICE", &["cuInit returned 802: system not yet initialized"]);
    // A number that no enum of today knows, and no text.
    fails(&run("cuInit=123456", "1"), "ICE_ERROR_DEVICE", &["cuInit returned 123456"]);
    fails(
        &run("cuDeviceGetUuid_v2=999", "2"),
        "ICE_ERROR_DEVICE",
        &["cuDeviceGetUuid_v2 for GPU 0 returned 999"],
    );
    fails(&run("cuDeviceGetCount=-5", "1"), "ICE_ERROR_DEVICE", &["cuDeviceGetCount returned -5"]);
}

fn dev_list_no_gpu_is_an_answer() {
    let t = Case::new();
    empty(&with_stub(&t).env("STUB_CUDA_COUNT", "0").set("list_devices", 20).run(), &["finds no GPU"]);
    let run = with_stub(&t)
        .env("STUB_CUDA_COUNT", "-1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .set("list_devices", 20)
        .run();
    empty(&run, &["cuInit returned 100: no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES is \"\""]);
    assert_eq!(run.event("list_devices")["driver_version"], 13040);
}

fn dev_list_no_driver_is_an_answer() {
    let t = Case::new();
    let dir = t.path("broken");
    t.write("broken/libcuda.so.1", b"", 0o755);
    let run = t.bare_host().env("LD_LIBRARY_PATH", &dir).set("list_devices", 20).run();
    // The loader may go on to one that this machine really has.
    if run.event("list_devices")["driver_version"] == 0 {
        empty(&run, &["no CUDA driver", "libcuda.so.1"]);
    }
    let run = t.bare_host().set("list_devices", 20).run();
    if run.event("list_devices")["driver_version"] == 0 {
        empty(&run, &["no CUDA driver", "libcuda.so.1: cannot open shared object file"]);
    }
}

fn dev_list_old_drivers() {
    let t = Case::new();
    let run = |functions: &[&str]| {
        t.bare_host()
            .env("LD_LIBRARY_PATH", &stub_without(&t, functions))
            .env("STUB_CUDA_MIG", "0")
            .set("list_devices", 20)
            .run()
    };
    let before_11_4 = list(&run(&["cuDeviceGetUuid_v2"]));
    assert_eq!(before_11_4[0]["uuid"], "GPU-00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(before_11_4[0]["is_mig"], 0);
    let before_9_2 = list(&run(&["cuDeviceGetUuid_v2", "cuDeviceGetUuid"]));
    assert_eq!(before_9_2[0]["uuid"], "");
    fails(&run(&["cuDeviceGetName"]), "ICE_ERROR_DEVICE", &["lacks cuDeviceGetName"]);
    fails(&run(&["cuInit", "cuGetErrorString"]), "ICE_ERROR_DEVICE", &["lacks cuInit"]);
}

fn dev_list_by_hosts_of_all_kinds() {
    let t = Case::new();
    for step in ["ignore=CHLD", "nowait", "block=CHLD", "reap_any", "hammer=8", "chdir=/", "close=0"] {
        let host = t.bare_host().env("LD_LIBRARY_PATH", stub());
        let run = host.step(step).step("before").set("list_devices", 20).step("unhammer").run();
        assert_eq!(run.event("list_devices")["status"], "ICE_OK", "{step}: {run}");
        assert_eq!(run.event("list_devices")["devices"][0]["name"], "Stub GPU 0", "{step}: {run}");
        assert_eq!(run.event("before")["signals"], run.event("after")["signals"], "{step}");
    }
    t.nothing_left();
}

fn dev_list_again_and_again() {
    let t = Case::new();
    let run = with_stub(&t).set("repeat", "100:list_devices=20").run();
    run.clean();
    assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    let (early, late) = (run.event("early"), run.event("late"));
    for what in ["fds", "children", "threads", "mappings"] {
        assert_eq!(early[what], late[what], "{what}");
    }
}

fn dev_list_a_probe_that_cannot_be_killed() {
    let t = Case::new();
    let running = with_stub(&t)
        .env("STUB_CUDA_HANG", "cuInit")
        .env("STUB_CUDA_LOG", &t.path("pids"))
        .set("list_devices", 3)
        .step(format!("await={}", t.path("go")))
        .step("setenv=STUB_CUDA_HANG=nothing")
        .set("list_devices", 20)
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    let freezer = Freezer::new();
    freezer.freeze(pid);
    let event = running.wait_event("list_devices");
    let stays = alive(pid);
    freezer.thaw();
    wait_for("the end of the probe", || gone(pid));
    t.write("go", b"", 0o644);
    let run = running.finish();
    assert!(stays, "the test needs a process that stays");
    assert_eq!(event["status"], "ICE_ERROR_TIMEOUT");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains(&format!("process {pid} is stuck in the kernel")), "{message}");
    assert!(event["wall_ns"].as_i64().unwrap() < 8_000_000_000, "{event}");
    // The next one reaps it.
    assert_eq!(list(&run).len(), 1);
}

fn dev_list_the_host_dies() {
    let t = Case::new();
    let running = with_stub(&t)
        .env("STUB_CUDA_HANG", "cuInit")
        .env("STUB_CUDA_LOG", &t.path("pids"))
        .set("list_devices", 60)
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    // By a signal that is not held back until the driver answers.
    running.signal(libc::SIGTERM);
    wait_for("the end of the probe", || gone(pid));
    let (run, stood) = running.finish_or_kill();
    assert_eq!((run.exit_signal(), stood), (Some(libc::SIGTERM), None));
    t.nothing_left();
}

fn dev_list_by_a_host_that_loads_the_library() {
    let t = Case::new();
    assert_eq!(prints(&t, &program("devices"), Some(&library()), &[]), (ONE.into(), Some(0)));
    // One that is not executable is run by the loader.
    let copy = t.write("libice.so", &std::fs::read(library()).unwrap(), 0o644);
    assert_eq!(prints(&t, &program("devices"), Some(Path::new(&copy)), &[]), (ONE.into(), Some(0)));
}

fn dev_list_by_a_static_host() {
    let t = Case::new();
    let host = static_host(&t, "static", &["-static-libgcc"]);
    let (text, code) = prints(&t, &host, None, &[]);
    assert!(
        text.starts_with("ICE_ERROR_CONFIG config error: runner is NULL: libice is linked statically"),
        "{text}"
    );
    assert_eq!(code, Some(1));
    assert_eq!(prints(&t, &host, Some(&library()), &[]), (ONE.into(), Some(0)));
    assert_eq!(prints(&t, &host, Some(&program("host")), &[]), (ONE.into(), Some(0)));
    assert_eq!(prints(&t, &host, None, &[("WORKER_MAIN", "first")]), (ONE.into(), Some(0)));
    // Runners that are none.
    let (text, _) = prints(&t, &host, Some(Path::new("/bin/true")), &[]);
    assert!(
        text.starts_with("ICE_ERROR_START the probe, /bin/true, exited with code 0 before it began"),
        "{text}"
    );
    let (text, _) = prints(&t, &host, Some(Path::new("/nowhere/runner")), &[]);
    assert!(text.starts_with("ICE_ERROR_SYSTEM cannot start /nowhere/runner: ENOENT"), "{text}");
    let (text, _) = prints(&t, &host, Some(&host), &[("WORKER_MAIN", "late")]);
    assert!(
        text.contains("ICE_ERROR_START") && text.contains("before it called ice_worker_main()"),
        "{text}"
    );
}

fn dev_list_by_a_host_without_a_loader() {
    let t = Case::new();
    let host = static_host(&t, "static", &["-static"]);
    let (text, _) = prints(&t, &host, None, &[]);
    assert!(text.contains("ICE_ERROR_CONFIG") && text.contains("this program is static"), "{text}");
    let (text, _) = prints(&t, &host, None, &[("WORKER_MAIN", "first")]);
    assert!(text.contains("ICE_ERROR_CONFIG") && text.contains("this program is static"), "{text}");
    assert_eq!(prints(&t, &host, Some(&library()), &[]), (ONE.into(), Some(0)));
}

/// Not a test of time, but a number to look at: `cargo test --test blackbox -- dev_list_takes --nocapture`.
fn dev_list_takes_some_milliseconds() {
    let t = Case::new();
    let run = (0..21).fold(with_stub(&t), |host, _| host.set("list_devices", 20)).run();
    run.clean();
    let mut times: Vec<i64> =
        run.events("list_devices").iter().map(|event| event["wall_ns"].as_i64().unwrap()).collect();
    times.sort();
    let median = Duration::from_nanos(times[times.len() / 2] as u64);
    eprintln!("a probe with the stub takes {median:?}");
    assert!(median < Duration::from_secs(2));
}

pub fn tests() -> Vec<Trial> {
    tests![
        dev_list_has_every_field,
        dev_13_the_driver_stays_out_of_the_host,
        needs(pci): dev_list_numa_node_from_sysfs,
        dev_list_a_hanging_driver,
        dev_list_exit_functions_of_the_driver_are_not_run,
        dev_list_a_child_of_the_driver_is_not_left,
        dev_list_a_crashing_driver,
        dev_list_errors_of_the_driver,
        dev_list_no_gpu_is_an_answer,
        dev_list_no_driver_is_an_answer,
        dev_list_old_drivers,
        dev_list_by_hosts_of_all_kinds,
        dev_list_again_and_again,
        needs(freezer): dev_list_a_probe_that_cannot_be_killed,
        dev_list_the_host_dies,
        dev_list_by_a_host_that_loads_the_library,
        dev_list_by_a_static_host,
        needs(libc_a): dev_list_by_a_host_without_a_loader,
        dev_list_takes_some_milliseconds,
    ]
}
