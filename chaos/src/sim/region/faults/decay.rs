//! A node's files rot while it is down: bits flip, files are cut, deleted, or replaced by older copies of themselves. Never on a second node
//! before the first has been repaired: what a majority has lost nobody can bring back.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use meridian_raft::{GroupId, NodeId};
use rand::Rng;
use rand::seq::IteratorRandom;

use crate::sim::region::phases::Run;
use crate::sim::region::site::lock;

/// How often every disk is copied, and how many copies are kept.
const COPY_EVERY: Duration = Duration::from_millis(400);
const COPIES_MAX: usize = 4;

/// What the fault knows between its turns.
#[derive(Debug, Default)]
pub(in crate::sim) struct Decay {
    copies: BTreeMap<NodeId, VecDeque<Copy>>,
    copied_at: Duration,
    /// Rotten since its files were touched, until all its replicas are whole.
    rotten: Option<NodeId>,
}

/// A disk as it was, and where its partitions' logs ended.
#[derive(Debug)]
struct Copy {
    files: BTreeMap<PathBuf, Vec<u8>>,
    ends: BTreeMap<GroupId, i64>,
}

/// Copies every running node's disk now and then.
pub(in crate::sim) fn remember(run: &mut Run) {
    if run.sim.elapsed() < run.decay.copied_at + COPY_EVERY {
        return;
    }
    run.decay.copied_at = run.sim.elapsed();
    for (node, site) in &run.sites {
        let ends: BTreeMap<GroupId, i64> =
            lock(&site.running).partitions.iter().map(|(id, partition)| (*id, partition.log_end_offset())).collect();
        let copies = run.decay.copies.entry(*node).or_default();
        copies.push_back(Copy { files: site.disk.copy(), ends });
        copies.truncate(COPIES_MAX + 1);
        if copies.len() > COPIES_MAX {
            copies.pop_front();
        }
    }
}

pub(super) fn decay(run: &mut Run) -> bool {
    if !all_whole(run) {
        return false;
    }
    let node = run.any_node();
    if !run.is_up(node) {
        return false;
    }
    let Some((id, old)) = victim(run, node) else { return false };
    run.sites[&node].disk.settle();
    run.power_off(node, None);
    let rotten = rot(run, node, id, &old);
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
    let site = &run.sites[&node];
    let running = lock(&site.running);
    let placed = site.profile.partitions.iter().filter(|spec| spec.replicas.contains(&node)).count();
    let whole = running.partitions.len() == placed && running.node.as_ref().is_some_and(|node| node.damaged().is_empty());
    drop(running);
    if whole {
        run.decay.rotten = None;
    }
    whole
}

/// A partition of the node of which all that an old copy holds is committed by now, and that copy of its files.
fn victim(run: &mut Run, node: NodeId) -> Option<(GroupId, BTreeMap<PathBuf, Vec<u8>>)> {
    let old = run.decay.copies.get(&node)?.front()?;
    let committed = |id: &GroupId, end: i64| run.sites[&node].partition(*id).is_some_and(|partition| partition.high_watermark() > end);
    let settled: Vec<GroupId> = old.ends.iter().filter(|(id, end)| committed(id, **end)).map(|(id, _)| *id).collect();
    let id = settled.into_iter().choose(&mut run.random)?;
    let folder = format!("{}-{}", id.topic, id.partition);
    let files = run.decay.copies.get(&node)?.front()?.files.iter();
    let files = files.filter(|(path, _)| path.parent().is_some_and(|parent| parent.ends_with(&folder)));
    Some((id, files.map(|(path, bytes)| (path.clone(), bytes.clone())).collect()))
}

/// Damages one of the files that `old` is a copy of, where it says what it said then.
fn rot(run: &mut Run, node: NodeId, _id: GroupId, old: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
    let disk = run.sites[&node].disk.clone();
    let now = disk.copy();
    // The copy's end is left out: what was written there may have been cut and written anew.
    let written = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let still = old
        .iter()
        .filter(|(path, bytes)| written(bytes) > 0 && now.get(*path).is_some_and(|now| now.starts_with(&bytes[..written(bytes)])));
    let Some((path, bytes)) = still.choose(&mut run.random) else { return false };
    let written = written(bytes);
    match run.random.random_range(0..4) {
        0 => disk.flip_bit(path, run.random.random_range(0..written) as u64).is_ok(),
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
