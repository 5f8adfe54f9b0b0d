//! Which names a topic may have: Kafka's rules (`org.apache.kafka.common.internals.Topic`).

/// Kafka's bound: the name and a partition number must fit a file name.
pub const NAME_BYTES_MAX: usize = 249;

/// Topics that Meridian keeps for itself. Each region has its own; they are never mirrored.
pub const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    #[error("a topic name must not be empty")]
    Empty,
    #[error("a topic name has at most {NAME_BYTES_MAX} characters")]
    Long,
    #[error("a topic must not be named . or ..")]
    Dots,
    #[error("a topic name is made of ASCII letters, digits, '.', '_' and '-' only")]
    Character,
}

pub fn check(name: &str) -> Result<(), TopicNameError> {
    match name {
        "" => Err(TopicNameError::Empty),
        "." | ".." => Err(TopicNameError::Dots),
        long if long.len() > NAME_BYTES_MAX => Err(TopicNameError::Long),
        name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) => Ok(()),
        _ => Err(TopicNameError::Character),
    }
}

pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules_hold() {
        for name in ["a", "Orders.eu_2-x", "...", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert_eq!(check(""), Err(TopicNameError::Empty));
        assert_eq!(check(".."), Err(TopicNameError::Dots));
        assert_eq!(check(&"x".repeat(NAME_BYTES_MAX + 1)), Err(TopicNameError::Long));
        for name in ["a b", "a/b", "ä", "a\0"] {
            assert_eq!(check(name), Err(TopicNameError::Character), "{name}");
        }
    }
}
