//! Kafka's ACL model: bindings, the filters that select them, and the store that decides. Deny wins; nothing matching means no.

mod store;

pub use store::Store;

use crate::principal::Principal;

macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($variant = $code),* }
        impl $name {
            /// The value's number on the wire.
            pub fn code(self) -> i8 { self as i8 }
            /// None for a number that names no concrete value (0 unknown, 1 any).
            pub fn from_code(code: i8) -> Option<Self> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
        }
    };
}

wire_enum! { /// What an ACL guards (Kafka `ResourceType`).
ResourceType { Topic = 2, Group = 3, Cluster = 4, TransactionalId = 5 } }
wire_enum! { /// How an ACL's resource name is matched (Kafka `PatternType`). A literal `*` matches every name.
PatternType { Literal = 3, Prefixed = 4 } }
wire_enum! { /// What may be done (Kafka `AclOperation`).
Operation { All = 2, Read = 3, Write = 4, Create = 5, Delete = 6, Alter = 7, Describe = 8, ClusterAction = 9, DescribeConfigs = 10, AlterConfigs = 11, IdempotentWrite = 12 } }
wire_enum! { /// Whether the binding grants or forbids.
Permission { Deny = 2, Allow = 3 } }

/// The name of the one cluster resource.
pub const CLUSTER_NAME: &str = "kafka-cluster";

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Binding {
    pub resource: ResourceType,
    pub pattern: PatternType,
    pub name: String,
    pub principal: Principal,
    /// `*` or an exact address.
    pub host: String,
    pub operation: Operation,
    pub permission: Permission,
}

/// Selects bindings (DescribeAcls, DeleteAcls). `None` matches any value.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    pub resource: Option<ResourceType>,
    pub pattern: PatternFilter,
    pub name: Option<String>,
    pub principal: Option<Principal>,
    pub host: Option<String>,
    pub operation: Option<Operation>,
    pub permission: Option<Permission>,
}

/// How a filter's name is compared with a binding's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternFilter {
    /// Any pattern type, name equal.
    #[default]
    Any,
    /// Every binding that would affect a resource of that name: literal, `*` and prefixes.
    Match,
    Literal,
    Prefixed,
}

/// One question: may `principal`, connected from `host`, do `operation` on this resource?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub principal: &'a Principal,
    pub host: &'a str,
    pub operation: Operation,
    pub resource: ResourceType,
    pub name: &'a str,
}
