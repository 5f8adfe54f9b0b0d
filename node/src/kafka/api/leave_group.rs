//! LeaveGroup: members that go, by their ids or (static ones, also by an administrator) by their instance ids.

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use meridian_auth::acl::{Operation, ResourceType};

use crate::kafka::errors::{ErrorCode, code_of};
use crate::kafka::shape::{Field, Shape, always, since, until};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    always(Shape::Text),
    until(2, Shape::Text),
    since(3, Shape::Array(&[always(Shape::Text), always(Shape::Text), since(5, Shape::Text)])),
];

type Answers = Result<Vec<Result<(), ErrorCode>>, ErrorCode>;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let response = LeaveGroupResponse::default();
    if version < 3 {
        let answers = leave(broker, session, &request, vec![(request.member_id.to_string(), None)]).await;
        let answer = answers.and_then(|answers| answers.into_iter().next().unwrap_or(Ok(())));
        return response.with_error_code(code_of(&answer));
    }
    let instance = |instance: &Option<_>| instance.as_ref().map(ToString::to_string);
    let members = request.members.iter().map(|member| (member.member_id.to_string(), instance(&member.group_instance_id)));
    match leave(broker, session, &request, members.collect()).await {
        Err(error) => response.with_error_code(error.code()),
        Ok(answers) => {
            let members = request.members.into_iter().zip(answers).map(|(member, answer)| {
                let told = MemberResponse::default().with_member_id(member.member_id);
                told.with_group_instance_id(member.group_instance_id).with_error_code(code_of(&answer))
            });
            response.with_members(members.collect())
        }
    }
}

async fn leave(broker: &Broker, session: &Session, request: &LeaveGroupRequest, members: Vec<(String, Option<String>)>) -> Answers {
    if !broker.allows(session, Operation::Read, ResourceType::Group, &request.group_id) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    if !super::heartbeat::is_group_id(&request.group_id) {
        return Err(ErrorCode::InvalidGroupId);
    }
    broker.groups.leave(request.group_id.to_string(), members).await
}
