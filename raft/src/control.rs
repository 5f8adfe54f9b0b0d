//! The controller group: a Raft group whose entries are commands of the host, applied in order to the host's machine on every node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::group::{Group, Outcome, Proposal, Refusal};
use crate::log::FrameKind;
use crate::partition::{Leadership, Membership, ReconfigureError};
use crate::peer::client::Peers;
use crate::peer::frame::{Kind, Request};
use crate::{GroupId, NodeId};

/// Longest command.
pub const COMMAND_BYTES_MAX: usize = 16 << 20;
/// How long a proposal looks for a leader.
const PATIENCE: Duration = Duration::from_secs(5);
/// One attempt, at the leader, wherever it is.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// A voter that has heard of no leader for so long asks others: it may have been voted out while it was away.
const ALONE_AFTER: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(50);
/// First byte of a forwarded proposal's answer.
const FORWARDED_ANSWER: u8 = 0;
const FORWARDED_NO_LEADER: u8 = 1;

/// What the host does with committed commands. Pure: same commands, same state, same answers, on every node.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed command; the answer goes to whoever proposed it. `index` grows with every command.
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8>;

    /// All that the commands applied so far have made. It stands for them: the log lets go of them, and whoever lacks them is sent this.
    fn save(&self) -> Vec<u8>;

    /// Becomes what another machine, of this version or an earlier one, has saved. An error: these are no such bytes; nothing has changed.
    fn restore(&self, saved: &[u8]) -> Result<(), String>;
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
pub struct Control {
    group: Group,
    peers: Peers,
    node_id: NodeId,
}

impl Control {
    pub(crate) fn new(group: Group, peers: Peers, node_id: NodeId) -> Control {
        Control { group, peers, node_id }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Commits a command, forwarding it to the leader's node where needed, and returns the machine's answer. Retries while there is no
    /// leader, up to 5 s.
    pub fn propose(&self, command: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, ProposeError>> {
        let control = self.clone();
        async move {
            if command.len() > COMMAND_BYTES_MAX {
                return Err(ProposeError::TooLarge { got: command.len(), max: COMMAND_BYTES_MAX });
            }
            let begun = Instant::now();
            let deadline = begun + PATIENCE;
            loop {
                let alone = begun.elapsed() > ALONE_AFTER;
                match control.attempt(command.clone(), alone).await {
                    Err(ProposeError::NoLeader { .. }) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                    result => return result,
                }
            }
        }
        .boxed()
    }

    async fn attempt(&self, command: Vec<u8>, alone: bool) -> Result<Vec<u8>, ProposeError> {
        match self.leadership().leader {
            Some(leader) if leader == self.node_id => self.propose_here(command).await,
            Some(leader) => self.forward(leader, command).await,
            None if alone || !self.group.membership().voters.contains(&self.node_id) => self.ask_around(command).await,
            None => Err(ProposeError::NoLeader { leader: None }),
        }
    }

    /// A node that the group has not taken in yet, or has let go of without its knowledge, knows no leader, but others do.
    async fn ask_around(&self, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        for peer in self.peers.connected() {
            match self.forward(peer, command.clone()).await {
                Err(ProposeError::NoLeader { leader: Some(leader) }) if leader != peer => return self.forward(leader, command).await,
                Err(ProposeError::NoLeader { .. }) => {}
                result => return result,
            }
        }
        Err(ProposeError::NoLeader { leader: None })
    }

    async fn forward(&self, leader: NodeId, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        let request = Request { kind: Kind::Propose, group: GroupId::CONTROLLER, body: vec![command.into()] };
        let answer = self.peers.call(leader, request, ATTEMPT_DEADLINE).await.map_err(|error| match error.kind() {
            // Refused before it was sent.
            std::io::ErrorKind::NotConnected if !self.peers.is_connected(leader) => ProposeError::NoLeader { leader: Some(leader) },
            _ => ProposeError::Timeout,
        })?;
        match answer.split_first() {
            Some((&FORWARDED_ANSWER, answer)) => Ok(answer.to_vec()),
            Some((&FORWARDED_NO_LEADER, leader)) => {
                Err(ProposeError::NoLeader { leader: leader.first_chunk().map(|id| NodeId::from_be_bytes(*id)) })
            }
            _ => Err(ProposeError::Timeout),
        }
    }

    async fn propose_here(&self, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        let proposal = Proposal { kind: FrameKind::Command, append_time_us: 0, payload: command.into(), judged_in: None };
        match tokio::time::timeout(ATTEMPT_DEADLINE, self.group.submit(proposal, None)).await {
            Ok(Ok(Ok(Outcome::Answer(answer)))) => Ok(answer),
            // Only this one is certain to be in no log.
            Ok(Ok(Err(Refusal::NotLeader { leader }))) => Err(ProposeError::NoLeader { leader }),
            _ => Err(ProposeError::Timeout),
        }
    }

    /// A proposal that another node forwarded; not forwarded again.
    pub(crate) async fn propose_for_peer(&self, command: Vec<u8>) -> Result<Vec<u8>, String> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err("the command is too long".to_owned());
        }
        match self.propose_here(command).await {
            Ok(answer) => Ok([&[FORWARDED_ANSWER], answer.as_slice()].concat()),
            Err(ProposeError::NoLeader { leader }) => {
                let hint = leader.map(|leader| leader.to_be_bytes().to_vec()).unwrap_or_default();
                Ok([&[FORWARDED_NO_LEADER], hint.as_slice()].concat())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Who keeps the region's metadata, as this node knows.
    pub fn membership(&self) -> Membership {
        self.group.membership()
    }
    /// Makes these nodes the ones that decide over the metadata, and those the ones that only follow; see `Partition::reconfigure`.
    pub fn reconfigure(&self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) -> BoxFuture<'static, Result<(), ReconfigureError>> {
        let group = self.group.clone();
        async move { group.reconfigure(&voters, &learners).await }.boxed()
    }

    pub fn leadership(&self) -> Leadership {
        *self.group.leadership().borrow()
    }
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.group.leadership()
    }
    /// Index of the last entry applied on this node.
    pub fn applied(&self) -> u64 {
        self.group.applied().borrow().index
    }
}
