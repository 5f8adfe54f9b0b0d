//! Tells the oracle who leads, how far the watermark is, and where the log begins.

use std::time::Duration;

use super::Place;

const EVERY_MS: u64 = 5;

pub(super) async fn watch(place: Place) {
    let (mut watermark, mut start, mut end, mut filled_up) = (0, 0, 0, 0);
    loop {
        let time = turmoil::sim_elapsed().unwrap_or_default();
        let leadership = place.partition.leadership();
        let now = place.partition.high_watermark();
        place.tell(|oracle| {
            if leadership.leader == Some(place.node()) {
                oracle.is_elected(place.node(), leadership.epoch);
            }
            if leadership.is_leader {
                oracle.leads(place.node(), leadership);
            }
            if place.partition.holds_lease() {
                oracle.holds_lease(place.node(), leadership.epoch, time);
            }
            oracle.watermark(place.node(), watermark, now);
            let begin = place.partition.log_start_offset();
            oracle.start(place.node(), start, begin);
            start = begin;
            let ends = place.partition.log_end_offset();
            oracle.reached.tails_dropped += u64::from(ends < end);
            end = ends;
            let times = place.partition.times_filled_up();
            oracle.reached.filled_up += times - filled_up;
            filled_up = times;
        });
        watermark = now;
        // All look at the same time: of two leases that overlap, both are seen.
        tokio::time::sleep(Duration::from_millis(EVERY_MS - time.as_millis() as u64 % EVERY_MS)).await;
    }
}
