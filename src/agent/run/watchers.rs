//! The two watchers of a run, which end what workers have started when the host has died, and the table of what they
//! have to know.

use std::path::Path;
use std::sync::atomic::AtomicI32;

use nix::errno::Errno;

use super::context::Context;
use super::descendants::Descendants;
use super::wake::Wake;
use crate::process::watcher::{Name, Table, Watcher, WatcherRole};
use crate::spec::Level;

#[derive(Default)]
pub struct Watchers {
    first: Option<Watcher>,
    second: Option<Watcher>,
    /// The process groups of the workers, by local rank, and after them that of the fork server.
    table: Option<Table>,
}

impl Watchers {
    /// Before any worker is there.
    pub fn start(&mut self, context: &Context, descendants: &mut Descendants) {
        // One more slot for a fork server.
        let slots = context.spec.local_world_size + 1;
        let table = self
            .table
            .take()
            .map_or_else(|| Table::new(slots, descendants.mark(), &context.directories()), Ok);
        let started = table.and_then(|table| {
            let watcher = add(context, descendants, WatcherRole::First, &table)?;
            Ok((table, watcher))
        });
        match started {
            Ok((table, watcher)) => (self.table, self.first) = (Some(table), Some(watcher)),
            Err(errno) => context.log(Level::Warning, || {
                format!(
                    "no watcher ({}): if this host is killed, descendants of workers may outlive it",
                    errno.desc()
                )
            }),
        }
    }

    /// Whether there was ever one.
    pub fn are_there(&self) -> bool {
        self.table.is_some()
    }

    /// Once the workers run, so that none of them has to wait for it.
    pub fn start_second(&mut self, context: &Context, descendants: &mut Descendants) {
        if let (None, Some(table)) = (&self.second, &self.table) {
            // The second only helps where somebody kills the first: without it the run goes on.
            self.second = add(context, descendants, WatcherRole::Second, table).ok();
        }
    }

    /// Somebody killed the watcher: another one takes its place, with what it has to know.
    pub fn replace_first(&mut self, context: &Context, descendants: &mut Descendants) {
        let Some(watcher) = self.first.take() else { return };
        if !forget(context, descendants, &watcher) {
            let text =
                "the watcher cannot start: if this host is killed, descendants of workers may outlive it";
            return context.log(Level::Warning, || text.into());
        }
        context.log(Level::Warning, || "the watcher process was killed by somebody: starting another".into());
        self.start(context, descendants);
    }

    pub fn replace_second(&mut self, context: &Context, descendants: &mut Descendants) {
        let Some(keeper) = self.second.take() else { return };
        if forget(context, descendants, &keeper) {
            context
                .log(Level::Warning, || "the second watcher was killed by somebody: starting another".into());
            self.start_second(context, descendants);
        }
    }

    /// What has this name is not to outlive the host.
    pub fn name(&self, context: &Context, name: Name, path: Option<&Path>) {
        if let Some(table) = &self.table {
            let working_dir = context.host.working_dir.as_deref().unwrap_or(Path::new("/"));
            table.name(name, path.map(|path| working_dir.join(path)).as_deref());
        }
    }

    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// Where a worker notes its group at its birth.
    pub fn slot(&self, index: usize) -> Option<&AtomicI32> {
        self.table.as_ref().map(|table| table.slot(index))
    }

    pub fn note(&self, slot: usize, group: i32) {
        if let Some(table) = &self.table {
            table.note(slot, group);
        }
    }
}

fn add(
    context: &Context,
    descendants: &mut Descendants,
    role: WatcherRole,
    table: &Table,
) -> Result<Watcher, Errno> {
    let watcher = Watcher::start(role, table, &context.directories())?;
    let wake = if role == WatcherRole::First { Wake::Watcher } else { Wake::Keeper };
    let _ = context.poll.add(watcher.pidfd(), wake);
    descendants.add_helper(watcher.pid());
    Ok(watcher)
}

/// Whether one that has ended could have been started at all.
fn forget(context: &Context, descendants: &mut Descendants, watcher: &Watcher) -> bool {
    context.poll.delete(watcher.pidfd());
    descendants.forget_helper(watcher.pid());
    !watcher.could_not_start()
}
