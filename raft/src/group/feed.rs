//! How followers are sent a leader's log: the connection asks for the next append when it can send one, so that it carries all that came meanwhile.
//!
//! What is still in memory is handed over at once. What has to be read from the disk, and what a learner is sent, which may have to wait for
//! others, takes a task; so does a snapshot, where the log has let go of what the follower lacks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Inner, lock};
use crate::NodeId;
use crate::consensus::follower::Append;
use crate::consensus::leader::Next;
use crate::consensus::wire;
use crate::log::LogEntry;
use crate::peer::client::{Source, Ticket};
use crate::peer::frame::{Kind, Request};

/// Entries and bytes of one append; several are in flight per follower.
const APPEND_ENTRIES_MAX: usize = 512;
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;

/// Bytes that may wait for one connection before more is read from the disk for it, and the time between two looks.
const QUEUED_BYTES_MAX: u64 = 16 << 20;
const ROOM_AGAIN: Duration = Duration::from_millis(5);

/// What [`Next::Entries`] told.
#[derive(Clone, Copy)]
struct Place {
    ticket: Ticket,
    prev: Option<crate::log::LogPosition>,
    from: u64,
    committed_end: u64,
}

impl Source for Inner {
    fn next(self: Arc<Self>, node: NodeId) -> Option<(Request, Ticket)> {
        // One lock for what is told and what is sent: nothing comes in between.
        let mut core = lock(&self.core);
        let next = core.next_for(node, &super::ground::View(&self));
        let request = match next {
            Next::Nothing => None,
            Next::Snapshot { session, term } => {
                self.runtime.spawn(self.clone().send_snapshot(node, Ticket { session, term }));
                None
            }
            Next::Entries { session, term, prev, from, committed_end, bare } => {
                let place = Place { ticket: Ticket { session, term }, prev, from, committed_end };
                let entries = if bare {
                    Some(Vec::new())
                } else if core.members().learners().contains(&node) {
                    None
                } else {
                    self.log.recent(from, APPEND_ENTRIES_MAX, APPEND_BYTES_MAX)
                };
                match entries {
                    Some(entries) => self.sent(&mut core, node, place, entries).map(|request| (request, place.ticket)),
                    None => {
                        core.reads_for(node, session, term);
                        self.runtime.spawn(self.clone().read_and_send(node, place));
                        None
                    }
                }
            }
        };
        self.carry_out(&mut core);
        request
    }

    fn answered(self: Arc<Self>, node: NodeId, Ticket { session, term }: Ticket, answer: io::Result<Bytes>) {
        let reply = answer.ok().and_then(wire::decode_reply);
        self.turn(|core, view| match reply {
            Some(reply) => core.answered(node, session, term, reply, view),
            None => core.send_failed(node, session, term, view),
        });
    }

    fn unreachable(self: Arc<Self>, node: NodeId) {
        self.turn_unapplied(|core, _| core.lost(node));
    }
}

impl Inner {
    /// Notes entries as on their way, and makes their append.
    fn sent(&self, core: &mut crate::consensus::Core, node: NodeId, place: Place, entries: Vec<LogEntry>) -> Option<Request> {
        let Place { ticket: Ticket { session, term }, prev, from, committed_end } = place;
        let end = from + entries.len() as u64;
        if !core.sent(node, session, term, (from, end), committed_end, &super::ground::View(self)) {
            return None;
        }
        let append = Append { term, leader: self.node_id, prev, entries, committed_end };
        Some(Request { kind: Kind::Append, group: self.id, body: wire::encode_append(append) })
    }

    async fn read_and_send(self: Arc<Self>, node: NodeId, place: Place) {
        let Ticket { session, term } = place.ticket;
        // What is read for one follower waits here, not in a queue before its pulses.
        while self.peers.queued_bytes(node) > QUEUED_BYTES_MAX {
            tokio::time::sleep(ROOM_AGAIN).await;
        }
        let end = place.from + APPEND_ENTRIES_MAX as u64;
        let entries = match self.log.entries(place.from..end, APPEND_BYTES_MAX) {
            Ok(entries) => entries,
            Err(error) => return self.fail(error.to_string()),
        };
        // Let go of meanwhile: what begins later would leave a hole in the follower's log.
        if entries.first().is_some_and(|first| first.index != place.from) {
            return self.turn_unapplied(|core, view| core.send_failed(node, session, term, view));
        }
        let learns = lock(&self.core).members().learners().contains(&node);
        let bytes: u64 = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        if learns && bytes > 0 {
            self.peers.catch_up().take(bytes).await;
        }
        let mut core = lock(&self.core);
        let request = self.sent(&mut core, node, place, entries);
        if let Some(request) = request
            && self.peers.send(node, request, self.clone(), place.ticket).is_err()
        {
            core.send_failed(node, session, term, &super::ground::View(&self));
        }
        self.carry_out(&mut core);
    }

    async fn send_snapshot(self: Arc<Self>, node: NodeId, ticket: Ticket) {
        let Ticket { session, term } = ticket;
        let reply = match self.snapshots.bytes() {
            Some(snapshot) => {
                let body = vec![wire::encode_begin(term, self.node_id), snapshot];
                let answer = self.peers.call(node, Request { kind: Kind::Snapshot, group: self.id, body }, super::INSTALL_DEADLINE);
                answer.await.ok().and_then(wire::decode_reply)
            }
            // It is being saved; until then nothing is let go of.
            None => None,
        };
        self.turn(|core, view| match reply {
            Some(reply) => core.began_anew(node, session, term, reply, view),
            None => core.send_failed(node, session, term, view),
        });
    }
}
