//! What is said on a connection between peers, in words: for whoever wants to see the protocol at work. Simulation only.
//!
//! A log position is written `term.index`, as in `3.17`; `-` is the position before the first entry.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use openraft::raft::{SnapshotResponse, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{EntryPayload, LogId};

use super::client::STATUS_OK;
use super::frame::{self, Frame, Kind};
use crate::env::{Ear, Said};
use crate::group::Types;
use crate::log::FrameKind;

/// Both directions of one connection, as the side that asks has them.
pub(crate) struct Conversation {
    peer: String,
    ear: Ear,
    sent: BytesMut,
    received: BytesMut,
    /// Questions that await an answer.
    asked: BTreeMap<u64, Kind>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Conversation").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Conversation {
    pub fn new(peer: String, ear: Ear) -> Conversation {
        Conversation { peer, ear, sent: BytesMut::new(), received: BytesMut::new(), asked: BTreeMap::new() }
    }

    pub fn sent(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        while let Some(frame) = next_frame(&mut self.sent) {
            self.asked.insert(frame.request, frame.kind);
            self.tell(false, question(frame.kind, frame.body));
        }
    }

    pub fn received(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while let Some(frame) = next_frame(&mut self.received) {
            if let Some(kind) = self.asked.remove(&frame.request) {
                self.tell(true, answer(kind, frame.body));
            }
        }
    }

    fn tell(&self, answer: bool, words: Option<String>) {
        if let Some(words) = words {
            (self.ear)(Said { peer: &self.peer, answer, words });
        }
    }
}

fn next_frame(bytes: &mut BytesMut) -> Option<Frame> {
    let length = u32::from_be_bytes(*bytes.first_chunk::<4>()?) as usize;
    if bytes.len() < 4 + length {
        return None;
    }
    bytes.advance(4);
    Frame::decode(bytes.split_to(length).freeze()).ok()
}

fn question(kind: Kind, body: Bytes) -> Option<String> {
    match kind {
        Kind::Vote | Kind::PreVote => {
            let rpc: VoteRequest<Types> = serde_json::from_slice(&body).ok()?;
            let (term, end) = (rpc.vote.leader_id().term, position(rpc.last_log_id.as_ref()));
            let sent_for = if rpc.leadership_transfer { ", the leader has sent for me" } else { "" };
            Some(match kind {
                Kind::Vote => format!("your vote in term {term}? my log ends at {end}{sent_for}"),
                _ => format!("would you vote for me in term {term}? my log ends at {end}"),
            })
        }
        Kind::Append => {
            let rpc = frame::decode_append(body)?;
            let entries: Vec<String> = rpc.entries.iter().map(entry).collect();
            if entries.is_empty() {
                return None;
            }
            let (behind, commit) = (position(rpc.prev_log_id.as_ref()), position(rpc.leader_commit.as_ref()));
            Some(format!("append behind {behind}: {}; committed is {commit}", entries.join(", ")))
        }
        Kind::Snapshot => {
            let (_, snapshot) = frame::decode_snapshot(body)?;
            let (last, start) = (position(snapshot.meta.last_log_id.as_ref()), snapshot.snapshot.start_offset);
            Some(format!("your log begins anew behind {last}; its first offset is {start}"))
        }
        Kind::Transfer => {
            let rpc: TransferLeaderRequest<Types> = serde_json::from_slice(&body).ok()?;
            let (from, to) = (rpc.from_leader(), rpc.to_node_id());
            Some(format!("node {to} shall lead after term {}, if its log reaches {}", from.leader_id().term, position(rpc.last_log_id())))
        }
        _ => None,
    }
}

fn answer(kind: Kind, mut body: Bytes) -> Option<String> {
    if !matches!(kind, Kind::Vote | Kind::PreVote | Kind::Append | Kind::Snapshot) {
        return None;
    }
    if body.try_get_u8().ok()? != STATUS_OK {
        return Some(format!("cannot: {}", String::from_utf8_lossy(&body)));
    }
    match kind {
        Kind::Vote | Kind::PreVote => {
            let response: VoteResponse<Types> = serde_json::from_slice(&body).ok()?;
            let (known, end) = (vote(&response.vote), position(response.last_log_id.as_ref()));
            Some(match (response.vote_granted, kind) {
                (true, Kind::Vote) => "yes".to_owned(),
                (true, _) => "I would".to_owned(),
                (false, _) => format!("no: {known}, and my log ends at {end}"),
            })
        }
        Kind::Append => match frame::decode_append_answer(&body)? {
            Ok(_) => None,
            Err(StreamAppendError::Conflict(at)) => Some(format!("I have no {}", position(Some(&at)))),
            Err(StreamAppendError::HigherVote(known)) => Some(format!("no: {}", vote(&known))),
        },
        _ => {
            let response: SnapshotResponse<Types> = serde_json::from_slice(&body).ok()?;
            Some(format!("done: {}", vote(&response.vote)))
        }
    }
}

fn vote(vote: &VoteOf<Types>) -> String {
    let (term, node) = (vote.leader_id().term, vote.leader_id().voted_for);
    if vote.is_committed() { format!("I follow node {node} in term {term}") } else { format!("I voted for node {node} in term {term}") }
}

fn position(id: Option<&LogIdOf<Types>>) -> String {
    id.map_or_else(|| "-".to_owned(), |LogId { leader_id, index }| format!("{}.{index}", leader_id.term))
}

fn entry(entry: &openraft::type_config::alias::EntryOf<Types>) -> String {
    let what = match &entry.payload {
        EntryPayload::Blank => "blank".to_owned(),
        EntryPayload::Membership(membership) => format!("voters {}", voters(membership)),
        EntryPayload::Normal(proposal) => match proposal.kind {
            FrameKind::RetentionPoint => "retention point".to_owned(),
            kind => format!("{kind:?}").to_lowercase(),
        },
    };
    format!("{} {what}", position(Some(&entry.log_id)))
}

/// Sets of voters that must each agree, and learners.
pub(crate) fn voters(membership: &openraft::Membership<u64, openraft::EmptyNode>) -> String {
    let set = |nodes: Vec<String>| format!("{{{}}}", nodes.join(" "));
    let sets: Vec<String> = membership.get_joint_config().iter().map(|nodes| set(nodes.iter().map(u64::to_string).collect())).collect();
    let learners: Vec<String> = membership.learner_ids().map(|node| node.to_string()).collect();
    let learners = if learners.is_empty() { String::new() } else { format!(", learners {}", set(learners)) };
    format!("{}{learners}", sets.join(" and "))
}
