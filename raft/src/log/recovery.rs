//! What a restart finds: segments in order, a torn tail to cut, or damage that must not be taken for one.

use std::io;
use std::path::Path;

use super::LogError;
use super::frame::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, decode_frame, decode_segment, is_batch};
use super::retention::{self, Purged};
use super::segment::{Segment, head_of, read_exact, read_frame};
use super::state::State;
use crate::GroupId;
use crate::env::{Env, File};

/// Takes one segment into `state`. Only the last may end in damage, and only where nothing valid follows it.
pub(super) fn recover(env: &Env, state: &mut State, path: &Path, group: GroupId, is_last: bool) -> Result<(), LogError> {
    let file = env.disk.open(path, false)?;
    // A segment is reserved whole; to read what was never written would take a restart seconds per partition.
    let (written, length) = (file.written_until()?, file.len()?);
    let corrupt = |position, reason| LogError::Corrupt { path: path.to_owned(), position, reason };
    let mut header = [0; SEGMENT_HEADER_BYTES];
    let found = read_exact(&*file, &mut header, 0).ok().and_then(|()| decode_segment(&header, group));
    let Some((base_index, base_offset)) = found else {
        if is_last && !frame_follows(&*file, 0, written)? {
            // The crash came between creating the file and syncing its header.
            env.disk.remove_file(path)?;
            return Ok(());
        }
        return Err(corrupt(0, "segment header"));
    };
    // Of the first, see `begin`.
    let continues = state.segments.is_empty() || (state.next_index(), state.next_offset) == (base_index, base_offset);
    if !continues {
        return Err(corrupt(0, "segment does not continue the one before"));
    }
    state.next_offset = base_offset;
    let mut next_index = base_index;
    let end = SEGMENT_HEADER_BYTES as u64;
    let (path_held, reserved) = (path.to_owned(), length);
    let (points, first_append_time_us) = (Vec::new(), None);
    state.segments.push(Segment {
        path: path_held,
        file: file.clone(),
        base_index,
        base_offset,
        end,
        reserved,
        points,
        first_append_time_us,
    });
    let mut position = end;
    while position + FRAME_HEADER_BYTES as u64 <= length {
        let Ok((entry, bytes)) = read_frame(&*file, position, !is_last) else { break };
        let head = head_of(&entry);
        let offset_fits = head.batch.is_none_or(|batch| batch.base_offset == state.next_offset);
        if entry.index != next_index || !offset_fits || (is_batch(entry.kind) && head.batch.is_none()) {
            return Err(corrupt(position, "frame out of order"));
        }
        state.note(&head, bytes);
        next_index += 1;
        position += bytes;
    }
    if frame_follows(&*file, position, written)? {
        return Err(corrupt(position, "valid frames follow a damaged one"));
    }
    if is_last && length > position {
        file.set_len(position)?;
        file.allocate(length)?;
        file.sync()?;
    }
    Ok(())
}

/// Puts the recovered log behind what has been purged. A log that ends before that begins anew: it was being filled up when the node stopped.
pub(super) fn begin(env: &Env, state: &mut State, dir: &Path, purged: Option<Purged>) -> Result<(), LogError> {
    let wanted = purged.map_or(0, |purged| purged.index + 1);
    if let Some(first) = state.segments.first().filter(|first| first.base_index > wanted) {
        return Err(LogError::Corrupt { path: first.path.clone(), position: 0, reason: "entries before this segment are missing" });
    }
    let Some(purged) = purged else { return Ok(()) };
    let gone: Vec<_> = state.purge(purged).into_iter().map(|segment| segment.path).collect();
    retention::remove(env, dir, &gone)?;
    Ok(())
}

/// Whether a sound frame header with its payload stands anywhere behind `position`.
fn frame_follows(file: &dyn File, position: u64, length: u64) -> io::Result<bool> {
    const WINDOW_BYTES: usize = 1 << 16;
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = position.saturating_add(1);
    while at + (FRAME_HEADER_BYTES as u64) <= length {
        let count = WINDOW_BYTES.min(usize::try_from(length - at).unwrap_or(WINDOW_BYTES));
        read_exact(file, &mut window[..count], at)?;
        for (i, bytes) in window[..count].windows(FRAME_HEADER_BYTES).enumerate() {
            let header = bytes.first_chunk().filter(|header| header[0] != 0).and_then(decode_frame);
            if header.is_some() && read_frame(file, at + i as u64, false).is_ok() {
                return Ok(true);
            }
        }
        at += (count - FRAME_HEADER_BYTES + 1) as u64;
    }
    Ok(false)
}
