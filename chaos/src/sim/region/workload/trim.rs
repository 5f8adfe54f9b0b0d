//! Deletes records before some offset, now and then all of them, so that whole segments go and whoever was away has to begin behind them.

use std::time::Duration;

use super::{ANSWER_PATIENCE, Place};
use crate::sim::region::site::lock;

/// Values between two deletions, and how many records are kept at most: about two segments.
const VALUES_BETWEEN: u64 = 40;
const KEPT_MAX: i64 = 120;

pub(super) async fn delete(place: Place) {
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let values = *lock(&place.stream.values);
        if values < last + VALUES_BETWEEN || !place.partition.leadership().is_leader {
            continue;
        }
        last = values;
        let end = place.partition.high_watermark();
        // Differs from time to time and is the same for the same seed.
        let kept = (values as i64).wrapping_mul(7919) % KEPT_MAX;
        let before = if kept < 20 { None } else { Some((end - kept).max(0)) };
        place.tell(|oracle| oracle.wants_start(before.unwrap_or(end)));
        if let Ok(Ok(start)) = tokio::time::timeout(ANSWER_PATIENCE, place.partition.delete_records(before)).await {
            place.tell(|oracle| oracle.acknowledges_start(place.node(), start));
        }
    }
}
