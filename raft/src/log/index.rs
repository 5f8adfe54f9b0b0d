//! The sparse index of one segment, and the sidecar file that keeps it: written when the segment is closed, and now and then before.
//!
//! A sidecar is checksummed and is believed only where its last frame stands in the segment as it says. By Raft's rule a frame of that term, index
//! and append time has the same frames before it everywhere. All that it holds can be had from the segment again.
//!
//! `magic "MRDNIDX1", version u32, points u32, topic, partition i32, epochs u32, base index u64, base offset i64, end u64, next offset i64, last
//! frame (term u64, index u64, append time i64, position u64), first append time i64, greatest timestamp i64, CRC32C of the points, 0u32,
//! (epoch i32, offset i64)*, CRC32C of all that, (index u64, offset i64, position u64, greatest timestamp i64)*`, little-endian.

use std::io::{self, IoSlice};
use std::path::Path;

use super::frame::SEGMENT_HEADER_BYTES;
use super::segment::{read_exact, read_frame};
use crate::GroupId;
use crate::env::{Disk, File};

const MAGIC: [u8; 8] = *b"MRDNIDX1";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 128;
const EPOCH_BYTES: usize = 12;
const POINT_BYTES: usize = 32;
/// Read at once of a sidecar whose points are not wanted: enough for the epochs of most.
const HEAD_READ_BYTES: usize = 1024;
/// Points of one segment: beyond it every second one goes, and the distance doubles.
const POINTS_MAX: usize = 4096;
/// Distance of the points of a short segment.
const DISTANCE_BYTES_MIN: u64 = 4096;
/// A segment with more epochs has no sidecar.
const EPOCHS_MAX: usize = 1 << 16;

/// One entry of the sparse index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) index: u64,
    /// Next offset at this frame: the base offset of the first batch at or behind it.
    pub(super) offset: i64,
    pub(super) position: u64,
    /// Greatest record timestamp from here to the next point.
    pub(super) max_timestamp_ms: i64,
}

/// The points of one segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Points {
    points: Vec<Point>,
    distance_bytes: u64,
}

impl Default for Points {
    fn default() -> Points {
        Points { points: Vec::new(), distance_bytes: DISTANCE_BYTES_MIN }
    }
}

impl std::ops::Deref for Points {
    type Target = [Point];

    fn deref(&self) -> &[Point] {
        &self.points
    }
}

impl Points {
    /// A frame begins there.
    pub(super) fn note(&mut self, index: u64, offset: i64, position: u64) {
        if self.points.last().is_some_and(|last| position < last.position + self.distance_bytes) {
            return;
        }
        if self.points.len() >= POINTS_MAX {
            self.thin();
        }
        self.points.push(Point { index, offset, position, max_timestamp_ms: i64::MIN });
    }

    /// Of the frame that was noted last.
    pub(super) fn note_timestamp(&mut self, timestamp_ms: i64) {
        if let Some(point) = self.points.last_mut() {
            point.max_timestamp_ms = point.max_timestamp_ms.max(timestamp_ms);
        }
    }

    fn thin(&mut self) {
        self.distance_bytes *= 2;
        let pairs = self.points.chunks(2).map(|pair| {
            let max_timestamp_ms = pair.iter().map(|point| point.max_timestamp_ms).max().unwrap_or(i64::MIN);
            Point { max_timestamp_ms, ..pair[0] }
        });
        self.points = pairs.collect();
    }

    pub(super) fn truncate(&mut self, count: usize) {
        self.points.truncate(count);
    }

    /// The last point at or before an entry.
    pub(super) fn before(&self, index: u64) -> Option<Point> {
        let behind = self.points.partition_point(|point| point.index <= index);
        behind.checked_sub(1).and_then(|last| self.points.get(last)).copied()
    }

    /// The last point at or before a batch.
    pub(super) fn before_offset(&self, offset: i64) -> Option<Point> {
        // One whose offset equals `offset` may stand behind frames without offsets, never behind the batch itself.
        let behind = self.points.partition_point(|point| point.offset <= offset);
        behind.checked_sub(1).and_then(|last| self.points.get(last)).copied()
    }

    pub(super) fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>()
    }
}

/// Where the last frame that a sidecar covers stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) append_time_us: i64,
    pub(super) position: u64,
}

/// What is known of a segment's frames up to `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) base_index: u64,
    pub(super) base_offset: i64,
    pub(super) end: u64,
    pub(super) next_offset: i64,
    pub(super) last: Placed,
    pub(super) first_append_time_us: i64,
    pub(super) max_timestamp_ms: i64,
    /// Epochs of its batches and the offset of the first of each.
    pub(super) epochs: Vec<(i32, i64)>,
}

