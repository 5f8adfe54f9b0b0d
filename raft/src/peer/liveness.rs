//! What a node knows of its neighbours' lives: when each asked last, in which process, and when each acknowledged this node's pulse.
//!
//! Every node sends every other a pulse of a few bytes each heartbeat interval, whatever the number of groups. Two things rest on it:
//!
//! *Followers* keep a promise to the node of each leader they follow: not to vote for another within [`Spans::promise`] of its last question.
//! It ends when the neighbour is *gone*: that long silent and its address refuses connections, or silent for [`Spans::silence`], or run by
//! another process than before. The promise's number then grows, so that no later acknowledgement is taken for the old promise.
//!
//! *Leaders* count a follower as acknowledging at the time at which a pulse was sent that its node acknowledged, by the
//! [`Bond`] that the follower's last answer named, and hold their lease for [`Spans::lease`] after that, which is shorter than the promise.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::NodeId;
use crate::node::Timing;

/// The times of the promise between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spans {
    /// Between two pulses.
    pub pulse: Duration,
    /// A leader relies on an acknowledgement this long after it asked.
    pub lease: Duration,
    /// A follower keeps its promise this long after it was asked.
    pub promise: Duration,
    /// Silence after which a neighbour is taken for gone, though nothing says that its process died.
    pub silence: Duration,
}

impl Spans {
    pub fn of(timing: Timing) -> Spans {
        let promise = Duration::from_millis(timing.election_min_ms);
        Spans {
            pulse: Duration::from_millis(timing.heartbeat_ms),
            // A quarter for clocks that run at different speeds, and for wall clocks that differ (see `Partition::closed_time_us`).
            lease: promise * 3 / 4,
            promise,
            silence: Duration::from_millis(u64::midpoint(timing.election_min_ms, timing.election_max_ms)),
        }
    }
}

/// A process of a neighbour, and the number of its promise to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bond {
    pub process: u64,
    pub promise: u64,
}

#[derive(Debug, Default)]
struct Life {
    /// The process that asked last.
    process: Option<u64>,
    asked: Option<Instant>,
    /// Its address has refused a connection since it asked last.
    refused: bool,
    gone: bool,
    /// Its process is another than that which the groups here followed.
    replaced: bool,
    /// Number of this node's promise to it.
    promise: u64,
    /// When the last pulse was sent that it acknowledged, and by which bond.
    acknowledged: Option<(Instant, Bond)>,
}

