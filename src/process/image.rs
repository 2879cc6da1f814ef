//! Which program a function of a new process runs in: the host's own, executed again, or the library's
//! file, or one that the spec names.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::channel::Channel;
use super::function::{Order, Signals};
use super::host;
use crate::error::Error;
use crate::spec::Spec;
use crate::sys::dispositions;
use crate::sys::library::{OwnProgram, can_load, own_program};

#[derive(Debug, PartialEq)]
pub struct Image {
    pub path: CString,
    pub argv: Vec<CString>,
    pub order: Order,
}

impl Image {
    /// `working_dir` is the host's.
    pub fn of(spec: &Spec, working_dir: Option<&Path>) -> Result<Image, Error> {
        let Some(function) = &spec.function else {
            return Err(Error::Internal { what: "a new process without a function".into() });
        };
        let library = function.library.as_ref().map(|library| absolute(library, working_dir));
        let (path, argv, title) = match &library {
            None => this_program_again(spec)?,
            Some(library) => clean_process(spec, library, &function.name)?,
        };
        let order = Order {
            library,
            name: function.name.clone(),
            warm_up: spec.warm_up.clone(),
            has_argument: spec.argument.is_some(),
            crash_records: spec.crash_records,
            title,
            signals: Signals {
                ignored: dispositions::set_of(spec.signals_of_agent()),
                shield: dispositions::set_of(spec.shield()),
            },
        };
        Ok(Image { path, argv, order })
    }

    /// The files to try.
    pub fn paths(&self) -> &[CString] {
        std::slice::from_ref(&self.path)
    }

    /// Tells the process at the other end what to run.
    pub fn tell(&self, channel: &Channel) -> Result<(), Error> {
        channel
            .tell(self.order.to_strings().iter().map(CString::as_c_str))
            .map_err(|errno| Error::system("cannot make memory for an order", errno as i32))
    }
}

/// A relative name of a shared object with a slash is meant from the host's directory.
fn absolute(library: &CString, working_dir: Option<&Path>) -> CString {
    let path = Path::new(OsStr::from_bytes(library.to_bytes()));
    match working_dir {
        Some(directory) if library.to_bytes().contains(&b'/') && path.is_relative() => {
            let path: OsString = directory.join(path).into_os_string();
            CString::new(path.into_vec()).unwrap_or_else(|_| library.clone())
        }
        _ => library.clone(),
    }
}

/// The very program that this process runs, though its file may have been removed or replaced.
fn this_program_again(spec: &Spec) -> Result<(CString, Vec<CString>, CString), Error> {
    let Some(argv) = host::arguments() else {
        return Err(Error::config(
            "start_method",
            spec.start_method().name(),
            "this program would be started again, but its main does not call ice_worker_main(): call that first \
             in main, or name a shared object that has the function",
        ));
    };
    let title = std::fs::read("/proc/self/comm").unwrap_or_default();
    let title = title.strip_suffix(b"\n").unwrap_or(&title);
    Ok((c"/proc/self/exe".into(), argv.to_vec(), crate::error::c_string_lossy(title)))
}

/// A process with nothing in it but the library and the shared object.
fn clean_process(
    spec: &Spec,
    library: &CString,
    name: &CString,
) -> Result<(CString, Vec<CString>, CString), Error> {
    // What ps(1) shows.
    let shown =
        CString::new([library.to_bytes(), b":", name.to_bytes()].concat()).unwrap_or_else(|_| name.clone());
    let (path, argv) = own_process(spec.runner.as_ref(), shown, "with ice_spec_set_runner()")
        .map_err(|why| Error::config("function", name.to_string_lossy(), why))?;
    Ok((path, argv, name.clone()))
}

/// A program whose process does what the library wants and loads what it needs, and its arguments, the
/// first of which is what ps(1) shows; or why there is none. `how` a runner is named.
pub fn own_process(
    runner: Option<&CString>,
    shown: CString,
    how: &str,
) -> Result<(CString, Vec<CString>), String> {
    if let Some(runner) = runner {
        return Ok((runner.clone(), vec![shown]));
    }
    match own_program() {
        OwnProgram::File { library, loader: None } => Ok((library, vec![shown])),
        OwnProgram::File { library, loader: Some(loader) } => Ok((loader, vec![shown, library])),
        OwnProgram::PartOfAnother if !can_load() => Err(format!(
            "this program is static and cannot load a shared object: name one that can, and that calls \
             ice_worker_main(), {how}"
        )),
        OwnProgram::PartOfAnother if host::arguments().is_some() => {
            Ok((c"/proc/self/exe".into(), vec![shown]))
        }
        OwnProgram::PartOfAnother => Err(format!(
            "libice is linked statically here, so it has no file that could be a program of its own: name one \
             that calls ice_worker_main() {how}, or call it first in this program's main"
        )),
        OwnProgram::Deleted(path) => {
            Err(format!("{} was removed or replaced since it was loaded", path.display()))
        }
        OwnProgram::Unknown => Err("the file of libice cannot be found in /proc/self/maps".into()),
    }
}
