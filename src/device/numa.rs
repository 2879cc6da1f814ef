//! Which CPUs each worker is bound to, near its device or side by side.

use std::collections::BTreeMap;

use super::cpus::Cpus;
use super::topology::{Place, Topology};
use crate::error::Error;

/// The first four are torch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// All CPUs of the device's NUMA node.
    Node,
    /// All CPUs of all nodes of the socket that the device's node is in.
    Socket,
    /// The cores of the device's node, divided among the devices there.
    Exclusive,
    /// One group of cores with a cache of their own on the device's node.
    CoreComplex,
    /// All cores divided among the workers, whatever the devices.
    Compact,
}

impl Binding {
    fn name(self) -> &'static str {
        match self {
            Binding::Node => "node",
            Binding::Socket => "socket",
            Binding::Exclusive => "exclusive",
            Binding::CoreComplex => "core-complex",
            Binding::Compact => "compact",
        }
    }

    /// Whether it needs to know the devices.
    pub fn is_near_devices(self) -> bool {
        self != Binding::Compact
    }

    fn refuse(self, why: String) -> Error {
        Error::Start { what: format!("cannot bind workers to CPUs ({}): {why}", self.name()) }
    }
}

/// What one worker gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub cpus: Cpus,
    /// How many physical cores these are on.
    pub cores: usize,
}

/// A share for each local rank. `device_nodes` are the nodes of the devices as the kernel numbers them: a rank
/// has the device at its place. Devices beyond the ranks count as neighbours, as with torch.
pub fn shares(
    binding: Binding,
    topology: &Topology,
    device_nodes: &[u32],
    ranks: usize,
) -> Result<Vec<Share>, Error> {
    if binding == Binding::Compact {
        return compact(topology, ranks);
    }
    let nodes: Vec<u32> = device_nodes.iter().map(|&node| topology.node_of_device(node)).collect();
    if nodes.len() < ranks {
        let devices = nodes.len();
        return Err(binding.refuse(format!(
            "each goes near its device, but workers: {ranks}, devices: {devices}; compact needs no devices"
        )));
    }
    (0..ranks)
        .map(|rank| {
            let node = nodes[rank];
            let mates = nodes.iter().filter(|&&other| other == node).count();
            let place = nodes[..rank].iter().filter(|&&other| other == node).count();
            near_device(binding, topology, node, (place, mates)).map(|cpus| share(topology, cpus))
        })
        .collect()
}

/// For the device that is this one of so many on its node.
fn near_device(
    binding: Binding,
    topology: &Topology,
    node: u32,
    (place, mates): (usize, usize),
) -> Result<Cpus, Error> {
    let allowed = topology.allowed();
    let mut by_node = groups(topology, &allowed, |at| at.node);
    let near = by_node.get(&node).cloned().unwrap_or_default();
    let Some(socket) = socket_of(topology, &near) else {
        return Err(binding.refuse(format!(
            "a device is on NUMA node {node}, none of whose CPUs this process may use; it may use {allowed}"
        )));
    };
    Ok(match binding {
        Binding::Node | Binding::Compact => near,
        Binding::Socket => {
            by_node.retain(|_, cpus| socket_of(topology, cpus) == Some(socket));
            by_node.values().flat_map(Cpus::iter).collect()
        }
        Binding::Exclusive => {
            let cores: Vec<Cpus> = groups(topology, &near, |at| at.core).into_values().collect();
            part(&cores, place, mates).ok_or_else(|| {
                let count = cores.len();
                binding.refuse(format!(
                    "not a core for each device on NUMA node {node}: devices: {mates}, physical cores that may \
                     be used: {count}"
                ))
            })?
        }
        Binding::CoreComplex => {
            let mut complexes: Vec<Cpus> = groups(topology, &near, |at| at.complex).into_values().collect();
            // Stable: those of the same size stay in the order of their CPUs.
            complexes.sort_by_key(|cpus| std::cmp::Reverse(cpus.len()));
            complexes.swap_remove(place % complexes.len())
        }
    })
}

/// Whole cores for each, those of a rank side by side.
fn compact(topology: &Topology, ranks: usize) -> Result<Vec<Share>, Error> {
    let by_place = |at: &Place| (at.socket, at.node, at.complex, at.core);
    let cores: Vec<Cpus> = groups(topology, &topology.allowed(), by_place).into_values().collect();
    let share = |rank| part(&cores, rank, ranks).map(|cpus| share(topology, cpus));
    (0..ranks).map(share).collect::<Option<Vec<Share>>>().ok_or_else(|| {
        let count = cores.len();
        Binding::Compact.refuse(format!(
            "not a core for each: workers: {ranks}, physical cores that may be used: {count}"
        ))
    })
}

