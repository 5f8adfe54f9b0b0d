//! One Raft group on one node: openraft over our [`Log`], with what the rest of the crate watches and asks of it.
//!
//! [`storage`] gives openraft the log, [`machine`] receives what is committed, [`network`] carries its calls to the peers,
//! [`membership`] changes who they are. A group at rest sleeps ([`quiesce`]) and is bound by what it promised ([`rest`]); [`incoming`] bounds
//! what waits for it.

mod checkpoint;
pub(crate) mod farewell;
mod forming;
pub(crate) mod incoming;
pub(crate) mod machine;
pub(crate) mod membership;
pub(crate) mod network;
mod observer;
mod proposal;
pub(crate) mod quiesce;
pub(crate) mod rest;
pub(crate) mod snapshot;
pub(crate) mod storage;
mod transfer;
mod waiting;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::ServerState;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::ClientWriteResult;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::rt::instant::Instant as _;
use openraft::rt::watch::WatchReceiver as _;
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::env::Env;
use crate::log::{Log, LogError, LogSettings, Memory, Place, Rolling};
use crate::node::{NodeError, Timing};
use crate::partition::Leadership;
use crate::peer::client::Peers;
use crate::peer::liveness::Liveness;
use crate::writer::Writer;
use crate::{GroupId, NodeId};
use checkpoint::Checkpoints;
use farewell::{Bound, Farewell};
use incoming::Incoming;
use machine::{Applied, GroupMachine, Host, Watched};
use network::NetworkFactory;
use observer::{Learners, Observer};
pub(crate) use proposal::{Outcome, Proposal};
use rest::{Awake, Rest};
use snapshot::Snapshots;
use storage::GroupStorage;
use waiting::Answering;
pub(crate) use waiting::Waiting;

/// One attempt to send a follower the snapshot from which its log begins anew.
const INSTALL_DEADLINE_MS: u64 = 10_000;
/// Entries and bytes of one AppendEntries; several are in flight per follower.
const APPEND_ENTRIES_MAX: u64 = 512;
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;
/// How long an openraft call to a peer that cannot be reached waits before the next.
pub(crate) const BACKOFF: Duration = Duration::from_millis(100);

/// Every group of Meridian, partitions and controller alike. Its randomness is seeded from [`crate::env::Random`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

/// Written out, because `declare_raft_types` takes no responder of one's own.
impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = openraft::EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Answering<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Raft = openraft::Raft<Types, GroupMachine>;
pub(crate) type Runtime = DeterministicRng<TokioRuntime>;

/// A proposal on its way to openraft.
pub(crate) type Submission = (Proposal, Answering<ClientWriteResult<Types>>);

/// One running group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    node_id: NodeId,
    raft: Raft,
    log: Log,
    snapshots: Snapshots,
    applied: watch::Receiver<Applied>,
    high_watermark: watch::Receiver<i64>,
    start_offset: watch::Receiver<i64>,
    leadership: watch::Receiver<Leadership>,
    leadership_told: Arc<watch::Sender<Leadership>>,
    submissions: mpsc::UnboundedSender<Submission>,
    rest: Arc<Rest>,
    incoming: Incoming,
    lease: Duration,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.inner.id).field("leadership", &*self.inner.leadership.borrow()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.rest.forget();
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// Told of every change of a group's leadership.
pub(crate) type LeadershipWatch = Arc<dyn Fn(GroupId, Leadership) + Send + Sync>;

/// Everything a group needs of its node.
pub(crate) struct Surroundings<'a> {
    pub env: &'a Env,
    pub writer: &'a Writer,
    pub memory: &'a Memory,
    pub peers: &'a Peers,
    /// False until it is certain that this node knows what it has promised.
    pub takes_part: watch::Receiver<bool>,
    pub liveness: &'a Liveness,
    pub awake: &'a Awake,
    pub node_id: NodeId,
    pub timing: Timing,
    pub watch: LeadershipWatch,
}

/// What a group is, before it runs.
pub(crate) struct Plan {
    pub id: GroupId,
    pub directory: std::path::PathBuf,
    /// Who forms the group where its log is empty. Nobody: the group exists, and this replica joins it when its leader says so.
    pub voters: Vec<NodeId>,
    pub rolling: Rolling,
    pub host: Host,
    /// Adds the epoch of the home to the Kafka-visible one.
    pub mirror: bool,
}

fn config(timing: Timing, id: GroupId) -> Result<openraft::Config, NodeError> {
    let config = openraft::Config {
        cluster_name: format!("{}-{}", id.topic, id.partition),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        // openraft's own would also silence a leader that has slept; `node::quiesce` does it for leaders that are awake.
        quorum_loss_probe_interval: None,
        max_payload_entries: APPEND_ENTRIES_MAX,
        // The log is the data: a snapshot stands for what retention let go of, and is made when it does.
        max_in_snapshot_log_to_keep: 0,
        install_snapshot_timeout: INSTALL_DEADLINE_MS,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // A follower that comes back with an older or empty disk is sent what it lacks; otherwise openraft stops the *leader* by a panic.
        allow_log_reversion: Some(true),
        // Rings for figures of each entry's way, which are compiled out; by default 144 KiB a replica, 30 of them resident.
        log_stage_capacity: Some(1),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| NodeError::Raft(error.to_string()))
}

