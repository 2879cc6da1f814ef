//! What the probe's process found out, and how it says so to the one that started it: strings, one record
//! after the other, and an end mark.

use std::ffi::{CStr, CString};

use crate::device::Device;
use crate::error::c_string_lossy;
use crate::process::channel::Strings;

/// Behind the last record: without it the report was cut short.
const END: &CStr = c"end";

#[derive(Debug, PartialEq)]
pub enum Report {
    Devices {
        /// As CUDA counts, 13040 for 13.4; 0 without a driver.
        driver_version: i32,
        devices: Vec<Device>,
        /// Why there is none.
        message: String,
    },
    /// A call of the driver failed.
    Failed { call: String, code: i32, text: String },
    /// The driver lacks a function.
    Missing { symbol: String },
}

impl Report {
    pub fn to_strings(&self) -> Strings {
        let mut words = Vec::new();
        let mut say = |word: &dyn ToString| words.push(c_string_lossy(word.to_string().as_bytes()));
        match self {
            Report::Devices { driver_version, devices, message } => {
                say(&"devices");
                say(driver_version);
                say(message);
                say(&devices.len());
                for device in devices {
                    say(&device.index);
                    say(&device.uuid);
                    say(&device.name);
                    say(&device.memory_bytes);
                    say(&device.compute.0);
                    say(&device.compute.1);
                    say(&device.pci_bus_id);
                    say(&device.numa_node);
                    say(&u8::from(device.is_mig));
                }
            }
            Report::Failed { call, code, text } => {
                say(&"failed");
                say(call);
                say(code);
                say(text);
            }
            Report::Missing { symbol } => {
                say(&"missing");
                say(symbol);
            }
        }
        Strings::of(words.iter().map(CString::as_c_str).chain([END]))
    }

    /// None for one that is not whole.
    pub fn from_strings(strings: &Strings) -> Option<Report> {
        let mut words = Words(strings.iter());
        let report = match words.text()?.as_str() {
            "devices" => {
                let (driver_version, message, count) = (words.number()?, words.text()?, words.number()?);
                let devices = (0..count).map(|_: usize| device(&mut words)).collect::<Option<_>>()?;
                Report::Devices { driver_version, devices, message }
            }
            "failed" => Report::Failed { call: words.text()?, code: words.number()?, text: words.text()? },
            "missing" => Report::Missing { symbol: words.text()? },
            _ => return None,
        };
        (words.0.next() == Some(END) && words.0.next().is_none()).then_some(report)
    }
}

fn device<'a>(words: &mut Words<impl Iterator<Item = &'a CStr>>) -> Option<Device> {
    Some(Device {
        index: words.number()?,
        uuid: words.text()?,
        name: words.text()?,
        memory_bytes: words.number()?,
        compute: (words.number()?, words.number()?),
        pci_bus_id: words.text()?,
        numa_node: words.number()?,
        is_mig: words.number::<u8>()? != 0,
    })
}

struct Words<I>(I);

impl<'a, I: Iterator<Item = &'a CStr>> Words<I> {
    fn text(&mut self) -> Option<String> {
        self.0.next().map(|word| word.to_string_lossy().into_owned())
    }

    fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        self.0.next()?.to_str().ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> [Report; 4] {
        let device = |index| Device {
            index,
            uuid: format!("GPU-{index}"),
            name: "A name with blanks, ünd more".into(),
            memory_bytes: u64::MAX,
            compute: (9, 0),
            pci_bus_id: "0000:3b:00.0".into(),
            numa_node: 1,
            is_mig: index == 1,
        };
        [
            Report::Devices {
                driver_version: 13040,
                devices: (0..3).map(device).collect(),
                message: "".into(),
            },
            Report::Devices { driver_version: 0, devices: Vec::new(), message: "why".into() },
            Report::Failed { call: "cuInit".into(), code: -1, text: "".into() },
            Report::Missing { symbol: "cuDeviceGetName".into() },
        ]
    }

    #[test]
    fn what_is_said_is_understood() {
        for report in reports() {
            assert_eq!(Report::from_strings(&report.to_strings()), Some(report));
        }
    }

    #[test]
    fn what_is_cut_short_is_not() {
        for report in reports() {
            let strings = report.to_strings();
            let words: Vec<&CStr> = strings.iter().collect();
            for count in 0..words.len() {
                assert_eq!(
                    Report::from_strings(&Strings::of(words[..count].iter().copied())),
                    None,
                    "{count}"
                );
            }
            let more = Strings::of(words.iter().copied().chain([END]));
            assert_eq!(Report::from_strings(&more), None);
        }
    }
}
