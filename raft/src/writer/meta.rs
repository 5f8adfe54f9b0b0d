//! The meta log: small values of all groups of a node (votes, commit indexes), each a frame in one file, of which the last of a key counts.
//! Rewritten with the live values alone when it is opened, and when it has grown well beyond them.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Disk, File};

/// Longest key or value of the meta log.
pub(super) const META_FIELD_BYTES_MAX: usize = 1 << 24;
const META_HEADER_BYTES: usize = 16;
const META_MAGIC: u32 = 0x4d52_4d54;
/// The file is rewritten when it is longer than this much and so many times its live values.
const GROWN_BYTES_MIN: u64 = 1 << 20;
const GROWN_TIMES: u64 = 4;
/// A value length that means "deleted".
const META_DELETED: u32 = u32::MAX;

/// `magic, key length, value length, CRC32C of all the rest`, key, value.
pub(super) fn encode_meta(key: &[u8], value: Option<&[u8]>) -> Bytes {
    let mut frame = Vec::with_capacity(META_HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len));
    frame.extend(META_MAGIC.to_le_bytes());
    frame.extend((key.len() as u32).to_le_bytes());
    frame.extend(value.map_or(META_DELETED, |value| value.len() as u32).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(key);
    frame.extend(value.unwrap_or_default());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[META_HEADER_BYTES..]);
    frame[12..16].copy_from_slice(&crc.to_le_bytes());
    frame.into()
}

type MetaFrame<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn decode_meta(bytes: &[u8]) -> Option<MetaFrame<'_>> {
    let (header, rest) = bytes.split_at_checked(META_HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (key_bytes, value_bytes) = (word(4) as usize, if word(8) == META_DELETED { 0 } else { word(8) as usize });
    if word(0) != META_MAGIC || key_bytes > META_FIELD_BYTES_MAX || value_bytes > META_FIELD_BYTES_MAX {
        return None;
    }
    let (body, rest) = rest.split_at_checked(key_bytes + value_bytes)?;
    if crc32c::crc32c_append(crc32c::crc32c(&header[..12]), body) != word(12) {
        return None;
    }
    let (key, value) = body.split_at(key_bytes);
    Some((key, (word(8) != META_DELETED).then_some(value), rest))
}

pub(super) type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// The file, as its one writer holds it.
#[derive(Debug)]
pub(super) struct MetaLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn File>,
    end: u64,
    /// When to look whether it is worth a rewrite.
    look_at: u64,
}

impl MetaLog {
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<(MetaLog, Values)> {
        disk.create_dir_all(dir)?;
        let path: PathBuf = dir.join("meta.log");
        let values = if disk.exists(&path) { replay(&*disk.open(&path, false)?)? } else { Values::new() };
        let (file, end) = rewrite(&**disk, dir, &values)?;
        rename(&**disk, dir)?;
        let mut log = MetaLog { disk: disk.clone(), dir: dir.to_owned(), file, end, look_at: 0 };
        log.look_again(end);
        Ok((log, values))
    }

    /// Where the next frame goes.
    pub(super) fn place(&mut self, frame_bytes: u64) -> (Arc<dyn File>, u64) {
        let offset = self.end;
        self.end += frame_bytes;
        (self.file.clone(), offset)
    }

    pub(super) fn may_be_grown(&self) -> bool {
        self.end >= self.look_at
    }

    /// Replaces the file by one of `values` alone if it has grown beyond them. To be called between rounds: what was acknowledged must be in
    /// `values`; what is queued may be. Without space for both files the old one goes on.
    pub(super) fn compact(&mut self, values: &Values) -> io::Result<()> {
        let live: u64 = values.iter().map(|(key, value)| (META_HEADER_BYTES + key.len() + value.len()) as u64).sum();
        self.look_again(live);
        if !self.may_be_grown() {
            return Ok(());
        }
        let (file, end) = match rewrite(&*self.disk, &self.dir, values) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.look_again(self.end);
                return Ok(());
            }
            written => written?,
        };
        // Before anything is written to the new file, its name stands for it: a crash finds the one or the other, whole.
        rename(&*self.disk, &self.dir)?;
        (self.file, self.end) = (file, end);
        Ok(())
    }

    fn look_again(&mut self, live_bytes: u64) {
        self.look_at = GROWN_BYTES_MIN.max(live_bytes.saturating_mul(GROWN_TIMES));
    }
}

fn replay(file: &dyn File) -> io::Result<Values> {
    // What a failed sync left in the system's memory is not on the disk.
    file.forget(0, file.len()?);
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let mut values = Values::new();
    let mut rest = &bytes[..filled];
    while let Some((key, value, after)) = decode_meta(rest) {
        match value {
            Some(value) => values.insert(key.to_vec(), value.to_vec()),
            None => values.remove(key),
        };
        rest = after;
    }
    // A torn tail is normal; a valid frame behind damage means that a vote may have been lost.
    if (1..rest.len()).any(|at| decode_meta(&rest[at..]).is_some()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the meta log is corrupt inside"));
    }
    Ok(values)
}

/// Writes `values` to a draft, durably.
fn rewrite(disk: &dyn Disk, dir: &Path, values: &Values) -> io::Result<(Arc<dyn File>, u64)> {
    let frames: Vec<Bytes> = values.iter().map(|(key, value)| encode_meta(key, Some(value))).collect();
    let file = disk.open(&dir.join("meta.new"), true)?;
    file.set_len(0)?;
    file.write_all_at(&frames.iter().map(|frame| IoSlice::new(frame)).collect::<Vec<_>>(), 0)?;
    file.sync()?;
    Ok((file, frames.iter().map(|frame| frame.len() as u64).sum()))
}

/// Puts the draft in the log's place.
fn rename(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.rename(&dir.join("meta.new"), &dir.join("meta.log"))?;
    disk.sync_dir(dir)
}
