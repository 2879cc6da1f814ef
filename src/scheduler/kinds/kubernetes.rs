//! An Indexed Job of Kubernetes: pods `JOB-0`, `JOB-1`, ..., which find each other by the names of a headless service. How
//! many there are is not in their environment.

use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task};

const INDEX: &str = "JOB_COMPLETION_INDEX";

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let index = from.needed(&[INDEX])?;
    let name = full_name(from);
    let (host, domain) = name.split_once('.').map_or((&*name, None), |(host, domain)| (host, Some(domain)));
    let job = host.strip_suffix(&format!("-{}", index.value));
    let first = job.map(|job| domain.map_or(format!("{job}-0"), |domain| format!("{job}-0.{domain}")));
    Ok(Task {
        rank: Some(index),
        first_host: first.map(|first| Sourced::new(first, "the name of this pod")),
        job: job.map(|job| Sourced::new(format!("kubernetes-{job}"), "the name of this pod")),
        ..Task::of("kubernetes")
    })
}

/// With the domain of its service, as the kubelet writes it to the pod's hosts file.
fn full_name(from: &Surroundings) -> String {
    let host = from.hostname();
    let hosts = (from.read)("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
    let full = names.find(|name| name.strip_prefix(&*host).is_some_and(|rest| rest.starts_with('.')));
    full.map(str::to_string).unwrap_or(host)
}
