//! PyTorch under icerun on several nodes, its store as the place where agents meet, and torchrun beside us.
//!
//! `LIBICE_TEST_TORCH_PYTHON` names the Python. Where there is none: `python3 -m venv DIR && DIR/bin/pip install torch
//! --index-url https://download.pytorch.org/whl/cpu`, and then `LIBICE_TEST_TORCH_PYTHON=DIR/bin/python`.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::chaos::*;
use crate::harness::*;
use crate::store::Serving;
use crate::tests;
use crate::tool::*;

/// A script that knows nothing of libice: `ddp.py DIR NAME` trains with DDP and writes its last loss to NAME.loss. With KILL_AT a
/// rank kills itself once, at that step; the others are in a collective then.
const DDP: &[u8] = br#"
import os, signal, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

names = ["RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_WORLD_SIZE",
         "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
         "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCH_NCCL_ASYNC_ERROR_HANDLING"]
missing = [name for name in names if name not in os.environ]
assert not missing, missing

path = os.path.join(sys.argv[1], sys.argv[2])
dist.init_process_group("gloo", init_method="env://")
rank, size = dist.get_rank(), dist.get_world_size()
value = torch.tensor([float(rank + 1)])
dist.all_reduce(value)
assert value.item() == size * (size + 1) / 2, value
open(f"{path}.touched.{rank}", "w").close()

torch.manual_seed(0)
inputs, wanted = torch.randn(16, 4), torch.randn(16, 1)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
begin = 0
if os.path.exists(path + ".checkpoint"):
    begin, state = torch.load(path + ".checkpoint", weights_only=True)
    model.module.load_state_dict(state)
for step in range(begin, 8):
    if step == int(os.environ.get("KILL_AT", -1)) and rank == 1 and not os.path.exists(path + ".killed"):
        open(path + ".killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    loss = torch.nn.functional.mse_loss(model(inputs[rank::size]), wanted[rank::size])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if rank == 0:
        torch.save((step + 1, model.module.state_dict()), path + ".part")
        os.replace(path + ".part", path + ".checkpoint")
    dist.barrier()
dist.all_reduce(loss.detach())
if rank == 0:
    open(path + ".loss", "w").write(repr(loss.item()))
dist.destroy_process_group()
"#;

/// `elastic.py DIR` keeps all ranks at an all-reduce until DIR/finish is there. Its journal is that of elastic.c, with
/// the node's name behind it.
const ELASTIC: &[u8] = br#"
import datetime, os, sys, time
import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
env = os.environ
line = [env["ICE_ROUND"], env["RANK"], env["WORLD_SIZE"], env["MASTER_ADDR"] + ":" + env["MASTER_PORT"], str(os.getpid()), env.get("NODE", "")]
with open(os.path.join(sys.argv[1], "journal"), "a") as journal:
    journal.write(" ".join(line) + "\n")
while True:
    value = torch.tensor([1.0, float(os.path.exists(os.path.join(sys.argv[1], "finish")))])
    dist.all_reduce(value)
    assert value[0] == dist.get_world_size(), value
    if value[1] > 0:
        break
    time.sleep(0.02)
dist.destroy_process_group()
"#;

/// Serves a store and says its port: `server.py LIBUV`.
const SERVER: &[u8] = br#"
import sys
import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, use_libuv=sys.argv[1] == "1")
print(store.port, flush=True)
sys.stdin.read()
print("freed")
"#;

fn python() -> String {
    torch_python().expect("a Python with torch").to_str().expect("a plain path").into()
}

/// The script as the worker of this node.
fn script<'a>(node: Tool<'a>, path: &str, words: &[&str]) -> Tool<'a> {
    node.env("PYTHON_EXEC", &python()).words(&[path]).words(words)
}

/// A trainer of four ranks on one node comes to the same loss as on two, and as with a rank killed in the middle: the
/// restart finds no key of the attempt before.
fn e2e_01_store_13_ddp_on_two_nodes_is_ddp_on_one() {
    let t = Case::new();
    let path = t.write("ddp.py", DDP, 0o644);
    let dir = t.path("");
    let one = tool(&t, &["--standalone", "--nproc-per-node", "2"]);
    script(one, &path, &[&dir, "one"]).run().exited(0);
    for backend in ["static", "c10d"] {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let nodes: Vec<Started> = ["0", "1"]
            .iter()
            .map(|rank| {
                let place = ["--rdzv-backend", backend, "--rdzv-endpoint", &endpoint, "--rdzv-id", "ddp"];
                let node = tool(&t, &["--nnodes", "2", "--node-rank", rank, "--max-restarts", "1"]);
                script(node.words(&place).env("KILL_AT", "4"), &path, &[&dir, backend]).spawn()
            })
            .collect();
        all_succeed(nodes);
        assert!(t.dir.join(format!("{backend}.killed")).exists());
        (0..2).for_each(|rank| drop(t.read(&format!("{backend}.touched.{rank}"))));
        assert_eq!(t.read(&format!("{backend}.loss")), t.read("one.loss"), "{backend}");
    }
    no_process_left(&t);
}

