//! DescribeAcls: this region's rules that a filter selects, by resource.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Binding, CLUSTER_NAME, Operation, PatternType, ResourceType};

use crate::controller::image::Image;
use crate::kafka::binding::{FilterFields, denied};
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Fixed(1)),
    always(Shape::Text),
    always(Shape::Fixed(1)),
    always(Shape::Text),
    always(Shape::Text),
    always(Shape::Fixed(1)),
    always(Shape::Fixed(1)),
];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: DescribeAclsRequest) -> DescribeAclsResponse {
    let selected = if broker.allows(session, Operation::Describe, ResourceType::Cluster, CLUSTER_NAME) {
        select(&broker.controller.image(), &request)
    } else {
        Err(Refusal::unauthorized(denied(ResourceType::Cluster)))
    };
    match selected {
        Ok(resources) => DescribeAclsResponse::default().with_error_message(None).with_resources(resources),
        Err(refusal) => DescribeAclsResponse::default().with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}

fn select(image: &Image, request: &DescribeAclsRequest) -> Result<Vec<DescribeAclsResource>, Refusal> {
    let fields = FilterFields {
        resource: request.resource_type_filter,
        pattern: request.pattern_type_filter,
        name: request.resource_name_filter.as_deref(),
        principal: request.principal_filter.as_deref(),
        host: request.host_filter.as_deref(),
        operation: request.operation,
        permission: request.permission_type,
    };
    let (Some(filter), Some(acls)) = (fields.parse()?, image.acls.get(&image.region)) else { return Ok(Vec::new()) };
    let mut by_resource: BTreeMap<(ResourceType, PatternType, &str), Vec<AclDescription>> = BTreeMap::new();
    for binding in acls.select(&filter) {
        by_resource.entry((binding.resource, binding.pattern, &binding.name)).or_default().push(told(binding));
    }
    let resource = |((resource, pattern, name), acls): ((ResourceType, PatternType, &str), _)| {
        DescribeAclsResource::default()
            .with_resource_type(resource.code())
            .with_pattern_type(pattern.code())
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_acls(acls)
    };
    Ok(by_resource.into_iter().map(resource).collect())
}

fn told(binding: &Binding) -> AclDescription {
    AclDescription::default()
        .with_principal(StrBytes::from_string(binding.principal.to_string()))
        .with_host(StrBytes::from_string(binding.host.clone()))
        .with_operation(binding.operation.code())
        .with_permission_type(binding.permission.code())
}
