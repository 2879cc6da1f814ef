//! Spec and devices to what each rank gets. No device is asked here: they come as a list.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::device::numa::Binding;
use crate::device::strings::{DeviceKind, Devices, Item, Nproc, is_uuid};
use crate::device::visibility::{Source, Visibility, devices as devices_text};
use crate::device::{Device, Found};
use crate::error::Error;
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::scheduler::TaskShare;
use crate::spec::{EnvEdit, Spec};

/// What the host knows of its devices.
pub struct Host<'a> {
    pub source: Source,
    pub cpus: &'a dyn Fn() -> usize,
    /// What CUDA shows with the variable of `source`, in its order. Asked once, and only if it matters.
    pub devices: &'a dyn Fn() -> Result<Found, Error>,
}

/// The library for collectives that fits the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Nccl,
    Gloo,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Backend::Nccl => "nccl",
            Backend::Gloo => "gloo",
        }
    }

    /// NCCL wants a GPU for each rank.
    fn fitting(kind: DeviceKind, numbers: &[usize]) -> Backend {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        let repeats = sorted.windows(2).any(|pair| pair[0] == pair[1]);
        if kind == DeviceKind::Cuda && !repeats { Backend::Nccl } else { Backend::Gloo }
    }
}

/// The backend that a device string tells by itself; none where that depends on the devices there are.
pub fn backend(spec: &Spec) -> Option<Backend> {
    let devices = spec.devices.as_ref()?;
    let known = |uuid: &str| Err(Error::config("devices", uuid, "not known"));
    match devices.kind {
        DeviceKind::Auto => None,
        DeviceKind::Cpu => Some(Backend::Gloo),
        DeviceKind::Cuda if spec.ranks_per_device > 1 => Some(Backend::Gloo),
        // A star stands for different devices, but nobody knows if for those named beside it.
        DeviceKind::Cuda if devices.items.len() > 1 && devices.items.contains(&Item::All) => None,
        DeviceKind::Cuda => {
            devices.numbers(0, known).ok().map(|numbers| Backend::fitting(DeviceKind::Cuda, &numbers))
        }
    }
}

/// What the workers of an agent get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub local_world_size: usize,
    pub backend: Option<Backend>,
    /// By local rank; empty where nothing was said about devices.
    pub ranks: Vec<RankDevices>,
    /// The variables that each rank has of its own.
    pub narrowed: &'static [&'static str],
    /// The devices that were looked at, if workers may have any: numbers of ranks are places in here.
    pub found: Vec<Device>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankDevices {
    pub kind: DeviceKind,
    /// As the host sees them.
    pub numbers: Vec<usize>,
    /// As the worker sees them.
    pub seen_as: Vec<usize>,
    /// For the variables of `narrowed`.
    pub visible: Option<Arc<str>>,
}

impl RankDevices {
    /// A device string in the host's terms.
    pub fn named(&self) -> String {
        list(self.kind, &self.numbers)
    }
}

impl Assignment {
    /// Whether workers depend on devices that were looked at.
    pub fn is_of_found_devices(&self) -> bool {
        !self.ranks.is_empty() && !self.found.is_empty()
    }

    /// Says which device of a rank is gone, or is another one by that name, now that there are these.
    pub fn compare(&self, now: &[Device]) -> Result<(), Error> {
        for (local_rank, rank) in self.ranks.iter().enumerate() {
            for &number in &rank.numbers {
                let Some(device) = self.found.get(number) else { continue };
                let by_uuid = rank.visible.as_deref().is_some_and(|list| list.split(',').all(is_uuid));
                let place = now.iter().position(|other| other.is_same(device));
                if place == Some(number) || (by_uuid && place.is_some()) {
                    continue;
                }
                let (was, is) = (devices_text(self.found.len()), devices_text(now.len()));
                let what = match place {
                    None => format!("is no longer there: the driver finds {is}, {was} before"),
                    Some(place) => format!(
                        "is now cuda:{place}, as another one is gone or new: the driver finds {is}, {was} before; \
                         with UUIDs (device_uuids) workers would still find theirs"
                    ),
                };
                let Device { name, uuid, .. } = device;
                return Err(Error::Device {
                    what: format!(
                        "cuda:{number} ({name}, {uuid}), which local rank {local_rank} has, {what}"
                    ),
                });
            }
        }
        Ok(())
    }

