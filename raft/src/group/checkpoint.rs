//! How far a replica has applied its log, and what it knew by then: saved beside the log now and then, so that a restart applies what follows only.
//!
//! All of it can be had from the log again. It is believed where its checksum holds and the log has the entry that it
//! names: by Raft's rule everything before that entry is the same, too, and what was committed stays so.
//!
//! `magic "MRDNAPP1", CRC32C of what follows, length of the head u32, head as JSON, producers`, little-endian.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::machine::Applied;
use crate::GroupId;
use crate::consensus::members::Members;
use crate::env::Disk;
use crate::writer::{Job, Task, Writer};

const MAGIC: [u8; 8] = *b"MRDNAPP1";
/// Magic, checksum, length of the head.
const PREFIX_BYTES: usize = 16;
/// Of a whole file: a table of producers that is full takes less than a third.
const BYTES_MAX: u64 = 32 << 20;
const FILE: &str = "applied";
const DRAFT: &str = "applied-new";

/// What a replica knows once it has applied its log so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checkpoint {
    pub head: Head,
    pub producers: Bytes,
}

/// All but the producers.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Head {
    pub group: GroupId,
    /// Of the last entry applied, which `applied` tells of.
    pub applied: Applied,
    pub high_watermark: i64,
    pub start_offset: i64,
    /// As the machine keeps them, the last one in force.
    pub members: Vec<(Option<u64>, Members)>,
}

fn encode(checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(&checkpoint.head)?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + head.len() + checkpoint.producers.len());
    bytes.extend(MAGIC);
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(head.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend(head);
    bytes.extend(&checkpoint.producers);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// None of bytes that do not hold, or are another group's.
fn decode(bytes: &Bytes, group: GroupId) -> Option<Checkpoint> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let word = |at: usize| Some(u32::from_le_bytes(*prefix.get(at..)?.first_chunk()?));
    if !prefix.starts_with(&MAGIC) || word(8)? != crc32c::crc32c(&bytes[12..]) {
        return None;
    }
    let (head, _) = rest.split_at_checked(word(12)? as usize)?;
    let producers = bytes.slice(PREFIX_BYTES + head.len()..);
    let head: Head = serde_json::from_slice(head).ok()?;
    let sound = head.group == group && head.high_watermark >= 0 && head.start_offset >= 0 && !head.members.is_empty();
    sound.then_some(Checkpoint { head, producers })
}

/// Where a replica's checkpoint is kept.
pub(crate) struct Checkpoints {
    disk: Arc<dyn Disk>,
    writer: Writer,
    dir: PathBuf,
    group: GroupId,
}

impl Checkpoints {
    pub fn new(disk: Arc<dyn Disk>, writer: Writer, dir: PathBuf, group: GroupId) -> Checkpoints {
        Checkpoints { disk, writer, dir, group }
    }

    /// None where there is none that holds.
    pub(super) fn read(&self) -> Option<Checkpoint> {
        let read = || -> io::Result<Bytes> {
            let file = self.disk.open(&self.dir.join(FILE), false)?;
            let mut bytes = vec![0; usize::try_from(file.len()?.min(BYTES_MAX)).map_err(io::Error::other)?];
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            bytes.truncate(filled);
            Ok(bytes.into())
        };
        match read() {
            Ok(bytes) => decode(&bytes, self.group),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(%error, dir = %self.dir.display(), "a replica's checkpoint cannot be read");
                }
                None
            }
        }
    }

    /// Queues its writing, behind all that it tells of; with `lasting` it survives a power cut. Returns how many bytes it takes.
    pub(super) fn save(&self, checkpoint: &Checkpoint, lasting: bool) -> io::Result<u64> {
        let bytes = encode(checkpoint)?;
        let length = bytes.len() as u64;
        if length > BYTES_MAX {
            return Ok(length);
        }
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        let task: Task = Box::new(move || {
            // Nothing is lost without it but time.
            if let Err(error) = replace(&*disk, &dir, &bytes, lasting) {
                tracing::debug!(%error, dir = %dir.display(), "a replica's checkpoint is not written");
            }
            Ok(())
        });
        self.writer.queue(Job::Task { task, done: Box::new(|_| ()) })?;
        Ok(length)
    }
}

fn replace(disk: &dyn Disk, dir: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let draft = dir.join(DRAFT);
    let file = disk.open(&draft, true)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    if lasting {
        file.sync()?;
    }
    disk.rename(&draft, &dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::members::History;

    const GROUP: GroupId = GroupId { topic: uuid::Uuid::from_u128(7), partition: 3 };

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_no_flipped_bit_or_missing_byte_is_believed() {
        let applied = Applied { index: 9, term: 4, batch_epoch: 4, append_time_us: 17, filled_up: 0 };
        let members = History::default().iter().cloned().collect();
        let head = Head { group: GROUP, applied, high_watermark: 40, start_offset: 3, members };
        let checkpoint = Checkpoint { head, producers: Bytes::from_static(b"\0producers") };
        let bytes = encode(&checkpoint).expect("encoded");
        assert_eq!(decode(&bytes.clone().into(), GROUP), Some(checkpoint));
        assert_eq!(decode(&bytes.clone().into(), GroupId { partition: 4, ..GROUP }), None, "another group's");
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1 << (at % 8);
            assert_eq!(decode(&rotten.into(), GROUP), None, "byte {at}");
            assert_eq!(decode(&Bytes::copy_from_slice(&bytes[..at]), GROUP), None, "cut at {at}");
        }
    }
}
