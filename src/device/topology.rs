//! Where this machine's CPUs are, as sysfs shows it. A container may show a part of it, or nothing: what is
//! not there takes nothing apart, so that each CPU is a core of its own, and all are in one socket and node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::cpus::Cpus;

/// The place of one CPU (a hardware thread).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: u32,
    pub socket: i32,
    /// The lowest CPU of its core, which need not be one that may be used.
    pub core: u32,
    /// The lowest of those that share its outermost cache.
    pub complex: u32,
}

/// The CPUs that may be used.
#[derive(Debug, Default, PartialEq)]
pub struct Topology {
    pub cpus: BTreeMap<u32, Place>,
    /// False where nodes are not shown.
    pub has_nodes: bool,
}

impl Topology {
    /// `sysfs` is `/sys`; only of CPUs that are allowed anything is read.
    pub fn read(sysfs: &Path, allowed: &Cpus) -> Topology {
        let system = sysfs.join("devices/system");
        let nodes = Nodes::read(&system.join("node"));
        let has_nodes = !nodes.0.is_empty();
        let mut cores = Groups::default();
        let mut complexes = Groups::default();
        let mut cpus = BTreeMap::new();
        for cpu in allowed.iter() {
            let directory = system.join(format!("cpu/cpu{cpu}"));
            let topology = directory.join("topology");
            let node = nodes.of(cpu);
            let place = Place {
                node,
                socket: read_number(&topology.join("physical_package_id")).unwrap_or(0),
                core: cores.of(cpu, || read_cpus(&topology.join("thread_siblings_list"))),
                complex: complexes.of(cpu, || {
                    // Where caches are not shown a node counts as one complex.
                    outermost_cache(&directory.join("cache"))
                        .or_else(|| nodes.0.get(&node).cloned())
                        .or_else(|| (!has_nodes).then(|| allowed.clone()))
                }),
            };
            cpus.insert(cpu, place);
        }
        Topology { cpus, has_nodes }
    }

    pub fn allowed(&self) -> Cpus {
        self.cpus.keys().copied().collect()
    }

    /// The node of a device that names this one.
    pub fn node_of_device(&self, node: u32) -> u32 {
        if self.has_nodes { node } else { 0 }
    }
}

/// Which node has which CPUs.
struct Nodes(BTreeMap<u32, Cpus>);

impl Nodes {
    fn read(directory: &Path) -> Nodes {
        let nodes = numbered(directory, "node");
        Nodes(nodes.filter_map(|(node, path)| Some((node, read_cpus(&path.join("cpulist"))?))).collect())
    }

    fn of(&self, cpu: u32) -> u32 {
        self.0.iter().find(|(_, cpus)| cpus.has(cpu)).map_or(0, |(&node, _)| node)
    }
}

/// CPUs in groups, each named by its lowest. What one CPU says of its group is not asked of the others.
#[derive(Default)]
struct Groups(BTreeMap<u32, u32>);

impl Groups {
    fn of(&mut self, cpu: u32, read: impl FnOnce() -> Option<Cpus>) -> u32 {
        if let Some(&known) = self.0.get(&cpu) {
            return known;
        }
        let group = read().filter(|group| group.has(cpu)).unwrap_or_else(|| Cpus::from_iter([cpu]));
        let name = group.first().unwrap_or(cpu);
        self.0.extend(group.iter().map(|member| (member, name)));
        name
    }
}

/// The CPUs that share the cache of the highest level.
fn outermost_cache(directory: &Path) -> Option<Cpus> {
    let holds_data =
        |path: &Path| matches!(read_text(&path.join("type")).as_deref(), Some("Unified" | "Data"));
    let caches = numbered(directory, "index").map(|(_, path)| path).filter(|path| holds_data(path));
    let levels = caches.filter_map(|path| Some((read_number(&path.join("level"))?, path)));
    levels.max().and_then(|(_, path)| read_cpus(&path.join("shared_cpu_list")))
}

/// `prefix0`, `prefix1` and so on in a directory.
fn numbered(directory: &Path, prefix: &str) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
        Some((number, entry.path()))
    })
}

fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn read_number(path: &Path) -> Option<i32> {
    read_text(path)?.parse().ok()
}

fn read_cpus(path: &Path) -> Option<Cpus> {
    Cpus::parse(&read_text(path)?).filter(|cpus| !cpus.is_empty())
}

/// Machines made of files, as the tests of PyTorch's binding have them.
#[cfg(test)]
pub mod mock {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// So many of each in each of the one before; two threads to a core, whose numbers follow each other.
    #[derive(Clone, Copy, Debug)]
    pub struct Shape {
        pub sockets: usize,
        pub nodes: usize,
        pub devices: usize,
        pub caches: usize,
        pub cores: usize,
    }

    pub struct Machine {
        pub sysfs: PathBuf,
        pub cpus: u32,
        /// The node of each device.
        pub devices: Vec<u32>,
    }

