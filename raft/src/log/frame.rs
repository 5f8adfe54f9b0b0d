//! The bytes of a segment: its header block, and the header before every payload.

use bytes::Bytes;

use super::{FrameKind, LogEntry};
use crate::GroupId;
use crate::batch::{BatchHeader, HEADER_BYTES};

pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
pub(super) const FRAME_HEADER_BYTES: usize = 64;
/// Longest payload of one frame.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const SEGMENT_MAGIC: [u8; 8] = *b"MRDNLOG1";
const SEGMENT_VERSION: u32 = 1;
const FRAME_MAGIC: u32 = 0x4d52_4446;
/// What of a batch its own checksum does not cover.
const BATCH_STAMPED_BYTES: usize = 21;

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
fn seal(mut bytes: [u8; 64]) -> [u8; 64] {
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Magic, version, topic id, partition, base index, base offset, flags, room for a key id, CRC32C.
pub(super) fn encode_segment(group: GroupId, base_index: u64, base_offset: i64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    bytes[12..28].copy_from_slice(group.topic.as_bytes());
    bytes[28..32].copy_from_slice(&group.partition.to_le_bytes());
    bytes[32..40].copy_from_slice(&base_index.to_le_bytes());
    bytes[40..48].copy_from_slice(&base_offset.to_le_bytes());
    seal(bytes)
}

/// Base index and base offset of a segment of this group.
pub(super) fn decode_segment(bytes: &[u8; 64], group: GroupId) -> Option<(u64, i64)> {
    let (index, offset) = (u64_at(bytes, 32), u64_at(bytes, 40) as i64);
    (*bytes == encode_segment(group, index, offset)).then_some((index, offset))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    pub kind: FrameKind,
    pub length: usize,
    pub term: u64,
    pub index: u64,
    pub append_time_us: i64,
    payload_crc: u32,
    /// Of the payload's first [`HEADER_BYTES`], which apply reads alone; None in frames of before it was written.
    head_crc: Option<u32>,
}

/// Says that a frame's header carries the checksum of its batch's header.
const HEAD_CHECKED: u8 = 1;

pub(super) fn is_batch(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Batch | FrameKind::Mirrored)
}

fn payload_crc(kind: FrameKind, payload: &[u8]) -> u32 {
    let covered = if is_batch(kind) { payload.len().min(BATCH_STAMPED_BYTES) } else { payload.len() };
    crc32c::crc32c(&payload[..covered])
}

pub(super) fn encode_frame(entry: &LogEntry) -> Bytes {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    bytes[4] = entry.kind as u8;
    if is_batch(entry.kind) {
        bytes[5] = HEAD_CHECKED;
        bytes[48..52].copy_from_slice(&head_crc(&entry.payload).to_le_bytes());
    }
    bytes[8..12].copy_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    bytes[12..20].copy_from_slice(&entry.term.to_le_bytes());
    bytes[28..36].copy_from_slice(&entry.index.to_le_bytes());
    bytes[36..44].copy_from_slice(&entry.append_time_us.to_le_bytes());
    bytes[44..48].copy_from_slice(&payload_crc(entry.kind, &entry.payload).to_le_bytes());
    Bytes::copy_from_slice(&seal(bytes))
}

pub(super) fn decode_frame(bytes: &[u8; 64]) -> Option<FrameHeader> {
    let kind = match bytes[4] {
        0 => FrameKind::Blank,
        1 => FrameKind::Membership,
        2 => FrameKind::Batch,
        3 => FrameKind::Mirrored,
        4 => FrameKind::Command,
        5 => FrameKind::RetentionPoint,
        _ => return None,
    };
    let length = u32_at(bytes, 8) as usize;
    if u32_at(bytes, 0) != FRAME_MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    Some(FrameHeader {
        kind,
        length,
        term: u64_at(bytes, 12),
        index: u64_at(bytes, 28),
        append_time_us: u64_at(bytes, 36) as i64,
        payload_crc: u32_at(bytes, 44),
        head_crc: (bytes[5] & HEAD_CHECKED != 0).then(|| u32_at(bytes, 48)),
    })
}

fn head_crc(payload: &[u8]) -> u32 {
    crc32c::crc32c(&payload[..payload.len().min(HEADER_BYTES)])
}

impl FrameHeader {
    /// What the frame takes of its file.
    pub(super) fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES + self.length) as u64
    }

    /// `head`: a batch's payload, at least as far as its header goes.
    pub(super) fn head_is_sound(&self, head: &[u8]) -> bool {
        self.head_crc.is_none_or(|crc| crc == head_crc(head))
    }

    pub(super) fn payload_is_sound(&self, payload: &[u8]) -> bool {
        payload_crc(self.kind, payload) == self.payload_crc
            && (!is_batch(self.kind) || BatchHeader::decode(payload).is_some_and(|batch| crc32c::crc32c(&payload[21..]) == batch.crc))
    }
}