    /// The NUMA nodes of the first device of each rank, then those of the devices that no rank has. Empty
    /// where nobody looked, or there are none.
    pub fn nodes(&self) -> Vec<u32> {
        let firsts: Vec<usize> = match &self.ranks[..] {
            // Nothing is assigned: as with torchrun, workers choose by their local ranks.
            [] => (0..self.local_world_size).collect(),
            ranks => ranks.iter().filter_map(|rank| rank.numbers.first().copied()).collect(),
        };
        let others = (0..self.found.len()).filter(|number| {
            !firsts.contains(number) && !self.ranks.iter().any(|rank| rank.numbers.contains(number))
        });
        let node = |number: usize| self.found.get(number).map(|device| device.numa_node as u32);
        firsts.iter().copied().chain(others).filter_map(node).collect()
    }

    /// What a worker's environment says of its devices.
    pub fn env(&self, local_rank: usize) -> Vec<(&'static str, String)> {
        let Some(rank) = self.ranks.get(local_rank) else { return Vec::new() };
        let mut env: Vec<_> = rank
            .visible
            .iter()
            .flat_map(|list| self.narrowed.iter().map(|name| (*name, list.to_string())))
            .collect();
        env.push(("ICE_DEVICES", list(rank.kind, &rank.seen_as)));
        env.extend(self.backend.map(|backend| ("ICE_DIST_BACKEND", backend.name().to_string())));
        env
    }
}

/// `cuda:0,1`.
fn list(kind: DeviceKind, numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("{}:{}", kind.name(), numbers.join(","))
}

/// Decides who gets what, or says why it cannot be.
pub fn assign(spec: &Spec, host: &Host) -> Result<Assignment, Error> {
    check_wishes(spec)?;
    let seen = Seen::look(spec, host)?;
    let asked = seen.workers_asked(spec)?;
    let devices = match spec.devices.clone() {
        None => seen.counted(spec)?,
        devices => devices,
    };
    let visibility = spec.visibility(devices.is_some());
    let (kind, numbers) = match &devices {
        Some(devices) => seen.named(devices)?,
        None if visibility == Visibility::Inherit => {
            let local_world_size = asked.unwrap_or(spec.local_world_size);
            return Ok(Assignment { local_world_size, found: seen.list(), ..Assignment::default() });
        }
        None => (DeviceKind::Cuda, seen.first_for(spec, asked.unwrap_or(spec.local_world_size))?),
    };
    let mut ranks = split(spec, kind, &numbers)?;
    match (asked, &devices) {
        (Some(asked), Some(devices)) if asked != ranks.len() => {
            return Err(disagree(spec, asked, devices, numbers.len(), ranks.len()));
        }
        // The last device may have fewer ranks than the others.
        (size, None) => ranks.truncate(size.unwrap_or(spec.local_world_size)),
        _ => {}
    }
    let narrowed = match (kind, visibility) {
        (DeviceKind::Cuda, Visibility::Own | Visibility::All) => seen.source.names(),
        _ => &[],
    };
    if !narrowed.is_empty() {
        seen.source.check()?;
        check_env(spec, narrowed)?;
    }
    let backend = devices.is_some().then(|| Backend::fitting(kind, &ranks.concat()));
    let show = if narrowed.is_empty() { Visibility::Inherit } else { visibility };
    let ranks = show_to(ranks, kind, show, |numbers| seen.tokens(spec, numbers))?;
    let found = if kind == DeviceKind::Cuda { seen.list() } else { Vec::new() };
    Ok(Assignment { local_world_size: ranks.len(), backend, ranks, narrowed, found })
}

/// What each rank sees of its devices; `tokens` is the value of a variable that shows some.
fn show_to(
    ranks: Vec<Vec<usize>>,
    kind: DeviceKind,
    visibility: Visibility,
    tokens: impl Fn(&[usize]) -> Result<Arc<str>, Error>,
) -> Result<Vec<RankDevices>, Error> {
    let all = distinct(&ranks.concat());
    let places: HashMap<usize, usize> =
        all.iter().enumerate().map(|(place, number)| (*number, place)).collect();
    let shown = if visibility == Visibility::All { Some(tokens(&all)?) } else { None };
    let rank = |numbers: Vec<usize>| {
        let (visible, seen_as) = match visibility {
            Visibility::Inherit => (None, numbers.clone()),
            Visibility::Own => (Some(tokens(&numbers)?), (0..numbers.len()).collect()),
            Visibility::All => (shown.clone(), numbers.iter().map(|number| places[number]).collect()),
        };
        Ok(RankDevices { kind, numbers, seen_as, visible })
    };
    ranks.into_iter().map(rank).collect()
}

