//! What each scheduler's variables come to. Those of Slurm, Open MPI and MPICH are what these were seen to set.

use super::*;

type Variables = [(&'static str, &'static str)];

/// As on a host called `here`, with these files.
fn ask_with(choice: Choice, variables: &Variables, files: &Variables) -> Result<Option<Task>, String> {
    let find =
        |list: &Variables, name: &str| list.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let surroundings = Surroundings {
        var: &|name| find(variables, name).map(|value| value.as_bytes().to_vec()),
        read: &|path| find(files, path).map(str::to_string),
        pid: 90,
        // icerun, a shell that has started it, and the launcher.
        stat: &|pid| match pid {
            90 => Some(Stat::of_test(b"icerun".to_vec(), 80)),
            80 => Some(Stat::of_test(b"a (b) shell".to_vec(), 70)),
            70 => Some(Stat::of_test(b"hydra_pmi_proxy".to_vec(), 60)),
            _ => None,
        },
        is_here: &|host| host == "here" || host == "localhost",
    };
    ask(choice, &surroundings).map_err(|error| error.to_string())
}

fn auto(variables: &Variables) -> Task {
    ask_with(Choice::Auto, variables, &[]).unwrap().expect("a scheduler")
}

fn value<T: Clone>(said: &Option<Sourced<T>>) -> Option<T> {
    said.as_ref().map(|said| said.value.clone())
}

fn nodes(task: &Task) -> Result<Option<usize>, String> {
    task.nodes.as_ref().map(value).map_err(ToString::to_string)
}

/// A step of two nodes, one task each, as its second task sees it.
const STEP: &Variables = &[
    ("SLURM_CPUS_ON_NODE", "8"),
    ("SLURM_CPUS_PER_TASK", "6"),
    ("SLURM_JOB_ID", "123"),
    ("SLURM_JOB_NODELIST", "node[1-4]"),
    ("SLURM_JOB_NUM_NODES", "4"),
    ("SLURM_LOCALID", "0"),
    ("SLURM_NNODES", "2"),
    ("SLURM_NODEID", "1"),
    ("SLURM_NTASKS", "2"),
    ("SLURM_PROCID", "1"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_STEP_NODELIST", "node[3-4]"),
    ("SLURM_STEP_NUM_NODES", "2"),
    ("SLURM_STEP_NUM_TASKS", "2"),
    ("SLURM_STEP_TASKS_PER_NODE", "1(x2)"),
];

fn changed(variables: &Variables, changes: &Variables) -> Vec<(&'static str, &'static str)> {
    let kept = variables.iter().filter(|(key, _)| !changes.iter().any(|(other, _)| other == key));
    kept.chain(changes).copied().collect()
}

#[test]
fn sched_01_a_step_of_slurm() {
    let task = auto(STEP);
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("slurm", Ok(Some(2)), Some(1)));
    assert_eq!(task.rank.as_ref().unwrap().source, "SLURM_NODEID");
    assert_eq!(value(&task.first_host).as_deref(), Some("node3"));
    assert_eq!(value(&task.job).as_deref(), Some("slurm-123.0"));
    assert_eq!((task.workers, value(&task.cpus), task.share), (None, Some(6), TaskShare::ALL));
    let again = auto(&changed(STEP, &[("SLURM_RESTART_COUNT", "2")]));
    assert_eq!(value(&again.job).as_deref(), Some("slurm-123.0-restart-2"));
    let first = auto(&changed(STEP, &[("SLURM_RESTART_COUNT", "0")]));
    assert_eq!(value(&first.job).as_deref(), Some("slurm-123.0"));
}

#[test]
fn sched_04_tasks_of_slurm_that_are_no_agents() {
    let four = changed(
        STEP,
        &[
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x2)"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
        ],
    );
    let task = auto(&four);
    let error = nodes(&task).unwrap_err();
    assert!(error.contains("4 tasks of Slurm on 2 nodes"), "{error}");
    assert!(error.contains("srun --nodes=2 --ntasks=2") && error.contains("--nnodes 4"), "{error}");
    // For those who say that they are.
    assert_eq!((value(&task.rank), task.share), (Some(3), TaskShare { index: 1, of: 2 }));
    let own = auto(&changed(&four, &[("SLURM_GPUS_PER_TASK", "2")]));
    assert_eq!(own.share, TaskShare::ALL);
}

