//! Area RANK: who is who in a job of several nodes.

use libtest_mimic::Trial;

use crate::harness::*;
use crate::nodes::*;
use crate::sp::environment;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        rank_01_two_agents_of_four,
        rank_02_sizes_may_differ,
        rank_04_roles_have_ranks_of_their_own,
        rank_08_fewer_nodes_have_new_ranks,
    ]
}

fn rank_01_two_agents_of_four() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--nproc-per-node", "4"]);
    let agents = [0, 1].map(|_| job.agent(&[]).probe(&["dump", &t.path("%g")]).spawn());
    all_exited(agents, 0);
    let envs: Vec<_> = (0..8).map(|rank| environment(&t.json(&rank.to_string()))).collect();
    for (rank, env) in envs.iter().enumerate() {
        let same: Vec<_> =
            ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"].map(|name| &env[name]).to_vec();
        assert_eq!(same, ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"].map(|name| &envs[0][name]));
        for (name, value) in [
            ("LOCAL_RANK", rank % 4),
            ("ROLE_RANK", rank),
            ("GROUP_RANK", rank / 4),
            ("WORLD_SIZE", 8),
            ("LOCAL_WORLD_SIZE", 4),
            ("GROUP_WORLD_SIZE", 2),
            ("ROLE_WORLD_SIZE", 8),
            ("ICE_ROUND", 0),
            ("ICE_JOB_RESTART_COUNT", 0),
            ("TORCHELASTIC_RESTART_COUNT", 0),
        ] {
            assert_eq!(env[name], value.to_string(), "{name} of {rank}");
        }
        assert_eq!(env["TORCHELASTIC_USE_AGENT_STORE"], "True");
    }
    t.nothing_left();
}

fn rank_02_sizes_may_differ() {
    let t = Case::new();
    let job = Job::c10d(&t, "3");
    let agents = [1, 2, 3].map(|size| {
        let (size, place) = (size.to_string(), (size - 1).to_string());
        let options = ["--nproc-per-node", &size, "--node-rank", &place];
        job.agent(&options).probe(&["dump", &t.path("%g")]).spawn()
    });
    all_exited(agents, 0);
    for (rank, size) in [1, 2, 2, 3, 3, 3].into_iter().enumerate() {
        let env = environment(&t.json(&rank.to_string()));
        assert_eq!((env["WORLD_SIZE"].as_str(), &env["LOCAL_WORLD_SIZE"]), ("6", &size.to_string()));
        assert_eq!(env["GROUP_RANK"], (size - 1).to_string());
    }
    t.nothing_left();
}

fn rank_04_roles_have_ranks_of_their_own() {
    let t = Case::new();
    let job = Job::c10d(&t, "5");
    let nodes = [("ps", 4), ("trainer", 1), ("trainer", 2), ("trainer", 3), ("ps", 5)];
    let agents: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(place, (role, size))| {
            let (size, place) = (size.to_string(), place.to_string());
            let options = ["--nproc-per-node", &size, "--node-rank", &place, "--role", role];
            job.agent(&options).probe(&["rank", "0", "dump", &t.path("%g"), ";"]).spawn()
        })
        .collect();
    all_exited(agents, 0);
    for (base, in_role, of_role) in [(0, 0, 9), (4, 0, 6), (5, 1, 6), (7, 3, 6), (10, 4, 9)] {
        let env = environment(&t.json(&base.to_string()));
        assert_eq!(env["ROLE_RANK"], in_role.to_string());
        assert_eq!((&env["ROLE_WORLD_SIZE"], env["WORLD_SIZE"].as_str()), (&of_role.to_string(), "15"));
    }
    t.nothing_left();
}

fn rank_08_fewer_nodes_have_new_ranks() {
    let t = Case::new();
    let job = Job::c10d(&t, "2:3").with(&["--nproc-per-node", "2"]).conf("last_call_timeout=60");
    let first = job.first_agent(&["--node-rank", "0"], |agent| agent.until_go(&t));
    let [second, third] = ["1", "2"].map(|rank| job.agent(&["--node-rank", rank]).until_go(&t).spawn());
    round(&t, 0, 6);
    second.signal(libc::SIGTERM);
    assert_eq!(second.finish().status.code(), None);
    for (rank, words) in round(&t, 1, 4).iter().enumerate() {
        assert_eq!(words[1..4], [(rank / 2).to_string(), rank.to_string(), "4".into()]);
    }
    go(&t);
    all_exited([first, third], 0);
    t.nothing_left();
}
