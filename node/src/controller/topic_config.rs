//! Every topic config Meridian knows: type, default, check. Kafka's names where Kafka has the thing, `mesh.*` for ours.

use std::collections::BTreeMap;

/// One documented config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
}

/// DescribeConfigs' types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    String,
    Int,
    Long,
    List,
}

pub fn definitions() -> &'static [Definition] {
    unimplemented!()
}

/// The value in force: what was set, else the default. None for an unknown name.
pub fn value<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let _ = (configs, name);
    unimplemented!()
}
