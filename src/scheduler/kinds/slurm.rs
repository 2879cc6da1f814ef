//! Slurm: `srun icerun ...`, one task a node, or a batch script of one node. Variables: srun(1), "OUTPUT ENVIRONMENT
//! VARIABLES", and sbatch(1).

use crate::error::Error;
use crate::scheduler::hosts::{counts, expand};
use crate::scheduler::{Sourced, Surroundings, Task, TaskShare};

pub const HOSTS: &[&str] = &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
const NODES: &[&str] = &["SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"];
const TASKS: &[&str] = &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"];
const TASKS_OF_NODES: &[&str] = &["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"];

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    // A batch script runs on the first node alone, as no step.
    let is_step = from.first(&["SLURM_STEP_ID", "SLURM_STEPID"]).is_some();
    let nodes = from.needed(NODES)?;
    let tasks = from.number(TASKS)?;
    let many = tasks.as_ref().map_or(nodes.value, |tasks| tasks.value);
    let one_a_node = is_step && many == nodes.value;
    let rank = if one_a_node { &["SLURM_NODEID", "SLURM_PROCID"][..] } else { &["SLURM_PROCID"] };
    let rank = from.needed(rank)?;
    let node = from.number(&["SLURM_NODEID"])?.map_or(0, |node| node.value);
    let of_node = from.first(TASKS_OF_NODES).and_then(|said| counts(&said.value));
    let of_node = of_node.and_then(|counts| counts.get(node).copied());
    let hosts = from.first(HOSTS);
    let first = hosts.as_ref().and_then(|list| expand(&list.value)?.into_iter().next());
    Ok(Task {
        rank: Some(rank),
        first_host: hosts.zip(first).map(|(list, first)| Sourced::new(first, list.source)),
        job: job(from, is_step)?,
        workers: if is_step { None } else { tasks.filter(|_| nodes.value == 1) },
        share: share(from, of_node, is_step)?,
        cpus: cpus(from, of_node, is_step)?,
        nodes: agents(nodes, many, is_step),
        ..Task::of("slurm")
    })
}

fn agents(nodes: Sourced<usize>, tasks: usize, is_step: bool) -> Result<Option<Sourced<usize>>, Error> {
    let count = nodes.value;
    let line = format!("srun --nodes={count} --ntasks={count}");
    match (is_step, tasks == count) {
        (true, false) => super::one_task_a_node("Slurm", tasks, count, &line),
        (false, _) if count > 1 => Err(Error::config(
            "nodes",
            format!("{count} nodes of Slurm"),
            format!(
                "a batch script runs on the first of them alone: {line} before the command; or, for this node alone, \
                 --nnodes 1"
            ),
        )),
        _ => Ok(Some(nodes)),
    }
}

/// Steps of one job may run side by side, and a job that is queued again has the same number.
fn job(from: &Surroundings, is_step: bool) -> Result<Option<Sourced<String>>, Error> {
    let Some(mut job) = from.first(&["SLURM_JOB_ID"]) else { return Ok(None) };
    job.value = format!("slurm-{}", job.value);
    if let Some(step) = from.first(&["SLURM_STEP_ID", "SLURM_STEPID"]).filter(|_| is_step) {
        job =
            Sourced::new(format!("{}.{}", job.value, step.value), format!("{}, {}", job.source, step.source));
    }
    if let Some(restarts) = from.number(&["SLURM_RESTART_COUNT"])?.filter(|restarts| restarts.value > 0) {
        let source = format!("{}, {}", job.source, restarts.source);
        job = Sourced::new(format!("{}-restart-{}", job.value, restarts.value), source);
    }
    Ok(Some(job))
}

/// Tasks that Slurm has given GPUs of their own see no others.
fn share(from: &Surroundings, of_node: Option<usize>, is_step: bool) -> Result<TaskShare, Error> {
    let has_own = from.first(&["SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU"]).is_some();
    let index = from.number(&["SLURM_LOCALID"])?.map(|index| index.value);
    Ok(match (index, of_node) {
        (Some(index), Some(of)) if is_step && !has_own => TaskShare::of(index, of),
        _ => TaskShare::ALL,
    })
}

fn cpus(from: &Surroundings, of_node: Option<usize>, is_step: bool) -> Result<Option<Sourced<usize>>, Error> {
    let of_host = from.number(&["SLURM_CPUS_ON_NODE"])?;
    if !is_step && of_host.is_some() {
        return Ok(of_host);
    }
    let of_task = from.number(&["SLURM_CPUS_PER_TASK"])?;
    Ok(of_task.or(of_host.map(|cpus| cpus.map(|cpus| (cpus / of_node.unwrap_or(1).max(1)).max(1)))))
}