/// What cannot be, whatever devices there are.
fn check_wishes(spec: &Spec) -> Result<(), Error> {
    if spec.virtual_local_rank && spec.visibility(true) != Visibility::Own {
        let want = "every rank would take the first device: it needs the device visibility own";
        return Err(Error::config("virtual_local_rank", "on", want));
    }
    if spec.devices_per_rank > 1 && spec.ranks_per_device > 1 {
        let want = format!("ranks_per_device is {}: one of the two has to be 1", spec.ranks_per_device);
        return Err(Error::config("devices_per_rank", spec.devices_per_rank, want));
    }
    Ok(())
}

/// A variable that is set for each rank cannot also be set for one by the spec.
fn check_env(spec: &Spec, narrowed: &[&str]) -> Result<(), Error> {
    let edits = spec.rank_env.values().flatten();
    let keys = edits.map(|edit| match edit {
        EnvEdit::Set(key, _) | EnvEdit::Unset(key) => key,
    });
    let clash = keys.filter_map(|key| narrowed.iter().find(|name| name.as_bytes() == key.as_slice())).next();
    clash.map_or(Ok(()), |name| {
        let want =
            "each rank gets its devices in this variable: leave it out, or set the device visibility inherit";
        Err(Error::config("rank_env", name, want))
    })
}

/// The devices of each rank: contiguous parts, each device as often as it has ranks.
fn split(spec: &Spec, kind: DeviceKind, numbers: &[usize]) -> Result<Vec<Vec<usize>>, Error> {
    let (each, ranks) = (spec.devices_per_rank, spec.ranks_per_device);
    workers_of(spec, numbers.len())?;
    let slots: Vec<usize> = numbers.iter().flat_map(|number| std::iter::repeat_n(*number, ranks)).collect();
    let parts: Vec<Vec<usize>> = slots.chunks(each).map(<[usize]>::to_vec).collect();
    match parts.iter().position(|part| distinct(part).len() < part.len()) {
        None => Ok(parts),
        Some(rank) => {
            let want = format!("local rank {rank} would get one device twice: {}", list(kind, &parts[rank]));
            Err(Error::config("devices_per_rank", each, want))
        }
    }
}

/// How many workers so many devices make.
fn workers_of(spec: &Spec, devices: usize) -> Result<usize, Error> {
    let (each, ranks) = (spec.devices_per_rank, spec.ranks_per_device);
    if !devices.is_multiple_of(each) {
        let want = format!("{} cannot be shared out evenly", devices_text(devices));
        return Err(Error::config("devices_per_rank", each, want));
    }
    let workers = devices.saturating_mul(ranks) / each;
    if workers as i64 > MAX_LOCAL_WORLD_SIZE {
        let want =
            format!("{} make {workers} workers, more than {MAX_LOCAL_WORLD_SIZE}", devices_text(devices));
        return Err(Error::config("ranks_per_device", ranks, want));
    }
    Ok(workers)
}

fn disagree(spec: &Spec, asked: usize, devices: &Devices, named: usize, made: usize) -> Error {
    let how = match (spec.devices_per_rank, spec.ranks_per_device) {
        (1, 1) => String::new(),
        (1, ranks) => format!(" of {ranks} ranks each"),
        (each, _) => format!(", {each} a rank"),
    };
    let want = format!(
        "devices {devices} make {made} ({}{how}): leave one of the two out, name a device as often as it \
         has ranks, or set devices_per_rank or ranks_per_device",
        devices_text(named)
    );
    Error::config("local_world_size", asked, want)
}

/// Each number once, in order of first appearance.
fn distinct(numbers: &[usize]) -> Vec<usize> {
    let mut seen = HashSet::new();
    numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
}

/// What there is to be shared out.
struct Seen<'a> {
    source: &'a Source,
    cpus: &'a dyn Fn() -> usize,
    /// None if it was of no interest, or cannot be had: the probe knows nothing of HIP.
    found: Option<Found>,
}

