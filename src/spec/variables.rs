//! Variables of the environment: those that the agent sets for its workers, and those that it reads.

/// How the control page is told to a program: the number of its descriptor, a colon, and the slot in it.
pub const CONTROL_PAGE: &str = "ICE_CONTROL_FD";

/// The file with the secret of the workers' store, if it has one.
pub const STORE_SECRET_FILE: &str = "ICE_STORE_SECRET_FILE";

/// The secret of the rendezvous itself, where agents are started by other means than a shared file.
pub const RENDEZVOUS_SECRET: &str = "ICE_RENDEZVOUS_SECRET";

/// The variables a worker gets from the agent; an env setter must not touch them.
pub const RESERVED_ENV: &[&str] = &[
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "LOCAL_WORLD_SIZE",
    "WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    DESCENT,
];

/// By which an agent knows what its workers have started: a list, as workers may have agents of their own.
pub const DESCENT: &str = "ICE_DESCENT";

/// The same for those that only a worker with devices of its own gets.
pub const RESERVED_DEVICE_ENV: &[&str] = &["ICE_LOCAL_RANK", "ICE_DEVICES", "ICE_DIST_BACKEND"];

/// The same for those of a job whose agents meet.
pub const RESERVED_RENDEZVOUS_ENV: &[&str] = &["ICE_ROUND", "ICE_JOB_RESTART_COUNT"];

/// The same for programs that have a control page.
pub const RESERVED_CONTROL_ENV: &[&str] = &[CONTROL_PAGE];

/// Whether only the agent may say what this variable is.
pub fn is_reserved(key: &[u8]) -> bool {
    let names = RESERVED_ENV.iter().chain(RESERVED_DEVICE_ENV).chain(RESERVED_RENDEZVOUS_ENV);
    let names = names.chain(RESERVED_CONTROL_ENV);
    names.into_iter().any(|name| name.as_bytes() == key)
}

/// What agents, or their launchers, set for workers and hosts may set too: of no meaning to the workers of a worker.
pub const OUTER_ENV: &[&str] = &["TORCHELASTIC_TIMER_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE"];

/// What is for agents alone.
pub const AGENT_ENV: &[&str] = &[RENDEZVOUS_SECRET];

/// Whether the process with these variables is itself a worker, of this library's agent or of torch's.
pub fn is_worker(var: impl Fn(&str) -> Option<Vec<u8>>) -> bool {
    var("TORCHELASTIC_RUN_ID").is_some()
}
