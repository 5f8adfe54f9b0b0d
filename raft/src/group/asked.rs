//! What peers ask of a group: to take entries, to vote, to begin its log anew, to lead.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::ground::View;
use super::snapshot::Snapshot;
use super::{Group, Inner, lock};
use crate::NodeId;
use crate::consensus::election::{Answer, Ballot};
use crate::consensus::follower::{Append, Reply, Taken};
use crate::consensus::wire;
use crate::log::{Flushed, FrameKind, LogEntry, LogPosition};
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
        let taken = core.appended(append, &View(inner));
        // Its vote for the leader first.
        inner.carry_out(&mut core);
        match taken {
            Taken::Answered(reply) => inner.when_saved(Box::new(move || responder.send(Ok(wire::encode_reply(reply))))),
            Taken::Failed => responder.send(Err(core.failure().unwrap_or("the group has stopped").to_owned())),
            Taken::Store { cut, entries, end, bond } => {
                let reply = Reply::Holds { end, bond };
                if let Err(error) = inner.store(cut, entries, reply, responder) {
                    core.fail(error.to_string());
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
        let inner = &self.inner;
        let snapshot = Snapshot::decode(&snapshot).map_err(|error| error.to_string())?;
        let last = snapshot.last();
        let begins = inner.turn(|core, view| core.begins_behind(leader, term, last, view));
        let bond = match begins {
            Err(reply) => return Ok(wire::encode_reply(reply)),
            Ok(bond) => bond,
        };
        let _one = inner.beginning.lock().await;
        // Durable before the log lets go of anything for it.
        let is_new = inner.snapshots.save(&snapshot).await.map_err(|error| error.to_string())?;
        if is_new && let Err(error) = inner.begin_behind(&snapshot) {
            inner.fail(error.to_string());
            return Err(error.to_string());
        }
        inner.apply_committed();
        Ok(wire::encode_reply(Reply::Holds { end: last.index + 1, bond }))
    }
}

impl Inner {
    /// Appends what a leader sent, and answers once it is durable.
    fn store(self: &Arc<Self>, cut: Option<u64>, entries: Vec<LogEntry>, reply: Reply, responder: Responder) -> io::Result<()> {
        if let Some(cut) = cut {
            let keep = cut.checked_sub(1).map(|keep| keep + u64::from(self.log.mutations().truncate_off_by_one));
            // Queued in the call; that it is done is known when what follows is durable.
            if let Some(cut) = self.log.truncate_after(keep).now_or_never() {
                cut?;
            }
            lock(&self.proposers).cut(cut);
        }
        let Reply::Holds { end, .. } = reply else { return Ok(()) };
        if entries.is_empty() && self.log.flushed_next() >= end && !self.is_saving() {
            responder.send(Ok(wire::encode_reply(reply)));
            return Ok(());
        }
        let inner = self.clone();
        let done: Flushed = Box::new(move |result| match result {
            Ok(()) => responder.send(Ok(wire::encode_reply(reply))),
            Err(error) => inner.fail(error.to_string()),
        });
        self.log.append(entries, done)
    }

    /// What the snapshot stands for is let go of, and with it what contradicts it.
    fn begin_behind(self: &Arc<Self>, snapshot: &Snapshot) -> io::Result<()> {
        let mut machine = lock(&self.machine);
        let mut core = lock(&self.core);
        let last = snapshot.last();
        if last.index < core.committed_end() {
            self.log.purge(snapshot.purged);
            return Ok(());
        }
        lock(&self.proposers).skip(last.index + 1);
        let anew = self.log.term_of(last.index)? != Some(last.term);
        if anew {
            let keep = core.committed_end();
            if let Some(cut) = self.log.truncate_after(keep.checked_sub(1)).now_or_never() {
                cut?;
            }
            lock(&self.proposers).cut(keep);
        }
        self.log.purge(snapshot.purged);
        machine.restore(snapshot, true)?;
        core.began_behind(last, snapshot.members_since, snapshot.members.clone(), anew);
        self.carry_out(&mut core);
        Ok(())
    }
}
