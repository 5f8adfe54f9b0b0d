//! Why an administrative request was not done: a Kafka error code and a sentence. Here is the one table from the controller's refusals to codes.

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;

use crate::controller::command::Answer;
use crate::controller::create::CreateTopicError;
use crate::controller::handle::SubmitError;
use crate::controller::topic_config::TopicConfigError;

/// One refusal, as responses carry it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub error: ResponseError,
    pub message: String,
}

impl Refusal {
    pub fn new(error: ResponseError, message: impl Into<String>) -> Refusal {
        Refusal { error, message: message.into() }
    }

    /// The caller lacks an ACL. The sentence is the same whether the resource exists or not.
    pub fn unauthorized(error: ResponseError) -> Refusal {
        Refusal::new(error, "authorization failed")
    }

    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(ResponseError::InvalidRequest, message)
    }

    pub fn code(&self) -> i16 {
        self.error.code()
    }

    pub fn text(&self) -> Option<StrBytes> {
        Some(StrBytes::from_string(self.message.clone()))
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Refusal {
        let code = match error {
            // Clients look for the controller again, and retry.
            SubmitError::Unavailable => ResponseError::NotController,
            SubmitError::Timeout => ResponseError::RequestTimedOut,
            SubmitError::TooLarge(_) => ResponseError::InvalidRequest,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<TopicConfigError> for Refusal {
    fn from(error: TopicConfigError) -> Refusal {
        Refusal::new(ResponseError::InvalidConfig, error.to_string())
    }
}

impl From<CreateTopicError> for Refusal {
    fn from(error: CreateTopicError) -> Refusal {
        let code = match &error {
            CreateTopicError::Exists(_) => ResponseError::TopicAlreadyExists,
            CreateTopicError::Unknown(_) => ResponseError::UnknownTopicOrPartition,
            CreateTopicError::Name(_) => ResponseError::InvalidTopicException,
            CreateTopicError::Partitions(_) | CreateTopicError::Fewer { .. } => ResponseError::InvalidPartitions,
            CreateTopicError::ReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
            CreateTopicError::Assignment(_) => ResponseError::InvalidReplicaAssignment,
            CreateTopicError::Config(_) => ResponseError::InvalidConfig,
            CreateTopicError::HomedElsewhere { .. } => ResponseError::InvalidRequest,
            CreateTopicError::Refused(_) => ResponseError::PolicyViolation,
            CreateTopicError::Unavailable(error) => return error.clone().into(),
        };
        Refusal::new(code, error.to_string())
    }
}

/// What an answer of the controller refuses, if it does.
pub fn of_answer(answer: Answer, invalid: ResponseError) -> Result<Answer, Refusal> {
    match answer {
        Answer::TopicExists => Err(Refusal::new(ResponseError::TopicAlreadyExists, "the topic exists already")),
        Answer::UnknownTopic => Err(Refusal::new(ResponseError::UnknownTopicOrPartition, "no such topic")),
        Answer::HomedElsewhere { home } => {
            Err(Refusal::invalid(format!("the topic's home is region {home}; ask there, and its mirrors will follow")))
        }
        Answer::Invalid { message } => Err(Refusal::new(invalid, message)),
        done => Ok(done),
    }
}
