//! One classic consumer group, sans-IO: requests and ticks in, [`Effect`]s out. The rules are those of Kafka's classic group coordinator.
//!
//! Time is passed in ([`Now`]), member ids come from the caller, and a request that cannot be answered at once is remembered by its [`Ticket`].
//! The host does every [`Effect`] in order, calls [`Group::stored`] when the log holds what it was to store, and [`Group::tick`] when
//! [`Group::deadline_ms`] has come. A store that fails is not told: the host then reads the group anew from the log.

mod departure;
mod offsets;
mod rebalance;
mod stored;
mod subscription;
#[cfg(test)]
mod transcripts;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::record::{Committed, StoredGroup};

/// Members of one group, those included that were only given an id so far.
pub const MEMBERS_MAX: usize = 1_000;
/// Subscription bytes of one member, all its protocols together.
pub const MEMBER_METADATA_BYTES_MAX: usize = 256 * 1024;
/// Subscriptions and assignments of one group: what one record of the log may hold.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Committed offsets of one group.
pub const OFFSETS_MAX: usize = 100_000;
/// Protocols one member may offer.
pub const PROTOCOLS_MAX: usize = 32;
/// How long a first member waits for others (`group.initial.rebalance.delay.ms`).
pub const INITIAL_REBALANCE_DELAY_MS: i64 = 500;
/// An empty group without offsets is forgotten after this.
const EMPTY_RETENTION_MS: i64 = 10 * 60 * 1000;
/// An empty group's offsets are kept this long after its last sign of life (`offsets.retention.minutes`).
const OFFSETS_RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The protocol type of Kafka's own consumers.
const CONSUMER_PROTOCOL: &str = "consumer";

const _: () = assert!(MEMBER_METADATA_BYTES_MAX < GROUP_BYTES_MAX, "one member's subscription must fit its group");

/// Names a request that waits for its answer.
pub type Ticket = u64;

/// The two clocks: deadlines follow the monotonic one, stored timestamps the wall's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub monotonic_ms: i64,
    pub wall_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    /// Being deleted; its tombstones are on the way to the log.
    Dead,
}

impl State {
    /// Kafka's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }
}

/// A JoinGroup request, checked against every `_MAX`, in buffers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Empty from a member that has none yet.
    pub member_id: String,
    /// The id a new member gets.
    pub fresh_member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// Version 4 on: a new dynamic member is first told its id.
    pub requires_known_id: bool,
    /// Version 9 on: a static leader that comes back may be told not to assign anew.
    pub may_skip_assignment: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: String,
    pub member_id: String,
    pub skip_assignment: bool,
    /// Only for the leader: id, instance and subscription of each.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// A refusal, with the id that goes with it (MEMBER_ID_REQUIRED tells the new one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: ResponseError,
    pub member_id: String,
}

pub type JoinAnswer = Result<Joined, JoinRefused>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub assignments: BTreeMap<String, Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub assignment: Bytes,
}

pub type SyncAnswer = Result<Synced, ResponseError>;

/// What to do when a stored group has reached the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// Hand out the assignments of this generation.
    Stabilize {
        generation: i32,
    },
    AnswerJoin {
        ticket: Ticket,
        answer: JoinAnswer,
    },
}

/// What the host must do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Join {
        ticket: Ticket,
        answer: JoinAnswer,
    },
    Sync {
        ticket: Ticket,
        answer: SyncAnswer,
    },
    /// Append, then call [`Group::stored`] with `then`.
    Store {
        group: StoredGroup,
        then: Then,
    },
}

#[derive(Debug, Clone)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    session_deadline_ms: i64,
    join: Option<Ticket>,
    sync: Option<Ticket>,
    /// Has asked for its assignment of this generation.
    synced: bool,
}

