//! The groups of one led partition of `__consumer_offsets`. Owned by one task (see [`super::leader`]); nothing here waits.
//!
//! What changes a group goes to the log first: an append is handed over in the call, in order, and its consequences ([`Done`]) happen when the
//! log has committed it. If it fails, what is in memory is no longer known to be what the log says, and the whole coordinator is dropped.

mod compaction;
#[cfg(test)]
mod compaction_tests;
mod consequences;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use kafka_protocol::error::ResponseError;
use meridian_raft::env::Env;
use meridian_raft::partition::{DeleteRecordsError, Partition};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::group::{Effect, Group, Join, JoinAnswer, JoinRefused, MemberDescription, Now, State, Sync, SyncAnswer, Then, Ticket};
use super::record::{Committed, Entry, StoredGroup, offset_bytes};
use compaction::Compaction;
pub use consequences::Diverged;

use crate::controller::image::Image;

/// Groups of one partition.
pub const GROUPS_MAX: usize = 10_000;
/// Bytes of one request's offsets and their metadata.
const COMMIT_BYTES_MAX: usize = 16 << 20;
/// Of a client id, kept for people to read; a character is never split.
const CLIENT_ID_BYTES_MAX: usize = 255;

/// Offsets as they are asked for: topic, partitions.
pub type Wanted = Vec<(String, Vec<i32>)>;
/// Offsets as they are: topic, partitions, each with what was committed.
pub type Found = Vec<(String, Vec<(i32, Option<Committed>)>)>;

/// Who commits, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub member_id: String,
    pub instance_id: Option<String>,
    /// −1 from a consumer that is in no group.
    pub generation: i32,
    /// What a member of a group that is not known is told.
    pub unknown_group: ResponseError,
    /// Topic, partition, offset; times of commit are set here.
    pub offsets: Vec<(String, i32, Committed)>,
}

/// One group, for DescribeGroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub state: State,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// One group led here, for listings and figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    pub group: String,
    pub state: State,
    pub protocol_type: String,
    pub members: usize,
    /// Topic, partition, committed offset.
    pub offsets: Vec<(String, i32, i64)>,
}

/// What follows when an append has been committed.
enum Done {
    Stored { group: String, then: Then },
    Committed { group: String, offsets: Vec<(String, i32, Committed)>, reply: Reply<()> },
    OffsetsDeleted { group: String, offsets: Vec<(String, i32)>, reply: Option<(Reply<BTreeSet<String>>, BTreeSet<String>)> },
    Deleted { group: String, reply: Option<Reply<()>> },
    Rewritten,
    BegunAnew(Result<i64, DeleteRecordsError>),
}

/// Where an answer goes; whoever waited may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, ResponseError>>;

#[derive(Debug)]
struct Hosted {
    group: Group,
    /// What the log says of it, or will once what is in flight is committed.
    stored: Option<StoredGroup>,
    /// Where it stands among the alarms.
    alarm_ms: Option<i64>,
}

pub struct Coordinator {
    env: Env,
    partition: Partition,
    image: Arc<Image>,
    started: Instant,
    groups: BTreeMap<String, Hosted>,
    alarms: BTreeSet<(i64, String)>,
    next_ticket: Ticket,
    joins: BTreeMap<Ticket, oneshot::Sender<JoinAnswer>>,
    syncs: BTreeMap<Ticket, oneshot::Sender<SyncAnswer>>,
    in_flight: FuturesOrdered<BoxFuture<'static, (Done, Result<(), Diverged>)>>,
    compaction: Compaction,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("partition", &self.partition.id()).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

impl Coordinator {
    pub fn new(env: Env, partition: Partition, image: Arc<Image>) -> Coordinator {
        Coordinator {
            env,
            partition,
            image,
            started: Instant::now(),
            groups: BTreeMap::new(),
            alarms: BTreeSet::new(),
            next_ticket: 0,
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
            in_flight: FuturesOrdered::new(),
            compaction: Compaction::default(),
        }
    }

    fn now(&self) -> Now {
        let monotonic_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Now { monotonic_ms, wall_ms: self.env.clock.wall_us() / 1_000 }
    }

    /// Takes over one record of the log.
    pub fn replay(&mut self, entry: Entry) {
        let now = self.now();
        match entry {
            Entry::Offset { group: id, topic, partition, value: Some(committed) } => {
                self.hosted(id, now).group.committed(&topic, partition, committed)
            }
            Entry::Offset { group: id, topic, partition, value: None } => {
                if let Some(hosted) = self.groups.get_mut(&id) {
                    hosted.group.uncommitted(&topic, partition);
                }
            }
            Entry::Group { group: id, value: Some(stored) } => {
                let hosted = self.hosted(id, now);
                hosted.stored = Some(stored.clone());
                hosted.group.restore(stored, now);
            }
            Entry::Group { group: id, value: None } => {
                self.groups.remove(&id);
            }
        }
    }

