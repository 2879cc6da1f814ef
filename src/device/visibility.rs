//! CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES: what the host was given, read as CUDA reads it.

use super::strings::is_uuid;
use crate::error::Error;

pub const CUDA: &str = "CUDA_VISIBLE_DEVICES";
pub const HIP: &str = "HIP_VISIBLE_DEVICES";

/// Which devices a rank sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Its own alone.
    Own,
    /// Those of all ranks of this agent.
    All,
    /// What the host sees: nothing is changed.
    Inherit,
}

/// The variable that says which devices the host may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: &'static str,
    /// As it is; none where it is not set, which shows all devices.
    pub value: Option<String>,
    /// Its entries up to the first that is none, as they were written: a worker is given these.
    pub tokens: Vec<String>,
    /// Why there are fewer tokens than entries.
    flaw: Option<Flaw>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Flaw {
    Empty,
    /// -1, which people write to hide what follows.
    MinusOne {
        entry: usize,
    },
    Invalid {
        entry: usize,
        text: String,
    },
    Twice {
        text: String,
    },
}

impl Source {
    /// HIP_VISIBLE_DEVICES wins where it is set, as on ROCm.
    pub fn of(var: impl Fn(&str) -> Option<Vec<u8>>) -> Source {
        let value = |name| var(name).map(|value| String::from_utf8_lossy(&value).into_owned());
        match value(HIP) {
            None => Source::read(CUDA, value(CUDA)),
            hip => Source::read(HIP, hip),
        }
    }

    fn read(name: &'static str, value: Option<String>) -> Source {
        let (tokens, flaw) = value.as_deref().map(tokens).unwrap_or_default();
        Source { name, value, tokens, flaw }
    }

    /// The variables that have to say the same to a worker.
    pub fn names(&self) -> &'static [&'static str] {
        if self.is_hip() { &[CUDA, HIP] } else { &[CUDA] }
    }

    pub fn is_hip(&self) -> bool {
        self.name == HIP
    }

    /// What a worker is given for the device that the host sees as number `index`.
    pub fn token(&self, index: usize) -> String {
        match &self.value {
            Some(_) => self.tokens.get(index).cloned().unwrap_or_default(),
            None => index.to_string(),
        }
    }

    /// A list with -1 in it is not sliced: whoever wrote it did not mean it to be.
    pub fn check(&self) -> Result<(), Error> {
        match &self.flaw {
            Some(Flaw::MinusOne { entry }) => Err(Error::config(
                self.name,
                self.shown(),
                format!(
                    "entry {entry} of {} is -1, which hides what follows it: leave it out",
                    self.shown().split(',').count()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The host sees `count` devices, too few for `why`.
    pub fn too_few(&self, count: usize, why: impl std::fmt::Display) -> Error {
        let hint = match &self.flaw {
            None => String::new(),
            Some(Flaw::Empty) => ": empty, it hides all devices".into(),
            Some(Flaw::MinusOne { entry }) => format!(": entry {entry} is -1, which ends the list"),
            Some(Flaw::Invalid { entry, text }) => {
                format!(": entry {entry}, {text:?}, names no device and ends the list")
            }
            Some(Flaw::Twice { text }) => format!(": it names {text} twice, which hides all devices"),
        };
        Error::config(self.name, self.shown(), format!("shows {}, {why}{hint}", devices(count)))
    }

    pub fn shown(&self) -> &str {
        self.value.as_deref().unwrap_or("not set")
    }
}

/// `1 device`, `2 devices`.
pub fn devices(count: usize) -> String {
    format!("{count} device{}", if count == 1 { "" } else { "s" })
}

/// The entries that CUDA would take.
fn tokens(value: &str) -> (Vec<String>, Option<Flaw>) {
    if value.trim().is_empty() {
        return (Vec::new(), Some(Flaw::Empty));
    }
    let mut tokens: Vec<String> = Vec::new();
    for (index, text) in value.split(',').map(str::trim).enumerate() {
        let entry = index + 1;
        if text == "-1" {
            return (tokens, Some(Flaw::MinusOne { entry }));
        }
        if !is_token(text) {
            return (tokens, Some(Flaw::Invalid { entry, text: text.into() }));
        }
        if tokens.iter().any(|token| is_same(token, text)) {
            return (Vec::new(), Some(Flaw::Twice { text: text.into() }));
        }
        tokens.push(text.into());
    }
    (tokens, None)
}

fn is_token(text: &str) -> bool {
    let number = || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    number() || (is_uuid(text) && text.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn is_same(a: &str, b: &str) -> bool {
    // 0 and 00 are one device.
    let number = |text: &str| text.parse::<u64>().ok();
    a == b || (number(a).is_some() && number(a) == number(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn cuda(value: &str) -> Source {
        Source::of(|name| (name == CUDA).then(|| value.as_bytes().to_vec()))
    }

    #[test]
    fn tokens_stay_as_they_were_written() {
        assert_eq!(cuda("2,5").tokens, ["2", "5"]);
        assert_eq!(cuda(" GPU-12ab , MIG-GPU-1/0/0,3").tokens, ["GPU-12ab", "MIG-GPU-1/0/0", "3"]);
        assert_eq!(cuda("2,5").token(1), "5");
        let unset = Source::of(|_| None);
        assert_eq!((unset.token(1).as_str(), unset.names()), ("1", &[CUDA][..]));
    }

    #[test]
    fn dev_04_what_hides_devices() {
        assert_eq!(cuda("0,x,1").tokens, ["0"]);
        assert_eq!(cuda("0,,1").tokens, ["0"]);
        assert_eq!(cuda("0,-1,1").tokens, ["0"]);
        assert_eq!(cuda("0,1,00").tokens, [""; 0]);
        assert_eq!(cuda("GPU-1,GPU-1").tokens, [""; 0]);
        assert_eq!(cuda("").tokens, [""; 0]);
        assert!(cuda("0,x").check().is_ok());
        let error = cuda("0,-1,1").check().unwrap_err().to_string();
        assert!(error.contains("CUDA_VISIBLE_DEVICES is 0,-1,1: entry 2 of 3 is -1"), "{error}");
        let error = cuda("3,x").too_few(1, "4 are needed").to_string();
        assert!(error.contains("shows 1 device, 4 are needed: entry 2, \"x\""), "{error}");
    }

    #[test]
    fn dev_05_hip_is_the_source_where_it_is_set() {
        let both = |name: &str| Some(if name == HIP { b"4,6".to_vec() } else { b"1".to_vec() });
        let source = Source::of(both);
        assert_eq!((source.name, source.token(1).as_str()), (HIP, "6"));
        assert_eq!(source.names(), [CUDA, HIP]);
        let empty = Source::of(|name| (name == HIP).then(Vec::new));
        assert!(empty.too_few(0, "1 is needed").to_string().contains("HIP_VISIBLE_DEVICES is \"\""));
    }

    proptest! {
        #[test]
        fn any_value_is_read(bytes in prop::collection::vec(any::<u8>(), 0..40), list in "[-0-9, GPUx]{0,20}") {
            for value in [bytes, list.into_bytes()] {
                let source = Source::of(|name| (name == CUDA).then(|| value.clone()));
                let entries = source.shown().split(',').count();
                prop_assert!(source.tokens.len() <= entries);
                for (index, token) in source.tokens.iter().enumerate() {
                    prop_assert!(is_token(token));
                    prop_assert_eq!(source.shown().split(',').nth(index).unwrap().trim(), token);
                }
                let _ = (source.check(), source.too_few(0, "1 is needed").to_string());
            }
        }
    }
}
