//! Deletes replicas, so that a crash leaves all of one or nothing, and so that what one had promised outlives it.
//!
//! A replica is a folder and a few values of the meta log, and neither may outlive the other: values without a folder look like a log that was
//! cut, a folder without its values like lost votes. So a mark comes first, durably, and goes last; whoever finds it finishes the work.
//!
//! *A replica that leaves keeps its word.* Where a partition has moved away and later comes back, its group takes this node for the voter that
//! it was: somebody who has heard nothing since may still lead, or stand for election, by the voters of then. Had this node forgotten that
//! it voted in a later term, the old leader would commit with it what nobody else knows; had it forgotten how much it had acknowledged, it
//! would elect, by the old voters, a node that lacks what they had committed: their own dismissal, say. So its vote stays, and where its log
//! ended. A new replica here helps to elect nobody whose log ends before that, and does not stand itself, until its own log reaches as far.
//! That is all that the old log would have done for the group. A replica that was under repair when it left does not know what
//! it had promised: its mark stays, and its successor is repaired before it takes part. One that made good a loss of votes before it left need not
//! do so again: what it was told stays with its vote. Of a topic that is gone nothing is kept.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::losses::trusted_key;
use super::opening::{directory, group_named};
use super::repairs::aside;
use super::{Node, NodeError, write};
use crate::GroupId;
use crate::env::Env;
use crate::group::farewell::{FAREWELL_KIND, Farewell, farewell_key};
use crate::group::votes::{group_of, meta_key, meta_keys, vote_key};
use crate::log::{Log, LogSettings, Place, Rolling};
use crate::repair::{mark, mark_key, set_mark};
use crate::writer::Writer;

const KIND: u8 = b'd';

/// The mark of a replica that is being deleted: the farewell that is to be kept of it, empty where none is.
fn deletion_key(group: GroupId) -> Vec<u8> {
    meta_key(KIND, group)
}

/// Finishes what an earlier life began, before anything is opened.
pub(super) async fn finish_all(env: &Env, writer: &Writer, data_dir: &Path) -> io::Result<()> {
    for id in writer.meta_keys(KIND).iter().filter_map(|key| group_of(key)) {
        finish(env, writer, data_dir, id).await?;
    }
    Ok(())
}

async fn finish(env: &Env, writer: &Writer, data_dir: &Path, id: GroupId) -> io::Result<()> {
    let Some(farewell) = writer.meta(deletion_key(id)) else { return Ok(()) };
    let folder = directory(data_dir, id);
    writer.remove_dir(env, aside(&folder)).await?;
    writer.remove_dir(env, folder).await?;
    let kept: Vec<Vec<u8>> =
        if farewell.is_empty() { Vec::new() } else { vec![farewell_key(id), vote_key(id), mark_key(id), trusted_key(id)] };
    // In this order they reach the file: a torn tail takes back the last ones.
    let mut changes: Vec<_> = kept.first().map(|key| writer.save_meta(key.clone(), Some(farewell))).into_iter().collect();
    let forgotten = meta_keys(id).into_iter().filter(|key| !kept.contains(key)).chain([deletion_key(id)]);
    changes.extend(forgotten.map(|key| writer.save_meta(key, None)));
    futures_util::future::try_join_all(changes).await.map(drop)
}

impl Node {
    /// Stops the group and removes all that is of it, here only. For a topic that is gone: see [`Node::leave_partition`].
    pub async fn delete_partition(&self, id: GroupId) -> Result<(), NodeError> {
        let _changing = self.changing(id).await;
        self.close(id).await;
        self.inner.writer.save_meta(deletion_key(id), Some(Vec::new())).await?;
        self.finish_deletion(id).await
    }

    /// Stops the group and removes its files here, where the partition has moved away; what the replica had promised is kept.
    pub async fn leave_partition(&self, id: GroupId) -> Result<(), NodeError> {
        let _changing = self.changing(id).await;
        let last = self.close(id).await;
        if self.inner.env.mutations().forgotten_farewells {
            self.inner.writer.save_meta(deletion_key(id), Some(Vec::new())).await?;
            return self.finish_deletion(id).await;
        }
        let farewell = match last {
            Some(last) => last,
            None => self.last_words(id).await?,
        };
        self.inner.writer.save_meta(deletion_key(id), Some(farewell.encode())).await?;
        self.finish_deletion(id).await
    }

    /// Folders of partitions that are neither open nor being repaired: they moved away, or their topics went, while this node was down.
    pub fn orphans(&self) -> io::Result<BTreeSet<GroupId>> {
        let (disk, logs) = (&self.inner.env.disk, self.inner.config.data_dir.join("logs"));
        if !disk.exists(&logs) {
            return Ok(BTreeSet::new());
        }
        let names = disk.list(&logs)?.into_iter().filter_map(|path| group_named(path.file_name()?.to_str()?));
        Ok(names.filter(|id| *id != GroupId::CONTROLLER && self.partition(*id).is_none() && !self.is_being_repaired(*id)).collect())
    }

