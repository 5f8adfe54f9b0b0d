//! `meridian acl add|list|remove`: who may do what.

use clap::{ArgGroup, Args, Subcommand};
use meridian_auth::acl::{Binding, CLUSTER_NAME, Filter, Operation, PatternFilter, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;

use super::output::{Format, json, line, table};
use super::region::Target;
use super::{CliError, block_on};
use crate::client::Cluster;

#[derive(Debug, Args)]
pub(super) struct Acl {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Allow or deny principals to do something with topics, groups or the cluster. A deny wins over every allow
    #[command(group(ArgGroup::new("effect").required(true).args(["allow", "deny"])), group(resources(true)))]
    Add {
        #[command(flatten)]
        rule: Rule,
    },
    /// Show the rules of this region that match every option given
    #[command(group(ArgGroup::new("effect").args(["allow", "deny"])), group(resources(false)))]
    List {
        #[command(flatten)]
        rule: Rule,
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Remove the rules that match every option given, and show them
    #[command(group(ArgGroup::new("effect").args(["allow", "deny"])), group(resources(false)))]
    Remove {
        #[command(flatten)]
        rule: Rule,
    },
}

fn resources(required: bool) -> ArgGroup {
    let names = ["topic", "topic_prefix", "group", "group_prefix", "transactional_id", "cluster"];
    ArgGroup::new("resource").required(required).multiple(true).args(names)
}

#[derive(Debug, Default, Args)]
struct Rule {
    /// A rule that allows
    #[arg(long)]
    allow: bool,
    /// A rule that denies
    #[arg(long)]
    deny: bool,
    /// Whom: User:ann, or User:* for everyone; may be given several times
    #[arg(long = "principal", value_name = "User:NAME", value_parser = parse_principal)]
    principals: Vec<Principal>,
    /// What: read, write, create, delete, alter, describe, alter-configs, describe-configs, idempotent-write, cluster-action or all;
    /// several separated by commas
    #[arg(long = "operation", value_name = "OPERATIONS", value_delimiter = ',', value_parser = parse_operation)]
    operations: Vec<Operation>,
    /// A topic by name, or * for every topic
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Every topic whose name begins so
    #[arg(long, value_name = "PREFIX")]
    topic_prefix: Vec<String>,
    /// A consumer group by name, or * for every group
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Every consumer group whose name begins so
    #[arg(long, value_name = "PREFIX")]
    group_prefix: Vec<String>,
    /// A transactional id
    #[arg(long, value_name = "NAME")]
    transactional_id: Vec<String>,
    /// The region's cluster itself
    #[arg(long)]
    cluster: bool,
    /// From which address they connect [default for add: *, any]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
}

fn parse_principal(text: &str) -> Result<Principal, String> {
    Principal::parse(text).ok_or_else(|| format!("{text:?} is no principal; write User:NAME, or User:* for everyone"))
}

fn parse_operation(text: &str) -> Result<Operation, String> {
    let name = text.trim().to_ascii_lowercase().replace('-', "_");
    serde_json::from_value(serde_json::Value::String(name)).map_err(|_| {
        let known = "read, write, create, delete, alter, describe, alter-configs, describe-configs, idempotent-write, cluster-action, all";
        format!("{text:?} is no operation; there are {known}")
    })
}

/// An enum as it is written in commands.
fn word(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned));
    text.unwrap_or_default().replace('_', "-")
}

impl Rule {
    fn permission(&self) -> Option<Permission> {
        match (self.allow, self.deny) {
            (true, _) => Some(Permission::Allow),
            (_, true) => Some(Permission::Deny),
            _ => None,
        }
    }

    fn resources(&self) -> Vec<(ResourceType, PatternType, String)> {
        let of = |names: &[String], resource, pattern| names.iter().map(move |name| (resource, pattern, name.clone())).collect::<Vec<_>>();
        let mut resources = of(&self.topic, ResourceType::Topic, PatternType::Literal);
        resources.extend(of(&self.topic_prefix, ResourceType::Topic, PatternType::Prefixed));
        resources.extend(of(&self.group, ResourceType::Group, PatternType::Literal));
        resources.extend(of(&self.group_prefix, ResourceType::Group, PatternType::Prefixed));
        resources.extend(of(&self.transactional_id, ResourceType::TransactionalId, PatternType::Literal));
        if self.cluster {
            resources.push((ResourceType::Cluster, PatternType::Literal, CLUSTER_NAME.into()));
        }
        resources
    }

    /// Every combination of what was given.
    fn bindings(&self) -> Result<Vec<Binding>, CliError> {
        let permission = self.permission().ok_or_else(|| CliError::Usage("say --allow or --deny".into()))?;
        if self.principals.is_empty() || self.operations.is_empty() {
            return Err(CliError::Usage("say whom and what: --principal User:NAME --operation read".into()));
        }
        let host = self.host.clone().unwrap_or_else(|| "*".into());
        let mut bindings = Vec::new();
        for (resource, pattern, name) in self.resources() {
            for principal in &self.principals {
                for operation in &self.operations {
                    let (name, principal, host) = (name.clone(), principal.clone(), host.clone());
                    bindings.push(Binding { resource, pattern, name, principal, host, operation: *operation, permission });
                }
            }
        }
        Ok(bindings)
    }

