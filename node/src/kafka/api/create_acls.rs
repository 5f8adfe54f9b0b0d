//! CreateAcls: rules of this region. A rule about another region's topic is refused with that region's name: the home's rules decide.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};
use meridian_auth::acl::{Binding, CLUSTER_NAME, Operation, ResourceType};

use crate::controller::command::Command;
use crate::controller::image::Image;
use crate::controller::state::check_binding;
use crate::kafka::binding::{BindingFields, denied};
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

pub async fn handle(broker: &Broker, session: &Session, _version: i16, request: CreateAclsRequest) -> CreateAclsResponse {
    let results = if broker.allows(session, Operation::Alter, ResourceType::Cluster, CLUSTER_NAME) {
        create(broker, &request).await
    } else {
        let denied = Refusal::unauthorized(denied(ResourceType::Cluster));
        request.creations.iter().map(|_| Err(denied.clone())).collect()
    };
    CreateAclsResponse::default().with_results(results.into_iter().map(told).collect())
}

/// Every rule is judged for itself; the good ones are one command.
async fn create(broker: &Broker, request: &CreateAclsRequest) -> Vec<Result<(), Refusal>> {
    let image = broker.controller.image();
    let judged: Vec<Result<Binding, Refusal>> = request
        .creations
        .iter()
        .map(|creation| {
            let fields = BindingFields {
                resource: creation.resource_type,
                pattern: creation.resource_pattern_type,
                name: &creation.resource_name,
                principal: &creation.principal,
                host: &creation.host,
                operation: creation.operation,
                permission: creation.permission_type,
            };
            judge(&image, fields)
        })
        .collect();
    let bindings: Vec<Binding> = judged.iter().flatten().cloned().collect();
    let committed = if bindings.is_empty() {
        Ok(())
    } else {
        let answer = broker.controller.submit(Command::CreateAcls { bindings }).await;
        answer.map_err(Refusal::from).and_then(|answer| of_answer(answer, ResponseError::InvalidRequest).map(|_| ()))
    };
    judged.into_iter().map(|judged| judged.and_then(|_| committed.clone())).collect()
}

fn judge(image: &Image, fields: BindingFields<'_>) -> Result<Binding, Refusal> {
    let binding = fields.parse()?;
    match check_binding(image, &binding) {
        Ok(()) => Ok(binding),
        Err(refusal) => of_answer(refusal, ResponseError::InvalidRequest).map(|_| binding),
    }
}

fn told(result: Result<(), Refusal>) -> AclCreationResult {
    match result {
        Ok(()) => AclCreationResult::default().with_error_message(None),
        Err(refusal) => AclCreationResult::default().with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}
