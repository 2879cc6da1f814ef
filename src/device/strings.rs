//! Device strings, as ice-learn has them (`cuda:0-2,7`, `auto:*`), and torchrun's `--nproc-per-node`.

use std::fmt;

use crate::error::Error;
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::scheduler::TaskShare;

/// What devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// CUDA where there is a device of it, else the CPU.
    Auto,
    Cuda,
    Cpu,
}

impl DeviceKind {
    fn parse(text: &str) -> Option<DeviceKind> {
        match text {
            "auto" => Some(DeviceKind::Auto),
            "cuda" => Some(DeviceKind::Cuda),
            "cpu" => Some(DeviceKind::Cpu),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Auto => "auto",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Cpu => "cpu",
        }
    }
}

/// One part of a device string, between two commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    All,
    /// From the first to the last, both included.
    Range(u32, u32),
    /// A UUID of a GPU or a MIG instance, or how it begins.
    Uuid(String),
}

/// The devices that the workers of one agent run on, one for each, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    pub kind: DeviceKind,
    /// At least one.
    pub items: Vec<Item>,
}

const FIELD: &str = "devices";
const FORM: &str = "must be auto, cpu or cuda, alone for one device or with a list: cuda:0, cuda:0-2,7, cuda:*, \
                    cpu:0-3, or UUIDs: GPU-8932f937";

impl Devices {
    pub fn parse(text: &str) -> Result<Devices, Error> {
        let bad = |want: String| Error::config(FIELD, text, want);
        let whole = text.trim();
        let (kind, list) = match whole.split_once(':') {
            _ if is_uuid(whole) => (DeviceKind::Cuda, whole),
            Some((kind, list)) => (DeviceKind::parse(kind).ok_or_else(|| bad(FORM.into()))?, list),
            // One device, the first.
            None => (DeviceKind::parse(whole).ok_or_else(|| bad(FORM.into()))?, "0"),
        };
        let item = |item: &str| match Item::parse(item.trim()) {
            Ok(Item::Uuid(uuid)) if kind != DeviceKind::Cuda => {
                Err(bad(format!("{uuid} is a CUDA device, name it as cuda:{uuid}")))
            }
            parsed => parsed.map_err(|want| bad(want.unwrap_or_else(|| FORM.into()))),
        };
        let items = list.split(',').map(item).collect::<Result<_, _>>()?;
        Ok(Devices { kind, items })
    }

    /// The numbers that these items stand for, where there are `count` devices in all; `uuid` finds the
    /// number of a UUID. What is too large to be a worker's is refused here, before there is a list of it.
    pub fn numbers(
        &self,
        count: usize,
        uuid: impl Fn(&str) -> Result<usize, Error>,
    ) -> Result<Vec<usize>, Error> {
        let mut numbers = Vec::new();
        for item in &self.items {
            match item {
                Item::All => numbers.extend(0..count),
                Item::Range(first, last) => numbers.extend(*first as usize..=*last as usize),
                Item::Uuid(text) => numbers.push(uuid(text)?),
            }
            if numbers.len() as i64 > MAX_LOCAL_WORLD_SIZE {
                let want = format!("must be {MAX_LOCAL_WORLD_SIZE} devices at most");
                return Err(Error::config(FIELD, self, want));
            }
        }
        Ok(numbers)
    }
}

impl Item {
    /// Without a text of its own an error is about the form.
    fn parse(text: &str) -> Result<Item, Option<String>> {
        if text == "*" {
            return Ok(Item::All);
        }
        if is_uuid(text) {
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b",:*".contains(&byte));
            return if plain { Ok(Item::Uuid(text.into())) } else { Err(None) };
        }
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !digits {
                return Err(None);
            }
            let number = text.parse().ok().filter(|&number| i64::from(number) < MAX_LOCAL_WORLD_SIZE);
            number.ok_or_else(|| Some(format!("a device's number must be below {MAX_LOCAL_WORLD_SIZE}")))
        };
        match text.split_once('-') {
            None => number(text).map(|number| Item::Range(number, number)),
            Some((first, last)) => match (number(first.trim_end())?, number(last.trim_start())?) {
                (first, last) if first <= last => Ok(Item::Range(first, last)),
                (first, last) => Err(Some(format!("{first}-{last} runs backwards, write {last}-{first}"))),
            },
        }
    }
}

