//! Whether a replica sleeps, and what it has promised its leader meanwhile.
//!
//! An awake follower promises by each append it receives, a sleeping one by each pulse of its leader's node, not to vote for another for a
//! while ([`crate::peer::liveness`]). The one place through which every vote goes, [`Rest::before_vote`], keeps it: whatever asked for the vote,
//! it is not saved before the promise has run out.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::type_config::alias::VoteOf;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Types;
use crate::env::Mutations;
use crate::log::LogPosition;
use crate::peer::liveness::{Bond, Liveness};
use crate::{GroupId, NodeId};

/// Groups of one node that do not sleep, or have reason to wake. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Awake {
    groups: Arc<Mutex<BTreeSet<GroupId>>>,
    stirred: Arc<Notify>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    quiesced: AtomicU64,
    woken: AtomicU64,
}

impl Awake {
    pub fn add(&self, group: GroupId) {
        lock(&self.groups).insert(group);
    }
    pub fn remove(&self, group: GroupId) {
        lock(&self.groups).remove(&group);
    }
    pub fn all(&self) -> Vec<GroupId> {
        lock(&self.groups).iter().copied().collect()
    }
    pub fn contains(&self, group: GroupId) -> bool {
        lock(&self.groups).contains(&group)
    }
    /// A sleeping group has reason to wake.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }
    /// How often replicas fell asleep and woke.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.quiesced.load(Ordering::Relaxed), self.counts.woken.load(Ordering::Relaxed))
    }
}

/// By which bonds the followers of a sleeping leader fell asleep.
#[derive(Debug, Clone)]
pub(crate) struct Bonds {
    pub term: u64,
    pub voters: usize,
    pub followers: Vec<(NodeId, Bond)>,
    /// What followers acknowledge after the group has woken vouches for no later moment.
    pub until: Option<Instant>,
}

