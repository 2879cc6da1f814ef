//! Areas ENV and DEV: a host that a launcher of MPI has started.

use std::process::Command;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::sp::environment;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        env_22_workers_get_nothing_of_a_launcher_where_it_is_asked_for,
        env_22_settings_without_a_launcher_stay,
        env_22_what_the_spec_sets_stays,
        env_22_by_icerun,
        needs(mpicc, mpiexec): env_22_workers_of_a_rank_may_use_mpi_themselves,
        needs(taskset): dev_22_one_cpu_for_all_is_said,
    ]
}

/// What mpirun and srun leave, and what they do not.
const LAUNCHERS: [(&str, &str); 9] = [
    ("PMI_RANK", "0"),
    ("PMI_FD", "7"),
    ("PMIX_NAMESPACE", "x"),
    ("OMPI_COMM_WORLD_RANK", "0"),
    ("OMPI_MCA_ess", "^singleton"),
    ("PRTE_LAUNCHED", "1"),
    ("MPI_LOCALNRANKS", "1"),
    ("SLURM_PMIX_MAPPING_SERV", "x"),
    ("PALS_RANKID", "0"),
];
const OTHERS: [(&str, &str); 3] = [("SLURM_PROCID", "0"), ("UCX_TLS", "tcp"), ("HYDRA_FULL_ERROR", "1")];

fn env_22_workers_get_nothing_of_a_launcher_where_it_is_asked_for() {
    for kind in Kind::ALL {
        for scrub in [0, 1] {
            let t = Case::new();
            let host = t.host().set("scrub_launcher", scrub).worker(kind, &["dump", &t.path("dump")]);
            let host =
                LAUNCHERS.iter().chain(&OTHERS).fold(host, |host, (name, value)| host.env(name, value));
            let run = host.steps(&["run", "free_agent", &format!("dump_self={}", t.path("host"))]).run();
            run.succeeded();
            let (worker, host) = (environment(&t.json("dump")), environment(&t.json("host")));
            for (name, _) in LAUNCHERS {
                assert_eq!(worker.contains_key(name), scrub == 0, "{name} {}", kind.name());
                assert!(host.contains_key(name), "the host keeps {name}");
            }
            assert!(OTHERS.iter().all(|(name, value)| worker[*name] == *value), "{worker:?}");
        }
    }
}

fn env_22_settings_without_a_launcher_stay() {
    let t = Case::new();
    let host = t.host().set("scrub_launcher", 1).env("OMPI_MCA_pml", "ucx").env("PMIX_MCA_gds", "hash");
    host.probe(&["dump", &t.path("dump")]).run().succeeded();
    let env = environment(&t.json("dump"));
    assert_eq!((env["OMPI_MCA_pml"].as_str(), env["PMIX_MCA_gds"].as_str()), ("ucx", "hash"));
}

fn env_22_what_the_spec_sets_stays() {
    let t = Case::new();
    let host = t.host().set("scrub_launcher", 1).env("PMI_RANK", "0").env("OMPI_MCA_btl", "tcp");
    host.set("env", "OMPI_MCA_pml=ucx").probe(&["dump", &t.path("dump")]).run().succeeded();
    let env = environment(&t.json("dump"));
    assert_eq!(env["OMPI_MCA_pml"], "ucx");
    assert!(!env.contains_key("OMPI_MCA_btl") && !env.contains_key("PMI_RANK"));
}

fn env_22_by_icerun() {
    for (options, kept) in [(&["--log-level", "info"][..], false), (&["--keep-launcher-variables"], true)] {
        let t = Case::new();
        let tool = tool(&t, options).env("PMIX_RANK", "3").env("PMIX_NAMESPACE", "x");
        let ended = tool.probe(&["dump", &t.path("dump")]).run();
        ended.exited(0);
        assert_eq!(environment(&t.json("dump")).contains_key("PMIX_NAMESPACE"), kept);
        assert_eq!(ended.err().contains("a rank of MPI (PMIX_RANK)"), !kept, "{}", ended.err());
    }
}

/// With its launcher's variables MPI_Init fails in them. By each of the implementations that are here.
fn env_22_workers_of_a_rank_may_use_mpi_themselves() {
    let named = [".openmpi", ".mpich"].iter().any(|name| in_path(&format!("mpicc{name}")));
    let names = if named { vec![".openmpi", ".mpich"] } else { vec![""] };
    for name in names.into_iter().filter(|name| in_path(&format!("mpicc{name}"))) {
        let t = Case::new();
        let program = t.path("world");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/mpi/world.c");
        let mut compiler = Command::new(format!("mpicc{name}"));
        assert!(compiler.args([source, "-o", &program]).status().expect("a compiler").success());
        let run = |options: &[&str]| {
            let tool = tool(&t, options).under(&[&format!("mpiexec{name}"), "-n", "2"]);
            // Open MPI's does not like to be root's.
            let tool = tool.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
            tool.words(&["--no-python", &program, &t.path("sizes")]).run()
        };
        let ended = run(&["--nproc-per-node", "2"]);
        ended.exited(0);
        assert_eq!(t.lines("sizes"), ["1"; 4], "mpiexec{name}: each is a world of its own: {}", ended.err());
        let ended = run(&["--nproc-per-node", "2", "--keep-launcher-variables"]);
        assert!(!ended.status.success(), "mpiexec{name}: {:?}", t.lines("sizes"));
    }
}

fn dev_22_one_cpu_for_all_is_said() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        return; // said of a machine with more alone
    }
    let t = Case::new();
    let run =
        |wrapper: &[&str], size: &str| tool(&t, &["--nproc-per-node", size]).probe(&[]).under(wrapper).run();
    let ended = run(&["taskset", "-c", "0"], "2");
    ended.exited(0);
    let text = "bound to CPU 0 alone, of ";
    assert!(ended.err().contains(text) && ended.err().contains("all 2 workers share it"), "{}", ended.err());
    let ended = run(&["taskset", "-c", "0"], "1");
    assert!(ended.err().contains("the worker has it too"), "{}", ended.err());
    assert!(!run(&[], "2").err().contains(text));
}
