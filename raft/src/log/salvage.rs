//! What of a damaged log can still be believed: the longest prefix whose every checksum holds. The rest is moved aside, not destroyed.

use std::io::{self, IoSlice};
use std::path::Path;

use super::EntryHead;
use super::frame::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, decode_segment, is_batch};
use super::retention::{Purged, remove_if_there, remove_leftovers};
use super::segment::{damaged, head_of, is_zero, read_exact, read_frame, segments_and_sidecars};
use crate::GroupId;
use crate::env::{Disk, Env, File};

/// Name of a segment that is being cut, until it takes the place of the damaged one.
const SALVAGED: &str = "segment.salvaged";
const COPY_BYTES: usize = 1 << 20;

/// Where a log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    index: u64,
    offset: i64,
}

/// Leaves in `dir` the sound prefix of the log, and moves every file from the first damage on to `aside`, whose earlier content goes.
/// Reads everything. A crash at any point leaves a prefix, and in `aside` what was moved.
pub(crate) fn keep_sound_prefix(env: &Env, group: GroupId, dir: &Path, aside: &Path, purged: Option<Purged>) -> io::Result<()> {
    let disk = &*env.disk;
    disk.create_dir_all(dir)?;
    let mut next = None;
    let (paths, sidecars) = segments_and_sidecars(disk.list(dir)?);
    // What they say of what is moved aside or cut must not be believed; of the rest they are written again.
    sidecars.iter().try_for_each(|path| remove_if_there(disk, path))?;
    disk.sync_dir(dir)?;
    let paths = remove_leftovers(env, dir, paths, purged)?;
    for (i, path) in paths.iter().enumerate() {
        let file = disk.open(path, false)?;
        let (cursor, sound_end, whole) = verify(&*file, group, next, purged)?;
        if whole {
            next = cursor;
            continue;
        }
        prepare_aside(disk, aside)?;
        let kept = sound_end > SEGMENT_HEADER_BYTES as u64;
        let salvaged = dir.join(SALVAGED);
        if kept {
            copy(disk, &*file, &salvaged, sound_end)?;
        }
        // Last first, so that a crash in between leaves a log without a gap.
        for path in paths[i..].iter().rev() {
            disk.rename(path, &aside.join(path.file_name().unwrap_or_default()))?;
        }
        if kept {
            disk.rename(&salvaged, path)?;
        }
        disk.sync_dir(aside)?;
        return disk.sync_dir(dir);
    }
    Ok(())
}

fn prepare_aside(disk: &dyn Disk, aside: &Path) -> io::Result<()> {
    if disk.exists(aside) {
        disk.remove_dir_all(aside)?;
    }
    disk.create_dir_all(aside)?;
    aside.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}

fn copy(disk: &dyn Disk, from: &dyn File, to: &Path, bytes: u64) -> io::Result<()> {
    let to = disk.open(to, true)?;
    to.set_len(0)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let count = COPY_BYTES.min(usize::try_from(bytes - at).unwrap_or(COPY_BYTES));
        read_exact(from, &mut buffer[..count], at)?;
        to.write_all_at(&[IoSlice::new(&buffer[..count])], at)?;
        at += count as u64;
    }
    to.sync()
}

/// Where the log goes on behind this segment, where its last sound frame ends, and whether that is all there is to it.
fn verify(file: &dyn File, group: GroupId, next: Option<Cursor>, purged: Option<Purged>) -> io::Result<(Option<Cursor>, u64, bool)> {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    let base = read_exact(file, &mut header, 0).ok().and_then(|()| decode_segment(&header, group));
    let Some((index, offset)) = base else { return Ok((next, 0, false)) };
    let mut cursor = Cursor { index, offset };
    // The first one may hold entries that have been purged, but must not begin behind them.
    let continues = next.map_or_else(|| index <= purged.map_or(0, |purged| purged.index + 1), |next| cursor == next);
    if !continues {
        return Ok((next, 0, false));
    }
    let (length, mut position) = (file.len()?, SEGMENT_HEADER_BYTES as u64);
    while position + FRAME_HEADER_BYTES as u64 <= length {
        let Ok((advanced, bytes)) = advance(file, position, cursor) else { break };
        cursor = advanced;
        position += bytes;
    }
    Ok((Some(cursor), position, is_zero(file, position, length)?))
}

/// One frame at `position`, if it is sound and in its place.
fn advance(file: &dyn File, position: u64, cursor: Cursor) -> io::Result<(Cursor, u64)> {
    let (entry, bytes) = read_frame(file, position, false)?;
    let EntryHead { batch, start_offset, .. } = head_of(&entry);
    let placed = batch.is_none_or(|batch| batch.base_offset == cursor.offset && batch.last_offset_delta >= 0);
    if entry.index != cursor.index || !placed || (is_batch(entry.kind) && batch.is_none()) {
        return Err(damaged("frame out of order"));
    }
    let unmoved = start_offset.map_or(cursor.offset, |start| start.max(cursor.offset));
    let offset = batch.map_or(unmoved, |batch| batch.base_offset.saturating_add(i64::from(batch.last_offset_delta)).saturating_add(1));
    Ok((Cursor { index: cursor.index + 1, offset }, bytes))
}
