//! How the parts of frames lie in their bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_raft::GroupId;
use meridian_raft::partition::StoredBatch;
use uuid::Uuid;

use super::{Beat, DETAIL_BYTES_MAX, Data, ENTRIES_MAX, EndReason, Frame, FrameError, Heartbeat, LastBatch, Open};

/// What comes before each batch: its append time and its length.
const BATCH_HEAD_BYTES: usize = 12;
/// A batch below this size is copied beside its neighbours, one above it is sent from where it lies.
const COPY_BYTES_MAX: usize = 4096;
/// A frame under construction: what was finished, and what is being written. The length comes first, once it is known.
pub(super) struct Pieces {
    done: Vec<Bytes>,
    pub(super) now: BytesMut,
}

impl Default for Pieces {
    fn default() -> Pieces {
        let mut now = BytesMut::new();
        now.put_u32(0);
        Pieces { done: Vec::new(), now }
    }
}

impl Pieces {
    pub(super) fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.now.extend_from_slice(bytes);
        } else {
            self.done.push(self.now.split().freeze());
            self.done.push(bytes.clone());
        }
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.now.is_empty() {
            self.done.push(self.now.freeze());
        }
        let length = self.done.iter().map(Bytes::len).sum::<usize>().saturating_sub(4);
        // Nothing that is encoded reaches 4 GiB: a chunk of data is 1 MiB or one batch of at most 64 MiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let mut first = BytesMut::from(self.done.remove(0));
        first[..4].copy_from_slice(&length.to_be_bytes());
        self.done.insert(0, first.freeze());
        self.done
    }
}

pub(super) fn short<E>(_: E) -> FrameError {
    FrameError::Short
}

pub(super) fn put_group(buffer: &mut BytesMut, group: GroupId) {
    buffer.put_slice(group.topic.as_bytes());
    buffer.put_i32(group.partition);
}

pub(super) fn take_group(bytes: &mut Bytes) -> Result<GroupId, FrameError> {
    let topic = Uuid::from_u128(bytes.try_get_u128().map_err(short)?);
    let partition = bytes.try_get_i32().map_err(short)?;
    if topic.is_nil() || partition < 0 {
        // Nil is the controller's: no link ever speaks of it.
        return Err(FrameError::Value("partition"));
    }
    Ok(GroupId { topic, partition })
}

pub(super) fn take_offset(bytes: &mut Bytes) -> Result<i64, FrameError> {
    let offset = bytes.try_get_i64().map_err(short)?;
    if offset < 0 { Err(FrameError::Value("offset")) } else { Ok(offset) }
}

pub(super) fn put_open(buffer: &mut BytesMut, open: &Open) {
    buffer.put_u8(3);
    buffer.put_u32(open.number);
    put_group(buffer, open.group);
    buffer.put_i64(open.from);
    if let Some(last) = open.last {
        buffer.put_i32(last.epoch);
        buffer.put_u32(last.crc);
    }
}

pub(super) fn take_open(bytes: &mut Bytes) -> Result<Open, FrameError> {
    let (number, group, from) = (bytes.try_get_u32().map_err(short)?, take_group(bytes)?, take_offset(bytes)?);
    let last = match bytes.is_empty() {
        true => None,
        false => Some(LastBatch { epoch: bytes.try_get_i32().map_err(short)?, crc: bytes.try_get_u32().map_err(short)? }),
    };
    Ok(Open { number, group, from, last })
}

pub(super) fn put_heartbeat(buffer: &mut BytesMut, heartbeat: &Heartbeat) {
    buffer.put_u8(19);
    buffer.put_i64(heartbeat.quiet_us);
    buffer.put_u32(heartbeat.beats.len() as u32);
    for beat in &heartbeat.beats {
        buffer.put_u32(beat.number);
        buffer.put_i32(beat.epoch);
        buffer.put_i64(beat.high_watermark);
        buffer.put_i64(beat.closed_us);
        buffer.put_u8(u8::from(beat.quiet));
    }
    buffer.put_u32(heartbeat.gone.len() as u32);
    heartbeat.gone.iter().for_each(|number| buffer.put_u32(*number));
}

pub(super) fn take_heartbeat(bytes: &mut Bytes) -> Result<Heartbeat, FrameError> {
    let quiet_us = bytes.try_get_i64().map_err(short)?;
    let count = take_count(bytes, 25)?;
    let mut beats = Vec::with_capacity(count);
    for _ in 0..count {
        beats.push(Beat {
            number: bytes.try_get_u32().map_err(short)?,
            epoch: bytes.try_get_i32().map_err(short)?,
            high_watermark: take_offset(bytes)?,
            closed_us: bytes.try_get_i64().map_err(short)?,
            quiet: bytes.try_get_u8().map_err(short)? != 0,
        });
    }
    let count = take_count(bytes, 4)?;
    let mut gone = Vec::with_capacity(count);
    for _ in 0..count {
        gone.push(bytes.try_get_u32().map_err(short)?);
    }
    Ok(Heartbeat { quiet_us, beats, gone })
}

/// A number of elements that the remaining bytes can hold.
fn take_count(bytes: &mut Bytes, element_bytes: usize) -> Result<usize, FrameError> {
    let count = bytes.try_get_u32().map_err(short)? as usize;
    if count > ENTRIES_MAX || count > bytes.len() / element_bytes { Err(FrameError::Value("count")) } else { Ok(count) }
}

pub(super) fn put_data(pieces: &mut Pieces, data: &Data) {
    pieces.now.put_u8(21);
    pieces.now.put_u32(data.number);
    pieces.now.put_i64(data.high_watermark);
    pieces.now.put_i64(data.closed_us);
    pieces.now.put_i64(data.start_offset);
    for batch in &data.batches {
        pieces.now.put_i64(batch.append_time_us);
        pieces.now.put_u32(batch.bytes.len() as u32);
        pieces.put_bytes(&batch.bytes);
    }
}

pub(super) fn take_data(bytes: &mut Bytes) -> Result<Data, FrameError> {
    let (number, high_watermark) = (bytes.try_get_u32().map_err(short)?, take_offset(bytes)?);
    let (closed_us, start_offset) = (bytes.try_get_i64().map_err(short)?, take_offset(bytes)?);
    let mut batches = Vec::new();
    while bytes.len() >= BATCH_HEAD_BYTES {
        let append_time_us = bytes.get_i64();
        let length = bytes.get_u32() as usize;
        if length < meridian_raft::batch::HEADER_BYTES || length > bytes.len() {
            return Err(FrameError::Value("batch length"));
        }
        batches.push(StoredBatch { append_time_us, bytes: bytes.split_to(length) });
    }
    Ok(Data { number, high_watermark, closed_us, start_offset, batches })
}

pub(super) fn take_ended(bytes: &mut Bytes) -> Result<Frame, FrameError> {
    let number = bytes.try_get_u32().map_err(short)?;
    let reason = EndReason::from_code(bytes.try_get_u8().map_err(short)?).ok_or(FrameError::Value("reason"))?;
    if bytes.len() > DETAIL_BYTES_MAX {
        return Err(FrameError::Value("detail"));
    }
    let detail = String::from_utf8_lossy(bytes).chars().filter(|character| !character.is_control()).collect();
    bytes.clear();
    Ok(Frame::Ended { number, reason, detail })
}