#[test]
fn sched_a_batch_script_of_slurm() {
    let batch: Vec<_> = STEP.iter().filter(|(name, _)| !name.starts_with("SLURM_STEP")).copied().collect();
    let error = nodes(&auto(&batch)).unwrap_err();
    assert!(error.contains("4 nodes") && error.contains("srun --nodes=4 --ntasks="), "{error}");
    let one =
        changed(&batch, &[("SLURM_JOB_NUM_NODES", "1"), ("SLURM_NTASKS", "4"), ("SLURM_JOB_NODELIST", "n7")]);
    let task = auto(&one);
    assert_eq!((nodes(&task), value(&task.workers), value(&task.cpus)), (Ok(Some(1)), Some(4), Some(8)));
    assert_eq!(value(&task.job).as_deref(), Some("slurm-123"));
}

#[test]
fn sched_05_ranks_of_open_mpi() {
    let rank = [
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_MCA_orte_hnp_uri", "1199374336.0;tcp://192.0.2.2,10.0.0.1:55591;tcp6://[fd00::2]:40979"),
        ("PMIX_NAMESPACE", "prterun-here-77@1"),
    ];
    let task = auto(&rank);
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("openmpi", Ok(Some(2)), Some(1)));
    assert_eq!(value(&task.first_host).as_deref(), Some("localhost"));
    assert_eq!(value(&task.job).as_deref(), Some("openmpi-prterun-here-77_1"));
    assert_eq!(task.share, TaskShare { index: 1, of: 2 });
    let wide = changed(&rank, &[("OMPI_COMM_WORLD_SIZE", "4")]);
    assert_eq!(value(&auto(&wide).first_host).as_deref(), Some("192.0.2.2"));
    let in_slurm =
        changed(&wide, &[("SLURM_JOB_ID", "5"), ("SLURM_PROCID", "0"), ("SLURM_JOB_NODELIST", "n[4-5]")]);
    assert_eq!(
        (auto(&in_slurm).scheduler, value(&auto(&in_slurm).first_host).as_deref()),
        ("openmpi", Some("n4"))
    );
    assert!(auto(&wide).is_guess);
}

#[test]
fn sched_05_ranks_of_mpich() {
    let rank = [("MPI_LOCALNRANKS", "2"), ("MPI_LOCALRANKID", "1"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")];
    let task = auto(&rank);
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("mpich", Ok(Some(2)), Some(1)));
    assert_eq!(value(&task.first_host).as_deref(), Some("localhost"));
    assert_eq!(value(&task.job).as_deref(), Some("mpich-70"));
    let wide = auto(&changed(&rank, &[("PMI_SIZE", "4")]));
    assert_eq!((nodes(&wide), wide.first_host, wide.job), (Ok(Some(4)), None, None));
}

#[test]
fn sched_a_job_of_flux() {
    let task =
        [("FLUX_JOB_ID", "ƒ2oN"), ("FLUX_JOB_NNODES", "2"), ("FLUX_JOB_SIZE", "2"), ("FLUX_TASK_RANK", "1")];
    let said = auto(&task);
    assert_eq!((said.scheduler, nodes(&said), value(&said.rank)), ("flux", Ok(Some(2)), Some(1)));
    assert_eq!((value(&said.job).as_deref(), said.first_host), (Some("flux-_2oN"), None));
    let error = nodes(&auto(&changed(&task, &[("FLUX_JOB_SIZE", "8")]))).unwrap_err();
    assert!(error.contains("flux run -N 2 -n 2"), "{error}");
}

#[test]
fn sched_hosts_of_lsf_and_pbs() {
    const HOST: (&str, &str) = ("/proc/sys/kernel/hostname", "b.site\n");
    let lsf = [("LSB_JOBID", "9"), ("LSB_JOBINDEX", "0"), ("LSB_MCPU_HOSTS", "a 4 b 4")];
    let task = ask_with(Choice::Auto, &lsf, &[HOST]).unwrap().unwrap();
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("lsf", Ok(Some(2)), Some(1)));
    assert_eq!((value(&task.first_host).as_deref(), value(&task.job).as_deref()), (Some("a"), Some("lsf-9")));
    let jsrun = changed(
        &lsf,
        &[
            ("LSB_MCPU_HOSTS", "batch1 1 a 42 b 42"),
            ("JSM_NAMESPACE_SIZE", "2"),
            ("JSM_NAMESPACE_RANK", "1"),
            ("JSM_NAMESPACE_LOCAL_SIZE", "1"),
        ],
    );
    let task = auto(&jsrun);
    assert_eq!(
        (nodes(&task), value(&task.rank), value(&task.first_host).as_deref()),
        (Ok(Some(2)), Some(1), Some("a"))
    );
    let pbs = [("PBS_JOBID", "12.server"), ("PBS_NODEFILE", "/n")];
    let task = ask_with(Choice::Auto, &pbs, &[HOST, ("/n", "a.site\na.site\nb.site\n")]).unwrap().unwrap();
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("pbs", Ok(Some(2)), Some(1)));
    assert_eq!(
        (value(&task.first_host).as_deref(), value(&task.job).as_deref()),
        (Some("a.site"), Some("pbs-12.server"))
    );
    let error = ask_with(Choice::Auto, &pbs, &[]).unwrap_err();
    assert!(error.contains("PBS_NODEFILE=/n"), "{error}");
}

