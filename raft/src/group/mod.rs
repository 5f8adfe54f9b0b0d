//! One Raft group on one node: the core ([`crate::consensus`]) over one [`Log`], with what the rest of the crate watches and asks of it.
//!
//! [`start`] opens it, [`turn`] tells the core what happens and carries out what follows, looking at the node through [`ground`]; [`feed`] sends followers the log,
//! [`asked`] is what peers ask, [`machine`] receives what is committed, [`membership`] and [`transfer`] change who is in it and who leads. A
//! group has no task of its own: whoever brings news does the work, and [`clock`] calls those that wait for a moment.

mod asked;
mod checkpoint;
pub(crate) mod clock;
pub(crate) mod farewell;
mod feed;
mod ground;
pub(crate) mod incoming;
pub(crate) mod machine;
pub(crate) mod membership;
mod proposal;
pub(crate) mod snapshot;
mod start;
mod transfer;
mod turn;
pub(crate) mod votes;
mod waiting;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::consensus::Core;
use crate::consensus::members::Members;
use crate::log::{Log, LogEntry, LogPosition};
use crate::partition::Leadership;
use crate::peer::client::Peers;
use crate::peer::liveness::Liveness;
use crate::writer::Writer;
use crate::{GroupId, NodeId};
use clock::Clock;
pub(crate) use feed::APPEND_BYTES_MAX;
use ground::View;
use incoming::Incoming;
use machine::{Applied, GroupMachine};
pub(crate) use proposal::{Outcome, Proposal, Proposed, Refusal};
use snapshot::Snapshots;
use start::has_begun;
pub(crate) use start::{Plan, Surroundings, founding};
use turn::Saving;
pub(crate) use waiting::Waiting;
use waiting::{Answering, Proposers};

/// One attempt to send a follower the snapshot from which its log begins anew.
const INSTALL_DEADLINE: Duration = Duration::from_secs(10);
/// A vote, or an offer of the lead.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks at a snapshot that is being made while the group is closed.
const PURGE_AWAITED: Duration = Duration::from_millis(1);

