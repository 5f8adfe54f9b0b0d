//! One turn of a group: its core is told something, and what follows is carried out, in order, under one lock. What is committed by it is
//! applied behind that, by whoever comes first.

use std::sync::Arc;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;

use super::ground::View;
use super::votes::{save_committed, vote_key};
use super::{Inner, lock};
use crate::NodeId;
use crate::consensus::election::Ballot;
use crate::consensus::{Core, Effect, Vote, wire};
use crate::log::{Flushed, LogEntry, LogPosition};
use crate::partition::Leadership;
use crate::peer::frame::{self, Kind, Request};

/// Something to be done once all votes that were to be saved are durable.
pub(super) type AfterSave = Box<dyn FnOnce() + Send>;

/// Votes on their way to the disk.
#[derive(Default)]
pub(super) struct Saving {
    under_way: usize,
    then: Vec<AfterSave>,
    /// One never got there: nothing that needs it is ever done.
    failed: bool,
}

impl Inner {
    /// Tells the core something and carries out what follows.
    pub(super) fn turn<T>(self: &Arc<Self>, tell: impl FnOnce(&mut Core, &View<'_>) -> T) -> T {
        let told = self.turn_unapplied(tell);
        self.apply_committed();
        told
    }

    /// The same for whoever holds what applying needs: nothing that it tells commits anything.
    pub(super) fn turn_unapplied<T>(self: &Arc<Self>, tell: impl FnOnce(&mut Core, &View<'_>) -> T) -> T {
        let mut core = lock(&self.core);
        let told = tell(&mut core, &View(self));
        self.carry_out(&mut core);
        told
    }

    pub(super) fn carry_out(self: &Arc<Self>, core: &mut Core) {
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                break;
            }
            effects.into_iter().for_each(|effect| self.carry_out_one(core, effect));
        }
        self.committed_end.fetch_max(core.committed_end(), Ordering::SeqCst);
        if let Some(reason) = core.failure() {
            lock(&self.proposers).stop(reason);
        }
        if !self.stopped.load(Ordering::SeqCst) {
            self.publish(core);
            self.clock.arm(self.id, core.due());
        }
    }

    fn carry_out_one(self: &Arc<Self>, core: &mut Core, effect: Effect) {
        match effect {
            Effect::Save(vote) => self.save(core, vote),
            Effect::Append(entry) => self.append(core, entry),
            Effect::Ask { to, ballot } => self.ask(to, ballot),
            Effect::Feed(node) => {
                if self.peers.feed(node, self.clone()).is_err() {
                    core.lost(node);
                }
            }
            Effect::Offer { to, term, last } => {
                let body = vec![wire::encode_offer(term, self.node_id, to, last)];
                let answer = self.peers.call(to, Request { kind: Kind::Transfer, group: self.id, body }, super::CALL_DEADLINE);
                // Whoever takes it says so by standing.
                self.runtime.spawn(answer.map(drop));
            }
            Effect::Rouse(leader) => {
                let body = frame::encode_positions(self.node_id, &[(self.id, 0, 0)]);
                // Not connected: then the leader's node is soon taken for gone.
                let _ = self.peers.tell(leader, Kind::Rouse, body);
            }
        }
    }

    fn save(self: &Arc<Self>, core: &mut Core, vote: Vote) {
        self.writer.note_change();
        if self.log.mutations().forgotten_vote && !vote.led {
            core.saved(vote, &View(self));
            return;
        }
        lock(&self.saving).under_way += 1;
        let inner = self.clone();
        let done: Flushed = Box::new(move |result| {
            let then = {
                let mut saving = lock(&inner.saving);
                saving.failed |= result.is_err();
                saving.under_way -= 1;
                if saving.under_way == 0 { std::mem::take(&mut saving.then) } else { Vec::new() }
            };
            match result {
                Ok(()) => {
                    inner.turn(|core, view| core.saved(vote, view));
                    then.into_iter().for_each(|then| then());
                }
                Err(error) => inner.fail(error.to_string()),
            }
        });
        if let Err(error) = self.writer.save_meta_then(vote_key(self.id), Some(vote.encode().to_vec()), done) {
            core.fail(error.to_string());
        }
    }

