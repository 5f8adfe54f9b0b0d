//! All bindings of one origin, and the decision over them. Deny wins; nothing matching means no.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use super::{Binding, Filter, Operation, PatternFilter, PatternType, Permission, Request, ResourceType};
use crate::principal::Principal;

/// The name that stands for every resource, principal or host.
const WILDCARD: &str = "*";

/// Bindings by resource, so that a decision reads only those that name the resource, a prefix of it, or everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    by_resource: BTreeMap<(ResourceType, PatternType, String), BTreeSet<Binding>>,
}

impl Store {
    /// True when it was not there before.
    pub fn add(&mut self, binding: Binding) -> bool {
        self.by_resource.entry((binding.resource, binding.pattern, binding.name.clone())).or_default().insert(binding)
    }

    /// Removes and returns what the filter selects.
    pub fn remove(&mut self, filter: &Filter) -> Vec<Binding> {
        let removed: Vec<Binding> = self.select(filter).cloned().collect();
        for binding in &removed {
            let key = (binding.resource, binding.pattern, binding.name.clone());
            if let Entry::Occupied(mut held) = self.by_resource.entry(key) {
                held.get_mut().remove(binding);
                if held.get().is_empty() {
                    held.remove();
                }
            }
        }
        removed
    }

    pub fn select<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = &'a Binding> + 'a {
        self.iter().filter(move |binding| selects(filter, binding))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.by_resource.values().flatten()
    }

    /// Kafka's rule without superusers: any matching deny refuses; else any matching allow (with implied operations) grants; else no.
    pub fn allows(&self, request: &Request<'_>) -> bool {
        let mut granted = false;
        for binding in self.about(request.resource, request.name) {
            if !covers_caller(binding, request.principal, request.host) {
                continue;
            }
            match binding.permission {
                Permission::Deny if names(binding.operation, request.operation) => return false,
                Permission::Allow if grants(binding.operation, request.operation) => granted = true,
                Permission::Deny | Permission::Allow => {}
            }
        }
        granted
    }

    /// True when a matching deny refuses the request, whatever is allowed: for deciding over several stores together.
    pub fn denies(&self, request: &Request<'_>) -> bool {
        self.about(request.resource, request.name).any(|binding| {
            binding.permission == Permission::Deny
                && covers_caller(binding, request.principal, request.host)
                && names(binding.operation, request.operation)
        })
    }

    /// May the principal do `operation` on at least one resource of this type? (Kafka's `authorizeByResourceType`: an allow counts
    /// unless a deny covers every resource that the allow names.)
    pub fn allows_any(&self, principal: &Principal, host: &str, operation: Operation, resource: ResourceType) -> bool {
        let relevant = || self.iter().filter(|binding| binding.resource == resource && covers_caller(binding, principal, host));
        let denies: Vec<&Binding> =
            relevant().filter(|binding| binding.permission == Permission::Deny && names(binding.operation, operation)).collect();
        relevant()
            .filter(|binding| binding.permission == Permission::Allow && grants(binding.operation, operation))
            .any(|allow| !denies.iter().any(|deny| swallows(deny, allow)))
    }

    /// Bindings that affect the resource of this name.
    fn about<'a>(&'a self, resource: ResourceType, name: &'a str) -> impl Iterator<Item = &'a Binding> + 'a {
        let literal = move |text: &str| self.by_resource.get(&(resource, PatternType::Literal, text.to_string()));
        let from = (resource, PatternType::Prefixed, String::new());
        let to = (resource, PatternType::Prefixed, name.to_string());
        let prefixed = self.by_resource.range(from..=to).filter(move |(key, _)| name.starts_with(key.2.as_str())).map(|(_, set)| set);
        let everything = if name == WILDCARD { None } else { literal(WILDCARD) };
        literal(name).into_iter().chain(everything).chain(prefixed).flatten()
    }
}

fn covers_caller(binding: &Binding, principal: &Principal, host: &str) -> bool {
    let caller =
        binding.principal.kind == principal.kind && (binding.principal.name == principal.name || binding.principal.name == WILDCARD);
    caller && (binding.host == WILDCARD || binding.host == host)
}

fn names(bound: Operation, asked: Operation) -> bool {
    bound == Operation::All || bound == asked
}

/// What an allow gives beyond its own operation.
fn grants(bound: Operation, asked: Operation) -> bool {
    use Operation::*;
    names(bound, asked) || matches!((bound, asked), (Read | Write | Delete | Alter, Describe) | (AlterConfigs, DescribeConfigs))
}

