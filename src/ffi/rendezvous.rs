//! Jobs of several hosts: where their agents meet.

use std::ffi::c_char;

use super::result::ice_result;
use super::spec::{edit, ice_spec, set_number, set_seconds, set_text};
use super::status::{guard_value, ice_status};
use super::{handle, option, utf8};
use crate::rendezvous::backends;
use crate::spec::nodes::NodeRank;
use crate::spec::options::parse;

/// How many hosts a job has: at least `min_nodes`, at most `max_nodes`, 1 to 1,048,576 each.
/// Default 1 and 1 (torchrun `--nnodes`). Several need a place where their agents meet:
/// `ice_spec_set_rendezvous()`.
///
/// Each host runs one agent, from the same spec but for what may differ: the number of workers,
/// their role, devices, paths. The agents agree on who takes part in a *round*, and all workers of
/// the round are started, watched and stopped as one group: when one fails, on whatever host, all
/// are stopped, and the next round begins when the last one is gone. `ice_spec_set_max_restarts()`
/// counts the restarts of the *job*, on whatever hosts its workers fail, unlike torchrun's, where
/// each agent counts its own; set the same on all. A host that comes, leaves, or gives no sign of
/// life (`keep_alive_interval`) begins a new round too, which is no restart and uses none up;
/// workers may be asked to save first (`ice_spec_set_checkpoint_before_stop()`). A newcomer that vanishes within a minute, or
/// cannot start its workers, has others of its host's name wait for a place: 15 s, and twice as long each further time, unless
/// the job needs them.
///
/// Workers get, beside torch's variables: ICE_ROUND, the number of the round, from 0, and
/// ICE_JOB_RESTART_COUNT, how often the job was restarted for a failed worker.
/// TORCHELASTIC_RESTART_COUNT is torch's: restarts for workers of their own host. Attempts are
/// numbered by rounds: files of round 3 are in `attempt_3`. Global ranks run on from node to node,
/// role ranks over the nodes of the role. MASTER_ADDR and MASTER_PORT are of the round: its first
/// node keeps a store there, new and empty in each round (TORCHELASTIC_USE_AGENT_STORE is `True`);
/// with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the agent's environment its rank 0 is to serve one
/// (`False`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_nodes(spec: *mut ice_spec, min_nodes: i64, max_nodes: i64) -> ice_status {
    edit(spec, |spec| parse::set_nodes(spec, min_nodes, max_nodes))
}

/// Where the agents of a job meet.
///
/// `static`: `endpoint` is `HOST:PORT` of the host with node rank 0, whose agent serves a store
/// there; every host says its rank with `ice_spec_set_node_rank()`. No host can be replaced: when
/// one leaves or vanishes the job ends on all; but if the agent that serves the store is started again within 5 seconds
/// after its end, under this or another address of that name, it goes on with the next round. Workers meet at the same store (MASTER_ADDR and
/// MASTER_PORT are the endpoint's), emptied for each round.
///
/// `c10d`: a store that speaks PyTorch's protocol, at `HOST` or `HOST:PORT` (29400). The agent of
/// the host that the endpoint names serves it (the option `is_host` says otherwise), or somebody
/// else does: an `ice_store_server`, or PyTorch. Hosts may come and go. The job does not outlive
/// the loss of the store, unless an agent served it and is started again within 5 seconds, as above.
///
/// `etcd`: `endpoint` is `HOST:PORT,...`, the servers of one etcd (v3 API, 3.4 or newer; port
/// 2379), each of which may begin with `http://` or `https://`. It carries a job past the loss of
/// any one host, and of the etcd itself for `lost_timeout`. A library that was built without the
/// cargo feature `etcd` refuses it.
///
/// An empty endpoint is `localhost`; IPv6 addresses stand in brackets.
///
/// A store that an agent serves listens on all addresses. Who does not know the job's secret is not let in: that of
/// `secret_file` (`ice_spec_set_rendezvous_option()`), else the variable ICE_RENDEZVOUS_SECRET, 16 to 4096 bytes, which
/// workers do not get, else the user's own, a file `libice/rendezvous_secret` below XDG_CONFIG_HOME or ~/.config, mode
/// 0600, which the first agent makes and which stays. The user's own is taken where all agents can be expected to find
/// it, that is where the endpoint is this host's own (`localhost`, 127.0.0.1) or that directory is on a file system that
/// hosts share (NFS, Lustre, GPFS, BeeGFS, Ceph and the like), and not where workers meet at the same store, as they do
/// by default in a static rendezvous: PyTorch's clients have no secret to tell. Then, and in all other cases, the store
/// is open to whoever reaches the port. Where a secret is given to a static rendezvous the workers' store is another
/// one, and open. Agents that have no secret from anybody also meet at a store without one. The
/// secret is shown when a connection begins (HMAC-SHA-256 of random numbers); what is said afterwards is neither
/// encrypted nor signed: it keeps out who can reach the port, not who can change what goes over the network. A relay
/// between two agents can. `docs/threat-model.md` has all of it.
///
/// Jobs at one store are told apart by `ice_spec_set_run_id()`;
/// torchrun's agents and ours do not mix: who comes second under a run id is refused.
/// ICE_ERROR_CONFIG also for another `backend`. Without this call a job has one host and meets
/// nobody.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_rendezvous(
    spec: *mut ice_spec,
    backend: *const c_char,
    endpoint: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let backend = utf8(backend, "rendezvous")?;
        let endpoint = utf8(endpoint, "rendezvous_endpoint")?;
        backends::find(backend)?;
        spec.nodes.place = Some((backend.into(), endpoint.into()));
        Ok(())
    })
}

