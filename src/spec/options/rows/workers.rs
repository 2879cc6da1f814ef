//! Options of what runs, where, and how often.

use super::super::{Row, TINY, parse};
use super::{at_least, each, flag, list, number, seconds, text, word};
use crate::device::numa::Binding;
use crate::device::strings::{Devices, Nproc};
use crate::device::visibility::Visibility;
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::spec::values::{c_bytes, digits, not_empty, plain};
use crate::spec::{MAX_RESTARTS, MacroSet, StartMethod, Stdin};

pub const WORKERS: &[Row] = &[
    text(
        "program",
        "PROGRAM",
        "The program that each worker runs: a path, or a name that is looked for in the PATH of the worker's \
         environment.",
        |spec, field, text| {
            spec.program = Some(c_bytes(field, not_empty(field, text)?)?);
            Ok(())
        },
    )
    .not_of_tool(),
    each(
        "arg",
        "",
        "TEXT",
        "One more argument of the program, in which macros like ${rank} are filled in.",
        |spec, field, text| {
            spec.args.push(c_bytes(field, text)?);
            Ok(())
        },
    )
    .also("args")
    .not_of_tool(),
    text(
        "function",
        "[LIBRARY:]NAME",
        "The function that each worker calls in place of a program: one that this program has registered, or a symbol \
         of a shared object.",
        parse::function,
    )
    .not_of_tool(),
    text(
        "warm_up",
        "NAME",
        "A function that the fork server calls once before it forks workers.",
        |spec, field, text| {
            spec.warm_up = Some(c_bytes(field, not_empty(field, text)?)?);
            Ok(())
        },
    )
    .not_of_tool(),
    text(
        "runner",
        "PATH",
        "The program that functions of shared objects run in, where libice is linked statically.",
        |spec, field, text| {
            spec.runner = Some(c_bytes(field, not_empty(field, text)?)?);
            Ok(())
        },
    )
    .not_of_tool(),
    text(
        "nproc_per_node",
        "N",
        "How many workers to start: a number, `gpu` or `cpu` for as many as there are CUDA devices or CPUs to use, \
         `auto` for gpu if there is one, else cpu. One if nothing is said; not needed with devices.",
        |spec, field, text| {
            spec.nproc = Some(Nproc::parse(&digits(plain(field, text)?))?);
            if let Some(Nproc::Number(number)) = spec.nproc {
                spec.local_world_size = number;
            }
            Ok(())
        },
    )
    .offers(&["gpu", "cpu", "auto"]),
    number(
        "local_world_size",
        (1, MAX_LOCAL_WORLD_SIZE),
        "N",
        "The same as a number alone.",
        |spec, size| {
            spec.local_world_size = size as usize;
            spec.nproc = Some(Nproc::Number(spec.local_world_size));
        },
    )
    .not_of_tool(),
    text("role", "NAME", "The role of the workers.", |spec, field, text| {
        spec.role = not_empty(field, text)?.to_vec();
        Ok(())
    })
    .default("default"),
    word(
        "macros",
        ("ice_macros", 0),
        &["none", "local_rank", "all"],
        "WHICH",
        "What is filled in in arguments: local_rank for ${local_rank} alone, as with torchrun, none, or all for \
         ${rank}, ${role_rank}, ${group_rank}, ${world_size}, ${local_world_size}, ${role_name}, ${run_id}, \
         ${restart_count} and ${hostname} too. $${rank} then stays, as ${rank}.",
        |spec, at| spec.macros = [MacroSet::Nothing, MacroSet::LocalRank, MacroSet::All][at],
    )
    .default("all"),
    each("env", "=", "NAME=VALUE", "Sets a variable for the workers. May be repeated.", |spec, field, text| {
        spec.env.push(parse::variable(field, text)?);
        Ok(())
    })
    .not_of_tool(),
    each(
        "unset_env",
        "",
        "NAME",
        "Takes a variable out of the environment of the workers. May be repeated.",
        |spec, _, text| {
            spec.env.push(parse::unset(text)?);
            Ok(())
        },
    ),
    each(
        "rank_env",
        ":=",
        "RANK:NAME=VALUE",
        "Sets a variable for the worker of one local rank. May be repeated.",
        |spec, field, text| parse::of_rank(spec, field, text, |text| parse::variable(field, text)),
    ),
    each(
        "unset_rank_env",
        ":",
        "RANK:NAME",
        "Takes a variable out of the environment of one local rank. May be repeated.",
        |spec, field, text| parse::of_rank(spec, field, text, parse::unset),
    ),
    flag(
        "clean_env",
        "Workers start with nothing of this environment, only with what is set for them.",
        |spec, on| spec.clean_env = on,
    )
    .default("0"),
    list(
        "keep_env",
        "NAMES",
        "Variables of this environment that workers get all the same with clean_env: PATH,HOME.",
        |spec, field, text| {
            spec.keep_env = parse::names(field, text)?;
            Ok(())
        },
    )
    .default(""),
    flag(
        "scrub_launcher",
        "Workers of a process that mpirun or srun has started get none of the variables of MPI's launchers (PMI_*, \
         PMIX_*, OMPI_* and the like): MPI_Init would fail in them.",
        |spec, on| spec.scrub_launcher = on,
    )
    .default("0")
    .not_of_tool(),
    text("working_dir", "DIR", "The directory that workers start in.", |spec, field, text| {
        spec.working_dir = Some(c_bytes(field, not_empty(field, text)?)?);
        Ok(())
    }),
    word(
        "stdin",
        ("ice_stdin", 0),
        &["none", "rank0", "all"],
        "WHO",
        "Who reads the standard input, which must not be a terminal: none, rank0, or all as with torchrun, where \
         workers take it from each other.",
        |spec, at| spec.stdin = [Stdin::Null, Stdin::Rank0, Stdin::All][at],
    )
    .default("none"),
    word(
        "start_method",
        ("ice_start_method", 0),
        &["fork", "spawn", "forkserver"],
        "METHOD",
        "How functions get their process; it makes no difference to programs. Fork for a callback, else spawn, if \
         nothing is said.",
        |spec, at| {
            spec.start_method = Some([StartMethod::Fork, StartMethod::Spawn, StartMethod::Forkserver][at]);
        },
    )
    .not_of_tool(),
    flag(
        "crash_records",
        "A function that crashes leaves signal, address and a backtrace in its error file.",
        |spec, on| spec.crash_records = on,
    )
    .default("1")
    .not_of_tool(),
    flag(
        "raise_descriptor_limit",
        "While the run lasts the soft limit of descriptors is the hard limit; workers get the one that there was before.",
        |spec, on| spec.raise_descriptor_limit = on,
    )
    .default("0")
    .not_of_tool(),
];

