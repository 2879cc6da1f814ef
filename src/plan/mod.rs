//! Spec and ranks to what each worker gets: argv, environment, where its program is looked for.

pub mod assign;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::PathBuf;

use crate::device::cpus::Cpus;
use crate::device::numa::Share;
use crate::ranks::Rank;
use crate::spec::launcher::{is_of_launcher, rank_of};
use crate::spec::text::expand;
use crate::spec::variables::{AGENT_ENV, CONTROL_PAGE, DESCENT, OUTER_ENV, is_reserved, is_worker};
use crate::spec::{EnvEdit, MacroSet, Spec};
use assign::Assignment;

/// Where a name without slash is looked for in an environment without PATH, as execvp(3) does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// A worker that is bound to CPUs has a thread for each of its cores, unless somebody else chooses.
const THREADS: &[u8] = b"OMP_NUM_THREADS";

/// The descriptor of a program that is the control page.
const CONTROL_FD: i32 = 3;

/// What is the same for all workers of an attempt.
#[derive(Clone)]
pub struct Job {
    pub run_id: Vec<u8>,
    pub hostname: Vec<u8>,
    pub master_addr: Vec<u8>,
    pub master_port: u16,
    /// Whether the agent of one host serves the store that its workers meet at.
    pub agent_store: bool,
    /// How often workers of this host were started again because one of them failed.
    pub restarts: u32,
    /// Of a job of several hosts.
    pub meeting: Option<Meeting>,
    /// The FIFO of torch's file timers, where they are served.
    pub timer_file: Option<PathBuf>,
    /// The marks of this run and of those around it; empty for none.
    pub descent: Vec<u8>,
}

/// What the hosts of a job agreed on for one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    pub round: u64,
    /// How often the job was restarted because a worker failed, on whatever host.
    pub job_restarts: u32,
    /// Whether an agent serves the store that workers meet at, not the worker of rank 0.
    pub agent_serves: bool,
    pub master_addr: Vec<u8>,
    pub master_port: u16,
}

/// The host's environment as it was when the run started: `KEY=VALUE` each.
pub type HostEnv = Vec<CString>;

/// The plan of one attempt.
pub struct Plan<'a> {
    spec: &'a Spec,
    devices: &'a Assignment,
    job: Job,
    /// The environment but for what differs by rank.
    common: Vec<CString>,
    expands: bool,
    /// The CPUs of each rank; none where workers are not bound.
    shares: Vec<Share>,
    /// Whether the number of threads is chosen for all.
    threads_chosen: bool,
}

/// The environment of a fork server: the host's with the spec's changes, and nothing of a worker's.
pub fn server_env(spec: &Spec, host: &HostEnv) -> Vec<CString> {
    let mut env = common(spec, host);
    if !decide(&spec.env, THREADS) {
        limit_threads(spec, &mut env);
    }
    env.into_strings()
}

/// Whether workers get one thread each, for want of a better number.
pub fn has_one_thread(spec: &Spec, host: &HostEnv) -> bool {
    let is_chosen = spec.cpus.is_some() || spec.cpu_binding.is_some() || decide(&spec.env, THREADS);
    let mut names = host.iter().filter_map(|entry| parts(entry)).map(|(name, _)| name);
    spec.local_world_size > 1 && !is_chosen && !(spec.hands_on(THREADS) && names.any(|name| name == THREADS))
}

/// Where it is known which CPUs workers have between them each has its part. Else one thread for each of several, unless
/// the host has another number: each would start as many as there are CPUs.
fn limit_threads(spec: &Spec, env: &mut Env) {
    if let Some(cpus) = spec.cpus {
        env.default(THREADS, (cpus / spec.local_world_size).max(1).to_string().as_bytes());
    } else if spec.local_world_size > 1 {
        env.default(THREADS, b"1");
    }
}

/// The environment of a probe: which devices there are is the host's to say, whatever else workers get of
/// its variables.
pub fn probe_env(spec: &Spec, host: &HostEnv) -> Vec<CString> {
    let mut env = Env::of_host(host);
    env.edit(&spec.env);
    env.into_strings()
}

