//! Hosts that come, and are lost or of no use, again and again. Each time costs all others a round, so such a host waits for
//! its next place, and has to be there as long as it waits. Who leaves in an orderly way has been asked to.

use std::time::Duration;

use super::{Leader, Node};
use crate::moment::Moment;
use crate::rendezvous::state::Phase;

/// A newcomer that is gone before has come for nothing.
const SHORT: Duration = Duration::from_secs(60);
/// How long a host waits that has done so once, and at most: each further time twice as long.
const PAUSES: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(480));
/// How many such hosts are remembered.
const HOSTS: usize = 64;

fn pause(times: u32) -> Duration {
    let doubled = PAUSES.0.saturating_mul(1 << (times - 1).min(16));
    doubled.min(PAUSES.1)
}

impl Leader {
    /// Whether a node may have a place now. One that is needed may in any case.
    pub(super) fn is_welcome(&self, node: &Node) -> bool {
        !self.waiting.contains_key(&node.id)
    }

    /// A node has come that was not there before.
    pub(super) fn greet(&mut self, node: &Node, now: Moment) {
        let is_known = self.state.nodes.iter().any(|known| known.id == node.id);
        if let Some(&times) = self.state.flaps.get(node.host()).filter(|_| !is_known) {
            self.waiting.entry(node.id.clone()).or_insert(now.saturating_add(pause(times)));
        }
    }

    /// Those that have waited long enough may have a place.
    pub(super) fn end_waits(&mut self, now: Moment) {
        let count = self.waiting.len();
        self.waiting.retain(|_, until| *until > now);
        if self.waiting.len() < count {
            self.admit(now);
        }
    }

    /// These take part from now on.
    pub(super) fn note_newcomers(&mut self, before: &[String], now: Moment) {
        // Who begins a job has come to nobody.
        let is_first = before.is_empty();
        for node in self.state.nodes.iter().filter(|node| !is_first && !before.contains(&node.id)) {
            self.since.insert(node.id.clone(), now);
        }
    }

    /// A node is gone, and not because it was asked to leave.
    pub(super) fn note_gone(&mut self, id: &str, now: Moment) {
        let Some(node) = self.state.nodes.iter().find(|node| node.id == id) else { return };
        // One that another leader has let in counts as one that was there.
        let Some(since) = self.since.remove(&node.id) else { return };
        if now.saturating_sub(since) >= SHORT {
            self.state.flaps.remove(node.host());
        } else if self.state.flaps.len() < HOSTS || self.state.flaps.contains_key(node.host()) {
            *self.state.flaps.entry(node.host().into()).or_default() += 1;
        }
    }

    /// A spare has a place from the next round on, if there is one.
    pub(super) fn admit(&mut self, now: Moment) {
        let has_room = !self.rules.fixed && self.state.nodes.len() < self.rules.max_nodes;
        let spare = self.state.spares.iter().rev().find(|spare| self.is_welcome(spare));
        if let (Phase::Complete, true, Some(spare)) = (&self.state.phase, has_room, spare) {
            self.change(super::Why::Membership(format!("{} has come", spare.name)), None, now);
        }
    }
}
