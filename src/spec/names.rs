//! Names of signals and of the local host.

use std::fmt;

/// A signal by number; shown and read by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signal(pub i32);

impl Signal {
    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
    pub fn parse(text: &str) -> Option<Signal> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=libc::SIGRTMAX()).contains(&number).then_some(Signal(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let real_time = |base: i32, offset: &str| {
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
            let number = base.checked_add(offset)?;
            (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(Signal(number))
        };
        if let Some(offset) = name.strip_prefix("RTMIN") {
            return real_time(libc::SIGRTMIN(), offset);
        }
        if let Some(offset) = name.strip_prefix("RTMAX") {
            return real_time(libc::SIGRTMAX(), offset);
        }
        let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
        Some(Signal(signal as i32))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => out.write_str(signal.as_str()),
            Err(_) if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&self.0) => {
                match self.0 - libc::SIGRTMIN() {
                    0 => out.write_str("SIGRTMIN"),
                    offset => write!(out, "SIGRTMIN+{offset}"),
                }
            }
            Err(_) => write!(out, "signal {}", self.0),
        }
    }
}

/// The host's name as `gethostname(2)` has it; `localhost` where it has none.
pub fn hostname() -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;
    nix::unistd::gethostname().map(OsStringExt::into_vec).unwrap_or_else(|_| b"localhost".to_vec())
}

/// The same as text.
pub fn hostname_text() -> String {
    String::from_utf8_lossy(&hostname()).into_owned()
}

/// A role or run id as part of a path: one plain component, never `.` or `..`, of bounded length.
pub fn path_component(bytes: &[u8]) -> String {
    const LONGEST: usize = 100;
    let mut name: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c == '/' || c.is_control() || c == '\u{FFFD}' { '_' } else { c })
        .collect();
    while name.len() > LONGEST {
        name.pop();
    }
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '_');
    }
    name
}

/// Why a run was stopped, in words: by a signal, 0 for none.
pub fn stopped_by(signal: i32) -> String {
    match signal {
        0 => "stopped by request".into(),
        signal => format!("stopped by {}", Signal(signal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_both_ways() {
        for number in 1..=libc::SIGRTMAX() {
            let name = Signal(number).to_string();
            if name.starts_with("SIG") {
                assert_eq!(Signal::parse(&name), Some(Signal(number)), "{name}");
            }
        }
        assert_eq!(Signal::parse("term"), Some(Signal(libc::SIGTERM)));
        for bad in ["", "SIG", "SIGNOPE", "0", "-1", "99", "SIGRTMIN+99", "RTMIN+x"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn log_26_any_run_id_is_one_component() {
        for id in
            [&b"a/b"[..], b"..", b".", b"", b"x\ny", &[b'z'; 300], b"\xff\xfe", "é".repeat(90).as_bytes()]
        {
            let name = path_component(id);
            assert!(!name.is_empty() && name.len() <= 101 && !name.contains('/'), "{name}");
            assert!(!name.starts_with('.') && !name.chars().any(char::is_control), "{name}");
        }
        assert_eq!(path_component(b"job-7"), "job-7");
    }
}