/// What all processes of a run have.
fn common(spec: &Spec, host: &HostEnv) -> Env {
    let mut env = Env::of_host(host);
    env.entries.retain(|name, _| spec.hands_on(name));
    if scrubbed(spec, host).is_some() {
        env.entries.retain(|name, _| !is_of_launcher(name));
    }
    env.default(b"TORCH_NCCL_ASYNC_ERROR_HANDLING", b"1");
    env.edit(&spec.env);
    env
}

/// The variable by which it is known that workers get nothing of a launcher's; none where there is none, or where
/// they get nothing of the host's anyway.
pub fn scrubbed(spec: &Spec, host: &HostEnv) -> Option<&'static str> {
    let names = || host.iter().filter_map(|entry| parts(entry)).map(|(name, _)| name);
    if spec.clean_env || !spec.scrub_launcher { None } else { rank_of(names()) }
}

/// Whether the host decides about a variable, be it that it is not to be there.
fn decide(edits: &[EnvEdit], name: &[u8]) -> bool {
    edits.iter().any(|edit| matches!(edit, EnvEdit::Set(key, _) | EnvEdit::Unset(key) if key == name))
}

/// What one worker gets beyond the common part.
pub struct WorkerPlan<'a> {
    /// Replaces the common environment where the rank has variables of its own.
    pub common: Option<Vec<CString>>,
    pub own: Vec<CString>,
    /// The program's name and its arguments; empty for a function.
    pub argv: Vec<CString>,
    /// The files to try, in this order; empty for a function.
    pub paths: Vec<CString>,
    /// What it is bound to, if at all.
    pub cpus: Option<&'a Cpus>,
}

