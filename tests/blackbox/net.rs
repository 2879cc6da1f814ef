//! Several hosts, each a network namespace of its own: they reach each other through a bridge, and links can be cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::chaos::*;
use crate::harness::*;
use crate::store::Serving;
use crate::tests;
use crate::tool::*;

/// Runs `ip` with these words, which must work.
#[track_caller]
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Hosts 1, 2, ... at 10.77.0.1, 10.77.0.2, ...; host 0 is the bridge, at 10.77.0.254. All are gone when it is dropped.
struct Net {
    base: String,
    hosts: usize,
}

impl Net {
    fn new(hosts: usize) -> Net {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let base = format!("ice-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Net { base, hosts };
        let bridge = net.name(0);
        ip(&format!("netns add {bridge}"));
        ip(&format!("-n {bridge} link add bridge type bridge"));
        ip(&format!("-n {bridge} addr add 10.77.0.254/24 dev bridge"));
        ip(&format!("-n {bridge} link set bridge up"));
        ip(&format!("-n {bridge} link set lo up"));
        for number in 1..=hosts {
            let host = net.name(number);
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            ip(&format!("-n {host} link add eth0 type veth peer name port{number} netns {bridge}"));
            ip(&format!("-n {bridge} link set port{number} master bridge up"));
            ip(&format!("-n {host} addr add 10.77.0.{number}/24 dev eth0"));
            ip(&format!("-n {host} link set eth0 up"));
        }
        // A network that the others do not have, before and after the one that they share in every list.
        for (name, address) in [("a", "192.168.77.1"), ("z", "10.1.0.1")] {
            let host = net.name(1);
            ip(&format!("-n {host} link add {name}0 type veth peer name {name}1"));
            ip(&format!("-n {host} addr add {address}/24 dev {name}0"));
            ip(&format!("-n {host} link set {name}0 up"));
        }
        net
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.base)
    }

    /// An agent on this host.
    fn agent(&self, t: &Case, nodes: &Nodes, host: usize) -> Started {
        trainer(t, nodes.node(&[])).under(&["ip", "netns", "exec", &self.name(host)]).spawn()
    }

    fn agents(&self, t: &Case, nodes: &Nodes) -> Vec<Started> {
        (1..=self.hosts).map(|host| self.agent(t, nodes, host)).collect()
    }

    /// What names mean on these hosts, as `ip netns exec` shows it: lines of /etc/hosts. It may change while agents run.
    fn names(&self, lines: &str) {
        for host in 1..=self.hosts {
            let dir = self.etc(host);
            fs::create_dir_all(&dir).expect("a directory below /etc/netns");
            fs::write(dir.join("hosts"), lines).expect("the names of hosts");
        }
    }

    fn etc(&self, host: usize) -> PathBuf {
        Path::new("/etc/netns").join(self.name(host))
    }

    fn link(&self, host: usize, state: &str) {
        ip(&format!("-n {} link set port{host} {state}", self.name(0)));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..=self.hosts {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).output();
            let _ = fs::remove_dir_all(self.etc(host));
        }
    }
}

const CONF: &str = "keep_alive_interval=0.4,keep_alive_max_attempt=5,last_call_timeout=2,join_timeout=60";

/// The process whose journal line this is runs on this host.
fn is_on(net: &Net, host: usize, entry: &Entry) -> bool {
    let output = Command::new("ip").args(["netns", "identify", &entry.pid.to_string()]).output().expect("ip");
    String::from_utf8_lossy(&output.stdout).trim() == net.name(host)
}

/// The first host has networks that the others do not reach, and a name that says nothing.
fn dyn_24_workers_meet_at_an_address_that_all_hosts_reach() {
    for store_is_elsewhere in [false, true] {
        let t = Case::new();
        let net = Net::new(3);
        let wrapper = ["netns", "exec", &net.name(0)];
        let mut serve = t.command("ip");
        serve.args(wrapper).arg(program("store")).args(["serve", "10.77.0.254"]);
        let store = Serving::of(serve);
        let endpoint = match store_is_elsewhere {
            true => format!("10.77.0.254:{}", store.port),
            false => "10.77.0.1:29400".into(),
        };
        let nodes = Nodes::c10d(&t, "3", &endpoint, CONF);
        let agents = net.agents(&t, &nodes);
        let entries = wait_for_round(&t, 0, 3);
        let first = entries.iter().find(|entry| entry.rank == 0).expect("rank 0");
        let host = (1..=3).find(|host| is_on(&net, *host, first)).expect("a host");
        assert!(first.master.starts_with(&format!("10.77.0.{host}:")), "host {host}: {entries:?}");
        t.write("finish", b"", 0o644);
        all_succeed(agents);
        store.end();
        t.nothing_left();
        check_training(&t);
    }
}

