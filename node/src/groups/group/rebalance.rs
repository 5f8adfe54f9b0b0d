//! How a group's generations follow one another: join, choice of protocol, assignment.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::{
    Effect, GROUP_BYTES_MAX, Group, INITIAL_REBALANCE_DELAY_MS, Join, JoinAnswer, JoinPhase, JoinRefused, Joined, MEMBERS_MAX, Member, Now,
    State, Sync, Synced, Then, Ticket,
};

impl Group {
    pub fn join(&mut self, ticket: Ticket, join: Join, now: Now, effects: &mut Vec<Effect>) {
        self.active_wall_ms = now.wall_ms;
        let member_id = join.member_id.clone();
        if let Err(error) = self.try_join(ticket, join, now, effects) {
            effects.push(Effect::Join { ticket, answer: Err(JoinRefused { error, member_id }) });
        }
    }

    fn try_join(&mut self, ticket: Ticket, join: Join, now: Now, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        let known = self.members.contains_key(&join.member_id);
        if !known && self.members.len() + self.pending.len() >= MEMBERS_MAX && !self.pending.contains_key(&join.member_id) {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if !self.supports(&join) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let offered = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum::<usize>();
        let present =
            self.members.iter().filter(|(id, _)| **id != join.member_id).map(|(_, member)| member.metadata_bytes()).sum::<usize>();
        if offered + present > GROUP_BYTES_MAX {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        match (join.member_id.is_empty(), join.instance_id.clone()) {
            (true, Some(instance)) => match self.static_members.get(&instance).cloned() {
                Some(old_id) => self.replace_static(ticket, old_id, join, now, effects),
                None => {
                    let id = join.fresh_member_id.clone();
                    self.add_member(ticket, id, join, now, effects);
                }
            },
            (true, None) if join.requires_known_id => {
                let id = join.fresh_member_id;
                self.pending.insert(id.clone(), now.monotonic_ms + i64::from(join.session_timeout_ms));
                effects.push(Effect::Join { ticket, answer: Err(JoinRefused { error: ResponseError::MemberIdRequired, member_id: id }) });
            }
            (true, None) => {
                let id = join.fresh_member_id.clone();
                self.add_member(ticket, id, join, now, effects);
            }
            (false, None) if self.pending.contains_key(&join.member_id) => {
                let id = join.member_id.clone();
                self.pending.remove(&id);
                self.add_member(ticket, id, join, now, effects);
            }
            (false, instance) => {
                self.validate(&join.member_id, instance.as_deref())?;
                self.rejoin(ticket, join, now, effects)?;
            }
        }
        Ok(())
    }

    /// A member that the group knows joins again.
    fn rejoin(&mut self, ticket: Ticket, join: Join, now: Now, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        let unchanged = self.members.get(&join.member_id).is_some_and(|member| member.protocols == join.protocols);
        let leads = self.leader.as_deref() == Some(join.member_id.as_str());
        match self.state {
            State::Empty | State::Dead => return Err(ResponseError::UnknownMemberId),
            // Its answer was lost: the same again.
            State::CompletingRebalance if unchanged => {
                let answer = self.joined(&join.member_id, leads);
                effects.push(Effect::Join { ticket, answer: Ok(answer) });
            }
            State::Stable if unchanged && !leads => {
                let answer = self.joined(&join.member_id, false);
                effects.push(Effect::Join { ticket, answer: Ok(answer) });
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                let id = join.member_id.clone();
                self.update_member(ticket, &id, join, now, effects);
                self.rebalance(now, effects);
                return Ok(());
            }
        }
        if let Some(member) = self.members.get_mut(&join.member_id) {
            member.touch(now);
        }
        Ok(())
    }

    fn update_member(&mut self, ticket: Ticket, id: &str, join: Join, now: Now, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.protocols = join.protocols;
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.touch(now);
        if let Some(replaced) = member.join.replace(ticket) {
            let refused = JoinRefused { error: ResponseError::RebalanceInProgress, member_id: id.to_owned() };
            effects.push(Effect::Join { ticket: replaced, answer: Err(refused) });
        }
    }

    fn add_member(&mut self, ticket: Ticket, id: String, join: Join, now: Now, effects: &mut Vec<Effect>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        if let Some(instance) = &join.instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        let mut member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            session_deadline_ms: 0,
            join: Some(ticket),
            sync: None,
            synced: false,
        };
        member.touch(now);
        self.members.insert(id.clone(), member);
        self.leader.get_or_insert(id);
        if let Some(phase) = &mut self.join_phase {
            phase.newcomer = true;
        }
        self.rebalance(now, effects);
    }

    /// A static member came back without its id: it gets a new one and the old one is fenced. In a stable group that would choose the same
    /// protocol again nothing else changes.
    fn replace_static(&mut self, ticket: Ticket, old_id: String, join: Join, now: Now, effects: &mut Vec<Effect>) {
        let Some(mut member) = self.members.remove(&old_id) else { return };
        let id = join.fresh_member_id.clone();
        if let Some(fenced) = member.join.take() {
            let refused = JoinRefused { error: ResponseError::FencedInstanceId, member_id: old_id.clone() };
            effects.push(Effect::Join { ticket: fenced, answer: Err(refused) });
        }
        if let Some(fenced) = member.sync.take() {
            effects.push(Effect::Sync { ticket: fenced, answer: Err(ResponseError::FencedInstanceId) });
        }
        if let Some(instance) = &join.instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        self.members.insert(id.clone(), member);
        let leads = self.leader.as_deref() == Some(old_id.as_str());
        if leads {
            self.leader = Some(id.clone());
        }
        let may_skip = join.may_skip_assignment;
        self.update_member(ticket, &id, join, now, effects);
        if self.state == State::Stable && self.choose_protocol() == self.protocol {
            if let Some(member) = self.members.get_mut(&id) {
                member.join = None;
            }
            let mut answer = self.joined(&id, leads && may_skip);
            answer.skip_assignment = leads && may_skip;
            if leads && !may_skip {
                // An old client that finds itself leader would assign anew; the name of its former self keeps it a follower.
                answer.leader = old_id;
            }
            let then = Then::AnswerJoin { ticket, answer: Ok(answer) };
            effects.push(Effect::Store { group: self.snapshot(None, now), then });
        } else {
            self.rebalance(now, effects);
        }
    }

    fn joined(&self, member_id: &str, with_members: bool) -> Joined {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| (id.clone(), member.instance_id.clone(), member.subscription(protocol)));
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.to_owned(),
            skip_assignment: false,
            members: if with_members { members.collect() } else { Vec::new() },
        }
    }

    /// Does one of the protocols offered suit every member?
    fn supports(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id);
        let suits = |name: &String| others().all(|(_, member)| member.protocols.iter().any(|(offered, _)| offered == name));
        self.protocol_type.as_ref() == Some(&join.protocol_type) && join.protocols.iter().any(|(name, _)| suits(name))
    }

    /// Each member votes for the first of its protocols that all support; most votes win, the smaller name on a tie.
    fn choose_protocol(&self) -> Option<String> {
        let suits_all = |name: &str| self.members.values().all(|member| member.protocols.iter().any(|(offered, _)| offered == name));
        let mut votes = BTreeMap::<&str, usize>::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| suits_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = *votes.values().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// Starts a join phase unless one runs, and ends it at once when everyone is there.
    pub(super) fn rebalance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.state == State::PreparingRebalance {
            return self.finish_join_if_all(now, effects);
        }
        if self.state == State::CompletingRebalance {
            for member in self.members.values_mut() {
                member.assignment = Bytes::new();
                if let Some(ticket) = member.sync.take() {
                    // It could not heartbeat while it waited.
                    member.touch(now);
                    effects.push(Effect::Sync { ticket, answer: Err(ResponseError::RebalanceInProgress) });
                }
            }
        }
        let timeout_ms = self.rebalance_timeout_ms();
        let phase = if self.state == State::Empty {
            let delay_ms = INITIAL_REBALANCE_DELAY_MS.min(timeout_ms);
            let remaining_ms = timeout_ms - delay_ms;
            JoinPhase { deadline_ms: now.monotonic_ms + delay_ms, initial_remaining_ms: Some(remaining_ms), newcomer: false }
        } else {
            JoinPhase { deadline_ms: now.monotonic_ms + timeout_ms, initial_remaining_ms: None, newcomer: false }
        };
        self.state = State::PreparingRebalance;
        self.storing = false;
        self.sync_deadline_ms = None;
        self.join_phase = Some(phase);
        self.finish_join_if_all(now, effects);
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or_default()
    }

    pub(super) fn finish_join_if_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let waits_for_company = self.join_phase.is_some_and(|phase| phase.initial_remaining_ms.is_some()) && !self.members.is_empty();
        if !waits_for_company && self.pending.is_empty() && self.members.values().all(|member| member.join.is_some()) {
            self.finish_join(now, effects);
        }
    }

    /// Ends the join phase: dynamic members that did not come are out, the others enter the next generation.
    pub(super) fn finish_join(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.members.retain(|_, member| member.join.is_some() || member.instance_id.is_some());
        let leader_came = self.leader.as_ref().and_then(|leader| self.members.get(leader)).is_some_and(|leader| leader.join.is_some());
        if !leader_came {
            match self.members.iter().find(|(_, member)| member.join.is_some()) {
                Some((id, _)) => self.leader = Some(id.clone()),
                None if self.members.is_empty() => self.leader = None,
                None => {
                    // Only static members that are away are left: their sessions decide.
                    let deadline_ms = now.monotonic_ms + self.rebalance_timeout_ms().max(1);
                    self.join_phase = Some(JoinPhase { deadline_ms, initial_remaining_ms: None, newcomer: false });
                    return;
                }
            }
        }
        self.join_phase = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.storing = false;
        if self.members.is_empty() {
            self.state = State::Empty;
            self.protocol = None;
            self.active_wall_ms = now.wall_ms;
            effects.push(Effect::Store { group: self.snapshot(None, now), then: Then::Nothing });
            return;
        }
        self.state = State::CompletingRebalance;
        self.protocol = self.choose_protocol();
        self.sync_deadline_ms = Some(now.monotonic_ms + self.rebalance_timeout_ms());
        let ids = self.members.keys().cloned().collect::<Vec<_>>();
        for id in ids {
            let answer: JoinAnswer = Ok(self.joined(&id, self.leader.as_ref() == Some(&id)));
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.synced = false;
            if let Some(ticket) = member.join.take() {
                member.touch(now);
                effects.push(Effect::Join { ticket, answer });
            }
        }
    }

    pub fn sync(&mut self, ticket: Ticket, sync: Sync, now: Now, effects: &mut Vec<Effect>) {
        if let Err(error) = self.try_sync(ticket, sync, now, effects) {
            effects.push(Effect::Sync { ticket, answer: Err(error) });
        }
    }

    fn try_sync(&mut self, ticket: Ticket, sync: Sync, now: Now, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.validate(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |told: &Option<String>, known: &Option<String>| told.is_some() && told != known;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let Some(member) = self.members.get_mut(&sync.member_id) else { return Err(ResponseError::UnknownMemberId) };
        member.touch(now);
        member.synced = true;
        match self.state {
            State::Empty | State::Dead => Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::Stable => {
                let assignment = member.assignment.clone();
                effects.push(Effect::Sync { ticket, answer: Ok(self.synced(assignment)) });
                Ok(())
            }
            State::CompletingRebalance => {
                if let Some(replaced) = member.sync.replace(ticket) {
                    effects.push(Effect::Sync { ticket: replaced, answer: Err(ResponseError::RebalanceInProgress) });
                }
                // The first assignment of a generation is the one: a leader that asks again must not leave a second in the log.
                if self.leader.as_ref() == Some(&sync.member_id) && !self.storing {
                    self.store_assignments(&sync, now, effects)?;
                }
                Ok(())
            }
        }
    }

    fn store_assignments(&mut self, sync: &Sync, now: Now, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        let assigned =
            sync.assignments.iter().filter(|(id, _)| self.members.contains_key(*id)).map(|(_, bytes)| bytes.len()).sum::<usize>();
        if assigned > GROUP_BYTES_MAX {
            if let Some(member) = self.members.get_mut(&sync.member_id) {
                member.sync = None;
            }
            return Err(ResponseError::InvalidRequest);
        }
        let stored = self.snapshot(Some(&sync.assignments), now);
        for (id, member) in &mut self.members {
            member.assignment = sync.assignments.get(id).cloned().unwrap_or_default();
        }
        self.storing = true;
        effects.push(Effect::Store { group: stored, then: Then::Stabilize { generation: self.generation } });
        Ok(())
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    /// The log holds what an [`Effect::Store`] asked for.
    pub fn stored(&mut self, then: Then, now: Now, effects: &mut Vec<Effect>) {
        match then {
            Then::Nothing => {}
            Then::AnswerJoin { ticket, answer } => effects.push(Effect::Join { ticket, answer }),
            Then::Stabilize { generation } => {
                if self.state != State::CompletingRebalance || generation != self.generation || !self.storing {
                    return;
                }
                self.state = State::Stable;
                self.storing = false;
                // The deadline stays for those who have not asked yet.
                let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
                for member in self.members.values_mut() {
                    if let Some(ticket) = member.sync.take() {
                        member.touch(now);
                        let (protocol_type, protocol) = (protocol_type.clone(), protocol.clone());
                        let answer = Ok(Synced { protocol_type, protocol, assignment: member.assignment.clone() });
                        effects.push(Effect::Sync { ticket, answer });
                    }
                }
            }
        }
    }
}
