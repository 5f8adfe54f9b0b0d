//! Producer ids, reserved in blocks: one command of the controller for a thousand producers.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::controller::command::{Answer, Command};
use crate::controller::handle::{Controller, SubmitError};

/// Ids reserved at once, as in Kafka. What is left of a block when the node stops is never used.
const BLOCK: u32 = 1000;

/// This node's block. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ProducerIds {
    block: Arc<Mutex<Range<i64>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProducerIdError {
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
    #[error("no producer ids: {0}")]
    Refused(String),
}

impl ProducerIds {
    /// An id that nobody in the mesh has had.
    pub async fn next(&self, controller: &Controller) -> Result<i64, ProducerIdError> {
        // Held across the command: whoever comes meanwhile waits for the same block.
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(id);
        }
        match controller.submit(Command::AllocateProducerIds { count: BLOCK }).await? {
            Answer::ProducerIds { first, count } => *block = first..first.saturating_add(i64::from(count)),
            other => return Err(ProducerIdError::Refused(format!("{other:?}"))),
        }
        block.next().ok_or_else(|| ProducerIdError::Refused("the block is empty".to_owned()))
    }
}
