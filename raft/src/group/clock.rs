//! Which groups of a node wait for a moment, and for which. Most wait for none: nothing happens in them, so they cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::GroupId;

/// Groups whose moments lie so close together are called together.
const GATHER: Duration = Duration::from_millis(5);

/// The moments of all groups of one node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    moments: Mutex<Moments>,
    sooner: Notify,
    fell_asleep: AtomicU64,
    woke: AtomicU64,
}

#[derive(Debug, Default)]
struct Moments {
    of: BTreeMap<GroupId, Instant>,
    order: BTreeSet<(Instant, GroupId)>,
}

impl Moments {
    fn remove(&mut self, group: GroupId) -> bool {
        let held = self.of.remove(&group);
        held.is_some_and(|at| self.order.remove(&(at, group)))
    }
}

impl Clock {
    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.inner.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group is to be called at that moment, or at none.
    pub fn arm(&self, group: GroupId, at: Option<Instant>) {
        let mut moments = self.moments();
        if moments.of.get(&group).copied() == at {
            return;
        }
        let waited = moments.remove(group);
        let Some(at) = at else {
            self.inner.fell_asleep.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let sooner = moments.order.first().is_none_or(|(first, _)| at < *first);
        moments.of.insert(group, at);
        moments.order.insert((at, group));
        drop(moments);
        self.inner.woke.fetch_add(u64::from(!waited), Ordering::Relaxed);
        if sooner {
            self.inner.sooner.notify_one();
        }
    }

    #[cfg(any(test, feature = "sim"))]
    pub fn waits(&self, group: GroupId) -> bool {
        self.moments().of.contains_key(&group)
    }

    /// How often groups began to wait for nothing, and how often they ended it.
    pub fn counts(&self) -> (u64, u64) {
        (self.inner.fell_asleep.load(Ordering::Relaxed), self.inner.woke.load(Ordering::Relaxed))
    }

    /// Waits for the next moment; the groups whose moment has come. They wait still until they are armed anew.
    pub async fn due(&self) -> Vec<GroupId> {
        loop {
            let first = self.moments().order.first().map(|(at, _)| *at);
            let now = Instant::now();
            match first {
                Some(at) if at <= now => {
                    let due: Vec<GroupId> =
                        self.moments().order.iter().take_while(|(at, _)| *at <= now + GATHER).map(|(_, group)| *group).collect();
                    return due;
                }
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.inner.sooner.notified()).await;
                }
                None => self.inner.sooner.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(partition: i32) -> GroupId {
        GroupId { topic: uuid::Uuid::from_u128(7), partition }
    }

    #[tokio::test(start_paused = true)]
    async fn groups_are_called_in_the_order_of_their_moments_and_not_before() {
        let (clock, begun) = (Clock::default(), Instant::now());
        clock.arm(group(1), Some(begun + Duration::from_millis(300)));
        clock.arm(group(2), Some(begun + Duration::from_millis(100)));
        clock.arm(group(3), Some(begun + Duration::from_millis(200)));
        clock.arm(group(3), None);
        assert_eq!(clock.due().await, [group(2)]);
        assert_eq!(begun.elapsed(), Duration::from_millis(100));
        clock.arm(group(2), Some(begun + Duration::from_millis(302)));
        assert_eq!(clock.due().await, [group(1), group(2)]);
        assert_eq!((clock.waits(group(1)), clock.waits(group(3))), (true, false));
        assert_eq!(clock.counts(), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_that_is_set_while_a_later_one_is_waited_for_is_not_missed() {
        let (clock, begun) = (Clock::default(), Instant::now());
        clock.arm(group(1), Some(begun + Duration::from_secs(10)));
        let sooner = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.arm(group(2), Some(begun + Duration::from_millis(50)));
        };
        let (due, ()) = tokio::join!(clock.due(), sooner);
        assert_eq!((due, begun.elapsed()), (vec![group(2)], Duration::from_millis(50)));
    }
}