    impl Machine {
        pub fn empty() -> Machine {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("libice-sysfs-{}-{number}", std::process::id());
            let sysfs = std::env::temp_dir().join(name);
            fs::create_dir_all(&sysfs).unwrap();
            Machine { sysfs, cpus: 0, devices: Vec::new() }
        }

        pub fn new(shape: Shape) -> Machine {
            let mut machine = Machine::empty();
            for node in 0..shape.sockets * shape.nodes {
                let first = machine.cpus;
                machine.devices.extend(vec![node as u32; shape.devices]);
                for _ in 0..shape.caches {
                    machine.add_complex((node / shape.nodes) as i32, shape.cores as u32);
                }
                let list = format!("{first}-{}\n", machine.cpus - 1);
                machine.write(&format!("devices/system/node/node{node}/cpulist"), &list);
            }
            machine.write("devices/system/node/nodes_of_nobody", "x");
            machine
        }

        fn add_complex(&mut self, socket: i32, cores: u32) {
            let (first, last) = (self.cpus, self.cpus + 2 * cores - 1);
            for cpu in (first..=last).step_by(2) {
                let core = format!("{cpu}-{}\n", cpu + 1);
                let directory = format!("devices/system/cpu/cpu{cpu}");
                self.write(&format!("{directory}/topology/thread_siblings_list"), &core);
                self.write(&format!("{directory}/topology/physical_package_id"), &format!("{socket}\n"));
                self.write(&format!("{directory}/cache/uevent"), "");
                let complex = format!("{first}-{last}\n");
                // The last is none that holds data.
                for (index, level, kind, sharers) in
                    [(0, 2, "Data", &core), (1, 3, "Unified", &complex), (2, 4, "Other", &core)]
                {
                    let cache = format!("{directory}/cache/index{index}");
                    self.write(&format!("{cache}/level"), &format!("{level}\n"));
                    self.write(&format!("{cache}/type"), &format!("{kind}\n"));
                    self.write(&format!("{cache}/shared_cpu_list"), sharers);
                }
                // The other thread says the same.
                let other = self.sysfs.join(format!("devices/system/cpu/cpu{}", cpu + 1));
                std::os::unix::fs::symlink(format!("cpu{cpu}"), other).unwrap();
            }
            self.cpus += 2 * cores;
        }

        pub fn write(&self, path: &str, text: &str) {
            let path = self.sysfs.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub fn read(&self) -> Topology {
            self.read_for(&(0..self.cpus).collect())
        }

        pub fn read_for(&self, allowed: &Cpus) -> Topology {
            Topology::read(&self.sysfs, allowed)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.sysfs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mock::{Machine, Shape};
    use super::*;

    #[test]
    fn dev_08_the_place_of_a_cpu() {
        let machine = Machine::new(Shape { sockets: 2, nodes: 2, devices: 0, caches: 2, cores: 3 });
        let topology = machine.read();
        assert_eq!(topology.cpus.len(), 48);
        assert_eq!(topology.cpus[&0], Place { node: 0, socket: 0, core: 0, complex: 0 });
        assert_eq!(topology.cpus[&47], Place { node: 3, socket: 1, core: 46, complex: 42 });
        // Groups are named by CPUs that need not be allowed.
        let few = machine.read_for(&Cpus::parse("21,23").unwrap());
        assert_eq!(few.cpus.len(), 2);
        assert_eq!(few.cpus[&21], Place { node: 1, socket: 0, core: 20, complex: 18 });
        assert_eq!(few.cpus[&23], Place { node: 1, socket: 0, core: 22, complex: 18 });
    }

    #[test]
    fn dev_08_what_is_not_shown_takes_nothing_apart() {
        let machine = Machine::empty();
        let allowed = Cpus::parse("2-4").unwrap();
        let topology = machine.read_for(&allowed);
        assert_eq!(topology.allowed(), allowed);
        assert_eq!(topology.cpus[&3], Place { node: 0, socket: 0, core: 3, complex: 2 });
        // Nodes without caches; a node without CPUs; files that make no sense.
        machine.write("devices/system/node/node1/cpulist", "3-4\n");
        machine.write("devices/system/node/node2/cpulist", "\n");
        machine.write("devices/system/cpu/cpu2/topology/physical_package_id", "none\n");
        machine.write("devices/system/cpu/cpu2/topology/thread_siblings_list", "0-1\n");
        machine.write("devices/system/cpu/cpu4/cache/index0/type", "Instruction\n");
        let topology = machine.read_for(&allowed);
        assert_eq!(topology.cpus[&2], Place { node: 0, socket: 0, core: 2, complex: 2 });
        assert_eq!(topology.cpus[&4], Place { node: 1, socket: 0, core: 4, complex: 3 });
    }

    #[test]
    fn dev_10_the_node_of_a_device() {
        let machine = Machine::new(Shape { sockets: 2, nodes: 1, devices: 1, caches: 1, cores: 1 });
        assert_eq!(machine.read().node_of_device(1), 1);
        // Where no nodes are shown there is one.
        assert_eq!(Machine::empty().read().node_of_device(1), 0);
    }
}