/// One of `count` parts that differ by one at most, the larger ones first. None if there is not one for each.
fn part(cores: &[Cpus], index: usize, count: usize) -> Option<Cpus> {
    let (least, more) = (cores.len() / count, cores.len() % count);
    let start = index * least + index.min(more);
    let end = start + least + usize::from(index < more);
    (least > 0).then(|| cores[start..end].iter().flat_map(Cpus::iter).collect())
}

fn share(topology: &Topology, cpus: Cpus) -> Share {
    let cores = groups(topology, &cpus, |at| at.core).len();
    Share { cpus, cores }
}

/// That of the lowest CPU: a node that lies in several sockets counts as in the first.
fn socket_of(topology: &Topology, cpus: &Cpus) -> Option<i32> {
    topology.cpus.get(&cpus.first()?).map(|at| at.socket)
}

fn groups<K: Ord>(topology: &Topology, cpus: &Cpus, key: impl Fn(&Place) -> K) -> BTreeMap<K, Cpus> {
    let mut groups: BTreeMap<K, Cpus> = BTreeMap::new();
    for cpu in cpus.iter() {
        if let Some(place) = topology.cpus.get(&cpu) {
            groups.entry(key(place)).or_default().insert(cpu);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::topology::mock::{Machine, Shape};
    use proptest::prelude::*;

    fn shape(sockets: usize, nodes: usize, devices: usize, caches: usize, cores: usize) -> Shape {
        Shape { sockets, nodes, devices, caches, cores }
    }

    /// The list of what each rank gets, and the number of cores, where each device has a rank.
    fn lists(binding: Binding, machine: &Machine, allowed: &str) -> Vec<(String, usize)> {
        let allowed =
            if allowed.is_empty() { (0..machine.cpus).collect() } else { Cpus::parse(allowed).unwrap() };
        shares(binding, &machine.read_for(&allowed), &machine.devices, machine.devices.len())
            .unwrap()
            .into_iter()
            .map(|share| (share.cpus.to_string(), share.cores))
            .collect()
    }

    fn entry(list: &str, cores: usize) -> (String, usize) {
        (list.into(), cores)
    }

    fn why(binding: Binding, topology: &Topology, devices: &[u32], ranks: usize) -> String {
        shares(binding, topology, devices, ranks).unwrap_err().to_string()
    }

    // The machines are those of torch's tests, and so are the sets.

    #[test]
    fn dev_08_node() {
        let machine = Machine::new(shape(4, 2, 2, 4, 2));
        let lists = lists(Binding::Node, &machine, "");
        assert_eq!((&lists[11], lists.len()), (&entry("80-95", 8), 16));
        assert_eq!(lists[10], lists[11]);
    }

    #[test]
    fn dev_08_socket() {
        let machine = Machine::new(shape(4, 2, 2, 4, 2));
        assert_eq!(lists(Binding::Socket, &machine, "")[15], entry("96-127", 16));
        let machine = Machine::new(shape(4, 1, 2, 4, 2));
        assert_eq!(lists(Binding::Socket, &machine, "")[7], entry("48-63", 8));
        // A node none of whose CPUs may be used is no obstacle.
        let mut machine = Machine::new(shape(2, 2, 1, 1, 2));
        machine.devices.remove(1);
        let wanted = [entry("0,3", 2), entry("8-15", 4), entry("8-15", 4)];
        assert_eq!(lists(Binding::Socket, &machine, "0,3,8-15"), wanted);
    }

    #[test]
    fn dev_08_exclusive() {
        let machine = Machine::new(shape(2, 1, 2, 1, 3));
        let wanted = [entry("0-3", 2), entry("4-5", 1), entry("6-9", 2), entry("10-11", 1)];
        assert_eq!(lists(Binding::Exclusive, &machine, ""), wanted);
        // Half a core is a core.
        assert_eq!(lists(Binding::Exclusive, &machine, "1,4-5,6,9")[..2], [entry("1", 1), entry("4-5", 1)]);
    }

    #[test]
    fn dev_08_core_complex() {
        let machine = Machine::new(shape(2, 1, 2, 3, 3));
        assert_eq!(lists(Binding::CoreComplex, &machine, "")[3], entry("24-29", 3));
        // Fewer caches than devices.
        let machine = Machine::new(shape(2, 1, 2, 1, 3));
        let twice = [entry("0-5", 3), entry("0-5", 3), entry("6-11", 3), entry("6-11", 3)];
        assert_eq!(lists(Binding::CoreComplex, &machine, ""), twice);
        // That with more CPUs that may be used comes first, and of equal ones the lower.
        let machine = Machine::new(shape(1, 1, 1, 3, 3));
        assert_eq!(lists(Binding::CoreComplex, &machine, "0,4,6-7,9"), [entry("6-7,9", 2)]);
        let machine = Machine::new(shape(1, 1, 1, 2, 1));
        assert_eq!(lists(Binding::CoreComplex, &machine, ""), [entry("0-1", 1)]);
    }

    #[test]
    fn dev_09_fewer_cores_than_devices() {
        let machine = Machine::new(shape(2, 1, 2, 1, 1));
        let text = why(Binding::Exclusive, &machine.read(), &machine.devices, 4);
        assert!(
            text.contains("exclusive")
                && text.contains("node 0")
                && text.contains("used: 1")
                && text.contains("devices: 2"),
            "{text}"
        );
        let text = why(Binding::Compact, &machine.read(), &[], 3);
        assert!(text.contains("used: 2") && text.contains("workers: 3"), "{text}");
    }

    #[test]
    fn dev_08_devices_without_ranks_count_and_ranks_without_devices_do_not() {
        let machine = Machine::new(shape(1, 1, 4, 1, 4));
        let topology = machine.read();
        let one = shares(Binding::Exclusive, &topology, &machine.devices, 1).unwrap();
        assert_eq!((one.len(), one[0].cpus.to_string()), (1, "0-1".into()));
        let text = why(Binding::Node, &topology, &[0], 2);
        assert!(text.contains("workers: 2") && text.contains("devices: 1"), "{text}");
        assert!(why(Binding::CoreComplex, &topology, &[], 1).contains("devices: 0"));
        let text = why(Binding::Node, &topology, &[3], 1);
        assert!(text.contains("node 3") && text.contains("0-7"), "{text}");
    }

    #[test]
    fn dev_08_compact_keeps_a_rank_together() {
        let machine = Machine::empty();
        // Nodes whose CPUs take turns.
        machine.write("devices/system/node/node0/cpulist", "0,2,4,6\n");
        machine.write("devices/system/node/node1/cpulist", "1,3,5,7\n");
        let topology = machine.read_for(&(0..8).collect());
        let shares = shares(Binding::Compact, &topology, &[], 3).unwrap();
        let lists: Vec<String> = shares.iter().map(|share| share.cpus.to_string()).collect();
        assert_eq!(lists, ["0,2,4", "1,3,6", "5,7"]);
    }

    /// CPUs of cores of complexes of nodes of sockets, some of which may be used.
    fn some_machine() -> impl Strategy<Value = (Topology, Vec<u32>)> {
        let sizes = (1u32..3, 1u32..3, 1u32..4, 1u32..5, 1u32..3, 1usize..4);
        (sizes, prop::collection::vec(prop::bool::weighted(0.8), 96)).prop_map(|(sizes, allowed)| {
            let (sockets, nodes, complexes, cores, threads, devices) = sizes;
            let below = |group: u32, size: u32| (group * size)..(group * size + size);
            let mut cpus = BTreeMap::new();
            for socket in 0..sockets {
                for node in below(socket, nodes) {
                    for complex in below(node, complexes) {
                        for core in below(complex, cores) {
                            for cpu in below(core, threads).filter(|&cpu| allowed[cpu as usize % 96]) {
                                let complex = complex * cores * threads;
                                let socket = socket as i32;
                                cpus.insert(cpu, Place { node, socket, core: core * threads, complex });
                            }
                        }
                    }
                }
            }
            let devices = (0..sockets * nodes).flat_map(|node| vec![node; devices]).collect();
            (Topology { cpus, has_nodes: true }, devices)
        })
    }

    proptest! {
        #[test]
        fn dev_08_shares_are_whole_and_within_what_is_allowed(
            (topology, devices) in some_machine(), ranks in 1usize..8,
        ) {
            let allowed = topology.allowed();
            let cores = |cpus: &Cpus| groups(&topology, cpus, |at| at.core).len();
            for binding in
                [Binding::Node, Binding::Socket, Binding::Exclusive, Binding::CoreComplex, Binding::Compact]
            {
                let ranks = if binding == Binding::Compact { ranks } else { devices.len() };
                let Ok(all) = shares(binding, &topology, &devices, ranks) else {
                    prop_assert!(binding != Binding::Compact || cores(&allowed) < ranks);
                    continue;
                };
                prop_assert_eq!(all.len(), ranks);
                for share in &all {
                    prop_assert!(share.cpus.iter().all(|cpu| allowed.has(cpu)) && share.cores > 0);
                    prop_assert_eq!(cores(&share.cpus), share.cores);
                }
                if matches!(binding, Binding::Exclusive | Binding::Compact) {
                    // No CPU is in two shares, no core either, and together they are all.
                    let together: Cpus = all.iter().flat_map(|share| share.cpus.iter()).collect();
                    prop_assert_eq!(all.iter().map(|share| share.cpus.len()).sum::<usize>(), allowed.len());
                    prop_assert_eq!(all.iter().map(|share| share.cores).sum::<usize>(), cores(&allowed));
                    prop_assert_eq!(together, allowed.clone());
                }
                if binding == Binding::Compact {
                    let sizes = || all.iter().map(|share| share.cores);
                    prop_assert!(sizes().max() <= sizes().min().map(|least| least + 1));
                }
            }
        }
    }
}
