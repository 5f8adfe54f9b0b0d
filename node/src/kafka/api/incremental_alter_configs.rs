//! IncrementalAlterConfigs: sets, resets, and adds to or takes from lists, of topics homed here, and of this node what changes
//! while it runs. The changes of one resource are made whole or not at all.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use meridian_auth::acl::Operation;

use crate::controller::command::{Command, ConfigChange};
use crate::controller::{node_config, topic_config};
use crate::kafka::config_resource::{Resource, authorized};
use crate::kafka::once::twice;
use crate::kafka::refusal::{Refusal, of_answer};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[
        always(Shape::Fixed(1)),
        always(Shape::Text),
        always(Shape::Array(&[always(Shape::Text), always(Shape::Fixed(1)), always(Shape::Text)])),
    ])),
    always(Shape::Fixed(1)),
];

/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub async fn handle(
    broker: &Broker,
    session: &Session,
    _version: i16,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let twice = twice(request.resources.iter().map(|resource| (resource.resource_type, resource.resource_name.clone())));
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let altered = if twice.contains(&(resource.resource_type, resource.resource_name.clone())) {
            Err(Refusal::invalid("the request names this resource twice"))
        } else {
            alter(broker, session, &resource, request.validate_only).await
        };
        let response =
            AlterConfigsResourceResponse::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name);
        responses.push(match altered {
            Ok(()) => response.with_error_message(None),
            Err(refusal) => response.with_error_code(refusal.code()).with_error_message(refusal.text()),
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

async fn alter(broker: &Broker, session: &Session, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    match authorized(broker, session, Operation::AlterConfigs, resource.resource_type, &resource.resource_name)? {
        Resource::Topic(name) => {
            let changes = changes(&resource.configs)?;
            if is_kept_for_tools_only(broker, &name, &changes) {
                return Ok(());
            }
            let answer = broker.controller.alter_topic(&name, changes, false, validate_only).await?;
            of_answer(answer, ResponseError::InvalidConfig).map(|_| ())
        }
        Resource::Node => alter_node(broker, changes(&resource.configs)?, validate_only).await,
        Resource::EveryNode => Err(Refusal::invalid("configs that all nodes share are those of their files; name one node")),
    }
}

/// What cannot be is an invalid request where it is a node's, and an invalid config where it is a topic's: Kafka's tools expect that (KAFKA-13609).
async fn alter_node(broker: &Broker, changes: BTreeMap<String, ConfigChange>, validate_only: bool) -> Result<(), Refusal> {
    let image = broker.controller.image();
    let held = image.node_configs.get(&broker.node_id).cloned().unwrap_or_default();
    let wanted = node_config::altered(&held, changes.clone()).map_err(Refusal::invalid)?;
    // Kafka's tools clear throttles wherever they have been, set or not.
    if validate_only || wanted == held {
        return Ok(());
    }
    let answer = broker.controller.submit(Command::AlterNodeConfigs { node: broker.node_id, changes }).await?;
    of_answer(answer, ResponseError::InvalidRequest).map(|_| ())
}

/// Kafka's tools mark the replicas of each topic that they move, and the mirrors of a topic move in their own region, where it has no configs.
fn is_kept_for_tools_only(broker: &Broker, topic: &str, changes: &BTreeMap<String, ConfigChange>) -> bool {
    let image = broker.controller.image();
    let is_mirror = image.topics.get(topic).is_some_and(|topic| topic.home != image.region);
    is_mirror && !changes.is_empty() && changes.keys().all(|name| topic_config::is_mark_of_tools(name))
}

fn changes(configs: &[AlterableConfig]) -> Result<BTreeMap<String, ConfigChange>, Refusal> {
    let mut changes = BTreeMap::new();
    for config in configs {
        let value = || {
            config.value.as_ref().map(|value| value.to_string()).ok_or_else(|| Refusal::invalid(format!("{} has no value", config.name)))
        };
        let change = match config.config_operation {
            SET => ConfigChange::Set(value()?),
            DELETE => ConfigChange::Reset,
            APPEND => ConfigChange::Append(value()?),
            SUBTRACT => ConfigChange::Subtract(value()?),
            other => return Err(Refusal::invalid(format!("operation {other} on {} is unknown", config.name))),
        };
        if changes.insert(config.name.to_string(), change).is_some() {
            return Err(Refusal::invalid(format!("{} is changed twice", config.name)));
        }
    }
    Ok(changes)
}
