//! The damaged replicas of a node: closed, marked, mended, opened again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::losses::trusted_key;
use super::trust::gone;
use super::{CONTROLLER_ROLLING, Node, NodeError, NodeWeak, lock, write};
use crate::GroupId;
use crate::log::{LogError, Rolling};
use crate::partition::PartitionSpec;
use crate::repair::task::Task;
use crate::repair::{self, DamagedReplica, Progress, Repair, RepairStats};

/// How long a damaged leader waits for another to take over, before it stops leading anyway.
const STEP_DOWN_DEADLINE: Duration = Duration::from_millis(300);

/// Takes a running replica out of its group as soon as its log is found damaged.
pub(super) async fn withdraw_when_damaged(node: NodeWeak, mut damage: watch::Receiver<Option<String>>, id: GroupId, log: u64) {
    // A log that is closed will not be found damaged any more.
    let Ok(found) = damage.wait_for(Option::is_some).await.map(|found| found.clone()) else { return };
    let Some(node) = node.upgrade() else { return };
    // Whoever opens it just now has it entered first.
    let _changing = node.changing(id).await;
    // Whoever still read a log whose replica has left finds its files gone. That says nothing of another one that has been opened since.
    if node.open_group(id).is_some_and(|group| group.log().number() == log) {
        node.withdraw_open(id, found.unwrap_or_default(), true).await;
    }
}

/// Where the damaged files of a log are kept.
pub(super) fn aside(directory: &Path) -> PathBuf {
    directory.with_extension("damaged")
}

/// Why a replica whose bytes are sound takes no part.
pub(super) const VOTES_LOST: &str = "this node has lost votes, and may have lost entries";

impl Node {
    /// Ends the part in its group of a replica that is not to be believed though its bytes are sound, and begins its repair.
    pub(super) async fn withdraw(&self, id: GroupId, reason: String) {
        // Whoever opens it just now has it entered first.
        let _changing = self.changing(id).await;
        self.withdraw_open(id, reason, false).await;
    }

    /// The same of any unfit replica, for whoever holds the right to change it. Says what the repair is about.
    pub(super) async fn withdraw_open(&self, id: GroupId, reason: String, damaged: bool) -> NodeError {
        let Some(group) = self.open_group(id) else { return NodeError::Damaged(reason) };
        // First of all, so that no crash brings it back as it is.
        if damaged && let Err(error) = repair::set_mark(&self.inner.writer, id, &reason).await {
            tracing::error!(topic = %id.topic, partition = id.partition, %error, reason, "a damaged replica cannot be marked");
        }
        // Another leader goes on without a pause. Where the group has ended over the damage already, this fails at once.
        group.transfer(STEP_DOWN_DEADLINE, &std::collections::BTreeSet::new()).await;
        if id == GroupId::CONTROLLER {
            // The host holds on to its handle. The failure that this node reports from now on has it restarted, and the log mended first.
            tracing::error!(reason, "the controller's replica is damaged: this node has to be restarted");
            group.stop().await;
            return NodeError::Damaged(reason);
        }
        let Some(partition) = write(&self.inner.partitions).remove(&id) else { return NodeError::Damaged(reason) };
        partition.group().stop().await;
        self.quarantine(partition.spec().clone(), reason, damaged).await
    }

    /// Replicas that take no part in their groups until they have been repaired.
    pub fn damaged(&self) -> Vec<DamagedReplica> {
        lock(&self.inner.repairs).iter().map(|(id, repair)| repair.seen(*id)).collect()
    }

    pub fn is_being_repaired(&self, id: GroupId) -> bool {
        lock(&self.inner.repairs).contains_key(&id)
    }

    pub fn repair_stats(&self) -> RepairStats {
        self.inner.repair_counters.stats()
    }

    /// The most that one replica's repair takes from its peers.
    pub fn limit_repairs(&self, bytes_per_s: u64) {
        self.inner.repair_counters.bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
    }

    fn aside(&self, id: GroupId) -> PathBuf {
        aside(&self.directory(id))
    }

    /// Refuses to open what is being repaired, or has to be since an earlier life of this process.
    pub(super) async fn refuse_damaged(&self, spec: &PartitionSpec) -> Result<(), NodeError> {
        if let Some(repair) = lock(&self.inner.repairs).get(&spec.id) {
            return Err(NodeError::Damaged(repair.reason.clone()));
        }
        match self.unfit(spec.id) {
            Some((reason, damaged)) => Err(self.quarantine(spec.clone(), reason, damaged).await),
            None => Ok(()),
        }
    }

    /// Why a replica takes no part, if it does not, and whether its own bytes are at fault.
    pub(super) fn unfit(&self, id: GroupId) -> Option<(String, bool)> {
        let damaged = repair::mark(&self.inner.writer, id).map(|reason| (reason, true));
        damaged.or_else(|| self.distrusted(id).map(|_| (VOTES_LOST.to_owned(), false)))
    }

    /// Whether the log's own bytes are at fault. Where the vote is, every group of the node has lost its own.
    pub(super) async fn is_damage(&self, error: &LogError) -> io::Result<bool> {
        let votes_lost = matches!(error, LogError::VoteLost { .. });
        if votes_lost {
            self.lose_votes(0, "the meta log is older than a log").await?;
        }
        Ok(!votes_lost)
    }