/// One replica's rest.
pub(crate) struct Rest {
    id: GroupId,
    node_id: NodeId,
    liveness: Liveness,
    awake: Awake,
    mutations: Mutations,
    asleep: AtomicBool,
    /// It has slept, and no proposal since has confirmed its lead.
    unconfirmed: AtomicBool,
    /// How often it fell asleep, so that what came before does not wake it.
    naps: AtomicU64,
    /// When the last append of its leader arrived.
    appended: Mutex<Option<Instant>>,
    /// The last term whose leader has itself sent for another.
    released: AtomicU64,
    /// The last term in which this replica voted.
    voted: AtomicU64,
    bonds: Mutex<Option<Bonds>>,
    /// Where the log of an earlier replica here ended, until this one's reaches as far; see `node::deleting`.
    bound_by: Mutex<Option<LogPosition>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rest {
    pub fn new(
        id: GroupId,
        node_id: NodeId,
        liveness: Liveness,
        awake: Awake,
        mutations: Mutations,
        bound_by: Option<LogPosition>,
    ) -> Rest {
        awake.add(id);
        Rest {
            id,
            node_id,
            liveness,
            awake,
            mutations,
            asleep: AtomicBool::new(false),
            unconfirmed: AtomicBool::new(false),
            naps: AtomicU64::new(0),
            appended: Mutex::default(),
            released: AtomicU64::new(0),
            voted: AtomicU64::new(0),
            bonds: Mutex::default(),
            bound_by: Mutex::new(bound_by),
        }
    }

    /// What a candidate's log must reach to get this replica's vote, and this replica's own before it stands.
    pub fn bound_by(&self) -> Option<LogPosition> {
        *lock(&self.bound_by)
    }

    /// The log has reached what an earlier one had.
    pub fn unbind(&self) {
        *lock(&self.bound_by) = None;
    }

    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }
    /// Whether a leader has to hear its followers before it proposes again; openraft counts no pulses.
    pub fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.load(Ordering::SeqCst)
    }
    pub fn confirmed(&self) {
        self.unconfirmed.store(false, Ordering::SeqCst);
    }
    pub fn naps(&self) -> u64 {
        self.naps.load(Ordering::SeqCst)
    }

    /// True if it was awake.
    pub fn fall_asleep(&self) -> bool {
        self.naps.fetch_add(1, Ordering::SeqCst);
        self.unconfirmed.store(true, Ordering::SeqCst);
        let awake = !self.asleep.swap(true, Ordering::SeqCst);
        self.awake.counts.quiesced.fetch_add(u64::from(awake), Ordering::Relaxed);
        self.awake.remove(self.id);
        awake
    }

    /// True if it was asleep.
    pub fn wake(&self) -> bool {
        self.awake.add(self.id);
        let woken = self.asleep.swap(false, Ordering::SeqCst);
        if woken {
            self.awake.counts.woken.fetch_add(1, Ordering::Relaxed);
            if let Some(bonds) = &mut *lock(&self.bonds) {
                bonds.until = Some(Instant::now());
            }
        }
        woken
    }

    /// Something happens to a replica that may be asleep: it is woken soon.
    pub fn stir(&self) {
        if self.is_asleep() {
            self.awake.add(self.id);
            self.awake.stirred.notify_one();
        }
    }

    pub fn forget(&self) {
        self.awake.remove(self.id);
    }

    /// An append of the leader has arrived. To be said before it is answered.
    pub fn appended(&self) {
        *lock(&self.appended) = Some(Instant::now());
    }

    /// The leader of this term has sent for another itself, or is none any more: nothing is promised to it.
    pub fn released(&self, term: u64) {
        self.released.fetch_max(term, Ordering::SeqCst);
    }

    /// Until when this replica may not vote against the leader of `vote`.
    pub fn promised_until(&self, vote: &VoteOf<Types>) -> Option<Instant> {
        let (leader, term) = (vote.leader_id().voted_for, vote.leader_id().term);
        if !vote.is_committed() || leader == self.node_id || self.released.load(Ordering::SeqCst) >= term {
            return None;
        }
        let appended = lock(&self.appended).map(|at| at + self.liveness.spans().promise);
        let pulsed = if self.is_asleep() && !self.mutations.sleepers_vote { self.liveness.promised_until(leader) } else { None };
        appended.max(pulsed).filter(|until| *until > Instant::now())
    }

    /// Waits until this replica may save a vote that follows on `before`.
    pub async fn before_vote(&self, before: Option<&VoteOf<Types>>, vote: &VoteOf<Types>) {
        if vote.is_committed() {
            // Another leads by the votes of a majority: that takes nothing of this replica's.
            return;
        }
        self.voted.fetch_max(vote.leader_id().term, Ordering::SeqCst);
        let Some(before) = before else { return };
        let promised = self.promised_until(before).filter(|_| vote.leader_id().term > before.leader_id().term);
        if self.is_asleep() {
            // The leader counts on it through its node; from here on it must not.
            self.liveness.withdraw(before.leader_id().voted_for);
            self.stir();
        }
        if let Some(until) = promised {
            tokio::time::sleep_until(until).await;
        }
    }

    /// The leader of `term` does not lead any more for all that this replica knows of itself.
    pub fn has_voted_after(&self, term: u64) -> bool {
        self.voted.load(Ordering::SeqCst) > term
    }
    pub fn was_released(&self, term: u64) -> bool {
        self.released.load(Ordering::SeqCst) >= term
    }

    pub fn bind(&self, bonds: Bonds) {
        *lock(&self.bonds) = Some(bonds);
    }

    /// Followers, and by which bonds they fell asleep.
    pub fn bound(&self) -> Option<Bonds> {
        lock(&self.bonds).clone()
    }

    /// When a majority last confirmed the leader of `term` by the pulses of their nodes.
    pub fn pulses_confirmed(&self, term: u64) -> Option<Instant> {
        let bonds = lock(&self.bonds);
        let bonds = bonds.as_ref().filter(|bonds| bonds.term == term)?;
        let acknowledged = |(node, bond): &(NodeId, Bond)| {
            let (sent, by) = self.liveness.acknowledgement(*node)?;
            (by == *bond || self.mutations.any_bond_counts).then(|| bonds.until.map_or(sent, |until| sent.min(until)))
        };
        let mut times: Vec<Instant> = bonds.followers.iter().filter_map(acknowledged).collect();
        times.sort_unstable();
        // Itself counts at any time; of the others, so many make the majority.
        let needed = bonds.voters / 2;
        if needed == 0 { Some(Instant::now()) } else { times.len().checked_sub(needed).map(|at| times[at]) }
    }
}
