//! The scrub: every log of the node is read through again and again, slowly, so that damage is found while the other replicas are still sound.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::{Node, NodeWeak};
use crate::group::Group;

/// Read at once.
const STEP_BYTES: u64 = 256 << 10;
/// Defaults of [`Node::limit_scrub`].
pub const SCRUB_BYTES_PER_S_DEFAULT: u64 = 8 << 20;
pub const SCRUB_PAUSE_DEFAULT: Duration = Duration::from_secs(3600);
/// How often a scrub that is switched off looks whether it still is.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the scrub did since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubStats {
    pub bytes: u64,
    /// How often every log was read through.
    pub passes: u64,
    /// When that last ended, µs since the Unix epoch; 0 before.
    pub last_pass_us: i64,
}

#[derive(Debug)]
pub(super) struct Scrub {
    bytes_per_s: AtomicU64,
    pause_ms: AtomicU64,
    bytes: AtomicU64,
    passes: AtomicU64,
    last_pass_us: AtomicI64,
}

impl Default for Scrub {
    fn default() -> Scrub {
        let count = AtomicU64::new;
        let pause_ms = count(SCRUB_PAUSE_DEFAULT.as_millis() as u64);
        Scrub {
            bytes_per_s: count(SCRUB_BYTES_PER_S_DEFAULT),
            pause_ms,
            bytes: count(0),
            passes: count(0),
            last_pass_us: AtomicI64::new(0),
        }
    }
}

impl Node {
    /// The most that the scrub reads, and how long it rests between two passes. 0 bytes: it is off.
    pub fn limit_scrub(&self, bytes_per_s: u64, pause: Duration) {
        self.inner.scrub.bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
        self.inner.scrub.pause_ms.store(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn scrub_stats(&self) -> ScrubStats {
        let Scrub { bytes, passes, last_pass_us, .. } = &self.inner.scrub;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScrubStats { bytes: read(bytes), passes: read(passes), last_pass_us: last_pass_us.load(Ordering::Relaxed) }
    }
}

/// Scrubs as long as the node lives: all logs in turn, and between two passes those that were opened since, whose closed segments nobody has read yet.
pub(super) async fn scrub(node: NodeWeak) {
    let mut scrubbed = BTreeSet::new();
    loop {
        scrubbed.clear();
        if !scrub_others(&node, &mut scrubbed).await {
            return;
        }
        let Some(host) = node.upgrade() else { return };
        let Scrub { passes, last_pass_us, .. } = &host.inner.scrub;
        passes.fetch_add(1, Ordering::Relaxed);
        last_pass_us.store(host.inner.env.clock.wall_us(), Ordering::Relaxed);
        drop(host);
        let ended = tokio::time::Instant::now();
        let mut looked = None;
        // Looked at again and again, because it may be changed.
        while let Some(pause) = node.upgrade().map(|host| Duration::from_millis(host.inner.scrub.pause_ms.load(Ordering::Relaxed))) {
            if ended.elapsed() >= pause {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN.min(pause)).await;
            let opened = node.upgrade().map(|host| host.inner.memory.opened());
            if opened == looked {
                continue;
            }
            looked = opened;
            if !scrub_others(&node, &mut scrubbed).await {
                return;
            }
        }
    }
}

/// Scrubs every log that is not among `scrubbed`; false where the node is no more.
async fn scrub_others(node: &NodeWeak, scrubbed: &mut BTreeSet<u64>) -> bool {
    let Some(groups) = node.upgrade().map(|node| node.groups()) else { return false };
    for group in groups {
        if scrubbed.insert(group.log().number()) && !scrub_group(node, group).await {
            return false;
        }
    }
    true
}

/// False where the node is no more.
async fn scrub_group(node: &NodeWeak, group: Group) -> bool {
    let log = group.log().clone();
    // A group that is closed meanwhile is not kept alive by this.
    drop(group);
    let mut place = None;
    loop {
        let Some(host) = node.upgrade() else { return false };
        let rate = host.inner.scrub.bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            drop(host);
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        let (next, bytes) = if host.inner.env.disk.is_simulated() {
            log.scrub(place, STEP_BYTES)
        } else {
            let log = log.clone();
            tokio::task::spawn_blocking(move || log.scrub(place, STEP_BYTES)).await.unwrap_or((None, 0))
        };
        host.inner.scrub.bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(host);
        if next.is_none() || log.damage().is_some() {
            return true;
        }
        place = next;
        tokio::time::sleep(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)).await;
    }
}
