//! How fast this node sends logs to replicas that are catching up, all groups together: what is left of disk and network belongs to clients.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Unless the operator says otherwise: a gigabyte takes 20 s, and half of a slow disk is left.
pub const CATCH_UP_BYTES_PER_S_DEFAULT: u64 = 50 << 20;
/// Unused time counts for so long, so that pauses between two rounds cost nothing.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second, first come, first served.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_s: AtomicU64,
    /// When what was granted so far will have been sent.
    until: Mutex<Option<Instant>>,
    /// Whoever waits asks again: at the old rate it could be for hours.
    changed: Notify,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { bytes_per_s: AtomicU64::new(CATCH_UP_BYTES_PER_S_DEFAULT), until: Mutex::default(), changed: Notify::new() }
    }
}

impl Throttle {
    pub fn set(&self, bytes_per_s: u64) {
        if self.bytes_per_s.swap(bytes_per_s.max(1), Ordering::Relaxed) != bytes_per_s.max(1) {
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.changed.notify_waiters();
        }
    }

    /// Waits until so many bytes may be sent.
    pub async fn take(&self, bytes: u64) {
        loop {
            // Made before the grant: no change in between is missed.
            let changed = self.changed.notified();
            let at = self.grant(Instant::now(), bytes);
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                () = changed => {}
            }
        }
    }

    fn grant(&self, now: Instant, bytes: u64) -> Instant {
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        let lasts = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = until.map_or(now, |until| until.max(now.checked_sub(BURST).unwrap_or(now)));
        *until = Some(begins + lasts);
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second_whoever_asks() {
        let throttle = Throttle::default();
        throttle.set(1000);
        let now = Instant::now();
        assert_eq!(throttle.grant(now, 600), now);
        assert_eq!(throttle.grant(now, 400), now + Duration::from_millis(600));
        assert_eq!(throttle.grant(now, 1), now + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_at_a_rate_that_is_raised_waits_no_longer_for_the_old_one() {
        let throttle = std::sync::Arc::new(Throttle::default());
        throttle.set(1);
        throttle.take(10_000).await;
        let (begun, waiting) = (Instant::now(), throttle.clone());
        let waiting = tokio::spawn(async move { waiting.take(10).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        throttle.set(1000);
        waiting.await.expect("no panic");
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }

    #[test]
    fn silence_earns_a_tenth_of_a_second_and_no_more() {
        let throttle = Throttle::default();
        throttle.set(1000);
        let now = Instant::now();
        throttle.grant(now, 100);
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.grant(later, 100), later - BURST);
        assert_eq!(throttle.grant(later, 500), later);
        assert_eq!(throttle.grant(later, 500), later + Duration::from_millis(500));
    }
}
