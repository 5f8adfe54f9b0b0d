//! What another region tells of itself becomes mirrors and ACLs here. Its word counts for its own topics only: a name or id that is taken
//! by anyone else's topic is a conflict, recorded and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use meridian_auth::acl::{ResourceType, Store};
use meridian_replication::catalogue::{Catalogue, CatalogueNode, CatalogueTopic};
use uuid::Uuid;

use super::command::Answer;
use super::image::{Conflict, Image, Topic};
use super::state::{ACLS_MAX, NODES_MAX, PARTITIONS_MAX, TEXT_BYTES_MAX, TOPICS_MAX, check_replicas, insert, invalid};
use super::{topic_config, topic_name};
use crate::config::{is_address, is_name};

pub(super) fn accept(
    image: &mut Image,
    region: &str,
    catalogue: Catalogue,
    replicas: &BTreeMap<Uuid, Vec<Vec<u64>>>,
) -> Result<Answer, Answer> {
    if !is_name(region) || region == image.region {
        return Err(invalid(format!("{region:?} is not another region")));
    }
    if catalogue.topics.len() > TOPICS_MAX || catalogue.acls.len() > ACLS_MAX {
        return Err(invalid(format!("a region tells of at most {TOPICS_MAX} topics and {ACLS_MAX} ACLs")));
    }
    if image.catalogue_versions.get(region).is_some_and(|held| *held >= catalogue.version) {
        return Ok(Answer::Done);
    }
    remove_untold(image, region, &catalogue.topics);
    let mut conflicts = Vec::new();
    let mut told = BTreeSet::new();
    for topic in catalogue.topics {
        let (name, id) = (topic.name.clone(), topic.id);
        let reason = if told.insert(id) { mirror(image, region, topic, replicas.get(&id))? } else { Some("told of twice".to_string()) };
        conflicts.extend(reason.map(|reason| Conflict { name, id, reason }));
    }
    image.conflicts.remove(region);
    if !conflicts.is_empty() {
        image.conflicts.insert(region.to_string(), conflicts);
    }
    let mut acls = Store::default();
    // The cluster is each region's own. Nothing else is sifted: a rule that looks odd here could be a deny there.
    for binding in catalogue.acls.into_iter().filter(|binding| binding.resource != ResourceType::Cluster) {
        acls.add(binding);
    }
    image.acls.insert(region.to_string(), Arc::new(acls));
    image.remote_nodes.insert(region.to_string(), dialable(catalogue.nodes));
    image.catalogue_versions.insert(region.to_string(), catalogue.version);
    Ok(Answer::Done)
}

/// Of the nodes that a region tells of, those with an address that can be dialled from here: one that listens everywhere has told of nowhere.
fn dialable(told: Vec<CatalogueNode>) -> Vec<CatalogueNode> {
    let anywhere = |link: &str| link.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    let possible = |node: &CatalogueNode| node.link.len() <= TEXT_BYTES_MAX && is_address(&node.link) && !anywhere(&node.link);
    let unique: BTreeMap<u64, CatalogueNode> = told.into_iter().filter(possible).map(|node| (node.id, node)).collect();
    unique.into_values().take(NODES_MAX).collect()
}

/// Mirrors of that region which it no longer tells of, or tells of under another name, go first: their names may have been given anew.
fn remove_untold(image: &mut Image, region: &str, told: &[CatalogueTopic]) {
    let told: BTreeMap<Uuid, &str> = told.iter().map(|topic| (topic.id, topic.name.as_str())).collect();
    let goes = |topic: &Topic| topic.home == region && told.get(&topic.id) != Some(&topic.name.as_str());
    if image.topics_by_id.values().any(|topic| goes(topic)) {
        Arc::make_mut(&mut image.topics).retain(|_, topic| !goes(topic));
        Arc::make_mut(&mut image.topics_by_id).retain(|_, topic| !goes(topic));
    }
}

/// Makes or updates one mirror, or says why it cannot be. Only a missing or impossible placement refuses the whole catalogue: the proposer
/// must place again, and nothing may count as accepted until it has.
fn mirror(image: &mut Image, region: &str, told: CatalogueTopic, placed: Option<&Vec<Vec<u64>>>) -> Result<Option<String>, Answer> {
    if let Some(reason) = reason_against(image, region, &told) {
        return Ok(Some(reason));
    }
    let partitions = told.partitions as usize;
    let (mut replicas, moves, moved) =
        image.topics_by_id.get(&told.id).map(|held| (held.partitions.clone(), held.moves.clone(), held.moved.clone())).unwrap_or_default();
    if partitions > replicas.len() {
        let placed = placed.filter(|placed| placed.len() == partitions);
        let placed = placed.ok_or_else(|| invalid(format!("topic {} needs a placement of {partitions} partitions", told.name)))?;
        // Partitions that are here stay where they are.
        check_replicas(image, &placed[replicas.len()..])?;
        replicas.extend_from_slice(&placed[replicas.len()..]);
    }
    // A region of a newer version may set what this one does not know; such a config has no meaning here.
    let configs = told.configs.into_iter().filter(|(name, value)| topic_config::check(region, name, value).is_ok()).collect();
    let mirrors = topic_config::mirrors(region, &configs).map_err(invalid)?;
    let home = region.to_string();
    insert(image, Topic { name: told.name, id: told.id, partitions: replicas, configs, home, mirrors, internal: false, moves, moved });
    Ok(None)
}

fn reason_against(image: &Image, region: &str, told: &CatalogueTopic) -> Option<String> {
    if let Err(error) = topic_name::check(&told.name) {
        return Some(error.to_string());
    }
    if topic_name::is_internal(&told.name) {
        return Some("each region keeps its own".to_string());
    }
    if !usize::try_from(told.partitions).is_ok_and(|partitions| (1..=PARTITIONS_MAX).contains(&partitions)) {
        return Some(format!("{} partitions; 1 to {PARTITIONS_MAX} are possible", told.partitions));
    }
    if told.id.is_nil() {
        return Some("it has no id".to_string());
    }
    if let Some(held) = image.topics.get(&told.name).filter(|held| held.id != told.id) {
        return Some(format!("the name belongs to a topic of region {}", held.home));
    }
    match image.topics_by_id.get(&told.id) {
        None if image.topics.len() >= TOPICS_MAX => Some(format!("this region has {TOPICS_MAX} topics already")),
        None => None,
        Some(held) if held.home != region => Some(format!("the id belongs to topic {} of region {}", held.name, held.home)),
        Some(held) if held.name != told.name => Some(format!("the id belongs to topic {}", held.name)),
        Some(held) if (told.partitions as usize) < held.partitions.len() => Some("a topic's partitions cannot become fewer".to_string()),
        Some(_) => None,
    }
}
