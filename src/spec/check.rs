//! The rules that need more than one field of a spec, or the environment.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::streams::{self, LocalRanks, Streams};
use super::variables::{STORE_SECRET_FILE, is_worker};
use super::{NO_LOGS, Spec, below, nodes, seconds, seconds_in};
use crate::error::Error;

/// What `check` worked out of the spec and the environment together.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Whether this agent serves the store of its workers, where it meets no others.
    pub agent_store: bool,
    pub shutdown_timeout: Duration,
    pub log_prefix_template: Vec<u8>,
    pub null_log_dir: bool,
    /// Whether workers are served as torch's file timers.
    pub file_timers: bool,
    /// Where their FIFO is to be, if the host says so.
    pub timer_file: Option<PathBuf>,
    /// How long a worker may be in uninterruptible sleep.
    pub uninterruptible_timeout: Option<Duration>,
}

impl Spec {
    /// The rules that need more than one field, for an agent that starts with the environment `var`.
    pub fn check(&self, var: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Checked, Error> {
        self.refused()?;
        self.check_work()?;
        let size = self.local_world_size;
        if !self.allow_absent_ranks {
            self.highest_ranks().try_for_each(|(field, rank)| streams::in_range(field, rank, size))?;
        }
        if let Some(rank) = self.debug_rank.filter(|&rank| rank >= size) {
            return Err(below("debug_rank", rank, size));
        }
        if let Some((&rank, _)) = self.rank_env.iter().next_back()
            && rank >= size
        {
            return Err(below("rank_env", rank, size));
        }
        let null_log_dir = self.log_dir.as_deref() == Some(Path::new(NO_LOGS));
        for (field, filters, stream) in [
            ("duplicate_stdout_filters", &self.stdout_filters, Streams::STDOUT),
            ("duplicate_stderr_filters", &self.stderr_filters, Streams::STDERR),
        ] {
            if filters.is_empty() {
                continue;
            }
            let shown = String::from_utf8_lossy(&filters.join(&b',')).into_owned();
            if null_log_dir {
                return Err(Error::config(
                    field,
                    shown,
                    "log_dir is /dev/null, there is nowhere to write to",
                ));
            }
            let in_file = |rank| self.redirects.of(rank).has(stream) || self.tee.of(rank).has(stream);
            if !(0..size).any(in_file) {
                return Err(Error::config(
                    field,
                    shown,
                    "no rank has this stream in redirects or tee, so there is no file to filter",
                ));
            }
        }
        let shutdown_timeout = match self.shutdown_timeout {
            Some(explicit) => explicit,
            None => seconds_in("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", &var)?.unwrap_or(Duration::from_secs(30)),
        };
        let prefix = self
            .log_prefix_template
            .clone()
            // As torch has it, an empty one there is none.
            .or_else(|| var("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE").filter(|text| !text.is_empty()))
            .unwrap_or_else(|| b"[${role_name}${local_rank}]:".to_vec());
        let file_timers = self
            .file_timers
            .unwrap_or_else(|| var("TORCHELASTIC_ENABLE_FILE_TIMER").is_some_and(|value| value == b"1"));
        // Where this process is a worker itself it is the FIFO of its own agent.
        let may_name = file_timers && !is_worker(&var);
        let timer_file = var("TORCHELASTIC_TIMER_FILE").filter(|path| may_name && !path.is_empty());
        // As torch has it, what is no time there means none.
        let in_environment = || {
            let text = var("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT")?;
            let number = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
            seconds("uninterruptible_timeout", number).ok()
        };
        let uninterruptible_timeout = self.uninterruptible_timeout.or_else(in_environment);
        Ok(Checked {
            agent_store: self.serves_alone(&var),
            shutdown_timeout,
            log_prefix_template: prefix,
            null_log_dir,
            file_timers,
            timer_file: timer_file.map(|path| PathBuf::from(OsStr::from_bytes(&path))),
            uninterruptible_timeout: uninterruptible_timeout.filter(|limit| !limit.is_zero()),
        })
    }

    /// Whether the agent of one host serves its workers' store. One with a secret is none for PyTorch's clients,
    /// and rank 0's as ever.
    fn serves_alone(&self, var: impl Fn(&str) -> Option<Vec<u8>>) -> bool {
        let of_host = |name: &str| if self.hands_on(name.as_bytes()) { var(name) } else { None };
        let secret = self.var(STORE_SECRET_FILE, of_host).is_some_and(|path| !path.is_empty());
        self.agent_store == Some(true) && !secret && !nodes::is_not_shared(&var)
    }

    /// The highest local ranks that maps and lists name.
    fn highest_ranks(&self) -> impl Iterator<Item = (&'static str, Option<usize>)> {
        let filter = self.local_ranks_filter.as_ref().and_then(LocalRanks::highest);
        [("redirects", self.redirects.highest()), ("tee", self.tee.highest()), ("local_ranks_filter", filter)]
            .into_iter()
    }

    /// Those that name a rank which there is not, and that rank.
    pub fn absent_ranks(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let size = self.local_world_size;
        self.highest_ranks()
            .filter_map(move |(field, rank)| Some((field, rank.filter(|&rank| rank >= size)?)))
    }

    /// What a worker is: exactly one of three, with what belongs to it.
    fn check_work(&self) -> Result<(), Error> {
        let shown = |string: &CString| string.to_string_lossy().into_owned();
        let set: Vec<(&'static str, String)> = [
            self.program.as_ref().map(|program| ("program", shown(program))),
            self.callback.map(|_| ("callback", "set".into())),
            self.function.as_ref().map(|function| ("function", shown(&function.name))),
        ]
        .into_iter()
        .flatten()
        .collect();
        match &set[..] {
            [] => {
                return Err(Error::config(
                    "program",
                    "unset",
                    "set a program, a callback or a function with ice_spec_set_program(), \
                     ice_spec_set_callback() or ice_spec_set_function()",
                ));
            }
            [_] => {}
            [(field, value), (other, _), ..] => {
                let want =
                    format!("a {other} is set too; a worker is either a program, a callback or a function");
                return Err(Error::config(field, value, want));
            }
        }
        if self.program.is_none() && !self.args.is_empty() {
            let want = "a function takes no arguments, pass them with ice_spec_set_argument()";
            return Err(Error::config("args", self.args.len(), want));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EnvEdit, StreamMap};
    use super::*;

    fn program() -> Spec {
        Spec { program: Some(c"/bin/true".into()), ..Spec::default() }
    }

    fn message(result: Result<Checked, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn cfg_04_exactly_one_of_program_and_callback() {
        assert!(message(Spec::default().check(|_| None)).contains("program is unset"));
        assert!(program().check(|_| None).is_ok());
    }

    #[test]
    fn cfg_08_shutdown_timeout_from_field_environment_and_default() {
        let env = |text: &'static str| {
            move |name: &str| (name.contains("SHUTDOWN")).then(|| text.as_bytes().to_vec())
        };
        let secs = |spec: &Spec, text| spec.check(env(text)).map(|c| c.shutdown_timeout.as_secs());
        let explicit = Spec { shutdown_timeout: Some(Duration::from_secs(120)), ..program() };
        assert_eq!(program().check(|_| None).unwrap().shutdown_timeout.as_secs(), 30);
        assert_eq!(secs(&explicit, "600"), Ok(120));
        assert_eq!(secs(&program(), "600"), Ok(600));
        assert_eq!(secs(&program(), "0"), Ok(0));
        for bad in ["abc", "-5", "", "inf", "nan"] {
            let error = secs(&program(), bad).unwrap_err().to_string();
            assert!(error.contains("TORCH_ELASTIC_SHUTDOWN_TIMEOUT"), "{error}");
        }
        assert!(seconds("shutdown_timeout", -5.0).unwrap_err().to_string().contains("-5"));
    }

    #[test]
    fn env_06_the_agent_serves_one_host_if_it_is_told_to_and_may() {
        let serves = |change: &dyn Fn(&mut Spec), env: &[(&str, &str)]| {
            let find =
                |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, v)| v.as_bytes().to_vec());
            let mut spec = Spec { agent_store: Some(true), ..program() };
            change(&mut spec);
            spec.check(find).unwrap().agent_store
        };
        let secret = [(STORE_SECRET_FILE, "/secret")];
        assert!(serves(&|_| (), &[]));
        assert!(!serves(&|spec| spec.agent_store = None, &[]));
        assert!(!serves(&|spec| spec.agent_store = Some(false), &[]));
        assert!(!serves(&|_| (), &[("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")]));
        assert!(!serves(&|_| (), &secret), "no client of PyTorch has it");
        assert!(serves(&|_| (), &[(STORE_SECRET_FILE, "")]));
        assert!(serves(&|spec| spec.clean_env = true, &secret), "no worker finds it");
        assert!(serves(&|spec| spec.env = vec![EnvEdit::Unset(STORE_SECRET_FILE.into())], &secret));
    }

