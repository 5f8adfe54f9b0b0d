//! A leader that is told to offer its lead to one certain follower.

use std::time::Duration;

use super::Place;
use crate::sim::region::site::lock;

pub(super) async fn offer(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if !place.partition.leadership().is_leader {
            continue;
        }
        let successor = lock(&place.stream.offer).take();
        if let Some(successor) = successor {
            place.partition.transfer_leadership_to(successor).await;
        }
    }
}