    /// Calls `then` once no vote is on its way to the disk.
    pub(super) fn when_saved(&self, then: AfterSave) {
        let mut saving = lock(&self.saving);
        match (saving.failed, saving.under_way) {
            (true, _) => {}
            (false, 0) => {
                drop(saving);
                then();
            }
            (false, _) => saving.then.push(then),
        }
    }

    /// Every vote that was to be saved is durable.
    pub(super) fn is_saved(&self) -> bool {
        let saving = lock(&self.saving);
        saving.under_way == 0 && !saving.failed
    }

    /// Appends as the leader.
    pub(super) fn append(self: &Arc<Self>, core: &mut Core, entry: LogEntry) {
        let inner = self.clone();
        let done: Flushed = Box::new(move |result| match result {
            Ok(()) => inner.turn(|core, view| core.flushed(view)),
            Err(error) => inner.fail(error.to_string()),
        });
        match self.log.append(vec![entry.clone()], done) {
            Ok(()) => core.stored(&[entry], &View(self)),
            Err(error) => core.fail(error.to_string()),
        }
    }

    fn ask(self: &Arc<Self>, to: NodeId, ballot: Ballot) {
        let request = Request { kind: Kind::Vote, group: self.id, body: vec![wire::encode_ballot(ballot)] };
        let (answer, group) = (self.peers.call(to, request, super::CALL_DEADLINE), Arc::downgrade(self));
        self.runtime.spawn(async move {
            let Some(cast) = answer.await.ok().and_then(wire::decode_cast) else { return };
            if let Some(inner) = group.upgrade() {
                inner.turn(|core, view| core.heard_cast(to, ballot, cast, view));
            }
        });
    }

    pub(super) fn fail(self: &Arc<Self>, reason: String) {
        self.turn_unapplied(|core, _| core.fail(reason));
    }

    /// Says who leads, where that has changed.
    pub(super) fn publish(&self, core: &Core) {
        let applied = *self.applied.borrow();
        let term = core.vote().term;
        let epoch = i32::try_from(term).unwrap_or(i32::MAX);
        let leads = core.lead().is_some();
        let now = Leadership {
            leader: core.leader(),
            epoch: if self.mirror { epoch.saturating_add(applied.batch_epoch) } else { epoch },
            is_leader: leads && applied.term == term,
        };
        let led = self.led.swap(if leads { term } else { 0 }, Ordering::SeqCst);
        if led > 0 && !(leads && led == term) {
            (self.released)(self.id, led);
        }
        if self.leadership_told.send_if_modified(|held| std::mem::replace(held, now) != now) {
            (self.watch)(self.id, now);
        }
    }

    /// Applies what is committed, unless somebody does already, who then sees it too.
    pub(super) fn apply_committed(self: &Arc<Self>) {
        loop {
            let mut machine = match self.machine.try_lock() {
                Ok(machine) => machine,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let end = self.committed_end.load(Ordering::SeqCst);
            if machine.end() < end {
                let before = machine.applied();
                let applied = machine.apply(end, &mut |index, outcome| lock(&self.proposers).applied(index, outcome));
                let now = machine.applied();
                save_committed(&self.writer, &self.log, LogPosition { term: now.term, index: now.index });
                if machine.take_purgeable() {
                    self.purge_soon();
                }
                if let Err(error) = applied {
                    drop(machine);
                    return self.fail(error.to_string());
                }
                if now.term != before.term || (self.mirror && now.batch_epoch != before.batch_epoch) {
                    let mut core = lock(&self.core);
                    core.forget_members_before(now.index);
                    if !self.stopped.load(Ordering::SeqCst) {
                        self.publish(&core);
                    }
                }
            }
            drop(machine);
            if self.committed_end.load(Ordering::SeqCst) <= end {
                return;
            }
        }
    }
}
