//! DescribeConfigs: every config of a topic or of this node, with its source, synonyms, type and documentation. A resource
//! that a request names twice is told of once.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::Operation;

use crate::kafka::config_resource::{Resource, authorized};
use crate::kafka::config_source::{self, InForce, type_code};
use crate::kafka::once::distinct;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Array(&[always(Shape::Fixed(1)), always(Shape::Text), always(Shape::Values(&Shape::Text))])),
    always(Shape::Fixed(1)),
    since(3, Shape::Fixed(1)),
];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let result = |resource: &DescribeConfigsResource| {
        let result =
            DescribeConfigsResult::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name.clone());
        match describe(broker, session, resource) {
            Ok(configs) => {
                let wanted = configs.into_iter().filter(|config| is_asked(resource, config.name));
                result.with_error_message(None).with_configs(wanted.map(|config| told(config, &request)).collect())
            }
            Err(refusal) => result.with_error_code(refusal.code()).with_error_message(refusal.text()),
        }
    };
    let resources = distinct(&request.resources, |resource| (resource.resource_type, &resource.resource_name));
    DescribeConfigsResponse::default().with_results(resources.into_iter().map(result).collect())
}

fn describe(broker: &Broker, session: &Session, resource: &DescribeConfigsResource) -> Result<Vec<InForce>, Refusal> {
    let image = broker.controller.image();
    match authorized(broker, session, Operation::DescribeConfigs, resource.resource_type, &resource.resource_name)? {
        Resource::Node => Ok(config_source::of_node(&image, broker.node_id)),
        Resource::EveryNode => Ok(Vec::new()),
        Resource::Topic(name) => match image.topics.get(&name) {
            Some(topic) => Ok(config_source::of_topic(topic)),
            None => Err(Refusal::new(ResponseError::UnknownTopicOrPartition, "no such topic")),
        },
    }
}

/// No key or null asks for all.
fn is_asked(resource: &DescribeConfigsResource, name: &str) -> bool {
    resource.configuration_keys.as_ref().is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| key.as_str() == name))
}

fn told(config: InForce, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonym = |(name, value, source): (&'static str, String, i8)| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
            .with_source(source)
    };
    let synonyms = if request.include_synonyms { config.synonyms } else { Vec::new() };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(config.name))
        .with_value(config.value.map(StrBytes::from_string))
        .with_read_only(config.read_only)
        .with_config_source(config.source)
        .with_synonyms(synonyms.into_iter().map(synonym).collect())
        .with_config_type(type_code(config.kind))
        .with_documentation(request.include_documentation.then(|| StrBytes::from_static_str(config.doc)))
}
