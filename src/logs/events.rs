//! Where events go: by their source to a file, to the console or nowhere, and all of them to the host's callback.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::console::{Console, Flushed};
use crate::error::{Error, c_string_lossy};
use crate::report::event::Event;
use crate::spec::{EventCallback, EventHandler, EventSource, Spec};
use crate::sys::{fd, terminal};

/// The files and consoles of a run's events, each once, and which of them each source has.
#[derive(Default)]
pub struct Places {
    opened: Vec<OwnedFd>,
    of: [Option<usize>; EventSource::ALL.len()],
}

impl Places {
    /// And what went wrong with the first that cannot be opened, if one cannot.
    pub fn open(spec: &Spec, working_dir: Option<&Path>) -> (Places, Option<Error>) {
        let (mut places, mut handlers, mut error) = (Places::default(), Vec::new(), None);
        for source in EventSource::ALL {
            let handler = match spec.event_handler(source) {
                None | Some(EventHandler::Null) => continue,
                Some(handler) => handler,
            };
            let known = handlers.iter().position(|known| *known == handler);
            if known.is_none() {
                match open(spec, handler, working_dir) {
                    Ok(opened) => places.opened.push(opened),
                    Err(failed) => {
                        error.get_or_insert(failed);
                        continue;
                    }
                }
                handlers.push(handler);
            }
            places.of[source as usize] = known.or(Some(handlers.len() - 1));
        }
        (places, error)
    }

    pub fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }
}

/// A pipe must have a reader.
fn open(spec: &Spec, handler: &EventHandler, working_dir: Option<&Path>) -> Result<OwnedFd, Error> {
    let EventHandler::File(path) = handler else {
        return fd::duplicate(spec.console.1)
            .or_else(|_| fd::null())
            .map_err(|errno| Error::system("cannot open the console for events", errno as i32));
    };
    let path = working_dir.map_or(path.clone(), |directory| directory.join(path));
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY;
    let failed =
        |errno| Error::system(format!("cannot open the event file {}", path.display()), errno as i32);
    fd::open(&path, flags, 0o664).map_err(failed)
}

/// The same for the thread that writes them.
pub struct Events {
    callback: Option<EventCallback>,
    /// None for one that is the terminal of the console.
    places: Vec<Option<Console>>,
    of: [Option<usize>; EventSource::ALL.len()],
    /// How often one has not taken any.
    lost: u64,
}

impl Events {
    pub fn new(spec: &Spec, places: &Places) -> Result<Events, Errno> {
        let console = spec.console.1;
        let open = |file: &OwnedFd| match terminal::is_same(file.as_raw_fd(), console) {
            true => Ok(None),
            false => Console::new(file.as_raw_fd()).map(Some),
        };
        let opened = places.opened.iter().map(open).collect::<Result<_, Errno>>()?;
        Ok(Events { callback: spec.event_callback, places: opened, of: places.of, lost: 0 })
    }

    pub fn take(&mut self, event: Event, console: &mut Console) {
        if let Some(place) = self.of[event.source as usize] {
            let place = self.places[place].as_mut().unwrap_or(console);
            if place.is_gone() || place.is_full() {
                self.lost += 1;
            } else {
                place.add_line(event.line.as_bytes());
            }
        }
        if let Some(callback) = self.callback {
            let text: CString = c_string_lossy(event.line.trim_end().as_bytes());
            (callback.function)(callback.user_data.0 as *mut std::ffi::c_void, text.as_ptr());
        }
    }

    /// What is wrong, once.
    pub fn flush(&mut self) -> Option<String> {
        let mut wrong = None;
        for place in self.places.iter_mut().flatten() {
            match place.flush() {
                Flushed::All | Flushed::Stuck => {}
                Flushed::Failed(_, false) => {}
                Flushed::Gone(errno) | Flushed::Failed(errno, true) => {
                    self.lost += 1;
                    if self.lost == 1 {
                        wrong = Some(format!("the event file takes no more events: {}", errno.desc()));
                    }
                }
            }
        }
        wrong
    }

    /// What is missing, at the end, of what a full disk did not take.
    pub fn total(&self) -> Option<String> {
        let totals: Vec<String> = self.places().filter_map(|place| place.lost().total()).collect();
        (!totals.is_empty()).then(|| format!("{} of events are missing", totals.join(" and ")))
    }

    /// What may have to be waited for.
    pub fn places(&self) -> impl Iterator<Item = &Console> {
        self.places.iter().flatten()
    }
}
