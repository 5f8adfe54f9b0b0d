//! Opens the groups of a node.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::repairs::{self, VOTES_LOST};
use super::{CHANGING, CONTROLLER_ROLLING, Inner, Node, NodeConfig, NodeError, NodeWeak, read, write};
use crate::control::{Control, Machine};
use crate::group::machine::Host;
use crate::group::{Group, LeadershipWatch, Plan, ReleaseWatch, Surroundings};
use crate::partition::producers::Producers;
use crate::partition::{Leadership, Partition, PartitionSpec};
use crate::{GroupId, NodeId};

/// How long the controller waits, before it is opened, for peers to say that this node knows what it has promised.
const CLEARANCE_PATIENCE: Duration = Duration::from_secs(1);

/// Where a group's log lies.
pub(super) fn directory(data_dir: &Path, id: GroupId) -> PathBuf {
    data_dir.join("logs").join(format!("{}-{}", id.topic, id.partition))
}

/// The group whose log lies in a folder of this name.
pub(super) fn group_named(folder: &str) -> Option<GroupId> {
    let (topic, partition) = folder.rsplit_once('-')?;
    Some(GroupId { topic: topic.parse().ok()?, partition: partition.parse().ok()? })
}

impl Node {
    pub(super) fn directory(&self, id: GroupId) -> PathBuf {
        directory(&self.inner.config.data_dir, id)
    }

    pub(super) async fn changing(&self, id: GroupId) -> tokio::sync::MutexGuard<'_, ()> {
        let lane = id.topic.as_u128() as usize ^ id.partition.unsigned_abs() as usize;
        self.inner.changing[lane % CHANGING].lock().await
    }

    fn start_group(&self, plan: Plan) -> BoxFuture<'_, Result<Group, NodeError>> {
        self.begin_group(plan).boxed()
    }

    /// Starts a group on Raft's runtime.
    async fn begin_group(&self, plan: Plan) -> Result<Group, NodeError> {
        let (node, id) = (self.clone(), plan.id);
        let start = async move {
            let Inner { env, writer, memory, peers, config, liveness, clock, runtime, .. } = &*node.inner;
            let (watch, released, takes_part) = (node.leadership_watch(), node.release_watch(), node.inner.lives.watch());
            let NodeConfig { node_id, timing, .. } = *config;
            let around =
                Surroundings { env, writer, memory, peers, liveness, clock, runtime, takes_part, node_id, timing, watch, released };
            Group::start(around, plan)
        };
        let group = self.inner.runtime.spawn(start).await.map_err(|error| NodeError::Raft(error.to_string()))??;
        let (log, weak) = (group.log(), NodeWeak(Arc::downgrade(&self.inner)));
        self.inner.runtime.spawn(repairs::withdraw_when_damaged(weak, log.watch_damage(), id, log.number()));
        Ok(group)
    }

    fn release_watch(&self) -> ReleaseWatch {
        let telling = self.inner.telling.clone();
        Arc::new(move |group, term| telling.released(group, term))
    }

    fn leadership_watch(&self) -> LeadershipWatch {
        let (telling, elections) = (self.inner.telling.clone(), self.inner.elections.clone());
        Arc::new(move |group, leadership: Leadership| {
            let change = telling.changed(group, leadership);
            if change == Some(true) {
                elections.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Opens (and on first start forms) the controller group of all `config.peers`; replays committed commands into `machine`.
    pub async fn open_controller(&self, machine: Arc<dyn Machine>) -> Result<Control, NodeError> {
        self.open_control(machine, self.inner.config.peers.keys().copied().collect()).await
    }

    /// Opens the controller group of a region that this node did not found: it follows once the region's controller has taken it in. Until then
    /// commands go through any node that is connected.
    pub async fn join_controller(&self, machine: Arc<dyn Machine>) -> Result<Control, NodeError> {
        self.open_control(machine, Vec::new()).await
    }

    async fn open_control(&self, machine: Arc<dyn Machine>, voters: Vec<NodeId>) -> Result<Control, NodeError> {
        self.await_clearance(CLEARANCE_PATIENCE).await;
        let _changing = self.changing(GroupId::CONTROLLER).await;
        if let Some(control) = &*read(&self.inner.control) {
            return Ok(control.clone());
        }
        let plan = || Plan {
            id: GroupId::CONTROLLER,
            directory: self.directory(GroupId::CONTROLLER),
            voters: voters.clone(),
            rolling: CONTROLLER_ROLLING,
            host: Host::Control(machine.clone()),
            mirror: false,
        };
        if let Some((reason, damaged)) = self.unfit(GroupId::CONTROLLER) {
            self.mend_controller(reason, damaged).await?;
        }
        let group = match self.start_group(plan()).await {
            Err(NodeError::Log(error)) if error.is_damage() => {
                let damaged = self.is_damage(&error).await?;
                self.mend_controller(error.to_string(), damaged).await?;
                self.start_group(plan()).await?
            }
            started => started?,
        };
        let control = Control::new(group, self.inner.peers.clone(), self.inner.config.node_id);
        *write(&self.inner.control) = Some(control.clone());
        control.group().wind();
        Ok(control)
    }

    /// Opens (and on first start forms) one partition's group. Opening twice returns the same handle.
    pub async fn open_partition(&self, spec: PartitionSpec) -> Result<Partition, NodeError> {
        let _changing = self.changing(spec.id).await;
        if let Some(partition) = self.partition(spec.id) {
            return Ok(partition);
        }
        self.finish_deletion(spec.id).await?;
        self.refuse_damaged(&spec).await?;
        let producers = Arc::new(Mutex::new(Producers::default()));
        let plan = Plan {
            id: spec.id,
            directory: self.directory(spec.id),
            voters: spec.replicas.clone(),
            rolling: spec.settings.rolling,
            host: Host::Partition(producers.clone()),
            mirror: spec.mirror,
        };
        let group = match self.start_group(plan).await {
            Err(NodeError::Log(error)) if error.is_damage() => {
                let damaged = self.is_damage(&error).await?;
                return Err(self.quarantine(spec, error.to_string(), damaged).await);
            }
            started => started?,
        };
        let partition = Partition::new(spec, group, producers);
        write(&self.inner.partitions).insert(partition.id(), partition.clone());
        partition.group().wind();
        // Found out while it was opened: whoever closes all that is open may have missed it.
        if self.distrusted(partition.id()).is_some() {
            return Err(self.withdraw_open(partition.id(), VOTES_LOST.to_owned(), false).await);
        }
        Ok(partition)
    }
}
