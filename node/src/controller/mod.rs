//! The region's metadata: nodes, topics, configs, ACLs. Commands are committed by the controller's Raft group and applied to an immutable
//! [`image::Image`] that every request reads without a lock.

pub mod command;
pub mod image;

use std::sync::Arc;

use tokio::sync::watch;

use command::{Answer, Command};
use image::Image;

#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    #[error("the region's controller has no leader now; try again")]
    Unavailable,
    #[error("the command was not committed in time; it may yet be applied")]
    Timeout,
}

/// Handle to the region's metadata. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    control: meridian_raft::control::Control,
    image: watch::Receiver<Arc<Image>>,
}

impl Controller {
    /// The metadata as last applied on this node.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Fires on every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.image.clone()
    }

    /// Commits a command and returns its answer, after this node's own image shows it.
    pub async fn submit(&self, command: Command) -> Result<Answer, SubmitError> {
        let _ = (&self.control, command);
        unimplemented!()
    }

    /// The node that leads the controller group, as last heard.
    pub fn leader(&self) -> Option<u64> {
        self.control.leadership().leader
    }
}
