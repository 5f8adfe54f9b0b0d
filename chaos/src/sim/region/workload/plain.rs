//! Producers without sequences: each value once, whatever becomes of it.

use std::time::Duration;

use super::{ANSWER_PATIENCE, Place, value_batch};
use crate::sim::region::site::lock;

pub(super) async fn append(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(4)).await;
        if place.site.rests() || !place.partition.leadership().is_leader {
            continue;
        }
        append_one(&place).await;
    }
}

pub(super) async fn append_one(place: &Place) {
    let value = {
        let mut values = lock(&place.stream.values);
        *values += 1;
        place.value(*values)
    };
    let Ok(batch) = value_batch(value) else { return };
    place.tell(|oracle| oracle.sends(value));
    match tokio::time::timeout(ANSWER_PATIENCE, place.partition.append(batch)).await {
        Ok(Ok(appended)) => place.tell(|oracle| oracle.acknowledges(place.node(), value, appended)),
        Ok(Err(_)) | Err(_) => place.tell(|oracle| oracle.leaves_open(place.node(), value)),
    }
}