impl<'a> Seen<'a> {
    fn look(spec: &Spec, host: &'a Host) -> Result<Seen<'a>, Error> {
        let named = spec.devices.as_ref().is_some_and(|devices| devices.kind != DeviceKind::Cpu);
        let counted = matches!(spec.nproc, Some(Nproc::Gpu | Nproc::Auto | Nproc::OfTask { .. }));
        let near = spec.cpu_binding.is_some_and(Binding::is_near_devices);
        let wanted = (named || counted || near || spec.device_uuids) && !host.source.is_hip();
        let found = wanted.then(|| (host.devices)()).transpose()?;
        Ok(Seen { source: &host.source, cpus: host.cpus, found })
    }

    /// How many devices the host sees; none if nobody knows.
    fn count(&self) -> Option<usize> {
        let tokens = self.source.value.as_ref().map(|_| self.source.tokens.len());
        match (tokens, self.found.as_ref().map(|found| found.list.len())) {
            (Some(tokens), Some(found)) => Some(tokens.min(found)),
            (tokens, found) => tokens.or(found),
        }
    }

    fn list(self) -> Vec<Device> {
        self.found.map(|found| found.list).unwrap_or_default()
    }

    fn has_devices(&self) -> bool {
        self.count().is_some_and(|count| count > 0)
    }

    /// The number of workers that was asked for, by number or by word.
    fn workers_asked(&self, spec: &Spec) -> Result<Option<usize>, Error> {
        let by_device = || workers_of(spec, self.count().unwrap_or(0)).map(Some);
        let by_cpu = || Ok(Some((self.cpus)().clamp(1, MAX_LOCAL_WORLD_SIZE as usize)));
        match spec.nproc {
            None => Ok(None),
            Some(Nproc::Number(number)) => Ok(Some(number)),
            Some(Nproc::Gpu) if !self.has_devices() => Err(self.none_for("nproc_per_node", "gpu")),
            Some(Nproc::Gpu) => by_device(),
            Some(Nproc::Auto) if self.has_devices() => by_device(),
            Some(Nproc::Auto | Nproc::Cpu) => by_cpu(),
            Some(Nproc::OfTask { share, .. }) if self.has_devices() => {
                workers_of(spec, self.share(share)?.len()).map(Some)
            }
            Some(Nproc::OfTask { others, .. }) => Ok(Some(others)),
        }
    }

    /// The devices of one of the agents that this host's are shared out to, in turn.
    fn share(&self, share: TaskShare) -> Result<Range<usize>, Error> {
        let count = self.count().unwrap_or(0);
        // Somebody has given each task devices of its own.
        if count < share.of && self.source.value.is_some() {
            return Ok(0..count);
        }
        if count < share.of {
            let want = format!(
                "{} tasks of this host cannot have one each of its {}",
                share.of,
                devices_text(count)
            );
            return Err(Error::config("nproc_per_node", "gpu", want));
        }
        Ok(count * share.index / share.of..count * (share.index + 1) / share.of)
    }

    /// The devices that a number of workers in words stands for.
    fn counted(&self, spec: &Spec) -> Result<Option<Devices>, Error> {
        let items = match spec.nproc {
            Some(Nproc::Gpu) => vec![Item::All],
            Some(Nproc::Auto) if self.has_devices() => vec![Item::All],
            Some(Nproc::OfTask { share, .. }) if self.has_devices() => {
                let Range { start, end } = self.share(share)?;
                vec![Item::Range(start as u32, end as u32 - 1)]
            }
            _ => return Ok(None),
        };
        Ok(Some(Devices { kind: DeviceKind::Cuda, items }))
    }

    /// The devices that a string names, as numbers that the host sees.
    fn named(&self, devices: &Devices) -> Result<(DeviceKind, Vec<usize>), Error> {
        let kind = match devices.kind {
            DeviceKind::Auto if self.has_devices() => DeviceKind::Cuda,
            DeviceKind::Auto => DeviceKind::Cpu,
            kind => kind,
        };
        if kind == DeviceKind::Cpu {
            return Ok((kind, devices.numbers((self.cpus)(), |uuid| self.number_of(uuid))?));
        }
        let count = self.count().unwrap_or(0);
        let numbers = devices.numbers(count, |uuid| self.number_of(uuid))?;
        match numbers.iter().max() {
            None => Err(self.none_for("devices", &devices.to_string())),
            Some(&highest) if highest < count => Ok((kind, numbers)),
            Some(highest) => {
                let needed = highest + 1;
                Err(match &self.source.value {
                    Some(_) => self.source.too_few(
                        count,
                        format_args!(
                            "but devices {devices} asks for number {highest}, so {needed} are needed"
                        ),
                    ),
                    None => {
                        let want = format!(
                            "asks for number {highest}, so {needed} are needed, but the host sees {}",
                            devices_text(count)
                        );
                        Error::config("devices", devices, want)
                    }
                })
            }
        }
    }

    fn none_for(&self, field: &'static str, value: &str) -> Error {
        match &self.source.value {
            Some(_) => self.source.too_few(0, format_args!("but {field} {value} needs 1 or more")),
            None => {
                let why = match &self.found {
                    Some(found) if !found.message.is_empty() => format!(": {}", found.message),
                    _ => String::new(),
                };
                Error::config(field, value, format!("needs 1 CUDA device or more, the host sees 0{why}"))
            }
        }
    }

    /// As many devices as so many workers need, from the first on.
    fn first_for(&self, spec: &Spec, workers: usize) -> Result<Vec<usize>, Error> {
        let (each, ranks) = (spec.devices_per_rank, spec.ranks_per_device);
        let needed = workers.saturating_mul(each).div_ceil(ranks);
        match self.count() {
            Some(count) if count < needed => Err(self.source.too_few(
                count,
                format_args!("but {needed} are needed for {workers} workers, each to see its own"),
            )),
            _ => Ok((0..needed).collect()),
        }
    }

    fn number_of(&self, uuid: &str) -> Result<usize, Error> {
        let Some(found) = &self.found else {
            return Err(Error::config("devices", uuid, "UUIDs are CUDA's, and HIP_VISIBLE_DEVICES is set"));
        };
        let mut matching = found.list.iter().enumerate().filter(|(_, device)| device.uuid.starts_with(uuid));
        match (matching.next(), matching.count()) {
            (Some((number, _)), 0) => Ok(number),
            (None, _) => {
                let want = format!(
                    "none of the {} that the host sees has this UUID",
                    devices_text(found.list.len())
                );
                Err(Error::config("devices", uuid, want))
            }
            (Some(_), others) => {
                let want = format!("{} begin so, write more of it", devices_text(others + 1));
                Err(Error::config("devices", uuid, want))
            }
        }
    }

    /// The value of a variable that shows these devices.
    fn tokens(&self, spec: &Spec, numbers: &[usize]) -> Result<Arc<str>, Error> {
        let token = |&number: &usize| {
            if !spec.device_uuids {
                return Ok(self.source.token(number));
            }
            let device = self.found.as_ref().and_then(|found| found.list.get(number));
            let uuid = device.map(|device| device.uuid.clone()).filter(|uuid| !uuid.is_empty());
            let want = || format!("the UUID of device {number} is not known");
            uuid.ok_or_else(|| Error::config("device_uuids", "on", want()))
        };
        numbers.iter().map(token).collect::<Result<Vec<_>, _>>().map(|tokens| tokens.join(",").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::visibility::{CUDA, HIP};
    use proptest::prelude::*;

    /// A machine with so many GPUs and CPUs, and variables of its own.
    struct Machine<'a> {
        gpus: &'a [&'a str],
        cpus: usize,
        env: &'a [(&'a str, &'a str)],
    }

    const BOX: Machine = Machine { gpus: &["GPU-a0", "GPU-b1", "GPU-b2", "GPU-c3"], cpus: 6, env: &[] };

    impl Machine<'_> {
        fn var(&self, name: &str) -> Option<Vec<u8>> {
            let found = self.env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.as_bytes().to_vec())
        }

