//! DeleteGroups: groups without members, with all they have committed.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use meridian_auth::acl::{Operation, ResourceType};

use crate::kafka::errors::{ErrorCode, code_of};
use crate::kafka::once::distinct;
use crate::kafka::shape::{Field, Shape, always};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Values(&Shape::Text))];

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::new();
    for id in distinct(request.groups_names, GroupId::clone) {
        let deleted = if broker.allows(session, Operation::Delete, ResourceType::Group, &id) {
            broker.groups.delete(id.to_string()).await
        } else {
            Err(ErrorCode::GroupAuthorizationFailed)
        };
        results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code_of(&deleted)));
    }
    DeleteGroupsResponse::default().with_results(results)
}