    #[test]
    fn cfg_16_absent_ranks_are_an_error_unless_they_are_allowed() {
        let tee = StreamMap::parse("tee", "0:3,9:3").unwrap();
        let mut spec = Spec { local_world_size: 2, tee, ..program() };
        assert!(message(spec.check(|_| None)).contains("tee is 9"));
        spec.allow_absent_ranks = true;
        spec.local_ranks_filter = Some(LocalRanks::parse("local_ranks_filter", "1,2").unwrap());
        assert!(spec.check(|_| None).is_ok());
        assert_eq!(spec.absent_ranks().collect::<Vec<_>>(), [("tee", 9), ("local_ranks_filter", 2)]);
        assert_eq!(spec.file_streams(0), Streams::BOTH);
    }

    #[test]
    fn time_14_the_limit_is_torchs_and_garbage_means_none() {
        let limit = |spec: &Spec, text: &'static str| {
            let env = |name: &str| name.contains("UNINTERRUPTIBLE").then(|| text.as_bytes().to_vec());
            spec.check(env).unwrap().uninterruptible_timeout
        };
        assert_eq!(limit(&program(), "2.5"), Some(Duration::from_millis(2500)));
        for off in ["", "0", "-3", "abc", "nan", "inf", "3 s"] {
            assert_eq!(limit(&program(), off), None, "{off}");
        }
        let own = |seconds| Spec { uninterruptible_timeout: Some(Duration::from_secs(seconds)), ..program() };
        assert_eq!(limit(&own(7), "2"), Some(Duration::from_secs(7)));
        assert_eq!(limit(&own(0), "2"), None);
    }

    #[test]
    fn time_01_file_timers_are_on_as_torch_has_it() {
        let on = |spec: &Spec, text: &'static str| {
            let env = |name: &str| name.contains("ENABLE").then(|| text.as_bytes().to_vec());
            spec.check(env).unwrap().file_timers
        };
        assert_eq!(["1", "0", "", "true"].map(|text| on(&program(), text)), [true, false, false, false]);
        assert!(!program().check(|_| None).unwrap().file_timers);
        let said = |file_timers| Spec { file_timers: Some(file_timers), ..program() };
        assert_eq!((on(&said(true), "0"), on(&said(false), "1")), (true, false));
    }
}
