//! The step from one image to the next. Every node applies the same commands in the same order and must come to the same image: nothing
//! here may ask a clock, a random number or this node's own settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_auth::acl::{Binding, CLUSTER_NAME, Filter, PatternType, ResourceType, Store};
use meridian_auth::principal::Principal;
use uuid::Uuid;

use super::command::{Answer, Command, ConfigChange};
use super::image::{Image, NodeRecord, Topic};
use super::{moves, node_config, saved, topic_config, topic_name};

/// Most partitions of one topic.
pub const PARTITIONS_MAX: usize = 10_000;
/// Most replicas of one partition.
pub const REPLICAS_MAX: usize = 9;
/// Most nodes of a region.
pub const NODES_MAX: usize = 1_000;
/// Most topics of a region, mirrors included.
pub const TOPICS_MAX: usize = 100_000;
/// Most ACLs of one region.
pub const ACLS_MAX: usize = 100_000;
/// Most producer ids reserved at once.
pub const PRODUCER_IDS_MAX: u32 = 1_000_000;
/// Longest host, rack, address, principal or ACL resource name.
pub const TEXT_BYTES_MAX: usize = 255;

/// Below the region's number, a producer id counts.
const PRODUCER_COUNTER_BITS: u32 = 48;

/// What the region's commands have made so far.
#[derive(Debug, Clone)]
pub struct State {
    image: Arc<Image>,
    region_number: u8,
}

impl State {
    /// Before the first command. Every node of the region must pass the same mesh, region and number (1 to 127), or their images part.
    pub fn new(mesh: &str, region: &str, region_number: u8, superusers: Vec<Principal>) -> State {
        let image = Image {
            mesh: mesh.to_string(),
            region: region.to_string(),
            acls: BTreeMap::from([(region.to_string(), Arc::new(Store::default()))]),
            superusers,
            next_producer_id: i64::from(region_number) << PRODUCER_COUNTER_BITS,
            ..Image::default()
        };
        State { image: Arc::new(image), region_number }
    }

    pub fn image(&self) -> Arc<Image> {
        self.image.clone()
    }

    /// The image in the form that [`State::restore`] takes.
    pub fn save(&self) -> Vec<u8> {
        saved::save(&self.image)
    }

    /// Goes on from what another node's state has saved.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), serde_json::Error> {
        self.image = Arc::new(saved::restore(&self.image, saved)?);
        Ok(())
    }

    /// Applies the command at this index of the controller's log; the caller passes each index once, in order. Images given out before stay
    /// as they were. A command is done whole, or refused and changes nothing but the version.
    pub fn apply(&mut self, index: u64, command: Command) -> Answer {
        let mut next = Image::clone(&self.image);
        let answer = match self.change(&mut next, command) {
            Ok(answer) => answer,
            Err(refusal) => {
                next = Image::clone(&self.image);
                refusal
            }
        };
        next.version = index;
        self.image = Arc::new(next);
        answer
    }

    /// On an error, `image` may be half changed, and is thrown away.
    fn change(&self, image: &mut Image, command: Command) -> Result<Answer, Answer> {
        match command {
            Command::RegisterNode { node, joins } => register_node(image, node, joins),
            Command::AdmitNode { id } => moves::admit(image, id),
            Command::DrainNode { id, drain } => moves::drain(image, id, drain),
            Command::RemoveNode { id, force } => moves::remove(image, id, force),
            Command::AlterNodeConfigs { node, changes } => node_config::alter(image, node, changes),
            Command::MovePartitions { moves } => moves::start(image, moves),
            Command::FinishMove { topic, partition, target } => moves::finish(image, topic, partition, &target),
            Command::CreateTopic { name, id, replicas, configs } => create_topic(image, name, id, replicas, configs),
            Command::DeleteTopic { name, id } => delete_topic(image, &name, id),
            Command::GrowTopic { name, from, replicas } => grow_topic(image, &name, from, replicas),
            Command::AlterTopicConfigs { name, changes, replace } => alter_topic_configs(image, &name, changes, replace),
            Command::CreateAcls { bindings } => create_acls(image, bindings),
            Command::DeleteAcls { filters } => Ok(delete_acls(image, &filters)),
            Command::AllocateProducerIds { count } => self.allocate_producer_ids(image, count),
            Command::AcceptCatalogue { region, catalogue, replicas } => super::accept::accept(image, &region, catalogue, &replicas),
        }
    }

    fn allocate_producer_ids(&self, image: &mut Image, count: u32) -> Result<Answer, Answer> {
        if count == 0 || count > PRODUCER_IDS_MAX {
            return Err(invalid(format!("1 to {PRODUCER_IDS_MAX} producer ids can be reserved at once, not {count}")));
        }
        let end = (i64::from(self.region_number) + 1) << PRODUCER_COUNTER_BITS;
        let first = image.next_producer_id;
        if end - first < i64::from(count) {
            return Err(invalid("the region's producer ids are used up"));
        }
        image.next_producer_id = first + i64::from(count);
        Ok(Answer::ProducerIds { first, count })
    }
}

