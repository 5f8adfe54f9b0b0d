//! Deletes replicas, so that a crash leaves all of one or nothing.
//!
//! A replica is a folder and a few values of the meta log, and neither may outlive the other: values without a folder look like a log that was
//! cut, a folder without its values like lost votes. So a mark comes first, durably, and goes last; whoever finds it finishes the work.

use std::io;
use std::path::Path;

use super::opening::directory;
use super::repairs::aside;
use super::{Node, NodeError, lock, write};
use crate::GroupId;
use crate::env::Env;
use crate::group::storage::{group_of, meta_key, meta_keys};
use crate::writer::Writer;

const KIND: u8 = b'd';

/// The mark of a replica that is being deleted.
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
    let folder = directory(data_dir, id);
    writer.remove_dir(env, aside(&folder)).await?;
    writer.remove_dir(env, folder).await?;
    // In this order they reach the file: a torn tail takes back the last ones.
    let forgotten = meta_keys(id).into_iter().chain([deletion_key(id)]).map(|key| writer.save_meta(key, None));
    futures_util::future::try_join_all(forgotten.collect::<Vec<_>>()).await.map(drop)
}

impl Node {
    /// Stops the group and removes its files, here only.
    pub async fn delete_partition(&self, id: GroupId) -> Result<(), NodeError> {
        let _changing = self.changing(id).await;
        let removed = write(&self.inner.partitions).remove(&id);
        if let Some(partition) = removed {
            partition.group().stop().await;
        }
        self.abandon_repair(id).await;
        lock(&self.inner.heard).remove(&id);
        self.inner.writer.save_meta(deletion_key(id), Some(Vec::new())).await?;
        self.finish_deletion(id).await
    }

    /// Deletes what is left of a replica whose deletion failed halfway, for whoever holds the right to change it.
    pub(super) async fn finish_deletion(&self, id: GroupId) -> Result<(), NodeError> {
        if self.inner.writer.meta(deletion_key(id)).is_some() {
            finish(&self.inner.env, &self.inner.writer, &self.inner.config.data_dir, id).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

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
