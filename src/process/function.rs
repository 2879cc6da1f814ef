//! A function as a worker: what a new process is told, and the call itself, in whatever process it is made.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use super::channel::{Strings, WorkerEnd};
use crate::control::page::Page;
use crate::control::worker::Control;
use crate::ranks::Rank;
use crate::spec::Callback;
use crate::sys::{child, crash, library};

/// The exit code of a process that could not begin, and says why in its channel.
pub const NOT_STARTED: i32 = 127;

/// What a process that was executed for it is told to run.
#[derive(Debug, PartialEq, Clone)]
pub struct Order {
    /// A shared object; none for functions that the program registered.
    pub library: Option<CString>,
    pub name: CString,
    pub warm_up: Option<CString>,
    pub has_argument: bool,
    pub crash_records: bool,
    /// The name that the process shows.
    pub title: CString,
    /// For a process that forks workers.
    pub signals: Signals,
}

/// Sets of signals, bit n - 1 for signal n.
#[derive(Debug, PartialEq, Clone, Copy, Default)]
pub struct Signals {
    /// What the process that forks workers was started to ignore.
    pub ignored: u64,
    /// What its workers are to ignore.
    pub shield: u64,
}

impl Signals {
    fn to_string(self) -> CString {
        crate::error::c_string_lossy(format!("{} {}", self.ignored, self.shield).as_bytes())
    }

    fn parse(text: &CStr) -> Option<Signals> {
        let (ignored, shield) = text.to_str().ok()?.split_once(' ')?;
        Some(Signals { ignored: ignored.parse().ok()?, shield: shield.parse().ok()? })
    }
}

impl Order {
    pub fn to_strings(&self) -> [CString; 7] {
        let flag = |on| if on { c"1" } else { c"" }.to_owned();
        [
            self.library.clone().unwrap_or_default(),
            self.name.clone(),
            self.warm_up.clone().unwrap_or_default(),
            flag(self.has_argument),
            flag(self.crash_records),
            self.title.clone(),
            self.signals.to_string(),
        ]
    }

    pub fn from_strings(strings: &Strings) -> Option<Order> {
        let strings: Vec<&CStr> = strings.iter().collect();
        let [library, name, warm_up, argument, crash, title, signals] =
            <[&CStr; 7]>::try_from(strings).ok()?;
        let optional = |string: &CStr| (!string.is_empty()).then(|| string.to_owned());
        Some(Order {
            library: optional(library),
            name: name.to_owned(),
            warm_up: optional(warm_up),
            has_argument: !argument.is_empty(),
            crash_records: !crash.is_empty(),
            title: title.to_owned(),
            signals: Signals::parse(signals)?,
        })
    }

    /// The functions it names: the worker's and that of the warm-up.
    pub fn resolve(&self) -> Result<(Callback, Option<Callback>), String> {
        let names: Vec<&CStr> = [Some(&self.name), self.warm_up.as_ref()]
            .into_iter()
            .flatten()
            .map(|name| name.as_c_str())
            .collect();
        let found = match &self.library {
            None => names.into_iter().map(super::registry::find).collect::<Result<Vec<_>, _>>()?,
            Some(library) => library::functions(library, &names)
                .map_err(|error| format!("cannot load a function of a shared object: {error}"))?,
        };
        Ok((found[0], found.get(1).copied()))
    }
}

/// What an `ice_worker` handle points to.
pub struct WorkerSide {
    /// None in the server that forks workers, during its warm-up.
    pub rank: Option<Rank>,
    pub restarts: u32,
    pub argument: Option<&'static [u8]>,
    /// None in a program, which has no value to return.
    pub end: Option<WorkerEnd>,
    pub control: Control,
}

impl WorkerSide {
    /// Calls a function with this as its handle.
    pub fn call(&self, callback: Callback) -> i32 {
        let worker = std::ptr::from_ref(self).cast_mut().cast();
        crate::sys::call::outermost(callback.function, worker, callback.user_data.0 as *mut std::ffi::c_void)
    }
}

/// What a worker finds when its function is called.
pub struct Surroundings {
    pub argument: Option<&'static [u8]>,
    pub crash_records: bool,
    /// The page of the attempt, if there is one.
    pub page: Option<Arc<Page>>,
}

/// Runs the function in its worker; the result is the exit code.
pub fn run(callback: Callback, end: WorkerEnd, surroundings: Surroundings) -> i32 {
    const OUT_OF_RANGE: i32 = 255;
    let Surroundings { argument, crash_records, page } = surroundings;
    if crash_records {
        watch_for_crashes();
    }
    let rank = end.rank();
    let control = page.map_or_else(Control::default, |page| Control::new(page, rank.local));
    end.enter();
    let side = WorkerSide { rank: Some(rank), restarts: end.restarts(), argument, end: Some(end), control };
    let code = side.call(callback);
    side.end.iter().for_each(WorkerEnd::leave);
    if (0..=255).contains(&code) { code } else { OUT_OF_RANGE }
}

/// What a handler could not do: once, where workers are forked in the process that forks them.
pub fn prepare_crash_records(crash_records: bool) {
    if crash_records {
        crash::prepare();
    }
}

/// The same in a process that does nothing but fork workers.
pub fn prepare_crash_records_of_children(crash_records: bool) {
    if crash_records {
        crash::prepare();
        crash::install_for_children();
    }
}

fn watch_for_crashes() {
    if let Some(path) = child::variable(c"TORCHELASTIC_ERROR_FILE").filter(|path| !path.is_empty()) {
        crash::install(path);
    }
}
