//! A consumer at every replica: it reads on from where it is to the high watermark, after a restart from the log's start.

use std::time::Duration;

use super::Place;

const READ_BYTES: usize = 32 << 10;

pub(super) async fn read(place: Place) {
    let mut next = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        next = place.partition.log_start_offset().max(next);
        if next >= place.partition.high_watermark() {
            continue;
        }
        // Damage is for others to judge; whoever reads tries again.
        let Ok(batches) = place.partition.read(next, READ_BYTES).await else { continue };
        let watermark = place.partition.high_watermark();
        for batch in batches {
            place.tell(|oracle| oracle.reads(place.node(), &batch, watermark));
            next = meridian_raft::batch::BatchHeader::decode(&batch.bytes)
                .map_or(next, |header| header.base_offset + i64::from(header.last_offset_delta) + 1);
        }
    }
}
