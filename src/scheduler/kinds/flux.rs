//! Flux: `flux run icerun ...`, one task a node. Variables: flux-environment(7), "Job environment variables". It does not
//! say on which host rank 0 is.

use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task, TaskShare};

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let nodes = from.needed(&["FLUX_JOB_NNODES"])?;
    let tasks = from.number(&["FLUX_JOB_SIZE"])?.map_or(nodes.value, |tasks| tasks.value);
    let rank = from.needed(&["FLUX_TASK_RANK"])?;
    let local = from.number(&["FLUX_TASK_LOCAL_ID"])?.map_or(0, |rank| rank.value);
    let count = nodes.value;
    let here = || Sourced::new("localhost".to_string(), nodes.source.clone());
    Ok(Task {
        rank: Some(rank),
        first_host: (count == 1).then(here),
        job: from.first(&["FLUX_JOB_ID"]).map(|job| job.map(|job| format!("flux-{}", super::plain(&job)))),
        // How many tasks this host has is not said; on one host it is known.
        share: if count == 1 { TaskShare::of(local, tasks) } else { TaskShare::ALL },
        nodes: match tasks == count {
            true => Ok(Some(nodes)),
            false => super::one_task_a_node("Flux", tasks, count, &format!("flux run -N {count} -n {count}")),
        },
        ..Task::of("flux")
    })
}
