//! How a group comes to be: its first membership and its first election.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;
use openraft::rt::watch::WatchReceiver as _;
use tokio::sync::watch;

use super::Raft;
use crate::NodeId;

/// How long a voter that may not form the group waits for the one that should, before it forms the group itself.
pub const FORMING_PATIENCE: Duration = Duration::from_millis(1500);
/// Between two attempts of a group's first election: the other voters may not have opened it yet. Doubles from the first to the second.
const FIRST_ELECTION_AGAIN: Duration = Duration::from_millis(20);
const FIRST_ELECTION_AGAIN_MAX: Duration = Duration::from_millis(320);
/// Then openraft's own elections go on alone.
const FIRST_ELECTIONS_MAX: u32 = 16;

/// Forms the group of `voters` unless it has been formed; several voters may do so, with one result. Whoever formed it stands for election at
/// once, again and again while the others may still be opening their replicas, instead of waiting for a timeout.
pub async fn form(raft: Raft, voters: BTreeSet<NodeId>, patience: Duration, mut takes_part: watch::Receiver<bool>) {
    if takes_part.wait_for(|takes_part| *takes_part).await.is_err() {
        return;
    }
    tokio::time::sleep(patience).await;
    if raft.is_initialized().await.unwrap_or(true) {
        return;
    }
    if let Err(error) = raft.initialize(voters).await {
        tracing::debug!(%error, "the group was formed by another voter");
        return;
    }
    let mut pause = FIRST_ELECTION_AGAIN;
    for _ in 0..FIRST_ELECTIONS_MAX {
        let (state, leader) = {
            let server = raft.server_metrics();
            let server = server.borrow_watched();
            (server.state, server.current_leader)
        };
        if leader.is_some() {
            return;
        }
        // A pre-vote asks and changes nothing. A candidate's votes are under way already: asking anew would only make them void.
        if state != ServerState::Candidate && raft.trigger().elect(true).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(FIRST_ELECTION_AGAIN_MAX);
    }
}
