//! What is known of a run, gathered while it happens, and the promises checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::batch::records::decode;
use meridian_raft::batch::{Batch, BatchHeader};
use meridian_raft::partition::{Appended, Leadership, StoredBatch};
use meridian_raft::{GroupId, NodeId};

use super::Reached;

/// Everything observed, in order of simulated time.
#[derive(Debug, Default)]
pub(in crate::sim) struct Oracle {
    groups: BTreeMap<GroupId, Known>,
    pub reached: Reached,
    pub trace: u32,
    /// The first broken promise.
    pub broken: Option<String>,
}

/// What is known of one partition.
#[derive(Debug, Default)]
struct Known {
    /// Every value ever handed to it.
    sent: BTreeSet<u64>,
    /// Value → offset, as first acknowledged.
    acknowledged: BTreeMap<u64, i64>,
    /// Offset → value, as anybody has read it below a high watermark.
    read: BTreeMap<i64, u64>,
    leaders: BTreeMap<i32, NodeId>,
    /// Who was elected in each term, whether or not it came to lead.
    elected: BTreeMap<i32, NodeId>,
    /// Who held a lease when that was last looked at, and when that was.
    lease: Option<(NodeId, Duration)>,
    /// The furthest log start that anybody asked for, and the furthest that was acknowledged.
    start_wanted: i64,
    start_acknowledged: i64,
}

/// One partition's promises.
pub(in crate::sim) struct GroupOracle<'a> {
    id: GroupId,
    known: &'a mut Known,
    trace: &'a mut u32,
    pub reached: &'a mut Reached,
    broken: &'a mut Option<String>,
}

fn note(trace: &mut u32, values: &[u64]) {
    for value in values {
        *trace = crc32c::crc32c_append(*trace, &value.to_le_bytes());
    }
}

impl Oracle {
    pub fn group(&mut self, id: GroupId) -> GroupOracle<'_> {
        let Oracle { groups, reached, trace, broken } = self;
        GroupOracle { id, known: groups.entry(id).or_default(), trace, reached, broken }
    }

    /// A fault was drawn, and perhaps bites.
    pub fn fault(&mut self, number: u64, bites: bool) {
        note(&mut self.trace, &[4, number, u64::from(bites)]);
    }
}

