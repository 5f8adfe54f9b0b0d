//! The region's metadata as links see them: what other regions are told, who may be sent what, and what becomes of their catalogues.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_auth::acl::{Operation, Request, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::env::Env;
use meridian_raft::node::Node;
use meridian_replication::catalogue::{Catalogue, CatalogueNode, CatalogueTopic, Metadata};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::controller::command::{Answer, Command};
use crate::controller::handle::Controller;
use crate::controller::image::{Image, Topic};
use crate::controller::placement;

/// Replicas of a mirror, where the region has so many nodes.
const MIRROR_REPLICAS: usize = 3;
/// A node that does not lead the controller leaves a catalogue to the leader for so long, plus as much again by chance.
const LEAVE_TO_LEADER: Duration = Duration::from_millis(150);
/// After a refusal or a failure.
const RETRY: Duration = Duration::from_millis(500);

/// [`Metadata`] over the region's controller. Follows it until dropped.
#[derive(Debug)]
pub struct Mesh {
    controller: Controller,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    node_id: u64,
    raft: Node,
    controller: Controller,
    env: Env,
    /// Nodes that the region has by its configuration, registered or not.
    nodes: usize,
    version: watch::Sender<u64>,
    told: Mutex<BTreeMap<String, Told>>,
    news: Notify,
}

/// The newest catalogue that a region told this node.
#[derive(Debug)]
struct Told {
    catalogue: Catalogue,
    /// When this node commits it, if nobody has by then.
    due: Instant,
    /// The one that this region's metadata hold, where this node has seen it: what it only repeats is not committed again.
    held: Option<Catalogue>,
    refused: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mesh {
    pub fn start(node_id: u64, nodes: usize, raft: Node, controller: Controller, env: Env) -> Mesh {
        let version = watch::Sender::new(controller.image().version);
        let (told, news) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { node_id, raft, controller: controller.clone(), env, nodes, version, told, news });
        let task = tokio::spawn(follow(shared.clone())).abort_handle();
        Mesh { controller, shared, task }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Metadata for Mesh {
    fn catalogue_for(&self, region: &str) -> Catalogue {
        let image = self.controller.image();
        let topics = image.topics.values().filter(|topic| is_mirrored_to(&image, topic, region)).map(|topic| CatalogueTopic {
            name: topic.name.clone(),
            id: topic.id,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            configs: topic.configs.clone(),
        });
        let own = image.acls.get(&image.region);
        let acls = own.into_iter().flat_map(|store| store.iter()).filter(|binding| binding.resource != ResourceType::Cluster);
        let nodes = image.nodes.values().map(|node| CatalogueNode { id: node.id, link: node.link.clone() });
        Catalogue { version: image.version, topics: topics.collect(), acls: acls.cloned().collect(), nodes: nodes.collect() }
    }

    fn watch_changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// `mesh.mirrors` names the region, and no ACL denies it. A rule for one host only is not meant for a region.
    fn may_send(&self, topic: Uuid, region: &str) -> bool {
        let image = self.controller.image();
        let Some(topic) = image.topics_by_id.get(&topic).filter(|topic| is_mirrored_to(&image, topic, region)) else { return false };
        let principal = Principal::region(region);
        let request =
            Request { principal: &principal, host: "*", operation: Operation::Read, resource: ResourceType::Topic, name: &topic.name };
        // ACLs that are not here deny.
        image.acls.get(&image.region).is_some_and(|store| !store.denies(&request))
    }

    fn mirrored_from(&self, region: &str) -> Vec<(Uuid, i32)> {
        let image = self.controller.image();
        let homed = image.topics.values().filter(|topic| topic.home == region && topic.home != image.region);
        homed.map(|topic| (topic.id, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))).collect()
    }

    fn nodes_of(&self, region: &str) -> Vec<CatalogueNode> {
        self.controller.image().remote_nodes.get(region).cloned().unwrap_or_default()
    }

    fn accept(&self, region: &str, catalogue: Catalogue) {
        let shared = &self.shared;
        let mut told = lock(&shared.told);
        let held = match told.remove(region) {
            Some(known) if known.catalogue.version >= catalogue.version => {
                told.insert(region.to_owned(), known);
                return;
            }
            Some(known) => known.held,
            None => None,
        };
        let due = Instant::now() + shared.courtesy();
        told.insert(region.to_owned(), Told { catalogue, due, held, refused: false });
        drop(told);
        shared.news.notify_one();
    }
}

fn is_mirrored_to(image: &Image, topic: &Topic, region: &str) -> bool {
    topic.home == image.region && topic.mirrors.iter().any(|mirror| mirror == region)
}

impl Shared {
    /// How long to leave a catalogue to the others: nine nodes hear of it at once, one commit is enough.
    fn courtesy(&self) -> Duration {
        if self.controller.leader() == Some(self.node_id) {
            return Duration::ZERO;
        }
        LEAVE_TO_LEADER.mul_f64(1.0 + (self.env.random.next_u64() % 1024) as f64 / 1024.0)
    }

