//! What peers ask of a group: to take entries, to vote, to begin its log anew, to lead.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::ground::View;
use super::snapshot::Snapshot;
use super::{Group, Inner, lock};
use crate::NodeId;
use crate::consensus::election::{Answer, Ballot};
use crate::consensus::follower::{Append, Reply, Taken};
use crate::consensus::wire;
use crate::log::{Flushed, FrameKind, LogEntry, LogPosition};
use crate::peer::liveness::Bond;
use crate::peer::server::Responder;

fn is_data(entry: &LogEntry) -> bool {
    matches!(entry.kind, FrameKind::Batch | FrameKind::Mirrored)
}

impl Group {
    /// Entries of a leader.
    pub fn take(&self, append: Append, responder: Responder) {
        let inner = &self.inner;
        // Refused before anything of it is accepted; the leader tries again, and a majority goes on without this replica.
        if inner.log.refuses_data() && append.entries.iter().any(is_data) {
            return responder.send(Err("the disk is nearly full".to_owned()));
        }
        let mut core = lock(&inner.core);
        if inner.cutting.load(Ordering::SeqCst) {
            return responder.send(Err("entries are being taken back; try again".to_owned()));
        }
        let taken = core.appended(append, &View(inner));
        // Its vote for the leader first.
        inner.carry_out(&mut core);
        match taken {
            Taken::Answered(reply) => inner.when_saved(Box::new(move || responder.send(Ok(wire::encode_reply(reply))))),
            Taken::Failed => responder.send(Err(core.failure().unwrap_or("the group has stopped").to_owned())),
            Taken::Store { cut, entries, end, bond, committed_end } => {
                match inner.store((cut, entries), (end, bond), responder) {
                    Ok(true) => core.commit(committed_end),
                    Ok(false) => core.cut(cut.unwrap_or(end)),
                    Err(error) => core.fail(error.to_string()),
                }
                inner.carry_out(&mut core);
            }
        }
        drop(core);
        inner.apply_committed();
    }

    /// A candidate asks for this replica's vote, or whether it would have it.
    pub fn judge(&self, ballot: Ballot, responder: Responder) {
        let answer = self.inner.turn(|core, view| core.asked(ballot, view));
        match answer {
            Answer::Now(cast) => responder.send(Ok(wire::encode_cast(cast))),
            Answer::Saved(cast) => self.inner.when_saved(Box::new(move || responder.send(Ok(wire::encode_cast(cast))))),
        }
    }

    /// Its leader has it stand for election.
    pub fn sent_for(&self, leader: NodeId, term: u64, last: Option<LogPosition>) -> Result<(), String> {
        let stands = self.inner.turn(|core, view| core.was_sent_for(leader, term, last, view));
        if stands { Ok(()) } else { Err("its log does not reach so far, or it follows another".to_owned()) }
    }

    /// The log begins anew, behind what the leader has let go of.
    pub async fn begin_anew(&self, leader: NodeId, term: u64, snapshot: Bytes) -> Result<Bytes, String> {
        // Not to be left halfway when the connection ends.
        let begun = self.inner.runtime.spawn(self.clone().install(leader, term, snapshot));
        begun.await.map_err(|error| error.to_string())?
    }

    async fn install(self, leader: NodeId, term: u64, snapshot: Bytes) -> Result<Bytes, String> {
        let inner = &self.inner;
        let snapshot = Snapshot::decode(&snapshot).map_err(|error| error.to_string())?;
        if snapshot.purged.term > term {
            return Err("a snapshot of a later term than its leader's".to_owned());
        }
        let last = snapshot.last();
        let begins = inner.turn(|core, view| core.begins_behind(leader, term, last, view));
        // Its vote for that leader first.
        let (saved, is_saved) = oneshot::channel();
        inner.when_saved(Box::new(move || {
            let _ = saved.send(());
        }));
        is_saved.await.map_err(|_| "the disk refuses writes".to_owned())?;
        let bond = match begins {
            Err(reply) => return Ok(wire::encode_reply(reply)),
            Ok(bond) => bond,
        };
        let _one = inner.beginning.lock().await;
        if lock(&inner.core).failure().is_some() {
            return Err("the group has stopped".to_owned());
        }
        // Durable before the log lets go of anything for it. One that is newer is here where this node makes its own.
        inner.snapshots.save(&snapshot).await.map_err(|error| error.to_string())?;
        if let Err(error) = inner.begin_behind(&snapshot).await {
            inner.fail(error.to_string());
            return Err(error.to_string());
        }
        inner.apply_committed();
        Ok(wire::encode_reply(Reply::Holds { end: last.index + 1, bond }))
    }
}

