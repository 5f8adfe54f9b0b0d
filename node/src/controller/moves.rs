//! Partitions that move to other nodes, and nodes that come and go: the metadata's side of it. What is decided here the leaders of the
//! partitions carry out; [`finish`] records that one has.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::command::{Answer, MoveRefusal, PartitionMove};
use super::image::{Image, Move, Topic};
use super::state::{PARTITIONS_MAX, REPLICAS_MAX, insert, invalid};

/// Most partitions told to move by one command.
pub const MOVES_MAX: usize = PARTITIONS_MAX;

/// Sets, changes or takes back the targets of partitions. Each is decided for itself.
pub(super) fn start(image: &mut Image, moves: Vec<PartitionMove>) -> Result<Answer, Answer> {
    if moves.len() > MOVES_MAX {
        return Err(invalid(format!("at most {MOVES_MAX} partitions can be told to move at once, not {}", moves.len())));
    }
    let refusals = moves.into_iter().map(|wanted| start_one(image, wanted).err()).collect();
    Ok(Answer::Moves { refusals })
}

fn start_one(image: &mut Image, wanted: PartitionMove) -> Result<(), MoveRefusal> {
    let PartitionMove { topic, partition, target } = wanted;
    let mut topic = held(image, topic, partition).ok_or(MoveRefusal::UnknownPartition)?;
    let Some(target) = target else {
        if !topic.cancel_move(partition) {
            return Err(MoveRefusal::NothingToCancel);
        }
        insert(image, topic);
        return Ok(());
    };
    check_target(image, &target).map_err(|message| MoveRefusal::Impossible { message })?;
    topic.start_move(partition, target);
    insert(image, topic);
    Ok(())
}

fn held(image: &Image, topic: Uuid, partition: i32) -> Option<Topic> {
    let topic = image.topics_by_id.get(&topic)?;
    topic.replicas(partition).is_some().then(|| Topic::clone(topic))
}

fn check_target(image: &Image, target: &[u64]) -> Result<(), String> {
    if target.is_empty() || target.len() > REPLICAS_MAX {
        return Err(format!("a partition has 1 to {REPLICAS_MAX} replicas, not {}", target.len()));
    }
    if let Some(unknown) = target.iter().find(|node| !image.nodes.contains_key(node)) {
        return Err(format!("node {unknown} is not registered"));
    }
    if target.iter().collect::<BTreeSet<_>>().len() != target.len() {
        return Err("a node is named twice".to_string());
    }
    Ok(())
}

/// The partition's group has committed these voters and no others. A report that comes late, of a target that is not asked for any more,
/// changes nothing.
pub(super) fn finish(image: &mut Image, topic: Uuid, partition: i32, target: &[u64]) -> Result<Answer, Answer> {
    let Some(mut topic) = held(image, topic, partition) else { return Ok(Answer::Done) };
    if topic.moves.get(&partition).is_some_and(|under_way| under_way.target == target) {
        topic.finish_move(partition);
        insert(image, topic);
    }
    Ok(Answer::Done)
}

/// Lets a node that is not of the region, or was taken out of it, join.
pub(super) fn admit(image: &mut Image, id: u64) -> Result<Answer, Answer> {
    if i32::try_from(id).is_err() {
        return Err(invalid(format!("node id {id} is above {}", i32::MAX)));
    }
    if image.nodes.contains_key(&id) {
        return Err(invalid(format!("node {id} belongs to the region already")));
    }
    image.removed.remove(&id);
    image.admitted.insert(id);
    if image.admitted.len() > super::state::NODES_MAX {
        return Err(invalid("too many nodes are admitted and have not come"));
    }
    Ok(Answer::Done)
}

/// From now on a node is to hold nothing, or may again.
pub(super) fn drain(image: &mut Image, id: u64, drain: bool) -> Result<Answer, Answer> {
    if !image.nodes.contains_key(&id) {
        return Err(invalid(format!("node {id} does not belong to the region")));
    }
    if !drain {
        image.draining.remove(&id);
        take_back(image, id);
        return Ok(Answer::Done);
    }
    image.draining.insert(id);
    let left = image.nodes.keys().filter(|node| !image.draining.contains(node)).count();
    if let Some((topic, needed)) = widest(image, id).filter(|(_, needed)| *needed > left) {
        let message = format!("topic {topic} keeps {needed} replicas, and only {left} nodes would be left for them: add a node first");
        return Err(invalid(message));
    }
    Ok(Answer::Done)
}

/// The topic with most replicas on that node.
fn widest(image: &Image, id: u64) -> Option<(String, usize)> {
    let of = |topic: &Topic| topic.partitions.iter().filter(|replicas| replicas.contains(&id)).map(Vec::len).max();
    let wide = image.topics.values().filter_map(|topic| Some((topic.name.clone(), of(topic)?)));
    wide.max_by_key(|(_, replicas)| *replicas)
}

