//! The leader's part in a move: voters are changed until they are the ones that are wanted, and then that is told. It is given up now and then,
//! as by a node that dies, and gone on with by whoever leads next.

use std::time::Duration;

use super::Place;
use crate::sim::region::site::lock;

/// After this time the change is dropped where it stands.
const PATIENCE: Duration = Duration::from_millis(900);

pub(super) async fn carry_out(place: Place) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let target = lock(&place.stream.placement).target.clone();
        let Some(target) = target.filter(|_| place.partition.leadership().is_leader) else { continue };
        let change = place.partition.reconfigure(target.iter().copied().collect());
        let arrived = matches!(tokio::time::timeout(PATIENCE, change).await, Ok(Ok(())));
        if !arrived {
            lock(&place.site.oracle).reached.moves_interrupted += 1;
        } else if target.contains(&place.node()) && lock(&place.stream.placement).finish(&target) {
            lock(&place.site.oracle).reached.moves += 1;
        }
    }
}