impl Inner {
    /// Appends what a leader sent, and answers once it is durable. False where it is only taken back what stood in its place.
    fn store(
        self: &Arc<Self>,
        (cut, entries): (Option<u64>, Vec<LogEntry>),
        (end, bond): (u64, Bond),
        responder: Responder,
    ) -> io::Result<bool> {
        if let Some(cut) = cut {
            let keep = cut.checked_sub(1).map(|keep| keep + u64::from(self.log.mutations().truncate_off_by_one));
            let in_place = self.log.cuts_in_place(cut);
            let taken_back = self.log.truncate_after(keep);
            lock(&self.proposers).cut(cut);
            if !in_place {
                self.answer_cut(taken_back, Reply::Differs { end: cut, bond }, responder);
                return Ok(false);
            }
            // Queued in the call; that it is done is known when what follows is durable.
            if let Some(failed) = taken_back.now_or_never() {
                failed?;
            }
        }
        let reply = Reply::Holds { end, bond };
        if entries.is_empty() && self.log.flushed_next() >= end && self.is_saved() {
            responder.send(Ok(wire::encode_reply(reply)));
            return Ok(true);
        }
        let inner = self.clone();
        let done: Flushed = Box::new(move |result| match result {
            Ok(()) => responder.send(Ok(wire::encode_reply(reply))),
            Err(error) => inner.fail(error.to_string()),
        });
        self.log.append(entries, done).map(|()| true)
    }

    /// Whole files are removed: nothing is appended before that is done, or it would be written to one of them. The leader sends it again.
    fn answer_cut(self: &Arc<Self>, taken_back: BoxFuture<'static, io::Result<()>>, reply: Reply, responder: Responder) {
        self.cutting.store(true, Ordering::SeqCst);
        let inner = self.clone();
        self.runtime.spawn(async move {
            let taken_back = taken_back.await;
            inner.cutting.store(false, Ordering::SeqCst);
            match taken_back {
                Ok(()) => responder.send(Ok(wire::encode_reply(reply))),
                Err(error) => inner.fail(error.to_string()),
            }
        });
    }

    /// What the snapshot stands for is let go of, and with it what contradicts it.
    async fn begin_behind(self: &Arc<Self>, snapshot: &Snapshot) -> io::Result<()> {
        let last = snapshot.last();
        let taken_back = {
            let mut core = lock(&self.core);
            if self.log.purged().is_some_and(|held| held.index >= last.index) {
                return Ok(());
            }
            self.cutting.store(true, Ordering::SeqCst);
            let keep = core.committed_end();
            let contradicts = keep <= last.index && self.log.term_of(last.index)? != Some(last.term);
            contradicts.then(|| {
                lock(&self.proposers).skip(last.index + 1);
                lock(&self.proposers).cut(keep);
                core.cut(keep);
                self.log.truncate_after(keep.checked_sub(1))
            })
        };
        let anew = taken_back.is_some();
        if let Some(taken_back) = taken_back {
            taken_back.await?;
        }
        let begun = self.begin_now(snapshot, anew);
        self.cutting.store(false, Ordering::SeqCst);
        begun
    }

    fn begin_now(self: &Arc<Self>, snapshot: &Snapshot, anew: bool) -> io::Result<()> {
        let mut machine = lock(&self.machine);
        let mut core = lock(&self.core);
        let last = snapshot.last();
        self.log.purge(snapshot.purged);
        // What is applied already stays as it is.
        if last.index < machine.end() {
            return Ok(());
        }
        lock(&self.proposers).skip(last.index + 1);
        machine.restore(snapshot, true)?;
        core.began_behind(last, snapshot.members_since, snapshot.members.clone(), anew);
        self.carry_out(&mut core);
        Ok(())
    }
}
