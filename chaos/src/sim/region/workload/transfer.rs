//! Leadership is handed over while clients append.

use std::time::Duration;

use super::Place;

pub(super) async fn transfer(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if place.partition.leadership().is_leader && place.partition.transfer_leadership().await {
            place.tell(|oracle| oracle.reached.transfers += 1);
        }
    }
}
