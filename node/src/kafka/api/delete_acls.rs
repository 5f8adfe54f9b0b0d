//! DeleteAcls: removes this region's rules that the filters select, and tells which.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsMatchingAcl};
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Binding, CLUSTER_NAME, Filter, Operation, ResourceType};

use crate::controller::command::{Answer, Command};
use crate::kafka::binding::{FilterFields, denied};
use crate::kafka::refusal::{Refusal, of_answer};
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Array(&[
    always(Shape::Fixed(1)),
    always(Shape::Text),
    always(Shape::Fixed(1)),
    always(Shape::Text),
    always(Shape::Text),
    always(Shape::Fixed(1)),
    always(Shape::Fixed(1)),
]))];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let results = if broker.allows(session, Operation::Alter, ResourceType::Cluster, CLUSTER_NAME) {
        delete(broker, &request.filters).await
    } else {
        let denied = Refusal::unauthorized(denied(ResourceType::Cluster));
        request.filters.iter().map(|_| Err(denied.clone())).collect()
    };
    DeleteAclsResponse::default().with_filter_results(results.into_iter().map(told).collect())
}

async fn delete(broker: &Broker, filters: &[DeleteAclsFilter]) -> Vec<Result<Vec<Binding>, Refusal>> {
    let judged: Vec<Result<Option<Filter>, Refusal>> = filters.iter().map(parse).collect();
    let sound: Vec<Filter> = judged.iter().flatten().flatten().cloned().collect();
    // One list per filter in the command, in its order; a rule that two filters select is told of by the first.
    let mut removed = match remove(broker, sound).await {
        Ok(removed) => removed.into_iter(),
        Err(refusal) => return judged.into_iter().map(|judged| judged.and_then(|_| Err(refusal.clone()))).collect(),
    };
    judged.into_iter().map(|judged| judged.map(|filter| filter.and_then(|_| removed.next()).unwrap_or_default())).collect()
}

async fn remove(broker: &Broker, filters: Vec<Filter>) -> Result<Vec<Vec<Binding>>, Refusal> {
    if filters.is_empty() {
        return Ok(Vec::new());
    }
    match of_answer(broker.controller.submit(Command::DeleteAcls { filters }).await?, ResponseError::InvalidRequest)? {
        Answer::AclsDeleted { matches } => Ok(matches),
        other => Err(Refusal::new(ResponseError::UnknownServerError, format!("the controller answered {other:?}"))),
    }
}

fn parse(filter: &DeleteAclsFilter) -> Result<Option<Filter>, Refusal> {
    let fields = FilterFields {
        resource: filter.resource_type_filter,
        pattern: filter.pattern_type_filter,
        name: filter.resource_name_filter.as_deref(),
        principal: filter.principal_filter.as_deref(),
        host: filter.host_filter.as_deref(),
        operation: filter.operation,
        permission: filter.permission_type,
    };
    fields.parse()
}

fn told(result: Result<Vec<Binding>, Refusal>) -> DeleteAclsFilterResult {
    match result {
        Ok(removed) => {
            DeleteAclsFilterResult::default().with_error_message(None).with_matching_acls(removed.iter().map(matching).collect())
        }
        Err(refusal) => DeleteAclsFilterResult::default().with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}

fn matching(binding: &Binding) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_error_message(None)
        .with_resource_type(binding.resource.code())
        .with_resource_name(StrBytes::from_string(binding.name.clone()))
        .with_pattern_type(binding.pattern.code())
        .with_principal(StrBytes::from_string(binding.principal.to_string()))
        .with_host(StrBytes::from_string(binding.host.clone()))
        .with_operation(binding.operation.code())
        .with_permission_type(binding.permission.code())
}