    /// All is replayed: members have a whole session from now.
    pub fn wake(&mut self) {
        let now = self.now();
        self.groups.retain(|_, hosted| !hosted.group.is_blank());
        self.groups.values_mut().for_each(|hosted| hosted.group.wake(now));
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.settle(&id, Vec::new());
        }
        self.measure();
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    fn group(&mut self, id: &str) -> Option<&mut Group> {
        self.groups.get_mut(id).map(|hosted| &mut hosted.group)
    }

    /// The group, made when it is not there and there is room for it.
    fn group_or_new(&mut self, id: &str) -> Result<&mut Group, ResponseError> {
        let now = self.now();
        if !self.groups.contains_key(id) && self.groups.len() >= GROUPS_MAX {
            return Err(ResponseError::PolicyViolation);
        }
        Ok(&mut self.hosted(id.to_owned(), now).group)
    }

    fn hosted(&mut self, id: String, now: Now) -> &mut Hosted {
        self.groups.entry(id).or_insert_with(|| Hosted { group: Group::new(now), stored: None, alarm_ms: None })
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub fn join(&mut self, id: &str, mut join: Join, reply: oneshot::Sender<JoinAnswer>) {
        join.client_id.truncate(join.client_id.floor_char_boundary(CLIENT_ID_BYTES_MAX));
        join.fresh_member_id = self.fresh_member_id(join.instance_id.as_deref().unwrap_or(&join.client_id));
        let (now, ticket) = (self.now(), self.ticket());
        let newcomer = join.member_id.is_empty();
        let group = if newcomer { self.group_or_new(id) } else { self.group(id).ok_or(ResponseError::UnknownMemberId) };
        let mut effects = Vec::new();
        match group {
            Ok(group) => group.join(ticket, join, now, &mut effects),
            Err(error) => effects.push(Effect::Join { ticket, answer: Err(JoinRefused { error, member_id: join.member_id }) }),
        }
        self.joins.insert(ticket, reply);
        self.settle(id, effects);
    }

    fn fresh_member_id(&self, prefix: &str) -> String {
        let random = (u128::from(self.env.random.next_u64()) << 64) | u128::from(self.env.random.next_u64());
        format!("{prefix}-{}", uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid())
    }

    pub fn sync(&mut self, id: &str, sync: Sync, reply: oneshot::Sender<SyncAnswer>) {
        let (now, ticket) = (self.now(), self.ticket());
        let mut effects = Vec::new();
        match self.group(id) {
            Some(group) => group.sync(ticket, sync, now, &mut effects),
            None => effects.push(Effect::Sync { ticket, answer: Err(ResponseError::UnknownMemberId) }),
        }
        self.syncs.insert(ticket, reply);
        self.settle(id, effects);
    }

    pub fn heartbeat(&mut self, id: &str, member_id: &str, instance_id: Option<&str>, generation: i32) -> Result<(), ResponseError> {
        let now = self.now();
        self.group(id).ok_or(ResponseError::UnknownMemberId)?.heartbeat(member_id, instance_id, generation, now)
    }

    /// Each member's own answer; as a whole only a group that is not known refuses.
    pub fn leave(&mut self, id: &str, members: &[(String, Option<String>)]) -> Result<Vec<Result<(), ResponseError>>, ResponseError> {
        let now = self.now();
        let group = self.group(id).ok_or(ResponseError::UnknownMemberId)?;
        let mut effects = Vec::new();
        let answers = members.iter().map(|(member, instance)| group.leave(member, instance.as_deref(), now, &mut effects)).collect();
        self.settle(id, effects);
        Ok(answers)
    }

    pub fn commit(&mut self, id: &str, commit: Commit, reply: Reply<()>) {
        if let Err((error, reply)) = self.try_commit(id, commit, reply) {
            let _ = reply.send(Err(error));
        }
        self.settle(id, Vec::new());
    }

    fn try_commit(&mut self, id: &str, mut commit: Commit, reply: Reply<()>) -> Result<(), (ResponseError, Reply<()>)> {
        let now = self.now();
        let bytes = |(topic, _, committed): &(String, i32, Committed)| offset_bytes(id, topic, committed);
        if commit.offsets.iter().map(bytes).sum::<usize>() > COMMIT_BYTES_MAX {
            return Err((ResponseError::InvalidCommitOffsetSize, reply));
        }
        let group = if commit.generation < 0 { self.group_or_new(id) } else { self.group(id).ok_or(commit.unknown_group) };
        let checked = group.and_then(|group| {
            group.check_commit(&commit.member_id, commit.instance_id.as_deref(), commit.generation, now)?;
            let keys = commit.offsets.iter().map(|(topic, partition, _)| (topic.as_str(), *partition));
            if !group.has_room_for(keys) {
                return Err(ResponseError::InvalidCommitOffsetSize);
            }
            group.commits_in_flight += 1;
            Ok(())
        });
        if let Err(error) = checked {
            return Err((error, reply));
        }
        let mut entries = Vec::with_capacity(commit.offsets.len());
        for (topic, partition, committed) in &mut commit.offsets {
            committed.commit_timestamp_ms = now.wall_ms;
            let (group, topic, value) = (id.to_owned(), topic.clone(), Some(committed.clone()));
            entries.push(Entry::Offset { group, topic, partition: *partition, value });
        }
        self.append(&entries, Done::Committed { group: id.to_owned(), offsets: commit.offsets, reply });
        Ok(())
    }

    /// Committed offsets: those asked for, or all there are. A topic made anew under an old name has none of the old one's.
    pub fn fetch(&self, id: &str, wanted: Option<&Wanted>) -> Found {
        let group = self.groups.get(id).map(|hosted| &hosted.group);
        let find = |topic: &str, partition: i32| {
            let committed = group?.offsets().get(topic)?.get(&partition)?;
            self.is_current(topic, committed).then(|| committed.clone())
        };
        if let Some(wanted) = wanted {
            let found = |partitions: &Vec<i32>, topic: &str| partitions.iter().map(|number| (*number, find(topic, *number))).collect();
            return wanted.iter().map(|(topic, partitions)| (topic.clone(), found(partitions, topic))).collect();
        }
        let all = group.map(Group::offsets).into_iter().flatten().map(|(topic, partitions)| {
            let current = partitions.iter().filter(|(_, committed)| self.is_current(topic, committed));
            (topic.clone(), current.map(|(number, committed)| (*number, Some(committed.clone()))).collect::<Vec<_>>())
        });
        all.filter(|(_, partitions)| !partitions.is_empty()).collect()
    }

    fn is_current(&self, topic: &str, committed: &Committed) -> bool {
        self.image.topics.get(topic).is_some_and(|topic| topic.id == committed.topic_id)
    }

    pub fn describe(&self, id: &str) -> Option<Description> {
        let group = &self.groups.get(id)?.group;
        Some(Description {
            state: group.state(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: group.protocol().to_owned(),
            members: group.describe_members(),
        })
    }

    pub fn overview(&self) -> Vec<Overview> {
        let overview = |(id, hosted): (&String, &Hosted)| {
            let mut offsets = Vec::new();
            for (topic, partitions) in hosted.group.offsets() {
                let current = partitions.iter().filter(|(_, committed)| self.is_current(topic, committed));
                offsets.extend(current.map(|(partition, committed)| (topic.clone(), *partition, committed.offset)));
            }
            let (state, protocol_type) = (hosted.group.state(), hosted.group.protocol_type().to_owned());
            Overview { group: id.clone(), state, protocol_type, members: hosted.group.member_count(), offsets }
        };
        self.groups.iter().map(overview).collect()
    }

    pub fn delete(&mut self, id: &str, reply: Reply<()>) {
        if let Err(error) = self.group(id).ok_or(ResponseError::GroupIdNotFound).and_then(Group::begin_delete) {
            let _ = reply.send(Err(error));
            return;
        }
        self.bury(id, Some(reply));
    }

    /// Answers with the topics that were left alone because members consume them.
    pub fn delete_offsets(&mut self, id: &str, mut wanted: Wanted, reply: Reply<BTreeSet<String>>) {
        let subscribed = match self.group(id) {
            None => Err(ResponseError::GroupIdNotFound),
            Some(group) if group.state() == State::Dead => Err(ResponseError::GroupIdNotFound),
            Some(group) if group.state() == State::Empty => Ok(BTreeSet::new()),
            Some(group) => group.subscribed_topics().ok_or(ResponseError::NonEmptyGroup),
        };
        let mut subscribed = match subscribed {
            Ok(subscribed) => subscribed,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        subscribed.retain(|topic| wanted.iter().any(|(wanted, _)| wanted == topic));
        wanted.retain(|(topic, _)| !subscribed.contains(topic));
        let offsets = wanted.into_iter().flat_map(|(topic, partitions)| partitions.into_iter().map(move |number| (topic.clone(), number)));
        let held = |(topic, number): &(String, i32)| {
            self.groups.get(id).and_then(|hosted| hosted.group.offsets().get(topic)).is_some_and(|held| held.contains_key(number))
        };
        let offsets = offsets.filter(held).collect::<Vec<_>>();
        if offsets.is_empty() {
            let _ = reply.send(Ok(subscribed));
            return;
        }
        self.take_back(id, offsets, Some((reply, subscribed)));
    }
}
