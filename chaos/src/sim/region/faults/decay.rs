//! A node's files rot while it is down: bits flip, files are cut, deleted, or replaced by older copies of themselves; its whole disk comes back
//! old or empty. Never on a second node before the first has been repaired: what a majority has lost nobody can bring back.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use meridian_raft::partition::Partition;
use meridian_raft::{GroupId, NodeId};
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

/// How often every disk is copied, and how many copies are kept.
const COPY_EVERY: Duration = Duration::from_millis(250);
const COPIES_MAX: usize = 7;
/// What a copy lacks of the last moments before it was put back is noticed only if peers have been told of them, and a log that is cut short only
/// if the meta log says how far it was committed. Nodes promise to tell both within this time, of peers that they reach.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// A connection over which a network cut has lost something is given up after this silence: until then the peer is not reached, though all is well.
const REACHED_WITHIN: Duration = Duration::from_secs(1);
/// Damage that was read is acted on within this time: a leader looks for another first, and the file may be purged meanwhile.
const ACTED_ON_WITHIN: Duration = Duration::from_secs(1);

pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What the fault knows between its turns.
#[derive(Debug, Default)]
pub(in crate::sim) struct Decay {
    copies: BTreeMap<NodeId, VecDeque<Copy>>,
    copied_at: Duration,
    /// Rotten since its files were touched, until all its replicas are whole.
    rotten: Option<NodeId>,
    /// A node is to lose votes in this way as soon as all is well: nothing else begins until then.
    waits: Option<Loss>,
    /// Since when all is well.
    well_since: Option<Duration>,
    /// It has lost votes, so that the other faults have to wait.
    votes_lost: bool,
    /// The byte that was flipped where it is found only when it is read, as it reads since.
    flipped: Option<(PathBuf, usize, u8)>,
    /// Since when the node that rotted has been whole without a pause.
    whole_since: Option<Duration>,
}

/// A disk as it was, and where its partitions' logs ended, and their high watermarks lay.
#[derive(Debug)]
struct Copy {
    at: Duration,
    boot: u64,
    files: Files,
    ends: BTreeMap<GroupId, i64>,
    committed: BTreeMap<GroupId, i64>,
}

/// How a node's votes are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    EmptyDisk,
    OldDisk,
    OldMetaLog,
    RottenMetaLog,
}

/// Copies every running node's disk now and then.
pub(in crate::sim) fn remember(run: &mut Run) {
    let now = run.sim.elapsed();
    run.decay.well_since = if run.all_is_well() { run.decay.well_since.or(Some(now)) } else { None };
    all_whole(run);
    if run.sim.elapsed() < run.decay.copied_at + COPY_EVERY {
        return;
    }
    run.decay.copied_at = run.sim.elapsed();
    for (node, site) in &run.sites {
        let running = lock(&site.running);
        let each = |told: fn(&Partition) -> i64| running.partitions.iter().map(|(id, partition)| (*id, told(partition))).collect();
        let (ends, committed) = (each(Partition::log_end_offset), each(Partition::high_watermark));
        let copies = run.decay.copies.entry(*node).or_default();
        copies.push_back(Copy { at: now, boot: *lock(&site.boots), files: site.disk.copy(), ends, committed });
        copies.truncate(COPIES_MAX + 1);
        if copies.len() > COPIES_MAX {
            copies.pop_front();
        }
    }
}

pub(super) fn decay(run: &mut Run) -> bool {
    let node = run.any_node();
    if !all_whole(run) || !run.is_up(node) {
        return false;
    }
    if run.random.random_bool(0.4) {
        return rot_beneath(run, node);
    }
    let votes = run.random.random_bool(0.5);
    if !votes {
        return strike(run, node, None);
    }
    let loss = *[Loss::EmptyDisk, Loss::OldDisk, Loss::OldMetaLog, Loss::RottenMetaLog].choose(&mut run.random).unwrap_or(&Loss::EmptyDisk);
    if is_time_for(run, loss) {
        return strike(run, node, Some(loss));
    }
    run.decay.waits = Some(loss);
    false
}

/// Where votes are lost, only the others can tell which: all of them have to be heard.
fn is_time_for(run: &Run, loss: Loss) -> bool {
    let told = if matches!(loss, Loss::OldDisk | Loss::OldMetaLog) { REACHED_WITHIN + TOLD_WITHIN } else { Duration::ZERO };
    run.all_is_well() && run.decay.well_since.is_some_and(|since| since + told <= run.sim.elapsed())
}

