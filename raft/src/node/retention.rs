//! Lets every log of a node go of what its retention does not keep.

use std::time::Duration;

use super::NodeWeak;

/// How often logs are looked at for segments that are too old or too many.
const RETENTION_EVERY: Duration = Duration::from_secs(10);

/// Looks at every log now and then, in memory: only a log that has something to let go of is written to.
pub async fn enforce(node: NodeWeak) {
    loop {
        tokio::time::sleep(RETENTION_EVERY).await;
        let Some(node) = node.upgrade() else { return };
        let now_ms = node.inner.env.clock.wall_us() / 1000;
        let (partitions, groups) = (node.partitions(), node.groups());
        drop(node);
        for partition in partitions {
            partition.enforce_retention(now_ms).await;
        }
        for group in groups {
            group.purge_leftovers();
        }
    }
}
