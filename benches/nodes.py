#!/usr/bin/env python3
"""icerun and torchrun (PEER_TORCHRUN, if it is set) as two nodes on loopback with c10d, turn by turn, 4 workers each.

   nodes.py REPS

start: from the start of the second agent, while the first one waits, until all workers are in main().
restart: from the exit(1) of rank 0 until all workers of the next attempt, of both nodes, are in main()."""
import os, random, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.environ["PEERS"])
from bench import BUILD, ENV_OFF, free_port, read_shm, settle

N = 4
contenders = {"icerun": os.environ["ICERUN"], "torchrun": os.environ.get("PEER_TORCHRUN")}
env = {key: value for key, value in os.environ.items() if key not in ENV_OFF} | {"OMP_NUM_THREADS": "1"}


def listens(port):
    lines = [line.split() for file in ("/proc/net/tcp", "/proc/net/tcp6") for line in open(file).readlines()[1:]]
    return any(line[1].endswith(":%04X" % port) and line[3] == "0A" for line in lines)


def wait(condition):
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.005)
    raise TimeoutError


def run(program, bench, directory):
    shm, port = os.path.join(directory, "shm"), free_port()
    with open(shm, "wb") as file:
        file.truncate(4096 + 64 * 8192)
    mode = ["fail", str(2 * N), "0", "300", "once"] if bench == "restart" else ["noop"]
    command = [program, "--nnodes", "2", "--nproc-per-node", str(N), "--max-restarts", "1", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "bench", "--no-python", f"{BUILD}/worker", shm, *mode]
    start = lambda: subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    agents = [start()]
    wait(lambda: listens(port))
    time.sleep(1 + random.random())  # a random phase of its polling, if it polls
    begin = time.monotonic_ns()
    agents.append(start())
    codes = [agent.wait(60) for agent in agents]
    assert codes == [0, 0], (program, bench, codes)
    head, records = read_shm(shm)
    if bench == "start":
        assert len(records) == 2 * N
        return (max(record["start"] for record in records) - begin) / 1e6
    assert len(records) == 4 * N
    return (max(record["start"] for record in records) - head["fail_ns"]) / 1e6


reps = int(sys.argv[1])
times = {(bench, who): [] for bench in ("start", "restart") for who, program in contenders.items() if program}
for _ in range(reps):
    for bench, who in times:
        settle(5)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            times[bench, who].append(run(contenders[who], bench, directory))
for (bench, who), all_times in times.items():
    text = f"{statistics.median(all_times):.1f} [{min(all_times):.1f}..{max(all_times):.1f}] ms ({len(all_times)})"
    if (bench, "torchrun") in times:
        text += f", ratio {statistics.median(times[bench, 'torchrun']) / statistics.median(all_times):.1f}"
    print(f"two nodes, {bench}, {who}: {text}")
