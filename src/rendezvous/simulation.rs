//! Many agents against one real store, over loopback: what a round costs, and that it finds the store empty.
//!
//! The large one is a measurement: `benches/run nodes`.

use std::time::{Duration, Instant};

use super::backend::Backend;
use super::backends::store::{self, StoreBackend};
use super::hosting::Hosting;
use super::member::tests::{Agent, settings};
use super::member::{MemberWish, Notice, Settings};
use super::secret::Source;
use crate::report::exit_status::Exit;
use crate::spec::endpoint::Endpoint;
use crate::store::client::Client;
use crate::store::server::{Config, Server};

const LIMIT: Duration = Duration::from_secs(60);

/// What one round took: the requests that the store got, and the time.
#[derive(Debug)]
struct Cost {
    requests: u64,
    time: Duration,
}

fn meet_at(port: u16, hosting: Hosting, shared_with_workers: bool) -> StoreBackend {
    StoreBackend::new(store::Settings {
        ports: 1,
        endpoint: Endpoint { host: "127.0.0.1".into(), port },
        hosting,
        run_id: "simulation".into(),
        patience: LIMIT,
        shared_with_workers,
        secret: None,
        source: Source::Nothing,
        descriptors: 0,
    })
}

/// With no sign of life in between, so that only the round itself is counted.
fn quiet(count: usize) -> Settings {
    let mut settings = settings(count, count);
    settings.options.set("keep_alive_interval", "1000").unwrap();
    settings.options.set("join_timeout", "100").unwrap();
    settings.rules.dead_after = settings.options.dead_after();
    settings
}

/// So many nodes meet, one fails, they meet again.
fn two_rounds(count: usize) -> [Cost; 2] {
    let server = Server::start(&Config { address: Some("127.0.0.1".into()), ..Config::default() }).unwrap();
    let (mut begin, mut before) = (Instant::now(), 0);
    let mut cost = || {
        let requests = server.counts().all_requests() - before;
        let cost = Cost { requests, time: begin.elapsed() };
        (begin, before) = (Instant::now(), before + requests);
        cost
    };
    let agents: Vec<Agent> = (0..count)
        .map(|number| {
            let way = meet_at(server.port(), Hosting::Never, false);
            // As long as a real one.
            Agent::over(Box::new(way), &format!("{number:032x}"), quiet(count))
        })
        .collect();
    let dense = |round: u64| {
        let mut ranks: Vec<usize> = agents
            .iter()
            .map(Agent::joined)
            .inspect(|joined| assert_eq!((joined.number, joined.nodes.len()), (round, count)))
            .map(|joined| joined.group_rank)
            .collect();
        ranks.sort();
        assert!(ranks.into_iter().eq(0..count), "ranks are dense");
    };
    dense(0);
    let first = cost();
    agents[count / 2].wish(MemberWish::Failed {
        reason: "x".into(),
        exit: Exit { code: Some(1), timed_out: false },
        last: false,
    });
    for agent in &agents {
        assert!(matches!(agent.notice(), Notice::Over { round: 0, .. }));
        agent.wish(MemberWish::Join { port: 1 });
    }
    dense(1);
    let second = cost();
    agents.iter().for_each(|agent| agent.wish(MemberWish::Unfit { reason: "enough".into() }));
    agents.into_iter().for_each(Agent::leave);
    [first, second]
}

/// Requests of one node, by and large: its own, and what the leader has to do for it.
const EACH: u64 = 30;

#[test]
fn rank_10_a_round_costs_each_node_the_same_however_many_there_are() {
    let [few, many] = [25, 100].map(|count| (count as u64, two_rounds(count)));
    for (count, rounds) in [&few, &many] {
        for round in rounds {
            assert!(round.requests < count * EACH, "{count} nodes: {round:?}");
        }
    }
    for (few, many) in few.1.iter().zip(&many.1) {
        assert!(many.requests < few.requests * 4 * 3 / 2, "{few:?} {many:?}");
    }
}

#[test]
#[ignore = "a measurement"]
fn rank_10_a_thousand_nodes() {
    for count in [10, 100, 1000] {
        let [first, second] = two_rounds(count);
        for (round, cost) in [("first", first), ("after a failure", second)] {
            let each = cost.requests as f64 / count as f64;
            let time = cost.time.as_millis();
            println!("{count} nodes, {round}: {time} ms, {each:.1} requests for each node");
        }
    }
}

/// Workers share the store with the agents: whoever comes first, the agent that can empty the store leads.
#[test]
fn stat_05_workers_of_the_next_round_find_an_empty_store() {
    let static_settings = || {
        let mut settings = settings(2, 2);
        settings.rules.fixed = true;
        settings
    };
    // Kept until the agent serves there.
    let port = Server::start(&Config::default()).unwrap().port();
    let way = |hosting| Box::new(meet_at(port, hosting, true));
    let mut served = way(Hosting::Always);
    served.connect().unwrap();
    let second = Agent::over(way(Hosting::Never), "second", static_settings());
    // It would have begun by now.
    std::thread::sleep(Duration::from_millis(200));
    let first = Agent::over(served, "first", static_settings());
    let agents = [first, second];
    for number in 0..3 {
        for agent in &agents {
            assert_eq!(agent.joined().number, number);
        }
        let worker = Client::connect("127.0.0.1", port, Some(LIMIT)).unwrap();
        assert_eq!(worker.find(b"default_pg/0").unwrap(), None, "in round {number}");
        worker.set(b"default_pg/0", b"address").unwrap();
        assert!(worker.find(b"default_pg/0").unwrap().is_some());
        agents[1].wish(MemberWish::Failed { reason: "x".into(), exit: Exit::default(), last: false });
        for agent in &agents {
            assert!(matches!(agent.notice(), Notice::Over { .. }));
            agent.wish(MemberWish::Join { port: 1 });
        }
    }
    agents.into_iter().for_each(Agent::leave);
}
