//! Tells the oracle who leads, and how far the watermark is.

use std::time::Duration;

use super::Place;

pub(super) async fn watch(place: Place) {
    let mut watermark = 0;
    loop {
        let leadership = place.partition.leadership();
        let now = place.partition.high_watermark();
        place.tell(|oracle| {
            if leadership.is_leader {
                oracle.leads(place.node(), leadership);
            }
            oracle.watermark(place.node(), watermark, now);
        });
        watermark = now;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
