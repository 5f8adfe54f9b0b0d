//! What a link says on its streams: frames of a length, a kind and a body, decoded without trust. The ALPN names their version.
//!
//! A stream begins with a frame of the target's that says what the stream is for ([`Frame::Control`] or [`Frame::Bulk`]).

mod layout;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_raft::GroupId;
use meridian_raft::partition::StoredBatch;

use crate::catalogue::Catalogue;
use layout::{
    Pieces, put_data, put_group, put_heartbeat, put_open, short, take_data, take_ended, take_group, take_heartbeat, take_offset, take_open,
};

/// Largest frame of a target: requests and positions.
pub const REQUEST_BYTES_MAX: usize = 1024;
/// Largest frame of batches: one batch of the largest size that a log takes, and its surroundings.
pub const DATA_BYTES_MAX: usize = (64 << 20) + 4096;
/// Largest frame on a control stream: a catalogue of as many topics and ACLs as a region may have.
pub const CONTROL_BYTES_MAX: usize = 64 << 20;
/// Longest explanation sent along with the end of a mirror.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Entries of one heartbeat frame; more are split over several.
pub const ENTRIES_MAX: usize = 16 << 10;

/// Allocated for a frame before its bytes arrive.
const FIRST_BYTES: usize = 64 << 10;

/// A request to be sent a partition from some offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Names the request on its stream; never used twice.
    pub number: u32,
    pub group: GroupId,
    pub from: i64,
    /// The batch before `from`; None where the target's log is empty.
    pub last: Option<LastBatch>,
}

/// The batch that ends a target's log, as far as two logs must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBatch {
    pub epoch: i32,
    /// The batch's own checksum.
    pub crc: u32,
}

/// Committed batches, and what the source knew when it read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    pub number: u32,
    pub high_watermark: i64,
    /// No record committed later than at `high_watermark` carries an append time at or before this one (µs); 0 promises nothing.
    pub closed_us: i64,
    /// Where the home's log begins. The first batch may hold records before it; batches before that one are gone at home.
    pub start_offset: i64,
    /// None where only the start is told.
    pub batches: Vec<StoredBatch>,
}

/// One led partition, where something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub number: u32,
    pub epoch: i32,
    pub high_watermark: i64,
    /// As in [`Data`].
    pub closed_us: i64,
    /// Until the partition's next beat, `quiet_us` of every heartbeat closes it too.
    pub quiet: bool,
}

/// One beat of a node's heart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Closes every partition whose last beat was quiet, at the high watermark of that beat; 0 closes none.
    pub quiet_us: i64,
    pub beats: Vec<Beat>,
    /// Partitions that the sender leads no more, or may no longer send.
    pub gone: Vec<u32>,
}