fn strike(run: &mut Run, node: NodeId, loss: Option<Loss>) -> bool {
    let old = if loss.is_some() { whole_disk(run, node) } else { victim(run, node) };
    let Some(old) = old else { return false };
    run.sites[&node].disk.settle();
    run.power_off(node, None);
    let rotten = match loss {
        Some(loss) => lose_votes(run, node, loss, &old),
        None => rot(run, node, &old),
    };
    run.decay.votes_lost = rotten && loss.is_some();
    run.decay.whole_since = None;
    lock(&run.sites[&node].promised).clear();
    if rotten {
        run.decay.rotten = Some(node);
        lock(&run.oracle).reached.decays += 1;
    }
    let down_ms = run.random.random_range(20..800);
    run.mend_after(down_ms, move |run| run.power_on(node));
    rotten
}

/// Whether the last node that rotted has been brought back whole.
fn all_whole(run: &mut Run) -> bool {
    let Some(node) = run.decay.rotten else { return true };
    let now = run.sim.elapsed();
    let since = is_whole(run, node).then(|| run.decay.whole_since.unwrap_or(now));
    run.decay.whole_since = since;
    let acted = if run.decay.flipped.is_some() { ACTED_ON_WITHIN } else { Duration::ZERO };
    let whole = since.is_some_and(|since| since + acted <= now);
    if whole {
        (run.decay.rotten, run.decay.votes_lost, run.decay.flipped) = (None, false, None);
    }
    whole
}

/// Whether the node takes part in all its groups, and the byte that was flipped, if any, reads as it did or is gone.
fn is_whole(run: &Run, node: NodeId) -> bool {
    let site = &run.sites[&node];
    let flipped = run.decay.flipped.as_ref().is_some_and(|(path, at, byte)| site.disk.byte(path, *at) == Some(*byte));
    let running = lock(&site.running);
    let placed = site.streams.values().filter(|stream| lock(&stream.placement).hosts(node)).count();
    let takes_part = running.node.as_ref().is_some_and(|node| node.takes_part() && node.damaged().is_empty());
    !flipped && running.partitions.len() == placed && takes_part
}

/// Whether a node is on its way back from lost votes: another that is down or cut off now would be one too many.
pub(in crate::sim) fn needs_everybody(run: &mut Run) -> bool {
    // A bit that has flipped meanwhile and was not found yet is damage on one node already.
    if let Some(loss) = run.decay.waits.filter(|loss| is_time_for(run, *loss))
        && all_whole(run)
    {
        run.decay.waits = None;
        let node = run.any_node();
        strike(run, node, Some(loss));
    }
    run.decay.waits.is_some() || (run.decay.votes_lost && !all_whole(run))
}

/// The disk as it was a while ago, when its partitions were in use already: peers are told of what changes, so of a moment after that.
fn whole_disk(run: &mut Run, node: NodeId) -> Option<Files> {
    let oldest = run.decay.copies.get(&node).filter(|copies| copies.len() == COPIES_MAX)?.front()?;
    let in_use = !oldest.committed.is_empty() && oldest.committed.values().all(|watermark| *watermark > 0);
    in_use.then(|| oldest.files.clone())
}

/// Damages the meta log, or has the whole disk come back old or empty.
fn lose_votes(run: &mut Run, node: NodeId, loss: Loss, old: &Files) -> bool {
    let disk = run.sites[&node].disk.clone();
    let now = disk.copy();
    let meta: BTreeMap<PathBuf, Vec<u8>> =
        old.iter().filter(|(path, _)| path.ends_with("meta.log")).map(|(path, bytes)| (path.clone(), bytes.clone())).collect();
    lock(&run.oracle).reached.votes_lost += 1;
    match loss {
        Loss::EmptyDisk => now.keys().for_each(|path| disk.replace(path, None)),
        Loss::OldDisk => {
            now.keys().filter(|path| !old.contains_key(*path)).for_each(|path| disk.replace(path, None));
            old.iter().for_each(|(path, bytes)| disk.replace(path, Some(bytes.clone())));
        }
        Loss::OldMetaLog => meta.iter().for_each(|(path, bytes)| disk.replace(path, Some(bytes.clone()))),
        Loss::RottenMetaLog => return rot(run, node, &meta),
    }
    true
}

