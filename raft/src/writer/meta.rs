//! The meta log: small values of all groups of a node (votes, commit indexes), each a frame in one file; compacted when it is opened.

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

pub(super) type OpenMeta = (BTreeMap<Vec<u8>, Vec<u8>>, Arc<dyn File>, u64);

pub(super) fn open_meta(disk: &dyn Disk, dir: &Path) -> io::Result<OpenMeta> {
    disk.create_dir_all(dir)?;
    let path: PathBuf = dir.join("meta.log");
    let mut values = BTreeMap::new();
    if disk.exists(&path) {
        let file = disk.open(&path, false)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
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
    }
    let compacted: Vec<Bytes> = values.iter().map(|(key, value): (&Vec<u8>, &Vec<u8>)| encode_meta(key, Some(value))).collect();
    let new = dir.join("meta.new");
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_all_at(&compacted.iter().map(|frame| IoSlice::new(frame)).collect::<Vec<_>>(), 0)?;
    file.sync()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(dir)?;
    let end = compacted.iter().map(|frame| frame.len() as u64).sum();
    Ok((values, file, end))
}
