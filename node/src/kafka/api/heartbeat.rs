//! Heartbeat: a member is alive, and learns whether it has to join anew.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use meridian_auth::acl::{Operation, ResourceType};

use crate::kafka::errors::{ErrorCode, code_of};
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Text), always(Shape::Fixed(4)), always(Shape::Text), since(3, Shape::Text)];

/// Of a group's id: it is part of every record's key.
const GROUP_ID_BYTES_MAX: usize = 4096;

/// Is this the id of a group that can have members? (Offsets may be committed for the empty id too.)
pub(super) fn is_group_id(id: &str) -> bool {
    !id.is_empty() && may_hold_offsets(id)
}

pub(super) fn may_hold_offsets(id: &str) -> bool {
    id.len() <= GROUP_ID_BYTES_MAX
}

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: HeartbeatRequest) -> HeartbeatResponse {
    HeartbeatResponse::default().with_error_code(code_of(&beat(broker, session, request).await))
}

async fn beat(broker: &Broker, session: &Session, request: HeartbeatRequest) -> Result<(), ErrorCode> {
    if !broker.allows(session, Operation::Read, ResourceType::Group, &request.group_id) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    if !is_group_id(&request.group_id) {
        return Err(ErrorCode::InvalidGroupId);
    }
    let instance = request.group_instance_id.map(|instance| instance.to_string());
    broker.groups.heartbeat(request.group_id.to_string(), request.member_id.to_string(), instance, request.generation_id).await
}