/// The disk as it was when peers had not yet been told of all that they remember by now, where another disk may rot now.
pub(super) fn old_copy(run: &mut Run, node: NodeId) -> Option<Files> {
    if !all_whole(run) || !is_time_for(run, Loss::OldDisk) {
        return None;
    }
    whole_disk(run, node)
}

/// Cuts the node's power and puts the old disk in its place; nothing else begins until its peers have brought it up to date.
pub(super) fn put_back(run: &mut Run, node: NodeId, old: &Files) {
    run.power_off(node, None);
    lose_votes(run, node, Loss::OldDisk, old);
    lock(&run.sites[&node].promised).clear();
    (run.decay.rotten, run.decay.votes_lost, run.decay.whole_since) = (Some(node), true, None);
}

/// A partition of the node of which all that an old copy holds has been committed for as long as the node may take to note it, and that copy of
/// its files: damage to what was written since cannot be told from a torn tail.
fn victim(run: &mut Run, node: NodeId) -> Option<Files> {
    let (now, boot) = (run.sim.elapsed(), *lock(&run.sites[&node].boots));
    let copies = run.decay.copies.get(&node)?;
    let noted = copies.iter().rev().find(|copy| copy.at + TOLD_WITHIN <= now && copy.boot == boot)?;
    let old = copies.front()?;
    let committed = |id: &GroupId, end: i64| noted.committed.get(id).is_some_and(|watermark| *watermark > end);
    let settled: Vec<GroupId> = old.ends.iter().filter(|(id, end)| committed(id, **end)).map(|(id, _)| *id).collect();
    let id = settled.into_iter().choose(&mut run.random)?;
    let folder = format!("{}-{}", id.topic, id.partition);
    let files = run.decay.copies.get(&node)?.front()?.files.iter();
    let files = files.filter(|(path, _)| path.parent().is_some_and(|parent| parent.ends_with(&folder)));
    Some(files.map(|(path, bytes)| (path.clone(), bytes.clone())).collect())
}

/// Flips a bit in a file that a running node has open: it has to be found when it is read, by whoever reads it first.
fn rot_beneath(run: &mut Run, node: NodeId) -> bool {
    let Some(old) = victim(run, node) else { return false };
    let disk = run.sites[&node].disk.clone();
    let now = disk.copy();
    // How far a replica has applied its log nobody reads before the next start.
    let still = unchanged(&old, &now).filter(|(path, _)| !path.ends_with("applied"));
    let Some((path, bytes)) = still.choose(&mut run.random) else { return false };
    let at = run.random.random_range(0..written(bytes));
    if disk.flip_bit(path, at as u64).is_err() {
        return false;
    }
    run.decay.rotten = Some(node);
    (run.decay.flipped, run.decay.whole_since) = (Some((path.clone(), at, bytes[at] ^ 1)), None);
    lock(&run.oracle).reached.rotten_beneath += 1;
    true
}

/// The files of an old copy that still say, as far as they were written then, what they said.
fn unchanged<'a>(old: &'a Files, now: &'a Files) -> impl Iterator<Item = (&'a PathBuf, &'a Vec<u8>)> {
    let still = |path: &PathBuf, written: &[u8]| !written.is_empty() && now.get(path).is_some_and(|now| now.starts_with(written));
    old.iter().filter(move |(path, bytes)| still(path, &bytes[..written(bytes)]))
}

/// Where the last byte was written that is not zero.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Damages one of the files that `old` is a copy of, where it says what it said then.
fn rot(run: &mut Run, node: NodeId, old: &Files) -> bool {
    let disk = run.sites[&node].disk.clone();
    let now = disk.copy();
    let still = unchanged(old, &now);
    let Some((path, bytes)) = still.choose(&mut run.random) else { return false };
    let written = written(bytes);
    match run.random.random_range(0..4) {
        0 => {
            let at = run.random.random_range(0..written);
            // Of a closed segment a start reads next to nothing. What else a log has beside it can be had from it again.
            let segment = path.extension().is_some_and(|extension| extension == "log") && !path.ends_with("meta.log");
            run.decay.flipped = segment.then(|| (path.clone(), at, bytes[at] ^ 1));
            disk.flip_bit(path, at as u64).is_ok()
        }
        1 => {
            let kept = run.random.random_range(0..written);
            disk.replace(path, now.get(path).map(|now| now[..kept].to_vec()));
            true
        }
        2 => {
            disk.replace(path, None);
            true
        }
        _ if now.get(path) != Some(bytes) => {
            disk.replace(path, Some(bytes.clone()));
            true
        }
        _ => false,
    }
}
