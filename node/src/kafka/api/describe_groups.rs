//! DescribeGroups: the state and the members of groups that this node coordinates.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Operation, ResourceType};

use super::metadata::{OPERATIONS_UNASKED, operations};
use crate::groups::{Description, MemberDescription, State};
use crate::kafka::errors::ErrorCode;
use crate::kafka::once::distinct;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Asker, Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Values(&Shape::Text)), since(3, Shape::Fixed(1))];

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let asker = broker.asker(session);
    let mut groups = Vec::new();
    for id in distinct(request.groups, GroupId::clone) {
        let operations = if request.include_authorized_operations { group_operations(&asker, &id) } else { OPERATIONS_UNASKED };
        let group = describe(broker, &asker, version, id.clone()).await.unwrap_or_else(|error| refused(id, error));
        // Only a group that is shown tells what may be done with it.
        groups.push(if group.error_code == 0 { group.with_authorized_operations(operations) } else { group });
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

async fn describe(broker: &Broker, asker: &Asker<'_>, version: i16, id: GroupId) -> Result<DescribedGroup, ErrorCode> {
    if !asker.may(Operation::Describe, ResourceType::Group, &id) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    let Some(Description { state, protocol_type, protocol, members }) = broker.groups.describe(id.to_string()).await? else {
        let dead = refused(id, ErrorCode::GroupIdNotFound).with_group_state(StrBytes::from_static_str(State::Dead.name()));
        // Before version 6 a group that is not there is a dead one, and no error.
        let message = StrBytes::from_static_str("no such group");
        return Ok(if version >= 6 { dead.with_error_message(Some(message)) } else { dead.with_error_code(0) });
    };
    Ok(DescribedGroup::default()
        .with_group_id(id)
        .with_group_state(StrBytes::from_static_str(state.name()))
        .with_protocol_type(StrBytes::from_string(protocol_type))
        .with_protocol_data(StrBytes::from_string(protocol))
        .with_members(members.into_iter().map(|one| member(one, version)).collect()))
}

fn member(member: MemberDescription, version: i16) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(StrBytes::from_string(member.id))
        .with_group_instance_id(member.instance_id.filter(|_| version >= 4).map(StrBytes::from_string))
        .with_client_id(StrBytes::from_string(member.client_id))
        .with_client_host(StrBytes::from_string(member.client_host))
        .with_member_metadata(member.subscription)
        .with_member_assignment(member.assignment)
}

fn refused(id: GroupId, error: ErrorCode) -> DescribedGroup {
    DescribedGroup::default().with_group_id(id).with_error_code(error.code()).with_authorized_operations(OPERATIONS_UNASKED)
}

fn group_operations(asker: &Asker<'_>, id: &str) -> i32 {
    use Operation::*;
    operations(|operation| asker.may(operation, ResourceType::Group, id), &[Read, Delete, Describe, DescribeConfigs, AlterConfigs])
}
