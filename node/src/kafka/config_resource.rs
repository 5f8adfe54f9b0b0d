//! What the config APIs speak of: a topic, a node, or something that has no configs here; and who may.

use kafka_protocol::ResponseError;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use super::refusal::Refusal;
use super::{Broker, Session};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const GROUP: i8 = 32;

/// A resource that the caller may ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Topic(String),
    /// This node.
    Node,
    /// The default of all nodes; none has any.
    EveryNode,
}

/// Parses and authorizes. A caller without the operation is refused alike, whether the resource exists or not.
pub fn authorized(broker: &Broker, session: &Session, operation: Operation, code: i8, name: &str) -> Result<Resource, Refusal> {
    let (resource, guarded, denied) = match code {
        TOPIC => (ResourceType::Topic, name, ResponseError::TopicAuthorizationFailed),
        GROUP => (ResourceType::Group, name, ResponseError::GroupAuthorizationFailed),
        BROKER | BROKER_LOGGER => (ResourceType::Cluster, CLUSTER_NAME, ResponseError::ClusterAuthorizationFailed),
        other => return Err(Refusal::invalid(format!("resources of type {other} have no configs here"))),
    };
    if !broker.allows(session, operation, resource, guarded) {
        return Err(Refusal::unauthorized(denied));
    }
    match (code, name) {
        (TOPIC, name) => Ok(Resource::Topic(name.to_owned())),
        (BROKER, "") => Ok(Resource::EveryNode),
        (BROKER, name) if name.parse() == Ok(broker.node_id) => Ok(Resource::Node),
        (BROKER, name) => Err(Refusal::invalid(format!("this is node {}; ask node {name:?} of its own configs", broker.node_id))),
        _ => Err(Refusal::invalid(format!("resources of type {code} have no configs here"))),
    }
}
