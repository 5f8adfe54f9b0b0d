//! How long requests take, counted into buckets by relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, microseconds; one more bucket takes the rest.
pub const BOUNDS_US: [u64; 15] =
    [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 4_096_000, 16_384_000];

/// Of one API.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a [`Latency`] had counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Requests that took no longer than each bound.
    pub within: [u64; BOUNDS_US.len()],
    pub count: u64,
    pub sum_us: u64,
}

impl Latency {
    pub(crate) fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let mut within = [0; BOUNDS_US.len()];
        let mut count = 0;
        for (position, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(within) = within.get_mut(position) {
                *within = count;
            }
        }
        Counted { within, count, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket_and_the_slowest_to_none() {
        let latency = Latency::default();
        for us in [0, 250, 251, 16_384_001] {
            latency.took(Duration::from_micros(us));
        }
        let counted = latency.counted();
        assert_eq!((counted.within[0], counted.within[1], counted.within[14], counted.count), (2, 3, 3, 4));
        assert_eq!(counted.sum_us, 250 + 251 + 16_384_001);
    }
}