impl Group {
    /// Recovers the log, starts openraft on it, and forms the group where that has never happened.
    pub async fn start(around: Surroundings<'_>, plan: Plan) -> Result<Group, NodeError> {
        let Plan { id, directory, voters, rolling, host, mirror } = plan;
        let snapshots = Snapshots::new(id, around.writer.clone());
        let purged = snapshots.purged()?;
        let place = Place { env: around.env, writer: around.writer, memory: around.memory };
        let log = Log::open_behind(place, &directory, LogSettings { group: id, rolling }, purged)?;
        if !around.env.mutations().trust_damaged {
            storage::require_whole(&log, around.writer, id)?;
        }
        let bound_by = Farewell::of(around.writer, id).0.filter(|farewell| log.last() < Some(*farewell));
        let (liveness, awake, mutations) = (around.liveness.clone(), around.awake.clone(), around.env.mutations());
        let held = storage::stored_vote(around.writer, id).map_err(NodeError::Io)?;
        let rest = Arc::new(Rest::new(id, around.node_id, liveness, awake, mutations, bound_by, held.as_ref()));
        let watched_log = log.clone();
        let storage = GroupStorage::new(id, log.clone(), around.writer.clone(), snapshots.clone(), rest.clone());
        let checkpoints = Checkpoints::new(around.env.disk.clone(), around.writer.clone(), directory, id);
        let (mut machine, watched) = GroupMachine::new(host, log.clone(), snapshots.clone(), checkpoints);
        machine.resume().map_err(|error| NodeError::Log(LogError::Unreadable(error.to_string())))?;
        let learners = Arc::new(Learners::default());
        let (takes_part, members) = (around.takes_part.clone(), learners.clone());
        let network = NetworkFactory { group: id, peers: around.peers.clone(), takes_part, learners: members, rest: rest.clone() };
        let config = Arc::new(config(around.timing, id)?);
        let seed = around.env.random.next_u64();
        let raft = Runtime::scope(seed, Raft::new(around.node_id, config, network, storage, machine));
        // What it replays may be found damaged only now: the payloads of sealed segments are not verified before.
        let raft = raft.await.map_err(|error| match watched_log.damage() {
            Some(damage) => NodeError::Log(LogError::Unreadable(damage)),
            None => NodeError::Raft(error.to_string()),
        })?;
        let (submissions, queue) = mpsc::unbounded_channel();
        let (leadership_told, leadership) = watch::channel(Leadership::default());
        let leadership_told = Arc::new(leadership_told);
        let applied = watched.applied.clone();
        let observer = Observer { id, raft: raft.clone(), node_id: around.node_id, applied, learners, mirror, watch: around.watch };
        let patience = if voters.first() == Some(&around.node_id) { Duration::ZERO } else { forming::FORMING_PATIENCE };
        let mut tasks = vec![tokio::spawn(observer.run(leadership_told.clone(), watched.purgeable.clone())).abort_handle()];
        if bound_by.is_some() {
            let (raft, rest, log, applied) = (raft.clone(), rest.clone(), log.clone(), watched.applied.clone());
            let bound = Bound { group: id, log, raft, rest, writer: around.writer.clone(), applied };
            tasks.push(tokio::spawn(bound.keep_word()).abort_handle());
        }
        if !voters.is_empty() {
            let form = forming::form(raft.clone(), voters.into_iter().collect(), patience, around.takes_part);
            tasks.push(tokio::spawn(Runtime::scope(seed ^ 1, form)).abort_handle());
        }
        let lease = around.liveness.spans().lease;
        let Watched { applied, high_watermark, start_offset, .. } = watched;
        let make = |weak: &Weak<Inner>| {
            tasks.push(tokio::spawn(propose(weak.clone(), queue)).abort_handle());
            Inner {
                id,
                node_id: around.node_id,
                raft,
                log,
                snapshots,
                applied,
                high_watermark,
                start_offset,
                leadership,
                leadership_told,
                submissions,
                rest,
                incoming: Incoming::default(),
                lease,
                tasks,
            }
        };
        Ok(Group { inner: Arc::new_cyclic(make) })
    }

