/* libice: start, watch and restart the worker processes of a parallel program.
 *
 *   ice_spec *spec;
 *   ice_agent *agent;
 *   ice_result *result;
 *   ice_spec_new(&spec);
 *   ice_spec_set_program(spec, "./train");
 *   ice_spec_set_local_world_size(spec, 8);
 *   if (ice_agent_new(spec, &agent) != ICE_OK) {
 *     fprintf(stderr, "%s\n", ice_last_error_message());
 *     return 2;
 *   }
 *   ice_spec_free(spec);
 *   if (ice_agent_run(agent, &result) == ICE_OK) {
 *     fputs(ice_result_summary(result), stderr);
 *     ice_result_free(result);
 *   }
 *   ice_agent_free(agent);
 *
 * Conventions that hold everywhere:
 *   - Every function that can fail returns an ice_status and writes its outputs only on ICE_OK.
 *     ice_last_error_message() then has the reason, per thread.
 *   - `_new` makes a handle that the caller owns, `_free` ends it; free(NULL) is fine; handles may be
 *     freed in any order. Everything else that is returned is borrowed: valid until its owner is freed.
 *   - Strings in are NUL-terminated bytes, copied before the function returns. Times are seconds unless
 *     a name ends in `_ns` (nanoseconds); sizes are bytes.
 *   - After a fork(2) of the host, handles answer ICE_ERROR_FORKED in the child; `_free` is fine there.
 *   - Callbacks are called without any lock held. They must not unwind (C++ exceptions, longjmp) into
 *     the library.
 *
 * This file is generated from the library's source; do not edit it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */


#ifndef ICE_H
#define ICE_H

#include <stddef.h>
#include <stdint.h>

/* What a call of this library came to. 0 is success, failures are negative, numbers are never
 * reused. How a *run* ended is not a status: it is in the result, see `ice_result_end()`. */
enum ice_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* The call did what it says. */
  ICE_OK = 0,
  /* A pointer is NULL that must not be, an index is out of range, or a number is not one of its
   * enum. Outputs are untouched. */
  ICE_ERROR_ARGUMENT = -1,
  /* The spec, or a value of a call, asks for something that cannot be. The message names the field, its
   * value, and what would be right. Nothing was started. */
  ICE_ERROR_CONFIG = -2,
  /* The call does not fit the state of the handle: a second run of one agent, a wait before start. */
  ICE_ERROR_STATE = -3,
  /* The time-out of a wait passed and the run still goes on: nothing was changed. Or GPUs were not listed
   * in time; or what was waited for in a store was not there, or no store to connect to. */
  ICE_ERROR_TIMEOUT = -4,
  /* The handle belongs to a process of which this one is a forked copy. Nothing was touched. */
  ICE_ERROR_FORKED = -5,
  /* A system call failed; the message names it and its errno. */
  ICE_ERROR_SYSTEM = -6,
  /* A defect of this library: a panic was caught at the border. Please report the message. */
  ICE_ERROR_INTERNAL = -7,
  /* A process could not be started, or not come to its work; the message says why. Where workers are
   * started in the background, it is in the result instead: ICE_END_START_ERROR. */
  ICE_ERROR_START = -8,
  /* The GPUs could not be listed: the CUDA driver crashed, failed, or is not one that can be asked. The
   * message says which of its calls and how. */
  ICE_ERROR_DEVICE = -9,
  /* The server of a store closed the connection, does not answer in time, or lacks what was asked for; the
   * message says which. If the connection is lost, every further call on the handle fails with this. So does
   * one that `ice_store_interrupt()` ends. */
  ICE_ERROR_STORE = -10,
  /* The generation of a broadcast is over: a later one was broadcast. Who gets this belongs to a round that the
   * others have left. */
  ICE_ERROR_STALE = -11,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_status ice_status;
#else
typedef int32_t ice_status;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* What the agent asks a worker to do. */
enum ice_request_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* Nothing is due. */
  ICE_REQUEST_NONE = 0,
  /* Stop working, answer with `ice_worker_acknowledge()`, and look again: `ice_worker_poll()` comes back
   * when the pause is over, or when something else is to be done at this step. */
  ICE_REQUEST_PAUSE = 1,
  /* Save a checkpoint, answer whether that went well, and go on. */
  ICE_REQUEST_SAVE = 2,
  /* Save what is to be saved, answer, and end the process with success. */
  ICE_REQUEST_STOP = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_request_kind ice_request_kind;
#else
typedef int32_t ice_request_kind;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* The class of a run's end. Bad ends are never mixed: a wrong spec is a status of `ice_agent_new()`
 * (ICE_ERROR_CONFIG), the rest is here. */
enum ice_end
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* Every worker exited with 0. */
  ICE_END_SUCCEEDED = 0,
  /* A worker failed and no restart was left or made sense. `ice_result_root_cause()` says which; of one on
   * another host `ice_result_message()` does, and there is no root cause here. */
  ICE_END_WORKER_FAILURE = 1,
  /* A worker could not be started in the first attempt: no such program, no permission, no
   * descriptor or process left, port in use. `ice_result_errno()` has the errno. Nothing is restarted. */
  ICE_END_START_ERROR = 2,
  /* The agent itself could not go on: a start error in a later attempt that cannot pass, or with no
   * restart left (`ice_spec_set_max_restarts()`), a GPU that is gone when the group is to restart, an exit status
   * that somebody else took, a failed system call, a defect; or a rendezvous that could not be joined, or is lost. */
  ICE_END_AGENT_ERROR = 3,
  /* Stopped by a signal of `ice_spec_set_signals()`, by `ice_agent_stop()` or `ice_agent_free()`. */
  ICE_END_INTERRUPTED = 4,
  /* This agent was a spare of a job of several hosts, which succeeded without it. */
  ICE_END_NOT_NEEDED = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_end ice_end;
#else
typedef int32_t ice_end;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* The state of the worker group, torch's WorkerState with its numbers. */
enum ice_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* The agent lost track of a worker: somebody else took its exit status. */
  ICE_STATE_UNKNOWN = 0,
  /* Not all workers are started yet. */
  ICE_STATE_INIT = 1,
  /* All workers were started, none has failed. */
  ICE_STATE_HEALTHY = 2,
  /* Reserved: a group that runs but is not well. */
  ICE_STATE_UNHEALTHY = 4,
  /* The agent is stopping the workers, or stopped them on request. */
  ICE_STATE_STOPPED = 8,
  /* All workers exited with 0. */
  ICE_STATE_SUCCEEDED = 16,
  /* The run failed and no restart is left. */
  ICE_STATE_FAILED = 32,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_state ice_state;
#else
typedef int32_t ice_state;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* How a worker's process ended. */
enum ice_outcome
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* It was never started, or its start failed. */
  ICE_OUTCOME_NEVER_STARTED = 0,
  /* It runs (snapshots only). */
  ICE_OUTCOME_RUNNING = 1,
  /* It exited; `exit_code` has the code. */
  ICE_OUTCOME_EXITED = 2,
  /* A signal killed it; `signal` has the number. */
  ICE_OUTCOME_SIGNALED = 3,
  /* It was still there after SIGKILL and a further wait (uninterruptible sleep), or could not be
   * signalled, as it runs as another user: the agent gave it up. */
  ICE_OUTCOME_STUCK = 4,
  /* It is gone, but somebody else took its exit status. */
  ICE_OUTCOME_LOST = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_outcome ice_outcome;
#else
typedef int32_t ice_outcome;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* Why a worker ended as it did. */
enum ice_cause
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* It ended by itself with exit code 0. */
  ICE_CAUSE_SUCCESS = 0,
  /* It failed by itself: an exit code other than 0, a signal that the agent did not send, a callback
   * that did not return. */
  ICE_CAUSE_OWN_FAILURE = 1,
  /* It ended after the agent had told it to stop, with whatever code. */
  ICE_CAUSE_STOPPED_BY_AGENT = 2,
  /* The agent could not kill it. */
  ICE_CAUSE_STUCK = 3,
  /* It was never started: the start of this or another worker failed, or a stop came first. */
  ICE_CAUSE_NEVER_STARTED = 4,
  /* Its status is unknown, see ICE_OUTCOME_LOST. */
  ICE_CAUSE_LOST = 5,
  /* The agent found it stuck and ended it: a timer of its own expired (`ice_worker_expires()`,
   * `ice_spec_set_file_timers()`), its heartbeat or first word stayed away (`ice_spec_set_heartbeat_timeout()`,
   * `ice_spec_set_initial_heartbeat_timeout()`), a section
   * took too long (`ice_spec_set_section_limit()`), it ran on when others had ended
   * (`ice_spec_set_straggler_timeout()`), or it was in uninterruptible sleep for too long
   * (`ice_spec_set_uninterruptible_timeout()`). `message` begins with which of them, and how long; `stack` says
   * where it was; `outcome` how it ended, which may be ICE_OUTCOME_STUCK. */
  ICE_CAUSE_TIMED_OUT = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_cause ice_cause;
#else
typedef int32_t ice_cause;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* What became of a request at one rank. */
enum ice_answer_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* No answer by the deadline: it is busy, stuck, or does not look. */
  ICE_ANSWER_NONE = 0,
  /* It did as it was asked. */
  ICE_ANSWER_SUCCEEDED = 1,
  /* It says that it could not. */
  ICE_ANSWER_FAILED = 2,
  /* It ended without an answer. */
  ICE_ANSWER_GONE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_answer_kind ice_answer_kind;
#else
typedef int32_t ice_answer_kind;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* What a worker's standard input is. */
enum ice_stdin
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* `/dev/null` for all ranks: the default, as workers that share one input steal from each other. */
  ICE_STDIN_NULL = 0,
  /* The host's for local rank 0, `/dev/null` for the others (as mpirun does). Not for a terminal: a
   * worker is in a process group of its own, so that a read would stop it (SIGTTIN). */
  ICE_STDIN_RANK0 = 1,
  /* The host's for all ranks (as torchrun does); likewise not for a terminal. */
  ICE_STDIN_ALL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_stdin ice_stdin;
#else
typedef int32_t ice_stdin;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* Which macros of `ice_spec_add_arg()` are filled in. */
enum ice_macros
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* None: arguments arrive byte for byte, `$${rank}` too. */
  ICE_MACROS_NONE = 0,
  /* `${local_rank}` alone, as torchrun does: for programs whose arguments have a `${..}` of their own. */
  ICE_MACROS_LOCAL_RANK = 1,
  /* All of them: the default. */
  ICE_MACROS_ALL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_macros ice_macros;
