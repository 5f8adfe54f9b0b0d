//! Tells the oracle who leads, how far the watermark is, and where the log begins.

use std::time::Duration;

use super::Place;

pub(super) async fn watch(place: Place) {
    let (mut watermark, mut start, mut end, mut filled_up) = (0, 0, 0, 0);
    loop {
        let leadership = place.partition.leadership();
        let now = place.partition.high_watermark();
        place.tell(|oracle| {
            if leadership.is_leader {
                oracle.leads(place.node(), leadership);
            }
            if place.partition.holds_lease() {
                oracle.holds_lease(place.node(), leadership.epoch);
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
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