impl Member {
    fn subscription(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    fn touch(&mut self, now: Now) {
        self.session_deadline_ms = now.monotonic_ms + i64::from(self.session_timeout_ms);
    }

    /// Whoever waits for our answer cannot heartbeat.
    fn waits(&self) -> bool {
        self.join.is_some() || self.sync.is_some()
    }

    fn metadata_bytes(&self) -> usize {
        self.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum()
    }
}

/// When a rebalance's join phase ends though not all have joined.
#[derive(Debug, Clone, Copy)]
struct JoinPhase {
    deadline_ms: i64,
    /// Set while the first members of an empty group wait for company: how much longer the wait may yet grow.
    initial_remaining_ms: Option<i64>,
    newcomer: bool,
}

/// One member, for DescribeGroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

#[derive(Debug)]
pub struct Group {
    state: State,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Instance id to member id.
    static_members: BTreeMap<String, String>,
    /// Ids handed out with MEMBER_ID_REQUIRED, until when they may be used.
    pending: BTreeMap<String, i64>,
    join_phase: Option<JoinPhase>,
    /// By when every member must have asked for its assignment.
    sync_deadline_ms: Option<i64>,
    /// The leader's assignments are on the way to the log.
    storing: bool,
    /// Last sign of life, by the wall clock.
    active_wall_ms: i64,
    offsets: BTreeMap<String, BTreeMap<i32, Committed>>,
    /// Commits submitted to the log and not yet answered.
    pub commits_in_flight: usize,
}

impl Group {
    pub fn new(now: Now) -> Group {
        Group {
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_phase: None,
            sync_deadline_ms: None,
            storing: false,
            active_wall_ms: now.wall_ms,
            offsets: BTreeMap::new(),
            commits_in_flight: 0,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    /// The protocol chosen, while the group is stable.
    pub fn protocol(&self) -> &str {
        if self.state == State::Stable { self.protocol.as_deref().unwrap_or_default() } else { "" }
    }

    pub fn describe_members(&self) -> Vec<MemberDescription> {
        let stable = self.state == State::Stable;
        let describe = |(id, member): (&String, &Member)| MemberDescription {
            id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscription: if stable { member.subscription(self.protocol()) } else { Bytes::new() },
            assignment: if stable { member.assignment.clone() } else { Bytes::new() },
        };
        self.members.iter().map(describe).collect()
    }

    /// Is this member who it says it is?
    fn validate(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(known) if known != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    pub fn heartbeat(&mut self, member_id: &str, instance_id: Option<&str>, generation: i32, now: Now) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.validate(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.touch(now);
        }
        if self.state == State::PreparingRebalance { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
    }

    /// May these offsets be committed now? A committing member is alive.
    pub fn check_commit(&mut self, member_id: &str, instance_id: Option<&str>, generation: i32, now: Now) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.active_wall_ms = now.wall_ms;
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        self.validate(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.touch(now);
        }
        Ok(())
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Nothing of it is or was ever worth keeping: no member, no offset, no generation.
    pub fn is_blank(&self) -> bool {
        self.state == State::Empty
            && self.generation == 0
            && self.offsets.is_empty()
            && self.pending.is_empty()
            && self.commits_in_flight == 0
    }

    /// Topics that members consume; None where their subscriptions are not those of Kafka's consumers.
    pub fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL) {
            return None;
        }
        let mut topics = BTreeSet::new();
        for (_, metadata) in self.members.values().flat_map(|member| &member.protocols) {
            topics.extend(subscription::topics(metadata)?);
        }
        Some(topics)
    }

    /// Marks the group for deletion: from here on it takes nothing.
    pub fn begin_delete(&mut self) -> Result<(), ResponseError> {
        match self.state {
            State::Dead => Err(ResponseError::GroupIdNotFound),
            State::Empty if self.pending.is_empty() && self.commits_in_flight == 0 => {
                self.state = State::Dead;
                Ok(())
            }
            _ => Err(ResponseError::NonEmptyGroup),
        }
    }

    /// When [`Group::tick`] has something to do, by the monotonic clock. A heartbeat only moves it away.
    pub fn deadline_ms(&self) -> Option<i64> {
        let sessions = self.members.values().filter(|member| !member.waits()).map(|member| member.session_deadline_ms);
        let phases = self.join_phase.map(|phase| phase.deadline_ms).into_iter().chain(self.sync_deadline_ms);
        sessions.chain(phases).chain(self.pending.values().copied()).min()
    }

    /// Nobody is there, nobody came for long: the group may be deleted.
    pub fn is_expired(&self, now: Now) -> bool {
        let retention_ms = if self.offsets.is_empty() { EMPTY_RETENTION_MS } else { OFFSETS_RETENTION_MS };
        self.state == State::Empty
            && self.pending.is_empty()
            && self.commits_in_flight == 0
            && now.wall_ms.saturating_sub(self.active_wall_ms) > retention_ms
    }
}