/// Moves that were to clear this node go back to where they came from.
fn take_back(image: &mut Image, id: u64) {
    let topics: Vec<Topic> = image.topics.values().filter(|topic| !topic.moves.is_empty()).map(|topic| Topic::clone(topic)).collect();
    for mut topic in topics {
        let leaves = |(partition, under_way): (&i32, &Move)| {
            let held = topic.replicas(*partition).is_some_and(|replicas| replicas.contains(&id));
            (held && !under_way.target.contains(&id)).then_some(*partition)
        };
        let leaving: Vec<i32> = topic.moves.iter().filter_map(leaves).collect();
        for partition in leaving {
            topic.cancel_move(partition);
        }
        insert(image, topic);
    }
}

/// Takes a node out of the region. A node that holds something is taken out only by force, and only where the others can go on without it.
pub(super) fn remove(image: &mut Image, id: u64, force: bool) -> Result<Answer, Answer> {
    if !image.nodes.contains_key(&id) {
        return Err(invalid(format!("node {id} does not belong to the region")));
    }
    if image.nodes.len() == 1 {
        return Err(invalid(format!("node {id} is the region's last")));
    }
    let held: Vec<(&Topic, i32)> =
        image.topics.values().flat_map(|topic| topic.on_node(id).map(move |partition| (&**topic, partition))).collect();
    if !force && !held.is_empty() {
        return Err(invalid(format!("node {id} holds {} replicas: drain it first", held.len())));
    }
    if let Some((topic, partition)) = held.iter().find(|(topic, partition)| !keeps_majority(image, topic, *partition, id)) {
        return Err(invalid(format!("{}-{partition} would be left without a majority of its replicas", topic.name)));
    }
    image.nodes.remove(&id);
    image.node_configs.remove(&id);
    image.draining.remove(&id);
    image.removed.insert(id);
    Ok(Answer::Done)
}

/// Without that node, and without those that were removed before, most replicas are left.
fn keeps_majority(image: &Image, topic: &Topic, partition: i32, id: u64) -> bool {
    let Some(replicas) = topic.replicas(partition).filter(|replicas| replicas.contains(&id)) else { return true };
    let left = replicas.iter().filter(|node| **node != id && image.nodes.contains_key(node)).count();
    left * 2 > replicas.len()
}

impl Topic {
    pub fn replicas(&self, partition: i32) -> Option<&Vec<u64>> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    /// Nodes that have, or may have, a replica: while a partition moves, the old ones and all that it was ever told to move to.
    pub fn hosts(&self, partition: i32) -> BTreeSet<u64> {
        let under_way = self.moves.get(&partition).into_iter().flat_map(|under_way| &under_way.hosts);
        self.replicas(partition).into_iter().flatten().chain(under_way).copied().collect()
    }

    /// The replicas as Kafka lists them: while a partition moves, those to be, and behind them those that will go.
    pub fn listed(&self, partition: i32) -> Vec<u64> {
        let Some(under_way) = self.moves.get(&partition) else { return self.replicas(partition).cloned().unwrap_or_default() };
        let going = under_way.hosts.iter().filter(|node| !under_way.target.contains(node));
        under_way.target.iter().chain(going).copied().collect()
    }

    /// Those that form the partition's group where that has never happened; nobody once it has moved.
    pub fn founders(&self, partition: i32) -> &[u64] {
        if self.moved.contains(&partition) { &[] } else { self.replicas(partition).map_or(&[], Vec::as_slice) }
    }

    /// Its partitions that have, or may have, a replica on a node.
    pub fn on_node(&self, id: u64) -> impl Iterator<Item = i32> {
        (0i32..).zip(&self.partitions).map(|(partition, _)| partition).filter(move |partition| self.hosts(*partition).contains(&id))
    }

    fn start_move(&mut self, partition: i32, target: Vec<u64>) {
        if !self.moves.contains_key(&partition) && self.replicas(partition) == Some(&target) {
            return;
        }
        let hosts = self.hosts(partition).into_iter().chain(target.iter().copied()).collect();
        self.moves.insert(partition, Move { target, hosts });
    }

    /// The group may be anywhere between its old and its new voters: it is told to go back, and says when it is there.
    fn cancel_move(&mut self, partition: i32) -> bool {
        let Some(replicas) = self.replicas(partition).cloned() else { return false };
        let Some(under_way) = self.moves.get_mut(&partition) else { return false };
        under_way.target = replicas;
        true
    }

    fn finish_move(&mut self, partition: i32) {
        let Some(done) = self.moves.remove(&partition) else { return };
        if let Some(replicas) = usize::try_from(partition).ok().and_then(|partition| self.partitions.get_mut(partition)) {
            *replicas = done.target;
            self.moved.insert(partition);
        }
    }
}

/// How many replicas each node has, moves counted where they go. Nodes without any are not listed.
pub fn load(image: &Image) -> BTreeMap<u64, usize> {
    let mut load = BTreeMap::new();
    for topic in image.topics.values() {
        for (partition, replicas) in (0i32..).zip(&topic.partitions) {
            let there = topic.moves.get(&partition).map_or(replicas, |under_way| &under_way.target);
            there.iter().for_each(|node| *load.entry(*node).or_default() += 1);
        }
    }
    load
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