/// One running group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: GroupId,
    node_id: NodeId,
    mirror: bool,
    log: Log,
    writer: Writer,
    snapshots: Snapshots,
    peers: Peers,
    liveness: Liveness,
    clock: Clock,
    takes_part: watch::Receiver<bool>,
    runtime: Handle,
    // Taken in this order, where more than one is; `proposers` and `saving` behind any.
    machine: Mutex<GroupMachine>,
    core: Mutex<Core>,
    proposers: Mutex<Proposers>,
    saving: Mutex<Saving>,
    /// As the core last said, for whoever applies.
    committed_end: AtomicU64,
    applied: watch::Receiver<Applied>,
    high_watermark: watch::Receiver<i64>,
    start_offset: watch::Receiver<i64>,
    leadership: watch::Receiver<Leadership>,
    leadership_told: watch::Sender<Leadership>,
    watch: LeadershipWatch,
    released: ReleaseWatch,
    incoming: Incoming,
    /// One snapshot of a leader's at a time.
    beginning: tokio::sync::Mutex<()>,
    /// Files are being removed that the log has taken back: nothing may be appended until that is done.
    cutting: AtomicBool,
    /// A snapshot of its own is being made.
    purging: AtomicBool,
    /// Closed: what comes late must not speak for another opening of the group.
    stopped: AtomicBool,
    /// The term that it led when that was last told; 0 where it did not.
    led: AtomicU64,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.inner.id).field("leadership", &*self.inner.leadership.borrow()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("id", &self.id).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Told of every change of a group's leadership.
pub(crate) type LeadershipWatch = Arc<dyn Fn(GroupId, Leadership) + Send + Sync>;
/// Told of every group and term that this node led and leads no more.
pub(crate) type ReleaseWatch = Arc<dyn Fn(GroupId, u64) + Send + Sync>;

impl Group {
    pub fn id(&self) -> GroupId {
        self.inner.id
    }
    pub fn node_id(&self) -> NodeId {
        self.inner.node_id
    }
    pub fn log(&self) -> &Log {
        &self.inner.log
    }
    pub fn incoming(&self) -> &Incoming {
        &self.inner.incoming
    }
    fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    /// Nor has an earlier replica here: at most it knows who founded it.
    pub fn has_held_nothing(&self) -> bool {
        let log = self.log();
        !has_begun(log.last()) && log.purged().is_none() && self.snapshot().is_none() && self.bound_by().is_none()
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

    fn look<T>(&self, question: impl FnOnce(&Core, &View<'_>) -> T) -> T {
        question(&lock(&self.inner.core), &View(&self.inner))
    }

    pub fn bound_by(&self) -> Option<LogPosition> {
        self.look(|core, _| core.bound_by())
    }
    pub fn members(&self) -> Members {
        self.look(|core, _| core.members().clone())
    }
    /// Nothing is waited for in it.
    #[cfg(feature = "sim")]
    pub fn is_asleep(&self) -> bool {
        !self.inner.clock.waits(self.inner.id)
    }

    /// For transcripts; None where it has ended.
    #[cfg(feature = "sim")]
    pub fn observed(&self) -> Option<(crate::partition::Role, crate::consensus::Vote, Members)> {
        use crate::consensus::Role as Part;
        use crate::partition::Role;
        self.look(|core, _| {
            let role = match core.role() {
                _ if core.failure().is_some() => return None,
                Part::Leader(_) => Role::Leader,
                Part::Candidate(canvass) if !canvass.pre => Role::Candidate,
                _ if core.members().is_voter(core.id()) => Role::Follower,
                _ => Role::Learner,
            };
            Some((role, core.vote(), core.members().clone()))
        })
    }

    /// The term in which this node leads and has committed an entry; None where it does not.
    pub fn leading_term(&self) -> Option<u64> {
        let is_leader = self.inner.leadership.borrow().is_leader;
        self.look(|core, _| core.lead().map(|_| core.vote().term)).filter(|_| is_leader)
    }

    /// This node leads and a majority has confirmed so within the lease.
    pub fn holds_lease(&self) -> bool {
        self.inner.leadership.borrow().is_leader && self.look(|core, view| core.holds_lease(view))
    }

    /// Appends a proposal, in the order of the calls. The receiver fails when the group stops. `waiting` is let go of when the group has
    /// answered.
    pub fn submit(&self, proposal: Proposal, waiting: Option<Waiting>) -> oneshot::Receiver<Proposed> {
        let Proposal { kind, append_time_us, payload, judged_in } = proposal;
        let (answering, outcome) = Answering::new(waiting);
        let inner = &self.inner;
        inner.turn_unapplied(|core, view| match core.propose(kind, append_time_us, payload, judged_in, view) {
            Ok(entry) => inner.append_for(core, entry, answering),
            Err(refused) => answering.answer(Err(Refusal::NotLeader { leader: refused.leader })),
        });
        outcome
    }

    /// Why the group cannot go on, if it cannot: a failed disk, or a bug. Damage is no failure: it is repaired.
    pub fn failure(&self) -> Option<String> {
        if self.inner.id != GroupId::CONTROLLER && self.inner.log.damage().is_some() {
            return None;
        }
        self.look(|core, _| core.failure().map(str::to_owned))
    }

    /// Whoever calls groups knows this one from now on; what it waits for may have come before.
    pub fn wind(&self) {
        self.inner.turn(|_, _| ());
    }

    /// This node takes part from now on.
    pub fn begin(&self) {
        self.inner.turn(|core, view| core.begin(view));
    }

    /// Time has passed.
    pub fn tick(&self) {
        self.inner.turn(|core, view| core.tick(view));
    }

    /// There is another promise of that node: where it is a follower, it is sent something to answer.
    pub fn greet(&self, node: NodeId) {
        self.inner.turn(|core, view| core.contact(node, view));
    }

    /// There is another connection to that node.
    pub fn reconnected(&self, node: NodeId) {
        self.inner.turn(|core, view| core.reconnected(node, view));
    }

    /// Whether a majority follows it still.
    pub fn mind_quorum(&self) {
        self.inner.turn(|core, view| core.mind_quorum(view));
    }

    /// The node of its leader is gone, if it is that one; where so, this replica stands after `patience`.
    pub fn orphaned_by(&self, lost: NodeId, patience: Duration) -> bool {
        self.inner.turn(|core, view| core.was_orphaned(lost, patience, view))
    }

    /// That node says that it leads no more in any term up to this one.
    pub fn released_by(&self, leader: NodeId, term: u64, patience: Duration) {
        self.inner.turn(|core, view| {
            let vote = core.vote();
            if vote.node == leader && vote.term <= term {
                core.was_released(vote.term, patience, view);
            }
        });
    }

    /// The last term of which it is certain that this node leads it no more, and will not.
    pub fn led_no_more_up_to(&self) -> u64 {
        self.look(|core, _| {
            let vote = core.vote();
            let may_lead = vote.node == core.id() && (core.lead().is_some() || !vote.led);
            core.durable_term().min(if may_lead { vote.term.saturating_sub(1) } else { vote.term })
        })
    }

    /// Lets go of segments that are needed no more: of a partition those before its start, of the controller all but the last.
    pub fn purge_leftovers(&self) {
        let (log, applied) = (self.log(), self.inner.applied.borrow().index);
        let point = if self.id() == GroupId::CONTROLLER { log.cut_point(applied) } else { log.purge_point(applied) };
        if matches!(point, Ok(Some(_))) {
            self.inner.purge_soon();
        }
    }

    pub fn stop(&self) -> BoxFuture<'_, ()> {
        self.end().boxed()
    }

    async fn end(&self) {
        let inner = &self.inner;
        lock(&inner.machine).save_checkpoint(true);
        inner.turn_unapplied(|core, view| core.stop(view));
        inner.stopped.store(true, Ordering::SeqCst);
        inner.clock.arm(inner.id, None);
        // What is being let go of is let go of first: nothing of the group is written behind this.
        drop(inner.beginning.lock().await);
        while inner.purging.swap(true, Ordering::SeqCst) {
            tokio::time::sleep(PURGE_AWAITED).await;
        }
        if let Err(error) = inner.log.cover() {
            tracing::debug!(group = ?inner.id, %error, "the next start reads more of the log");
        }
        // What was queued is behind us when this is.
        inner.writer.flushed().await;
        // Whoever still holds this group must not take it for a leader.
        inner.leadership_told.send_replace(Leadership::default());
        (inner.watch)(inner.id, Leadership::default());
    }
}

impl Inner {
    /// Appends as the leader; `answering` hears what comes of it.
    fn append_for(self: &Arc<Self>, core: &mut Core, entry: LogEntry, answering: Answering) {
        lock(&self.proposers).push(entry.index, answering);
        self.append(core, entry);
    }

    /// Has a snapshot made of what stands before the log's start, and what it stands for let go of.
    fn purge_soon(self: &Arc<Self>) {
        if !self.purging.swap(true, Ordering::SeqCst) {
            self.runtime.spawn(self.clone().purge());
        }
    }

    async fn purge(self: Arc<Self>) {
        let past = lock(&self.machine).past();
        // Whoever wanted to apply meanwhile has left it to this.
        self.apply_committed();
        let needed_from = lock(&self.core).lead().and_then(|lead| lead.needed_from());
        let saved = match past {
            // A follower that keeps up is not made to begin anew.
            Ok(Some(snapshot)) if needed_from.is_none_or(|needed| needed > snapshot.purged.index) => {
                self.snapshots.save(&snapshot).await.map(|is_new| is_new.then_some(snapshot.purged))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        self.purging.store(false, Ordering::SeqCst);
        match saved {
            Ok(Some(purged)) => self.log.purge(purged),
            Ok(None) => {}
            // A disk that fails says so elsewhere.
            Err(error) => tracing::debug!(group = ?self.id, %error, "nothing is let go of"),
        }
    }
}
