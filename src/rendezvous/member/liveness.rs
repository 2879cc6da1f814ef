//! The liveness of the nodes: each counts up a heartbeat; the leader looks at those of all, the others at the leader's, and
//! one of them leads where it has vanished.

use std::time::Duration;

use super::{ANCHOR, Anchor, Chain, INBOX, Part, Stage, inbox_key, state_key};
use crate::error::Error;
use crate::moment::Moment;
use crate::rendezvous::backend::{beat_key, create, parse_number};
use crate::rendezvous::leader::{Leader, Missed};
use crate::rendezvous::state::{Message, Phase, decode, encode};
use crate::sys::process::monotonic;

impl Part {
    /// Counts up this node's heartbeat when it is time, and looks at those of the nodes that matter to it.
    pub(super) fn beat(&mut self) -> Result<(), Error> {
        let now = monotonic();
        if self.beat_at > now {
            return Ok(());
        }
        let stood_still = self.stood_still(now);
        self.beat_at = now + self.settings.options.keep_alive_interval;
        self.beat += 1;
        self.backend.put(&beat_key(&self.node.id), self.beat.to_string().as_bytes())?;
        if self.is_behind()? {
            return self.enter();
        }
        if stood_still {
            // The whole machine may have, with all the others on it: none counts as vanished before it could beat again.
            self.leaders_beat.1 = now;
            self.leader.iter_mut().for_each(|leader| leader.give_back(Duration::ZERO, now));
        }
        if self.leader.is_some() { self.look_at_all(now) } else { self.look_at_leader(now) }
    }

    /// Whether a heartbeat is overdue.
    fn stood_still(&self, now: Moment) -> bool {
        self.beat > 0 && now >= self.beat_at + self.settings.options.keep_alive_interval
    }

    /// Whether the chain went on without this node, which stood still: further than old states are kept, it may be.
    fn is_behind(&mut self) -> Result<bool, Error> {
        let Some(number) = self.chain.as_ref().map(|chain| chain.number) else { return Ok(false) };
        if let Some(found) = self.backend.get(ANCHOR)?
            && decode::<Anchor>(&found.value, "anchor")?.state > number
        {
            return Ok(true);
        }
        // A leader does not wait for the next state, which somebody else may have written in its place.
        Ok(self.leader.is_some() && self.backend.get(&state_key(number + 1))?.is_some())
    }

    fn counter(&mut self, id: &str) -> Result<Option<u64>, Error> {
        let found = self.backend.get(&beat_key(id))?;
        Ok(found.and_then(|found| String::from_utf8_lossy(&found.value).parse().ok()))
    }

    /// Takes note of nodes whose way to the place has ended. They may come back at once.
    pub(super) fn hear_losses(&mut self) {
        let now = monotonic();
        if self.stood_still(now) {
            self.thawed = Some(now);
        }
        let losses = std::mem::take(&mut *self.shared.losses.lock());
        // Those who had no answer while this agent stood still have given their connections up, and are not back yet: their
        // heartbeats will tell.
        let limit = self.settings.rules.dead_after;
        if self.thawed.is_some_and(|thawed| now.saturating_sub(thawed) < limit) {
            return;
        }
        let leads = self.chain.as_ref().and_then(|chain| chain.state.leader.clone());
        for (id, beat) in losses {
            match &mut self.leader {
                _ if id == self.node.id => {}
                Some(leader) => leader.lost(&id, beat, now),
                None if leads.as_ref() == Some(&id) => self.lost_leader = Some((id, beat, now)),
                None => self.outbox.push_back(Message::Lost { id, beat }),
            }
        }
    }

    /// Looks at the heartbeats of those who are about to be missed as their way to the place has ended.
    pub(super) fn look_at_doubted(&mut self) -> Result<(), Error> {
        let Some(leader) = &self.leader else { return Ok(()) };
        for id in leader.doubted(monotonic()).map(String::from).collect::<Vec<_>>() {
            if let (Some(counter), Some(leader)) = (self.counter(&id)?, &mut self.leader) {
                leader.saw(&id, counter, monotonic());
            }
        }
        Ok(())
    }

    /// Whether the leader's way to the place has ended, and it has not come back.
    fn is_leader_lost(&mut self) -> Result<bool, Error> {
        let Some((id, beat, since)) = self.lost_leader.clone() else { return Ok(false) };
        if monotonic().saturating_sub(since) < self.settings.rules.reconnect {
            return Ok(false);
        }
        let leads = self.chain.as_ref().and_then(|chain| chain.state.leader.as_ref()) == Some(&id);
        let is_lost = leads && self.counter(&id)?.is_none_or(|counter| counter <= beat);
        if !is_lost {
            self.lost_leader = None;
        }
        Ok(is_lost)
    }

    fn look_at_all(&mut self, now: Moment) -> Result<(), Error> {
        let Some(leader) = &self.leader else { return Ok(()) };
        let taken = leader.taken();
        for id in leader.watched().map(String::from).collect::<Vec<_>>() {
            if let (Some(counter), Some(leader)) = (self.counter(&id)?, &mut self.leader) {
                leader.saw(&id, counter, now);
            }
        }
        // Somebody took a place in the inbox and died before its message was there: those behind it are not to wait.
        if let Some(found) = self.backend.get(INBOX)?
            && parse_number(INBOX, &found.value)? > taken + 1
        {
            create(&mut *self.backend, &inbox_key(taken), &encode(&Message::Void))?;
        }
        Ok(())
    }

    fn look_at_leader(&mut self, now: Moment) -> Result<(), Error> {
        let Some(id) = self.chain.as_ref().and_then(|chain| chain.state.leader.clone()) else {
            return Ok(());
        };
        let counter = self.counter(&id)?;
        if counter.is_some() && counter != self.leaders_beat.0 {
            self.leaders_beat = (counter, now);
        }
        Ok(())
    }

    /// Leads, if nobody does and this node needs somebody who does.
    pub(super) fn take_over(&mut self) -> Result<(), Error> {
        let is_gone = self.is_leader_lost()?;
        let Some(Chain { state, number }) = &self.chain else { return Ok(()) };
        let takes_part = !matches!(self.stage, Stage::Idle | Stage::Out);
        let has_ended = matches!(state.phase, Phase::Ended(_));
        let mut all = state.nodes.iter().chain(&state.joined).chain(&state.spares);
        let leader = all.find(|node| Some(&node.id) == state.leader.as_ref());
        let limit = Duration::from_millis(leader.map_or(0, |leader| leader.dead_after_ms));
        let limit = limit.max(self.settings.rules.dead_after);
        let is_lost = is_gone || monotonic().saturating_sub(self.leaders_beat.1) >= limit;
        let is_free = state.leader.is_none() || is_lost;
        if self.leader.is_some() || !takes_part || has_ended || !is_free || !self.backend.may_lead() {
            return Ok(());
        }
        let number = *number;
        // It may be that there is another one already.
        if let Some(found) = self.backend.get(&state_key(number + 1))? {
            return self.adopt(number + 1, &found.value);
        }
        let (rules, lost) = (self.settings.rules.clone(), state.leader.clone());
        self.leader = Some(Leader::new(rules, &self.node.id, state.clone(), monotonic()));
        self.lead()?;
        if let (Some(leader), Some(lost)) = (&mut self.leader, lost) {
            let missed = if is_gone { Missed::Lost } else { Missed::Silent };
            leader.miss(&lost, missed, monotonic());
            self.publish()?;
        }
        self.judge();
        Ok(())
    }
}