impl GroupOracle<'_> {
    fn note(&mut self, values: &[u64]) {
        note(self.trace, &[self.id.partition.unsigned_abs().into()]);
        note(self.trace, values);
    }

    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert_with(|| format!("partition {}: {what}", self.id.partition));
    }

    pub fn sends(&mut self, value: u64) {
        self.known.sent.insert(value);
    }

    pub fn acknowledges(&mut self, node: NodeId, value: u64, appended: Appended) {
        self.note(&[1, node, value, appended.base_offset as u64]);
        self.reached.acknowledged += 1;
        self.reached.duplicates_recognised += u64::from(appended.duplicate);
        let first = *self.known.acknowledged.entry(value).or_insert(appended.base_offset);
        if first != appended.base_offset {
            self.breaks(format!("value {value} was acknowledged at offset {first} and again at {}", appended.base_offset));
        }
    }

    pub fn leaves_open(&mut self, node: NodeId, value: u64) {
        self.note(&[2, node, value]);
        self.reached.unknown += 1;
    }

    pub fn leads(&mut self, node: NodeId, leadership: Leadership) {
        let epoch = leadership.epoch;
        let led_before = self.known.leaders.insert(epoch, node);
        match led_before {
            None => {
                self.note(&[3, node, epoch as u64]);
                self.reached.terms += 1;
                let before = self.known.leaders.range(..epoch).next_back().map_or(epoch, |(before, _)| *before);
                self.reached.terms_without_leader += u64::from(before.saturating_add(1) < epoch);
            }
            Some(other) if other != node => self.breaks(format!("nodes {other} and {node} both lead term {epoch}")),
            Some(_) => {}
        }
    }

    pub fn is_elected(&mut self, node: NodeId, epoch: i32) {
        let first = *self.known.elected.entry(epoch).or_insert(node);
        if first != node {
            self.breaks(format!("nodes {first} and {node} have both been elected in term {epoch}"));
        }
    }

    /// The last term that was led.
    pub fn last_term(&self) -> i32 {
        self.known.leaders.keys().next_back().copied().unwrap_or(0)
    }

    /// What is decided on the strength of a lease would be wrong, had another led since, or were two of them held at one `time`.
    pub fn holds_lease(&mut self, node: NodeId, epoch: i32, time: Duration) {
        self.reached.leases += 1;
        if let Some((other, _)) = self.known.lease.replace((node, time)).filter(|(other, at)| *other != node && *at == time) {
            self.breaks(format!("nodes {other} and {node} hold a lease at the same time"));
        }
        let later = self.known.leaders.range(epoch.saturating_add(1)..).next().map(|(epoch, leader)| (*epoch, *leader));
        if let Some((later, leader)) = later {
            self.breaks(format!("node {node} holds the lease of term {epoch}, but node {leader} has led term {later}"));
        }
    }

    /// What is read below a high watermark stays.
    pub fn reads(&mut self, node: NodeId, batch: &StoredBatch, watermark: i64) {
        self.reached.reads += 1;
        let offsets = offsets_of(batch);
        if offsets.end > watermark {
            self.breaks(format!("node {node} serves offsets {offsets:?}, but its high watermark is {watermark}"));
        }
        let Some(value) = value_of(&batch.bytes) else {
            return self.breaks(format!("node {node} serves no value at offset {}", offsets.start));
        };
        let first = *self.known.read.entry(offsets.start).or_insert(value);
        if first != value {
            self.breaks(format!("offset {} held value {first} for one reader, and holds {value} on node {node}", offsets.start));
        }
    }

    pub fn watermark(&mut self, node: NodeId, before: i64, now: i64) {
        if now < before {
            self.breaks(format!("the high watermark of node {node} went back from {before} to {now}"));
        }
    }

    pub fn wants_start(&mut self, offset: i64) {
        self.known.start_wanted = self.known.start_wanted.max(offset);
    }

    pub fn acknowledges_start(&mut self, node: NodeId, offset: i64) {
        self.note(&[6, node, offset as u64]);
        self.reached.records_deleted += 1;
        self.known.start_acknowledged = self.known.start_acknowledged.max(offset);
    }

    /// What a replica says of its log's start.
    pub fn start(&mut self, node: NodeId, before: i64, now: i64) {
        if now < before {
            self.breaks(format!("the log start of node {node} went back from {before} to {now}"));
        }
        if now > self.known.start_wanted {
            self.breaks(format!("the log of node {node} begins at {now}, but nobody let go of more than {}", self.known.start_wanted));
        }
    }

    pub fn start_acknowledged(&self) -> i64 {
        self.known.start_acknowledged
    }

    pub fn acknowledged_end(&self) -> i64 {
        self.known.acknowledged.values().max().map_or(0, |offset| offset + 1)
    }

    /// Judges what each node holds in the end, from its log's start on.
    pub fn judge(&mut self, replicas: &BTreeMap<NodeId, Held>) {
        let start = replicas.values().map(|held| held.start).max().unwrap_or(0);
        let Some((first, reference)) = replicas.iter().find(|(_, held)| held.start == start) else {
            self.breaks("no replica answered in the end".to_owned());
            return;
        };
        let reference = &reference.batches;
        for (node, held) in replicas {
            // A batch is stored whole, with records before the start that nobody reads any more.
            let begin = held.batches.first().map(|batch| offsets_of(batch).start);
            if begin.is_some_and(|begin| begin > held.start) {
                self.breaks(format!("node {node} has a hole: its log starts at {}, its first batch at {begin:?}", held.start));
            }
            let batches: Vec<&StoredBatch> = held.batches.iter().filter(|batch| offsets_of(batch).end > start).collect();
            if batches.iter().copied().ne(reference) {
                let at = batches.iter().zip(reference).position(|(one, other)| *one != other).unwrap_or(batches.len().min(reference.len()));
                self.breaks(format!(
                    "nodes {first} and {node} differ from batch {at} behind offset {start} on ({} and {} batches)",
                    reference.len(),
                    batches.len()
                ));
            }
        }
        let mut next = reference.first().map_or(start, |batch| offsets_of(batch).start);
        let mut offsets = BTreeMap::new();
        if let Some(pair) = reference.windows(2).find(|pair| pair[0].append_time_us >= pair[1].append_time_us) {
            self.breaks(format!("append times go back from {} to {}", pair[0].append_time_us, pair[1].append_time_us));
        }
        for batch in reference {
            let Some(header) = BatchHeader::decode(&batch.bytes) else {
                self.breaks(format!("no batch at offset {next}"));
                return;
            };
            if header.base_offset != next {
                self.breaks(format!("a batch begins at offset {}, the one before ends at {next}", header.base_offset));
            }
            next = header.base_offset + i64::from(header.last_offset_delta) + 1;
            match value_of(&batch.bytes) {
                Some(value) if !self.known.sent.contains(&value) => self.breaks(format!("value {value} was never sent")),
                Some(value) => {
                    if let Some(earlier) = offsets.insert(value, header.base_offset) {
                        self.breaks(format!("value {value} is stored twice, at offsets {earlier} and {}", header.base_offset));
                    }
                }
                None => self.breaks(format!("the batch at offset {} does not hold a value", header.base_offset)),
            }
        }
        let lost = self.known.acknowledged.iter().find(|(value, offset)| **offset >= start && offsets.get(value) != Some(offset));
        if let Some((value, offset)) = lost {
            let what = format!("acknowledged value {value} is not at offset {offset} but {:?}: lost", offsets.get(value));
            self.breaks(what);
        }
        let unread = self.known.read.range(start..next).find(|(offset, value)| offsets.get(value) != Some(offset));
        if let Some((offset, value)) = unread {
            let what = format!("value {value} was read at offset {offset}, and is at {:?} in the end", offsets.get(value));
            self.breaks(what);
        }
        self.note(&[5, reference.len() as u64, next as u64]);
    }
}

/// What a replica holds from its log's start on.
#[derive(Debug)]
pub(in crate::sim) struct Held {
    pub start: i64,
    pub batches: Vec<StoredBatch>,
}

fn offsets_of(batch: &StoredBatch) -> std::ops::Range<i64> {
    BatchHeader::decode(&batch.bytes)
        .map_or(0..0, |header| header.base_offset..header.base_offset + i64::from(header.last_offset_delta) + 1)
}

fn value_of(bytes: &Bytes) -> Option<u64> {
    let records = decode(&Batch::from_stored(bytes.clone()).ok()?)?;
    Some(u64::from_be_bytes(*records.first()?.value.as_ref()?.first_chunk()?))
}