/// Why a source stopped sending a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// Another node of the region leads it, or none.
    NotLeader = 1,
    /// The region may not have it.
    Refused = 2,
    /// The logs disagree before the offset asked for.
    Diverged = 3,
    /// The source no longer has the offset asked for.
    OutOfRange = 4,
    /// The source cannot read its log.
    Unreadable = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First on a stream: catalogue and heartbeats, please.
    Control,
    /// First on a stream: mirrors will be opened on it.
    Bulk,
    Open(Open),
    /// The target holds everything before `offset`, durably.
    Position {
        number: u32,
        offset: i64,
    },
    Close {
        number: u32,
    },
    Catalogue(Catalogue),
    /// The last catalogue of this stream holds as of this version, too.
    CatalogueUnchanged {
        version: u64,
    },
    /// Names a partition for heartbeats to come.
    Name {
        number: u32,
        group: GroupId,
    },
    Heartbeat(Heartbeat),
    /// The logs agree; data follow.
    Opened {
        number: u32,
    },
    Data(Data),
    Ended {
        number: u32,
        reason: EndReason,
        detail: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes; at most {max} are possible")]
    Length { length: usize, max: usize },
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame ends too early or late")]
    Short,
    #[error("a frame's {0} is impossible")]
    Value(&'static str),
    #[error("a catalogue that does not parse")]
    Catalogue,
}

/// Why nothing more comes from a stream.
#[derive(Debug, thiserror::Error)]
pub enum ReadFrameError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stream broke: {0}")]
    Stream(#[from] quinn::ReadError),
    #[error("the stream ended within a frame")]
    Cut,
}

impl EndReason {
    fn from_code(code: u8) -> Option<EndReason> {
        use EndReason::*;
        [NotLeader, Refused, Diverged, OutOfRange, Unreadable].into_iter().find(|reason| *reason as u8 == code)
    }
}

impl Frame {
    /// The frame, ready for a stream, in as few pieces as copying little allows.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        match self {
            Frame::Control => pieces.now.put_u8(1),
            Frame::Bulk => pieces.now.put_u8(2),
            Frame::Open(open) => put_open(&mut pieces.now, open),
            Frame::Position { number, offset } => {
                pieces.now.put_u8(4);
                pieces.now.put_u32(*number);
                pieces.now.put_i64(*offset);
            }
            Frame::Close { number } => {
                pieces.now.put_u8(5);
                pieces.now.put_u32(*number);
            }
            Frame::Catalogue(catalogue) => {
                pieces.now.put_u8(16);
                // Strings, numbers and lists: serde_json writes them all.
                pieces.now.extend(serde_json::to_vec(catalogue).unwrap_or_default());
            }
            Frame::CatalogueUnchanged { version } => {
                pieces.now.put_u8(17);
                pieces.now.put_u64(*version);
            }
            Frame::Name { number, group } => {
                pieces.now.put_u8(18);
                pieces.now.put_u32(*number);
                put_group(&mut pieces.now, *group);
            }
            Frame::Heartbeat(heartbeat) => put_heartbeat(&mut pieces.now, heartbeat),
            Frame::Opened { number } => {
                pieces.now.put_u8(20);
                pieces.now.put_u32(*number);
            }
            Frame::Data(data) => put_data(&mut pieces, data),
            Frame::Ended { number, reason, detail } => {
                pieces.now.put_u8(22);
                pieces.now.put_u32(*number);
                pieces.now.put_u8(*reason as u8);
                let mut end = detail.len().min(DETAIL_BYTES_MAX);
                while !detail.is_char_boundary(end) {
                    end -= 1;
                }
                pieces.now.extend_from_slice(&detail.as_bytes()[..end]);
            }
        }
        pieces.finish()
    }

    /// Reads one frame's kind and body. Batches become slices of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Frame, FrameError> {
        let kind = bytes.try_get_u8().map_err(short)?;
        let frame = match kind {
            1 => Frame::Control,
            2 => Frame::Bulk,
            3 => Frame::Open(take_open(&mut bytes)?),
            4 => Frame::Position { number: bytes.try_get_u32().map_err(short)?, offset: take_offset(&mut bytes)? },
            5 => Frame::Close { number: bytes.try_get_u32().map_err(short)? },
            16 => {
                let catalogue = serde_json::from_slice(&bytes).map_err(|_| FrameError::Catalogue)?;
                bytes.clear();
                Frame::Catalogue(catalogue)
            }
            17 => Frame::CatalogueUnchanged { version: bytes.try_get_u64().map_err(short)? },
            18 => Frame::Name { number: bytes.try_get_u32().map_err(short)?, group: take_group(&mut bytes)? },
            19 => Frame::Heartbeat(take_heartbeat(&mut bytes)?),
            20 => Frame::Opened { number: bytes.try_get_u32().map_err(short)? },
            21 => Frame::Data(take_data(&mut bytes)?),
            22 => take_ended(&mut bytes)?,
            other => return Err(FrameError::Kind(other)),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(FrameError::Short) }
    }
}