impl Facts {
    /// The last frame stands where these facts say, its header sound; with `whole` its payload, too.
    pub(super) fn fit(&self, segment: &dyn File, whole: bool) -> bool {
        let Ok((entry, bytes)) = read_frame(segment, self.last.position, !whole) else { return false };
        let Placed { term, index, append_time_us, position } = self.last;
        (entry.term, entry.index, entry.append_time_us, position + bytes) == (term, index, append_time_us, self.end)
    }
}

/// None where there is more than a sidecar may hold.
pub(super) fn encode(group: GroupId, facts: &Facts, points: &Points) -> Option<Vec<u8>> {
    if facts.epochs.len() > EPOCHS_MAX {
        return None;
    }
    let mut tail = Vec::with_capacity(points.len() * POINT_BYTES);
    for point in points.iter() {
        tail.extend(point.index.to_le_bytes());
        tail.extend(point.offset.to_le_bytes());
        tail.extend(point.position.to_le_bytes());
        tail.extend(point.max_timestamp_ms.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + facts.epochs.len() * EPOCH_BYTES + 4 + tail.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((points.len() as u32).to_le_bytes());
    bytes.extend(group.topic.as_bytes());
    bytes.extend(group.partition.to_le_bytes());
    bytes.extend((facts.epochs.len() as u32).to_le_bytes());
    let Facts { base_index, base_offset, end, next_offset, last, first_append_time_us, max_timestamp_ms, epochs } = facts;
    bytes.extend(base_index.to_le_bytes());
    bytes.extend(base_offset.to_le_bytes());
    bytes.extend(end.to_le_bytes());
    bytes.extend(next_offset.to_le_bytes());
    bytes.extend(last.term.to_le_bytes());
    bytes.extend(last.index.to_le_bytes());
    bytes.extend(last.append_time_us.to_le_bytes());
    bytes.extend(last.position.to_le_bytes());
    bytes.extend(first_append_time_us.to_le_bytes());
    bytes.extend(max_timestamp_ms.to_le_bytes());
    bytes.extend(crc32c::crc32c(&tail).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    for (epoch, offset) in epochs {
        bytes.extend(epoch.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(tail);
    Some(bytes)
}

/// A sidecar's head, and what it says of the points behind it.
struct Head {
    facts: Facts,
    bytes: usize,
    points: usize,
    points_crc: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    u64_at(bytes, at).map(|value| value as i64)
}

/// How long the head is, as far as that can be known from its fixed part.
fn head_bytes(bytes: &[u8]) -> Option<usize> {
    let epochs = u32_at(bytes, 36)? as usize;
    (bytes.starts_with(&MAGIC) && epochs <= EPOCHS_MAX).then_some(HEAD_BYTES + epochs * EPOCH_BYTES + 4)
}

fn decode_head(bytes: &[u8], group: GroupId) -> Option<Head> {
    let length = head_bytes(bytes)?;
    let head = bytes.get(..length)?;
    let points = u32_at(head, 12)? as usize;
    let mine = u32_at(head, 8)? == VERSION && head[16..32] == *group.topic.as_bytes() && head[32..36] == group.partition.to_le_bytes();
    if !mine || points > POINTS_MAX || crc32c::crc32c(&head[..length - 4]) != u32_at(head, length - 4)? {
        return None;
    }
    let (epochs, _) = head[HEAD_BYTES..length - 4].as_chunks::<EPOCH_BYTES>();
    let epochs = epochs.iter().map(|bytes| Some((u32_at(bytes, 0)? as i32, i64_at(bytes, 4)?))).collect::<Option<_>>()?;
    let last = Placed { term: u64_at(head, 72)?, index: u64_at(head, 80)?, append_time_us: i64_at(head, 88)?, position: u64_at(head, 96)? };
    let facts = Facts {
        base_index: u64_at(head, 40)?,
        base_offset: i64_at(head, 48)?,
        end: u64_at(head, 56)?,
        next_offset: i64_at(head, 64)?,
        last,
        first_append_time_us: i64_at(head, 104)?,
        max_timestamp_ms: i64_at(head, 112)?,
        epochs,
    };
    let placed = last.position >= SEGMENT_HEADER_BYTES as u64 && last.position < facts.end && last.index >= facts.base_index;
    (placed && points > 0).then_some(Head { facts, bytes: length, points, points_crc: u32_at(head, 120)? })
}

fn decode_points(bytes: &[u8], facts: &Facts) -> Option<Points> {
    let (chunks, _) = bytes.as_chunks::<POINT_BYTES>();
    let point = |bytes: &[u8; POINT_BYTES]| {
        Some(Point {
            index: u64_at(bytes, 0)?,
            offset: i64_at(bytes, 8)?,
            position: u64_at(bytes, 16)?,
            max_timestamp_ms: i64_at(bytes, 24)?,
        })
    };
    let points = chunks.iter().map(point).collect::<Option<Vec<Point>>>()?;
    let mut distance_bytes = DISTANCE_BYTES_MIN;
    while facts.end / distance_bytes > POINTS_MAX as u64 {
        distance_bytes *= 2;
    }
    Some(Points { points, distance_bytes })
}

/// The head of a segment's sidecar; None where there is none that holds. Nothing behind the head is read or believed.
pub(super) fn read_facts(disk: &dyn Disk, path: &Path, group: GroupId) -> io::Result<Option<Facts>> {
    let Some(file) = open(disk, path)? else { return Ok(None) };
    let mut bytes = vec![0; HEAD_READ_BYTES];
    let held = read_up_to(&*file, &mut bytes)?;
    bytes.truncate(held);
    match head_bytes(&bytes) {
        Some(wanted) if wanted > held && file.len()? >= wanted as u64 => {
            bytes.resize(wanted, 0);
            read_exact(&*file, &mut bytes, 0)?;
        }
        _ => {}
    }
    Ok(decode_head(&bytes, group).map(|head| head.facts))
}

/// A segment's whole sidecar; None where there is none that holds.
pub(super) fn read(disk: &dyn Disk, path: &Path, group: GroupId) -> io::Result<Option<(Facts, Points)>> {
    const BYTES_MAX: u64 = (HEAD_BYTES + EPOCHS_MAX * EPOCH_BYTES + 4 + POINTS_MAX * POINT_BYTES) as u64;
    let Some(file) = open(disk, path)? else { return Ok(None) };
    let length = file.len()?;
    if length > BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let held = read_up_to(&*file, &mut bytes)?;
    bytes.truncate(held);
    let Some(Head { facts, bytes: head, points, points_crc }) = decode_head(&bytes, group) else { return Ok(None) };
    let tail = &bytes[head..];
    if tail.len() != points * POINT_BYTES || crc32c::crc32c(tail) != points_crc {
        return Ok(None);
    }
    let points = decode_points(tail, &facts);
    Ok(points.map(|points| (facts, points)))
}

fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<std::sync::Arc<dyn File>>> {
    match disk.open(path, false) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_up_to(file: &dyn File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Puts a sidecar in place of an older one, whole or not at all. Its name is durable once the folder is.
pub(super) fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let file = disk.open(&draft, true)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    file.sync()?;
    disk.rename(&draft, path)
}

/// What sidecars are called, and what one is called while it is written.
pub(super) const SIDECAR: &str = "index";
pub(super) const DRAFT: &str = "index-new";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    const GROUP: GroupId = GroupId { topic: uuid::Uuid::from_u128(7), partition: 3 };

    fn grown(frames: u64, frame_bytes: u64) -> Points {
        let mut points = Points::default();
        for index in 0..frames {
            points.note(index, index as i64 * 2, 64 + index * frame_bytes);
            points.note_timestamp(1_000 - index as i64);
        }
        points
    }

    fn facts() -> Facts {
        let last = Placed { term: 4, index: 99, append_time_us: 17, position: 64 + 99 * 100 };
        Facts {
            base_index: 0,
            base_offset: 0,
            end: 64 + 100 * 100,
            next_offset: 200,
            last,
            first_append_time_us: 5,
            max_timestamp_ms: 1_000,
            epochs: vec![(3, 0), (4, 90)],
        }
    }

    #[test]
    fn a_long_segment_has_no_more_points_than_a_bound_and_every_frame_is_behind_one() {
        let (frames, bytes) = (1 << 20, 1000);
        let points = grown(frames, bytes);
        assert!(points.len() <= POINTS_MAX && points.len() >= POINTS_MAX / 2, "{}", points.len());
        for index in (0..frames).step_by(997) {
            let point = points.before(index).expect("a point");
            assert!(point.index <= index && index - point.index <= 2 * points.distance_bytes / bytes + 1, "{index}: {point:?}");
            assert_eq!(points.before_offset(index as i64 * 2 + 1), Some(point));
            assert_eq!(point.position, 64 + point.index * bytes);
            assert_eq!(point.max_timestamp_ms, 1_000 - point.index as i64);
        }
    }

    #[test]
    fn a_sidecar_is_read_as_it_was_written_and_no_flipped_bit_or_missing_byte_is_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (disk, path) = (Env::real().disk, folder.path().join("0.index"));
        let points = grown(100, 100);
        let bytes = encode(GROUP, &facts(), &points).expect("it fits");
        write(&*disk, &path, &bytes).expect("written");
        assert_eq!(read(&*disk, &path, GROUP).expect("readable"), Some((facts(), points)));
        assert_eq!(read_facts(&*disk, &path, GROUP).expect("readable"), Some(facts()));
        assert_eq!(read(&*disk, &path, GroupId { partition: 4, ..GROUP }).expect("readable"), None, "another log's");
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1 << (at % 8);
            write(&*disk, &path, &rotten).expect("written");
            assert_eq!(read(&*disk, &path, GROUP).expect("readable"), None, "byte {at}");
            write(&*disk, &path, &bytes[..at]).expect("written");
            assert_eq!(read(&*disk, &path, GROUP).expect("readable"), None, "cut at {at}");
        }
    }
}
