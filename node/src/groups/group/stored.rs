//! A group as the log remembers it, and back.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Group, Member, Now, State};
use crate::groups::record::{StoredGroup, StoredMember};

impl Group {
    /// The group as the log shall remember it, with these assignments or, without any, those in force.
    pub(super) fn snapshot(&self, assignments: Option<&BTreeMap<String, Bytes>>, now: Now) -> StoredGroup {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| StoredMember {
            id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.subscription(protocol),
            assignment: match assignments {
                Some(assignments) => assignments.get(id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            },
        };
        StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            timestamp_ms: now.wall_ms,
            members: self.members.iter().map(member).collect(),
        }
    }

    /// Takes over what the log says; offsets stay. Members have a whole session from `now` to show themselves, see [`Group::wake`].
    pub fn restore(&mut self, stored: StoredGroup, now: Now) {
        let protocol = stored.protocol.clone().unwrap_or_default();
        self.members.clear();
        self.static_members.clear();
        self.generation = stored.generation;
        self.protocol_type = (!stored.protocol_type.is_empty()).then_some(stored.protocol_type);
        self.protocol = stored.protocol;
        self.leader = stored.leader;
        self.active_wall_ms = stored.timestamp_ms;
        self.state = if stored.members.is_empty() { State::Empty } else { State::Stable };
        for member in stored.members {
            if let Some(instance) = &member.instance_id {
                self.static_members.insert(instance.clone(), member.id.clone());
            }
            let restored = Member {
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                protocols: vec![(protocol.clone(), member.subscription)],
                assignment: member.assignment,
                session_deadline_ms: now.monotonic_ms + i64::from(member.session_timeout_ms),
                join: None,
                sync: None,
                synced: true,
            };
            self.members.insert(member.id, restored);
        }
    }
}