#[test]
fn sched_06_an_indexed_job() {
    let files = [
        ("/proc/sys/kernel/hostname", "train-3\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n10.1.2.3\ttrain-3.svc.ns.svc.cluster.local\ttrain-3\n"),
    ];
    let task = ask_with(Choice::Auto, &[("JOB_COMPLETION_INDEX", "3")], &files).unwrap().unwrap();
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("kubernetes", Ok(None), Some(3)));
    assert_eq!(value(&task.first_host).as_deref(), Some("train-0.svc.ns.svc.cluster.local"));
    assert_eq!(value(&task.job).as_deref(), Some("kubernetes-train"));
    let task = ask_with(Choice::Auto, &[("JOB_COMPLETION_INDEX", "3")], &files[..1]).unwrap().unwrap();
    assert_eq!(value(&task.first_host).as_deref(), Some("train-0"));
}

#[test]
fn sched_hosts_by_the_variables_of_torch() {
    let host = [("MASTER_ADDR", "a"), ("MASTER_PORT", "23456"), ("RANK", "1"), ("WORLD_SIZE", "2")];
    let task = auto(&host);
    assert_eq!((task.scheduler, nodes(&task), value(&task.rank)), ("environment", Ok(Some(2)), Some(1)));
    assert_eq!((value(&task.first_host).as_deref(), value(&task.port)), (Some("a"), Some(23456)));
    assert_eq!(auto(&host[2..]).first_host, None);
    // A worker of another launcher.
    assert_eq!(ask_with(Choice::Auto, &changed(&host, &[("LOCAL_RANK", "0")]), &[]), Ok(None));
}

#[test]
fn sched_what_is_not_there_and_what_is_no_number() {
    assert_eq!(ask_with(Choice::Auto, &[("SLURM_PROCID", "0"), ("PMIX_RANK", "3")], &[]), Ok(None));
    assert_eq!(ask_with(Choice::Nobody, STEP, &[]), Ok(None));
    let error = ask_with(Choice::Named("slurm"), &[], &[]).unwrap_err();
    assert!(error.contains("SLURM_JOB_ID and SLURM_PROCID"), "{error}");
    let error = ask_with(Choice::Auto, &changed(STEP, &[("SLURM_NODEID", "x")]), &[]).unwrap_err();
    assert!(error.contains("SLURM_NODEID=x"), "{error}");
    assert_eq!(Choice::parse("slurm"), Some(Choice::Named("slurm")));
    assert_eq!(Choice::parse("pmi"), None);
    assert!(Choice::WORDS.iter().all(|word| Choice::parse(word).is_some()));
    assert!(KINDS.iter().all(|kind| Choice::WORDS.contains(&kind.name)));
}