/// Does the deny's pattern cover every resource that the allow's does?
fn swallows(deny: &Binding, allow: &Binding) -> bool {
    match (deny.pattern, allow.pattern) {
        (PatternType::Literal, _) if deny.name == WILDCARD => true,
        (PatternType::Literal, PatternType::Literal) => deny.name == allow.name,
        (PatternType::Literal, PatternType::Prefixed) => false,
        (PatternType::Prefixed, PatternType::Literal) if allow.name == WILDCARD => false,
        (PatternType::Prefixed, _) => allow.name.starts_with(&deny.name),
    }
}

fn selects(filter: &Filter, binding: &Binding) -> bool {
    fn any<T: PartialEq>(wanted: &Option<T>, actual: &T) -> bool {
        wanted.as_ref().is_none_or(|wanted| wanted == actual)
    }
    any(&filter.resource, &binding.resource)
        && any(&filter.principal, &binding.principal)
        && any(&filter.host, &binding.host)
        && any(&filter.operation, &binding.operation)
        && any(&filter.permission, &binding.permission)
        && selects_name(filter, binding)
}

fn selects_name(filter: &Filter, binding: &Binding) -> bool {
    let Some(name) = &filter.name else {
        return match filter.pattern {
            PatternFilter::Any | PatternFilter::Match => true,
            PatternFilter::Literal => binding.pattern == PatternType::Literal,
            PatternFilter::Prefixed => binding.pattern == PatternType::Prefixed,
        };
    };
    match (filter.pattern, binding.pattern) {
        (PatternFilter::Any, _) => binding.name == *name,
        (PatternFilter::Literal, pattern) => pattern == PatternType::Literal && binding.name == *name,
        (PatternFilter::Prefixed, pattern) => pattern == PatternType::Prefixed && binding.name == *name,
        (PatternFilter::Match, PatternType::Literal) => binding.name == *name || binding.name == WILDCARD,
        (PatternFilter::Match, PatternType::Prefixed) => name.starts_with(&binding.name),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binding(
        resource: ResourceType,
        pattern: PatternType,
        name: &str,
        who: &str,
        operation: Operation,
        permission: Permission,
    ) -> Binding {
        let principal = Principal::user(who);
        Binding { resource, pattern, name: name.into(), principal, host: "*".into(), operation, permission }
    }

    fn topic(pattern: PatternType, name: &str, who: &str, operation: Operation, permission: Permission) -> Binding {
        binding(ResourceType::Topic, pattern, name, who, operation, permission)
    }

    fn asks(store: &Store, who: &str, operation: Operation, name: &str) -> bool {
        let principal = Principal::user(who);
        store.allows(&Request { principal: &principal, host: "10.0.0.1", operation, resource: ResourceType::Topic, name })
    }

    #[test]
    fn nothing_is_allowed_by_silence() {
        assert!(!asks(&Store::default(), "ann", Operation::Describe, "flights"));
    }

    #[test]
    fn deny_wins_over_any_number_of_allows() {
        let mut store = Store::default();
        store.add(topic(PatternType::Literal, "*", "*", Operation::All, Permission::Allow));
        store.add(topic(PatternType::Literal, "flights", "ann", Operation::Read, Permission::Allow));
        assert!(asks(&store, "ann", Operation::Read, "flights"));
        store.add(topic(PatternType::Prefixed, "fli", "ann", Operation::Read, Permission::Deny));
        assert!(!asks(&store, "ann", Operation::Read, "flights"));
        assert!(asks(&store, "bob", Operation::Read, "flights"));
    }

    #[test]
    fn read_implies_describe_but_a_deny_of_read_does_not_hide() {
        let mut store = Store::default();
        store.add(topic(PatternType::Literal, "flights", "ann", Operation::Write, Permission::Allow));
        store.add(topic(PatternType::Literal, "flights", "ann", Operation::Read, Permission::Deny));
        assert!(asks(&store, "ann", Operation::Describe, "flights"));
        assert!(!asks(&store, "ann", Operation::Read, "flights"));
    }

    #[test]
    fn a_prefix_matches_what_starts_with_it_and_no_more() {
        let mut store = Store::default();
        store.add(topic(PatternType::Prefixed, "team-", "ann", Operation::Read, Permission::Allow));
        assert!(asks(&store, "ann", Operation::Read, "team-") && asks(&store, "ann", Operation::Read, "team-a"));
        assert!(!asks(&store, "ann", Operation::Read, "team") && !asks(&store, "ann", Operation::Read, "steam-a"));
    }

    #[test]
    fn a_prefix_named_star_is_no_wildcard() {
        let mut store = Store::default();
        store.add(topic(PatternType::Prefixed, "*", "ann", Operation::Read, Permission::Allow));
        assert!(!asks(&store, "ann", Operation::Read, "flights"));
    }

    #[test]
    fn a_host_rule_holds_for_that_host_only() {
        let mut store = Store::default();
        store.add(Binding { host: "10.0.0.2".into(), ..topic(PatternType::Literal, "t", "ann", Operation::Read, Permission::Allow) });
        assert!(!asks(&store, "ann", Operation::Read, "t"));
    }

    #[test]
    fn removing_what_a_filter_selects_leaves_the_rest() {
        let mut store = Store::default();
        let kept = topic(PatternType::Literal, "other", "ann", Operation::Read, Permission::Allow);
        store.add(kept.clone());
        store.add(topic(PatternType::Literal, "flights", "ann", Operation::Read, Permission::Allow));
        store.add(topic(PatternType::Prefixed, "fl", "bob", Operation::Read, Permission::Allow));
        let matching = Filter { name: Some("flights".into()), pattern: PatternFilter::Match, ..Filter::default() };
        assert_eq!(store.remove(&matching).len(), 2);
        assert_eq!(store.iter().collect::<Vec<_>>(), [&kept]);
    }

    #[test]
    fn any_resource_counts_unless_a_deny_swallows_it() {
        let ann = Principal::user("ann");
        let any = |store: &Store| store.allows_any(&ann, "h", Operation::Write, ResourceType::Topic);
        let mut store = Store::default();
        assert!(!any(&store));
        store.add(topic(PatternType::Literal, "team-a", "ann", Operation::Write, Permission::Allow));
        assert!(any(&store));
        store.add(topic(PatternType::Prefixed, "team-", "ann", Operation::All, Permission::Deny));
        assert!(!any(&store));
    }

    fn naive(bindings: &[Binding], request: &Request<'_>) -> bool {
        let matching: Vec<&Binding> = bindings
            .iter()
            .filter(|b| b.resource == request.resource)
            .filter(|b| match b.pattern {
                PatternType::Literal => b.name == "*" || b.name == request.name,
                PatternType::Prefixed => request.name.starts_with(&b.name),
            })
            .filter(|b| {
                b.principal.kind == request.principal.kind && ["*", request.principal.name.as_str()].contains(&b.principal.name.as_str())
            })
            .filter(|b| ["*", request.host].contains(&b.host.as_str()))
            .collect();
        let same = |b: &&&Binding| b.operation == Operation::All || b.operation == request.operation;
        if matching.iter().filter(same).any(|b| b.permission == Permission::Deny) {
            return false;
        }
        let implied = match request.operation {
            Operation::Describe => vec![Operation::Read, Operation::Write, Operation::Delete, Operation::Alter],
            Operation::DescribeConfigs => vec![Operation::AlterConfigs],
            _ => vec![],
        };
        matching.iter().filter(|b| b.permission == Permission::Allow).any(|b| same(&b) || implied.contains(&b.operation))
    }

    fn any_binding() -> impl Strategy<Value = Binding> {
        let resource = prop::sample::select(vec![ResourceType::Topic, ResourceType::Group]);
        let pattern = prop::sample::select(vec![PatternType::Literal, PatternType::Prefixed]);
        let name = prop::sample::select(vec!["*", "a", "ab", "abc", "b"]);
        let who = prop::sample::select(vec!["*", "ann", "bob"]);
        let host = prop::sample::select(vec!["*", "h1", "h2"]);
        let operation = (2i8..=12).prop_filter_map("an operation", Operation::from_code);
        let permission = prop::sample::select(vec![Permission::Allow, Permission::Allow, Permission::Deny]);
        (resource, pattern, name, who, host, operation, permission).prop_map(
            |(resource, pattern, name, who, host, operation, permission)| Binding {
                host: host.into(),
                ..binding(resource, pattern, name, who, operation, permission)
            },
        )
    }

    proptest! {
        #[test]
        fn decisions_agree_with_a_naive_reading_of_the_rule(
            bindings in prop::collection::vec(any_binding(), 0..12),
            name in prop::sample::select(vec!["a", "ab", "abcd", "b", "c"]),
            who in prop::sample::select(vec!["ann", "bob", "eve"]),
            host in prop::sample::select(vec!["h1", "h3"]),
            operation in (3i8..=12).prop_filter_map("an operation", Operation::from_code),
        ) {
            let mut store = Store::default();
            for binding in &bindings {
                store.add(binding.clone());
            }
            let principal = Principal::user(who);
            let request = Request { principal: &principal, host, operation, resource: ResourceType::Topic, name };
            prop_assert_eq!(store.allows(&request), naive(&bindings, &request));
        }
    }
}