    /// Filters that together select what matches every kind of option given.
    fn filters(&self) -> Vec<Filter> {
        let any = Filter { permission: self.permission(), host: self.host.clone(), ..Filter::default() };
        let mut filters = vec![any];
        let resources = self.resources();
        if !resources.is_empty() {
            let of = |filter: &Filter, (resource, pattern, name): &(ResourceType, PatternType, String)| Filter {
                resource: Some(*resource),
                pattern: if *pattern == PatternType::Literal { PatternFilter::Literal } else { PatternFilter::Prefixed },
                name: Some(name.clone()),
                ..filter.clone()
            };
            filters = filters.iter().flat_map(|filter| resources.iter().map(move |resource| of(filter, resource))).collect();
        }
        if !self.principals.is_empty() {
            let of = |filter: &Filter, principal: &Principal| Filter { principal: Some(principal.clone()), ..filter.clone() };
            filters = filters.iter().flat_map(|filter| self.principals.iter().map(move |principal| of(filter, principal))).collect();
        }
        if !self.operations.is_empty() {
            let of = |filter: &Filter, operation: Operation| Filter { operation: Some(operation), ..filter.clone() };
            filters = filters.iter().flat_map(|filter| self.operations.iter().map(move |operation| of(filter, *operation))).collect();
        }
        filters
    }
}

impl Acl {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = self.target.connect()?;
        block_on(async {
            match self.verb {
                Verb::Add { rule } => add(&cluster, &rule).await,
                Verb::List { rule, format } => list(&cluster, &rule, format).await,
                Verb::Remove { rule } => remove(&cluster, &rule).await,
            }
        })
    }
}

async fn add(cluster: &Cluster, rule: &Rule) -> Result<(), CliError> {
    let bindings = rule.bindings()?;
    cluster.create_acls(&bindings).await?;
    line(format_args!("added:\n{}", rules(&bindings).trim_end()))
}

async fn list(cluster: &Cluster, rule: &Rule, format: Format) -> Result<(), CliError> {
    let mut bindings = Vec::new();
    for filter in rule.filters() {
        bindings.extend(cluster.acls(&filter).await?);
    }
    bindings.sort();
    bindings.dedup();
    match format {
        Format::Json => json(&bindings),
        Format::Table => line(rules(&bindings).trim_end()),
    }
}

async fn remove(cluster: &Cluster, rule: &Rule) -> Result<(), CliError> {
    let filters = rule.filters();
    if filters == [Filter::default()] {
        return Err(CliError::Usage("say which rules to remove, for example --topic T or --principal User:NAME".into()));
    }
    let mut removed = Vec::new();
    for filter in filters {
        removed.extend(cluster.delete_acls(&filter).await?);
    }
    if removed.is_empty() {
        return Err(CliError::Usage("no rule matches; `meridian acl list` shows them all".into()));
    }
    line(format_args!("removed:\n{}", rules(&removed).trim_end()))
}

fn rules(bindings: &[Binding]) -> String {
    let row = |binding: &Binding| {
        let name = if binding.pattern == PatternType::Prefixed { format!("{}…", binding.name) } else { binding.name.clone() };
        vec![
            word(&binding.permission),
            binding.principal.to_string(),
            word(&binding.operation),
            word(&binding.resource),
            name,
            binding.host.clone(),
        ]
    };
    let rows: Vec<_> = bindings.iter().map(row).collect();
    table(&["effect", "principal", "operation", "resource", "name", "from host"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rule {
            allow: true,
            principals: vec![Principal::user("ann"), Principal::user("bob")],
            operations: vec![Operation::Read, Operation::Describe],
            topic: vec!["flights".into()],
            topic_prefix: vec!["air".into()],
            ..Rule::default()
        }
    }

    #[test]
    fn a_rule_is_every_combination_of_what_was_given() {
        let bindings = rule().bindings().expect("bindings");
        assert_eq!(bindings.len(), 8);
        assert!(bindings.iter().all(|binding| binding.permission == Permission::Allow && binding.host == "*"));
        assert_eq!(bindings.iter().filter(|binding| binding.pattern == PatternType::Prefixed && binding.name == "air").count(), 4);
        assert!(Rule { principals: Vec::new(), ..rule() }.bindings().is_err());
        assert!(Rule { allow: false, ..rule() }.bindings().is_err());
    }

    #[test]
    fn a_filter_leaves_open_what_was_not_given() {
        assert_eq!(Rule::default().filters(), [Filter::default()]);
        assert_eq!(rule().filters().len(), 8);
        let filters = Rule { topic: vec!["flights".into()], ..Rule::default() }.filters();
        assert_eq!(filters.len(), 1);
        assert_eq!(
            (filters[0].resource, filters[0].pattern, filters[0].operation),
            (Some(ResourceType::Topic), PatternFilter::Literal, None)
        );
    }

    #[test]
    fn operations_are_written_with_hyphens() {
        assert_eq!(parse_operation("Alter-Configs"), Ok(Operation::AlterConfigs));
        assert_eq!(word(&Operation::AlterConfigs), "alter-configs");
        assert!(parse_operation("fly").expect_err("no operation").contains("describe"));
    }
}
