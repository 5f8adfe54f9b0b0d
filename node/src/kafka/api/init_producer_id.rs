//! InitProducerId: an id and epoch for an idempotent producer. There are no transactions.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use meridian_auth::acl::{CLUSTER_NAME, Operation, ResourceType};

use crate::kafka::errors::ErrorCode;
use crate::kafka::producer_ids::ProducerIdError;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Text), always(Shape::Fixed(4)), since(3, Shape::Fixed(8)), since(3, Shape::Fixed(2))];

const NONE: i64 = -1;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default();
    match give(broker, session, version, &request).await {
        Ok((id, epoch)) => response.with_producer_id(ProducerId(id)).with_producer_epoch(epoch),
        Err(error) => response.with_error_code(error.code()).with_producer_id(ProducerId(NONE)).with_producer_epoch(-1),
    }
}

async fn give(broker: &Broker, session: &Session, version: i16, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    if request.transactional_id.is_some() {
        // Terminal for every client, where "not available" would be asked for again and again.
        return Err(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    if !may(broker, session) {
        return Err(ErrorCode::ClusterAuthorizationFailed);
    }
    let (held, epoch) = if version >= 3 { (request.producer_id.0, request.producer_epoch) } else { (NONE, -1) };
    if held < NONE || (held == NONE) != (epoch == -1) || epoch < -1 {
        return Err(ErrorCode::InvalidRequest);
    }
    // KIP-360: a producer that lost its sequence goes on under its id with the next epoch, where sequences begin at 0 again.
    if held >= 0 && epoch < i16::MAX - 1 {
        return Ok((held, epoch + 1));
    }
    let id = broker.producer_ids.next(&broker.controller).await.map_err(|error| match error {
        ProducerIdError::Unavailable(_) => ErrorCode::CoordinatorNotAvailable,
        ProducerIdError::Refused(reason) => {
            tracing::error!(%reason, "a producer cannot be given an id");
            ErrorCode::UnknownServerError
        }
    })?;
    Ok((id, 0))
}

/// IDEMPOTENT_WRITE on the cluster, or WRITE on any topic at all (KIP-679).
fn may(broker: &Broker, session: &Session) -> bool {
    let asker = broker.asker(session);
    asker.may(Operation::IdempotentWrite, ResourceType::Cluster, CLUSTER_NAME) || asker.may_any(Operation::Write, ResourceType::Topic)
}