#else
typedef int32_t ice_macros;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* How a worker that is a function gets its process (torch's start_method). */
enum ice_start_method
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* A forked copy of this process: for `ice_spec_set_callback()`, and for functions that are registered
   * here. Everything that the host has in memory is there. Refused with ICE_ERROR_STATE when CUDA is
   * initialised in this process (the driver is asked if it is loaded; nothing is loaded for that), as
   * a forked copy could not use it. */
  ICE_START_FORK = 0,
  /* A new process: the program executed again from the very file it runs from (/proc/self/exe, also when
   * that was removed or replaced), with the same arguments, in the host's directory when the run starts; or
   * for a function of a shared object the library's own file, or the program of
   * `ice_spec_set_runner()`. Safe in any host, whatever threads, memory or devices it has, at a price
   * that does not depend on them. */
  ICE_START_SPAWN = 1,
  /* A copy of a server process, which is made as for ICE_START_SPAWN once per run (or by
   * `ice_agent_prepare()`), does the warm-up, and forks a worker in a fraction of a millisecond. All
   * workers share what the warm-up loaded, copy-on-write. The server has one thread, unless the warm-up
   * makes more, and dies with the agent. If somebody kills it its workers go too: the group has
   * failed, and the next attempt has a new server. Signals that are meant for the agent, SIGTERM among them, are
   * nothing to the server. */
  ICE_START_FORKSERVER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_start_method ice_start_method;
#else
typedef int32_t ice_start_method;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* The CPUs that a worker may run on, it and every thread and process that it starts.
 *
 * Four choices are torch's (torchrun `--numa-binding`), with the same sets: they go by the NUMA node that
 * the device of each worker is attached to, and node 0 where the kernel does not say. COMPACT is for
 * workers without devices. Whatever is chosen, a worker gets none but the CPUs that are left to the thread
 * that calls `ice_agent_run()` or `ice_agent_start()`, or `ice_agent_prepare()` where that comes first
 * (sched_getaffinity(2), which knows the cpuset of a container too). */
enum ice_cpu_binding
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* Workers run where the host does. */
  ICE_CPU_BINDING_OFF = 0,
  /* All CPUs of the node of the worker's device (`node`). If in doubt, this one. */
  ICE_CPU_BINDING_NODE = 1,
  /* All CPUs of all nodes of the socket that the node of the device is in (`socket`). */
  ICE_CPU_BINDING_SOCKET = 2,
  /* A part of the physical cores of the node of the device (`exclusive`): they are divided among all
   * devices of that node, in the order of the devices, so that no two workers share a core. Parts differ by
   * one core at most, the first ones are the larger. With fewer cores than devices a start error. */
  ICE_CPU_BINDING_EXCLUSIVE = 3,
  /* One core complex on the node of the device (`core-complex`): the cores that share a last-level cache.
   * The devices of a node take its complexes in turn, those with the most CPUs first, so that each has one
   * of its own where there are enough. */
  ICE_CPU_BINDING_CORE_COMPLEX = 4,
  /* A part of all physical cores, whatever devices there are (`compact`; torch has none like it): they are
   * divided among the workers as for EXCLUSIVE, in the order of sockets, nodes and core complexes, so
   * that the cores of a worker lie together. With fewer cores than workers a start error. */
  ICE_CPU_BINDING_COMPACT = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_cpu_binding ice_cpu_binding;
#else
typedef int32_t ice_cpu_binding;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* Which devices a worker sees. */
enum ice_device_visibility
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* What the host sees: CUDA_VISIBLE_DEVICES is not touched. The default where nothing was said of
   * devices, but a number of workers; so a script that was written for torchrun, and takes device
   * LOCAL_RANK, finds it. */
  ICE_VISIBLE_INHERIT = 0,
  /* Its own alone, so that it is `cuda:0` for it, whatever its rank: CUDA_VISIBLE_DEVICES is its entry
   * of the host's list, or of `0,1,2..` where the host has none. The default where devices are named or
   * counted: a worker that cannot see the GPU of another cannot take it by mistake, as a program does
   * that forgets to choose one, nor leave a context in its memory. LOCAL_RANK stays the real one, unless
   * `ice_spec_set_virtual_local_rank()` says otherwise: a program that takes device LOCAL_RANK needs
   * that, or ICE_VISIBLE_ALL. */
  ICE_VISIBLE_OWN = 1,
  /* The devices of all workers of this agent, in their order, each once; LOCAL_RANK picks (or
   * ICE_DEVICES, which also knows of several workers on one device, and of several devices for one). */
  ICE_VISIBLE_ALL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_device_visibility ice_device_visibility;
#else
typedef int32_t ice_device_visibility;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* How much a log message matters. */
enum ice_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* The run cannot go on as asked. */
  ICE_LOG_ERROR = 1,
  /* Something was done in another way than asked, or will be missed later. */
  ICE_LOG_WARNING = 2,
  /* Steps of a run: attempts, failures, stops. */
  ICE_LOG_INFO = 3,
  /* Details of each worker. */
  ICE_LOG_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_log_level ice_log_level;
#else
typedef int32_t ice_log_level;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* How the text of an option is read by `ice_spec_set()`. */
enum ice_option_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* `1`, `true`, `yes` or `on`; or `0`, `false`, `no` or `off`. */
  ICE_OPTION_FLAG = 0,
  /* A whole number, as Python reads it (`1_000`). A signal is one too, or a name like `SIGTERM` or `usr1`. */
  ICE_OPTION_NUMBER = 1,
  /* A number of seconds, as Python reads it. */
  ICE_OPTION_SECONDS = 2,
  /* One of the words of `ice_option`. */
  ICE_OPTION_WORD = 3,
  /* A text, of a form of its own or any. */
  ICE_OPTION_TEXT = 4,
  /* Items with commas between. */
  ICE_OPTION_LIST = 5,
  /* One item. An option of this kind may be set several times: each time adds one. */
  ICE_OPTION_EACH = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_option_kind ice_option_kind;
#else
typedef int32_t ice_option_kind;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* What a signal of the host process is to a run: see `ice_spec_set_on_signal()`. */
enum ice_on_signal
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* Nothing is said of it: it is what the lists make of it. */
  ICE_ON_SIGNAL_DEFAULT = 0,
  /* Every worker gets it too, while the run goes on: as in the list of `ice_spec_set_pass_signals()`. */
  ICE_ON_SIGNAL_PASS = 1,
  /* All workers are asked to save a checkpoint at the same step (ICE_REQUEST_SAVE, ICE_REASON_HOST), and go on.
   * Nobody waits for the answers; the log tells what came of it. */
  ICE_ON_SIGNAL_CHECKPOINT = 2,
  /* They are asked to save one (ICE_REQUEST_SAVE, ICE_REASON_PREEMPTION); when all have answered, or their time
   * is over, the run is stopped, with the signal of `ice_spec_set_stop_signal()`. */
  ICE_ON_SIGNAL_CHECKPOINT_AND_STOP = 3,
  /* The run is stopped with it: as in the list of `ice_spec_set_signals()`. */
  ICE_ON_SIGNAL_STOP = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_on_signal ice_on_signal;
#else
typedef int32_t ice_on_signal;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* Why it asks. */
enum ice_request_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif /* defined(__cplusplus) || __STDC_VERSION__ >= 202311L */
 {
  /* The host wants it: `ice_agent_request_checkpoint()` and its like. */
  ICE_REASON_HOST = 1,
  /* The run is about to be stopped, by a signal for instance; the stop signal follows after the answers
   * of all workers, or at the deadline: `ice_spec_set_checkpoint_before_stop()`. */
  ICE_REASON_PREEMPTION = 2,
  /* The workers are about to be started again, as hosts have come to the job or gone from it; the stop signal
   * follows as above. */
  ICE_REASON_MEMBERSHIP = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ice_request_reason ice_request_reason;
#else
typedef int32_t ice_request_reason;
#endif /* __STDC_VERSION__ >= 202311L */
#endif /* __cplusplus */

/* One run of a spec: it starts the workers, watches them, restarts the group and stops it. An agent
 * runs once. Any number of agents may run in one process at the same time.
 *
 * Threads: every function but `ice_agent_free()` may be called from any thread at any time, also at
 * once. While it runs, an agent has one thread of its own, which starts the workers and waits for
 * events with all signals blocked (but SIGCHLD, while that is at its default), a second one from the
 * first tee'd or filtered line, message, event or output that it hands out, one that hears workers where the
 * spec says `ice_spec_set_control()`, one for a health port, one for a question at the terminal, one for
 * each stuck worker while it is looked at, one that meets the agents of other hosts
 * (`ice_spec_set_rendezvous()`), and one for each store that it serves them or their workers. It does not matter if
 * the thread that called start ends.
 *
 * The host: nothing process-wide is changed unless the spec asks for it (`ice_spec_set_signals()`).
 * Children of the host are never waited for; SIGCHLD may be handled as the host likes. If SIGCHLD is
 * ignored the kernel throws exit statuses away: before Linux 6.15 a start is then refused with
 * ICE_ERROR_STATE. Needs Linux 5.11.
 *
 * If the host dies, by SIGKILL too, or replaces itself with execve(2), every worker is killed with it
 * (PR_SET_PDEATHSIG), and a small watcher process, `ice-watcher`, kills what else lives in their
 * process groups, and whatever has the mark of the run in ICE_DESCENT; then it removes the run's FIFO for file timers,
 * its health socket, and its directory if that is empty. A second one, `ice-keeper`, does the same where the watcher is
 * killed with the host; it is started once the workers run. What neither could remove, because both were killed, the
 * end of a later run removes once it is older than a minute, in the same directory for temporary files. */
typedef struct ice_agent ice_agent;

/* The answers of all ranks to one request. It never changes; any thread may read it. */
typedef struct ice_answers ice_answers;

/* The GPUs that a process with the environment of this one can use, in CUDA's order: with
 * CUDA_VISIBLE_DEVICES in the environment those that it lets through, renumbered from 0, in the order of
 * CUDA_DEVICE_ORDER. It never changes; any thread may read it. */
typedef struct ice_device_list ice_device_list;

/* What an agent would start, made by `ice_agent_plan()`. It never changes; any thread may read it. */
typedef struct ice_plan ice_plan;

/* What one of the host's functions found, filled in with the functions `ice_rendezvous_reply_*`.
 * It belongs to the library and is valid during the call that it was given to, in the thread of
 * that call. */
typedef struct ice_rendezvous_reply ice_rendezvous_reply;

/* How a run ended. It never changes; any thread may read it. It does not need the agent, which may be
 * freed first. */
typedef struct ice_result ice_result;

/* The worker group at one moment, made by `ice_agent_snapshot()`. It never changes; any thread may
 * read it. */
typedef struct ice_snapshot ice_snapshot;

/* What to run and how, written down with the functions `ice_spec_*`. Every value is copied before
 * the function returns. A function that refuses its value returns ICE_ERROR_CONFIG, leaves the field
 * as it was, and the spec remembers the first refusal: `ice_agent_new()` repeats it, so it is enough
 * to check there.
 *
 * One spec may make any number of agents; each takes its own copy. A spec is not locked: one thread
 * at a time. Unless a function says otherwise it gives ICE_ERROR_ARGUMENT for a NULL pointer and
 * ICE_ERROR_CONFIG for a value it does not take. */
typedef struct ice_spec ice_spec;

/* A connection to a key-value store: an `ice_store_server`, or a TCPStore of PyTorch (2.15), the libuv one or the
 * older one, in whatever process. What one client sets the others get, PyTorch's clients too: the key `k` is their
 * key `k`.
 *
 * Keys are NUL-terminated bytes, empty or not, of up to 8191 bytes with their prefix; values are any bytes, none
 * to 8 MiB. What is longer is refused with ICE_ERROR_CONFIG before anything is sent.
 *
 * Time-outs: functions that wait for another client have `seconds`. 0 only looks; a negative number waits without
 * a limit. When the time is over they return ICE_ERROR_TIMEOUT, and the connection is as good as before. All other
 * functions are answered by the server at once; should it not answer within the time-out of `ice_store_connect()`,
 * or close the connection, they return ICE_ERROR_STORE, and so does every call after that: the connection is lost,
 * and is not made again by itself. `ice_store_interrupt()` ends calls, and the connection, from another thread.
 *
 * Any thread may use the handle, but one call at a time is under way on a connection; others wait for their turn,
 * within their time-outs. What is to go on while a call waits needs a connection of its own. */
typedef struct ice_store ice_store;

/* A key-value store that the processes of a job meet at, over TCP, in the protocol of PyTorch's TCPStore
 * (2.15): PyTorch's own clients, `init_process_group("env://")` among them, and `ice_store_connect()` use it.
 * It does what PyTorch's server (libuv) does, with its limits: keys of up to 8192 bytes, prefixes included,
 * values of up to 8 MiB, lists of up to 131072 keys. A request beyond these, or one that makes no sense, closes
 * the connection it came on, and no other. The rest of what it does better: no client makes another wait, no name
 * is looked up, several keys are set at once or not at all, and the memory it takes has a limit.
 *
 * There is no encryption, and without a secret (`ice_store_server_new_with_secret()`) no password: who can connect
 * can read and change everything. Listen only where that is wanted.
 *
 * The server has one thread of its own, with all signals blocked, three descriptors, and one for each client; it
 * needs no attention. It leaves 64 of the descriptors that the process may have (RLIMIT_NOFILE), or a quarter of
 * them, to the rest of the process; clients beyond that wait until there is one, in the order they came, and the
 * others are served meanwhile. Who has connected and not begun as a client must, by the secret where there is one, is
 * closed after 60 seconds, and sooner where such are more than a quarter of these descriptors (32 to 2048), or from
 * one address more than an eighth: the oldest of the address that has most goes first. A client that had to go
 * connects again by itself. A silent client whose host is gone is noticed after two minutes (TCP
 * keep-alive). Any thread may use the handle, also at once; only `ice_store_server_free()` must be the last. */
typedef struct ice_store_server ice_store_server;

/* Values that came from a store. They never change; any thread may read them. Freed by
 * `ice_store_values_free()`, before or after the store. */
typedef struct ice_store_values ice_store_values;

/* This process as a worker. A function that is a worker gets the handle as its first argument, and the handle is valid
 * until the function returns; a program makes one with `ice_worker_open()`. One thread at a time uses it, except where
 * a function of the header says otherwise. */
typedef struct ice_worker ice_worker;

/* A function as a worker. It runs in a process of its own, in the main thread or the only one, with the
 * worker's environment and working directory, a process group of its own, no signal handler of the
 * host, and no descriptor of the host but 0, 1 and 2 (one more, close-on-exec, is the library's way for
 * the value). See `ice_start_method` for what else is in that process.
 *
 * What it returns is the worker's exit code: 0 is success, 1 to 255 a failure with that code, any
 * other number a failure with code 255. Before the process ends, functions given to atexit(3) in it run,
 * then stdout and stderr are flushed. In a forked worker those are the functions that it gave itself:
 * the atexit functions, and the unwritten output, of the process it was forked from are left alone there,
 * and stdio streams other than these two are its own to close. With musl, which has no on_exit(3), they all run.
 *
 * exit(0) or _exit(0) without a return from the function is a failure ("exited without returning"),
 * exit(n) a failure with code n. A C++ exception or Rust panic that leaves the function ends the
 * worker with SIGABRT where it was thrown, as one that nobody catches. Threads that still run when it
 * returns end with the process. Signals of a crash have a handler, and the thread a stack for it
 * (sigaltstack(2)), unless `ice_spec_set_crash_records()` says no. */
typedef int32_t (*ice_worker_fn)(struct ice_worker *worker, void *user_data);

/* What is due, and until when. */
typedef struct ice_request {
  /* An `ice_request_kind`. */
  int32_t kind;
  /* An `ice_request_reason`. */
  int32_t reason;
  /* The step at which all ranks do it. A rank that has said no step does it at its next look. */
  uint64_t step;
  /* When the agent stops waiting for the answer: CLOCK_MONOTONIC, in nanoseconds. */
  int64_t deadline_ns;
  /* How many seconds that is from now, 0 if it has passed. */
  double seconds_left;
} ice_request;

/* One option, for hosts that make flags, help or completion of them. All texts are static and never NULL; "" where
 * there is none. Later versions may add fields at the end. */
typedef struct ice_option {
  /* As in `ice_spec_set()`: `max_restarts`. */
  const char *name;
  /* Another name that will do: torchrun's where it has another, or that of icerun's flag. */
  const char *also;
  /* The subject; options of one subject follow each other. */
  const char *heading;
  /* What a help calls the value: `SECONDS`; "" for a flag. `DIR`, `FILE` and `PATH` are paths. */
  const char *argument;
  /* Words that the value may be, with blanks between. */
  const char *words;
  /* The default, as text; "" if nothing is said where the option is not set. */
  const char *standard;
  /* What it does, in some sentences. */
  const char *help;
  /* An `ice_option_kind`. */
  int32_t kind;
  /* Of the short form of icerun's flag, or 0. */
  int32_t letter;
  /* Whether icerun has a flag of it. */
  int32_t is_flag_of_icerun;
} ice_option;

/* Takes output of one worker: `local_rank`, `stream` (1 stdout, 2 stderr) and `length` bytes at
 * `data`, valid only during the call. Pieces of one stream come in order, cut anywhere. Called from
 * the agent's output thread under the same rules as `ice_log_fn`; while it is slow the bytes wait in
 * the worker's file. At the end of a run it is given all that is there, for up to the shutdown
 * time-out. */
typedef void (*ice_output_fn)(void *user_data,
                              int32_t local_rank,
                              int32_t stream,
                              const uint8_t *data,
                              size_t length);

/* Takes one message of the library: `level` is an `ice_log_level`, `text` one line of UTF-8 without
 * a newline, valid only during the call. Called from the agent's output thread, one call at a time
 * for one agent, never after the run's result was handed out, and with no lock held. It may block or
 * be slow: workers and restarts do not wait for it. It must return: `ice_agent_free()` waits for it.
 * It must not call `ice_agent_free()` of its own agent.
 *
 * `ice_agent_new()`, which may have to ask the CUDA driver for its GPUs, calls it in the calling thread, before it
 * returns, if that takes more than five seconds.
 *
 * Whatever a run waits for longer than that is an ICE_LOG_WARNING: what it is, since when and until when. It comes
 * after 5, 10, 20, 40, ... seconds, and once more when it is over: a rendezvous that is not reached, at first or
 * later; hosts that are missing in a round or have not come to the exit barrier; workers that were asked to save
 * or to end; the back-off before a restart; GPUs; a fork server. */
typedef void (*ice_log_fn)(void *user_data, int32_t level, const char *text);

/* Takes one event of a run, see `ice_spec_set_event_callback()`: `json` is one line of JSON in UTF-8
 * without a newline, valid only during the call. Called as an `ice_log_fn` is, from the same thread: in the
 * order of the events, one at a time, never after the run's result was handed out. It may be slow: the run
 * does not wait for it, only its end. */
typedef void (*ice_event_fn)(void *user_data, const char *json);

/* What became of one worker. Borrowed from the result it came from: all pointers are valid until that
 * result is freed, none is NULL unless said so. Strings are NUL-terminated bytes (paths and messages of
 * workers need not be UTF-8). Later versions may add fields at the end. */
typedef struct ice_worker_result {
  /* RANK: the key of results across agents. In a job of several hosts that of the last round that this one took
   * part in; before the first, the local rank. */
  int32_t global_rank;
  /* LOCAL_RANK. */
  int32_t local_rank;
  /* ROLE_RANK. */
  int32_t role_rank;
  /* Its process; 0 if it was never started. */
  int32_t pid;
  /* How it ended. */
  ice_outcome outcome;
  /* Why. */
  ice_cause cause;
  /* The exit code, 0 to 255; minus the signal's number where a signal killed it (as torchrun);
   * -1 where there is neither. */
  int32_t exit_code;
  /* The signal that killed it, or 0. */
  int32_t signal;
  /* 1 if it dumped core. */
  int32_t core_dumped;
  /* 1 if it was killed by SIGKILL, not by the agent, while its memory cgroup counted an OOM kill. */
  int32_t likely_oom;
  /* Its place in the order in which the workers of its attempt ended, from 0; -1 if it did not end.
   * The order is the kernel's, not that of rank, but for workers that ended while the group was still
   * being started: these are taken by local rank. */
  int32_t order;
  /* Its attempt, from 0: TORCHELASTIC_RESTART_COUNT. */
  int32_t attempt;
  /* CLOCK_MONOTONIC in nanoseconds when it had been started, 0 if never. */
  int64_t start_ns;
  /* CLOCK_MONOTONIC in nanoseconds when its end was seen, 0 if not. */
  int64_t end_ns;
  /* The same moment as nanoseconds since 1970 (CLOCK_REALTIME), 0 if not. */
  int64_t end_unix_ns;
  /* Peak resident memory in bytes, of it and descendants it waited for, as wait4(2) has it. Linux
   * counts the memory of the host at the start of a program in: never below the host's own then. */
  uint64_t max_rss_bytes;
  /* User CPU time in nanoseconds, of it and descendants it waited for. */
  uint64_t user_cpu_ns;
  /* System CPU time in nanoseconds, likewise. */
  uint64_t system_cpu_ns;
  /* 1 if it returned a value (of 0 bytes, perhaps) and the run succeeded; else 0. */
  int32_t has_value;
  /* The value's memory, page-aligned, read-only; NULL if there is none or it has 0 bytes. */
  const void *value;
  /* The value's size in bytes. */
  size_t value_size;
  /* Why it failed, for people: the message of its error file; else `Signal 9 (SIGKILL) received by
   * PID 4711` or a text with the exit code. Empty for a success. */
  const char *message;
  /* The call stack in its error file, or empty. */
  const char *call_stack;
  /* The time in its error file, seconds since 1970, or 0. */
  int64_t error_timestamp;
  /* The raw bytes of its error file, JSON or not (a worker may die while it writes); NULL if there is
   * none. */
  const void *error_data;
  /* The size of `error_data` in bytes. */
  size_t error_size;
  /* The path of its error file, or empty if it wrote none. */
  const char *error_file;
  /* The last whole lines of its stderr file, see `ice_spec_set_stderr_tail()`; empty for a success or
   * where there is no file. Not text: it may hold NUL bytes, but it is NUL-terminated. */
  const char *stderr_tail;
  /* The size of `stderr_tail` in bytes, without the final NUL. */
  size_t stderr_tail_size;
  /* The path of its stdout file, or empty if stdout was not redirected. */
  const char *stdout_log;
  /* The path of its stderr file, or empty. */
  const char *stderr_log;
  /* Where it was when the agent found it stuck, several lines for people, see
   * `ice_spec_set_stack_timeout()`; else empty. A few KiB as a rule, never above 3 MiB. */
  const char *stack;
  /* The name of the host that it ran on, as gethostname(2) has it. */
  const char *hostname;
} ice_worker_result;

/* Makes a connection for one agent to the place that `endpoint` names, for jobs of this run id,
 * and writes whatever the other functions are to get as `connection` to `*connection`. Both texts
 * are UTF-8, valid during the call. */
typedef int32_t (*ice_rendezvous_open_fn)(void *user_data,
                                          const char *endpoint,
                                          const char *run_id,
                                          void **connection,
                                          struct ice_rendezvous_reply *reply);

/* Looks for a key: a short text of letters, digits and `/`. If it is there, says so with
 * `ice_rendezvous_reply_found()`. */
typedef int32_t (*ice_rendezvous_get_fn)(void *connection,
                                         const char *key,
                                         struct ice_rendezvous_reply *reply);

/* Stores `value` at `key`, in one step that no other agent's can come into, if what is there has
 * the token `token`; with a token of NULL if nothing is there. Writes 1 to `*stored`, or else 0
 * and says with `ice_rendezvous_reply_found()` what is there, if anything. */
typedef int32_t (*ice_rendezvous_compare_and_set_fn)(void *connection,
                                                     const char *key,
                                                     const void *token,
                                                     size_t token_length,
                                                     const void *value,
                                                     size_t value_length,
                                                     int32_t *stored,
                                                     struct ice_rendezvous_reply *reply);

/* Returns when the key is there, at the latest after `seconds`, which is 0.5 at most; earlier if
 * it has to. */
typedef int32_t (*ice_rendezvous_wait_fn)(void *connection,
                                          const char *key,
                                          double seconds,
                                          struct ice_rendezvous_reply *reply);

/* Ends the connection: it is not used any more. */
typedef void (*ice_rendezvous_close_fn)(void *connection);

/* One worker of a snapshot. */
typedef struct ice_worker_info {
  /* RANK. */
  int32_t global_rank;
  /* LOCAL_RANK. */
  int32_t local_rank;
  /* ROLE_RANK. */
  int32_t role_rank;
  /* Its process, 0 before it was started. Once the outcome is not ICE_OUTCOME_RUNNING the number may
   * belong to another process. */
  int32_t pid;
  /* ICE_OUTCOME_RUNNING, or how it ended. */
  ice_outcome outcome;
  /* 1 if it hears the agent: `ice_spec_set_control()`. What follows is what it has said, in the last attempt. */
  int32_t has_control;
  /* 1 while it keeps a pause. */
  int32_t paused;
  /* Its last `ice_worker_step()`, -1 for none. */
  int64_t step;
  /* Its last `ice_worker_progress()`. */
  uint64_t progress_done;
  /* And of how much that is; 0 if it does not say. */
  uint64_t progress_total;
  /* Its last `ice_worker_heartbeat()`: CLOCK_MONOTONIC, in nanoseconds; 0 for none. */
  int64_t heartbeat_ns;
  /* How many steps it is behind the rank that is furthest; -1 if it has said no step. */
  int64_t lag;
  /* How long it has been at its step, at least, in nanoseconds: since the first look that found it there, be
   * it a snapshot or GET /metrics (`ice_spec_set_health_check()`); so 0 in a first snapshot. -1 if it has said
   * no step. */
  int64_t at_step_ns;
  /* The section that it is in, see `ice_worker_section()`; empty if it is in none. Borrowed from the snapshot;
   * never NULL. */
  const char *section;
  /* How long it has been in that, or in none, in nanoseconds; -1 if it has said nothing of sections. */
  int64_t in_section_ns;
} ice_worker_info;

/* One worker of a plan, in its first attempt. Everything is borrowed from the plan; no pointer is NULL. */
typedef struct ice_worker_plan {
  /* RANK. */
  int32_t global_rank;
  /* The real local rank, also where LOCAL_RANK is 0 (`ice_spec_set_virtual_local_rank()`). */
  int32_t local_rank;
  /* ROLE_RANK. */
  int32_t role_rank;
  /* How many strings are in `argv`; 0 for a function. */
  int32_t argc;
  /* The program and its arguments, macros filled in; ends in NULL. */
  const char *const *argv;
  /* The whole environment, `NAME=VALUE` each; ends in NULL. MASTER_PORT is 0 where a free one will be
   * chosen. */
  const char *const *env;
  /* Its devices as the host sees them, `cuda:1`; empty where none are assigned. */
  const char *devices;
  /* What it gets as CUDA_VISIBLE_DEVICES; empty where that is the host's. */
  const char *visible_devices;
  /* The CPUs that it is bound to, `0-3,8`; empty where it is not, see `ice_cpu_binding`. */
  const char *cpus;
  /* The file its stdout goes to; empty if it is the console's. What makes the run directory unique is
   * XXXXXXXX here. */
  const char *stdout_log;
  /* The same for stderr. */
  const char *stderr_log;
  /* Its error file; empty where there are none. */
  const char *error_file;
} ice_worker_plan;

/* A value that a scheduler has said. Everything is borrowed from the plan; no pointer is NULL. */
typedef struct ice_plan_source {
  /* The option's name, as for `ice_spec_set()`, or OMP_NUM_THREADS. */
  const char *option;
  /* The value, for people. */
  const char *value;
  /* Where it is from: the variables' names, most of all. */
  const char *source;
} ice_plan_source;

/* One GPU, or a part of one (MIG). Later versions may add fields at the end: take it by pointer. Texts
 * are UTF-8, never NULL, valid until the list is freed. */
typedef struct ice_device {
  /* Its number for CUDA, from 0, in a process that has this one's environment. */
  int32_t index;
  /* 1 if it is a MIG device: part of a GPU. */
  int32_t is_mig;
  /* `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, or `MIG-` and the same, as CUDA_VISIBLE_DEVICES takes
   * it. Empty where the driver is older than CUDA 9.2; one older than 11.4 gives a MIG device the UUID
   * of its GPU, and is_mig is then 0. */
  const char *uuid;
  /* For instance `NVIDIA H100 80GB HBM3`. */
  const char *name;
  /* All of its memory, in bytes. */
  uint64_t memory_bytes;
  /* The compute capability, 9 of 9.0. */
  int32_t compute_major;
  /* And the 0 of 9.0. */
  int32_t compute_minor;
  /* `domain:bus:device.function` in lower case, `0000:3b:00.0`, as in /sys/bus/pci/devices. */
  const char *pci_bus_id;
  /* The NUMA node it is attached to; 0 where the kernel does not say. */
  int32_t numa_node;
} ice_device;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/* The name of a status, for instance `"ICE_ERROR_CONFIG"`; `"unknown status"` for a number that is
 * none. Static text, never NULL, any thread. */
const char *ice_status_string(int32_t status);

/* What the last failing call *of the calling thread* had to say: one line of UTF-8 without a
 * newline, empty before the first failure. Borrowed: valid until the next failing call of the same
 * thread. A success does not clear it. Never NULL. */
const char *ice_last_error_message(void);

/* The version of the library at run time, `"major.minor.patch"`. Static text, any thread. */
const char *ice_version(void);

/* Registers a function under a name, so that a new process of this same program can find it: see
 * `ice_spec_set_function()`. To be called in every process of the program, before `ice_worker_main()`;
 * `user_data` is what the function is given there, so it has to mean something in each of them (a
 * static variable, or NULL). The name is copied.
 *
 * Any thread. The same function may be registered again. ICE_ERROR_CONFIG for an empty name, and for a
 * second function under a name that is taken. */
ice_status ice_worker_register(const char *name,
                               ice_worker_fn function,
                               void *user_data);

/* Makes this program one that can be started again as a worker: to be called first in main, after the
 * calls of `ice_worker_register()` and before anything that a worker should not do or see. In a process
 * that an agent started to be a worker (a fork server, or the probe of `ice_device_list_new()`) it runs the
 * registered function, and the process ends with it: the call does not return. In any other process it
 * notes the program's arguments (from /proc/self/cmdline) and returns ICE_OK; that takes some microseconds.
 * No thread, no process, no descriptor is made.
 *
 * A program that does not call it cannot use the start methods spawn and forkserver for functions of
 * its own: `ice_agent_new()` says so. If it makes an agent first, in a process that is meant to be a worker,
 * that process ends, and its agent reports a start error: nothing is ever started twice over. */
ice_status ice_worker_main(void);

/* RANK of this worker; -1 for NULL, and in the warm-up of a fork server. Likewise the five functions
 * after it. */
int32_t ice_worker_rank(const struct ice_worker *worker);

/* LOCAL_RANK of this worker; the real one also where the variable is 0 for all
 * (`ice_spec_set_virtual_local_rank()`). */
int32_t ice_worker_local_rank(const struct ice_worker *worker);

/* ROLE_RANK of this worker. */
int32_t ice_worker_role_rank(const struct ice_worker *worker);

/* WORLD_SIZE: how many workers there are in all. */
int32_t ice_worker_world_size(const struct ice_worker *worker);

/* LOCAL_WORLD_SIZE: how many workers this agent has. */
int32_t ice_worker_local_world_size(const struct ice_worker *worker);

/* TORCHELASTIC_RESTART_COUNT: 0 in the first attempt. */
int32_t ice_worker_restart_count(const struct ice_worker *worker);

/* Writes the argument that `ice_spec_set_argument()` gave to `*data` and `*length`: memory that all
 * workers read from one place, aligned to a page, valid until the worker's process ends. NULL and 0 where
 * none was set; not NULL and 0 for one of 0 bytes, whose address is not to be used. */
ice_status ice_worker_argument(const struct ice_worker *worker,
                               const void **data,
                               size_t *length);

/* Sets the value that this worker returns to a copy of `length` bytes at `data`; 0 bytes are a value
 * too, told apart from none. Any size that memory holds. A further call replaces the value. The host
 * finds it in `ice_worker_result` if the worker then succeeds. ICE_ERROR_SYSTEM where the memory
 * cannot be had; the value is then none. ICE_ERROR_STATE in a program (`ice_worker_open()`), which has none. */
ice_status ice_worker_return(struct ice_worker *worker,
                             const void *data,
                             size_t length);

/* Makes the value that this worker returns `length` bytes of zeroed memory and writes their address
 * to `*out`: the callback fills them in place, and the host reads the very same memory. They belong to
 * the worker and stay mapped until it ends. A further call, or `ice_worker_return()`, replaces the
 * value. For 0 bytes the address is not NULL and not to be used. Errors as `ice_worker_return()`. */
ice_status ice_worker_return_buffer(struct ice_worker *worker,
                                    size_t length,
                                    void **out);

/* Records why this worker is about to fail, in torch's error-file form, in the file that
 * TORCHELASTIC_ERROR_FILE names; the agent reports the text as the reason. For any worker, callback or
 * program, also one that is not started by this library. `message` is the reason; `call_stack` may be
 * NULL. Bytes that are not UTF-8 are replaced. The file appears whole or not at all (it is written
 * under another name and renamed); a later call replaces it. Does not end the worker.
 *
 * Any thread, but not a signal handler. ICE_ERROR_STATE where the variable is unset or empty,
 * ICE_ERROR_SYSTEM where the file cannot be written. */
ice_status ice_worker_record_error(const char *message,
                                   const char *call_stack);

/* Makes a handle for a program that is a worker, and writes it to `*out`: its ranks are those of the variables
 * RANK, LOCAL_RANK, WORLD_SIZE and so on, its agent is found by ICE_CONTROL_FD. The caller frees it with
 * `ice_worker_close()`. A worker that is a function has its handle, and needs no other.
 *
 * Outside an agent, or where the spec does not say `ice_spec_set_control()`, it succeeds all the same: without
 * variables the world is 1 and the rank 0, and all that a worker says with this handle succeeds and does
 * nothing. A worker whose descriptor was closed, or replaced by a shell that has used the same number, finds
 * itself without control likewise. To be called in the process that says steps, once: a later handle of the same
 * worker, in whatever process, begins anew, without steps, timers or a pause, and is to be the only one in use.
 *
 * Not while another thread changes the environment. What a worker says and hears, from `ice_worker_step()` to
 * `ice_worker_release()`, may be done by any threads at once; one of them answers what it was asked. */
ice_status ice_worker_open(struct ice_worker **out);

/* Frees a handle of `ice_worker_open()`. NULL is fine, and so is the handle that a function was given, which
 * stays. Timers that are armed stay so. */
void ice_worker_close(struct ice_worker *worker);

/* 1 if an agent hears what this worker says, 0 if it says it to nobody. */
int32_t ice_worker_has_control(const struct ice_worker *worker);

/* Says that this rank is at `step`, any number below 2^64 - 1 that grows: one plain store, no system call. To
 * be called at the begin of each step, before `ice_worker_poll()`.
 *
 * All ranks that say steps are asked to act at one and the same of them: one that none has looked at yet. That
 * holds without any collective among them, if all count the same steps and look at each of them, or at the
 * same ones. A step is also a sign of life: `ice_spec_set_heartbeat_timeout()`. */
void ice_worker_step(struct ice_worker *worker,
                     uint64_t step);

/* Says what is due at this step, an `ice_request_kind`, and writes it to `*out`, which may be NULL. Usually
 * that is ICE_REQUEST_NONE, by one load from memory; `*out` is then untouched. A request that is due is due
 * at each look until it is answered or taken back.
 *
 * Waits, without using a CPU, in a rank that has answered a pause, until that is over or something else is to
 * be done where it stands; and for some microseconds while the agent chooses a step. So one loop does all:
 *
 *     while ((kind = ice_worker_poll(worker, &request)) != ICE_REQUEST_NONE) {
 *       if (kind == ICE_REQUEST_PAUSE) ice_worker_acknowledge(worker, 1);
 *       if (kind == ICE_REQUEST_SAVE) ice_worker_acknowledge(worker, save() == 0);
 *       if (kind == ICE_REQUEST_STOP) { save(); ice_worker_acknowledge(worker, 1); exit(0); }
 *     } */
ice_request_kind ice_worker_poll(struct ice_worker *worker,
                                 struct ice_request *out);

/* Answers the request that the last `ice_worker_poll()` said is due: `success` non-zero if it was done. The
 * answer to a pause means that this worker does no more work; its next look waits. ICE_ERROR_STATE if nothing
 * is due, or if it was answered. */
ice_status ice_worker_acknowledge(struct ice_worker *worker,
                                  int32_t success);

/* Says how far this worker is, `done` of `total` in whatever unit: two plain stores. 0 of 0, the beginning,
 * means that it does not say. The host finds it in `ice_worker_info`. */
void ice_worker_progress(struct ice_worker *worker,
                         uint64_t done,
                         uint64_t total);

/* Says that this worker is well: a look at the clock and a plain store, tens of nanoseconds. See
 * `ice_spec_set_heartbeat_timeout()`. */
void ice_worker_heartbeat(struct ice_worker *worker);

/* Arms the timer `scope` of this worker, in place of one of that name: unless it is released or armed anew
 * within `seconds`, the agent looks where the worker is (`ice_spec_set_stack_timeout()`) and kills it
 * (SIGKILL, or what `ice_spec_set_timer_signal()` says), whatever it hangs in. The worker has failed then,
 * as ICE_CAUSE_TIMED_OUT, with all that follows; its message names the scope and the time. 0 to 1e9 seconds,
 * on the monotonic clock; the agent looks within a few milliseconds of the earliest time. Time stands still
 * while the worker is paused, and the timers of a worker end with its process.
 *
 * It costs some stores, and a system call only if no other timer of the agent's workers is due before: a
 * timer of one length for each step costs one system call in that length. The first 48 bytes of the name
 * count; at most 12 timers at once, else ICE_ERROR_ARGUMENT. ICE_ERROR_CONFIG for bad seconds. */
ice_status ice_worker_expires(struct ice_worker *worker,
                              const char *scope,
                              double seconds);

/* Lets the timer `scope` go. One that is not armed is no error. */
ice_status ice_worker_release(struct ice_worker *worker, const char *scope);

/* Says that this worker is about to be at a debugger, and waits until it is the only one: another that has called
 * first comes first. From then on, until `ice_worker_debug_end()` or its end, no timer of any worker runs (those of
 * `ice_spec_set_debug_rank()`), and the other ranks pause, as by `ice_agent_pause()`, at a step that none has looked
 * at yet; one that waits for this rank in a collective waits there. A request of the host's meanwhile waits
 * for this rank's answer like for any other; of a pause it is not told before its end.
 *
 * If the host has a controlling terminal and is in its foreground, this process's group is put there, so
 * that ^C is for the worker, and its descriptors 0, 1 and 2 are the terminal's; what stdio has buffered is
 * to be flushed before. Without one, for a debugger that needs none (gdb --pid, debugpy), all else is the
 * same. In Python: call it from `sys.breakpointhook` before pdb, and the end after it.
 *
 * Without an agent, or without control, it succeeds and does nothing. ICE_ERROR_STATE if this worker is
 * at its debugger already. Any thread, one at a time. */
ice_status ice_worker_debug_begin(struct ice_worker *worker);

/* Ends what `ice_worker_debug_begin()` began: the streams are what they were, the terminal is the host's, timers and
 * heartbeats begin anew, and the other ranks go on. ICE_ERROR_STATE if nothing was begun; without an agent it
 * succeeds and does nothing. */
ice_status ice_worker_debug_end(struct ice_worker *worker);

/* Says that this worker is in the section `name` of its work from now on ("setup", "step", "checkpoint"), or with
 * NULL in none; the section that it was in, the same too, has come to its end. So one call at the begin of each
 * does, and one with NULL where the last ends. `ice_spec_set_section_limit()` and
 * `ice_spec_set_section_learning()` say how long a section may last; without them nobody looks. The host finds
 * it in `ice_worker_info`.
 *
 * It costs a look at the clock and a few plain stores, and a system call only if the agent has to look earlier
 * than it meant to. Time stands still while the worker is paused. The first 40 bytes of the name count; 8 names
 * at most in one worker, else ICE_ERROR_ARGUMENT, as for an empty name; what the worker was in then goes on. */
ice_status ice_worker_section(struct ice_worker *worker,
                              const char *name);

/* Asks the agent to stop the group and to start it anew, as if this worker had failed: it uses one of the
 * restarts, and where none is left the run ends as ICE_END_WORKER_FAILURE, with a message that says who asked.
 * There is then no root cause, and every worker counts as stopped by the agent. Returns at once; the stop signal
 * comes soon. A worker that exits after this call, with success too, has asked all the same. Before all workers
 * run it waits until they do, and once the group is being stopped it changes nothing. A program without libice
 * asks for a restart by any exit code that is not 0. */
ice_status ice_worker_request_restart(struct ice_worker *worker);

/* Makes a spec with all fields at their defaults and writes it to `*out`. The caller owns it and
 * frees it with `ice_spec_free()`. */
ice_status ice_spec_new(struct ice_spec **out);

/* Frees a spec. NULL is fine. Agents made from it are not touched. */
void ice_spec_free(struct ice_spec *spec);

/* Sets an option by its name, from text: what the function `ice_spec_set_*` of that name does, for hosts that
 * have options as text themselves. `docs/options.md` lists all of them, and `ice_option_at()` tells of each.
 *
 * `name` is for instance `max_restarts`, or torchrun's name for it where that is another (`nnodes` for `nodes`);
 * `-` may stand for `_`. How `text` is read depends on the option, see `ice_option_kind`. An option that adds to
 * what is there (`arg`, `env`) adds each time. ICE_ERROR_CONFIG for a name that is none, with the nearest that
 * is one, and for a value that the option does not take, with what would be right. */
ice_status ice_spec_set(struct ice_spec *spec,
                        const char *name,
                        const char *text);

/* Sets the options that a config file names. It is TOML: a key is the name of an option, as for
 * `ice_spec_set()`, its value a number, a text, true or false; an array where the option is a list or adds to
 * what is there; a table where it has pairs (`[env]`, `[rank_env.0]`, `[rendezvous_options]`, `[section_limits]`,
 * `[on_signal]`, `[tee]`). What is set later, by this or by other functions, counts.
 *
 * All of the file is set, or nothing. ICE_ERROR_CONFIG, with the line, for a key that is no option, with the nearest
 * that is one, for a value that the option does not take, and for what is no TOML; also for a file that cannot be
 * read, or has more than a mebibyte. */
ice_status ice_spec_load(struct ice_spec *spec,
                         const char *path);

/* How many options there are. Any thread. */
size_t ice_option_count(void);

/* One of them, from 0, in the order in which a help shows them; NULL for a number that is not below
 * `ice_option_count()`. It is static. Any thread. */
const struct ice_option *ice_option_at(size_t index);

/* The role of the workers: ROLE_NAME in their environment, byte for byte. Not empty; any bytes but
 * NUL. Default `"default"` (torchrun `--role`). */
ice_status ice_spec_set_role(struct ice_spec *spec, const char *role);

/* How many workers this agent starts: 1 to 16384, default 1 (torchrun `--nproc-per-node`; for its words see
 * `ice_spec_set_nproc_per_node()`). Where `ice_spec_set_devices()` names devices their number is the default,
 * and another one set here is ICE_ERROR_CONFIG from `ice_agent_new()`, with both. Each worker costs the host one
 * descriptor while it runs, two if it is a function, and one more for each of its streams that is followed to the
 * console, to `ice_spec_set_output_callback()` or through filters; the run itself some twenty. See getrlimit(2),
 * RLIMIT_NOFILE, and `ice_spec_set_raise_descriptor_limit()`. */
ice_status ice_spec_set_local_world_size(struct ice_spec *spec,
                                         int64_t size);

/* The program each worker runs: a path, or a name without a slash that is looked for in the PATH of
 * *the worker's* environment (so a PATH set for one rank decides there), as execvp(3) does, but
 * without its fall-back to a shell. Macros as in `ice_spec_add_arg()` are not replaced here. A spec
 * has a program, a callback or a function. */
ice_status ice_spec_set_program(struct ice_spec *spec, const char *path);

/* `ice_spec_set_program()` for a path of `length` bytes that is not NUL-terminated. A NUL within is
 * ICE_ERROR_CONFIG. */
ice_status ice_spec_set_program_bytes(struct ice_spec *spec, const char *path, size_t length);

/* Adds one argument after the program's name. It reaches the worker byte for byte, no shell reads
 * it, but for these macros, which each attempt fills in: `${local_rank}`, `${rank}`, `${role_rank}`,
 * `${group_rank}`, `${local_world_size}`, `${world_size}`, `${role_name}`, `${run_id}`,
 * `${restart_count}`, `${hostname}`; `ice_spec_set_macros()` chooses fewer. One more `$` keeps such a
 * text: `$${rank}` arrives as `${rank}`. Anything else, `$$`, `$rank` and `${other}` too, stays as it is.
 * The kernel's limits hold at start: 128 KiB for one argument, a quarter of the stack limit for all
 * (execve(2), E2BIG). */
ice_status ice_spec_add_arg(struct ice_spec *spec,
                            const char *arg);

/* `ice_spec_add_arg()` for `length` bytes that are not NUL-terminated. A NUL within is
 * ICE_ERROR_CONFIG. */
ice_status ice_spec_add_arg_bytes(struct ice_spec *spec, const char *arg, size_t length);

/* Adds `count` arguments, as `ice_spec_add_arg()` does one. All or none are added. */
ice_status ice_spec_add_args(struct ice_spec *spec, const char *const *args, size_t count);

/* Chooses which macros are filled in in arguments, an `ice_macros`, whether they were added before or are
 * added later. Prefixes and commands (`ice_spec_set_log_prefix_template()`, `ice_spec_set_stack_command()`)
 * always have all. Default ICE_MACROS_ALL. */
ice_status ice_spec_set_macros(struct ice_spec *spec,
                               int32_t choice);

/* Makes each worker a forked copy of this process that calls `function(worker, user_data)` and ends
 * with what it returns. See `ice_worker_fn` for what the function may do. A spec has a program, a
 * callback or a function; a callback takes no arguments. It runs on a stack as large as a main thread's
 * (getrlimit(2), RLIMIT_STACK; 64 MiB where that is unlimited), the only thread there.
 *
 * Fork is safe here in a host with many threads: the child is made by the C library's fork(3), so
 * malloc and stdio work in it; what other threads of the host held locked stays locked for ever in
 * the child, and its pthread_atfork(3) handlers run. The price of fork grows with the memory the host
 * has touched (some 25 ms per GiB); programs and `ice_spec_set_function()` do not have that price. */
ice_status ice_spec_set_callback(struct ice_spec *spec,
                                 ice_worker_fn function,
                                 void *user_data);

/* Makes each worker a call of the function `name` in a process of its own that is not a copy of this one.
 *
 * With `library` NULL it is a function of this program that `ice_worker_register()` knows under that name:
 * the program is executed again, and its main calls `ice_worker_main()`. A name that the new process
 * does not know is a start error that lists those that it knows.
 *
 * With `library` it is the symbol `name` of that shared object, an `ice_worker_fn` that gets NULL as
 * `user_data`. The process has nothing in it but libice and the object (and what the object is linked
 * with), which dlopen(3) loads with RTLD_NOW | RTLD_GLOBAL: no main function of the host's is needed, so
 * this is the way for hosts in Go, Julia or Python. A path with a slash is relative to the host's
 * directory when the run starts, one without is searched for as dlopen(3) does.
 *
 * Both strings are copied, and must not be empty. A spec has a program, a callback or a function. The
 * start method is ICE_START_SPAWN unless `ice_spec_set_start_method()` says otherwise. A function takes no
 * arguments but what `ice_spec_set_argument()` gives. */
ice_status ice_spec_set_function(struct ice_spec *spec,
                                 const char *library,
                                 const char *name);

/* Chooses how functions start, an `ice_start_method`. Default: ICE_START_FORK for a callback,
 * ICE_START_SPAWN for `ice_spec_set_function()`. `ice_agent_new()` gives ICE_ERROR_CONFIG for a callback
 * with another method than fork (its pointer means nothing in a new process), and for a function of a
 * shared object with fork. Programs are always executed, whatever is chosen here. */
ice_status ice_spec_set_start_method(struct ice_spec *spec,
                                     int32_t method);

/* The argument of a function: a copy of `length` bytes at `data` in shared memory, which every worker
 * finds with `ice_worker_argument()`. Any size, 0 too; it travels in no argument and no variable. It
 * costs the spec, and each agent made from it, no further copy, and the host one descriptor.
 * ICE_ERROR_SYSTEM where the memory cannot be had. */
ice_status ice_spec_set_argument(struct ice_spec *spec,
                                 const void *data,
                                 size_t length);

/* A function that the fork server calls once before it forks workers: to load data or libraries that all
 * workers then share. `name` is registered, or a symbol of the same shared object, as the worker's
 * function is. Its `ice_worker` has no rank (the numbers are -1) but the argument; what it returns must be
 * 0, anything else is a start error. Signal handlers that it leaves are not the workers', and SIGCHLD goes
 * back to its default; threads that it leaves are not in the workers, with all that this means for locks
 * (fork(2)), and must not wait for children that are not theirs. Its output goes to the host's stdout and
 * stderr. Without the start method forkserver ICE_ERROR_CONFIG from `ice_agent_new()`. */
ice_status ice_spec_set_warm_up(struct ice_spec *spec,
                                const char *name);

/* The program that functions of shared objects run in, and that asks the CUDA driver where devices matter:
 * any that calls `ice_worker_main()` first in main.
 * Needed only where libice is linked statically into a program that does not do so itself: the shared
 * library is such a program of its own (it has an entry; where its file is not executable the host's
 * dynamic loader runs it). A runner that is itself linked statically with libice has to export its symbols
 * (`-rdynamic`) for objects that call `ice_worker_*` without being linked with libice themselves. */
ice_status ice_spec_set_runner(struct ice_spec *spec,
                               const char *path);

/* Non-zero, the default: a function that SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT ends leaves signal,
 * address and a backtrace with symbols in its error file (`ice_worker_result`: message, call_stack),
 * unless it wrote that file itself. The handlers work on a stack of their own; they are installed before
 * the function is called, and only for signals that are at their default, so that handlers of the
 * program's own are left alone; the process then dies by the signal, and dumps core, as without them.
 * One more handler, for signal 62 (SIGRTMAX-2) and under the same terms, says where the threads of a stuck
 * worker are when the agent asks, see `ice_spec_set_stack_timeout()`. 0: no handler. */
ice_status ice_spec_set_crash_records(struct ice_spec *spec,
                                      int32_t on);

/* How many workers, in torchrun's words (`--nproc-per-node`): a number as for
 * `ice_spec_set_local_world_size()`, or
 *
 * - `"gpu"`: one for each CUDA device that the host may use; none is ICE_ERROR_CONFIG from
 *   `ice_agent_new()`;
 * - `"cpu"`: one for each CPU that the host may use: those of its affinity mask, and no more than the
 *   control groups around it grant (cpu.max);
 * - `"auto"`: as gpu where there is a device, else as cpu.
 *
 * One worker for each device means that: as with `ice_spec_set_devices()` of `"cuda:*"` each sees its own,
 * unless `ice_spec_set_device_visibility()` says otherwise (a script that was written for torchrun, and
 * takes device LOCAL_RANK, wants ICE_VISIBLE_INHERIT, or `ice_spec_set_virtual_local_rank()`). A number, and
 * a count of CPUs, change nothing for the workers. Of this function and `ice_spec_set_local_world_size()`
 * the last call counts. */
ice_status ice_spec_set_nproc_per_node(struct ice_spec *spec,
                                       const char *text);

/* The devices that the workers run on, one worker for each, in this order, as ice-learn writes them:
 *
 * - `"cuda"`, `"cpu"`: one worker, on the first GPU, or on no GPU;
 * - `"cuda:0-2,7"`: numbers and ranges, both ends included; `"cuda:*"`: all there are. A device may be named
 *   again, `"cuda:0,0"`, for several workers on it;
 * - `"GPU-8932f937,MIG-..."` or `"cuda:GPU-..."`: UUIDs, of which a beginning is enough that no other
 *   device has;
 * - `"cpu:0-3"`: four workers without a GPU; the numbers mean nothing else. `"cpu:*"`: as many as
 *   `ice_spec_set_nproc_per_node()` counts for cpu;
 * - `"auto"`, `"auto:*"`, `"auto:0-3"`: cuda where the host sees a device, else cpu.
 *
 * Numbers are those of the devices that the *host* sees, in its order: where its CUDA_VISIBLE_DEVICES is
 * `2,5`, `"cuda:1"` is the device that the variable calls 5. That variable is taken from the host's
 * environment when the agent is made, or from `ice_spec_set_env()`; HIP_VISIBLE_DEVICES, where it is
 * set, wins, and is believed without a look at the devices. CUDA itself is asked in a helper process,
 * never in the host: a host that has initialised CUDA could not fork workers that use it.
 *
 * By default each worker then sees its own device alone, see `ice_device_visibility`. Its environment has,
 * beside RANK and so on,
 *
 * - ICE_DEVICES, its devices by the numbers that they have *for it*, in this same form: `cuda:0`;
 * - ICE_DIST_BACKEND, see `ice_spec_dist_backend()`.
 *
 * The number of workers follows the list; a number that was set as well has to be the same. ICE_ERROR_CONFIG
 * for a text of another form, and from `ice_agent_new()`, with both numbers, where the host sees fewer
 * devices than are named, or the sizes differ. Default: nothing is said of devices. */
ice_status ice_spec_set_devices(struct ice_spec *spec,
                                const char *devices);

/* Chooses what workers see, an `ice_device_visibility`. The host's list is sliced, never renumbered: entries
 * are handed on as they are, numbers, `GPU-` and `MIG-` UUIDs. It is read as CUDA reads it: the first
 * entry that names no device ends it, a device that is named twice hides all, and so does an empty
 * variable. Where fewer remain than the workers need, and for a list with -1 in it, `ice_agent_new()` gives
 * ICE_ERROR_CONFIG. If HIP_VISIBLE_DEVICES is set in the host it is the list, and both variables are set
 * for the workers. The host's own environment is never written to. With OWN or ALL a
 * `ice_spec_set_rank_env()` of these variables is ICE_ERROR_CONFIG.
 *
 * OWN or ALL without `ice_spec_set_devices()` share out the first devices of the list to as many workers as
 * there are. Workers on the CPU are left alone by all three. */
ice_status ice_spec_set_device_visibility(struct ice_spec *spec,
                                          int32_t visibility);

/* Non-zero: LOCAL_RANK is 0 for every worker, which sees its own device alone (ICE_VISIBLE_OWN), so that
 * `cuda:LOCAL_RANK` is always `cuda:0` (torchrun `--virtual-local-rank`). The real local rank is in
 * ICE_LOCAL_RANK, in `${local_rank}` and in `ice_worker_local_rank()`. Default 0. ICE_ERROR_CONFIG from
 * `ice_agent_new()` with another visibility. */
ice_status ice_spec_set_virtual_local_rank(struct ice_spec *spec,
                                           int32_t on);

/* How many devices each worker has: the list is split in contiguous parts, and there are as many workers
 * as parts. 1 to 16384, default 1. A list that cannot be split evenly is ICE_ERROR_CONFIG from
 * `ice_agent_new()`, as is a part with one device twice. */
ice_status ice_spec_set_devices_per_rank(struct ice_spec *spec,
                                         int64_t count);

/* How many workers share each device: the list is taken as if it named each device so often, `"cuda:0,1"`
 * as `"cuda:0,0,1,1"`. 1 to 16384, default 1: workers share a device only where that was asked for, here or
 * in the list. Not together with `ice_spec_set_devices_per_rank()`: then ICE_ERROR_CONFIG from
 * `ice_agent_new()`. */
ice_status ice_spec_set_ranks_per_device(struct ice_spec *spec,
                                         int64_t count);

/* Non-zero: workers are given UUIDs in CUDA_VISIBLE_DEVICES in place of the host's entries: these mean the
 * same device whatever CUDA_DEVICE_ORDER says, and after a reboot. Default 0. ICE_ERROR_CONFIG from
 * `ice_agent_new()` where the UUID of a device is not known. */
ice_status ice_spec_set_device_uuids(struct ice_spec *spec,
                                     int32_t on);

/* The library for collectives that fits the devices of this spec, as torch.distributed names it: `"nccl"`
 * for CUDA; `"gloo"` for the CPU, and where workers share a device, which NCCL does not take (the rule is
 * ice-learn's). A hint: workers find it in ICE_DIST_BACKEND, this library uses neither. `""` where no
 * devices are set, or where it depends on what there is (`"auto"`, UUIDs): `ice_plan_dist_backend()`
 * knows it then. Static text, never NULL. */
const char *ice_spec_dist_backend(const struct ice_spec *spec);

/* Seconds that the process may take that asks the CUDA driver what there is, see `ice_device_list_new()`:
 * more than 0, to 1e9. Default 30. It is asked by `ice_agent_new()` where the devices decide anything (a
 * number of workers in words, named devices, UUIDs), and again before each restart of workers that have
 * devices. When the agent is made, what went wrong is its error, ICE_ERROR_TIMEOUT or ICE_ERROR_DEVICE.
 * Before a restart, a device that is gone, or has another number than before, ends the run
 * (ICE_END_AGENT_ERROR) with a message that names it and its rank, rather than to hand workers the wrong
 * ones; a driver that does not answer is a warning in the log, as the workers will see for themselves. */
ice_status ice_spec_set_probe_timeout(struct ice_spec *spec,
                                      double seconds);

/* Sets a variable in the environment of every worker. Order: the host's environment as it is when
 * the run starts, these changes in the order of their calls, those of `ice_spec_set_rank_env()`, and
 * last what the agent sets itself: RANK, LOCAL_RANK, GROUP_RANK, ROLE_RANK, ROLE_NAME,
 * LOCAL_WORLD_SIZE, WORLD_SIZE, GROUP_WORLD_SIZE, ROLE_WORLD_SIZE, MASTER_ADDR, MASTER_PORT,
 * TORCHELASTIC_RESTART_COUNT, TORCHELASTIC_MAX_RESTARTS, TORCHELASTIC_RUN_ID,
 * TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_ERROR_FILE, ICE_DESCENT; ICE_CONTROL_FD where the spec says
 * `ice_spec_set_control()`; and where devices are assigned ICE_DEVICES, ICE_DIST_BACKEND, ICE_LOCAL_RANK and
 * the variables of `ice_spec_set_device_visibility()`. To set or unset one of these here is
 * ICE_ERROR_CONFIG, as is a name that is empty or has a `=` (but
 * CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES, which are then shared out in place of the host's). With
 * `ice_spec_set_file_timers()` TORCHELASTIC_TIMER_FILE is the agent's, whatever is set here.
 *
 * ICE_DESCENT says whose worker a process is, and what descends from it: see `ice_spec_set_kill_group_on_success()`.
 * It is a list separated by `:`, as a worker may be the host of an agent itself. Of what the agent around such a host
 * sets nothing else reaches its workers: it leaves out all of the above, and the TORCHELASTIC_TIMER_FILE,
 * TORCHELASTIC_SIGNALS_TO_HANDLE and TORCHELASTIC_HEALTH_CHECK_PORT of a host that has TORCHELASTIC_RUN_ID. But
 * the devices and CPUs that the host has are what it can share out, and OMP_NUM_THREADS is theirs.
 *
 * Where neither the host nor the spec says anything of them, TORCH_NCCL_ASYNC_ERROR_HANDLING becomes `1`,
 * and with more than one worker OMP_NUM_THREADS too, as under torchrun: each worker would else start as
 * many threads as there are CPUs; with `ice_spec_set_from_scheduler()` it is its part of the CPUs, where these are known.
 * `ice_spec_unset_env()` keeps them out. */
ice_status ice_spec_set_env(struct ice_spec *spec,
                            const char *key,
                            const char *value);

/* `ice_spec_set_env()` for bytes that are not NUL-terminated. A NUL within is ICE_ERROR_CONFIG. */
ice_status ice_spec_set_env_bytes(struct ice_spec *spec,
                                  const char *key,
                                  size_t key_length,
                                  const char *value,
                                  size_t value_length);

/* Takes a variable of the host out of the environment of every worker. Fine if it is not there. */
ice_status ice_spec_unset_env(struct ice_spec *spec, const char *key);

/* `ice_spec_set_env()` for the worker of one local rank. A rank that is not below local_world_size
 * is ICE_ERROR_CONFIG from `ice_agent_new()`. */
ice_status ice_spec_set_rank_env(struct ice_spec *spec,
                                 int32_t local_rank,
                                 const char *key,
                                 const char *value);

/* `ice_spec_unset_env()` for the worker of one local rank. */
ice_status ice_spec_unset_rank_env(struct ice_spec *spec, int32_t local_rank, const char *key);

/* Non-zero: workers start with nothing of the host's environment, only with what the spec sets and
 * what the agent sets itself. A program without a slash is then looked for in a PATH that the spec
 * sets, else in `/bin:/usr/bin`. Default 0. */
ice_status ice_spec_set_clean_env(struct ice_spec *spec, int32_t on);

/* Non-zero: workers of a host that a launcher of MPI has started get nothing of that launcher's variables. With them
 * MPI_Init() of a worker takes it for the rank that its host is, and fails or hangs. A host is taken for a rank if it
 * has PMI_RANK, PMIX_RANK, OMPI_COMM_WORLD_RANK, MPI_LOCALRANKID, MV2_COMM_WORLD_RANK or PALS_RANKID; left out is then
 * whatever begins with PMI_, PMI2_, PMIX_, OMPI_, ORTE_, PRTE_, HYDI_, MPI_LOCAL, MPISPAWN_, MV2_COMM_WORLD_,
 * MVP_COMM_WORLD_, PALS_, SLURM_PMI or FLUX_PMI_. Settings of Open MPI (OMPI_MCA_pml, say) are among them, as they look
 * like what the launcher itself has set: what `ice_spec_set_env()` sets is kept. The host's own environment stays as
 * it is. A message says it at level info. Default 0; `icerun` has it on, unless `--keep-launcher-variables` is given. */
ice_status ice_spec_set_scrub_launcher(struct ice_spec *spec,
                                       int32_t on);

/* The directory workers start in. A relative path is taken from the host's working directory.
 * Default: the host's. A directory that is missing is a start error with its errno. */
ice_status ice_spec_set_working_dir(struct ice_spec *spec, const char *path);

/* Chooses the standard input of workers, an `ice_stdin`. Default ICE_STDIN_NULL. */
ice_status ice_spec_set_stdin(struct ice_spec *spec, int32_t choice);

/* Binds each worker to CPUs, an `ice_cpu_binding`. Default ICE_CPU_BINDING_OFF (torchrun `--numa-binding`).
 *
 * The binding is part of the worker's birth: it holds before the first instruction of a program or function,
 * whatever the start method, and needs no other program; arguments are not changed. A fork server and its
 * warm-up are not bound, the workers that it forks are. Each attempt works the sets out anew.
 *
 * Where neither the host nor the spec sets or unsets OMP_NUM_THREADS, a bound worker has in it the number
 * of physical cores that it got. (An OpenMP library that a forked worker has from its host, or from its fork
 * server, has read its environment there.)
 *
 * NODE, SOCKET, EXCLUSIVE and CORE_COMPLEX are a start error where a worker has no device, or where none of
 * the CPUs near it may be used; so is whatever the kernel refuses, with its errno. Devices are looked for
 * when the agent is made (`ice_spec_set_probe_timeout()`). A worker's device is the first that it was given;
 * where none are named, that of its local rank. */
ice_status ice_spec_set_cpu_binding(struct ice_spec *spec,
                                    int32_t binding);

/* Non-zero: while the run lasts the host's soft limit of descriptors (getrlimit(2), RLIMIT_NOFILE) is its hard limit,
 * and afterwards what it was, unless somebody has set another one meanwhile. Workers, and all that is started beside
 * them, get the soft limit that there was before. Several runs at once share it. The limit is one of the whole
 * process: select(2) in the host does not know a descriptor above 1023.
 *
 * Whether it is raised or not: an attempt whose workers need more descriptors (see `ice_spec_set_local_world_size()`)
 * than the limit leaves ends with ICE_END_START_ERROR and EMFILE before any of them is started. Default 0: no limit is
 * touched. `icerun` always raises it. */
ice_status ice_spec_set_raise_descriptor_limit(struct ice_spec *spec,
                                               int32_t on);

/* MASTER_ADDR for the workers. Default `127.0.0.1` (torchrun `--master-addr`). With a rendezvous
 * (`ice_spec_set_rendezvous()`) it is of the round, and this and the port have no effect, but for
 * `ice_spec_set_from_scheduler()`. */
ice_status ice_spec_set_master_addr(struct ice_spec *spec, const char *address);

/* MASTER_PORT for the workers: 0 to 65535; 0, the default, means a free port, another one for each
 * attempt. Rank 0 is to listen there, unless the agent does (`ice_spec_set_agent_store()`). While an attempt runs the
 * agent keeps the port from being given to others with a bound socket that does not listen: a worker that listens
 * there needs SO_REUSEADDR, which every usual server sets (torch's store does). A given port that is in use is a start
 * error with EADDRINUSE. */
ice_status ice_spec_set_master_port(struct ice_spec *spec,
                                    int32_t port);

/* Whether the agent serves the store that workers meet at, at MASTER_ADDR and MASTER_PORT, in the protocol of
 * PyTorch's TCPStore (as torchrun does); TORCHELASTIC_USE_AGENT_STORE then is `True`, and rank 0 a client like
 * the others (`env://` and `ice_worker_store()` know that). Each attempt has a new, empty one, served by a
 * thread of the library. If MASTER_ADDR is a loopback address only this host gets to it, else anybody who
 * reaches the port: PyTorch's clients have no secret. Non-zero: it does; 0: the worker of rank 0 is to.
 *
 * Default: with a rendezvous the agent of group rank 0 serves it; on one host no agent does, and no port is open.
 * Whatever is said here, rank 0 is to serve it where the host's environment has
 * TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or on one host where workers find ICE_STORE_SECRET_FILE. */
ice_status ice_spec_set_agent_store(struct ice_spec *spec,
                                    int32_t on);

/* The name of this job: TORCHELASTIC_RUN_ID, and part of the run directory's name (where `/` and
 * control characters become `_` and only the first 100 bytes count). Not empty. Default: `none`
 * (torchrun `--rdzv-id`). */
ice_status ice_spec_set_run_id(struct ice_spec *spec, const char *run_id);

/* How often the whole group may be started again after a worker failed: 0 to 2147483647, default 3
 * as torch's WorkerSpec (torchrun's own default is 0). 0 means exactly one attempt.
 *
 * A start error in the first attempt ends the run, whatever restarts are left. In a later attempt, what could not be
 * started may be a while later, if nothing but room was missing (processes, memory, descriptors, space on a disk, a
 * free port) or a file that is being replaced (ENOENT, ETXTBSY): that uses a restart up, after a wait, see
 * `ice_spec_set_restart_backoff()`, and is one of the result's failures. Anything else (ENOEXEC, EACCES), or such an
 * error when no restart is left, is an agent error. Hosts of a job are told of it as of a failed worker. */
ice_status ice_spec_set_max_restarts(struct ice_spec *spec,
                                     int64_t count);

/* Waits before a restart: `initial` seconds before the first, twice as long before each further one,
 * never more than `maximum` seconds. Counted from the moment the last worker is gone. Both 0 to 1e9,
 * `initial` not above `maximum`. Default: no wait; after an attempt whose workers could not be started, 0.5 seconds,
 * and twice as long after each further one in a row, never more than 30. A stop ends the wait at once. */
ice_status ice_spec_set_restart_backoff(struct ice_spec *spec,
                                        double initial,
                                        double maximum);

/* An attempt whose first failure comes sooner than `seconds` after its start is a crash loop: the run
 * ends with it, whatever restarts are left. 0 to 1e9; default 0, which is off. */
ice_status ice_spec_set_min_uptime(struct ice_spec *spec,
                                   double seconds);

/* Adds an exit code, 1 to 255, after which a restart makes no sense (a bad configuration, say): a
 * worker whose own failure has this code ends the run, whatever restarts are left. May be called
 * again for further codes. */
ice_status ice_spec_add_no_restart_exit_code(struct ice_spec *spec, int32_t code);

/* How many attempts may fail without having come further than those before: the run ends with the last of
 * them, whatever restarts are left. 0 to 2147483647; 0, the default, is any number. How far an attempt came is the
 * greatest step that a rank has said (`ice_worker_step()`), or where none says steps the most that a rank has
 * done (`ice_worker_progress()`). An attempt in which nobody has said anything is unknown: it is not counted,
 * and does not end the count; for those that fail at once there is `ice_spec_set_min_uptime()`. Any number but
 * 0 implies `ice_spec_set_control()`. */
ice_status ice_spec_set_max_attempts_without_progress(struct ice_spec *spec,
                                                      int64_t count);

/* The longest time, in seconds, between two looks at what the kernel announces by no event: whether
 * descendants of a stopped worker are gone, and with `ice_spec_set_uninterruptible_timeout()` whether a worker
 * is asleep in the kernel. Exits of workers, stops and output are events and never wait for it, and without
 * that an agent whose workers are well does not wake up at all. 0.001 to 1e9, default
 * 0.1 (torchrun `--monitor-interval`). */
ice_status ice_spec_set_monitor_interval(struct ice_spec *spec,
                                         double seconds);

/* Seconds that workers have between the stop signal and SIGKILL, one value for every path: a failed
 * peer, a restart, a signal, `ice_agent_stop()`, `ice_agent_free()`. All workers share one deadline.
 * 0 to 1e9; 0 means SIGKILL follows at once. Default: the environment variable
 * TORCH_ELASTIC_SHUTDOWN_TIMEOUT of the host when the agent is made, else 30 (torchrun
 * `--shutdown-timeout`). A variable that is not such a number is ICE_ERROR_CONFIG from
 * `ice_agent_new()`. */
ice_status ice_spec_set_shutdown_timeout(struct ice_spec *spec,
                                         double seconds);

/* The signal that asks workers to stop; default SIGTERM. It goes to the process group of every
 * worker, so that its descendants get it too, once, followed by SIGCONT, so that a stopped worker can
 * act on it. A run that is stopped by a signal of `ice_spec_set_signals()` or by
 * `ice_agent_stop(agent, signal)` passes that signal on instead. */
ice_status ice_spec_set_stop_signal(struct ice_spec *spec,
                                    int32_t signal);

/* Sends `signal` first and waits up to `seconds` for the workers to end by themselves before the stop
 * signal follows: time for a checkpoint. `seconds` 0 to 1e9, not counted in the shutdown time-out.
 * Default: none. */
ice_status ice_spec_set_pre_stop_signal(struct ice_spec *spec,
                                        int32_t signal,
                                        double seconds);

/* Signals of the host process that stop the run: a comma-separated list of names with or without
 * `SIG`, or numbers, for instance `"SIGTERM,SIGINT,SIGHUP,SIGQUIT"` (torchrun's default for
 * `--signals-to-handle`). Default `""`: the library installs no handler at all.
 *
 * With a list, handlers are installed for the time of the run only, and what stood there before is
 * put back when the last run that asked for that signal is over. A signal that the host ignores when
 * the run starts stays ignored (nohup). On a signal every worker gets that same signal, has the
 * shutdown time-out, then SIGKILL; the run ends with ICE_END_INTERRUPTED. A further signal never skips
 * the kill: a second SIGINT or SIGQUIT brings SIGKILL at once, others change nothing.
 *
 * A worker that dies of one of these signals, or exits with 128 and its number, may have got a stop that is meant
 * for all before the host got it. So for up to 0.2 seconds it is not taken for a failure: a stop that comes
 * meanwhile ends the run as one, without a further attempt. The same holds in a job of several hosts for SIGTERM,
 * SIGINT and the stop signal, whoever handles them, and for a job that another host closed without a failed worker.
 *
 * A name that this system does not know is a warning in the log and otherwise left out. SIGKILL,
 * SIGSTOP, SIGCHLD and the signals of a crash are ICE_ERROR_CONFIG. */
ice_status ice_spec_set_signals(struct ice_spec *spec,
                                const char *list);

/* Signals of the host process that every worker gets once each time they arrive, while the run goes
 * on, for instance `"SIGUSR1,SIGUSR2,SIGWINCH"`. The list, the handlers and the errors are as for
 * `ice_spec_set_signals()`; a signal in both lists stops the run. Default `""`. */
ice_status ice_spec_set_pass_signals(struct ice_spec *spec, const char *list);

/* Non-zero (the default): when a group has succeeded, what its workers left running is killed, as it always is after a
 * failure or a stop, and before a restart. 0: it is left alone after a success, and nobody looks for it.
 *
 * That is the members of their process groups, and whatever else descends from a worker, in whatever group or
 * session (`timeout`, a shell with job control, setsid(1), a daemon). A stop signal reaches those too that are below a
 * living worker then, but not what is below another agent there (a nested run): that agent stops its workers, and has
 * until the shutdown time-out. What has lost its parents is found by the mark of the run in ICE_DESCENT, which
 * everything inherits that does not clear its environment, or, with `ice_spec_set_subreaper()`, whatever
 * it does. What is found and cannot be killed is named, with its command, in a warning and in
 * `ice_result_summary()`.
 *
 * Not found is, without a subreaper, what has lost its parents and then cleared its environment, or may not be
 * looked at: a program of another user (sudo) for a host that is not root; and nobody is where /proc shows another
 * pid namespace, or none (hidepid shows one's own, which is enough). A program that is meant to outlive its worker is
 * to be started from elsewhere, by a service manager for instance. */
ice_status ice_spec_set_kill_group_on_success(struct ice_spec *spec,
                                              int32_t on);

/* Non-zero: from the start of the run to its end the process is a child subreaper (PR_SET_CHILD_SUBREAPER of prctl(2)):
 * what descends from it and loses its parent becomes its child. So nothing that a worker has started is lost,
 * even if it has a session of its own and an empty environment; it is killed with its attempt, see
 * `ice_spec_set_kill_group_on_success()`, and reaped. A handler for SIGCHLD stands meanwhile, unless the host ignores
 * it; what ends earlier is reaped within a second. 0 (the default): nothing of the host is changed.
 *
 * For a process that starts no other children during the run, and has no other agent: such a child, but one of before
 * the run, counts as a descendant of the workers. icerun is one. */
ice_status ice_spec_set_subreaper(struct ice_spec *spec,
                                  int32_t on);

/* Says what one signal of the host process is to the run, an `ice_on_signal`: a scheduler's warning, say, that the
 * machine will be taken away. What is said here counts before the lists of `ice_spec_set_signals()` and
 * `ice_spec_set_pass_signals()`, and for SIGINT before `ice_spec_set_ask_on_interrupt()`; a later call replaces
 * an earlier one for the same signal. Handlers stand as for these lists. By default nothing is said of any signal.
 *
 * Workers have as long to save as `ice_spec_set_checkpoint_before_stop()` gives them, else 300 seconds. Both
 * checkpoints imply `ice_spec_set_control()`. A signal that asks for a checkpoint while one is being saved asks for
 * the same, and so do several at once. One that comes while no workers run (they are being started, or wait for
 * other hosts or a back-off) has the next ones save, if they come to run in that time. A checkpoint that is asked
 * for before a stop asks nobody then: the run is stopped at once, and so it is by any other signal that stops it.
 * A run that was stopped by CHECKPOINT_AND_STOP or STOP ends as ICE_END_INTERRUPTED, with this signal in
 * `ice_result_signal()`.
 *
 * Schedulers may send a warning to all processes of a job (Slurm `--signal=USR1@60`, without `B:`). So workers
 * start with a shield against signals of both checkpoints: see `ice_spec_set_checkpoint_before_stop()`.
 *
 * `signal` is 1 to SIGRTMAX, but for SIGKILL, SIGSTOP, SIGCHLD, those that tell of a defect (SIGSEGV, SIGBUS,
 * SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS), and 32 and 33, which the C library keeps to itself. */
ice_status ice_spec_set_on_signal(struct ice_spec *spec,
                                  int32_t signal,
                                  int32_t action);

/* Non-zero: ^Z at a terminal, or any SIGTSTP to the host, stops all workers with all that is in their process
 * groups (SIGSTOP), then the host process itself, every thread of it, as if it had no handler. Whoever continues it
 * (`fg` or `bg` in a shell, SIGCONT) continues the workers too. The time in between counts for no timer of a worker.
 * Where no shell could continue it the kernel stops nobody (an orphaned process group, see setpgid(2)), and the
 * workers go on at once. Without this a host that has no handler is stopped, and its workers run on, as their
 * groups are not the terminal's.
 *
 * SIGTSTP has a handler from start to the end of the run, as with `ice_spec_set_signals()`; a signal that is named
 * there, in `ice_spec_set_pass_signals()` or with `ice_spec_set_on_signal()` is what they make of it. Where a rank
 * has the terminal for its debugger ^Z does nothing. Default 0: SIGTSTP is not touched. `icerun` asks for it. */
ice_status ice_spec_set_suspend(struct ice_spec *spec,
                                int32_t on);

/* Non-zero: the agent and its workers share a page of memory, through which workers say what step they are at,
 * and are asked to pause, save or stop: `ice_worker_step()`, `ice_agent_request_checkpoint()` and those around
 * them. Default 0.
 *
 * A program gets one more descriptor, 3, which its descendants inherit, and the variable ICE_CONTROL_FD, which
 * says so, and is the agent's alone; a function gets nothing that it sees. The host has one descriptor and one
 * thread more while an attempt runs. Nobody wakes up for it unless a worker answers or a timer is due. */
ice_status ice_spec_set_control(struct ice_spec *spec,
                                int32_t on);

/* Non-zero: SIGINT is a question, once the group runs, where the workers could answer it
 * (`ice_spec_set_control()` or what implies it) and somebody could be asked: the host's descriptor 0 and the
 * console for stderr are a terminal (isatty(3)), in whose foreground the host is. All ranks pause at one
 * step, for up to 10 seconds, then the terminal shows `Should I save the checkpoint? [Y/n] `. Enter, y and
 * yes have them save one, n and no do not, anything else asks again; the end of the input counts as yes.
 * Saving may take the time of `ice_spec_set_checkpoint_before_stop()`, else 300 seconds; the terminal shows
 * what came of it. Then the run is stopped, as by `ice_agent_stop()` with SIGINT, and workers are not asked
 * to save once more. Another SIGINT, at any time, skips the question and stops the run at once; one more
 * kills the workers.
 *
 * Where one of that is missing SIGINT is whatever it is without this option. The question stands alone: lines of
 * workers, log messages and events wait for the answer. A thread of the library reads it, one line from the host's
 * stdin, which the host is not to read meanwhile. SIGINT has a handler from start to the end of the run, as
 * with `ice_spec_set_signals()`, which may name it too. Default 0: SIGINT is not touched. `icerun` always asks. */
ice_status ice_spec_set_ask_on_interrupt(struct ice_spec *spec,
                                         int32_t on);

/* The local rank that is run for a debugger, pdb or gdb for instance: its stdin, stdout and stderr are the
 * controlling terminal of the host, whatever `ice_spec_set_stdin()`, `ice_spec_set_redirects()` and
 * `ice_spec_set_tee()` say, and its process group is in the foreground of it from its birth to its end, so that ^C
 * is for the worker, as under a debugger, and not for the host. `breakpoint()` in a Python script just works. -1,
 * the default, is none.
 *
 * While that rank lives no timer runs: heartbeats, timers of `ice_worker_expires()`, torch's file timers and the
 * limit for uninterruptible sleep; each begins anew at its end. The other ranks run on: at their next collective
 * they wait by themselves. A worker that uses libice can have them wait, and have the terminal for no longer than
 * it needs it, with `ice_worker_debug_begin()`, for which this option is not needed.
 *
 * At the rank's end, before a question (`ice_spec_set_ask_on_interrupt()`) and at the end of the run the
 * host's group is put back into the foreground, and the terminal into the modes that it had (tcsetpgrp(3),
 * tcsetattr(3)). A host in the background keeps its hands off: the rank then starts with /dev/null for stdin
 * and the console for the rest, with a warning in the log. SIGTSTP, ^Z, is ignored by the rank at its start
 * (but in copies of a fork server): it would stop nobody else. A progress bar is not shown meanwhile.
 * ICE_ERROR_CONFIG for a number below -1, and from `ice_agent_new()` for one that is not below
 * local_world_size, and if the host has no controlling terminal. */
ice_status ice_spec_set_debug_rank(struct ice_spec *spec,
                                   int64_t local_rank);

/* Non-zero: a progress bar on one row below all lines of the console for stderr, where that is a terminal
 * (isatty(3)); elsewhere, and with the log directory /dev/null, there is none. Implies `ice_spec_set_control()`, and
 * shows what workers say there: the slowest rank's `ice_worker_progress()`, or its step where it says no total;
 * the rate, the time that is left, which rank is the slowest and how many steps it is behind the first (if it
 * is), and the number of restarts. Ranks that have ended do not count. Default 0.
 *
 * Streams that workers would write to that terminal themselves go through files, as with
 * `ice_spec_set_tee()`, and so does what they show beside the bar: a line clears it, is shown, and the bar
 * is drawn again. A line that rewrites itself with CR stays above it. The bar steps aside while a log or
 * event callback of the host's is called, which may write there. What others write to the terminal meanwhile
 * may be mixed with it.
 *
 * The output thread draws it, up to 4 times a second and only when something has changed, as wide as the
 * terminal is then; a terminal that is stopped or gone holds nothing up. The last row stays, as a line. */
ice_status ice_spec_set_progress_bar(struct ice_spec *spec,
                                     int32_t on);

/* A worker that has said a step or a heartbeat (`ice_worker_step()`, `ice_worker_heartbeat()`) and then
 * neither for `seconds` is looked at (`ice_spec_set_stack_timeout()`) and killed (SIGKILL, or what
 * `ice_spec_set_timer_signal()` says). It has failed then, as ICE_CAUSE_TIMED_OUT, with all that follows;
 * its message says why. One that never said anything is left alone here, see
 * `ice_spec_set_initial_heartbeat_timeout()`. Heartbeats are seen to the millisecond;
 * a step is taken to be as young as it can be since the agent looked last, once in `seconds`, so that a
 * worker which says steps alone is killed `seconds` to twice `seconds` after its last. 0 to 1e9; 0, the
 * default, is off. Any other implies `ice_spec_set_control()`. */
ice_status ice_spec_set_heartbeat_timeout(struct ice_spec *spec,
                                          double seconds);

/* How long a worker may take until its first word: a step, a heartbeat or a section (`ice_worker_step()`,
 * `ice_worker_heartbeat()`, `ice_worker_section()`). One that says none of them for `seconds` from its birth on is
 * dealt with as one whose heartbeat stays away, whether or not it has come as far as `ice_worker_open()`: so a
 * worker that hangs in its imports is found, and one that never uses libice is ended, too. A worker that is several
 * processes in turn, as a shell script, has the whole time again each time that one of them opens its handle. Apart
 * from `ice_spec_set_heartbeat_timeout()`, which may be off: a first step takes longer than others, with imports,
 * data and compilation before it. 0 to 1e9; 0, the default, is off: a first word that never comes is not missed.
 * Any other implies `ice_spec_set_control()`. What `initial_rank_heartbeat_timeout` is to NVIDIA's ft_launcher. */
ice_status ice_spec_set_initial_heartbeat_timeout(struct ice_spec *spec,
                                                  double seconds);

/* The signal for a worker that has let a timer of `ice_worker_expires()`, its heartbeat or the limit of a
 * section expire, or is a straggler (`ice_spec_set_straggler_timeout()`): 1 to 64, default SIGKILL (9).
 * Where several have expired, one signal is sent, for the earliest. A worker that lives on is killed after
 * the shutdown time-out. 0: nobody is ended; the log (ICE_LOG_WARNING) and the events (`STUCK`) tell of each
 * that expires, once. Torch's file timers name a signal each themselves.
 *
 * No limit of a worker counts time in which the agent could not run either: both were stopped by SIGSTOP or a
 * debugger, frozen in their cgroup, or the machine was paused, suspended, or overloaded. This holds for heartbeats,
 * timers, file timers, sections, stragglers and uninterruptible sleep, for the shutdown time-out, and for the time to
 * save a checkpoint before a stop. To see it, the agent sleeps for no more than an eighth of what is left of the
 * next limit, and at least for half a second; without a limit it sleeps until something happens. What it missed
 * between two looks is given back as a whole, if it is more than half a second: so a worker that hangs is found
 * that much later. A worker that is stopped alone has its limits as ever. */
ice_status ice_spec_set_timer_signal(struct ice_spec *spec,
                                     int32_t signal);

/* How long a worker may be in the section `name` (`ice_worker_section()`), or with NULL in none, once it has said
 * a word of sections (up to its first word `ice_spec_set_initial_heartbeat_timeout()` counts): more than `seconds`,
 * and it is looked at and ended, as one whose timer has expired; its message names the section, how long it was there,
 * and the limit. 0 to 1e9; 0: no limit, whatever is learnt (`ice_spec_set_section_learning()`). The first 40 bytes of
 * the name count; not empty. To be called for each section; a later call replaces the limit. Default: none. Implies
 * `ice_spec_set_control()`. */
ice_status ice_spec_set_section_limit(struct ice_spec *spec,
                                      const char *name,
                                      double seconds);

/* Learns how long a section may last that has no limit of `ice_spec_set_section_limit()`: `factor` times as long
 * as the longest that came to its end, and at least `least` seconds, once five have. All ranks and all attempts of
 * the run are taken together. The first time that a process is in a section is apart from all others, learnt
 * from the firsts of other ranks and attempts: the first step compiles what the others run, and set-up comes
 * only once. The time outside of sections is not learnt. `factor` is 1 to 1000 (5 is a good start), or 0, the
 * default: nothing is learnt; `least` 0 to 1e9. Any other implies `ice_spec_set_control()`. */
ice_status ice_spec_set_section_learning(struct ice_spec *spec,
                                         double factor,
                                         double least);

/* Before a run is stopped, by `ice_agent_stop()`, `ice_agent_free()` or a signal of `ice_spec_set_signals()`,
 * its workers are asked to save a checkpoint at the same step (ICE_REQUEST_SAVE, ICE_REASON_PREEMPTION). The
 * stop begins when all have answered or ended, or after `seconds`: what is left until the machine is taken
 * away, say. Another SIGINT or SIGQUIT, whatever the first signal was, kills at once. What not all have saved is said,
 * with counts, as a warning. 0 to 1e9; 0, the default, is off. Any other implies `ice_spec_set_control()`.
 *
 * In a job of several hosts the workers of all hosts save, at one step, before the host that is asked to stop leaves
 * the job; and so they do, with ICE_REASON_MEMBERSHIP and as long as the agent that leads says, before another host
 * joins, or once one has vanished.
 *
 * Many send a stop to all processes at once (systemd's KillMode=control-group, Slurm, a container's runtime), and
 * workers without a handler would be gone before they are asked. So they start with a shield: the signals that
 * stop the run, SIGTERM, the stop signal and the pre-stop signal, and those of the checkpoints of
 * `ice_spec_set_on_signal()`, are nothing to them until their agent stops them. They are ignored when a worker
 * begins, which a program that it executes inherits; from `ice_worker_open()` on, or at once in a function, they
 * have a handler in place that does nothing (SA_RESTART; a system call may end with EINTR), which neither executed
 * programs nor, in effect, forked copies inherit. A handler of the worker's own, set at any time, takes its place
 * and is called whoever sends the signal. Before the agent sends a signal of its own the shield is lowered, so that
 * this one has its default action. A worker that never opened its handle, and ignores the signal still, is killed
 * (SIGKILL) when its group gets the signal. A shell that was started so cannot set a trap for these signals. SIGINT
 * is no part of it: Python would take one that it finds ignored for one that it is to ignore. */
ice_status ice_spec_set_checkpoint_before_stop(struct ice_spec *spec,
                                               double seconds);

/* What `ice_result_exit_status()` says of a run that ended as ICE_END_INTERRUPTED after all ranks of the job had saved a
 * checkpoint (`ice_result_has_saved()`): 0 to 255, or -1 for what it says of any stop. Default -1. A scheduler, or a script,
 * that starts the program again for one status and not for others goes by it. ICE_ERROR_CONFIG for another number. */
ice_status ice_spec_set_saved_exit_status(struct ice_spec *spec,
                                          int64_t status);

/* Serves workers as torch's file timers do (`torch.distributed.elastic.timer`, as of 2.15): each attempt has a
 * FIFO of its own, in TORCHELASTIC_TIMER_FILE of its workers, and a worker that does not release a timer in
 * time gets the signal that its client has named. 1 on, 0 off. Default: on if the host's environment has
 * TORCHELASTIC_ENABLE_FILE_TIMER=1 when the agent is made, as for torch.
 *
 * The FIFO is where the host's own TORCHELASTIC_TIMER_FILE says, unless the host is a worker itself (it has
 * TORCHELASTIC_RUN_ID), else in the run directory, else below TMPDIR or `/tmp`; only processes of the host's user
 * may write to it; a FIFO that is there already, and that nobody reads from, is replaced, anything else is a
 * start error. A request is one line of JSON, at most 4096 bytes, with `pid`,
 * `scope_id`, `expiration_time` in seconds since 1970 and `signal`. A negative time releases the timer of that
 * process and scope; another one sets or replaces it. The time is read when the line arrives: what happens
 * to the wall clock later changes nothing. What is no request is left out, and told to the log once.
 *
 * Timers are of workers and of processes that these have started, found by process group or descent; a
 * request for anybody else is refused with a warning, and nobody but these is ever signalled. A worker
 * has at most 256. They end with their process and with their attempt.
 *
 * When one expires, its stack is taken (`ice_spec_set_stack_timeout()`) and that process gets the signal, once,
 * whatever else of it has expired by then; 0 or less only warns in the log; a number that is no signal stands
 * for SIGKILL. A worker that is still there after the shutdown time-out is killed. It has failed then,
 * as ICE_CAUSE_TIMED_OUT, with all that follows: the group is stopped, and started again if restarts are left. */
ice_status ice_spec_set_file_timers(struct ice_spec *spec,
                                    int32_t on);

/* How many seconds a worker may be in uninterruptible sleep (state D of ps(1)) without a pause: 0 to 1e9, 0
 * for any time. One that has been for longer waits for a GPU, a network card or a disk that does not answer,
 * and what it holds a new one would miss: its stack is taken, the group is stopped, and the run has failed, as
 * ICE_END_WORKER_FAILURE, whatever restarts are left. The worker is ICE_CAUSE_TIMED_OUT; if SIGKILL cannot
 * end it, it is given up as ICE_OUTCOME_STUCK. Only its first thread counts, as for torch.
 *
 * While this is on, the agent looks at each worker once per `ice_spec_set_monitor_interval()`: one small file
 * of /proc for each. Default: TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT of the host's environment when the
 * agent is made, where anything but such a number means none, as for torch; else off, at no cost. */
ice_status ice_spec_set_uninterruptible_timeout(struct ice_spec *spec,
                                                double seconds);

/* How many seconds workers may go on when the first of them has ended with success: 0 to 1e9; 0, the default, is
 * as long as they like. Those that still run then have failed, as ICE_CAUSE_TIMED_OUT, and are ended by the signal
 * of `ice_spec_set_timer_signal()`: peers of one that has left are often in a collective that nobody will end. */
ice_status ice_spec_set_straggler_timeout(struct ice_spec *spec,
                                          double seconds);

/* How many seconds the agent may take to find out where a stuck worker is before it ends it: 0 to 1e9, default
 * 5; 0 means that it does not look. A worker is stuck when a timer of its own has expired
 * (`ice_worker_expires()`, `ice_spec_set_file_timers()`), when it has not been heard of
 * (`ice_spec_set_heartbeat_timeout()`), when it is too long in a section (`ice_spec_set_section_limit()`) or behind
 * the others (`ice_spec_set_straggler_timeout()`), or when it has been in uninterruptible sleep for too long
 * (`ice_spec_set_uninterruptible_timeout()`). Where several are found stuck at the same time, none is ended before
 * all were looked at or their time is over. Meanwhile the agent goes on: the end of any worker and a stop
 * are seen as ever, and end the search.
 *
 * Of a worker whose descendant holds the timer that expired, that descendant is looked at. What is found is
 * `stack` in `ice_worker_result`, and the file `stack.txt` in the worker's log directory, if it
 * has one:
 * - for each thread, of 64 at most, its name, state and wait channel, and where the host may see them (it is
 *   root, say) the system call and the stack within the kernel, from /proc;
 * - for a function with crash records (`ice_spec_set_crash_records()`) the stack of each thread, with symbols: a
 *   handler for signal 62 (SIGRTMAX-2), which is there unless the program handles that signal, writes it
 *   down and goes on. A thread that blocks the signal, or that the kernel holds, has none;
 * - what the command of `ice_spec_set_stack_command()` says. */
ice_status ice_spec_set_stack_timeout(struct ice_spec *spec,
                                      double seconds);

/* A program that looks at a stuck worker, a debugger say, within the time of `ice_spec_set_stack_timeout()`:
 * `count` strings at `words`, the program (a path, or a name that is looked for in the host's PATH) and its
 * arguments, with the macros of `ice_spec_add_arg()` and `${pid}`. For example `py-spy dump --pid ${pid}`, or
 * `gdb -p ${pid} -batch -ex bt`. It runs in the host's directory and with the host's environment, in a process
 * group of its own, without an input; of what it writes to stdout and stderr the first 64 KiB are taken. When
 * the time is over its group is killed. That it cannot start, or fails, is said in place of its output.
 * `count` 0 takes the command back. Default: none. */
ice_status ice_spec_set_stack_command(struct ice_spec *spec,
                                      const char *const *words,
                                      size_t count);

/* The directory under which a run makes its own,
 * `<log dir>/<run id>_<unique>/attempt_<n>/<local rank>/{stdout.log,stderr.log,error.json,stack.txt}`
 * (torchrun `--log-dir`). Missing directories are made. Two runs never share a run directory, and none
 * is removed, unless it is empty at the end.
 *
 * While the run is on, the directory is locked (flock(2)), which keeps systemd-tmpfiles from cleaning it away. If it
 * vanishes all the same it is made again, at the same path, for the workers that start after that. Where that cannot
 * be done at a restart, they start without error files, and what they would redirect goes nowhere: a warning.
 *
 * Default: `ice_<run id>_<unique>` below TMPDIR, if that is set, else below `/tmp`. If only error files
 * may go there they lie in it side by side as `attempt_<n>_<local rank>_error.json`; for users up to number 999 it
 * is below `/dev/shm` then, if TMPDIR is not set (of other users systemd-logind may remove what is there when they
 * log out). Removed if nothing was written to it.
 *
 * `/dev/null` means no files at all: streams that would go to a file go nowhere,
 * TORCHELASTIC_ERROR_FILE is empty, and filters are ICE_ERROR_CONFIG. */
ice_status ice_spec_set_log_dir(struct ice_spec *spec,
                                const char *path);

/* Which streams of workers go to files instead of the host's stdout and stderr: `"0"` none (the
 * default), `"1"` stdout, `"2"` stderr, `"3"` both, for all ranks; or by local rank, `"0:1,12:2"`,
 * where ranks that are not named have none (torchrun `--redirects`). A worker writes to its file
 * itself: it costs nothing, and the file is whole when the host is killed. A rank that is not below
 * local_world_size is ICE_ERROR_CONFIG from `ice_agent_new()`, but see `ice_spec_set_allow_absent_ranks()`. */
ice_status ice_spec_set_redirects(struct ice_spec *spec,
                                  const char *map);

/* Which streams of workers go to files and also, line by line with a prefix, to the host's stdout
 * and stderr; the map is as for `ice_spec_set_redirects()` (torchrun `--tee`).
 *
 * The bytes of a line are not changed: not CR, not NUL, not what is no UTF-8. A line is shown when
 * its newline comes; a piece without newline that holds a CR (a progress bar) within 0.2 seconds, one
 * prefix for all rewrites of that line; the rest at the end of the stream, with a newline added. A
 * console that is stuck never holds a worker up: lines stay in the file and are shown when it goes on,
 * at the end of the run for up to the shutdown time-out. A console that is gone is one warning. */
ice_status ice_spec_set_tee(struct ice_spec *spec,
                            const char *map);

/* Non-zero: a worker's stderr goes where its stdout goes, the order of its writes kept; there is then
 * no stderr.log, and the last lines of "stderr" are those of stdout. Default 0. */
ice_status ice_spec_set_merge_stderr(struct ice_spec *spec,
                                     int32_t on);

/* Non-zero: streams that go to files go through the agent, which writes the files and, of tee'd streams, the
 * console; workers write to pipes. Default 0: workers write their log files themselves, and the console follows
 * the files.
 *
 * A disk that is full then fails no worker. What it does not take (ENOSPC, EDQUOT, EIO, EFBIG by RLIMIT_FSIZE, a
 * file system that has become read-only, directories that cannot be made for an attempt) is missing in the files,
 * and nowhere else: tee'd lines are all on the console. The first loss of an attempt is one warning, and its total
 * is another one at the end of the attempt. With the default a worker's own write fails, as that of any program
 * whose stdout is a file, and lines that did not get into the file do not reach the console.
 *
 * What it costs: output is copied twice more, and a worker that writes faster than the disk takes it waits. A disk
 * that takes nothing at all for five seconds, or, where the disk is full, a console that does not, holds nobody up any
 * longer: what comes then is lost, and counted, until it takes some again. For each stream the agent has three
 * descriptors more while the worker lives, if it is tee'd.
 *
 * When the agent's process dies, so do its workers, as ever; what they wrote last, at most 256 KiB of each stream
 * and 8 MiB of all, is in no file then. A process that outlives its worker, or the agent, and goes on writing has nobody
 * who reads: it gets SIGPIPE, or EPIPE. */
ice_status ice_spec_set_log_through_agent(struct ice_spec *spec,
                                          int32_t on);

/* What stands before each line of a tee'd stream; macros as in `ice_spec_add_arg()`. Default: the
 * environment variable TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE of the host when the agent is made, else
 * `[${role_name}${local_rank}]:` (torchrun `--log-line-prefix-template`). */
ice_status ice_spec_set_log_prefix_template(struct ice_spec *spec,
                                            const char *template_);

/* Non-zero: each prefix starts with the time the line was read, UTC, as
 * `2026-01-31T23:59:59.123Z `. Default 0. */
ice_status ice_spec_set_log_timestamps(struct ice_spec *spec, int32_t on);

/* The only local ranks that may reach the console, for instance `"0"` or `"0,2"` (torchrun
 * `--local-ranks-filter`). Output of the others goes to their files, also where no redirect was
 * asked for. Default: all. */
ice_status ice_spec_set_local_ranks_filter(struct ice_spec *spec, const char *list);

/* Non-zero: the maps of `ice_spec_set_redirects()` and `ice_spec_set_tee()` and the list of
 * `ice_spec_set_local_ranks_filter()` may name local ranks that are not below local_world_size, for one set of
 * options on hosts of different size (as torchrun takes it): those are left out, with a warning when the run
 * starts. Default 0: such a rank is ICE_ERROR_CONFIG from `ice_agent_new()`. */
ice_status ice_spec_set_allow_absent_ranks(struct ice_spec *spec,
                                           int32_t on);

/* Copies the stdout lines of all ranks that contain one of these texts, prefixed, to
 * `attempt_<n>/filtered_stdout.log`. A comma-separated list, `,,` for a comma within a text (torchrun
 * `--duplicate-stdout-filters`).
 * The stream must be redirected or tee'd for at least one rank, else `ice_agent_new()` gives
 * ICE_ERROR_CONFIG; ranks whose stdout is in no file are not searched. Default `""`: no such file. */
ice_status ice_spec_set_duplicate_stdout_filters(struct ice_spec *spec,
                                                 const char *list);

/* `ice_spec_set_duplicate_stdout_filters()` for stderr and `attempt_<n>/filtered_stderr.log`. */
ice_status ice_spec_set_duplicate_stderr_filters(struct ice_spec *spec, const char *list);

/* How many bytes of the end of a failed worker's stderr file go into its result, cut to whole lines:
 * 0 to 16777216, default 4096. Only a stream that is in a file has a tail. */
ice_status ice_spec_set_stderr_tail(struct ice_spec *spec,
                                    int64_t bytes);

/* Permission bits of directories and files that the run makes, 0 to 07777 (octal), set whatever the
 * umask is. Default: in a directory that `ice_spec_set_log_dir()` names 0775 and 0664 less the umask of the host, so that
 * others never may write there; else 0700 and 0600, as mkdtemp(3), as everybody shares what is above. */
ice_status ice_spec_set_log_modes(struct ice_spec *spec,
                                  int32_t directory,
                                  int32_t file);

/* The descriptors that stand for the console: tee'd lines of stdout go to `out`, those of stderr to
 * `err`, and workers whose streams are not redirected inherit them. The host keeps both open until
 * the run is over. Default 1 and 2. A number below 0 is ICE_ERROR_CONFIG; a descriptor that is not
 * open when the run starts stands for /dev/null. On a terminal workers are in the background: one that stops
 * who writes from there (`stty tostop`) does not stop workers, which then start with SIGTTOU ignored. */
ice_status ice_spec_set_console(struct ice_spec *spec,
                                int32_t out,
                                int32_t err);

/* Sends the output of all ranks (but those the rank filter leaves out) to `function` instead of the
 * console. All streams then go through files, as if redirected. NULL takes it back. */
ice_status ice_spec_set_output_callback(struct ice_spec *spec,
                                        ice_output_fn function,
                                        void *user_data);

/* Where messages of the library go, see `ice_log_fn`. NULL, the default: nowhere. The library itself
 * never writes to stdout or stderr, but for tee'd lines, and where `ice_spec_set_progress_bar()` or
 * `ice_spec_set_ask_on_interrupt()` asks for it. */
ice_status ice_spec_set_log_callback(struct ice_spec *spec,
                                     ice_log_fn function,
                                     void *user_data);

/* The least important level, an `ice_log_level`, that the log callback is given. Default
 * ICE_LOG_DEBUG: everything. The thread that calls it is started with the first such message. */
ice_status ice_spec_set_log_level(struct ice_spec *spec, int32_t level);

/* Where the events of the run go, for machines: NULL, the default, is nowhere. An event is one object of
 * JSON in the form that torch's agent gives its events:
 *
 * - `name`: `torchelastic.worker.status.STATE` or `torchelastic.agent.status.STATE`;
 * - `source`: `WORKER`, `AGENT` or `RENDEZVOUS`; `timestamp`: milliseconds since 1970;
 * - `metadata`: `state`, `run_id`, `role`, `hostname`, `agent_pid`, `rdzv_backend`, `agent_restarts` (which
 *   attempt), and of a worker `worker_id` (its PID), `global_rank`, `local_rank`, `role_rank`, `group_rank`,
 *   `world_size`, at its end `exit_code` (minus the signal if one killed it), `signal`, `duration_ms`, and
 *   `error`, the message of a failure;
 * - and for what took time, `torchelastic.agent.stage.STAGE` with `duration_ms` (and its fraction) and
 *   `agent_restarts`, where STAGE is START (of a group whose workers all run), STOP (from the first signal until all
 *   are gone) or ATTEMPT (from the begin of its start until all are gone), of source `AGENT`.
 *
 * In each attempt there is one STARTED for each worker that was started, and one final SUCCEEDED, FAILED or
 * TERMINATED (by the agent). Before that there is a STUCK for each timer, heartbeat or limit that it let expire,
 * and for uninterruptible sleep, with `error` and the `signal` that follows, 0 for none. The last event of every
 * run, whatever happens to it, is one SUCCEEDED or FAILED of the agent, with `duration_ms`, `error`, `end` (in the
 * words of `ice_result_summary()`),
 * `root_cause` (a global rank), and torch's metrics: `run_total` is 1, one of `run_success_with_retry`,
 * `run_success_without_retry`, `run_failed_with_retry` and `run_failed_without_retry` is 1, and `flakiness` is
 * 0 to 100, see `ice_result_flakiness()`. Later versions may add fields, and states. */
ice_status ice_spec_set_event_callback(struct ice_spec *spec,
                                       ice_event_fn function,
                                       void *user_data);

/* A file that the events of the run are appended to, a line each, see `ice_spec_set_event_callback()`; "" is
 * none, the default. A relative path is meant from the host's directory when the run starts, which makes the
 * file if it is not there. A terminal will do, and a pipe that somebody reads. A run whose event file cannot
 * be opened is a start error; one that is full, gone or slow later does not hold the run up: at most a
 * mebibyte of events waits for it, what it does not take is left out, and the log has a warning. */
ice_status ice_spec_set_event_file(struct ice_spec *spec,
                                   const char *path);

/* Where the events of one source go, `worker`, `agent` or `rendezvous` (`source` of the event in lower case), or
 * with NULL those of all sources that have no handler of their own: to `null` for nowhere, to `console` for the
 * second descriptor of `ice_spec_set_console()`, or to a file, by its path, as with `ice_spec_set_event_file()`,
 * which is the same as NULL and that path. "" takes the handler back. A handler that is full, gone or slow harms
 * nobody else; events of several sources for one place come there in their order. A callback
 * (`ice_spec_set_event_callback()`) gets all of them, whatever is said here. Default: none (torchrun
 * `--event-log-handler`). */
ice_status ice_spec_set_event_handler(struct ice_spec *spec,
                                      const char *source,
                                      const char *handler);

/* A TCP port of this machine, where HTTP clients are answered while a run goes on. GET of `/metrics` has what
 * Prometheus reads (text format 0.0.4): `libice_group_state`, `libice_restarts`, `libice_workers` by state, the
 * seconds of run, attempt and last start; for each rank `libice_worker_step`, `libice_worker_lag_steps`,
 * `libice_worker_at_step_seconds` (see `ice_worker_info`) and `libice_worker_resident_bytes`; and torch's counters
 * (`libice_run_total`, `libice_run_success_with_retry` and so on) of the runs of this process that have ended. Later
 * versions may add some.
 *
 * GET of any other path answers whether the agent is well: 200 and a line of JSON with `last_progress` (seconds
 * since 1970), `seconds_since`, `state` (torch's WorkerState) and `agent_restarts`; 503 and the same when the
 * agent's loop has not turned for `seconds` although it was asked to. Workers do not count: a group that hangs has
 * a healthy agent.
 *
 * `port` is 0 (a free one, which the log has at ICE_LOG_INFO) to 65535; -1 is the default: the port that
 * TORCHELASTIC_HEALTH_CHECK_PORT names in the host's environment when the run starts, none without it.
 * `seconds` is more than 0, to 1e9, or 0 for the default of 60, torch's. Only processes of this machine reach it
 * unless `ice_spec_set_health_address()` says otherwise. A port that is in use, or a variable that is no port, is
 * a warning in the log, and the run goes on. It is answered by a thread of its own, 32 clients at a time, each for
 * some seconds: none of them can hold the agent up. */
ice_status ice_spec_set_health_check(struct ice_spec *spec,
                                     int64_t port,
                                     double seconds);

/* The address that the health port is at, of IPv4 or IPv6: `0.0.0.0` or `::` for all of this machine, as a probe or
 * a Prometheus elsewhere needs it. There is no password: whoever can connect is answered. Default `127.0.0.1`.
 * What is no address is ICE_ERROR_CONFIG; one that is not this machine's is a warning in the log of the run. */
ice_status ice_spec_set_health_address(struct ice_spec *spec,
                                       const char *address);

/* The path of a unix socket that answers as the port of `ice_spec_set_health_check()` does, with or without that:
 * who may connect is a matter of the umask and of the directory. "" is none, the default. A relative path is meant
 * from the host's directory when the run starts. The file is made then, in place of a socket that nobody listens
 * at, and removed at the end; what cannot be made is a warning in the log. A path has 107 bytes at most. */
ice_status ice_spec_set_health_socket(struct ice_spec *spec,
                                      const char *path);

/* The class of the end. ICE_END_AGENT_ERROR for NULL. */
ice_end ice_result_end(const struct ice_result *result);

/* 1 unless the end is ICE_END_SUCCEEDED or ICE_END_NOT_NEEDED (torch's `is_failed()`; whatever else did not succeed
 * has failed). */
int32_t ice_result_is_failed(const struct ice_result *result);

/* The last state of the worker group. ICE_STATE_UNKNOWN for NULL. */
ice_state ice_result_state(const struct ice_result *result);

/* How often the group was started again: 0 if the first attempt was the only one. */
int32_t ice_result_restarts(const struct ice_result *result);

/* Torch's measure of how smoothly a run went, 0 to 100: 0 if no restart was used, nearly 100 if all of them
 * were, 100 if it failed (torch's `flakiness` metric). 100 for NULL. */
int32_t ice_result_flakiness(const struct ice_result *result);

/* The signal that interrupted the run, 0 if none did or `ice_agent_stop(agent, 0)` did. */
int32_t ice_result_signal(const struct ice_result *result);

/* 1 if every worker of the last attempt exited with 0: also after an interruption, when all used their
 * time well (a checkpoint before preemption). */
int32_t ice_result_all_exited_cleanly(const struct ice_result *result);

/* 1 if all ranks of the job, on whatever hosts, have saved at least one checkpoint in this run that they were asked for at
 * one step (`ice_agent_request_checkpoint()`, a stop, a signal). What a worker saved unasked is not known. 0 for NULL. */
int32_t ice_result_has_saved(const struct ice_result *result);

/* The step of the last such checkpoint, as the workers say it (`ice_worker_step()`); -1 if there is none, if they do not
 * say it, and for NULL. */
int64_t ice_result_saved_step(const struct ice_result *result);

/* The exit status for a program that runs a spec and does nothing else, 0 to 255, as icerun has it:
 *
 * - 0: ICE_END_SUCCEEDED or ICE_END_NOT_NEEDED;
 * - n: a worker failed, on whatever host, with exit code n; 1 where there is none that could be handed on;
 * - 128 + n: signal n, which was not the agent's, killed the worker that failed;
 * - 124: the agent found a worker stuck and ended it (ICE_CAUSE_TIMED_OUT), by whatever signal; as timeout(1);
 * - 126: the program of the workers cannot be executed, in whatever attempt; as shells have it, and the next one;
 * - 127: the program of the workers, or its interpreter, is not there;
 * - 123: any other ICE_END_START_ERROR: a directory, a file, a port, memory or processes that cannot be had;
 * - 125: any other ICE_END_AGENT_ERROR;
 * - 128 + n: ICE_END_INTERRUPTED by signal n; 143 without a signal; `ice_spec_set_saved_exit_status()` chooses another one
 *   for a run whose workers had all saved.
 *
 * A spec that is refused has no result: icerun ends with 2 then, and with 125 where a call fails for another
 * reason. 125 for NULL. */
int32_t ice_result_exit_status(const struct ice_result *result);

/* The errno of a start error or agent error, 0 if there is none. */
int32_t ice_result_errno(const struct ice_result *result);

/* Why the run ended as it did, one line; empty for a success. Control characters are escapes in it (`\x1b`), as in the
 * summary, in `ice_last_error_message()` and in messages of the log: all are for people, and may be shown on a
 * terminal. What a worker has said is in its own record, as it said it. Borrowed from the result; never NULL. */
const char *ice_result_message(const struct ice_result *result);

/* The whole result for people: several lines of UTF-8, the root cause first, workers that the agent
 * stopped last. Borrowed from the result; never NULL. */
const char *ice_result_summary(const struct ice_result *result);

/* The run directory, see `ice_spec_set_log_dir()`; empty if there is none (any more). Borrowed from the
 * result; never NULL. */
const char *ice_result_run_dir(const struct ice_result *result);

/* How many workers the result lists: the local world size. 0 for NULL. */
size_t ice_result_worker_count(const struct ice_result *result);

/* One worker of the last attempt, by local rank. Borrowed from the result. NULL if `local_rank` is out
 * of range. */
const struct ice_worker_result *ice_result_worker(const struct ice_result *result,
                                                  size_t local_rank);

/* One worker of the last attempt, by global rank. Borrowed from the result. NULL if this agent has no
 * such worker. */
const struct ice_worker_result *ice_result_worker_of_rank(const struct ice_result *result,
                                                          int32_t rank);

/* The worker that made the last attempt fail: the first, in the kernel's order, that the agent found stuck
 * (ICE_CAUSE_TIMED_OUT) while no other had failed; else the first that failed by itself. Of
 * several that failed before the agent could stop them, one that a signal killed counts as the first:
 * peers see its closed sockets, and may exit, before it counts as dead.
 * Borrowed from the result. NULL if none did. */
const struct ice_worker_result *ice_result_root_cause(const struct ice_result *result);

/* How many failed attempts `ice_result_failure()` knows. */
size_t ice_result_failure_count(const struct ice_result *result);

/* The root cause of each failed attempt, the oldest first, the last attempt's own (if it failed) at the
 * end: the death certificates of a run that went on. Of a run with many restarts the last 32 are kept.
 * Borrowed from the result. NULL if `index` is out of range. */
const struct ice_worker_result *ice_result_failure(const struct ice_result *result,
                                                   size_t index);

/* Frees a result and with it everything borrowed from it, the values of workers too. NULL is fine. */
void ice_result_free(struct ice_result *result);

/* How many hosts a job has: at least `min_nodes`, at most `max_nodes`, 1 to 1,048,576 each.
 * Default 1 and 1 (torchrun `--nnodes`). Several need a place where their agents meet:
 * `ice_spec_set_rendezvous()`.
 *
 * Each host runs one agent, from the same spec but for what may differ: the number of workers,
 * their role, devices, paths. The agents agree on who takes part in a *round*, and all workers of
 * the round are started, watched and stopped as one group: when one fails, on whatever host, all
 * are stopped, and the next round begins when the last one is gone. `ice_spec_set_max_restarts()`
 * counts the restarts of the *job*, on whatever hosts its workers fail, unlike torchrun's, where
 * each agent counts its own; set the same on all. A host that comes, leaves, or gives no sign of
 * life (`keep_alive_interval`) begins a new round too, which is no restart and uses none up;
 * workers may be asked to save first (`ice_spec_set_checkpoint_before_stop()`). A newcomer that vanishes within a minute, or
 * cannot start its workers, has others of its host's name wait for a place: 15 s, and twice as long each further time, unless
 * the job needs them.
 *
 * Workers get, beside torch's variables: ICE_ROUND, the number of the round, from 0, and
 * ICE_JOB_RESTART_COUNT, how often the job was restarted for a failed worker.
 * TORCHELASTIC_RESTART_COUNT is torch's: restarts for workers of their own host. Attempts are
 * numbered by rounds: files of round 3 are in `attempt_3`. Global ranks run on from node to node,
 * role ranks over the nodes of the role. MASTER_ADDR and MASTER_PORT are of the round: its first
 * node keeps a store there, new and empty in each round (TORCHELASTIC_USE_AGENT_STORE is `True`);
 * with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the agent's environment its rank 0 is to serve one
 * (`False`). */
ice_status ice_spec_set_nodes(struct ice_spec *spec,
                              int64_t min_nodes,
                              int64_t max_nodes);

/* Where the agents of a job meet.
 *
 * `static`: `endpoint` is `HOST:PORT` of the host with node rank 0, whose agent serves a store
 * there; every host says its rank with `ice_spec_set_node_rank()`. No host can be replaced: when
 * one leaves or vanishes the job ends on all; but if the agent that serves the store is started again within 5 seconds
 * after its end, under this or another address of that name, it goes on with the next round. Workers meet at the same store (MASTER_ADDR and
 * MASTER_PORT are the endpoint's), emptied for each round.
 *
 * `c10d`: a store that speaks PyTorch's protocol, at `HOST` or `HOST:PORT` (29400). The agent of
 * the host that the endpoint names serves it (the option `is_host` says otherwise), or somebody
 * else does: an `ice_store_server`, or PyTorch. Hosts may come and go. The job does not outlive
 * the loss of the store, unless an agent served it and is started again within 5 seconds, as above.
 *
 * `etcd`: `endpoint` is `HOST:PORT,...`, the servers of one etcd (v3 API, 3.4 or newer; port
 * 2379), each of which may begin with `http://` or `https://`. It carries a job past the loss of
 * any one host, and of the etcd itself for `lost_timeout`. A library that was built without the
 * cargo feature `etcd` refuses it.
 *
 * An empty endpoint is `localhost`; IPv6 addresses stand in brackets.
 *
 * A store that an agent serves listens on all addresses. Who does not know the job's secret is not let in: that of
 * `secret_file` (`ice_spec_set_rendezvous_option()`), else the variable ICE_RENDEZVOUS_SECRET, 16 to 4096 bytes, which
 * workers do not get, else the user's own, a file `libice/rendezvous_secret` below XDG_CONFIG_HOME or ~/.config, mode
 * 0600, which the first agent makes and which stays. The user's own is taken where all agents can be expected to find
 * it, that is where the endpoint is this host's own (`localhost`, 127.0.0.1) or that directory is on a file system that
 * hosts share (NFS, Lustre, GPFS, BeeGFS, Ceph and the like), and not where workers meet at the same store, as they do
 * by default in a static rendezvous: PyTorch's clients have no secret to tell. Then, and in all other cases, the store
 * is open to whoever reaches the port. Where a secret is given to a static rendezvous the workers' store is another
 * one, and open. Agents that have no secret from anybody also meet at a store without one. The
 * secret is shown when a connection begins (HMAC-SHA-256 of random numbers); what is said afterwards is neither
 * encrypted nor signed: it keeps out who can reach the port, not who can change what goes over the network. A relay
 * between two agents can. `docs/threat-model.md` has all of it.
 *
 * Jobs at one store are told apart by `ice_spec_set_run_id()`;
 * torchrun's agents and ours do not mix: who comes second under a run id is refused.
 * ICE_ERROR_CONFIG also for another `backend`. Without this call a job has one host and meets
 * nobody. */
ice_status ice_spec_set_rendezvous(struct ice_spec *spec,
                                   const char *backend,
                                   const char *endpoint);

/* One of torchrun's `--rdzv-conf`, as text: the key, then its default in brackets. Times are
 * seconds, 1e9 at most.
 *
 * - `join_timeout`, `timeout` (600): how long this host waits for a round to be complete; then the
 *   run ends as ICE_END_AGENT_ERROR.
 * - `last_call_timeout` (30): how long others are waited for once the least number of nodes has
 *   come. A round that follows another begins as soon as all of that one are back.
 * - `keep_alive_interval` (5): how often a host gives a sign of life.
 * - `keep_alive_max_attempt` (3): how many of these may be missing before a host counts as gone.
 *   Clocks are not compared.
 * - `reconnect_timeout` (0.75; not torch's): how long a host may take to come back whose connection to a store that an
 *   agent of the job serves has ended, be it that the agent was killed or that the way broke.
 * - `lost_timeout` (300; not torch's): how long workers go on while the store is out of reach;
 *   then the run ends as ICE_END_AGENT_ERROR.
 * - `read_timeout` (60): how long an answer of the store may take; no longer than it takes to miss
 *   a host, or than `lost_timeout`, but 1 s at least.
 * - `close_timeout` (30): how long the last words of an agent that ends may take; of one that was
 *   asked to stop, 5 at most.
 * - `is_host` (as the endpoint says): `true` or `false`, whether this agent serves the store.
 * - `secret_file` (see below): a file of 16 to 4096 bytes that all agents of the job have; ICE_ERROR_CONFIG
 *   where others can read it, or its group can write it, or it belongs to another user than this one or root.
 *   Or `none`.
 * - `store_type` (`tcp`): nothing else.
 *
 * For etcd:
 *
 * - `protocol` (`http`): or `https`, where the endpoints do not say it.
 * - `cacert`, `ca_cert` (the system's): PEM file of the authorities that vouch for the servers.
 * - `ssl_cert` or `cert`, and `ssl_cert_key` or `key` (none): PEM files of the own certificate and
 *   its key.
 * - `user` and `password` (none): who this is, where etcd wants to know.
 * - `ttl` (`lost_timeout` + 60): whole seconds, 5 or more: how long the keys of a job stay when
 *   its agents are gone.
 *
 * `heartbeat_timeout`, `cas_backoff_max_seconds`, `use_libuv` and `etcd_prefix` of torch are taken
 * and have nothing to do here. Any other key, or a value that is not one, is refused with ICE_ERROR_CONFIG. */
ice_status ice_spec_set_rendezvous_option(struct ice_spec *spec,
                                          const char *key,
                                          const char *value);

/* Where this host stands among the nodes, from 0: needed for a static rendezvous, where it is the
 * group rank (torchrun `--node-rank`). With others it is a wish: nodes stand by their wishes
 * first, then by when they first came. */
ice_status ice_spec_set_node_rank(struct ice_spec *spec, int64_t node_rank);

/* The same, as a scheduler says it: with `ice_spec_set_from_scheduler()` the rank that it says, else SLURM_PROCID, or else JOB_COMPLETION_INDEX (Kubernetes), of
 * the agent's environment. `ice_agent_new()` gives ICE_ERROR_CONFIG if there is neither. */
ice_status ice_spec_set_node_rank_from_scheduler(struct ice_spec *spec);

/* The name or address by which other hosts reach this one: MASTER_ADDR, if it is the first node
 * (torchrun `--local-addr`). Default: the address of this host on the way to the store. */
ice_status ice_spec_set_local_addr(struct ice_spec *spec, const char *address);

/* How long an agent whose workers have all succeeded waits for those of the other hosts: 0 to 1e9
 * seconds (torch's `exit_barrier_timeout`). Default: the environment variable
 * TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT of the host when the agent is made, else 300. A stop that is asked for ends the wait,
 * with ICE_END_INTERRUPTED. When the time is over the run has succeeded all the same, and a
 * warning names who had not come; a store that it served is gone then. While it waits it still
 * takes part: if a worker fails elsewhere and the job is restarted, its workers start again too;
 * after it has gone another host has to come in its place, and in a static rendezvous the job
 * ends. A failed job has no barrier. */
ice_status ice_spec_set_exit_barrier_timeout(struct ice_spec *spec,
                                             double seconds);

/* Of a job of several hosts: the number of the last round that this one took part in, from 0. Else
 * the number of the last attempt. 0 for NULL. */
int32_t ice_result_round(const struct ice_result *result);

/* How often the job was restarted because a worker failed, on whatever host; of one host the same
 * as `ice_result_restarts()`, which else counts those for its own workers. 0 for NULL. */
int32_t ice_result_job_restarts(const struct ice_result *result);

/* The exit code of the worker whose failure ended the job, on whatever host; minus the signal that
 * killed it. 0 if the job did not end so, and for NULL. All hosts of a job get the same; but where
 * workers of several failed at the same time, each of these hosts may tell its own. */
int32_t ice_result_exit_code(const struct ice_result *result);

/* Names a place to meet that the program brings (a database, a scheduler's key-value store), for
 * `ice_spec_set_rendezvous()`: keys with values of up to some hundred bytes for each node of a
 * job, each value with a token, bytes that are others whenever the value is. The functions must
 * stay as long as an agent may use them.
 *
 * `open`, `get` and `compare_and_set` return ICE_OK; ICE_ERROR_STORE, ICE_ERROR_TIMEOUT or
 * ICE_ERROR_SYSTEM where another try may do better: the agent then closes, waits a little and
 * opens again, until `lost_timeout` or `join_timeout`; and any other status where it will not: the
 * run ends with ICE_END_AGENT_ERROR. `ice_rendezvous_reply_error()` says in words what went wrong.
 * `wait` likewise; it may be NULL: then the key is looked for ten times a second.
 *
 * They are called in a thread of the agent, one at a time for one connection, without a lock; the
 * end of a run waits for the one that is under way. They must not call functions of their agent.
 *
 * ICE_ERROR_CONFIG if the name is taken: by another call, or as it is `static`, `c10d` or begins
 * with `etcd`. Any thread. */
ice_status ice_rendezvous_register(const char *name,
                                   ice_rendezvous_open_fn open,
                                   ice_rendezvous_get_fn get,
                                   ice_rendezvous_compare_and_set_fn compare_and_set,
                                   ice_rendezvous_wait_fn wait,
                                   ice_rendezvous_close_fn close,
                                   void *user_data);

/* Says what is at the key: a value and its token, which are copied. ICE_ERROR_ARGUMENT for a NULL
 * reply, or for NULL with a length. */
ice_status ice_rendezvous_reply_found(struct ice_rendezvous_reply *reply,
                                      const void *value,
                                      size_t value_length,
                                      const void *token,
                                      size_t token_length);

/* Says in words why the call fails, for the run's result: UTF-8, copied. */
ice_status ice_rendezvous_reply_error(struct ice_rendezvous_reply *reply, const char *message);

/* The state of the group. Along a run it only moves INIT -> HEALTHY -> STOPPED -> INIT (a restart) and
 * to one of SUCCEEDED, FAILED, STOPPED, UNKNOWN, where it stays. ICE_STATE_UNKNOWN for NULL. */
ice_state ice_snapshot_state(const struct ice_snapshot *snapshot);

/* The attempt the group is in: 0 for the first, as TORCHELASTIC_RESTART_COUNT. -1 for NULL. */
int32_t ice_snapshot_attempt(const struct ice_snapshot *snapshot);

/* How many workers the snapshot lists: the local world size. 0 for NULL. */
size_t ice_snapshot_worker_count(const struct ice_snapshot *snapshot);

/* One worker, by local rank. Borrowed: valid until the snapshot is freed. NULL if `local_rank` is out
 * of range. */
const struct ice_worker_info *ice_snapshot_worker(const struct ice_snapshot *snapshot,
                                                  size_t local_rank);

/* The local rank that is furthest behind in its steps, the first of several; -1 while all that say steps are at
 * the same one, and for NULL. A moment's difference is none to worry about: look at its `lag` and `at_step_ns`. */
int32_t ice_snapshot_slowest(const struct ice_snapshot *snapshot);

/* Frees a snapshot. NULL is fine. */
void ice_snapshot_free(struct ice_snapshot *snapshot);

/* How many workers there are: the local world size. 0 for NULL. */
size_t ice_plan_worker_count(const struct ice_plan *plan);

/* One worker, by local rank. Borrowed: valid until the plan is freed. NULL if `local_rank` is out of
 * range. */
const struct ice_worker_plan *ice_plan_worker(const struct ice_plan *plan,
                                              size_t local_rank);

/* `ice_spec_dist_backend()` for the devices that were found: `"nccl"`, `"gloo"`, or `""` where no devices
 * are set. Static text, never NULL. */
const char *ice_plan_dist_backend(const struct ice_plan *plan);

/* Frees a plan. NULL is fine. */
void ice_plan_free(struct ice_plan *plan);

/* Takes from a scheduler what the spec leaves open. `scheduler`: `slurm`, `openmpi`, `mpich`, `flux`, `lsf`, `pbs`,
 * `kubernetes` (an Indexed Job), `environment` (MASTER_ADDR, WORLD_SIZE and RANK, of hosts), `auto` for the one that has
 * started this process, if one has, or `none`. Default `none`: no variable of a scheduler is read. `icerun` has `auto`.
 *
 * It is read when an agent is made, from the environment of that time. Every setter that was called counts before it,
 * whatever the order. What it says:
 *
 * - how many nodes there are (`ice_spec_set_nodes()`): the tasks, of which there has to be one a node, but for MPI's
 *   launchers, where each rank is an agent; with Kubernetes only the spec says it;
 * - the rank of this one, in the scheduler's order (`ice_spec_set_node_rank()`);
 * - where they meet (`ice_spec_set_rendezvous()`, `c10d`): on the first host, whose agent serves the store, at one of 10,000
 *   ports from 20000 on that is made of the run id, or at one of the next 7 where others have it. Where
 *   `ice_spec_set_master_addr()` names a host they meet there, by `static`; `ice_spec_set_master_port()` chooses the port;
 * - the run id (`ice_spec_set_run_id()`): the job's, with its step and how often it was queued again;
 * - how many workers (`ice_spec_set_nproc_per_node()`): one for each GPU that this task sees, or for each in its share
 *   where several agents are on one host; without GPUs the number of tasks that one host without a step has, else 1;
 * - OMP_NUM_THREADS, where nobody sets it: the CPUs of this task by the number of its workers. With `auto` SLURM_CPUS_PER_TASK
 *   and the CPU quota of a cgroup count for that, too, without a scheduler; where nobody knows a number it is 1 for several
 *   workers, as ever, and a warning says so.
 *
 * `auto` reads nothing where this process is itself a worker. `ice_plan_source_at()` tells what was taken from where, and
 * `docs/schedulers.md` has all variables. ICE_ERROR_CONFIG for another name; and from `ice_agent_new()` for a scheduler that
 * is named and is not there, for numbers that do not fit together (4 tasks on 2 nodes) unless the spec says how many
 * nodes there are, and for a job of several nodes whose first is not known. */
ice_status ice_spec_set_from_scheduler(struct ice_spec *spec,
                                       const char *scheduler);

/* The scheduler that `auto` would ask in this process: its name, for `ice_spec_set_from_scheduler()`; `""` for none. Static
 * text, never NULL. It is looked for at the first call, and remembered. Any thread. */
const char *ice_scheduler_name(void);

/* How many values of a plan are a scheduler's, see `ice_spec_set_from_scheduler()`. 0 for NULL. */
size_t ice_plan_source_count(const struct ice_plan *plan);

/* One of them. Borrowed: valid until the plan is freed. NULL if `index` is out of range. */
const struct ice_plan_source *ice_plan_source_at(const struct ice_plan *plan, size_t index);

/* Makes an agent for a copy of `spec` and writes it to `*out`. Checks the whole spec and starts
 * nothing: no worker, no thread, no directory. ICE_ERROR_CONFIG names the field that is wrong. Which
 * devices each worker gets is decided here, once for all attempts, by the environment of the host and the
 * devices that it sees now (`ice_spec_set_devices()`). Where devices matter the CUDA driver is asked first, in a
 * process of its own that ends within this call: it takes some milliseconds, or what a driver takes that has
 * to wake its GPUs up; ICE_ERROR_TIMEOUT and ICE_ERROR_DEVICE say what was wrong with it, see
 * `ice_spec_set_probe_timeout()` and `ice_device_list_new()`.
 * The caller owns the agent and frees it with `ice_agent_free()`; the spec may be freed before it. */
ice_status ice_agent_new(const struct ice_spec *spec,
                         struct ice_agent **out);

/* Writes what a run would start to `*out`, as things are now, and starts nothing: the arguments, the
 * environment, the devices, the CPUs and the files of each worker. The caller frees it with
 * `ice_plan_free()`. May be called at any time; the agent can be run after it. */
ice_status ice_agent_plan(const struct ice_agent *agent,
                          struct ice_plan **out);

/* Runs the spec to its end and writes how it ended to `*out`, which the caller frees with
 * `ice_result_free()`: `ice_agent_start()` and `ice_agent_wait()` in one. ICE_OK means that there is a
 * result, not that the workers succeeded. Errors as those two. */
ice_status ice_agent_run(struct ice_agent *agent,
                         struct ice_result **out);

/* Makes beforehand what does not depend on the moment of the start, and waits for it: the agent's thread,
 * the watcher, the run directory, a MASTER_PORT, and the fork server with its warm-up
 * (ICE_START_FORKSERVER). The start then has only the workers left to make. Never needed. What these
 * take of the host (TMPDIR, the directory of a relative log_dir, the server's environment) is taken by
 * this call, what the workers get is taken at the start. An agent that is prepared may be started or freed.
 * ICE_ERROR_STATE if it was prepared or started before, ICE_ERROR_START with what the server had to say if
 * it cannot start; start may then be called all the same, and tries again. `ice_agent_stop()` from another
 * thread ends a long warm-up. */
ice_status ice_agent_prepare(struct ice_agent *agent);

/* Starts the run and returns at once. The environment and working directory of the host are taken
 * during this call; a restart uses the same. What goes wrong later, a program that is not there for
 * instance, is in the result. ICE_ERROR_STATE if this agent was started before, ICE_ERROR_SYSTEM if no
 * thread can be made. */
ice_status ice_agent_start(struct ice_agent *agent);

/* Waits up to `seconds` for the end of the run and writes its result to `*out`. 0 only looks; a
 * negative number waits without a limit. May be called again after the end: each call hands out one
 * result, all of the same content, each to be freed. ICE_ERROR_TIMEOUT while the run goes on,
 * ICE_ERROR_STATE before start. */
ice_status ice_agent_wait(struct ice_agent *agent, double seconds, struct ice_result **out);

/* Writes a descriptor to `*out` that becomes readable (poll(2): POLLIN) when the run is over and stays
 * so: for event loops, and for hosts that cannot take callbacks from foreign threads. It belongs to
 * the agent, is close-on-exec and valid until `ice_agent_free()`; do not read or close it. */
ice_status ice_agent_poll_fd(const struct ice_agent *agent,
                             int *out);

/* Asks the run to stop and returns at once: every worker gets `signal`, or the spec's stop signal for
 * 0, has the shutdown time-out, then SIGKILL; the run ends with ICE_END_INTERRUPTED. Before that workers are
 * asked to save, if the spec says so (`ice_spec_set_checkpoint_before_stop()`). May be called any
 * number of times, before start (the run then ends before a worker starts) and after the end (nothing
 * happens). A second stop with SIGINT or SIGQUIT brings SIGKILL at once.
 *
 * Async-signal-safe: may be called from a signal handler, and from a callback of this library. Writes
 * no error message; returns ICE_ERROR_ARGUMENT for NULL or a signal that is none, ICE_ERROR_FORKED in
 * a forked copy. */
ice_status ice_agent_stop(struct ice_agent *agent,
                          int32_t signal);

/* Sends `signal` to the process group of every worker that runs, once, as a signal of
 * `ice_spec_set_pass_signals()` would; the run goes on. Async-signal-safe, as `ice_agent_stop()`, and
 * with the same errors. Before start and after the end nothing happens. Two requests for one signal
 * that the agent has not yet seen are one. */
ice_status ice_agent_signal(struct ice_agent *agent,
                            int32_t signal);

/* Writes what the worker group is doing now to `*out`: a copy, consistent in itself, that the caller
 * frees with `ice_snapshot_free()`. */
ice_status ice_agent_snapshot(const struct ice_agent *agent,
                              struct ice_snapshot **out);

/* Frees an agent. One that still runs is stopped first, as by `ice_agent_stop(agent, 0)`, and waited
 * for. NULL is fine. Results and snapshots stay valid. In a forked copy of the host only memory is
 * freed. Not from a callback of the same agent, and not while another thread uses it. */
void ice_agent_free(struct ice_agent *agent);

/* Asks all workers to save a checkpoint at the same step, and waits until each has answered or ended, for up
 * to `seconds` (0 to 1e9), which is also the deadline that the workers see. Writes what they said to `*out`,
 * which the caller frees with `ice_answers_free()`. ICE_OK means that there are answers, not that all are
 * good: see `ice_answers_complete()`. The run goes on; a worker that comes to it after the deadline does not
 * save any more, unless another one is in the midst of it and may wait. A group that is not running, because it
 * restarts for instance, is asked when it runs. Several requests of one agent come one after the other, each with its
 * own deadline.
 *
 * In a job of several hosts all workers of the job are asked, whichever agent asks: all act at one step, or none
 * does. The agents agree on the step through the rendezvous; a worker that comes to it before they have waits there,
 * as in a pause. Agents that ask for the same at the same time get one step, and all answers. Workers see a deadline
 * that is earlier by a tenth, 0.25 s at most, so that the answers are here by the caller's. If an agent cannot be heard
 * by then, or has workers without control, at a debugger or in an earlier checkpoint whose time is over, no worker acts,
 * and there are no answers (ICE_ANSWER_NONE for all ranks).
 *
 * Needs `ice_spec_set_control()` and workers that call `ice_worker_poll()`. Any thread, but not a callback of
 * this library. ICE_ERROR_STATE if there is no control, before start, and when the run is over or ends
 * meanwhile before the request could be made; ICE_ERROR_CONFIG for bad seconds. */
ice_status ice_agent_request_checkpoint(struct ice_agent *agent,
                                        double seconds,
                                        struct ice_answers **out);

/* Asks all workers to pause at the same step, and waits, as `ice_agent_request_checkpoint()`. They stay so
 * until `ice_agent_resume()`; meanwhile they can be asked for a checkpoint, which they save where they stand.
 * A worker that comes to it after the deadline still pauses, unless another request was made since. A pause of
 * workers that are paused already has them go on to the next step, so that all stand at one. Timers and
 * heartbeats of a paused worker stand still. A restart ends the pause. */
ice_status ice_agent_pause(struct ice_agent *agent,
                           double seconds,
                           struct ice_answers **out);

/* Ends a pause, after the requests that were made before, and returns at once. Without a pause nothing
 * happens. Errors as `ice_agent_pause()`. */
ice_status ice_agent_resume(struct ice_agent *agent);

/* Asks all workers to end by themselves at the same step, and waits, as `ice_agent_request_checkpoint()`,
 * until each has answered or ended. Those that answered with success have until the deadline to end; then, or
 * when only others are left, what is still there is stopped as by `ice_agent_stop(agent, 0)`. The run ends
 * with ICE_END_INTERRUPTED in any case, that of all hosts. `ice_agent_stop()` meanwhile waits for nobody. */
ice_status ice_agent_request_stop(struct ice_agent *agent,
                                  double seconds,
                                  struct ice_answers **out);

/* 1 if every rank did as it was asked, else 0; 0 for NULL. */
int32_t ice_answers_complete(const struct ice_answers *answers);

/* How many ranks were asked: the world size of the job. 0 for NULL. */
size_t ice_answers_count(const struct ice_answers *answers);

/* What the rank with this global rank answered, on whichever host it is. ICE_ANSWER_NONE for NULL or a rank that is none. */
ice_answer_kind ice_answers_of_rank(const struct ice_answers *answers,
                                    size_t rank);

/* The step at which it answered; -1 if it did not, or says no steps. */
int64_t ice_answers_step(const struct ice_answers *answers, size_t rank);

/* How many nanoseconds passed from the request to the last answer, or to the deadline. 0 for NULL. */
int64_t ice_answers_took_ns(const struct ice_answers *answers);

/* Frees answers. NULL is fine. */
void ice_answers_free(struct ice_answers *answers);

/* Asks the CUDA driver which GPUs there are and writes a list to `*out`, which the caller frees with
 * `ice_device_list_free()`. No GPU, and no driver, is an empty list, not an error:
 * `ice_device_list_message()` says why it is empty.
 *
 * The driver is never loaded or initialised in this process. A process of its own, `ice-probe`, that ends
 * before this call returns, asks it: with the environment of this one, its output to /dev/null, in a
 * process group of its own, killed with the calling thread. The program of that process is the shared
 * library's own file. Where libice is linked statically it is `runner`, any program that calls
 * `ice_worker_main()` first in main and is not itself static; NULL is this program itself if it has done
 * that. A path without a slash is not looked for in PATH.
 *
 * `seconds` is how long this may take, more than 0; 0 is the default of 30: a driver that is not kept
 * loaded (persistence mode) may take some seconds for each GPU. Then the process is killed. The calling
 * thread is blocked meanwhile; signals are handled as ever. Any thread, also at once. Children of the host
 * are never waited for; SIGCHLD may be handled as the host likes, and comes once for each call.
 *
 * ICE_ERROR_TIMEOUT if it took longer, with the call that did not return; if SIGKILL does not end the
 * process within a second, as it is stuck in the kernel, the message says so and nobody waits for it.
 * ICE_ERROR_DEVICE if the driver crashed, if it lacks a function, or if one of its calls failed, with the
 * call and the driver's number and text. ICE_ERROR_CONFIG where a runner is needed; ICE_ERROR_START or
 * ICE_ERROR_SYSTEM if the process could not start. ICE_ERROR_ARGUMENT for other `seconds`. */
ice_status ice_device_list_new(double seconds,
                               const char *runner,
                               struct ice_device_list **out);

/* How many GPUs the list has. 0 for NULL. */
size_t ice_device_list_count(const struct ice_device_list *list);

/* One GPU, by its place in the list. Borrowed from the list. NULL if `index` is out of range. */
const struct ice_device *ice_device_list_device(const struct ice_device_list *list, size_t index);

/* The newest version of CUDA that the driver supports, as CUDA counts: 13040 for 13.4. 0 where there is no
 * driver, and for NULL. */
int32_t ice_device_list_driver_version(const struct ice_device_list *list);

/* Why the list is empty, one line; empty if it is not. Borrowed from the list; never NULL. */
const char *ice_device_list_message(const struct ice_device_list *list);

/* Frees a list and with it everything borrowed from it. NULL is fine. */
void ice_device_list_free(struct ice_device_list *list);

/* Starts a server with an empty store and writes it to `*out`; the caller frees it with
 * `ice_store_server_free()`. When this returns, clients can connect.
 *
 * `address` is where it listens: an address of this host, IPv4 or IPv6, or a name, of which the first address that
 * can be used is taken; `127.0.0.1` for clients of this host alone. NULL is every address of the host, IPv4 and
 * IPv6, as PyTorch's server does: it is then open to all who can reach the host. `port` is 0 for any free one, see
 * `ice_store_server_port()`, up to 65535.
 *
 * `memory_limit` is how many bytes keys, values, queues and waits may take, about; 0 is the default of 1 GiB. What
 * is under way, half requests and replies that a client does not take, may come to as much again. A request that
 * would go beyond closes its connection.
 *
 * ICE_ERROR_CONFIG for a port out of range, or an address that is none; ICE_ERROR_SYSTEM if nothing can be
 * listened on, with EADDRINUSE where another server has the port, or if no thread can be made. */
ice_status ice_store_server_new(const char *address,
                                int32_t port,
                                size_t memory_limit,
                                struct ice_store_server **out);

/* The same, for clients that know a secret of `secret_length` bytes, 16 to 4096, best random ones; it is copied.
 * Server and client show each other that they know it (HMAC-SHA-256 of numbers that both have drawn) before
 * anything else is said; it does not go over the wire, what is said afterwards is neither encrypted nor signed. So
 * it keeps out who can reach the port, not who can change what goes over the network.
 *
 * Only clients of this library can know it: `ice_store_connect_with_secret()`, and `ice_worker_store()` by
 * ICE_STORE_SECRET_FILE. PyTorch's clients, and those without the right secret, find the connection closed;
 * `ice_store_server_refused()` counts them.
 *
 * ICE_ERROR_CONFIG for a secret that is too short or too long, else as `ice_store_server_new()`. */
ice_status ice_store_server_new_with_secret(const char *address,
                                            int32_t port,
                                            size_t memory_limit,
                                            const char *secret,
                                            size_t secret_length,
                                            struct ice_store_server **out);

/* The port that it listens on, 1 to 65535. 0 for NULL, and in a forked copy of its process. */
int32_t ice_store_server_port(const struct ice_store_server *server);

/* Waits until `count` workers, 1 or more, have come: those of PyTorch's clients that were given a world size count
 * themselves as they connect, others by `ice_store_arrive()`. What the host of a PyTorch store does at its start
 * (`wait_for_workers`), without asking again and again. The number never goes down, also if a worker goes.
 *
 * `seconds`: 0 only looks, a negative number waits without a limit. ICE_ERROR_TIMEOUT, with how many have come, if
 * they were fewer in that time; ICE_ERROR_CONFIG for a count below 1. */
ice_status ice_store_server_wait_for_workers(const struct ice_store_server *server,
                                             int32_t count,
                                             double seconds);

/* How many requests clients have sent so far, those that a connection begins with included. 0 for NULL. This and
 * the next two functions may be called at any time, and cost the server nothing. */
uint64_t ice_store_server_requests(const struct ice_store_server *server);

/* How many connections there have been so far. 0 for NULL. */
uint64_t ice_store_server_connections(const struct ice_store_server *server);

/* How many of them the server has closed so far by itself: without the secret, not begun as they must within a
 * minute, with a request that makes no sense or is too large, or one that would take more memory than there is. 0
 * for NULL. */
uint64_t ice_store_server_refused(const struct ice_store_server *server);

/* Ends a server: when this returns its connections are closed, clients that wait have got an error, and the port is
 * free for another one. NULL is fine. In a forked copy of the process only memory is freed. */
void ice_store_server_free(struct ice_store_server *server);

/* How many values there are. 0 for NULL. */
size_t ice_store_values_count(const struct ice_store_values *values);

/* The bytes of one value, by its place, with a NUL behind them that does not count: text can be used as such.
 * Borrowed from the values. NULL if `index` is out of range. */
const char *ice_store_values_data(const struct ice_store_values *values,
                                  size_t index);

/* How many bytes one value has. 0 if `index` is out of range. */
size_t ice_store_values_length(const struct ice_store_values *values, size_t index);

/* Frees values. NULL is fine. */
void ice_store_values_free(struct ice_store_values *values);

/* Connects to the store at `host`, a name or an address, and `port`, 1 to 65535, and writes it to `*out`; the
 * caller frees it with `ice_store_free()`. What is not there yet is tried again, soon at first, then every half
 * second, for up to `seconds`, more than 0; a negative number is without a limit. The same time is then how long
 * the server may take for each answer that comes at once. Looking up a name is the C library's business, and is
 * not cut short.
 *
 * ICE_ERROR_TIMEOUT if there is no store in that time, with what the last try came to; ICE_ERROR_CONFIG for a port
 * out of range, and, at once, if the server wants a secret; ICE_ERROR_SYSTEM, at once, if this process can have no
 * further socket (EMFILE); ICE_ERROR_ARGUMENT for 0 `seconds`. */
ice_status ice_store_connect(const char *host,
                             int32_t port,
                             double seconds,
                             struct ice_store **out);

/* The same, to a server that wants a secret: see `ice_store_server_new_with_secret()`. The server shows that
 * it knows it, too. ICE_ERROR_CONFIG, at once, if the server has none, or another one, or if `secret_length`
 * is not 16 to 4096. PyTorch's servers have none, and do not say so: ICE_ERROR_TIMEOUT. */
ice_status ice_store_connect_with_secret(const char *host,
                                         int32_t port,
                                         double seconds,
                                         const char *secret,
                                         size_t secret_length,
                                         struct ice_store **out);

/* Opens the store at which the workers of a job meet, and writes it to `*out`; the caller frees it with
 * `ice_store_free()`. As PyTorch's `env://` does, it is at MASTER_ADDR and MASTER_PORT, without a prefix, and with
 * TORCHELASTIC_USE_AGENT_STORE=True every rank is a client; else rank 0 hosts it in this process, on loopback only
 * if MASTER_ADDR is a loopback address or `localhost`, and the others connect to it. If that port is taken, rank 0
 * is a client, too: of init_process_group() in the same process, for instance, which is to be called first, because
 * it wants the port for itself. `seconds` as `ice_store_connect()`.
 *
 * A store that rank 0 hosts ends with its last handle there, or with rank 0: a barrier before its end keeps it for
 * the others.
 *
 * Outside an agent, with neither of the two variables and a world of 1, it is a store of this process alone, which
 * no other process can use.
 *
 * Where ICE_STORE_SECRET_FILE names a file, its bytes, without a newline at their end, are the secret of the store:
 * see `ice_store_server_new_with_secret()`. Others must have no access to it, its group none for writing.
 *
 * ICE_ERROR_CONFIG for variables that are unset or make no sense, by name, for a secret file that others can read, or
 * that belongs to another user than this one or root, and as `ice_store_connect_with_secret()`;
 * ICE_ERROR_TIMEOUT if there is no store in that time; ICE_ERROR_SYSTEM if the file cannot be read, or nothing be
 * listened on; ICE_ERROR_STATE in the warm-up of a fork server, which has no rank. */
ice_status ice_worker_store(const struct ice_worker *worker,
                            double seconds,
                            struct ice_store **out);

/* The address of this host on the connection, `10.0.0.7` for instance: other clients of a server on another host
 * can reach this host there, too, if they can reach each other at all. Borrowed from the handle. NULL for NULL. */
const char *ice_store_local_address(const struct ice_store *store);

/* The address of the server. Borrowed from the handle. NULL for NULL. */
const char *ice_store_peer_address(const struct ice_store *store);

/* Ends what other threads do with this handle, and with all that share its connection: calls under way, waits above
 * all, return ICE_ERROR_STORE at once, and so does every later one. The handle is still to be freed, when no call
 * is under way any more. It does not wait. Any thread, but not a signal handler. */
ice_status ice_store_interrupt(const struct ice_store *store);

/* The same store with `prefix` and a slash before every key, as PyTorch's PrefixStore has it, in a handle of its
 * own that the caller frees with `ice_store_free()`. Prefixes may be nested: `a` and then `b` gives `a/b/key`.
 * Nothing is sent; the connection is that of `store`, and ends with the last handle of it. */
ice_status ice_store_prefix(const struct ice_store *store,
                            const char *prefix,
                            struct ice_store **out);

/* Closes the connection, with its last handle, and frees the handle. NULL is fine. The server and what was set stay.
 * Not while another thread uses the handle. */
void ice_store_free(struct ice_store *store);

/* Sets the value of a key, whatever it was, and lets those go who wait for it. As PyTorch's, it does not wait for
 * the server: it returns when the value is handed to the kernel. What follows on this connection sees it set; that
 * the connection was lost meanwhile shows in the next call. NULL is fine for `length` 0. */
ice_status ice_store_set(const struct ice_store *store,
                         const char *key,
                         const char *value,
                         size_t length);

/* Waits until the key is there and writes its value to `*out`, one `ice_store_values`, which the caller frees with
 * `ice_store_values_free()`. ICE_ERROR_TIMEOUT if it is not there in `seconds`. */
ice_status ice_store_get(const struct ice_store *store,
                         const char *key,
                         double seconds,
                         struct ice_store_values **out);

/* Waits until each of `count` keys has been there at some time; one that was deleted meanwhile may be gone. A queue
 * that is not empty is there, too; of several clients that wait for a queue, each push lets one go.
 * ICE_ERROR_TIMEOUT if not all were there in `seconds`, with some of their names. */
ice_status ice_store_wait(const struct ice_store *store,
                          const char *const *keys,
                          size_t count,
                          double seconds);

/* Adds `delta` to the number at a key, in one step with respect to all other clients, and writes the sum to `*out`.
 * The number is kept as decimal text; a key that is not there counts as 0; the sum wraps around at 64 bits. A
 * value that does not begin with a number makes the server close the connection: ICE_ERROR_STORE. */
ice_status ice_store_add(const struct ice_store *store,
                         const char *key,
                         int64_t delta,
                         int64_t *out);

/* Sets a key to `desired` if its value is `expected`, in one step with respect to all other clients, and writes to
 * `*out` the value it has then: `desired` if it was set, or what is there instead. A key that is not there is set
 * if `expected` is empty; otherwise it stays away, and `expected` comes back, as PyTorch has it. The caller frees
 * the value with `ice_store_values_free()`. */
ice_status ice_store_compare_set(const struct ice_store *store,
                                 const char *key,
                                 const char *expected,
                                 size_t expected_length,
                                 const char *desired,
                                 size_t desired_length,
                                 struct ice_store_values **out);

/* Writes 1 to `*out` if all of `count` keys are there, or queues that are not empty, else 0. */
ice_status ice_store_check(const struct ice_store *store,
                           const char *const *keys,
                           size_t count,
                           int32_t *out);

/* Deletes a key, and writes 1 to `*out` if it was there, else 0. Queues cannot be deleted. */
ice_status ice_store_delete(const struct ice_store *store, const char *key, int32_t *out);

/* Appends to the value of a key, which may not be there yet. Otherwise as `ice_store_set()`. */
ice_status ice_store_append(const struct ice_store *store,
                            const char *key,
                            const char *value,
                            size_t length);

/* Waits until all of `count` keys are there and writes their values, in order, to `*out`, which the caller frees
 * with `ice_store_values_free()`. ICE_ERROR_TIMEOUT if not all were there in `seconds`. */
ice_status ice_store_multi_get(const struct ice_store *store,
                               const char *const *keys,
                               size_t count,
                               double seconds,
                               struct ice_store_values **out);

/* Sets `count` keys to `values` of `lengths`. An `ice_store_server` sets all of them in one step; PyTorch's servers
 * do not. Otherwise as `ice_store_set()`. */
ice_status ice_store_multi_set(const struct ice_store *store,
                               const char *const *keys,
                               const char *const *values,
                               const size_t *lengths,
                               size_t count);

/* Writes to `*out` how many keys the whole store has, whatever their prefix, those of other clients and of
 * barriers too; queues do not count. */
ice_status ice_store_num_keys(const struct ice_store *store,
                              int64_t *out);

/* Writes the names of the keys below the prefix of this handle, without it, to `*out`, in no order; all keys that
 * clients have set, if it has no prefix. The caller frees them with `ice_store_values_free()`. Queues are not among
 * them. PyTorch's `list_keys()`. */
ice_status ice_store_list_keys(const struct ice_store *store,
                               struct ice_store_values **out);

/* Counts this client as a worker that has come, for `ice_store_server_wait_for_workers()` or for the host of a
 * PyTorch store, and writes to `*out` how many there are now. To be called once by each worker; the prefix of the
 * handle does not matter. PyTorch's clients with a world size do it as they connect, at the same key, `init/`. */
ice_status ice_store_arrive(const struct ice_store *store,
                            int64_t *out);

/* Puts a value at the end of the queue of a key, and lets one go who waits for it. Queues are apart from values: a
 * key may have both. As `ice_store_set()`, it does not wait for the server. ICE_ERROR_STORE where the server has no
 * queues (PyTorch's with `use_libuv=False`); the connection is then as good as before. */
ice_status ice_store_queue_push(const struct ice_store *store,
                                const char *key,
                                const char *value,
                                size_t length);

/* Waits until the queue of a key has a value, takes the first one out and writes it to `*out`; the caller frees it
 * with `ice_store_values_free()`. Each value goes to one client. ICE_ERROR_TIMEOUT if there is none in `seconds`,
 * ICE_ERROR_STORE as `ice_store_queue_push()`. */
ice_status ice_store_queue_pop(const struct ice_store *store,
                               const char *key,
                               double seconds,
                               struct ice_store_values **out);

/* Writes to `*out` how many values the queue of a key has. ICE_ERROR_STORE as `ice_store_queue_push()`. */
ice_status ice_store_queue_len(const struct ice_store *store,
                               const char *key,
                               int64_t *out);

/* Waits until `world_size` clients, 1 or more, have come to the barrier of this key. The key is used up by it: who
 * comes later passes at once, so every barrier needs a key of its own. One that comes and gives up stays counted.
 * ICE_ERROR_TIMEOUT if they were fewer in `seconds`. */
ice_status ice_store_barrier(const struct ice_store *store,
                             const char *key,
                             int32_t world_size,
                             double seconds);

/* Hands `length` bytes from rank 0 to all other ranks: rank 0 sends what is at `data`, the others wait for it and
 * get it there. What MPI_Bcast does, for instance for an ncclUniqueId:
 *
 *     if (rank == 0) ncclGetUniqueId(&id);
 *     ice_store_broadcast(store, "nccl", round, rank, &id, sizeof id, 60);
 *
 * `generation` keeps rounds apart that use the same `name`: 0 or more, the same in all ranks of a round, larger in
 * each round than in those before. Each rank gets the bytes of its own generation or none. With rank 0's call the
 * generations before it are over: whoever then asks for one of these, or waits for it, gets ICE_ERROR_STALE, rank
 * 0 of an older round as well. Numbers may be left out.
 *
 * `length` is up to 8388607. Rank 0 does not wait for the others. What was handed over stays in the store, for
 * ranks that come late, until the next generation. The keys are those that begin with `name` and a slash.
 *
 * ICE_ERROR_TIMEOUT if rank 0 did not come in `seconds`; ICE_ERROR_CONFIG if rank 0 sent another `length`, if the
 * generation was broadcast before with other bytes, or if the keys are used for something else; ICE_ERROR_ARGUMENT
 * for a negative rank. */
ice_status ice_store_broadcast(const struct ice_store *store,
                               const char *name,
                               uint64_t generation,
                               int32_t rank,
                               void *data,
                               size_t length,
                               double seconds);

#ifdef __cplusplus
}  // extern "C"
#endif  /* __cplusplus */

#endif  /* ICE_H */
