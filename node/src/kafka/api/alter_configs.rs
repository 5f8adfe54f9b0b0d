//! AlterConfigs, the old way: what the request sets replaces all that was set; the rest goes back to its default.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use meridian_auth::acl::Operation;

use crate::controller::command::ConfigChange;
use crate::kafka::config_resource::{Resource, authorized};
use crate::kafka::once::twice;
use crate::kafka::refusal::{Refusal, of_answer};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[
        always(Shape::Fixed(1)),
        always(Shape::Text),
        always(Shape::Array(&[always(Shape::Text), always(Shape::Text)])),
    ])),
    always(Shape::Fixed(1)),
];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: AlterConfigsRequest) -> AlterConfigsResponse {
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
    AlterConfigsResponse::default().with_responses(responses)
}

async fn alter(broker: &Broker, session: &Session, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    match authorized(broker, session, Operation::AlterConfigs, resource.resource_type, &resource.resource_name)? {
        Resource::Topic(name) => {
            let changes = changes(&resource.configs)?;
            let answer = broker.controller.alter_topic(&name, changes, true, validate_only).await?;
            of_answer(answer, ResponseError::InvalidConfig).map(|_| ())
        }
        Resource::Node | Resource::EveryNode => Err(Refusal::invalid("a node's configs are those of its file")),
    }
}

fn changes(configs: &[AlterableConfig]) -> Result<BTreeMap<String, ConfigChange>, Refusal> {
    let mut changes = BTreeMap::new();
    for config in configs {
        let value = config.value.as_ref().ok_or_else(|| Refusal::invalid(format!("{} has no value", config.name)))?;
        if changes.insert(config.name.to_string(), ConfigChange::Set(value.to_string())).is_some() {
            return Err(Refusal::invalid(format!("{} is set twice", config.name)));
        }
    }
    Ok(changes)
}
