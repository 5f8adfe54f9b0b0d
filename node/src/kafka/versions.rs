//! Which versions of which APIs are served. The table itself is [`crate::kafka::api::TABLE`]; ApiVersions advertises it, and nothing else.

/// Never flexible: an API whose every version has the old encoding.
pub const NEVER: i16 = i16::MAX;

/// One API as it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    pub key: i16,
    /// The file in `kafka/api/` that answers it, for metrics and logs.
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// First version with compact lengths and tagged fields, [`NEVER`] where there is none.
    pub flexible_since: i16,
}

impl Api {
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}