        /// What CUDA would show: an index out of range ends the list too.
        fn shown(&self) -> Found {
            let source = Source::of(|name| self.var(name));
            let all = (0..self.gpus.len()).map(|number| number.to_string()).collect();
            let tokens = if source.value.is_some() { source.tokens } else { all };
            let place = |token: &String| match token.parse::<usize>() {
                Ok(number) => self.gpus.get(number).copied(),
                Err(_) => self.gpus.iter().find(|uuid| uuid.starts_with(token.as_str())).copied(),
            };
            let device = |(index, uuid): (usize, &str)| Device {
                index,
                uuid: uuid.into(),
                name: "G".into(),
                memory_bytes: 1,
                compute: (9, 0),
                pci_bus_id: String::new(),
                numa_node: 0,
                is_mig: false,
            };
            let list = tokens.iter().map_while(place).enumerate().map(device).collect();
            Found { driver_version: 13040, list, message: String::new() }
        }

        fn assign(&self, spec: &Spec) -> Result<Assignment, Error> {
            let host = Host {
                source: Source::of(|name| spec.var(name, |name| self.var(name))),
                cpus: &|| self.cpus,
                devices: &|| Ok(self.shown()),
            };
            assign(spec, &host)
        }

        fn refused(&self, spec: &Spec, parts: &[&str]) {
            let message = self.assign(spec).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        }