    /// Regions whose catalogue is due, and when the next one will be.
    fn due(&self, image: &Image) -> (Vec<(String, Catalogue)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (region, told) in lock(&self.told).iter_mut() {
            let version = image.catalogue_versions.get(region).copied();
            if version >= Some(told.catalogue.version) {
                if version == Some(told.catalogue.version) {
                    told.held = Some(told.catalogue.clone());
                }
                continue;
            }
            let repeats = told.held.as_ref().is_some_and(|held| version == Some(held.version) && held.repeats(&told.catalogue));
            if repeats {
                continue;
            }
            if told.due <= Instant::now() {
                due.push((region.clone(), told.catalogue.clone()));
            } else {
                next = Some(next.map_or(told.due, |next| next.min(told.due)));
            }
        }
        (due, next)
    }

    async fn commit(&self, image: &Image, region: &str, catalogue: Catalogue) {
        let version = catalogue.version;
        let failure = match place_new(image, &self.raft.live_nodes(), self.nodes, &catalogue.topics) {
            Some(replicas) => {
                let command = Command::AcceptCatalogue { region: region.to_owned(), catalogue, replicas };
                match self.controller.submit(command).await {
                    Ok(Answer::Done) => return tracing::info!(region, version, "another region's catalogue is taken in"),
                    Ok(answer) => format!("{answer:?}"),
                    Err(error) => error.to_string(),
                }
            }
            None => "too few nodes of this region are registered".to_owned(),
        };
        let mut told = lock(&self.told);
        let Some(told) = told.get_mut(region) else { return };
        told.due = Instant::now() + RETRY;
        if !std::mem::replace(&mut told.refused, true) {
            tracing::warn!(region, version, failure, "another region's catalogue cannot be taken in yet");
        }
    }
}

/// A placement for each topic, or each of its partitions, that is new here. None while the region's nodes are not known yet.
fn place_new(image: &Image, live: &[u64], nodes: usize, topics: &[CatalogueTopic]) -> Option<BTreeMap<Uuid, Vec<Vec<u64>>>> {
    let replicas = MIRROR_REPLICAS.min(nodes);
    let registered: Vec<u64> = image.nodes.keys().filter(|node| !image.draining.contains(node)).copied().collect();
    if registered.len() < replicas {
        return None;
    }
    let live: Vec<u64> = registered.iter().filter(|node| live.contains(node)).copied().collect();
    // A node that is down now will catch up; a mirror with too few replicas would stay one.
    let candidates = image.candidates(if live.len() < replicas { &registered } else { &live });
    let mut start = image.topics.values().map(|topic| topic.partitions.len()).sum();
    let mut placed = BTreeMap::new();
    for topic in topics {
        let held = image.topics_by_id.get(&topic.id).map_or(0, |topic| topic.partitions.len());
        let Some(partitions) = usize::try_from(topic.partitions).ok().filter(|partitions| *partitions > held) else { continue };
        // An impossible number of partitions becomes a conflict when the catalogue is taken in.
        if let Ok(placement) = placement::place(&candidates, partitions, replicas, start) {
            placed.insert(topic.id, placement);
            start += partitions;
        }
    }
    Some(placed)
}

async fn follow(shared: Arc<Shared>) {
    // Side by side: while a commit waits for a leader, links still learn of each change.
    tokio::join!(tell_links(&shared), take_in(&shared));
}

async fn tell_links(shared: &Shared) {
    let mut images = shared.controller.watch();
    loop {
        shared.version.send_replace(images.borrow_and_update().version);
        if images.changed().await.is_err() {
            return;
        }
    }
}

/// Commits what other regions tell of themselves.
async fn take_in(shared: &Shared) {
    let mut images = shared.controller.watch();
    loop {
        let image = images.borrow_and_update().clone();
        let (due, next) = shared.due(&image);
        for (region, catalogue) in &due {
            shared.commit(&image, region, catalogue.clone()).await;
        }
        if !due.is_empty() {
            continue;
        }
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            () = shared.news.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::image::NodeRecord;

    fn image(nodes: &[u64]) -> Image {
        let record = |id: u64| NodeRecord {
            id,
            host: "localhost".to_owned(),
            port: 9092,
            admin: "localhost:1".to_owned(),
            link: "localhost:2".to_owned(),
            rack: None,
            peer: None,
        };
        Image { nodes: nodes.iter().map(|id| (*id, record(*id))).collect(), ..Image::default() }
    }

    fn topic(id: u128, partitions: i32) -> CatalogueTopic {
        CatalogueTopic { name: format!("t{id}"), id: Uuid::from_u128(id), partitions, configs: BTreeMap::new() }
    }

    #[test]
    fn nothing_is_placed_before_the_nodes_are_registered() {
        assert_eq!(place_new(&image(&[1]), &[1, 2, 3], 3, &[topic(1, 1)]), None);
    }

    #[test]
    fn a_dead_node_gets_no_replica_where_enough_live_and_does_where_not() {
        let placed = place_new(&image(&[1, 2, 3, 4]), &[1, 2, 4], 4, &[topic(1, 4)]).expect("nodes");
        assert!(placed[&Uuid::from_u128(1)].iter().flatten().all(|node| *node != 3));
        let placed = place_new(&image(&[1, 2, 3]), &[1, 2], 3, &[topic(1, 1)]).expect("nodes");
        assert_eq!(placed[&Uuid::from_u128(1)][0].len(), 3);
    }

    #[test]
    fn an_impossible_topic_is_left_out_and_the_others_are_placed() {
        let placed = place_new(&image(&[1]), &[1], 1, &[topic(1, -5), topic(2, 1 << 30), topic(3, 2)]).expect("nodes");
        assert_eq!(placed.keys().copied().collect::<Vec<_>>(), [Uuid::from_u128(3)]);
    }
}