impl<'a> Plan<'a> {
    pub fn new(
        spec: &'a Spec,
        devices: &'a Assignment,
        job: Job,
        host: &HostEnv,
        shares: Vec<Share>,
    ) -> Plan<'a> {
        let mut env = common(spec, host);
        for name in devices.narrowed {
            env.remove(name.as_bytes());
        }
        let threads_chosen = decide(&spec.env, THREADS) || env.entries.contains_key(THREADS);
        if !threads_chosen && shares.is_empty() {
            limit_threads(spec, &mut env);
        }
        let size = spec.local_world_size;
        for (key, value) in [
            ("ROLE_NAME", spec.role.as_slice()),
            ("MASTER_ADDR", &job.master_addr),
            ("MASTER_PORT", job.master_port.to_string().as_bytes()),
            ("TORCHELASTIC_RESTART_COUNT", job.restarts.to_string().as_bytes()),
            ("TORCHELASTIC_MAX_RESTARTS", spec.max_restarts.to_string().as_bytes()),
            ("TORCHELASTIC_RUN_ID", &job.run_id),
            ("TORCHELASTIC_USE_AGENT_STORE", if job.agent_serves() { b"True" } else { b"False" }),
            ("LOCAL_WORLD_SIZE", size.to_string().as_bytes()),
        ] {
            env.set(key.as_bytes(), value);
        }
        if let Some(Meeting { round, job_restarts, .. }) = &job.meeting {
            env.set(b"ICE_ROUND", round.to_string().as_bytes());
            env.set(b"ICE_JOB_RESTART_COUNT", job_restarts.to_string().as_bytes());
        }
        job.add_timer_file(&mut env);
        if !job.descent.is_empty() {
            env.set(DESCENT.as_bytes(), &job.descent);
        }
        let expands =
            spec.macros != MacroSet::Nothing && spec.args.iter().any(|arg| arg.to_bytes().contains(&b'$'));
        Plan { spec, devices, job, common: env.into_strings(), expands, shares, threads_chosen }
    }

    pub fn common_env(&self) -> &[CString] {
        &self.common
    }

    pub fn worker(&self, rank: &Rank, error_file: Option<&PathBuf>) -> WorkerPlan<'_> {
        use std::os::unix::ffi::OsStrExt;
        let virtual_rank = self.spec.virtual_local_rank;
        let numbers = [
            ("RANK", rank.global),
            ("LOCAL_RANK", if virtual_rank { 0 } else { rank.local }),
            ("GROUP_RANK", rank.group),
            ("ROLE_RANK", rank.role),
            ("WORLD_SIZE", rank.world_size),
            ("GROUP_WORLD_SIZE", rank.group_world_size),
            ("ROLE_WORLD_SIZE", rank.role_world_size),
        ];
        let mut own: Vec<CString> =
            numbers.iter().map(|(key, n)| c_string(format!("{key}={n}").into_bytes())).collect();
        if virtual_rank {
            own.push(c_string(format!("ICE_LOCAL_RANK={}", rank.local).into_bytes()));
        }
        // Functions have the page without a word about it.
        if self.spec.has_control() && self.spec.program.is_some() {
            own.push(c_string(format!("{}={CONTROL_FD}:{}", CONTROL_PAGE, rank.local).into_bytes()));
        }
        let devices = self.devices.env(rank.local).into_iter();
        own.extend(devices.map(|(key, value)| c_string(format!("{key}={value}").into_bytes())));
        let error_file = error_file.map_or(&[][..], |path| path.as_os_str().as_bytes());
        own.push(c_string([&b"TORCHELASTIC_ERROR_FILE="[..], error_file].concat()));
        let share = self.shares.get(rank.local);
        let rank_env = self.spec.rank_env.get(&rank.local);
        if let Some(share) = share
            && !self.threads_chosen
            && !rank_env.is_some_and(|own| decide(own, THREADS))
        {
            own.push(c_string([THREADS, b"=", share.cores.to_string().as_bytes()].concat()));
        }
        let common = rank_env.map(|edits| {
            let mut env = Env::of_host(&self.common);
            // Reserved names are not among the edits: the setters refuse them.
            env.edit(edits);
            self.job.add_timer_file(&mut env);
            env.into_strings()
        });
        let (argv, paths) = match &self.spec.program {
            None => (Vec::new(), Vec::new()),
            Some(program) => {
                let env = common.as_deref().unwrap_or(&self.common);
                (self.argv(program, rank), search(program, env))
            }
        };
        WorkerPlan { common, own, argv, paths, cpus: share.map(|share| &share.cpus) }
    }

    fn argv(&self, program: &CString, rank: &Rank) -> Vec<CString> {
        let mut argv = Vec::with_capacity(1 + self.spec.args.len());
        argv.push(program.clone());
        if self.expands {
            let macros = self.macros(rank).of(self.spec.macros);
            argv.extend(self.spec.args.iter().map(|arg| c_string(macros.expand(arg.to_bytes()))));
        } else {
            argv.extend(self.spec.args.iter().cloned());
        }
        argv
    }

    pub fn macros(&self, rank: &Rank) -> Macros {
        Macros::new(self.spec, &self.job, rank)
    }
}

impl Job {
    fn agent_serves(&self) -> bool {
        self.meeting.as_ref().map_or(self.agent_store, |meeting| meeting.agent_serves)
    }

    /// The agent's word is the last, whatever the host says.
    fn add_timer_file(&self, env: &mut Env) {
        use std::os::unix::ffi::OsStrExt;
        if let Some(path) = &self.timer_file {
            env.set(b"TORCHELASTIC_TIMER_FILE", path.as_os_str().as_bytes());
        }
    }
}

/// The values of `${..}` for one worker of one attempt.
pub struct Macros(Vec<(&'static str, Vec<u8>)>);

impl Macros {
    pub fn new(spec: &Spec, job: &Job, rank: &Rank) -> Macros {
        let number = |n: usize| n.to_string().into_bytes();
        Macros(vec![
            ("local_rank", number(rank.local)),
            ("rank", number(rank.global)),
            ("role_rank", number(rank.role)),
            ("group_rank", number(rank.group)),
            ("local_world_size", number(rank.local_world_size)),
            ("world_size", number(rank.world_size)),
            ("role_name", spec.role.clone()),
            ("run_id", job.run_id.clone()),
            ("restart_count", number(job.restarts as usize)),
            ("hostname", job.hostname.clone()),
        ])
    }

    /// No more than these, for arguments: they may mean something of their own by `${..}`.
    fn of(mut self, set: MacroSet) -> Macros {
        self.0.retain(|(name, _)| match set {
            MacroSet::All => true,
            MacroSet::LocalRank => *name == "local_rank",
            MacroSet::Nothing => false,
        });
        self
    }

    /// With `${pid}`, for a process that is there.
    pub fn with_pid(mut self, pid: i32) -> Macros {
        self.0.push(("pid", pid.to_string().into_bytes()));
        self
    }

    pub fn expand(&self, template: &[u8]) -> Vec<u8> {
        expand(template, |name| {
            self.0.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, value)| value.as_slice())
        })
    }
}