/// The one that was there stays rank 0 when another one comes, and goes on alone when that is killed.
fn dyn_05_a_node_comes_and_is_killed() {
    let t = Case::new();
    let path = t.write("elastic.py", ELASTIC, 0o644);
    let conf = "keep_alive_interval=0.5,keep_alive_max_attempt=10,last_call_timeout=0.5";
    let nodes =
        Nodes::c10d(&t, "1:2", &format!("127.0.0.1:{}", free_port()), conf).with(&["--max-restarts", "3"]);
    let start = |name: &str| {
        let name = format!("NODE={name}");
        script(nodes.node(&["--env", &name]), &path, &[&t.path("")]).spawn()
    };
    let first = start("first");
    wait_for_round(&t, 0, 1);
    let second = start("second");
    let round = wait_for_round(&t, 1, 2);
    assert_eq!(round[0].master, round[1].master);
    let is_first = |line: &String| line.starts_with("1 0 2 ") && line.ends_with(" first");
    assert!(t.lines("journal").iter().any(is_first), "{:?}", t.lines("journal"));
    second.kill();
    wait_for_round(&t, 2, 1);
    t.write("finish", b"", 0o644);
    first.finish().exited(0);
    no_process_left(&t);
}

/// Agents that meet at a store of torch's, and lose the first of them.
fn the_first_node_is_lost(libuv: &str) {
    let t = Case::new();
    let path = t.write("elastic.py", ELASTIC, 0o644);
    let server = t.write("server.py", SERVER, 0o644);
    let mut serve = t.command(python());
    serve.args([&server, libuv]).env("TORCH_CPP_LOG_LEVEL", "ERROR");
    let store = Serving::of(serve);
    let conf = "is_host=0,keep_alive_interval=0.5,keep_alive_max_attempt=10,last_call_timeout=30";
    let nodes =
        Nodes::c10d(&t, "2:3", &format!("127.0.0.1:{}", store.port), conf).with(&["--max-restarts", "3"]);
    let start = || script(nodes.node(&[]), &path, &[&t.path("")]).spawn();
    let mut agents: Vec<Started> = (0..3).map(|_| start()).collect();
    let round = wait_for_round(&t, 0, 3);
    let first = round.iter().find(|entry| entry.rank == 0).expect("rank 0").pid;
    let at = agents.iter().position(|agent| children(agent.pid()).contains(&first)).expect("its agent");
    agents.remove(at).kill();
    let next = wait_for_round(&t, 1, 2);
    assert_eq!(next[0].master, next[1].master);
    assert_ne!(next[0].master, round[0].master);
    t.write("finish", b"", 0o644);
    all_succeed(agents);
    store.end();
    no_process_left(&t);
}

fn dyn_06_the_first_node_is_lost_on_a_store_of_torch() {
    the_first_node_is_lost("1");
}

fn dyn_06_the_first_node_is_lost_on_the_older_store_of_torch() {
    the_first_node_is_lost("0");
}

/// torchrun with the same rendezvous.
fn torchrun(t: &Case, endpoint: &str, conf: &str, name: &str) -> std::process::Child {
    let mut command: Command = t.command(python());
    command.args([
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "nodes",
    ]);
    command.args(["--rdzv-endpoint", endpoint, "--rdzv-conf", conf, "--no-python", "true"]);
    let file = std::fs::File::create(t.dir.join(name)).expect("a file");
    command.stdout(Stdio::null()).stderr(file).spawn().expect("torchrun")
}

/// The one who comes second is refused, and the job of the first goes on.
fn dyn_37_torchrun_and_icerun_under_one_run_id() {
    let t = Case::new();
    let endpoint = format!("127.0.0.1:{}", free_port());
    // With the user's secret torchrun is not let in at all: it says so, again and again, until its time is over.
    let nodes = Nodes::c10d(&t, "2", &endpoint, "keep_alive_interval=1,secret_file=none");
    let start = || nodes.node(&[]).words(&["--no-python", "true"]).spawn();
    let first = start();
    wait_for("the rendezvous", || std::net::TcpStream::connect(&endpoint).is_ok());
    let status = torchrun(&t, &endpoint, "is_host=0", "refused").wait().expect("torchrun");
    assert!(!status.success());
    assert!(t.read("refused").contains("RendezvousStateError"), "{}", t.read("refused"));
    let second = start();
    all_succeed(vec![first, second]);

    let endpoint = format!("127.0.0.1:{}", free_port());
    let conf = "last_call_timeout=1,read_timeout=30";
    let mut first = torchrun(&t, &endpoint, conf, "first");
    // It listens, and has written its state.
    wait_for("the rendezvous", || {
        let port = endpoint.split(':').next_back().expect("a port");
        let mut store = t.command(program("store"));
        store.args(["127.0.0.1", port, "connect", "0.2", "check", "torch.rendezvous.nodes"]);
        let output = store.output().expect("a client");
        String::from_utf8_lossy(&output.stdout).contains("ICE_OK 1")
    });
    let ended = Nodes::c10d(&t, "2", &endpoint, "is_host=0").node(&[]).words(&["--no-python", "true"]).run();
    ended.exited(125);
    let text = ended.err();
    assert!(
        text.contains("was not written by this version of libice") && text.contains("left as it is"),
        "{text}"
    );
    let mut second = torchrun(&t, &endpoint, "is_host=0,last_call_timeout=1,read_timeout=30", "second");
    for (agent, name) in [(&mut first, "first"), (&mut second, "second")] {
        assert!(agent.wait().expect("torchrun").success(), "{}", t.read(name));
    }
    no_process_left(&t);
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(torch): e2e_01_store_13_ddp_on_two_nodes_is_ddp_on_one,
        needs(torch): dyn_05_a_node_comes_and_is_killed,
        needs(torch): dyn_06_the_first_node_is_lost_on_a_store_of_torch,
        needs(torch): dyn_06_the_first_node_is_lost_on_the_older_store_of_torch,
        needs(torch): dyn_37_torchrun_and_icerun_under_one_run_id,
    ]
}
