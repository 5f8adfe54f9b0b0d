//! What can go wrong between a client and its cluster, in words that say what to do next.

use std::io;
use std::path::PathBuf;

use kafka_protocol::error::ResponseError;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach {address}: {reason}; is the mesh running?")]
    Unreachable { address: String, reason: String },
    #[error("none of the nodes {addresses} can be reached ({last}); is the mesh running?")]
    NoNode { addresses: String, last: String },
    #[error("the connection to {address} was lost: {reason}")]
    Lost { address: String, reason: String },
    #[error("no answer to {what} within {seconds} s")]
    Deadline { what: String, seconds: u64 },
    #[error("{address} sent what is no answer to {what}: {reason}")]
    Malformed { address: String, what: &'static str, reason: String },
    #[error("{address} and this client share no version of {what}")]
    Unsupported { address: String, what: &'static str },
    #[error("{address} refuses the token: {reason}; `meridian token issue --sub NAME` makes a new one for a development mesh")]
    Refused { address: String, reason: String },
    #[error("cannot read the token in {path}: {reason}")]
    Token { path: PathBuf, reason: String },
    #[error("{what}: {} ({}){}{}", name(*.error), .error.code(), .message.as_ref().map(|message| format!(": {message}")).unwrap_or_default(), advice(*.error))]
    Kafka { what: String, error: ResponseError, message: Option<String> },
    #[error("{0}")]
    Records(String),
}

impl ClientError {
    /// An error code of an answer; None for success.
    pub fn of_code(what: impl Into<String>, code: i16, message: Option<&str>) -> Option<ClientError> {
        let error = ResponseError::try_from_code(code)?;
        Some(ClientError::Kafka { what: what.into(), error, message: message.filter(|text| !text.is_empty()).map(str::to_owned) })
    }

    /// Whether the same question may be answered better a moment later, perhaps by another node.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::NoNode { .. } | ClientError::Lost { .. } | ClientError::Deadline { .. } => true,
            // The crate calls a missing topic retriable, as Kafka does: its metadata may not have arrived at the node that was asked.
            ClientError::Kafka { error, .. } => error.is_retriable() || *error == ResponseError::BrokerNotAvailable,
            _ => false,
        }
    }

    /// The Kafka error in an answer, if it was one.
    pub fn kafka(&self) -> Option<ResponseError> {
        match self {
            ClientError::Kafka { error, .. } => Some(*error),
            _ => None,
        }
    }

    pub(super) fn unreachable(address: &str, error: &io::Error) -> ClientError {
        ClientError::Unreachable { address: address.into(), reason: error.to_string() }
    }
}

/// Kafka's own spelling: `TOPIC_AUTHORIZATION_FAILED`.
pub fn name(error: ResponseError) -> String {
    let mut name = String::new();
    for character in error.to_string().chars() {
        if character.is_ascii_uppercase() && !name.is_empty() && !name.ends_with(' ') {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

/// What whoever reads the error can do about it; empty where the error says it all.
fn advice(error: ResponseError) -> &'static str {
    match error {
        ResponseError::TopicAuthorizationFailed => {
            "; an operator may allow it: `meridian acl add --allow --principal User:NAME --operation read --topic T` (or write, …)"
        }
        ResponseError::GroupAuthorizationFailed => {
            "; an operator may allow it: `meridian acl add --allow --principal User:NAME --operation read --group G`"
        }
        ResponseError::ClusterAuthorizationFailed => "; only an operator may do this: use an operator's token (--token FILE)",
        ResponseError::UnknownTopicOrPartition => {
            "; `meridian topic list` shows the topics that this principal may see, `meridian topic create` makes one"
        }
        ResponseError::TopicAlreadyExists => "; add --if-not-exists to accept the topic as it is",
        ResponseError::MessageTooLarge => "; the topic's max.message.bytes decides",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_named_as_kafka_names_it() {
        assert_eq!(name(ResponseError::TopicAuthorizationFailed), "TOPIC_AUTHORIZATION_FAILED");
        assert_eq!(name(ResponseError::NotLeaderOrFollower), "NOT_LEADER_OR_FOLLOWER");
        let error = ClientError::of_code("topic flights", 29, Some("ann may not")).expect("an error");
        let text = error.to_string();
        assert!(text.starts_with("topic flights: TOPIC_AUTHORIZATION_FAILED (29): ann may not; "), "{text}");
        assert!(text.contains("meridian acl add"), "{text}");
        assert!(ClientError::of_code("x", 0, None).is_none());
    }

    #[test]
    fn what_a_moment_may_heal_is_tried_again() {
        let of = |code| ClientError::of_code("x", code, None).expect("an error").is_retriable();
        assert!(of(6) && of(5) && of(3) && of(7));
        assert!(!of(29) && !of(10) && !of(-1));
    }
}
