//! A node's way into the region's metadata: commands go through the controller's Raft group, images come out.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_auth::principal::Principal;
use meridian_raft::NodeId;
use meridian_raft::control::{Control, Machine, ProposeError};
use meridian_raft::node::{Node, NodeError};
use meridian_raft::partition::{Membership, ReconfigureError};
use tokio::sync::watch;

use super::command::{Answer, Command};
use super::image::Image;
use super::state::State;

/// How long a committed command may take to reach this node's own image.
const IMAGE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the region's controller has no leader now; try again")]
    Unavailable,
    #[error("the command was not committed in time; it may yet be applied")]
    Timeout,
    #[error("the command is too large: {0}")]
    TooLarge(String),
}

/// What tells one region from another. The same on every node of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub mesh: String,
    pub name: String,
    /// 1 to 127; producer ids carry it.
    pub number: u8,
    pub superusers: Vec<Principal>,
}

/// Handle to the region's metadata. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    control: Control,
    image: watch::Receiver<Arc<Image>>,
    /// Partitions placed so far, as far as this node knows: where the next round robin starts.
    placed: Arc<AtomicUsize>,
}

/// Applies what the group commits.
struct Applier {
    state: Mutex<State>,
    image: watch::Sender<Arc<Image>>,
}

/// An answer, and the index at which images hold what it speaks of.
#[derive(serde::Serialize, serde::Deserialize)]
struct Applied {
    index: u64,
    answer: Answer,
}

impl Machine for Applier {
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match serde_json::from_slice::<Command>(command) {
            Ok(command) => state.apply(index, command),
            // Every node of one version refuses it alike.
            Err(error) => Answer::Invalid { message: format!("not a command: {error}") },
        };
        self.image.send_replace(state.image());
        serde_json::to_vec(&Applied { index, answer }).unwrap_or_default()
    }

    fn save(&self) -> Vec<u8> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).save()
    }

    fn restore(&self, saved: &[u8]) -> Result<(), String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.restore(saved).map_err(|error| format!("not the region's metadata: {error}"))?;
        self.image.send_replace(state.image());
        Ok(())
    }
}

impl Controller {
    /// Opens the controller group on this node and replays what it has committed.
    pub async fn start(node: &Node, region: Region) -> Result<Controller, NodeError> {
        Controller::open(node, region, false).await
    }

    /// The same on a node that did not found the region.
    pub async fn join(node: &Node, region: Region) -> Result<Controller, NodeError> {
        Controller::open(node, region, true).await
    }

    async fn open(node: &Node, region: Region, joins: bool) -> Result<Controller, NodeError> {
        let state = State::new(&region.mesh, &region.name, region.number, region.superusers);
        let (sender, image) = watch::channel(state.image());
        let applier = Arc::new(Applier { state: Mutex::new(state), image: sender });
        let control = if joins { node.join_controller(applier).await? } else { node.open_controller(applier).await? };
        Ok(Controller { control, image, placed: Arc::default() })
    }

    /// The metadata as last applied on this node.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// The metadata as of a moment after this was asked: behind a command, which changes nothing, that a majority has committed since.
    pub async fn up_to_date(&self) -> Result<Arc<Image>, SubmitError> {
        match self.submit(Command::MovePartitions { moves: Vec::new() }).await? {
            // What is refused is not waited for.
            Answer::Invalid { .. } => Err(SubmitError::Unavailable),
            _ => Ok(self.image()),
        }
    }

    /// Fires on every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.image.clone()
    }

    /// Commits a command and returns its answer, after this node's own image shows it.
    pub async fn submit(&self, command: Command) -> Result<Answer, SubmitError> {
        let command = serde_json::to_vec(&command).map_err(|error| SubmitError::TooLarge(error.to_string()))?;
        let answer = self.control.propose(command).await.map_err(|error| match error {
            ProposeError::NoLeader { .. } => SubmitError::Unavailable,
            ProposeError::Timeout => SubmitError::Timeout,
            ProposeError::TooLarge { .. } => SubmitError::TooLarge(error.to_string()),
        })?;
        let Applied { index, answer } = serde_json::from_slice(&answer).map_err(|_| SubmitError::Timeout)?;
        // Who is not admitted follows no metadata, and would wait for them in vain.
        let refused_unread = matches!(answer, Answer::Invalid { .. } | Answer::NotAdmitted);
        if !refused_unread {
            let mut image = self.image.clone();
            let shown = image.wait_for(|image| image.version >= index);
            tokio::time::timeout(IMAGE_DEADLINE, shown).await.map_err(|_| SubmitError::Timeout)?.map_err(|_| SubmitError::Unavailable)?;
        }
        Ok(answer)
    }

    /// Where the round robin of `partitions` new ones starts, of a region that has `held`. Topics made at once begin behind each other.
    pub(super) fn turn(&self, held: usize, partitions: usize) -> usize {
        let further = |placed: usize| Some(placed.max(held).wrapping_add(partitions));
        self.placed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, further).map_or(held, |placed| placed.max(held))
    }

    /// Who keeps the region's metadata, as this node knows.
    pub fn membership(&self) -> Membership {
        self.control.membership()
    }

    /// Makes these nodes the ones that vote on the metadata, and those the ones that follow; only the leader of the group can.
    pub async fn reconfigure(&self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) -> Result<(), ReconfigureError> {
        self.control.reconfigure(voters, learners).await
    }

    /// The node that leads the controller group, as last heard.
    pub fn leader(&self) -> Option<NodeId> {
        self.control.leadership().leader
    }
}
