//! Whether a replica sleeps, and what it has promised its leader meanwhile.
//!
//! An awake follower promises by each append it receives, a sleeping one by each pulse of its leader's node, not to vote for another for a
//! while ([`crate::peer::liveness`]). The one place through which every vote goes, [`Rest::before_vote`], keeps it: whatever asked for the vote,
//! it is not saved before the promise has run out. A replica that is closed and opened again, in this process or the next, has forgotten when it
//! promised what to whom: it keeps the promise from its opening on. And one that fell asleep may have been woken by somebody else than its
//! leader, who counts on it still: before it votes it says that it is not to be counted on, and waits for the end of what it said before that.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::raft::VoteRequest;
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
    /// When it was opened, where an earlier opening may have promised something to somebody else.
    opened: Option<Instant>,
    /// The last term under whose leader it fell asleep: that node may count on it by pulses, whatever has woken it since.
    slept: AtomicU64,
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
    /// `held` is the vote that an earlier opening of the replica has left.
    pub fn new(
        id: GroupId,
        node_id: NodeId,
        liveness: Liveness,
        awake: Awake,
        mutations: Mutations,
        bound_by: Option<LogPosition>,
        held: Option<&VoteOf<Types>>,
    ) -> Rest {
        awake.add(id);
        // Whoever led by its last vote has promised nothing to others.
        let promised = held.is_some_and(|vote| !(vote.is_committed() && vote.leader_id().voted_for == node_id));
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
            opened: promised.then(Instant::now),
            slept: AtomicU64::new(0),
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

    /// It falls asleep as a follower in this term: from here on its leader may count on it by the pulses of its node.
    pub fn sleeps_under(&self, term: u64) {
        self.slept.fetch_max(term, Ordering::SeqCst);
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
        self.promised(vote, self.is_asleep())
    }

    fn promised(&self, vote: &VoteOf<Types>, by_pulses: bool) -> Option<Instant> {
        let (leader, term) = (vote.leader_id().voted_for, vote.leader_id().term);
        if (vote.is_committed() && leader == self.node_id) || self.released.load(Ordering::SeqCst) >= term {
            return None;
        }
        let promise = self.liveness.spans().promise;
        // Also where a vote was cast since, or raised because others were lost: it may have followed another before.
        let opened = self.opened.map(|at| at + promise);
        let appended = lock(&self.appended).filter(|_| vote.is_committed()).map(|at| at + promise);
        let by_pulses = by_pulses && vote.is_committed() && !self.mutations.sleepers_vote;
        let pulsed = if by_pulses { self.liveness.promised_until(leader) } else { None };
        opened.max(appended).max(pulsed).filter(|until| *until > Instant::now())
    }

    /// Whether the leader of `vote` may take pulses that this node answers for this replica's word.
    fn is_counted_on(&self, vote: &VoteOf<Types>) -> bool {
        let term = vote.leader_id().term;
        let slept = self.slept.load(Ordering::SeqCst) >= term || self.is_asleep();
        slept && vote.is_committed() && self.released.load(Ordering::SeqCst) < term
    }

    /// The leader of `vote` must not count on this replica from here on: it votes for another, or is closed.
    pub fn forsake(&self, vote: &VoteOf<Types>) {
        if self.is_counted_on(vote) {
            self.liveness.withdraw(vote.leader_id().voted_for);
        }
    }

    /// Waits until this replica may save a vote that follows on `before`.
    pub async fn before_vote(&self, before: Option<&VoteOf<Types>>, vote: &VoteOf<Types>) {
        if vote.is_committed() {
            // Another leads by the votes of a majority: that takes nothing of this replica's.
            return;
        }
        self.voted.fetch_max(vote.leader_id().term, Ordering::SeqCst);
        let Some(before) = before else { return };
        // First of all: what is answered from here on is no promise any more, so that the last one is known.
        self.forsake(before);
        let promised = self.promised(before, self.is_counted_on(before)).filter(|_| vote.leader_id().term > before.leader_id().term);
        self.stir();
        if let Some(until) = promised {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Whether a candidate was sent by the very leader that `held` follows, so that nothing promised to it stands in the way. A candidate that
    /// an earlier leader sent may ask late, when another leads who has let go of nothing.
    pub fn is_sent_by_leader(held: &VoteOf<Types>, request: &VoteRequest<Types>) -> bool {
        request.leadership_transfer && held.is_committed() && request.vote.leader_id().term == held.leader_id().term + 1
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::Timing;

    const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };
    const ID: GroupId = GroupId::CONTROLLER;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn node_1(liveness: &Liveness, held: Option<&VoteOf<Types>>) -> Rest {
        liveness.set([2, 3].into_iter());
        Rest::new(ID, 1, liveness.clone(), Awake::default(), Mutations::NONE, None, held)
    }

    fn led(term: u64, leader: NodeId) -> VoteOf<Types> {
        VoteOf::<Types>::new_committed(term, leader)
    }

    fn asked(term: u64, candidate: NodeId) -> VoteOf<Types> {
        VoteOf::<Types>::new(term, candidate)
    }

    async fn waits(rest: &Rest, before: VoteOf<Types>, vote: VoteOf<Types>) -> Duration {
        let begun = Instant::now();
        rest.before_vote(Some(&before), &vote).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_opened_anew_keeps_what_it_may_have_promised_before() {
        let liveness = Liveness::new(1, TIMING);
        for held in [led(3, 2), asked(9, 1)] {
            let rest = node_1(&liveness, Some(&held));
            tokio::time::advance(ms(150)).await;
            assert!(rest.promised_until(&held).is_some());
            assert_eq!(waits(&rest, held, asked(10, 3)).await, ms(250));
            assert!(rest.promised_until(&held).is_none());
        }
        // Nothing was promised by a replica that is new, or led.
        assert_eq!(node_1(&liveness, None).promised_until(&led(3, 2)), None);
        assert_eq!(waits(&node_1(&liveness, Some(&led(3, 1))), led(3, 1), asked(4, 3)).await, ms(0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_woken_by_another_than_its_leader_does_not_vote_while_pulses_count() {
        let liveness = Liveness::new(1, TIMING);
        let rest = node_1(&liveness, None);
        rest.appended();
        tokio::time::advance(ms(1000)).await;
        rest.sleeps_under(3);
        rest.fall_asleep();
        let bond = liveness.pulsed(2, 7);
        tokio::time::advance(ms(100)).await;
        rest.wake();
        assert_eq!(liveness.pulsed(2, 7), bond, "its leader counts on it still");
        tokio::time::advance(ms(100)).await;
        assert_eq!(waits(&rest, led(3, 2), asked(4, 3)).await, ms(300));
        assert_ne!(liveness.pulsed(2, 7), bond, "and does no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_closed_is_counted_on_no_more() {
        let liveness = Liveness::new(1, TIMING);
        let rest = node_1(&liveness, None);
        rest.sleeps_under(3);
        let bond = liveness.pulsed(2, 7);
        rest.forsake(&led(4, 2));
        assert_eq!(liveness.pulsed(2, 7), bond, "it has never slept under that leader");
        rest.forsake(&led(3, 2));
        assert_ne!(liveness.pulsed(2, 7), bond);
    }

    #[test]
    fn a_candidate_whom_an_earlier_leader_sent_is_not_let_past_the_promise_to_a_later_one() {
        let mut request = VoteRequest::<Types>::new(asked(4, 3), None);
        assert!(!Rest::is_sent_by_leader(&led(3, 2), &request));
        request.leadership_transfer = true;
        assert!(Rest::is_sent_by_leader(&led(3, 2), &request));
        for held in [led(4, 2), led(2, 2), asked(3, 2)] {
            assert!(!Rest::is_sent_by_leader(&held, &request), "{held:?}");
        }
    }
}
