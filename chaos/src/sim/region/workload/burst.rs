//! Producers that do not wait: many values at once, so that a leader which is cut off has a tail, and one that dies an unfinished round.

use std::time::Duration;

use super::{Place, plain};

const AT_ONCE: usize = 24;

pub(super) async fn append(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(90)).await;
        if place.site.rests() || !place.partition.leadership().is_leader {
            continue;
        }
        futures_util::future::join_all((0..AT_ONCE).map(|_| plain::append_one(&place))).await;
    }
}
