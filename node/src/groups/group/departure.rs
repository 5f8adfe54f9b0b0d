//! How members go: they leave, their sessions end, their ids expire; and what time alone does besides.

use kafka_protocol::error::ResponseError;

use super::{Effect, Group, INITIAL_REBALANCE_DELAY_MS, JoinRefused, Member, Now, State};

impl Group {
    /// Takes a member out; a static one may be named by its instance id alone.
    pub fn leave(&mut self, member_id: &str, instance_id: Option<&str>, now: Now, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        let id = match instance_id.map(|instance| self.static_members.get(instance)) {
            Some(None) => return Err(ResponseError::UnknownMemberId),
            Some(Some(known)) if !member_id.is_empty() && known != member_id => return Err(ResponseError::FencedInstanceId),
            Some(Some(known)) => known.clone(),
            None => member_id.to_owned(),
        };
        if self.pending.remove(&id).is_some() {
            if self.state == State::PreparingRebalance {
                self.finish_join_if_all(now, effects);
            }
            return Ok(());
        }
        if !self.members.contains_key(&id) {
            return Err(ResponseError::UnknownMemberId);
        }
        self.remove_members(&[id], now, effects);
        Ok(())
    }

    fn remove_members(&mut self, ids: &[String], now: Now, effects: &mut Vec<Effect>) {
        for id in ids {
            let Some(member) = self.members.remove(id) else { continue };
            if let Some(ticket) = member.join {
                let refused = JoinRefused { error: ResponseError::UnknownMemberId, member_id: id.clone() };
                effects.push(Effect::Join { ticket, answer: Err(refused) });
            }
            if let Some(ticket) = member.sync {
                effects.push(Effect::Sync { ticket, answer: Err(ResponseError::UnknownMemberId) });
            }
            if let Some(instance) = member.instance_id {
                self.static_members.remove(&instance);
            }
            if self.leader.as_ref() == Some(id) {
                self.leader = self.members.keys().next().cloned();
            }
        }
        match self.state {
            State::Stable | State::CompletingRebalance | State::PreparingRebalance => self.rebalance(now, effects),
            State::Empty | State::Dead => {}
        }
    }

    /// Gives every member a whole session from now; after loading.
    pub fn wake(&mut self, now: Now) {
        for member in self.members.values_mut() {
            member.touch(now);
        }
    }

    /// What time alone does: sessions end, ids expire, phases close.
    pub fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let before = self.pending.len();
        self.pending.retain(|_, deadline_ms| *deadline_ms > now.monotonic_ms);
        if self.pending.len() < before && self.state == State::PreparingRebalance {
            self.finish_join_if_all(now, effects);
        }
        // Whoever never asks for its assignment keeps the others from their work, heartbeats or not.
        let late = self.sync_deadline_ms.is_some_and(|deadline| deadline <= now.monotonic_ms);
        if late {
            self.sync_deadline_ms = None;
        }
        let ended = |member: &Member| (member.session_deadline_ms <= now.monotonic_ms && !member.waits()) || (late && !member.synced);
        let gone = self.members.iter().filter(|(_, member)| ended(member)).map(|(id, _)| id.clone()).collect::<Vec<_>>();
        if !gone.is_empty() {
            self.remove_members(&gone, now, effects);
        }
        self.tick_join_phase(now, effects);
    }

    fn tick_join_phase(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(phase) = self.join_phase.as_mut().filter(|phase| phase.deadline_ms <= now.monotonic_ms) else { return };
        match phase.initial_remaining_ms {
            Some(remaining_ms) if phase.newcomer && remaining_ms > 0 => {
                let delay_ms = INITIAL_REBALANCE_DELAY_MS.min(remaining_ms);
                phase.deadline_ms = now.monotonic_ms + delay_ms;
                phase.initial_remaining_ms = Some(remaining_ms - delay_ms);
                phase.newcomer = false;
            }
            _ => {
                self.pending.retain(|_, deadline_ms| *deadline_ms > now.monotonic_ms);
                self.finish_join(now, effects);
            }
        }
    }
}