        /// CUDA_VISIBLE_DEVICES of each rank.
        fn visible(&self, spec: &Spec) -> Vec<String> {
            let assignment = self.assign(spec).unwrap();
            assert_eq!(assignment.local_world_size, assignment.ranks.len());
            assignment.ranks.into_iter().map(|rank| rank.visible.unwrap().to_string()).collect()
        }
    }

    fn cuda(list: &str) -> Machine<'_> {
        // Lives as long as the test: a slice of one pair.
        Machine { env: Box::leak(Box::new([(CUDA, list)])), ..BOX }
    }

    fn named(devices: &str) -> Spec {
        Spec { devices: Some(Devices::parse(devices).unwrap()), ..Spec::default() }
    }

    fn nproc(text: &str) -> Spec {
        Spec { nproc: Some(Nproc::parse(text).unwrap()), ..Spec::default() }
    }

    fn own(workers: usize) -> Spec {
        let nproc = Some(Nproc::Number(workers));
        Spec { nproc, local_world_size: workers, visibility: Some(Visibility::Own), ..Spec::default() }
    }

    #[test]
    fn tokens_are_sliced_and_never_renumbered() {
        assert_eq!(cuda("2,1").visible(&named("cuda:*")), ["2", "1"]);
        assert_eq!(cuda("2,1").visible(&named("cuda:1")), ["1"]);
        assert_eq!(cuda("GPU-c,GPU-b2").visible(&named("cuda:0-1")), ["GPU-c", "GPU-b2"]);
        assert_eq!(BOX.visible(&named("cuda:3,0,0")), ["3", "0", "0"]);
        assert_eq!(cuda("2,1").visible(&named("GPU-b1,GPU-b2")), ["1", "2"]);
        assert_eq!(BOX.visible(&own(2)), ["0", "1"]);
        // torchrun believes the variable without a look at the devices.
        assert_eq!(cuda("7,GPU-unknown").visible(&own(2)), ["7", "GPU-unknown"]);
    }

    #[test]
    fn the_words_of_the_worker_fit_what_it_sees() {
        let assignment = cuda("2,1").assign(&named("cuda:1,0")).unwrap();
        assert_eq!(assignment.ranks[0].named(), "cuda:1");
        let text = |name: &'static str, value: &str| (name, value.to_string());
        let nccl = text("ICE_DIST_BACKEND", "nccl");
        assert_eq!(assignment.env(0), [text(CUDA, "1"), text("ICE_DEVICES", "cuda:0"), nccl.clone()]);
        let all = Spec { visibility: Some(Visibility::All), ..named("cuda:1,0") };
        let assignment = cuda("2,1").assign(&all).unwrap();
        assert_eq!(assignment.env(1), [text(CUDA, "1,2"), text("ICE_DEVICES", "cuda:1"), nccl.clone()]);
        let inherit = Spec { visibility: Some(Visibility::Inherit), ..named("cuda:1,0") };
        let assignment = cuda("2,1").assign(&inherit).unwrap();
        assert_eq!(assignment.env(0), [text("ICE_DEVICES", "cuda:1"), nccl]);
        assert!(assignment.narrowed.is_empty());
        // Each device once, however many ranks have it.
        let all = Spec { visibility: Some(Visibility::All), ..named("cuda:3,3,0") };
        let ranks = BOX.assign(&all).unwrap().ranks;
        assert_eq!(ranks.iter().map(|rank| rank.seen_as[0]).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(ranks[2].visible.as_deref(), Some("3,0"));
    }

    #[test]
    fn dev_04_too_few_for_the_ranks() {
        cuda("2,5").refused(&own(3), &["CUDA_VISIBLE_DEVICES is 2,5", "shows 2 devices", "3 are needed"]);
        cuda("2,1")
            .refused(&named("cuda:0-2"), &["CUDA_VISIBLE_DEVICES is 2,1", "2 devices", "3 are needed"]);
        cuda("")
            .refused(&own(1), &["CUDA_VISIBLE_DEVICES is \"\"", "0 devices", "1 are needed", "hides all"]);
        cuda("").refused(&named("cuda:*"), &["0 devices", "needs 1", "hides all"]);
        cuda("0,-1,1").refused(&own(1), &["entry 2 of 3 is -1"]);
        cuda("0,-1,1").refused(&own(2), &["shows 1 device", "2 are needed", "-1"]);
        cuda("0,0").refused(&own(1), &["0 devices", "twice"]);
        cuda("0,x").refused(&own(2), &["1 device", "2 are needed", "\"x\""]);
        // Known to be too few only by the devices themselves.
        cuda("0,9").refused(&named("cuda:0,1"), &["shows 1 device", "2 are needed"]);
        BOX.refused(&named("cuda:0-7"), &["devices is cuda:0-7", "number 7", "8 are needed", "4 devices"]);
        Machine { gpus: &[], ..BOX }.refused(&named("cuda"), &["devices is cuda:0", "0"]);
        Machine { gpus: &[], ..BOX }.refused(&nproc("gpu"), &["nproc_per_node is gpu", "0"]);
        // What is not sliced is not looked at.
        assert!(cuda("").assign(&nproc("4")).is_ok());
    }

    #[test]
    fn dev_05_hip_variables_are_narrowed_without_a_probe() {
        let machine = Machine { env: &[(HIP, "4,6"), (CUDA, "0")], gpus: &[], ..BOX };
        let assignment = machine.assign(&named("cuda:*")).unwrap();
        let value = |name| (name, "6".to_string());
        assert_eq!(assignment.env(1)[..2], [value(CUDA), value(HIP)]);
        machine.refused(&own(3), &["HIP_VISIBLE_DEVICES is 4,6", "2 devices", "3"]);
        machine.refused(&Spec { device_uuids: true, ..own(2) }, &["device_uuids", "device 0"]);
        machine.refused(&named("GPU-1"), &["HIP_VISIBLE_DEVICES"]);
    }

    #[test]
    fn several_devices_for_a_rank_and_several_ranks_for_a_device() {
        let pairs = |spec| Spec { devices_per_rank: 2, ..spec };
        assert_eq!(BOX.visible(&pairs(named("cuda:*"))), ["0,1", "2,3"]);
        assert_eq!(BOX.visible(&pairs(own(2))), ["0,1", "2,3"]);
        assert_eq!(BOX.assign(&pairs(nproc("gpu"))).unwrap().local_world_size, 2);
        let ranks = cuda("2,1,0,3").assign(&pairs(named("cuda:3,2,1,0"))).unwrap().ranks;
        assert_eq!((ranks[0].visible.as_deref(), ranks[0].named().as_str()), (Some("3,0"), "cuda:3,2"));
        assert_eq!(ranks[0].seen_as, [0, 1]);
        BOX.refused(&pairs(named("cuda:0-2")), &["devices_per_rank is 2", "3 devices"]);
        BOX.refused(&pairs(named("cuda:0,0")), &["devices_per_rank is 2", "local rank 0", "cuda:0,0"]);
        cuda("0,1,2").refused(&pairs(own(2)), &["shows 3 devices", "4 are needed for 2 workers"]);

        let shared = |spec| Spec { ranks_per_device: 2, ..spec };
        assert_eq!(BOX.visible(&shared(named("cuda:0,3"))), ["0", "0", "3", "3"]);
        assert_eq!(cuda("1,2").visible(&shared(own(3))), ["1", "1", "2"]);
        assert_eq!(BOX.assign(&shared(nproc("gpu"))).unwrap().local_world_size, 8);
        BOX.refused(&pairs(shared(own(2))), &["devices_per_rank is 2", "ranks_per_device is 2"]);
    }

    #[test]
    fn the_two_sizes_have_to_agree() {
        let both = |size, devices| Spec { nproc: Some(Nproc::Number(size)), ..named(devices) };
        assert_eq!(BOX.assign(&both(4, "cuda:*")).unwrap().local_world_size, 4);
        BOX.refused(&both(8, "cuda:*"), &["local_world_size is 8", "cuda:* make 4 (4 devices)"]);
        BOX.refused(&both(2, "cpu:0-2"), &["local_world_size is 2", "make 3"]);
        let pairs = Spec { devices_per_rank: 2, ..both(4, "cuda:*") };
        BOX.refused(&pairs, &["local_world_size is 4", "make 2 (4 devices, 2 a rank)"]);
        assert_eq!(BOX.assign(&both(2, "cuda:0,0")).unwrap().local_world_size, 2);
    }

    #[test]
    fn dev_13_counts_follow_devices_and_cpus() {
        let size = |machine: &Machine, spec: &Spec| machine.assign(spec).unwrap().local_world_size;
        let bare = Machine { gpus: &[], ..BOX };
        assert_eq!((size(&BOX, &nproc("gpu")), size(&cuda("2,1"), &nproc("gpu"))), (4, 2));
        assert_eq!((size(&BOX, &nproc("auto")), size(&bare, &nproc("auto"))), (4, 6));
        assert_eq!((size(&BOX, &nproc("cpu")), size(&BOX, &nproc("3"))), (6, 3));
        assert_eq!(size(&cuda(""), &nproc("auto")), 6);
        // One worker for each: it sees its own.
        assert_eq!(cuda("2,1").visible(&nproc("gpu")), ["2", "1"]);
        assert_eq!(BOX.visible(&nproc("auto")), ["0", "1", "2", "3"]);
        // On the CPU there is nothing to see, and a number changes nothing for the workers, as with torchrun.
        assert!(bare.assign(&nproc("auto")).unwrap().ranks.is_empty());
        assert!(BOX.assign(&nproc("3")).unwrap().ranks.is_empty());
        assert_eq!((size(&BOX, &named("auto:*")), size(&bare, &named("auto:*"))), (4, 6));
        assert_eq!((size(&BOX, &named("auto")), size(&bare, &named("cpu:*"))), (1, 6));
    }

    #[test]
    fn backends_fit() {
        use Backend::{Gloo, Nccl};
        let of = |machine: &Machine, spec: &Spec| machine.assign(spec).unwrap().backend;
        let bare = Machine { gpus: &[], ..BOX };
        for (text, known, assigned) in [
            ("cuda:0-3", Some(Nccl), Some(Nccl)),
            ("cuda:*", Some(Nccl), Some(Nccl)),
            ("cuda:*,0", None, Some(Gloo)),
            ("cuda:0,0", Some(Gloo), Some(Gloo)),
            ("GPU-a0,GPU-c", None, Some(Nccl)),
            ("cpu:0-3", Some(Gloo), Some(Gloo)),
            ("auto:*", None, Some(Nccl)),
        ] {
            assert_eq!((backend(&named(text)), of(&BOX, &named(text))), (known, assigned), "{text}");
        }
        assert_eq!(of(&bare, &named("auto:*")), Some(Gloo));
        let shared = Spec { ranks_per_device: 2, ..named("cuda:0") };
        assert_eq!((backend(&shared), of(&BOX, &shared)), (Some(Gloo), Some(Gloo)));
        assert_eq!((backend(&own(1)), of(&BOX, &own(1))), (None, None));
    }

    #[test]
    fn uuids_in_and_out() {
        let uuids = |devices| Spec { device_uuids: true, ..named(devices) };
        assert_eq!(cuda("2,1").visible(&uuids("cuda:*")), ["GPU-b2", "GPU-b1"]);
        BOX.refused(&named("GPU-b"), &["GPU-b", "2 devices", "write more"]);
        BOX.refused(&named("GPU-x"), &["GPU-x", "none of the 4 devices"]);
        cuda("0").refused(&named("GPU-b1"), &["GPU-b1", "none of the 1 device"]);
    }

    #[test]
    fn wishes_that_do_not_go_together() {
        let virtual_rank = Spec { virtual_local_rank: true, ..own(2) };
        assert!(BOX.assign(&virtual_rank).is_ok());
        for visibility in [Visibility::All, Visibility::Inherit] {
            let spec = Spec { visibility: Some(visibility), ..virtual_rank.clone() };
            BOX.refused(&spec, &["virtual_local_rank", "own"]);
        }
        let mut spec = named("cuda:*");
        spec.rank_env.insert(1, vec![EnvEdit::Set(CUDA.into(), b"3".to_vec())]);
        BOX.refused(&spec, &["rank_env is CUDA_VISIBLE_DEVICES"]);
        // For all ranks it is the source, as if the host had it.
        let spec = Spec { env: vec![EnvEdit::Set(CUDA.into(), b"3,1".to_vec())], ..own(2) };
        assert_eq!(BOX.visible(&spec), ["3", "1"]);
        let spec = Spec { env: vec![EnvEdit::Unset(CUDA.into())], ..own(2) };
        assert_eq!(cuda("2").visible(&spec), ["0", "1"]);
    }

    proptest! {
        /// Ranks see what the host was given, and nothing twice.
        #[test]
        fn no_rank_sees_more_than_the_host(
            tokens in prop::collection::btree_set(0..16_usize, 1..6),
            size in 1..6_usize,
            each in 1..3_usize,
            all: bool,
        ) {
            let list: Vec<String> = tokens.iter().map(usize::to_string).collect();
            let joined = list.join(",");
            let visibility = Some(if all { Visibility::All } else { Visibility::Own });
            let spec = Spec { visibility, devices_per_rank: each, ..own(size) };
            let machine = Machine { env: &[(CUDA, &joined)], gpus: &[], ..BOX };
            match machine.assign(&spec) {
                Err(error) => {
                    prop_assert!(size * each > list.len());
                    let message = error.to_string();
                    prop_assert!(message.contains(&format!("shows {}", devices_text(list.len()))), "{}", message);
                    let needed = format!("{} are needed", size * each);
                    prop_assert!(message.contains(&needed), "{}", message);
                }
                Ok(assignment) => {
                    let lists = assignment.ranks.iter().map(|rank| rank.visible.clone().unwrap().to_string());
                    let given: Vec<String> =
                        lists.flat_map(|list| list.split(',').map(str::to_string).collect::<Vec<_>>()).collect();
                    let wanted = &list[..size * each];
                    if all {
                        prop_assert_eq!(given, vec![wanted; size].concat());
                    } else {
                        prop_assert_eq!(given, wanted);
                    }
                }
            }
        }
    }
}