/// Whether a token names a device by its UUID, as CUDA_VISIBLE_DEVICES may.
pub fn is_uuid(token: &str) -> bool {
    token.starts_with("GPU-") || token.starts_with("MIG-")
}

impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::All => out.write_str("*"),
            Item::Range(first, last) if first == last => write!(out, "{first}"),
            Item::Range(first, last) => write!(out, "{first}-{last}"),
            Item::Uuid(uuid) => out.write_str(uuid),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.kind.name())?;
        for (index, item) in self.items.iter().enumerate() {
            write!(out, "{}{item}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// How many workers, as torchrun's `--nproc-per-node` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nproc {
    Number(usize),
    /// One for each CUDA device.
    Gpu,
    /// One for each CPU that this process may use.
    Cpu,
    /// As `Gpu` where there is one, else as `Cpu`.
    Auto,
    /// One for each CUDA device in this task's share of those that the host sees; where there are none, so many others.
    OfTask {
        share: TaskShare,
        others: usize,
    },
}

impl Nproc {
    pub fn parse(text: &str) -> Result<Nproc, Error> {
        let number = |text: &str| {
            let number: i64 = text.parse().ok()?;
            (1..=MAX_LOCAL_WORLD_SIZE).contains(&number).then_some(Nproc::Number(number as usize))
        };
        match text.trim() {
            "gpu" => Ok(Nproc::Gpu),
            "cpu" => Ok(Nproc::Cpu),
            "auto" => Ok(Nproc::Auto),
            text => number(text).ok_or_else(|| {
                let want =
                    format!("must be a whole number from 1 to {MAX_LOCAL_WORLD_SIZE}, or gpu, cpu or auto");
                Error::config("nproc_per_node", text, want)
            }),
        }
    }
}

impl fmt::Display for Nproc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nproc::Number(number) => write!(out, "{number}"),
            Nproc::Gpu => out.write_str("gpu"),
            Nproc::Cpu => out.write_str("cpu"),
            Nproc::Auto => out.write_str("auto"),
            Nproc::OfTask { .. } => out.write_str("gpu of this task"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(text: &str, count: usize) -> (DeviceKind, Vec<usize>) {
        let devices = Devices::parse(text).unwrap();
        let none = |uuid: &str| Err(Error::config("devices", uuid, "none"));
        (devices.kind, devices.numbers(count, none).unwrap())
    }

    #[test]
    fn dev_strings_of_ice_learn() {
        assert_eq!(numbers("auto", 8), (DeviceKind::Auto, vec![0]));
        assert_eq!(numbers("cpu", 8), (DeviceKind::Cpu, vec![0]));
        assert_eq!(numbers("cuda", 8), (DeviceKind::Cuda, vec![0]));
        assert_eq!(numbers("cuda:0", 8), (DeviceKind::Cuda, vec![0]));
        assert_eq!(numbers("cuda:*", 3), (DeviceKind::Cuda, vec![0, 1, 2]));
        assert_eq!(numbers("auto:*", 2), (DeviceKind::Auto, vec![0, 1]));
        assert_eq!(numbers("cpu:0-3", 1), (DeviceKind::Cpu, vec![0, 1, 2, 3]));
        assert_eq!(numbers("cuda:0-2,7", 8), (DeviceKind::Cuda, vec![0, 1, 2, 7]));
        assert_eq!(numbers(" cuda:1, 3 ,0,0", 8), (DeviceKind::Cuda, vec![1, 3, 0, 0]));
        let uuids = ["GPU-89,MIG-1", "cuda:GPU-89,MIG-1"].map(|text| Devices::parse(text).unwrap());
        assert_eq!(uuids[0], uuids[1]);
        assert_eq!(uuids[0].items, [Item::Uuid("GPU-89".into()), Item::Uuid("MIG-1".into())]);
    }

    #[test]
    fn dev_strings_that_are_none() {
        for (text, part) in [
            ("", "must be auto"),
            ("gpu", "must be auto"),
            ("cuda:", "must be auto"),
            ("cuda:x", "must be auto"),
            ("cuda:1,", "must be auto"),
            ("cuda:-1", "must be auto"),
            ("cuda:1--2", "must be auto"),
            ("cuda:0:1", "must be auto"),
            ("3", "must be auto"),
            ("cuda:3-1", "write 1-3"),
            ("cuda:99999999999", "below 16384"),
            ("cpu:GPU-1", "cuda:GPU-1"),
            ("auto:MIG-1", "cuda:MIG-1"),
            ("GPU-1:2", "must be auto"),
        ] {
            let error = Devices::parse(text).unwrap_err().to_string();
            assert!(error.contains("devices is") && error.contains(part), "{text}: {error}");
        }
        let many = Devices::parse("cuda:0-16383,0-16383").unwrap();
        assert!(many.numbers(1, |_| Ok(0)).unwrap_err().to_string().contains("16384"));
    }

    #[test]
    fn dev_13_nproc_of_torchrun() {
        assert_eq!(Nproc::parse("4"), Ok(Nproc::Number(4)));
        assert_eq!(Nproc::parse("gpu"), Ok(Nproc::Gpu));
        assert_eq!(Nproc::parse("cpu"), Ok(Nproc::Cpu));
        assert_eq!(Nproc::parse("auto"), Ok(Nproc::Auto));
        for bad in ["", "0", "-1", "16385", "1.5", "xpu", "99999999999999999999", "GPU"] {
            assert!(Nproc::parse(bad).unwrap_err().to_string().contains("gpu, cpu or auto"), "{bad}");
        }
    }

    fn item(uuids: bool) -> BoxedStrategy<Item> {
        let range = (0..16_384_u32, 0..16_384_u32).prop_map(|(a, b)| Item::Range(a.min(b), a.max(b)));
        let plain = prop_oneof![Just(Item::All), range];
        if !uuids {
            return plain.boxed();
        }
        let bytes = prop::collection::vec(prop::sample::select(b"0189abfGPU-/".to_vec()), 0..12);
        let uuid = (prop::sample::select(vec!["GPU-", "MIG-"]), bytes)
            .prop_map(|(start, rest)| Item::Uuid(start.to_string() + &String::from_utf8_lossy(&rest)));
        prop_oneof![plain, uuid].boxed()
    }

    fn devices() -> impl Strategy<Value = Devices> {
        let kind = prop::sample::select(vec![DeviceKind::Auto, DeviceKind::Cuda, DeviceKind::Cpu]);
        kind.prop_flat_map(|kind| {
            let items = prop::collection::vec(item(kind == DeviceKind::Cuda), 1..6);
            items.prop_map(move |items| Devices { kind, items })
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(devices in devices()) {
            prop_assert_eq!(Devices::parse(&devices.to_string()), Ok(devices));
        }

        #[test]
        fn nproc_is_printed_and_read(number in 1..16_384_usize, name in "gpu|cpu|auto") {
            prop_assert_eq!(Nproc::parse(&number.to_string()), Ok(Nproc::Number(number)));
            prop_assert_eq!(Nproc::parse(&name).unwrap().to_string(), name);
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), list in "(cuda|cpu|auto|GPU):?[-0-9,* :GPUMI]{0,24}") {
            for text in [text, list] {
                let _ = Nproc::parse(&text);
                if let Ok(devices) = Devices::parse(&text) {
                    prop_assert_eq!(Devices::parse(&devices.to_string()), Ok(devices.clone()));
                    let _ = devices.numbers(3, |_| Ok(0));
                }
            }
        }
    }
}
