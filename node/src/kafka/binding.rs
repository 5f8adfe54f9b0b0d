//! ACL bindings and filters as Kafka's requests spell them, parsed into ours. What cannot be a rule is refused here, with the reason.

use std::net::IpAddr;

use kafka_protocol::ResponseError;
use meridian_auth::acl::{Binding, Filter, Operation, PatternFilter, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;

use super::refusal::Refusal;

/// The number that stands for any value in filters.
const ANY: i8 = 1;
const PATTERN_MATCH: i8 = 2;
/// Resource types of Kafka that have no rules here: delegation tokens and users.
const FOREIGN_RESOURCES: std::ops::RangeInclusive<i8> = 6..=7;
/// `TWO_PHASE_COMMIT` and what was added to it: operations that no resource of this mesh knows.
const FOREIGN_OPERATIONS: std::ops::RangeInclusive<i8> = 13..=15;

/// One rule's fields on the wire.
#[derive(Debug, Clone, Copy)]
pub struct BindingFields<'a> {
    pub resource: i8,
    pub pattern: i8,
    pub name: &'a str,
    pub principal: &'a str,
    pub host: &'a str,
    pub operation: i8,
    pub permission: i8,
}

/// One filter's fields on the wire; None matches any.
#[derive(Debug, Clone, Copy)]
pub struct FilterFields<'a> {
    pub resource: i8,
    pub pattern: i8,
    pub name: Option<&'a str>,
    pub principal: Option<&'a str>,
    pub host: Option<&'a str>,
    pub operation: i8,
    pub permission: i8,
}

impl BindingFields<'_> {
    pub fn parse(self) -> Result<Binding, Refusal> {
        let unknown = |what: &str, code: i8| Refusal::invalid(format!("{what} {code} cannot be in a rule"));
        let resource = ResourceType::from_code(self.resource).ok_or_else(|| unknown("resource type", self.resource))?;
        let pattern = PatternType::from_code(self.pattern).ok_or_else(|| unknown("pattern type", self.pattern))?;
        let operation = Operation::from_code(self.operation).ok_or_else(|| unknown("operation", self.operation))?;
        let permission = Permission::from_code(self.permission).ok_or_else(|| unknown("permission", self.permission))?;
        let principal = Principal::parse(self.principal)
            .ok_or_else(|| Refusal::invalid(format!("principal {:?} is not KIND:NAME, such as User:alice", self.principal)))?;
        if self.name.is_empty() {
            return Err(Refusal::invalid("the resource has no name"));
        }
        let host = host(self.host);
        if host != "*" && host.parse::<IpAddr>().is_err() {
            return Err(Refusal::invalid(format!("host {:?} is neither an address nor *", self.host)));
        }
        Ok(Binding { resource, pattern, name: self.name.to_owned(), principal, host, operation, permission })
    }
}

impl FilterFields<'_> {
    /// `None` where the filter is sound but nothing that exists here can match it.
    pub fn parse(self) -> Result<Option<Filter>, Refusal> {
        let unknown = |what: &str, code: i8| Refusal::invalid(format!("{what} {code} cannot be in a filter"));
        let mut possible = true;
        let mut resource = None;
        match (self.resource, ResourceType::from_code(self.resource)) {
            (ANY, _) => {}
            (code, None) if FOREIGN_RESOURCES.contains(&code) => possible = false,
            (code, None) => return Err(unknown("resource type", code)),
            (_, known) => resource = known,
        }
        let mut operation = None;
        match (self.operation, Operation::from_code(self.operation)) {
            (ANY, _) => {}
            (code, None) if FOREIGN_OPERATIONS.contains(&code) => possible = false,
            (code, None) => return Err(unknown("operation", code)),
            (_, known) => operation = known,
        }
        let permission = match (self.permission, Permission::from_code(self.permission)) {
            (ANY, _) => None,
            (code, None) => return Err(unknown("permission", code)),
            (_, known) => known,
        };
        let pattern = match (self.pattern, PatternType::from_code(self.pattern)) {
            (ANY, _) => PatternFilter::Any,
            (PATTERN_MATCH, _) => PatternFilter::Match,
            (_, Some(PatternType::Literal)) => PatternFilter::Literal,
            (_, Some(PatternType::Prefixed)) => PatternFilter::Prefixed,
            (code, None) => return Err(unknown("pattern type", code)),
        };
        // No rule has a principal that does not parse.
        let principal = self.principal.map(Principal::parse);
        possible &= principal != Some(None);
        let (name, host) = (self.name.map(str::to_owned), self.host.map(host));
        let filter = Filter { resource, pattern, name, principal: principal.flatten(), host, operation, permission };
        Ok(possible.then_some(filter))
    }
}

