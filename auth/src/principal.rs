//! A principal: who a connection speaks for, written `User:alice` as in Kafka.

use std::fmt;

/// Kind and name. `User:*` in an ACL stands for everyone; no authenticated principal has that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Principal {
    pub kind: String,
    pub name: String,
}

impl Principal {
    pub fn user(name: impl Into<String>) -> Self {
        Principal { kind: "User".into(), name: name.into() }
    }

    pub fn region(name: impl Into<String>) -> Self {
        Principal { kind: "Region".into(), name: name.into() }
    }

    /// Parses `Kind:name`; None without a colon or with an empty half.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        if kind.is_empty() || name.is_empty() {
            return None;
        }
        Some(Principal { kind: kind.into(), name: name.into() })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}
