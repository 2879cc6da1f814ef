"""Runs groups of workers with libice: as much of a binding as one program needs.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import asyncio
import ctypes
import os
import sys
import traceback
from ctypes import byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p

FORK, SPAWN, FORKSERVER = 0, 1, 2
SUCCEEDED, WORKER_FAILURE, START_ERROR, AGENT_ERROR, INTERRUPTED = range(5)

lib = ctypes.CDLL(os.environ.get("LIBICE", "libice.so"))
FUNCTION = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p)


class WorkerResult(ctypes.Structure):
    """The beginning of ice_worker_result: the library may add to its end, and this leaves some out."""

    _fields_ = (
        [(name, c_int32) for name in ("global_rank", "local_rank", "role_rank", "pid", "outcome", "cause")]
        + [(name, c_int32) for name in ("exit_code", "signal", "core_dumped", "likely_oom", "order", "attempt")]
        + [(name, c_int64) for name in ("start_ns", "end_ns", "end_unix_ns")]
        + [(name, ctypes.c_uint64) for name in ("max_rss_bytes", "user_cpu_ns", "system_cpu_ns")]
        + [("has_value", c_int32), ("value", c_void_p), ("value_size", c_size_t), ("message", c_char_p)]
    )


def declare():
    """Pointers are longer than the int that ctypes takes everything for."""
    handle, text = c_void_p, c_char_p
    for name, result, *arguments in (
        ("ice_last_error_message", text),
        ("ice_worker_register", c_int, text, FUNCTION, c_void_p),
        ("ice_worker_main", c_int),
        ("ice_worker_rank", c_int32, handle),
        ("ice_worker_world_size", c_int32, handle),
        ("ice_worker_restart_count", c_int32, handle),
        ("ice_worker_argument", c_int, handle, ctypes.POINTER(c_void_p), ctypes.POINTER(c_size_t)),
        ("ice_worker_return", c_int, handle, text, c_size_t),
        ("ice_worker_record_error", c_int, text, text),
        ("ice_spec_new", c_int, ctypes.POINTER(handle)),
        ("ice_spec_free", None, handle),
        ("ice_spec_set_local_world_size", c_int, handle, c_int64),
        ("ice_spec_set_max_restarts", c_int, handle, c_int64),
        ("ice_spec_set_program", c_int, handle, text),
        ("ice_spec_add_arg", c_int, handle, text),
        ("ice_spec_set_function", c_int, handle, text, text),
        ("ice_spec_set_start_method", c_int, handle, c_int32),
        ("ice_spec_set_warm_up", c_int, handle, text),
        ("ice_spec_set_argument", c_int, handle, text, c_size_t),
        ("ice_spec_set_log_dir", c_int, handle, text),
        ("ice_spec_set_signals", c_int, handle, text),
        ("ice_agent_new", c_int, handle, ctypes.POINTER(handle)),
        ("ice_agent_start", c_int, handle),
        ("ice_agent_poll_fd", c_int, handle, ctypes.POINTER(c_int)),
        ("ice_agent_wait", c_int, handle, ctypes.c_double, ctypes.POINTER(handle)),
        ("ice_agent_stop", c_int, handle, c_int32),
        ("ice_agent_free", None, handle),
        ("ice_result_end", c_int32, handle),
        ("ice_result_message", text, handle),
        ("ice_result_restarts", c_int32, handle),
        ("ice_result_worker_count", c_size_t, handle),
        ("ice_result_worker", ctypes.POINTER(WorkerResult), handle, c_size_t),
        ("ice_result_free", None, handle),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments


declare()


class Error(Exception):
    pass


def check(status):
    if status != 0:
        raise Error(lib.ice_last_error_message().decode())


class Worker:
    """What a Python function that is a worker, or a warm-up, is given."""

    def __init__(self, handle):
        self.rank = lib.ice_worker_rank(handle)
        self.world_size = lib.ice_worker_world_size(handle)
        self.restart_count = lib.ice_worker_restart_count(handle)
        data, length = c_void_p(), c_size_t()
        check(lib.ice_worker_argument(handle, byref(data), byref(length)))
        self.argument = ctypes.string_at(data, length.value) if data else None


registered = []


def worker(function):
    """Registers a function that takes a Worker and returns bytes or None; what it raises is its failure."""

    def call(handle, _):
        try:
            value = function(Worker(handle))
            if value is not None:
                check(lib.ice_worker_return(handle, value, len(value)))
            code = 0
        except BaseException as error:
            lib.ice_worker_record_error(repr(error).encode(), traceback.format_exc().encode())
            code = 1
        # The process ends without Python's own end.
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    registered.append(FUNCTION(call))  # for the library, which keeps the bare address
    check(lib.ice_worker_register(function.__name__.encode(), registered[-1], None))
    return function


def main():
    """To be called after the functions are registered: in a worker it does not return."""
    check(lib.ice_worker_main())


class Result:
    """How a run ended, copied out of the library's memory."""

    def __init__(self, result):
        self.end = lib.ice_result_end(result)
        self.message = lib.ice_result_message(result).decode(errors="replace")
        self.restarts = lib.ice_result_restarts(result)
        self.workers = []
        for index in range(lib.ice_result_worker_count(result)):
            one = lib.ice_result_worker(result, index).contents
            self.workers.append(
                {
                    "rank": one.global_rank,
                    "exit_code": one.exit_code,
                    "signal": one.signal,
                    "message": one.message.decode(errors="replace"),
                    "value": ctypes.string_at(one.value, one.value_size) if one.has_value else None,
                }
            )


def new_agent(*, program=(), library=None, function=None, method=SPAWN, warm_up=None, argument=None, ranks=1,
              max_restarts=0, log_dir=None, signals=None):
    spec, agent = c_void_p(), c_void_p()
    check(lib.ice_spec_new(byref(spec)))
    try:
        check(lib.ice_spec_set_local_world_size(spec, ranks))
        check(lib.ice_spec_set_max_restarts(spec, max_restarts))
        if program:
            check(lib.ice_spec_set_program(spec, os.fsencode(program[0])))
            for word in program[1:]:
                check(lib.ice_spec_add_arg(spec, os.fsencode(word)))
        if function is not None:
            check(lib.ice_spec_set_function(spec, os.fsencode(library) if library else None, function.encode()))
            check(lib.ice_spec_set_start_method(spec, method))
        if warm_up is not None:
            check(lib.ice_spec_set_warm_up(spec, warm_up.encode()))
        if argument is not None:
            check(lib.ice_spec_set_argument(spec, argument, len(argument)))
        if log_dir is not None:
            check(lib.ice_spec_set_log_dir(spec, os.fsencode(log_dir)))
        if signals is not None:
            check(lib.ice_spec_set_signals(spec, signals.encode()))
        check(lib.ice_agent_new(spec, byref(agent)))
    finally:
        lib.ice_spec_free(spec)
    return agent


class Run:
    """Workers that run. Used with `with`, which stops those that still run at its end."""

    def __init__(self, **spec):
        self.agent = new_agent(**spec)

    def __enter__(self):
        check(lib.ice_agent_start(self.agent))
        return self

    def __exit__(self, *_):
        lib.ice_agent_free(self.agent)
        self.agent = None

    def stop(self):
        check(lib.ice_agent_stop(self.agent, 0))

    async def result(self):
        descriptor, over, result = c_int(), asyncio.Event(), c_void_p()
        check(lib.ice_agent_poll_fd(self.agent, byref(descriptor)))
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor.value, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor.value)
        check(lib.ice_agent_wait(self.agent, 0, byref(result)))
        try:
            return Result(result)
        finally:
            lib.ice_result_free(result)