/// One of torchrun's `--rdzv-conf`, as text: the key, then its default in brackets. Times are
/// seconds, 1e9 at most.
///
/// - `join_timeout`, `timeout` (600): how long this host waits for a round to be complete; then the
///   run ends as ICE_END_AGENT_ERROR.
/// - `last_call_timeout` (30): how long others are waited for once the least number of nodes has
///   come. A round that follows another begins as soon as all of that one are back.
/// - `keep_alive_interval` (5): how often a host gives a sign of life.
/// - `keep_alive_max_attempt` (3): how many of these may be missing before a host counts as gone.
///   Clocks are not compared.
/// - `reconnect_timeout` (0.75; not torch's): how long a host may take to come back whose connection to a store that an
///   agent of the job serves has ended, be it that the agent was killed or that the way broke.
/// - `lost_timeout` (300; not torch's): how long workers go on while the store is out of reach;
///   then the run ends as ICE_END_AGENT_ERROR.
/// - `read_timeout` (60): how long an answer of the store may take; no longer than it takes to miss
///   a host, or than `lost_timeout`, but 1 s at least.
/// - `close_timeout` (30): how long the last words of an agent that ends may take; of one that was
///   asked to stop, 5 at most.
/// - `is_host` (as the endpoint says): `true` or `false`, whether this agent serves the store.
/// - `secret_file` (see below): a file of 16 to 4096 bytes that all agents of the job have; ICE_ERROR_CONFIG
///   where others can read it, or its group can write it, or it belongs to another user than this one or root.
///   Or `none`.
/// - `store_type` (`tcp`): nothing else.
///
/// For etcd:
///
/// - `protocol` (`http`): or `https`, where the endpoints do not say it.
/// - `cacert`, `ca_cert` (the system's): PEM file of the authorities that vouch for the servers.
/// - `ssl_cert` or `cert`, and `ssl_cert_key` or `key` (none): PEM files of the own certificate and
///   its key.
/// - `user` and `password` (none): who this is, where etcd wants to know.
/// - `ttl` (`lost_timeout` + 60): whole seconds, 5 or more: how long the keys of a job stay when
///   its agents are gone.
///
/// `heartbeat_timeout`, `cas_backoff_max_seconds`, `use_libuv` and `etcd_prefix` of torch are taken
/// and have nothing to do here. Any other key, or a value that is not one, is refused with ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_rendezvous_option(
    spec: *mut ice_spec,
    key: *const c_char,
    value: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let (key, value) = (utf8(key, "rendezvous_option")?, utf8(value, "rendezvous_option")?);
        spec.nodes.options.set(key, value)
    })
}

/// Where this host stands among the nodes, from 0: needed for a static rendezvous, where it is the
/// group rank (torchrun `--node-rank`). With others it is a wish: nodes stand by their wishes
/// first, then by when they first came.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_node_rank(spec: *mut ice_spec, node_rank: i64) -> ice_status {
    set_number(spec, option!("node_rank"), node_rank)
}

/// The same, as a scheduler says it: with `ice_spec_set_from_scheduler()` the rank that it says, else SLURM_PROCID, or else JOB_COMPLETION_INDEX (Kubernetes), of
/// the agent's environment. `ice_agent_new()` gives ICE_ERROR_CONFIG if there is neither.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_node_rank_from_scheduler(spec: *mut ice_spec) -> ice_status {
    edit(spec, |spec| {
        spec.nodes.rank = Some(NodeRank::OfScheduler);
        Ok(())
    })
}

/// The name or address by which other hosts reach this one: MASTER_ADDR, if it is the first node
/// (torchrun `--local-addr`). Default: the address of this host on the way to the store.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_local_addr(spec: *mut ice_spec, address: *const c_char) -> ice_status {
    set_text(spec, option!("local_addr"), address, "local_addr")
}

/// How long an agent whose workers have all succeeded waits for those of the other hosts: 0 to 1e9
/// seconds (torch's `exit_barrier_timeout`). Default: the environment variable
/// TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT of the host when the agent is made, else 300. A stop that is asked for ends the wait,
/// with ICE_END_INTERRUPTED. When the time is over the run has succeeded all the same, and a
/// warning names who had not come; a store that it served is gone then. While it waits it still
/// takes part: if a worker fails elsewhere and the job is restarted, its workers start again too;
/// after it has gone another host has to come in its place, and in a static rendezvous the job
/// ends. A failed job has no barrier.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_exit_barrier_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("exit_barrier_timeout"), seconds)
}

/// Of a job of several hosts: the number of the last round that this one took part in, from 0. Else
/// the number of the last attempt. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_round(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report().round as i32))
}

/// How often the job was restarted because a worker failed, on whatever host; of one host the same
/// as `ice_result_restarts()`, which else counts those for its own workers. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_job_restarts(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report().job_restarts as i32))
}

/// The exit code of the worker whose failure ended the job, on whatever host; minus the signal that
/// killed it. 0 if the job did not end so, and for NULL. All hosts of a job get the same; but where
/// workers of several failed at the same time, each of these hosts may tell its own.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_exit_code(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report().exit_code.unwrap_or(0)))
}