pub(super) fn invalid(message: impl ToString) -> Answer {
    Answer::Invalid { message: message.to_string() }
}

fn register_node(image: &mut Image, node: NodeRecord, joins: bool) -> Result<Answer, Answer> {
    // Kafka's node ids are i32.
    if i32::try_from(node.id).is_err() {
        return Err(invalid(format!("node id {} is above {}", node.id, i32::MAX)));
    }
    let texts = [&node.host, &node.admin, &node.link].into_iter().chain(&node.rack).chain(&node.peer);
    if node.port == 0 || texts.into_iter().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
        return Err(invalid(format!("node {} needs a host, a port and addresses of at most {TEXT_BYTES_MAX} bytes", node.id)));
    }
    let stranger = joins && !image.nodes.contains_key(&node.id) && !image.admitted.contains(&node.id);
    if stranger || image.removed.contains(&node.id) {
        return Err(Answer::NotAdmitted);
    }
    image.admitted.remove(&node.id);
    image.nodes.insert(node.id, node);
    if image.nodes.len() > NODES_MAX {
        return Err(invalid(format!("a region has at most {NODES_MAX} nodes")));
    }
    Ok(Answer::Done)
}

fn create_topic(
    image: &mut Image,
    name: String,
    id: Uuid,
    replicas: Vec<Vec<u64>>,
    configs: BTreeMap<String, String>,
) -> Result<Answer, Answer> {
    topic_name::check(&name).map_err(invalid)?;
    if image.topics.contains_key(&name) {
        return Err(Answer::TopicExists);
    }
    if id.is_nil() || image.topics_by_id.contains_key(&id) {
        return Err(invalid(format!("topic id {id} cannot be given again")));
    }
    if image.topics.len() >= TOPICS_MAX {
        return Err(invalid(format!("a region has at most {TOPICS_MAX} topics")));
    }
    check_replicas(image, &replicas)?;
    let home = image.region.clone();
    let topic = Topic {
        internal: topic_name::is_internal(&name),
        name,
        id,
        partitions: replicas,
        configs,
        home,
        mirrors: vec![],
        moves: BTreeMap::new(),
        moved: BTreeSet::new(),
    };
    insert(image, configured(topic)?);
    Ok(Answer::Done)
}

/// Checks the configs of a topic homed here and derives its mirrors from them.
fn configured(mut topic: Topic) -> Result<Topic, Answer> {
    for (name, value) in &topic.configs {
        topic_config::check(&topic.home, name, value).map_err(invalid)?;
    }
    topic.mirrors = topic_config::mirrors(&topic.home, &topic.configs).map_err(invalid)?;
    if topic.internal && !topic.mirrors.is_empty() {
        return Err(invalid(format!("{} is kept by each region for itself and cannot be mirrored", topic.name)));
    }
    Ok(topic)
}

pub(super) fn insert(image: &mut Image, topic: Topic) {
    let topic = Arc::new(topic);
    Arc::make_mut(&mut image.topics).insert(topic.name.clone(), topic.clone());
    Arc::make_mut(&mut image.topics_by_id).insert(topic.id, topic);
}

