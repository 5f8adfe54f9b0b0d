//! What is said on a connection between peers, in words: for whoever wants to see the protocol at work. Simulation only.
//!
//! A log position is written `term.index`, as in `3.17`; `-` is the position before the first entry.

use std::collections::BTreeMap;
use std::fmt;

use super::client::STATUS_OK;
use super::frame::{Frame, Kind};
use crate::NodeId;
use crate::consensus::follower::Reply;
use crate::consensus::members::Members;
use crate::consensus::{Vote, wire};
use crate::env::{Ear, Said};
use crate::group::snapshot::Snapshot;
use crate::log::{FrameKind, LogEntry, LogPosition};
use bytes::{Buf, Bytes, BytesMut};

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

fn question(kind: Kind, mut body: Bytes) -> Option<String> {
    match kind {
        Kind::Vote => {
            let ballot = wire::decode_ballot(body)?;
            let (term, end) = (ballot.term, position(ballot.last));
            let sent = if ballot.sent { ", the leader has sent for me" } else { "" };
            Some(match ballot.pre {
                false => format!("your vote in term {term}? my log ends at {end}{sent}"),
                true => format!("would you vote for me in term {term}? my log ends at {end}"),
            })
        }
        Kind::Append => {
            let append = wire::decode_append(body)?;
            let entries: Vec<String> = append.entries.iter().map(entry).collect();
            if entries.is_empty() {
                return None;
            }
            let (behind, committed) = (position(append.prev), append.committed_end);
            let committed = committed.checked_sub(1).map_or_else(|| "nothing".to_owned(), |index| format!("up to index {index}"));
            Some(format!("append behind {behind}: {}; committed is {committed}", entries.join(", ")))
        }
        Kind::Snapshot => {
            wire::decode_begin(&mut body)?;
            let snapshot = Snapshot::decode(&body).ok()?;
            Some(format!("your log begins anew behind {}; its first offset is {}", position(Some(snapshot.last())), snapshot.start_offset))
        }
        Kind::Transfer => {
            let (term, _, to, last) = wire::decode_offer(body)?;
            Some(format!("node {to} shall lead after term {term}, if its log reaches {}", position(last)))
        }
        _ => None,
    }
}

fn answer(kind: Kind, mut body: Bytes) -> Option<String> {
    if !matches!(kind, Kind::Vote | Kind::Append | Kind::Snapshot) {
        return None;
    }
    if body.try_get_u8().ok()? != STATUS_OK {
        return Some(format!("cannot: {}", String::from_utf8_lossy(&body)));
    }
    if kind == Kind::Vote {
        let cast = wire::decode_cast(body)?;
        let (known, end) = (vote(cast.vote), position(cast.last));
        return Some(if cast.granted { "yes".to_owned() } else { format!("no: {known}, and my log ends at {end}") });
    }
    match (wire::decode_reply(body)?, kind) {
        (Reply::Holds { .. }, Kind::Append) => None,
        (Reply::Holds { end, .. }, _) => Some(format!("done: my log goes on at index {end}")),
        (Reply::Differs { end, .. }, _) => Some(format!("I do not hold that; we may agree before index {end}")),
        (Reply::Later(known), _) => Some(format!("no: {}", vote(known))),
    }
}

fn vote(Vote { term, node, led }: Vote) -> String {
    match (term, led) {
        (0, _) => "I have never voted".to_owned(),
        (_, true) => format!("I follow node {node} in term {term}"),
        (_, false) => format!("I voted for node {node} in term {term}"),
    }
}

fn position(position: Option<LogPosition>) -> String {
    position.map_or_else(|| "-".to_owned(), |LogPosition { term, index }| format!("{term}.{index}"))
}

fn entry(entry: &LogEntry) -> String {
    let what = match entry.kind {
        FrameKind::RetentionPoint => "retention point".to_owned(),
        FrameKind::Membership => {
            let members = serde_json::from_slice::<Members>(&entry.payload);
            members.map_or_else(|error| error.to_string(), |members| format!("voters {}", voters(&members)))
        }
        kind => format!("{kind:?}").to_lowercase(),
    };
    format!("{}.{} {what}", entry.term, entry.index)
}

/// Sets of voters that must each agree, and learners.
pub(crate) fn voters(members: &Members) -> String {
    let set = |nodes: &std::collections::BTreeSet<NodeId>| {
        let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
        format!("{{{}}}", nodes.join(" "))
    };
    let sets: Vec<String> = members.sets().iter().map(set).collect();
    let learners = if members.learners().is_empty() { String::new() } else { format!(", learners {}", set(members.learners())) };
    format!("{}{learners}", sets.join(" and "))
}