    /// Marks a replica that is not running as damaged, and begins its repair; what to answer whoever wanted to open it.
    pub(super) async fn quarantine(&self, spec: PartitionSpec, reason: String, damaged: bool) -> NodeError {
        let id = spec.id;
        if damaged && let Err(error) = repair::set_mark(&self.inner.writer, id, &reason).await {
            return error.into();
        }
        tracing::error!(topic = %id.topic, partition = id.partition, reason, "a replica takes no part until its peers have repaired it");
        self.inner.repair_counters.found.fetch_add(1, Ordering::Relaxed);
        let (task, repair, cancelled, ended) = self.repair(id, spec.replicas.clone(), spec.settings.rolling, &reason, damaged);
        lock(&self.inner.repairs).insert(id, repair);
        let weak = NodeWeak(Arc::downgrade(&self.inner));
        self.inner.runtime.spawn(async move {
            let mended = task.run(cancelled).await;
            drop(ended);
            if let Some(node) = weak.upgrade().filter(|_| mended) {
                node.open_again(spec, task.lost).await;
            }
        });
        NodeError::Damaged(reason)
    }

    fn repair(
        &self,
        id: GroupId,
        founders: Vec<u64>,
        rolling: Rolling,
        reason: &str,
        damaged: bool,
    ) -> (Task, Repair, watch::Receiver<bool>, oneshot::Sender<()>) {
        let progress = Arc::<Progress>::default();
        let lost = self.distrusted(id);
        let task = Task {
            env: self.inner.env.clone(),
            writer: self.inner.writer.clone(),
            memory: self.inner.memory.clone(),
            peers: self.inner.peers.clone(),
            node: NodeWeak(Arc::downgrade(&self.inner)),
            node_id: self.inner.config.node_id,
            group: id,
            damaged,
            lost,
            gone: gone(&self.inner.writer, lost),
            began: Instant::now(),
            founders,
            directory: self.directory(id),
            aside: self.aside(id),
            rolling,
            counters: self.inner.repair_counters.clone(),
            progress: progress.clone(),
        };
        let (cancel, cancelled) = watch::channel(false);
        let (ended, end) = oneshot::channel();
        (task, Repair { reason: reason.to_owned(), progress, cancel, end }, cancelled, ended)
    }

    /// Boxed, because opening may begin a repair.
    fn open_again(&self, spec: PartitionSpec, lost: Option<u64>) -> BoxFuture<'static, ()> {
        let (node, id) = (self.clone(), spec.id);
        async move {
            match node.unmark(id, lost).await {
                Ok(true) => {}
                // Deleted meanwhile.
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(topic = %id.topic, partition = id.partition, %error, "a repaired replica stays closed");
                    return;
                }
            }
            match node.open_partition(spec).await {
                Ok(_) => node.repaired(id).await,
                Err(error) => {
                    tracing::error!(topic = %id.topic, partition = id.partition, %error, "a repaired replica cannot be opened");
                }
            }
        }
        .boxed()
    }

    /// False where the replica was deleted, and its mark with it.
    async fn unmark(&self, id: GroupId, lost: Option<u64>) -> io::Result<bool> {
        let _changing = self.changing(id).await;
        if lock(&self.inner.repairs).remove(&id).is_none() {
            return Ok(false);
        }
        self.clear(id, lost).await.map(|()| true)
    }

    /// From now on the replica is as good as any other, also after a crash.
    async fn clear(&self, id: GroupId, lost: Option<u64>) -> io::Result<()> {
        if let Some(life) = lost {
            self.inner.writer.save_meta(trusted_key(id), Some(life.to_be_bytes().to_vec())).await?;
        }
        self.inner.writer.save_meta(repair::mark_key(id), None).await?;
        self.inner.repair_counters.repaired.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What was kept of the damage is no longer needed: the log has been read whole since.
    async fn repaired(&self, id: GroupId) {
        tracing::info!(topic = %id.topic, partition = id.partition, "a damaged replica has been repaired");
        if let Err(error) = self.inner.writer.remove_dir(&self.inner.env, self.aside(id)).await {
            tracing::warn!(topic = %id.topic, partition = id.partition, %error, "the damaged files stay");
        }
    }

    /// Mends the controller's log before it is opened; returns when its group can be started.
    pub(super) async fn mend_controller(&self, reason: String, damaged: bool) -> Result<(), NodeError> {
        let id = GroupId::CONTROLLER;
        if damaged {
            repair::set_mark(&self.inner.writer, id, &reason).await?;
        }
        tracing::error!(reason, "the controller's replica is damaged: this node waits until its peers have repaired it");
        self.inner.repair_counters.found.fetch_add(1, Ordering::Relaxed);
        let voters = self.inner.config.peers.keys().copied().collect();
        let (task, repair, cancelled, _ended) = self.repair(id, voters, CONTROLLER_ROLLING, &reason, damaged);
        lock(&self.inner.repairs).insert(id, repair);
        let mended = task.run(cancelled).await;
        lock(&self.inner.repairs).remove(&id);
        if !mended {
            return Err(NodeError::Damaged(reason));
        }
        self.clear(id, task.lost).await?;
        self.repaired(id).await;
        Ok(())
    }

    /// Ends a replica's repair, if there is one, before its files go.
    pub(super) async fn abandon_repair(&self, id: GroupId) {
        let repair = lock(&self.inner.repairs).remove(&id);
        if let Some(Repair { cancel, end, .. }) = repair {
            cancel.send_replace(true);
            // Ends without a word.
            let _ = end.await;
        }
    }

    pub(super) fn cancel_repairs(&self) {
        lock(&self.inner.repairs).values().for_each(|repair| {
            repair.cancel.send_replace(true);
        });
    }
}