/// Are these lists, one per partition, a possible placement on the region's registered nodes?
pub(super) fn check_replicas(image: &Image, partitions: &[Vec<u64>]) -> Result<(), Answer> {
    if partitions.is_empty() || partitions.len() > PARTITIONS_MAX {
        return Err(invalid(format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {}", partitions.len())));
    }
    let replicas = partitions[0].len();
    for (partition, nodes) in partitions.iter().enumerate() {
        if nodes.is_empty() || nodes.len() > REPLICAS_MAX || nodes.len() != replicas {
            return Err(invalid(format!("partition {partition} needs 1 to {REPLICAS_MAX} replicas, as many as the others")));
        }
        if let Some(unknown) = nodes.iter().find(|node| !image.nodes.contains_key(node)) {
            return Err(invalid(format!("partition {partition}: node {unknown} is not registered")));
        }
        if nodes.iter().collect::<BTreeSet<_>>().len() != nodes.len() {
            return Err(invalid(format!("partition {partition} names a node twice")));
        }
    }
    Ok(())
}

/// The topic of that name, where it is homed here.
fn homed_here(image: &Image, name: &str) -> Result<Arc<Topic>, Answer> {
    let topic = image.topics.get(name).ok_or(Answer::UnknownTopic)?;
    if topic.home != image.region {
        return Err(Answer::HomedElsewhere { home: topic.home.clone() });
    }
    Ok(topic.clone())
}

fn delete_topic(image: &mut Image, name: &str, id: Uuid) -> Result<Answer, Answer> {
    let topic = homed_here(image, name)?;
    if topic.id != id {
        return Err(Answer::UnknownTopic);
    }
    if topic.internal {
        return Err(invalid(format!("{name} is the region's own and cannot be deleted")));
    }
    Arc::make_mut(&mut image.topics).remove(name);
    Arc::make_mut(&mut image.topics_by_id).remove(&topic.id);
    Ok(Answer::Done)
}

fn grow_topic(image: &mut Image, name: &str, from: usize, replicas: Vec<Vec<u64>>) -> Result<Answer, Answer> {
    let mut topic = Topic::clone(&*homed_here(image, name)?);
    if topic.partitions.len() != from {
        return Err(invalid(format!("{name} has {} partitions by now, not {from}", topic.partitions.len())));
    }
    if topic.internal {
        return Err(invalid(format!("{name} is the region's own; its partitions are fixed")));
    }
    if replicas.is_empty() {
        return Err(invalid("no partition to add"));
    }
    if topic.partitions.len() + replicas.len() > PARTITIONS_MAX {
        return Err(invalid(format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {}", topic.partitions.len() + replicas.len())));
    }
    check_replicas(image, &replicas)?;
    if replicas.first().map(Vec::len) != topic.partitions.first().map(Vec::len) {
        return Err(invalid("the new partitions need as many replicas as the first one has"));
    }
    topic.partitions.extend(replicas);
    insert(image, topic);
    Ok(Answer::Done)
}

fn alter_topic_configs(image: &mut Image, name: &str, changes: BTreeMap<String, ConfigChange>, replace: bool) -> Result<Answer, Answer> {
    let topic = altered(image, name, changes, replace)?;
    insert(image, topic);
    Ok(Answer::Done)
}

/// The topic of that name as it will be: for those who only ask whether it may be.
pub(super) fn altered(image: &Image, name: &str, changes: BTreeMap<String, ConfigChange>, replace: bool) -> Result<Topic, Answer> {
    let mut topic = Topic::clone(&*homed_here(image, name)?);
    if replace {
        topic.configs.retain(|config, _| changes.contains_key(config));
    }
    for (config, change) in changes {
        topic_config::find(&config).map_err(invalid)?;
        match change {
            ConfigChange::Set(value) => topic.configs.insert(config, value),
            ConfigChange::Reset => topic.configs.remove(&config),
            ConfigChange::Append(values) => {
                let list = topic_config::appended(&topic.configs, &config, &values).map_err(invalid)?;
                topic.configs.insert(config, list)
            }
            ConfigChange::Subtract(values) => {
                let list = topic_config::subtracted(&topic.configs, &config, &values).map_err(invalid)?;
                topic.configs.insert(config, list)
            }
        };
    }
    configured(topic)
}

fn own_acls(image: &mut Image) -> &mut Store {
    Arc::make_mut(image.acls.entry(image.region.clone()).or_default())
}

fn create_acls(image: &mut Image, bindings: Vec<Binding>) -> Result<Answer, Answer> {
    bindings.iter().try_for_each(|binding| check_binding(image, binding))?;
    let store = own_acls(image);
    for binding in bindings {
        store.add(binding);
    }
    if store.iter().nth(ACLS_MAX).is_some() {
        return Err(invalid(format!("a region has at most {ACLS_MAX} ACLs")));
    }
    Ok(Answer::Done)
}

/// Is this a rule that can ever match anything here?
pub(crate) fn check_binding(image: &Image, binding: &Binding) -> Result<(), Answer> {
    let texts = [&binding.name, &binding.principal.kind, &binding.principal.name, &binding.host];
    if texts.iter().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
        return Err(invalid(format!("an ACL's resource name, principal and host have 1 to {TEXT_BYTES_MAX} bytes")));
    }
    if binding.host != "*" && binding.host.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(format!("an ACL's host is an address or *, not {:?}", binding.host)));
    }
    if binding.resource == ResourceType::Cluster && (binding.pattern != PatternType::Literal || binding.name != CLUSTER_NAME) {
        return Err(invalid(format!("the one cluster resource is the literal {CLUSTER_NAME}")));
    }
    if binding.resource == ResourceType::Topic
        && binding.pattern == PatternType::Literal
        && let Some(topic) = image.topics.get(&binding.name)
        && topic.home != image.region
    {
        // It would be kept here and decide nothing: the home's ACLs do.
        return Err(Answer::HomedElsewhere { home: topic.home.clone() });
    }
    Ok(())
}

fn delete_acls(image: &mut Image, filters: &[Filter]) -> Answer {
    let store = own_acls(image);
    Answer::AclsDeleted { matches: filters.iter().map(|filter| store.remove(filter)).collect() }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