/// One spelling for each address, the one that sessions are compared by.
fn host(text: &str) -> String {
    text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_canonical().to_string())
}

/// The code for a caller who lacks an operation on a resource of this type.
pub fn denied(resource: ResourceType) -> ResponseError {
    match resource {
        ResourceType::Topic => ResponseError::TopicAuthorizationFailed,
        ResourceType::Group => ResponseError::GroupAuthorizationFailed,
        ResourceType::Cluster => ResponseError::ClusterAuthorizationFailed,
        ResourceType::TransactionalId => ResponseError::TransactionalIdAuthorizationFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: BindingFields<'static> =
        BindingFields { resource: 2, pattern: 3, name: "t", principal: "User:a", host: "*", operation: 3, permission: 3 };
    const ALL: FilterFields<'static> =
        FilterFields { resource: 1, pattern: 1, name: None, principal: None, host: None, operation: 1, permission: 1 };

    #[test]
    fn a_rule_is_read_with_one_spelling_of_its_host() {
        let binding = BindingFields { host: "::ffff:10.0.0.1", ..RULE }.parse().expect("a rule");
        assert_eq!((binding.host.as_str(), binding.operation), ("10.0.0.1", Operation::Read));
        assert_eq!(BindingFields { host: "2001:DB8:0::1", ..RULE }.parse().expect("a rule").host, "2001:db8::1");
    }

    #[test]
    fn what_cannot_be_a_rule_is_an_invalid_request_with_a_sentence() {
        let wrong = [
            BindingFields { resource: 1, ..RULE },
            BindingFields { resource: 7, ..RULE },
            BindingFields { pattern: 1, ..RULE },
            BindingFields { pattern: 2, ..RULE },
            BindingFields { name: "", ..RULE },
            BindingFields { principal: "alice", ..RULE },
            BindingFields { principal: "User:", ..RULE },
            BindingFields { host: "db.example", ..RULE },
            BindingFields { host: "", ..RULE },
            BindingFields { operation: 1, ..RULE },
            BindingFields { permission: 0, ..RULE },
        ];
        for fields in wrong {
            let refusal = fields.parse().expect_err("no rule");
            assert_eq!(refusal.error, ResponseError::InvalidRequest, "{fields:?}");
            assert!(!refusal.message.is_empty());
        }
    }

    #[test]
    fn filters_know_any_and_match_and_what_nothing_here_can_match() {
        assert_eq!(ALL.parse(), Ok(Some(Filter::default())));
        let matching = FilterFields { resource: 2, pattern: 2, name: Some("t"), ..ALL }.parse().expect("a filter").expect("possible");
        assert_eq!((matching.pattern, matching.resource), (PatternFilter::Match, Some(ResourceType::Topic)));
        for impossible in
            [FilterFields { resource: 7, ..ALL }, FilterFields { principal: Some("nobody"), ..ALL }, FilterFields { operation: 13, ..ALL }]
        {
            assert_eq!(impossible.parse(), Ok(None), "{impossible:?}");
        }
        for wrong in [
            FilterFields { resource: 0, ..ALL },
            FilterFields { pattern: 0, ..ALL },
            FilterFields { operation: -1, ..ALL },
            FilterFields { permission: 9, ..ALL },
        ] {
            assert!(wrong.parse().is_err(), "{wrong:?}");
        }
    }
}
