//! How a group comes to run: its log is recovered, what is known to be committed is applied, and where it has never been, it is founded.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::checkpoint::Checkpoints;
use super::clock::Clock;
use super::farewell::{self, Farewell};
use super::incoming::Incoming;
use super::machine::{GroupMachine, Host, Watched};
use super::snapshot::Snapshots;
use super::{Group, Inner, LeadershipWatch, ReleaseWatch, votes};
use crate::consensus::members::{History, Members};
use crate::consensus::{Core, Held, Pace, Vote};
use crate::env::Env;
use crate::log::{FrameKind, Log, LogEntry, LogError, LogPosition, LogSettings, Memory, Place, Rolling};
use crate::node::{NodeError, Timing};
use crate::partition::Leadership;
use crate::peer::client::Peers;
use crate::peer::liveness::Liveness;
use crate::writer::Writer;
use crate::{GroupId, NodeId};

/// A follower hears of a commit with the next entries, or so much later. Nobody waits for a follower's high watermark: clients read from
/// leaders, and a new leader commits an entry of its own before it serves.
const COMMIT_TOLD_WITHIN: Duration = Duration::from_millis(100);

/// Everything a group needs of its node.
pub(crate) struct Surroundings<'a> {
    pub env: &'a Env,
    pub writer: &'a Writer,
    pub memory: &'a Memory,
    pub peers: &'a Peers,
    /// False until it is certain that this node knows what it has promised.
    pub takes_part: watch::Receiver<bool>,
    pub liveness: &'a Liveness,
    pub clock: &'a Clock,
    pub runtime: &'a Handle,
    pub node_id: NodeId,
    pub timing: Timing,
    pub watch: LeadershipWatch,
    pub released: ReleaseWatch,
}

/// What a group is, before it runs.
pub(crate) struct Plan {
    pub id: GroupId,
    pub directory: std::path::PathBuf,
    /// Who founds the group where its log is empty. Nobody: the group exists, and this replica joins it when its leader says so.
    pub voters: Vec<NodeId>,
    pub rolling: Rolling,
    pub host: Host,
    /// Adds the epoch of the home to the Kafka-visible one.
    pub mirror: bool,
}

fn unreadable(log: &Log, error: &std::io::Error) -> NodeError {
    NodeError::Log(LogError::Unreadable(log.damage().unwrap_or_else(|| error.to_string())))
}

/// The first entry of every log of a group: all founders write the same.
pub(crate) fn founding(voters: &[NodeId]) -> std::io::Result<LogEntry> {
    let payload = serde_json::to_vec(&Members::founded_by(voters.iter().copied()))?.into();
    Ok(LogEntry { kind: FrameKind::Membership, term: 0, index: 0, append_time_us: 0, payload })
}

/// More than the founding of its group is in this log.
pub(super) fn has_begun(last: Option<LogPosition>) -> bool {
    last.is_some_and(|last| last.term > 0)
}

impl Group {
    /// Recovers the log, applies what is known to be committed, and founds the group where that has never happened.
    pub fn start(around: Surroundings<'_>, plan: Plan) -> Result<Group, NodeError> {
        let Plan { id, directory, voters, rolling, host, mirror } = plan;
        let Surroundings { env, writer, memory, .. } = around;
        let snapshots = Snapshots::new(id, writer.clone());
        let purged = snapshots.purged()?;
        let log = Log::open_behind(Place { env, writer, memory }, &directory, LogSettings { group: id, rolling }, purged)?;
        if !env.mutations().trust_damaged {
            votes::require_whole(&log, writer, id)?;
        }
        let bound_by = Farewell::of(writer, id).0.filter(|farewell| log.last() < Some(*farewell));
        let vote = votes::stored_vote(writer, id)?;
        let founds = log.last().is_none() && log.purged().is_none() && bound_by.is_none() && !voters.is_empty();
        if founds {
            log.append(vec![founding(&voters)?], Box::new(|_| ()))?;
        }
        let checkpoints = Checkpoints::new(env.disk.clone(), writer.clone(), directory, id);
        let (mut machine, watched) = GroupMachine::new(host, log.clone(), snapshots.clone(), checkpoints);
        let committed_end = votes::committed_end(writer, &log)?;
        // The payloads of closed segments are not verified before.
        machine.resume(committed_end).map_err(|error| unreadable(&log, &error))?;
        let held = Held { vote, members: history(&machine, &log)?, committed_end: machine.end(), bound_by };
        let group = Group::assemble(around, (id, mirror, log, snapshots), machine, watched, held);
        if founds && vote == Vote::default() {
            let first = voters.first() == Some(&group.inner.node_id);
            group.inner.turn(|core, view| core.founded(first, view));
        } else {
            group.inner.turn(|_, _| ());
        }
        if bound_by.is_some() {
            farewell::keep_word(&group);
        }
        Ok(group)
    }

    fn assemble(
        around: Surroundings<'_>,
        (id, mirror, log, snapshots): (GroupId, bool, Log, Snapshots),
        machine: GroupMachine,
        watched: Watched,
        held: Held,
    ) -> Group {
        let (leadership_told, leadership) = watch::channel(Leadership::default());
        let Watched { applied, high_watermark, start_offset } = watched;
        let ms = Duration::from_millis;
        let pace = Pace {
            election_min: ms(around.timing.election_min_ms),
            election_max: ms(around.timing.election_max_ms),
            spans: around.liveness.spans(),
            // The controller's commands take effect on every node, and their proposers wait for that.
            commit_told_within: if id == GroupId::CONTROLLER { Duration::ZERO } else { COMMIT_TOLD_WITHIN },
        };
        let committed_end = AtomicU64::new(held.committed_end);
        let core = Core::new(around.node_id, pace, held, around.env.random.next_u64(), Instant::now());
        let inner = Inner {
            id,
            node_id: around.node_id,
            mirror,
            log,
            writer: around.writer.clone(),
            snapshots,
            peers: around.peers.clone(),
            liveness: around.liveness.clone(),
            clock: around.clock.clone(),
            takes_part: around.takes_part,
            runtime: around.runtime.clone(),
            machine: Mutex::new(machine),
            core: Mutex::new(core),
            proposers: Mutex::default(),
            saving: Mutex::default(),
            committed_end,
            applied,
            high_watermark,
            start_offset,
            leadership,
            leadership_told,
            watch: around.watch,
            released: around.released,
            incoming: Incoming::default(),
            beginning: tokio::sync::Mutex::default(),
            cutting: AtomicBool::new(false),
            purging: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            led: AtomicU64::new(0),
        };
        Group { inner: Arc::new(inner) }
    }
}

/// The memberships of a log: those applied, and those behind.
fn history(machine: &GroupMachine, log: &Log) -> Result<History, NodeError> {
    let mut history = machine.members().clone();
    let end = log.indexes().end;
    for head in log.heads(machine.end()..end).map_err(|error| unreadable(log, &error))? {
        if head.kind == FrameKind::Membership {
            let entry = log.entries(head.index..head.index + 1, usize::MAX).map_err(|error| unreadable(log, &error))?.pop();
            let payload = entry.map(|entry| entry.payload).unwrap_or_default();
            let members = serde_json::from_slice(&payload).map_err(|error| NodeError::Raft(error.to_string()))?;
            history.push(head.index, members);
        }
    }
    Ok(history)
}