pub const DEVICES: &[Row] = &[
    list(
        "devices",
        "LIST",
        "One worker for each of these, which it alone sees: cuda:0-2,7, cuda:*, auto:*, cpu:0-3, GPU-8932f937. Numbers \
         are places in CUDA_VISIBLE_DEVICES, where that is set. A device that is named twice has two workers.",
        |spec, field, text| {
            spec.devices = Some(Devices::parse(plain(field, text)?)?);
            Ok(())
        },
    ),
    word(
        "device_visibility",
        ("ice_device_visibility", 0),
        &["inherit", "own", "all"],
        "WHICH",
        "What a worker finds in CUDA_VISIBLE_DEVICES: own for its own devices alone, all for those of all workers, \
         inherit for what the agent sees. Without it own where there is a worker for each device (devices, or \
         nproc_per_node gpu), else inherit. Under torchrun it is inherit: a script that takes GPU LOCAL_RANK wants that.",
        |spec, at| spec.visibility = Some([Visibility::Inherit, Visibility::Own, Visibility::All][at]),
    ),
    flag(
        "virtual_local_rank",
        "LOCAL_RANK is 0 for each worker, which sees its own device alone; the real one is in ICE_LOCAL_RANK.",
        |spec, on| spec.virtual_local_rank = on,
    )
    .default("0"),
    number(
        "devices_per_rank",
        (1, MAX_LOCAL_WORLD_SIZE),
        "N",
        "How many devices each worker has.",
        |spec, count| spec.devices_per_rank = count as usize,
    )
    .default("1"),
    number(
        "ranks_per_device",
        (1, MAX_LOCAL_WORLD_SIZE),
        "N",
        "How many workers share each device.",
        |spec, count| spec.ranks_per_device = count as usize,
    )
    .default("1"),
    flag(
        "device_uuids",
        "Workers find UUIDs in CUDA_VISIBLE_DEVICES, not numbers.",
        |spec, on| spec.device_uuids = on,
    )
    .default("0"),
    at_least(
        "probe_timeout",
        TINY,
        "How long it may take to ask the CUDA driver which devices there are.",
        |spec, time| spec.probe_timeout = time,
    )
    .default("30"),
    word(
        "cpu_binding",
        ("ice_cpu_binding", 0),
        &["off", "node", "socket", "exclusive", "core-complex", "compact"],
        "MODE",
        "Binds each worker to CPUs: node, socket, exclusive or core-complex, all near its GPU; or compact, a part of \
         all cores, GPU or not. OMP_NUM_THREADS, if not set, is then the number of its cores.",
        |spec, at| {
            let near = [Binding::Node, Binding::Socket, Binding::Exclusive, Binding::CoreComplex, Binding::Compact];
            spec.cpu_binding = at.checked_sub(1).map(|at| near[at]);
        },
    )
    .also("numa_binding")
    .default("off"),
];

pub const RESTARTS: &[Row] = &[
    number(
        "max_restarts",
        (0, MAX_RESTARTS),
        "N",
        "How often all workers are started again after one has failed.",
        |spec, count| spec.max_restarts = count as u32,
    )
    .default("3"),
    text(
        "restart_backoff",
        "SECONDS[:MAX]",
        "The wait before the first restart, doubled for each further one up to MAX (60 if not given).",
        parse::restart_backoff,
    )
    .default("0:0"),
    seconds(
        "min_uptime",
        "A failure sooner than this is a crash loop and not restarted.",
        |spec, time| spec.min_uptime = time,
    )
    .default("0"),
    list(
        "no_restart_exit_codes",
        "CODES",
        "Exit codes after which a restart makes no sense: 2,3.",
        parse::no_restart_exit_codes,
    )
    .also("no_restart_codes"),
    number(
        "max_attempts_without_progress",
        (0, MAX_RESTARTS),
        "N",
        "Ends the run when so many attempts have come no further, in steps, than those before, whatever restarts are \
         left; 0 for any number.",
        |spec, count| spec.attempts_without_progress = count as u32,
    )
    .default("0"),
    at_least(
        "monitor_interval",
        0.001,
        "How often to look for what the kernel does not announce. Exits are seen at once.",
        |spec, time| spec.monitor_interval = time,
    )
    .default("0.1"),
];