/// The files that execvp(3) would try for `program`.
pub fn search(program: &CString, env: &[CString]) -> Vec<CString> {
    let name = program.to_bytes();
    if name.contains(&b'/') {
        return vec![program.clone()];
    }
    let path = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let file = |directory: &[u8]| {
        // An empty entry is the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        c_string([directory, b"/", name].concat())
    };
    path.split(|&byte| byte == b':').map(file).collect()
}

/// An environment while it is put together: each key once, in order of first appearance.
struct Env {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Name and value of an entry of the environment.
fn parts(entry: &CStr) -> Option<(&[u8], &[u8])> {
    let bytes = entry.to_bytes();
    // A key may begin with '=' but not be empty, as glibc sees it.
    let at = bytes.iter().skip(1).position(|&byte| byte == b'=')? + 1;
    Some((&bytes[..at], &bytes[at + 1..]))
}

impl Env {
    /// Without the variables that the agent sets: those of an outer agent are not this one's.
    fn of_host(strings: &[CString]) -> Env {
        let mut entries = BTreeMap::new();
        for (key, value) in strings.iter().filter_map(|entry| parts(entry)) {
            // The first of several counts, as for getenv(3).
            entries.entry(key.to_vec()).or_insert_with(|| value.to_vec());
        }
        Env { entries }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.entries.insert(key.to_vec(), value.to_vec());
    }

    fn default(&mut self, key: &[u8], value: &[u8]) {
        self.entries.entry(key.to_vec()).or_insert_with(|| value.to_vec());
    }

    fn remove(&mut self, key: &[u8]) {
        self.entries.remove(key);
    }

    fn edit(&mut self, edits: &[EnvEdit]) {
        for edit in edits {
            match edit {
                EnvEdit::Set(key, value) => self.set(key, value),
                EnvEdit::Unset(key) => self.remove(key),
            }
        }
    }

    fn into_strings(self) -> Vec<CString> {
        self.entries.into_iter().map(|(key, value)| c_string([&key[..], b"=", &value].concat())).collect()
    }
}

/// What the agent writes for each rank must not stand in the common part, and of an agent around this one nothing.
pub fn host_env(vars: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> HostEnv {
    let vars: Vec<(Vec<u8>, Vec<u8>)> = vars.collect();
    let is_worker =
        is_worker(|name| vars.iter().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| value.clone()));
    let is_outer = |key: &[u8]| is_worker && OUTER_ENV.iter().any(|name| name.as_bytes() == key);
    let is_for_agents = |key: &[u8]| AGENT_ENV.iter().any(|name| name.as_bytes() == key);
    vars.into_iter()
        .filter(|(key, _)| !is_reserved(key) && !is_outer(key) && !is_for_agents(key))
        .map(|(key, value)| c_string([&key[..], b"=", &value].concat()))
        .collect()
}

/// Bytes that were checked for NUL when they came in, or come from the system, which has none.
fn c_string(bytes: Vec<u8>) -> CString {
    CString::new(bytes).unwrap_or_else(|error| crate::error::c_string_lossy(&error.into_vec()))
}

/// Strings as execve takes them.
pub fn as_c_strs(strings: &[CString]) -> impl Iterator<Item = &CStr> {
    strings.iter().map(CString::as_c_str)
}

#[cfg(test)]
mod tests {
    use super::assign::{self, Host};
    use super::*;
    use crate::device::visibility::Source;
    use crate::ranks;
    use crate::spec::variables::RESERVED_ENV;

