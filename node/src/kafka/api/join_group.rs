//! JoinGroup: enters a group's next generation. The answer comes when all members have joined, or the time for it is over.

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Operation, ResourceType};

use crate::controller::topic_name;
use crate::groups::{Join, JoinAnswer, JoinRefused, MEMBER_METADATA_BYTES_MAX, PROTOCOLS_MAX};
use crate::kafka::errors::ErrorCode;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Text),
    always(Shape::Fixed(4)),
    since(1, Shape::Fixed(4)),
    always(Shape::Text),
    since(5, Shape::Text),
    always(Shape::Text),
    always(Shape::Array(&[always(Shape::Text), always(Shape::Bytes)])),
    since(8, Shape::Text),
];

/// `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// Names of protocols and their type.
const PROTOCOL_NAME_BYTES_MAX: usize = 255;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: JoinGroupRequest) -> JoinGroupResponse {
    let group = request.group_id.to_string();
    let member_id = request.member_id.to_string();
    let answer = match check(broker, session, version, &request) {
        Ok(()) => broker.groups.join(group, parse(session, version, request)).await,
        Err(error) => Err(JoinRefused { error, member_id }),
    };
    respond(version, answer)
}

fn check(broker: &Broker, session: &Session, version: i16, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
    if !broker.allows(session, Operation::Read, ResourceType::Group, &request.group_id) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    if !super::heartbeat::is_group_id(&request.group_id) {
        return Err(ErrorCode::InvalidGroupId);
    }
    if !SESSION_TIMEOUT_MS.contains(&request.session_timeout_ms) {
        return Err(ErrorCode::InvalidSessionTimeout);
    }
    // Kafka's rule for instance ids is the one for topics.
    if request.group_instance_id.as_deref().is_some_and(|instance| topic_name::check(instance).is_err()) {
        return Err(ErrorCode::InvalidRequest);
    }
    if version >= 1 && request.rebalance_timeout_ms < 0 {
        return Err(ErrorCode::InvalidRequest);
    }
    let protocols = &request.protocols;
    let metadata_bytes = protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len()).sum::<usize>();
    let names = protocols.iter().map(|protocol| protocol.name.len()).chain([request.protocol_type.len()]).max().unwrap_or_default();
    if protocols.len() > PROTOCOLS_MAX || metadata_bytes > MEMBER_METADATA_BYTES_MAX || names > PROTOCOL_NAME_BYTES_MAX {
        return Err(ErrorCode::InvalidRequest);
    }
    Ok(())
}

/// Everything in buffers of its own: a group outlives the request.
fn parse(session: &Session, version: i16, request: JoinGroupRequest) -> Join {
    let protocols = request.protocols.iter();
    Join {
        member_id: request.member_id.to_string(),
        fresh_member_id: String::new(),
        instance_id: request.group_instance_id.as_ref().map(|instance| instance.to_string()),
        client_id: session.client_id.to_string(),
        client_host: format!("/{}", session.host),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if version >= 1 { request.rebalance_timeout_ms } else { request.session_timeout_ms },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata))).collect(),
        requires_known_id: version >= 4,
        may_skip_assignment: version >= 9,
    }
}

fn respond(version: i16, answer: JoinAnswer) -> JoinGroupResponse {
    let response = JoinGroupResponse::default();
    // Null came with version 7.
    let nullable = |text: Option<String>| match text {
        Some(text) => Some(StrBytes::from_string(text)),
        None if version < 7 => Some(StrBytes::default()),
        None => None,
    };
    match answer {
        Err(JoinRefused { error, member_id }) => response
            .with_error_code(error.code())
            .with_generation_id(-1)
            .with_protocol_name(nullable(None))
            .with_member_id(StrBytes::from_string(member_id)),
        Ok(joined) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                JoinGroupResponseMember::default()
                    .with_member_id(StrBytes::from_string(id))
                    .with_group_instance_id(instance.filter(|_| version >= 5).map(StrBytes::from_string))
                    .with_metadata(metadata)
            });
            response
                .with_generation_id(joined.generation)
                .with_protocol_type(joined.protocol_type.filter(|_| version >= 7).map(StrBytes::from_string))
                .with_protocol_name(nullable(joined.protocol))
                .with_leader(StrBytes::from_string(joined.leader))
                .with_skip_assignment(joined.skip_assignment)
                .with_member_id(StrBytes::from_string(joined.member_id))
                .with_members(members.collect())
        }
    }
}
