//! ListGroups: the groups that this node coordinates and the caller may see.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use crate::kafka::shape::{Field, Shape, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[since(4, Shape::Values(&Shape::Text)), since(5, Shape::Values(&Shape::Text))];

/// The one type of group there is.
const CLASSIC: &str = "classic";

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: ListGroupsRequest) -> ListGroupsResponse {
    let groups = match broker.groups.overview().await {
        Ok(groups) => groups,
        Err(error) => return ListGroupsResponse::default().with_error_code(error.code()),
    };
    let asker = broker.asker(session);
    let every = asker.may(Operation::Describe, ResourceType::Cluster, CLUSTER_NAME);
    let is_in = |filter: &[StrBytes], name: &str| filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(name));
    let listed = groups.into_iter().filter(|group| {
        is_in(&request.states_filter, group.state.name())
            && is_in(&request.types_filter, CLASSIC)
            && (every || asker.may(Operation::Describe, ResourceType::Group, &group.group))
    });
    let listed = listed.map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(StrBytes::from_string(group.group)))
            .with_protocol_type(StrBytes::from_string(group.protocol_type))
            .with_group_state(StrBytes::from_static_str(if version >= 4 { group.state.name() } else { "" }))
            .with_group_type(StrBytes::from_static_str(if version >= 5 { CLASSIC } else { "" }))
    });
    ListGroupsResponse::default().with_groups(listed.collect())
}
