//! The controller group: a Raft group whose entries are commands of the host, applied in order to the host's machine on every node.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::NodeId;
use crate::partition::Leadership;

/// What the host does with committed commands. Pure: same commands, same state, same answers, on every node.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed command; the answer goes to whoever proposed it. `index` grows with every command.
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("the region's controller has no leader (last known: {leader:?})")]
    NoLeader { leader: Option<NodeId> },
    #[error("not committed in time; the command may yet be applied")]
    Timeout,
    #[error("a command may have at most {max} bytes, got {got}")]
    TooLarge { got: usize, max: usize },
}

/// Handle to the controller group on this node.
#[derive(Debug, Clone)]
pub struct Control {}

#[allow(unused_variables)]
impl Control {
    /// Commits a command, forwarding it to the leader's node where needed, and returns the machine's answer. Retries while there is no leader, up to 5 s.
    pub fn propose(&self, command: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, ProposeError>> {
        unimplemented!()
    }
    pub fn leadership(&self) -> Leadership {
        unimplemented!()
    }
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }
    /// Index of the last command applied on this node.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }
}
