//! FindCoordinator: which node coordinates a group. There are no transactions, and so no coordinators of any.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Operation, ResourceType};

use super::metadata::node_id;
use crate::kafka::errors::ErrorCode;
use crate::kafka::refusal::Refusal;
use crate::kafka::shape::{Field, Shape, since, until};
use crate::kafka::{Asker, Broker, Session};

pub const SHAPE: &[Field] = &[until(3, Shape::Text), since(1, Shape::Fixed(1)), since(4, Shape::Values(&Shape::Text))];

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const NO_NODE: BrokerId = BrokerId(-1);

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let asker = broker.asker(session);
    if version < 4 {
        let found = find(broker, &asker, request.key_type, request.key).await;
        return FindCoordinatorResponse::default()
            .with_error_code(found.error_code)
            .with_error_message(if version >= 1 { found.error_message } else { None })
            .with_node_id(found.node_id)
            .with_host(found.host)
            .with_port(found.port);
    }
    let mut coordinators: Vec<Coordinator> = Vec::new();
    for key in request.coordinator_keys {
        // One wait for the region is enough: the rest is told to try again too.
        let unavailable = coordinators.last().filter(|last| last.error_code == ErrorCode::CoordinatorNotAvailable.code());
        let coordinator = match unavailable {
            Some(unavailable) => unavailable.clone().with_key(key),
            None => find(broker, &asker, request.key_type, key).await,
        };
        coordinators.push(coordinator);
    }
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

async fn find(broker: &Broker, asker: &Asker<'_>, key_type: i8, key: StrBytes) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key.clone());
    match locate(broker, asker, key_type, &key).await {
        Ok((node, host, port)) => coordinator.with_node_id(node).with_host(StrBytes::from_string(host)).with_port(port),
        Err(refusal) => coordinator.with_node_id(NO_NODE).with_port(-1).with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}

async fn locate(broker: &Broker, asker: &Asker<'_>, key_type: i8, key: &str) -> Result<(BrokerId, String, i32), Refusal> {
    match key_type {
        GROUP if !asker.may(Operation::Describe, ResourceType::Group, key) => {
            return Err(Refusal::unauthorized(ErrorCode::GroupAuthorizationFailed));
        }
        GROUP => {}
        TRANSACTION if !asker.may(Operation::Describe, ResourceType::TransactionalId, key) => {
            return Err(Refusal::unauthorized(ErrorCode::TransactionalIdAuthorizationFailed));
        }
        // Not "try again": nothing will come of it.
        TRANSACTION => return Err(Refusal::invalid("transactions are not supported")),
        other => return Err(Refusal::invalid(format!("there are no coordinators of kind {other}"))),
    }
    let unavailable = |error: ErrorCode| Refusal::new(error, "the group's coordinator is not available now");
    let node = broker.groups.find(key).await.map_err(unavailable)?;
    // The topic of groups may just have been made: look at the metadata as they are now.
    let image = broker.controller.image();
    let record = image.nodes.get(&node).ok_or_else(|| unavailable(ErrorCode::CoordinatorNotAvailable))?;
    Ok((node_id(node), record.host.clone(), i32::from(record.port)))
}