    fn job() -> Job {
        Job {
            run_id: b"job".to_vec(),
            hostname: b"node".to_vec(),
            master_addr: b"127.0.0.1".to_vec(),
            master_port: 4242,
            agent_store: false,
            restarts: 2,
            meeting: None,
            timer_file: None,
            descent: b"mark".to_vec(),
        }
    }

    fn worker_env(spec: &Spec, host: &[(&str, &str)]) -> BTreeMap<String, String> {
        bound_env(spec, host, Vec::new())
    }

    fn bound_env(spec: &Spec, host: &[(&str, &str)], shares: Vec<Share>) -> BTreeMap<String, String> {
        let value = |name: &str| host.iter().find(|(key, _)| *key == name);
        let host_var = |name: &str| value(name).map(|(_, value)| value.as_bytes().to_vec());
        let of_host = Host {
            source: Source::of(|name| spec.var(name, host_var)),
            cpus: &|| 8,
            devices: &|| unreachable!("no devices are named"),
        };
        let devices = &assign::assign(spec, &of_host).unwrap();
        let host = host_env(host.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())));
        let plan = Plan::new(spec, devices, job(), &host, shares);
        let worker = plan.worker(&ranks::single(2)[1], Some(&PathBuf::from("/e.json")));
        let entries: Vec<String> = worker
            .common
            .as_deref()
            .unwrap_or(plan.common_env())
            .iter()
            .chain(&worker.own)
            .map(|entry| entry.to_string_lossy().into_owned())
            .collect();
        let map: BTreeMap<_, _> = entries
            .iter()
            .filter_map(|e| e.split_once('='))
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        assert_eq!(map.len(), entries.len(), "no variable twice");
        map
    }

    fn spec() -> Spec {
        let mut spec = Spec::default();
        (spec.program, spec.local_world_size) = (Some(c"prog".into()), 2);
        spec
    }

    #[test]
    fn env_01_all_variables_are_there_and_those_of_an_outer_agent_are_not() {
        let env =
            worker_env(&spec(), &[("RANK", "77"), ("TORCHELASTIC_ERROR_FILE", "/outer"), ("HOME", "/h")]);
        for name in RESERVED_ENV {
            assert!(env.contains_key(*name), "{name}");
        }
        assert_eq!(env["RANK"], "1");
        assert_eq!(env["TORCHELASTIC_ERROR_FILE"], "/e.json");
        assert_eq!(env["TORCHELASTIC_USE_AGENT_STORE"], "False");
        assert_eq!(env["HOME"], "/h");
    }

    #[test]
    fn rst_08_workers_of_several_hosts_know_round_and_restarts_of_the_job() {
        let meeting = Meeting {
            round: 7,
            job_restarts: 4,
            agent_serves: true,
            master_addr: b"a".to_vec(),
            master_port: 1,
        };
        let (nothing, spec) = (Assignment::default(), spec());
        let job = Job { meeting: Some(meeting), ..job() };
        let plan = Plan::new(&spec, &nothing, job, &vec![], Vec::new());
        for wanted in [
            c"ICE_ROUND=7",
            c"ICE_JOB_RESTART_COUNT=4",
            c"TORCHELASTIC_RESTART_COUNT=2",
            c"TORCHELASTIC_USE_AGENT_STORE=True",
        ] {
            assert!(plan.common_env().iter().any(|entry| entry.as_c_str() == wanted), "{wanted:?}");
        }
        let env = worker_env(&spec, &[("ICE_ROUND", "outer")]);
        assert!(!env.contains_key("ICE_ROUND"), "that of an outer agent is not this one's");
    }

    #[test]
    fn env_04_async_error_handling_is_a_default_only() {
        let name = "TORCH_NCCL_ASYNC_ERROR_HANDLING";
        assert_eq!(worker_env(&spec(), &[])[name], "1");
        assert_eq!(worker_env(&spec(), &[(name, "0")])[name], "0");
    }

    #[test]
    fn time_10_each_worker_finds_the_fifo_of_its_attempt() {
        const NAME: &str = "TORCHELASTIC_TIMER_FILE";
        assert_eq!(worker_env(&spec(), &[(NAME, "/host")])[NAME], "/host", "torch leaves it as well");
        let mut spec = spec();
        spec.rank_env.insert(1, vec![EnvEdit::Set(NAME.into(), b"/own".to_vec())]);
        let job = Job { timer_file: Some("/ours".into()), ..job() };
        let (nothing, ranks) = (Assignment::default(), ranks::single(2));
        let host = vec![CString::new(format!("{NAME}=/host")).unwrap()];
        let plan = Plan::new(&spec, &nothing, job, &host, Vec::new());
        let wanted = CString::new(format!("{NAME}=/ours")).unwrap();
        assert!(plan.common_env().contains(&wanted));
        assert!(plan.worker(&ranks[1], None).common.unwrap().contains(&wanted));
    }

    #[test]
    fn omp_threads_are_one_unless_somebody_said_otherwise() {
        let name = "OMP_NUM_THREADS";
        assert_eq!(worker_env(&spec(), &[])[name], "1");
        assert_eq!(worker_env(&spec(), &[(name, "6")])[name], "6");
        assert_eq!(worker_env(&spec(), &[(name, "")])[name], "");
        let set = |edit| Spec { env: vec![edit], ..spec() };
        let six = set(EnvEdit::Set(name.into(), b"6".to_vec()));
        assert_eq!(worker_env(&six, &[])[name], "6");
        assert!(!worker_env(&set(EnvEdit::Unset(name.into())), &[]).contains_key(name));
        let alone = Spec { local_world_size: 1, ..spec() };
        let plan = Plan::new(
            &alone,
            &Assignment { local_world_size: 1, ..Assignment::default() },
            job(),
            &vec![],
            Vec::new(),
        )
        .common_env()
        .to_vec();
        assert!(!plan.iter().any(|entry| entry.to_string_lossy().starts_with(name)));
    }

    #[test]
    fn dev_01_without_a_word_of_devices_nothing_changes() {
        let env = worker_env(&spec(), &[("CUDA_VISIBLE_DEVICES", "2,5"), ("ICE_DEVICES", "outer")]);
        assert_eq!((env["CUDA_VISIBLE_DEVICES"].as_str(), env["LOCAL_RANK"].as_str()), ("2,5", "1"));
        assert!(!env.contains_key("ICE_DEVICES") && !env.contains_key("ICE_LOCAL_RANK"));
    }

    #[test]
    fn dev_02_dev_06_a_virtual_local_rank_is_zero() {
        let spec = Spec { virtual_local_rank: true, ..spec() };
        let env = worker_env(&spec, &[]);
        assert_eq!((env["CUDA_VISIBLE_DEVICES"].as_str(), env["LOCAL_RANK"].as_str()), ("1", "0"));
        assert_eq!(env["ICE_LOCAL_RANK"], "1");
        let env = worker_env(&spec, &[("CUDA_VISIBLE_DEVICES", "2,5")]);
        assert_eq!(env["CUDA_VISIBLE_DEVICES"], "5");
        let env = worker_env(&spec, &[("HIP_VISIBLE_DEVICES", "4,6")]);
        assert_eq!((env["CUDA_VISIBLE_DEVICES"].as_str(), env["HIP_VISIBLE_DEVICES"].as_str()), ("6", "6"));
    }

    #[test]
    fn sp_13_unset_and_clean() {
        let mut spec = spec();
        spec.env = vec![EnvEdit::Unset(b"A".to_vec()), EnvEdit::Set(b"B".to_vec(), b"2".to_vec())];
        let env = worker_env(&spec, &[("A", "1"), ("C", "3")]);
        assert!(!env.contains_key("A") && env["B"] == "2" && env["C"] == "3");
        spec.clean_env = true;
        spec.rank_env.insert(1, vec![EnvEdit::Set(b"D".to_vec(), b"4".to_vec())]);
        let env = worker_env(&spec, &[("A", "1"), ("C", "3")]);
        assert!(!env.contains_key("C") && env["D"] == "4" && env["RANK"] == "1");
        spec.keep_env = [b"C".to_vec(), b"E".to_vec()].into();
        let env = worker_env(&spec, &[("C", "3"), ("F", "5")]);
        assert!(env["C"] == "3" && !env.contains_key("E") && !env.contains_key("F"));
    }

    #[test]
    fn dev_12_a_thread_for_each_core_unless_somebody_chose() {
        const NAME: &str = "OMP_NUM_THREADS";
        let shares = || {
            let share = |list, cores| Share { cpus: Cpus::parse(list).unwrap(), cores };
            vec![share("0-3", 2), share("4-9", 3)]
        };
        let threads = |host: &[(&str, &str)], change: &dyn Fn(&mut Spec)| {
            let mut spec = spec();
            change(&mut spec);
            bound_env(&spec, host, shares()).remove(NAME)
        };
        assert_eq!(threads(&[], &|_| ()).as_deref(), Some("3"));
        assert_eq!(threads(&[(NAME, "7")], &|_| ()).as_deref(), Some("7"));
        assert_eq!(threads(&[(NAME, "7")], &|spec| spec.clean_env = true).as_deref(), Some("3"));
        assert_eq!(worker_env(&spec(), &[])[NAME], "1", "torchrun's rule, where nothing is bound");
        let name = || NAME.as_bytes().to_vec();
        for (edit, wanted) in
            [(EnvEdit::Set(name(), b"5".to_vec()), Some("5")), (EnvEdit::Unset(name()), None)]
        {
            let for_all = |spec: &mut Spec| spec.env.push(edit.clone());
            assert_eq!(threads(&[(NAME, "7")], &for_all).as_deref(), wanted);
            for (rank, wanted) in [(1, wanted), (0, Some("3"))] {
                let for_one = |spec: &mut Spec| drop(spec.rank_env.insert(rank, vec![edit.clone()]));
                assert_eq!(threads(&[], &for_one).as_deref(), wanted);
            }
        }
        let (spec, ranks) = (spec(), ranks::single(2));
        let nothing = Assignment::default();
        let plan = Plan::new(&spec, &nothing, job(), &vec![], shares());
        assert_eq!(plan.worker(&ranks[1], None).cpus, Cpus::parse("4-9").as_ref());
    }

    #[test]
    fn sp_02_the_path_of_the_workers_environment_decides() {
        let mut spec = spec();
        spec.rank_env.insert(1, vec![EnvEdit::Set(b"PATH".to_vec(), b"/x::/y".to_vec())]);
        let nothing = Assignment::default();
        let plan = Plan::new(&spec, &nothing, job(), &vec![c"PATH=/host".into()], Vec::new());
        let ranks = ranks::single(2);
        assert_eq!(plan.worker(&ranks[0], None).paths, [c"/host/prog".to_owned()]);
        assert_eq!(
            plan.worker(&ranks[1], None).paths,
            [c"/x/prog".to_owned(), c"./prog".to_owned(), c"/y/prog".to_owned()]
        );
    }

    #[test]
    fn env_10_fewer_macros_may_be_chosen() {
        for (macros, wanted) in [
            (MacroSet::All, c"1 1 ${rank} $${x}"),
            (MacroSet::LocalRank, c"1 ${rank} $${rank} $${x}"),
            (MacroSet::Nothing, c"${local_rank} ${rank} $${rank} $${x}"),
        ] {
            let args = vec![c"${local_rank} ${rank} $${rank} $${x}".into()];
            let spec = Spec { args, macros, ..spec() };
            let nothing = Assignment::default();
            let plan = Plan::new(&spec, &nothing, job(), &vec![], Vec::new());
            assert_eq!(plan.worker(&ranks::single(2)[1], None).argv[1].as_c_str(), wanted);
        }
    }

    #[test]
    fn env_10_macros_have_the_values_of_the_attempt() {
        let mut spec = spec();
        spec.args = vec![c"${local_rank}/${rank}/${role_name}/${run_id}/${restart_count}/${x}".into()];
        let nothing = Assignment::default();
        let plan = Plan::new(&spec, &nothing, job(), &vec![], Vec::new());
        assert_eq!(plan.worker(&ranks::single(2)[1], None).argv[1].as_c_str(), c"1/1/default/job/2/${x}");
    }
}