/// The lives of all other nodes of the region. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: u64,
    spans: Spans,
    lives: RwLock<BTreeMap<NodeId, Arc<Mutex<Life>>>>,
    stirred: Notify,
    /// Where the promises to the next neighbour begin.
    promises: AtomicU64,
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Liveness {
    /// `process` names this run of this node, and no other.
    pub fn new(process: u64, timing: Timing) -> Liveness {
        Liveness {
            inner: Arc::new(Inner {
                process,
                spans: Spans::of(timing),
                lives: RwLock::default(),
                stirred: Notify::new(),
                promises: AtomicU64::new(1),
            }),
        }
    }

    /// From now on these are the neighbours; what is known of those that stay is kept.
    pub fn set(&self, neighbours: impl Iterator<Item = NodeId>) {
        let mut lives = self.inner.lives.write().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut *lives);
        // A number that no earlier promise had: one that was forgotten may be counted on still.
        let first = || Life { promise: self.inner.promises.fetch_add(1 << 32, Ordering::Relaxed), ..Life::default() };
        let life = |node: &NodeId| known.get(node).cloned().unwrap_or_else(|| Arc::new(Mutex::new(first())));
        *lives = neighbours.map(|node| (node, life(&node))).collect();
    }

    fn all(&self) -> Vec<(NodeId, Arc<Mutex<Life>>)> {
        let lives = self.inner.lives.read().unwrap_or_else(PoisonError::into_inner);
        lives.iter().map(|(node, life)| (*node, life.clone())).collect()
    }

    pub fn spans(&self) -> Spans {
        self.inner.spans
    }
    pub fn process(&self) -> u64 {
        self.inner.process
    }

    fn with<T>(&self, node: NodeId, change: impl FnOnce(&mut Life) -> T) -> Option<T> {
        let life = self.inner.lives.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()?;
        let mut life = lock(&life);
        Some(change(&mut life))
    }

    /// A question of this neighbour has arrived. To be said before anything is answered.
    pub fn asked(&self, node: NodeId) {
        self.with(node, |life| {
            life.asked = Some(Instant::now());
            (life.refused, life.gone) = (false, false);
        });
    }

    /// A pulse of this neighbour's process has arrived; what to acknowledge it by.
    pub fn pulsed(&self, node: NodeId, process: u64) -> Option<Bond> {
        let bond = self.with(node, |life| {
            if life.process.replace(process).is_some_and(|before| before != process) {
                life.promise += 1;
                life.replaced = true;
                self.inner.stirred.notify_one();
            }
            life.asked = Some(Instant::now());
            (life.refused, life.gone) = (false, false);
            life.promise
        });
        bond.map(|promise| Bond { process: self.inner.process, promise })
    }

    /// This neighbour's address refuses connections: no process listens there.
    pub fn refused(&self, node: NodeId) {
        self.with(node, |life| life.refused = true);
        self.inner.stirred.notify_one();
    }

    /// This neighbour has acknowledged a pulse sent at `sent`.
    pub fn acknowledged(&self, node: NodeId, sent: Instant, bond: Bond) {
        let changed = self.with(node, |life| {
            let before = life.acknowledged;
            if before.is_none_or(|(at, held)| at < sent || held != bond) {
                life.acknowledged = Some((sent, bond));
            }
            before.is_none_or(|(at, held)| held != bond || at.elapsed() > self.inner.spans.promise)
        });
        if changed == Some(true) {
            self.inner.stirred.notify_one();
        }
    }

    /// When the last acknowledged pulse was sent, and the bond it was acknowledged by.
    pub fn acknowledgement(&self, node: NodeId) -> Option<(Instant, Bond)> {
        self.with(node, |life| life.acknowledged).flatten()
    }

    /// The bond of a neighbour that acknowledges still.
    pub fn bond(&self, node: NodeId) -> Option<Bond> {
        self.acknowledgement(node).filter(|(sent, _)| sent.elapsed() <= self.inner.spans.promise).map(|(_, bond)| bond)
    }

    /// Number of this node's promise to a neighbour.
    pub fn promise(&self, node: NodeId) -> u64 {
        self.with(node, |life| life.promise).unwrap_or(0)
    }

    /// Until when this node may not vote against the neighbour, where that leads.
    pub fn promised_until(&self, node: NodeId) -> Option<Instant> {
        self.with(node, |life| life.asked.filter(|_| !life.gone).map(|asked| asked + self.inner.spans.promise)).flatten()
    }

    /// Ends the promise to a neighbour, if it has run out: no acknowledgement from now on counts for replicas that followed it. False where it holds.
    pub fn leave(&self, node: NodeId) -> bool {
        let left = self.with(node, |life| {
            let holds = life.asked.is_some_and(|asked| !life.gone && asked + self.inner.spans.promise > Instant::now());
            life.promise += u64::from(!holds);
            !holds
        });
        left.unwrap_or(true)
    }

    /// Ends the promise to a neighbour before its time: no acknowledgement from now on counts for replicas that followed it.
    pub fn withdraw(&self, node: NodeId) {
        self.with(node, |life| life.promise += 1);
    }

    /// Neighbours that were heard within `window`, and whose address has not refused a connection since.
    pub fn heard_within(&self, window: Duration) -> Vec<NodeId> {
        let heard = |life: &Life| {
            let asked = life.asked.is_some_and(|at| at.elapsed() <= window);
            let acknowledged = life.acknowledged.is_some_and(|(sent, _)| sent.elapsed() <= window);
            !life.refused && (asked || acknowledged)
        };
        self.all().into_iter().filter(|(_, life)| heard(&lock(life))).map(|(node, _)| node).collect()
    }

    pub fn is_gone(&self, node: NodeId) -> bool {
        self.with(node, |life| life.gone || life.asked.is_none()).unwrap_or(false)
    }

    /// Neighbours that are gone since the last call, or whose process is another: what they led, others may lead.
    pub fn newly_gone(&self) -> Vec<NodeId> {
        let Spans { promise, silence, .. } = self.inner.spans;
        let judge = |life: &mut Life| {
            let replaced = std::mem::take(&mut life.replaced);
            let silent = life.asked.map(|asked| asked.elapsed());
            let gone = silent.is_some_and(|silent| silent >= silence || life.refused && silent >= promise);
            if gone && !life.gone {
                life.gone = true;
                life.promise += 1;
                return true;
            }
            replaced
        };
        self.all().into_iter().filter(|(_, life)| judge(&mut lock(life))).map(|(node, _)| node).collect()
    }

    /// This process did nothing for so long, and so heard nobody: that is held against no neighbour. A promise only gets longer by it.
    fn excuse(&self, late: Duration) {
        let now = Instant::now();
        for (_, life) in self.all() {
            let mut life = lock(&life);
            life.asked = life.asked.map(|asked| (asked + late).min(now));
        }
    }

    /// Waits until [`Liveness::newly_gone`] may have something to tell, a pulse interval at most.
    pub async fn watch(&self) {
        let Spans { promise, silence, pulse, .. } = self.inner.spans;
        let due = |life: &Life| life.asked.filter(|_| !life.gone).map(|asked| asked + if life.refused { promise } else { silence });
        let earliest = self.all().iter().filter_map(|(_, life)| due(&lock(life))).min();
        let latest = Instant::now() + pulse;
        let until = earliest.map_or(latest, |due| due.min(latest));
        let _ = tokio::time::timeout_at(until, self.inner.stirred.notified()).await;
        let late = Instant::now().saturating_duration_since(until);
        if late >= pulse / 2 {
            self.excuse(late);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };

    fn among(neighbours: &[NodeId]) -> Liveness {
        let liveness = Liveness::new(1, TIMING);
        liveness.set(neighbours.iter().copied());
        liveness
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_neighbour_is_gone_only_when_every_lease_it_may_hold_has_ended() {
        let life = among(&[2, 3]);
        life.pulsed(2, 7);
        life.refused(2);
        tokio::time::advance(ms(399)).await;
        assert_eq!(life.newly_gone(), Vec::<NodeId>::new());
        assert!(life.promised_until(2).is_some_and(|until| until > Instant::now()));
        tokio::time::advance(ms(1)).await;
        assert_eq!((life.newly_gone(), life.newly_gone()), (vec![2], vec![]));
        assert_eq!(life.promised_until(2), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_neighbour_is_gone_before_a_second_and_its_return_is_another_promise() {
        let life = among(&[2]);
        let before = life.pulsed(2, 7);
        tokio::time::advance(ms(599)).await;
        assert_eq!(life.newly_gone(), Vec::<NodeId>::new());
        tokio::time::advance(ms(1)).await;
        assert_eq!(life.newly_gone(), vec![2]);
        let after = life.pulsed(2, 7);
        assert_ne!(before, after);
        assert!(!life.is_gone(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_takes_nobody_for_gone_before_it_has_listened() {
        let life = among(&[2, 3]);
        life.pulsed(2, 7);
        let watching = tokio::spawn({
            let life = life.clone();
            async move { life.watch().await }
        });
        tokio::task::yield_now().await;
        // Asked to wake after a pulse, it does so after ten minutes.
        tokio::time::advance(ms(600_000)).await;
        watching.await.expect("it wakes");
        assert_eq!(life.newly_gone(), Vec::<NodeId>::new());
        assert!(life.promised_until(2).is_some_and(|until| until > Instant::now()));
        tokio::time::advance(ms(600)).await;
        assert_eq!(life.newly_gone(), vec![2]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_at_the_same_address_ends_the_promise_at_once() {
        let life = among(&[2]);
        let before = life.pulsed(2, 7);
        let after = life.pulsed(2, 8);
        assert_ne!(before, after);
        assert_eq!((life.newly_gone(), life.newly_gone()), (vec![2], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_counts_from_when_the_pulse_was_sent() {
        let life = among(&[2]);
        let (sent, bond) = (Instant::now(), Bond { process: 9, promise: 0 });
        tokio::time::advance(ms(250)).await;
        life.acknowledged(2, sent, bond);
        assert_eq!(life.acknowledgement(2), Some((sent, bond)));
        tokio::time::advance(ms(151)).await;
        assert_eq!(life.bond(2), None);
    }
}
