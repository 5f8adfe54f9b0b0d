//! What is seen, line by line: who says what to whom, and how each replica changes. No times: what happens is in order, and how long it takes is
//! not the protocol's business.

use std::collections::BTreeMap;
use std::fmt::Write;

use meridian_raft::NodeId;
use meridian_raft::log::FrameKind;
use meridian_raft::partition::{Observed, ObservedEntry, Role};

const LEGEND: &str = "\
entries are named TERM.INDEX; ends at -: holds none
>> what is done to the nodes   1 -> 2 what node 1 says to node 2   [1] what is seen of node 1
";

#[derive(Debug)]
pub(super) struct Transcript {
    text: String,
    /// What one node has said since the last line, to whom: written in the order of these, whichever connection was served first.
    saying: Vec<(NodeId, NodeId, String)>,
    seen: BTreeMap<NodeId, Observed>,
    /// Said again and again, as by candidates that nobody hears.
    last_said: BTreeMap<(NodeId, NodeId), String>,
}

impl Transcript {
    pub fn new(title: &str) -> Transcript {
        Transcript { text: format!("{title}\n\n{LEGEND}"), saying: Vec::new(), seen: BTreeMap::new(), last_said: BTreeMap::new() }
    }

    pub fn text(&mut self) -> String {
        self.end_saying();
        self.text.clone()
    }

    fn line(&mut self, line: &str) {
        self.end_saying();
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn end_saying(&mut self) {
        let mut saying = std::mem::take(&mut self.saying);
        saying.sort_by_key(|(_, to, _)| *to);
        for (from, to, words) in saying {
            let _ = writeln!(self.text, "{from} -> {to}  {words}");
        }
    }

    pub fn act(&mut self, what: &str) {
        self.line(&format!("\n>> {what}"));
        self.last_said.clear();
    }

    pub fn say(&mut self, from: NodeId, to: NodeId, words: &str) {
        if self.last_said.insert((from, to), words.to_owned()).as_deref() != Some(words) {
            if self.saying.last().is_some_and(|(speaker, ..)| *speaker != from) {
                self.end_saying();
            }
            self.saying.push((from, to, words.to_owned()));
        }
    }

    pub fn observe(&mut self, node: NodeId, now: Option<Observed>) {
        let Some(now) = now else {
            self.seen.remove(&node);
            return;
        };
        // A learner that nobody has taught anything is not part of the group yet.
        if now.role == Role::Learner && now.entries.is_empty() && !self.seen.contains_key(&node) {
            return;
        }
        let before = self.seen.insert(node, now.clone());
        let mut changes = Vec::new();
        changes.extend(standing(node, before.as_ref(), &now));
        changes.extend(log(before.as_ref(), &now));
        if before.as_ref().is_none_or(|before| before.members != now.members) && !now.members.is_empty() && now.members != "{}" {
            changes.push(format!("voters are {}", now.members));
        }
        changes.extend(progress(before.as_ref(), &now));
        if !changes.is_empty() {
            self.line(&format!("[{node}]     {}", changes.join("; ")));
        }
    }
}

/// What it is, and for whom it votes.
fn standing(node: NodeId, before: Option<&Observed>, now: &Observed) -> Option<String> {
    let stands = |observed: &Observed| (observed.role, observed.term, observed.voted_for, observed.led);
    if before.is_some_and(|before| stands(before) == stands(now)) {
        return None;
    }
    let of = now.voted_for.map(|node| node.to_string()).unwrap_or_default();
    Some(match (now.role, now.led) {
        (Role::Leader, _) => format!("leads in term {}", now.term),
        (Role::Candidate, _) => format!("stands for election in term {}", now.term),
        (Role::Learner | Role::Follower, true) if now.voted_for == Some(node) => format!("has led in term {}", now.term),
        (Role::Learner, true) => format!("learns from node {of} in term {}", now.term),
        (Role::Follower, true) => format!("follows node {of} in term {}", now.term),
        (Role::Learner | Role::Follower, false) if now.term > 0 => format!("has voted for node {of} in term {}", now.term),
        (Role::Learner | Role::Follower, false) => "has never voted".to_owned(),
    })
}

/// Entries that are new, and those that are gone: cut off at the end, or let go of at the start.
fn log(before: Option<&Observed>, now: &Observed) -> Vec<String> {
    let mut changes = Vec::new();
    let held: &[ObservedEntry] = before.map_or(&[], |before| &before.entries);
    let still = |entry: &ObservedEntry| now.entries.iter().any(|other| (other.term, other.index) == (entry.term, entry.index));
    let cut: Vec<&ObservedEntry> = held.iter().filter(|entry| entry.index >= now.first_index && !still(entry)).collect();
    if let (Some(first), Some(last)) = (cut.first(), cut.last()) {
        changes.push(format!("cuts off {}", span(first, last)));
    }
    let gone: Vec<&ObservedEntry> = held.iter().filter(|entry| entry.index < now.first_index).collect();
    if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
        changes.push(format!("lets go of {}, its log begins at index {}", span(first, last), now.first_index));
    } else if now.first_index > before.map_or(0, |before| before.first_index) {
        changes.push(format!("its log begins at index {}", now.first_index));
    }
    let new = |entry: &&ObservedEntry| !held.iter().any(|other| (other.term, other.index) == (entry.term, entry.index));
    let stored: Vec<String> = now.entries.iter().filter(new).map(described).collect();
    if !stored.is_empty() {
        changes.push(format!("stores {}", stored.join(", ")));
    }
    changes
}

fn span(first: &ObservedEntry, last: &ObservedEntry) -> String {
    match first.index == last.index {
        true => format!("{}.{}", first.term, first.index),
        false => format!("{}.{} to {}.{}", first.term, first.index, last.term, last.index),
    }
}

fn described(entry: &ObservedEntry) -> String {
    let what = match (entry.kind, entry.offsets, entry.start_offset) {
        (_, Some((first, last)), _) if first == last => format!("offset {first}"),
        (_, Some((first, last)), _) => format!("offsets {first} to {last}"),
        (_, _, Some(start)) => format!("log starts at offset {start}"),
        (FrameKind::Blank, ..) => "blank".to_owned(),
        (FrameKind::Membership, ..) => "voters".to_owned(),
        (kind, ..) => format!("{kind:?}").to_lowercase(),
    };
    format!("{}.{} ({what})", entry.term, entry.index)
}

/// How far it knows the log to be committed, and what readers may ask for.
fn progress(before: Option<&Observed>, now: &Observed) -> Vec<String> {
    let mut changes = Vec::new();
    if now.committed_end > before.map_or(0, |before| before.committed_end).max(now.first_index) {
        let watermark = if before.is_none_or(|before| before.high_watermark < now.high_watermark) {
            format!(", high watermark {}", now.high_watermark)
        } else {
            String::new()
        };
        changes.push(format!("commits up to index {}{watermark}", now.committed_end - 1));
    }
    if now.start_offset > before.map_or(0, |before| before.start_offset) {
        changes.push(format!("readers may begin at offset {}", now.start_offset));
    }
    changes
}
