//! A node's own entry in its region's metadata: made or corrected at every start, refused where the node was never let in or was taken out, and
//! watched while it serves.

use std::time::Duration;

use crate::controller::command::{Answer, Command};
use crate::controller::handle::Controller;
use crate::controller::image::NodeRecord;

/// In the data folder of a node that was taken out of its region: after its next start it serves nobody before it is let in again.
pub const REMOVED_FILE: &str = "removed";
/// Between two attempts to enter the metadata.
const AGAIN: Duration = Duration::from_millis(200);
/// Between two when the region has said no.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// How long a node that was taken out waits for the others to decide over the metadata without it.
const FAREWELL_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Made,
    /// The region has taken this node out while it was away.
    TakenOut,
}

/// Enters this node into the region's metadata, or corrects what they say of it. Its own image is not believed: it may be one from before the
/// node was taken out. A node that `waits` to be let in, or has never been, is not taken out.
pub async fn enter(controller: &Controller, record: &NodeRecord, joins: bool, waits: bool) -> Entry {
    let mut refused = Answer::Done;
    loop {
        let pause = match controller.submit(Command::RegisterNode { node: record.clone(), joins }).await {
            Ok(Answer::Done) => return Entry::Made,
            Ok(Answer::NotAdmitted) if !waits && (!joins || controller.image().nodes.contains_key(&record.id)) => return Entry::TakenOut,
            Ok(answer) => {
                if answer != refused {
                    tell_refusal(record.id, &answer);
                    refused = answer;
                }
                REFUSED_AGAIN
            }
            Err(error) => {
                tracing::debug!(%error, "not registered yet");
                AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn tell_refusal(node: u64, answer: &Answer) {
    match answer {
        Answer::NotAdmitted => tracing::warn!("node {node} is not admitted to the region; it comes in after: meridian node add {node}"),
        answer => tracing::error!(?answer, "the region's controller refuses this node"),
    }
}

/// Resolves once the region's metadata say that this node was taken out.
pub async fn taken_out(node_id: u64, controller: &Controller) {
    if controller.watch().wait_for(|image| image.removed.contains(&node_id)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the region's metadata are kept without this node: a region of two could not let it go if it were gone.
pub async fn let_go(node_id: u64, controller: &Controller) {
    let gone = async {
        loop {
            let now = controller.membership();
            if now.committed && !now.voters.contains(&node_id) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    // Who is voted out need not hear of it.
    let _ = tokio::time::timeout(FAREWELL_MAX, gone).await;
}