/// Reads the next frame of a stream; None where it ends between two. Memory is taken as bytes arrive, not as a length claims.
pub async fn read_frame(stream: &mut quinn::RecvStream, max: usize) -> Result<Option<Frame>, ReadFrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(ReadFrameError::Cut),
        Err(quinn::ReadExactError::ReadError(error)) => return Err(error.into()),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > max {
        return Err(FrameError::Length { length, max }.into());
    }
    let mut body = BytesMut::with_capacity(length.min(FIRST_BYTES));
    while body.len() < length {
        let chunk = stream.read_chunk(length - body.len(), true).await?.ok_or(ReadFrameError::Cut)?;
        if body.capacity() - body.len() < chunk.bytes.len() {
            // Doubling, but never beyond what the frame needs.
            body.reserve((length - body.len()).min(body.len().max(chunk.bytes.len())));
        }
        body.extend_from_slice(&chunk.bytes);
    }
    Ok(Some(Frame::decode(body.freeze())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn decoded(frame: &Frame) -> Result<Frame, FrameError> {
        let bytes: Vec<u8> = frame.encode().concat();
        let (length, body) = bytes.split_first_chunk::<4>().expect("a length");
        assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
        Frame::decode(Bytes::copy_from_slice(body))
    }

    fn group() -> GroupId {
        GroupId { topic: Uuid::from_u128(9), partition: 3 }
    }

    fn every_frame() -> Vec<Frame> {
        let batch = |bytes: usize| StoredBatch { append_time_us: 5, bytes: vec![7; bytes].into() };
        let last = Some(LastBatch { epoch: 3, crc: 0xfeed });
        let beat = Beat { number: 1, epoch: 2, high_watermark: 3, closed_us: 4, quiet: true };
        vec![
            Frame::Control,
            Frame::Bulk,
            Frame::Open(Open { number: 1, group: group(), from: 0, last: None }),
            Frame::Open(Open { number: 1, group: group(), from: 17, last }),
            Frame::Position { number: 1, offset: 18 },
            Frame::Close { number: 1 },
            Frame::Catalogue(Catalogue { version: 5, ..Catalogue::default() }),
            Frame::CatalogueUnchanged { version: 6 },
            Frame::Name { number: 2, group: group() },
            Frame::Heartbeat(Heartbeat { quiet_us: 9, beats: vec![beat, Beat { quiet: false, ..beat }], gone: vec![4, 5] }),
            Frame::Opened { number: 1 },
            Frame::Data(Data {
                number: 1,
                high_watermark: 9,
                closed_us: 8,
                start_offset: 2,
                batches: vec![batch(61), batch(9000), batch(100)],
            }),
            Frame::Ended { number: 1, reason: EndReason::Diverged, detail: "at 17".to_owned() },
        ]
    }

    #[test]
    fn every_frame_comes_out_as_it_went_in() {
        for frame in every_frame() {
            assert_eq!(decoded(&frame).as_ref(), Ok(&frame));
        }
    }

    #[test]
    fn the_controllers_group_cannot_be_asked_for() {
        let open = Frame::Open(Open { number: 1, group: GroupId::CONTROLLER, from: 0, last: None });
        assert_eq!(decoded(&open), Err(FrameError::Value("partition")));
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_memory_is_taken() {
        let mut bytes = vec![19];
        bytes.extend(0i64.to_be_bytes());
        bytes.extend(u32::MAX.to_be_bytes());
        assert_eq!(Frame::decode(bytes.into()), Err(FrameError::Value("count")));
    }

    #[test]
    fn a_long_detail_is_cut_between_two_characters() {
        let ended = Frame::Ended { number: 1, reason: EndReason::Refused, detail: "ä".repeat(DETAIL_BYTES_MAX) };
        let Ok(Frame::Ended { detail, .. }) = decoded(&ended) else { panic!("it decodes") };
        assert_eq!(detail, "ä".repeat(DETAIL_BYTES_MAX / 2));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(kind in 0u8..24, junk in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::decode([&[kind], &junk[..]].concat().into());
        }

        #[test]
        fn a_frame_with_a_changed_byte_is_refused_or_another_frame(which in 0usize..13, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes: Vec<u8> = every_frame()[which].encode().concat()[4..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Frame::decode(bytes.into());
        }

        #[test]
        fn a_frame_cut_short_never_decodes_to_itself(which in 0usize..13, at in any::<prop::sample::Index>()) {
            let frame = &every_frame()[which];
            let bytes: Vec<u8> = frame.encode().concat()[4..].to_vec();
            let cut = at.index(bytes.len());
            let decoded = Frame::decode(Bytes::copy_from_slice(&bytes[..cut]));
            prop_assert_ne!(decoded.as_ref(), Ok(frame));
        }
    }
}