    /// Partitions that have left this node, and of which something is kept.
    pub fn departed(&self) -> BTreeSet<GroupId> {
        let keys = self.inner.writer.meta_keys(FAREWELL_KIND);
        keys.iter().filter_map(|key| group_of(key)).filter(|id| self.partition(*id).is_none()).collect()
    }

    /// Ends the group and whatever repairs it. Where its log ended, if it was open.
    async fn close(&self, id: GroupId) -> Option<Farewell> {
        let removed = write(&self.inner.partitions).remove(&id);
        let mut last = None;
        if let Some(partition) = removed {
            let group = partition.group().clone();
            group.stop().await;
            // An earlier farewell that it has not made good yet says more.
            last = Some(Farewell(group.log().last().max(group.bound_by())));
        }
        self.abandon_repair(id).await;
        last
    }

    /// What a replica that was not open had promised. One that is to be repaired does not know; its mark says so.
    async fn last_words(&self, id: GroupId) -> io::Result<Farewell> {
        let kept = Farewell::of(&self.inner.writer, id);
        let folder = self.directory(id);
        if mark(&self.inner.writer, id).is_some() || self.distrusted(id).is_some() || !self.inner.env.disk.exists(&folder) {
            return Ok(kept);
        }
        let purged = crate::group::snapshot::Snapshots::new(id, self.inner.writer.clone()).purged()?;
        let settings = LogSettings { group: id, rolling: Rolling::DEFAULT };
        let place = Place { env: &self.inner.env, writer: &self.inner.writer, memory: &self.inner.memory };
        match Log::open_behind(place, &folder, settings, purged) {
            Ok(log) => Ok(Farewell(log.last().max(kept.0))),
            Err(error) => set_mark(&self.inner.writer, id, &error.to_string()).await.map(|()| kept),
        }
    }

    /// Deletes what is left of a replica whose deletion failed halfway, for whoever holds the right to change it.
    pub(super) async fn finish_deletion(&self, id: GroupId) -> Result<(), NodeError> {
        Ok(finish(&self.inner.env, &self.inner.writer, &self.inner.config.data_dir, id).await?)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::log::LogPosition;

    #[tokio::test]
    async fn a_replica_that_leaves_keeps_its_vote_and_where_its_log_ended() {
        let (folder, env) = (tempfile::tempdir().expect("a folder"), Env::real());
        let id = GroupId { topic: Uuid::from_u128(3), partition: 0 };
        let farewell = Farewell(Some(LogPosition { term: 4, index: 17 }));
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        for key in meta_keys(id) {
            writer.save_meta(key, Some(vec![7])).await.expect("saved");
        }
        writer.save_meta(deletion_key(id), Some(farewell.encode())).await.expect("saved");
        finish_all(&env, &writer, folder.path()).await.expect("finished");
        assert_eq!(Farewell::of(&writer, id), farewell);
        let left: Vec<Vec<u8>> = meta_keys(id).into_iter().filter(|key| writer.meta(key.clone()).is_some()).collect();
        // With the vote goes that it is sound: otherwise it would have to be asked for again, perhaps of a node that asks for this one's word.
        assert_eq!(left, [vote_key(id), mark_key(id), trusted_key(id), farewell_key(id)]);
        writer.save_meta(deletion_key(id), Some(Vec::new())).await.expect("saved");
        finish_all(&env, &writer, folder.path()).await.expect("finished");
        assert!(meta_keys(id).into_iter().all(|key| writer.meta(key).is_none()), "its topic is gone");
    }

    #[tokio::test]
    async fn a_deletion_that_a_crash_cut_short_is_finished_and_touches_nothing_else() {
        let (folder, env) = (tempfile::tempdir().expect("a folder"), Env::real());
        let group = |partition| GroupId { topic: Uuid::from_u128(3), partition };
        let path = |id| directory(folder.path(), id).join("00000000000000000000.log");
        let writer = Writer::start(&env, folder.path()).expect("a writer");
        for id in [group(0), group(1)] {
            std::fs::create_dir_all(directory(folder.path(), id)).expect("made");
            std::fs::write(path(id), b"frames").expect("written");
            for key in meta_keys(id) {
                writer.save_meta(key, Some(vec![7])).await.expect("saved");
            }
        }
        writer.save_meta(deletion_key(group(0)), Some(Vec::new())).await.expect("saved");
        writer.stop().await;
        let writer = Writer::start(&env, folder.path()).expect("a writer again");
        finish_all(&env, &writer, folder.path()).await.expect("finished");
        assert!(!path(group(0)).exists() && path(group(1)).exists());
        assert!(meta_keys(group(0)).into_iter().chain([deletion_key(group(0))]).all(|key| writer.meta(key).is_none()));
        assert!(meta_keys(group(1)).into_iter().all(|key| writer.meta(key).is_some()));
    }
}
