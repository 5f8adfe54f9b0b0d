//! The offsets that a group has committed: what the log holds of them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Group, OFFSETS_MAX};
use crate::groups::record::Committed;

impl Group {
    /// By topic and partition.
    pub fn offsets(&self) -> &BTreeMap<String, BTreeMap<i32, Committed>> {
        &self.offsets
    }

    /// Would the group still hold few enough offsets with these besides?
    pub fn has_room_for<'a>(&self, offsets: impl ExactSizeIterator<Item = (&'a str, i32)>) -> bool {
        let held = self.offsets.values().map(BTreeMap::len).sum::<usize>();
        let is_new = |(topic, partition): &(&str, i32)| !self.offsets.get(*topic).is_some_and(|held| held.contains_key(partition));
        held + offsets.len() <= OFFSETS_MAX || held + offsets.filter(is_new).count() <= OFFSETS_MAX
    }

    /// Takes over a commit that the log holds.
    pub fn committed(&mut self, topic: &str, partition: i32, committed: Committed) {
        self.active_wall_ms = self.active_wall_ms.max(committed.commit_timestamp_ms);
        self.offsets.entry(topic.to_owned()).or_default().insert(partition, committed);
    }

    /// Offsets of a topic that is no more.
    pub fn offsets_of(&self, topic_id: Uuid) -> Vec<(String, i32)> {
        let of_topic = |(name, partitions): (&String, &BTreeMap<i32, Committed>)| {
            let gone = partitions.iter().filter(|(_, committed)| committed.topic_id == topic_id);
            gone.map(|(partition, _)| (name.clone(), *partition)).collect::<Vec<_>>()
        };
        self.offsets.iter().flat_map(of_topic).collect()
    }

    pub fn uncommitted(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.offsets.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.offsets.remove(topic);
            }
        }
    }
}
