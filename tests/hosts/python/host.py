"""A host in Python: it runs workers as its options say, and prints what became of them as one line of JSON.
Meanwhile its other threads, tasks and signals go on: SIGUSR1 asks for proof.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import argparse
import asyncio
import json
import signal
import sys
import threading
import time

import ice

loaded = "nothing"


@ice.worker
def py_warm_up(server):
    global loaded
    loaded = "data"


@ice.worker
def py_describe(worker):
    argument = (worker.argument or b"").decode()
    text = f"rank {worker.rank} of {worker.world_size} has {argument} and {loaded}, attempt {worker.restart_count}"
    return text.encode()


@ice.worker
def py_fail_once(worker):
    if worker.restart_count == 0 and worker.rank == 1:
        raise ValueError("rank 1 has no input")
    while worker.restart_count == 0:
        time.sleep(1)
    return py_describe(worker)


ice.main()


class Ticker(threading.Thread):
    """Counts while the workers run, and says how far it came when it is asked."""

    ticks = 0

    def run(self):
        while True:
            self.ticks += 1
            time.sleep(0.001)

    def tell(self):
        print(self.ticks, file=sys.stderr, flush=True)


async def run(options, ticker):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, ticker.tell)
    with ice.Run(
        program=options.program,
        library=options.library,
        function=options.function,
        method={"spawn": ice.SPAWN, "forkserver": ice.FORKSERVER}[options.method],
        warm_up=options.warm_up,
        argument=options.argument.encode(),
        ranks=options.ranks,
        max_restarts=options.max_restarts,
        log_dir=options.log_dir,
        signals=options.signals,
    ) as run:
        if options.signals is None:
            loop.add_signal_handler(signal.SIGTERM, run.stop)
        return await run.result()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", help="the shared object that has the functions; none: this program")
    parser.add_argument("--function", help="the worker")
    parser.add_argument("--warm-up", help="the warm-up of a fork server")
    parser.add_argument("--argument", default="", help="what the function is given")
    parser.add_argument("--method", default="spawn", choices=["spawn", "forkserver"])
    parser.add_argument("--ranks", type=int, default=2, help="how many workers")
    parser.add_argument("--max-restarts", type=int, default=0, help="how often they may start again")
    parser.add_argument("--log-dir", help="where the error files of workers go and stay")
    parser.add_argument("--signals", help="signals that stop the run without a word to Python")
    parser.add_argument("program", nargs="*", help="a program with arguments instead of a function")
    options = parser.parse_args()

    ticker = Ticker(daemon=True)
    ticker.start()
    try:
        result = asyncio.run(run(options, ticker))
    except ice.Error as error:
        raise SystemExit(f"{error}")
    for worker in result.workers:
        worker["value"] = None if worker["value"] is None else worker["value"].decode()
    print(json.dumps(vars(result)))


main()