    pub fn raft(&self) -> &Raft {
        &self.inner.raft
    }
    pub fn node_id(&self) -> NodeId {
        self.inner.node_id
    }
    pub fn log(&self) -> &Log {
        &self.inner.log
    }
    /// Nor has an earlier replica here.
    pub fn has_held_nothing(&self) -> bool {
        let log = self.log();
        log.last().is_none() && log.purged().is_none() && self.snapshot().is_none() && self.inner.rest.bound_by().is_none()
    }
    /// What stands for the purged part of the log, if anything has been purged.
    pub fn snapshot(&self) -> Option<Bytes> {
        self.inner.snapshots.bytes()
    }
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.applied.clone()
    }
    pub fn high_watermark(&self) -> watch::Receiver<i64> {
        self.inner.high_watermark.clone()
    }
    pub fn start_offset(&self) -> watch::Receiver<i64> {
        self.inner.start_offset.clone()
    }
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }
    /// The term in which this node leads and has committed an entry; None where it does not.
    pub fn leading_term(&self) -> Option<u64> {
        if !self.inner.leadership.borrow().is_leader {
            return None;
        }
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        (server.state == ServerState::Leader && server.current_leader == Some(self.inner.node_id)).then(|| server.vote.leader_id().term)
    }

    /// Queues a proposal; proposals are appended in the order of the calls. The receiver fails when the group stops. `waiting` is let go of when
    /// the group has answered.
    pub fn submit(&self, proposal: Proposal, waiting: Option<Waiting>) -> oneshot::Receiver<ClientWriteResult<Types>> {
        let (responder, outcome) = Answering::new(waiting);
        // A stopped group drops the responder, which the receiver reports.
        let _ = self.inner.submissions.send((proposal, responder));
        outcome
    }

    pub fn incoming(&self) -> &Incoming {
        &self.inner.incoming
    }
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// This node leads and a majority has confirmed so within the lease, in answer to appends or, while the group sleeps, to pulses.
    pub fn holds_lease(&self) -> bool {
        if !self.inner.leadership.borrow().is_leader {
            return false;
        }
        let term = self.vote().leader_id().term;
        // Whoever was offered the leadership may have been elected within the lease, by voters that were told not to wait for its end.
        if self.inner.rest.has_voted_after(term) || self.inner.rest.was_released(term) {
            return false;
        }
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        // A leader that is voted out leads on for a moment, and its successor does not wait for its lease either.
        let stays = membership.voter_ids().any(|voter| voter == self.inner.node_id);
        // openraft counts no acknowledgements where there is nobody to ask.
        let alone = membership.voter_ids().eq([self.inner.node_id]);
        stays && (alone || self.confirmed(term).is_some_and(|at| at.elapsed() < self.inner.lease))
    }

    /// The latest moment at which a majority followed this leader.
    fn confirmed(&self, term: u64) -> Option<Instant> {
        let appends = self.inner.raft.as_leader().ok().and_then(|leader| leader.last_quorum_acked());
        appends.and_then(|at| Instant::now().checked_sub(at.elapsed())).max(self.inner.rest.pulses_confirmed(term))
    }

    /// Why the group cannot go on, if it cannot: a failed disk, or a bug. Damage is no failure: it is repaired.
    pub fn failure(&self) -> Option<String> {
        if self.inner.id != GroupId::CONTROLLER && self.inner.log.damage().is_some() {
            return None;
        }
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Voters whose log is at most `entries_max` behind; on a follower, all voters.
    pub fn in_sync(&self, entries_max: u64) -> Vec<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        let last = metrics.last_log_index.unwrap_or(0);
        match &metrics.replication {
            None => voters.collect(),
            Some(matched) => {
                let near = |node: &NodeId| {
                    *node == self.inner.node_id
                        || matched.get(node).is_some_and(|id| id.as_ref().is_some_and(|id| id.index + entries_max >= last))
                };
                voters.filter(near).collect()
            }
        }
    }

    /// Has a snapshot made where whole segments are needed no more: of a partition those before its start, of the controller all but the last.
    pub async fn purge_leftovers(&self) {
        let (log, applied) = (self.log(), self.inner.applied.borrow().index);
        let point = if self.id() == GroupId::CONTROLLER { log.cut_point(applied) } else { log.purge_point(applied) };
        if matches!(point, Ok(Some(_))) {
            // A group that has stopped needs no purge.
            let _ = self.inner.raft.trigger().snapshot().await;
        }
    }

    pub fn stop(&self) -> BoxFuture<'_, ()> {
        self.end().boxed()
    }

    async fn end(&self) {
        self.inner.rest.forsake(&self.vote());
        fn save(machine: &mut GroupMachine) -> BoxFuture<'_, ()> {
            machine.save_checkpoint(true);
            std::future::ready(()).boxed()
        }
        if let Err(error) = self.inner.raft.with_state_machine(save).await {
            tracing::debug!(group = ?self.inner.id, %error, "the next start applies more of the log");
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(group = ?self.inner.id, %error, "a Raft task ended badly");
        }
        if let Err(error) = self.inner.log.cover() {
            tracing::debug!(group = ?self.inner.id, %error, "the next start reads more of the log");
        }
        self.inner.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        // Whoever still holds this group must not take it for a leader.
        self.inner.leadership_told.send_replace(Leadership::default());
    }
}

/// Hands proposals over in order; openraft itself makes entries of all that wait. A group that sleeps is woken first.
async fn propose(group: Weak<Inner>, mut queue: mpsc::UnboundedReceiver<Submission>) {
    while let Some((proposal, responder)) = queue.recv().await {
        let Some(inner) = group.upgrade() else { return };
        Group { inner: inner.clone() }.confirm_if_slept().await;
        if inner.raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            break;
        }
    }
}