/// As a pod that is started again elsewhere: its name means another address.
fn job_10_the_store_comes_back_under_another_address() {
    let t = Case::new();
    let net = Net::new(3);
    net.names("127.0.0.1 localhost\n10.77.0.1 head\n");
    // The worker that stays fails for want of the other.
    let nodes = Nodes::c10d(&t, "2", "head:29400", CONF).with(&["--max-restarts", "3"]);
    let [lost, stays] = [1, 2].map(|host| net.agent(&t, &nodes, host));
    wait_for_round(&t, 0, 2);
    lost.kill();
    net.names("127.0.0.1 localhost\n10.77.0.3 head\n");
    let back = net.agent(&t, &nodes, 3);
    let entries = wait_for_round(&t, 1, 2);
    assert!(entries.iter().any(|entry| is_on(&net, 3, entry)), "{entries:?}");
    t.write("finish", b"", 0o644);
    all_succeed(vec![stays, back]);
    t.nothing_left();
    check_training(&t);
}

/// Workers hang in a step without the lost one: nothing fails by itself.
fn dyn_12_a_link_that_is_cut_for_long_is_a_host_less_and_for_a_moment_nothing() {
    let t = Case::new();
    let net = Net::new(3);
    // The trainer on the host that was cut off may see that its round is over before its agent does.
    let nodes = Nodes::c10d(&t, "2:3", "10.77.0.1:29400", CONF).with(&["--max-restarts", "1"]);
    let agents = net.agents(&t, &nodes);
    wait_for_round(&t, 0, 3);
    net.link(3, "down");
    thread::sleep(Duration::from_millis(300));
    net.link(3, "up");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(journal(&t).len(), 3, "nothing was started again");
    net.link(3, "down");
    let two = wait_for_round(&t, 1, 2);
    assert!(two.iter().all(|entry| !is_on(&net, 3, entry)), "{two:?}");
    net.link(3, "up");
    wait_for_round(&t, 2, 3);
    t.write("finish", b"", 0o644);
    for (host, agent) in (1..).zip(agents) {
        let text = agent.finish().exited(0).err();
        let is_told = text.contains("round 0 is over: ") && text.contains("has vanished");
        // On the host that was cut off the worker may have failed first.
        assert!(is_told || host == 3, "host {host}: {text}");
    }
    t.nothing_left();
    check_training(&t);
}

/// DYN-21. The host of the store is out of reach for good.
fn dyn_21_who_has_lost_the_store_goes_on_for_a_while_and_ends() {
    let t = Case::new();
    let net = Net::new(3);
    let conf = format!("{CONF},join_timeout=4,lost_timeout=4");
    let nodes = Nodes::c10d(&t, "2:3", "10.77.0.1:29400", &conf);
    let agents = net.agents(&t, &nodes);
    let entries = wait_for_round(&t, 0, 3);
    net.link(1, "down");
    thread::sleep(Duration::from_millis(1500));
    assert!(entries.iter().all(|entry| alive(entry.pid)), "all workers go on");
    let mut lost = 0;
    for (host, agent) in (1..).zip(agents) {
        let ended = agent.finish();
        ended.within(Duration::from_secs(60));
        // The agent that ends first takes the store with it that the workers meet at.
        if host != 1 && ended.err().contains("has closed the connection") {
            continue;
        }
        lost += 1;
        let why = if host == 1 { "fewer than 2 nodes have joined" } else { "lost rendezvous: not reached" };
        assert!(ended.err().contains(why), "host {host}: {}", ended.err());
        ended.exited(125);
    }
    assert!(lost >= 2, "the first of those that have lost it says so");
    t.nothing_left();
}

fn e2e_04_a_network_that_is_slow_and_loses_packets() {
    let t = Case::new();
    let net = Net::new(3);
    for host in 1..=3 {
        ip(&format!("netns exec {} tc qdisc add dev eth0 root netem delay 100ms loss 2%", net.name(host)));
    }
    let nodes =
        Nodes::c10d(&t, "3", "10.77.0.1:29400", "keep_alive_interval=2").with(&["--max-restarts", "1"]);
    let agents = net.agents(&t, &nodes);
    let entries = wait_for_round(&t, 0, 3);
    assert!(send(entries[1].pid, libc::SIGKILL));
    wait_for_round(&t, 1, 3);
    // A step takes some round trips.
    agents.into_iter().for_each(|agent| agent.signal(libc::SIGTERM));
    no_process_left(&t);
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(net_namespaces): dyn_24_workers_meet_at_an_address_that_all_hosts_reach,
        needs(net_namespaces): dyn_12_a_link_that_is_cut_for_long_is_a_host_less_and_for_a_moment_nothing,
        needs(net_namespaces): dyn_21_who_has_lost_the_store_goes_on_for_a_while_and_ends,
        needs(net_namespaces): job_10_the_store_comes_back_under_another_address,
        needs(net_namespaces, netem): e2e_04_a_network_that_is_slow_and_loses_packets,
    ]
}
