//! Options of a job's hosts, and of where workers meet.

use super::super::{OptionKind, Row, parse};
use super::{each, flag, number, seconds, text};
use crate::error::Error;
use crate::scheduler::Choice;
use crate::spec::MAX_RESTARTS;
use crate::spec::nodes::{MAX_NODES, NodeRank};
use crate::spec::values::{not_empty, plain};

pub const RENDEZVOUS: &[Row] = &[
    text(
        "nodes",
        "N[:MAX]",
        "How many hosts the job has, at least and at most. One, if nothing is said.",
        parse::nodes,
    )
    .also("nnodes"),
    Row::new(
        "node_rank",
        OptionKind::Number {
            low: 0,
            high: MAX_NODES - 1,
            store: |spec, rank| spec.nodes.rank = Some(NodeRank::Is(rank as u64)),
            word: Some(("scheduler", |spec| spec.nodes.rank = Some(NodeRank::OfScheduler))),
        },
        "N",
        "Which of the hosts this is: with static all say it, with c10d it is a wish. scheduler: SLURM_PROCID or \
         JOB_COMPLETION_INDEX.",
    )
    .offers(&["scheduler"]),
    text(
        "rendezvous_backend",
        "NAME",
        "static: a given set of hosts that meet at the first, which is MASTER_ADDR and MASTER_PORT, too. c10d, etcd: \
         hosts that come and go, and meet at a store or an etcd. Or a name that the program has registered. Without it \
         one host meets nobody.",
        |spec, field, text| {
            let backend = plain(field, text)?.to_string();
            let endpoint = spec.nodes.place.take().map(|(_, endpoint)| endpoint).unwrap_or_default();
            spec.nodes.place = (!backend.is_empty()).then_some((backend, endpoint));
            Ok(())
        },
    )
    .also("rdzv_backend")
    .default("")
    .offers(&["static", "c10d", "etcd"]),
    text(
        "rendezvous_endpoint",
        "HOST[:PORT]",
        "Where the hosts meet. With static the first host, and a port; with c10d where the store is: the host of that \
         name serves it, at port 29400 if none is given; with etcd its servers.",
        |spec, field, text| {
            let endpoint = plain(field, text)?.to_string();
            let backend = spec.nodes.place.take().map(|(backend, _)| backend);
            spec.nodes.place = Some((backend.unwrap_or_else(|| "static".into()), endpoint));
            Ok(())
        },
    )
    .also("rdzv_endpoint"),
    text(
        "scheduler",
        "NAME",
        "Who says what is not said here, hosts, node rank, endpoint, run id, workers and threads: slurm, openmpi, mpich, \
         flux, lsf, pbs, kubernetes, environment (MASTER_ADDR, WORLD_SIZE, RANK), auto for the one that has started this, or \
         none.",
        |spec, field, text| {
            let wrong = || format!("must be one of {}", Choice::WORDS.join(", "));
            let text = plain(field, text)?;
            spec.scheduler = Choice::parse(text).ok_or_else(|| Error::config(field, text, wrong()))?;
            Ok(())
        },
    )
    .default("none")
    .offers(Choice::WORDS),
    text(
        "run_id",
        "TEXT",
        "The name of the job, in TORCHELASTIC_RUN_ID and in the name of the run's directory. none, if nothing is said.",
        |spec, field, text| {
            spec.run_id = Some(not_empty(field, text)?.to_vec());
            Ok(())
        },
    )
    .also("rdzv_id"),
    each(
        "rendezvous_option",
        "=",
        "KEY=VALUE",
        "Further settings: join_timeout, last_call_timeout, keep_alive_interval, keep_alive_max_attempt, read_timeout, \
         close_timeout, lost_timeout, is_host, ... (torchrun's --rdzv-conf).",
        parse::rendezvous_option,
    )
    .also("rendezvous_options")
    .not_of_tool(),
    seconds(
        "exit_barrier_timeout",
        "How long workers that succeeded are waited with for those of other hosts. Without it \
         TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT, else 300.",
        |spec, time| spec.nodes.exit_barrier_timeout = Some(time),
    ),
    number(
        "max_host_failures",
        (0, MAX_RESTARTS),
        "N",
        "A host of several whose workers have failed so many times is left out, without a restart being counted, where \
         the job has enough others; 0 for any number.",
        |spec, count| spec.nodes.max_host_failures = count as u32,
    )
    .default("0"),
    text(
        "master_addr",
        "ADDRESS",
        "Where worker 0 listens: MASTER_ADDR (without a rendezvous only). 127.0.0.1, if nothing is said.",
        |spec, field, text| {
            spec.master_addr = Some(not_empty(field, text)?.to_vec());
            Ok(())
        },
    ),
    number(
        "master_port",
        (0, u16::MAX as i64),
        "PORT",
        "The port there: MASTER_PORT (without a rendezvous only); 0 for a free one.",
        |spec, port| spec.master_port = port as u16,
    )
    .default("0"),
    text(
        "local_addr",
        "ADDRESS",
        "The address of this host: MASTER_ADDR, unless static names one.",
        |spec, field, text| {
            spec.nodes.local_addr = Some(plain(field, not_empty(field, text)?)?.into());
            Ok(())
        },
    ),
    flag(
        "agent_store",
        "The agent serves the store at MASTER_PORT, a new one for each attempt; 0: the worker of rank 0 does, or whatever \
         else it likes. With a rendezvous the agent does, if nothing is said, else not.",
        |spec, on| spec.agent_store = Some(on),
    )
    .not_of_tool(),
];
