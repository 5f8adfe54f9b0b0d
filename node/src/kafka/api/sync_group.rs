//! SyncGroup: the leader gives the assignments, everyone gets its own when the log has them.

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Operation, ResourceType};

use crate::groups::{Sync, SyncAnswer};
use crate::kafka::errors::ErrorCode;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Text),
    always(Shape::Fixed(4)),
    always(Shape::Text),
    since(3, Shape::Text),
    since(5, Shape::Text),
    since(5, Shape::Text),
    always(Shape::Array(&[always(Shape::Text), always(Shape::Bytes)])),
];

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: SyncGroupRequest) -> SyncGroupResponse {
    let answer = sync(broker, session, version, request).await;
    match answer {
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(synced.protocol_type.filter(|_| version >= 5).map(StrBytes::from_string))
            .with_protocol_name(synced.protocol.filter(|_| version >= 5).map(StrBytes::from_string))
            .with_assignment(synced.assignment),
    }
}

async fn sync(broker: &Broker, session: &Session, version: i16, request: SyncGroupRequest) -> SyncAnswer {
    if !broker.allows(session, Operation::Read, ResourceType::Group, &request.group_id) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    if !super::heartbeat::is_group_id(&request.group_id) {
        return Err(ErrorCode::InvalidGroupId);
    }
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    let text = |text: Option<StrBytes>| text.map(|text| text.to_string());
    let assignments = request.assignments.iter();
    let sync = Sync {
        member_id: request.member_id.to_string(),
        instance_id: text(request.group_instance_id),
        generation: request.generation_id,
        protocol_type: text(request.protocol_type),
        protocol: text(request.protocol_name),
        // In buffers of their own: a group outlives the request.
        assignments: assignments.map(|one| (one.member_id.to_string(), Bytes::copy_from_slice(&one.assignment))).collect(),
    };
    broker.groups.sync(request.group_id.to_string(), sync).await
}
