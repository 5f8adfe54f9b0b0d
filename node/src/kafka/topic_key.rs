//! How Produce and Fetch name a topic: by its name in older versions, by its id since version 13.

use std::sync::Arc;

use meridian_auth::acl::{Operation, ResourceType};
use uuid::Uuid;

use super::Asker;
use super::cursor::{Cursor, Cut};
use super::errors::ErrorCode;
use super::reply::Writer;
use crate::controller::image::Topic;

/// As it stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicRef<'a> {
    Name(&'a str),
    Id(Uuid),
}

/// The same, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicKey {
    Name(String),
    Id(Uuid),
}

impl<'a> TopicRef<'a> {
    pub fn read(cursor: &mut Cursor<'a>, by_id: bool) -> Result<TopicRef<'a>, Cut> {
        if by_id { cursor.uuid().map(TopicRef::Id) } else { cursor.string().map(TopicRef::Name) }
    }

    pub fn to_owned(self) -> TopicKey {
        match self {
            TopicRef::Name(name) => TopicKey::Name(name.to_owned()),
            TopicRef::Id(id) => TopicKey::Id(id),
        }
    }
}

impl TopicKey {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            TopicKey::Name(name) => writer.string(name),
            TopicKey::Id(id) => writer.uuid(*id),
        }
    }

    /// The topic, if the caller may do this with it. Who may not does not learn from a name whether there is such a topic.
    pub fn find(&self, asker: &Asker<'_>, operation: Operation) -> Result<Arc<Topic>, ErrorCode> {
        let may = |name: &str| {
            let allowed = asker.may(operation, ResourceType::Topic, name);
            if allowed { Ok(()) } else { Err(ErrorCode::TopicAuthorizationFailed) }
        };
        match self {
            TopicKey::Name(name) => {
                may(name)?;
                asker.image.topics.get(name).cloned().ok_or(ErrorCode::UnknownTopicOrPartition)
            }
            TopicKey::Id(id) => {
                let topic = asker.image.topics_by_id.get(id).ok_or(ErrorCode::UnknownTopicId)?;
                may(&topic.name)?;
                Ok(topic.clone())
            }
        }
    }
}
