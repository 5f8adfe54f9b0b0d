//! DeleteTopics: by name, from version 6 on also by id. Only a topic's home deletes it; its mirrors follow. A topic
//! that a request names twice is not deleted.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Operation, ResourceType};
use uuid::Uuid;

use crate::controller::command::Command;
use crate::controller::image::Image;
use crate::kafka::once::twice;
use crate::kafka::refusal::{Refusal, of_answer};
use crate::kafka::shape::{Field, Shape, always, since, until};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[
    since(6, Shape::Array(&[always(Shape::Text), always(Shape::Fixed(16))])),
    until(5, Shape::Values(&Shape::Text)),
    always(Shape::Fixed(4)),
];

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked: Vec<DeleteTopicState> = if version >= 6 {
        request.topics
    } else {
        request.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name))).collect()
    };
    let image = broker.controller.image();
    let mut results = Vec::with_capacity(asked.len());
    let judged: Vec<Judged> = asked.iter().map(|topic| judge(&image, broker, session, topic)).collect();
    let twice = twice(judged.iter().filter(|judged| judged.refusal.is_none()).map(|judged| judged.name.clone()));
    for (topic, judged) in asked.into_iter().zip(judged) {
        let done = match judged.refusal {
            None if twice.contains(&judged.name) => Err(Refusal::invalid("the request names this topic twice")),
            None => delete(broker, &judged).await,
            Some(refusal) => Err(refusal),
        };
        results.push(told(judged.name, topic.topic_id, judged.id, done));
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// What a request's line names, as far as the caller may know.
struct Judged {
    name: Option<String>,
    id: Uuid,
    refusal: Option<Refusal>,
}

fn judge(image: &Image, broker: &Broker, session: &Session, asked: &DeleteTopicState) -> Judged {
    let may = |operation, name: &str| broker.allows(session, operation, ResourceType::Topic, name);
    let denied = || Refusal::unauthorized(ResponseError::TopicAuthorizationFailed);
    match (&asked.name, asked.topic_id) {
        (Some(name), id) if id.is_nil() => {
            let (name, held) = (name.to_string(), image.topics.get(name.as_str()));
            let refusal = match held {
                _ if !may(Operation::Delete, &name) => Some(denied()),
                None => Some(Refusal::new(ResponseError::UnknownTopicOrPartition, "no such topic")),
                Some(_) => None,
            };
            let id = held.filter(|_| refusal.is_none()).map_or(Uuid::nil(), |topic| topic.id);
            Judged { name: Some(name), id, refusal }
        }
        (None, id) if !id.is_nil() => match image.topics_by_id.get(&id).filter(|topic| may(Operation::Describe, &topic.name)) {
            // Whoever may not describe the topic learns neither its name nor that it is there.
            None => Judged { name: None, id, refusal: Some(Refusal::new(ResponseError::UnknownTopicId, "no topic of this id")) },
            Some(topic) => {
                let refusal = (!may(Operation::Delete, &topic.name)).then(denied);
                Judged { name: Some(topic.name.clone()), id, refusal }
            }
        },
        (name, id) => {
            let name = name.as_ref().map(|name| name.to_string());
            Judged { name, id, refusal: Some(Refusal::invalid("a topic is named by its name or by its id, not by both or neither")) }
        }
    }
}

async fn delete(broker: &Broker, judged: &Judged) -> Result<(), Refusal> {
    let Some(name) = judged.name.clone() else { return Err(Refusal::invalid("a topic without a name")) };
    let answer = broker.controller.submit(Command::DeleteTopic { name, id: judged.id }).await?;
    of_answer(answer, ResponseError::InvalidRequest).map(|_| ())
}

/// The id is told where it was asked by, or where the topic was deleted.
fn told(name: Option<String>, asked: Uuid, id: Uuid, done: Result<(), Refusal>) -> DeletableTopicResult {
    let name = name.map(|name| TopicName(StrBytes::from_string(name)));
    let result = DeletableTopicResult::default().with_name(name);
    match done {
        Ok(()) => result.with_topic_id(id).with_error_message(None),
        Err(refusal) => result.with_topic_id(asked).with_error_code(refusal.code()).with_error_message(refusal.text()),
    }
}
