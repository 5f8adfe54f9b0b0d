//! The node's heartbeat: looks at every partition that it leads once per tick, for all links together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::Inner;
use crate::heartbeat::Led;

/// Between two heartbeats.
const EVERY: Duration = Duration::from_millis(100);

/// What this node leads at one moment, and to which regions each may go.
#[derive(Debug, Default)]
pub(crate) struct Tick {
    /// Read before anything else.
    pub now_us: i64,
    pub led: Vec<(Led, Arc<[String]>)>,
}

pub(crate) async fn beat(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = Some(inner.metadata.watch_changes());
    let mut allowed: HashMap<Uuid, Arc<[String]>> = HashMap::new();
    loop {
        ticks.tick().await;
        if let Some(changed) = &mut changes {
            match changed.has_changed() {
                Ok(false) => {}
                Ok(true) => {
                    changed.borrow_and_update();
                    allowed.clear();
                }
                // The metadata have stopped changing for good.
                Err(_) => changes = None,
            }
        }
        if inner.pulse.receiver_count() > 0 {
            inner.pulse.send_replace(Arc::new(look(&inner, &mut allowed)));
        }
    }
}

fn look(inner: &Inner, allowed: &mut HashMap<Uuid, Arc<[String]>>) -> Tick {
    let now_us = inner.env.clock.wall_us();
    let mut led = Vec::new();
    for partition in inner.raft.partitions() {
        let leadership = partition.leadership();
        if partition.spec().mirror || !leadership.is_leader {
            continue;
        }
        let group = partition.id();
        let regions = allowed
            .entry(group.topic)
            .or_insert_with(|| inner.config.remote.keys().filter(|region| inner.metadata.may_send(group.topic, region)).cloned().collect());
        if regions.is_empty() {
            continue;
        }
        // In this order: the closed time vouches for the high watermark that is asked for behind it.
        let closed_us = partition.closed_time_us().unwrap_or(0);
        let high_watermark = partition.high_watermark();
        led.push((Led { group, epoch: leadership.epoch, high_watermark, closed_us }, regions.clone()));
    }
    Tick { now_us, led }
}
