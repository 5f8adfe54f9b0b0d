//! `meridian topic create|list|describe|delete-records|delete`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;

use super::output::{Format, json, line, table};
use super::region::Target;
use super::{CliError, block_on};
use crate::client::admin::{Config, NewTopic, TopicDescription};
use crate::client::{ClientError, Cluster};
use crate::controller::topic_config::{HOME, MIRRORS};

#[derive(Debug, Args)]
pub(super) struct Topic {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a topic whose home is the region talked to
    Create {
        /// Its name: letters, digits, '.', '_' and '-'
        name: String,
        /// How many parts it has, each a log of its own [default: the node's choice]
        #[arg(long, value_name = "N")]
        partitions: Option<i32>,
        /// Nodes that keep each partition [default: the node's choice]
        #[arg(long, value_name = "N")]
        replication_factor: Option<i16>,
        /// Regions that keep a copy, separated by commas
        #[arg(long, value_name = "REGIONS")]
        mirrors: Option<String>,
        /// A config of the topic, such as retention.ms=3600000; may be given several times
        #[arg(long = "topic-config", short = 'c', value_name = "KEY=VALUE", value_parser = key_value)]
        configs: Vec<(String, String)>,
        /// Succeed where the topic is there already, and leave it as it is
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Name every topic that you may see
    List {
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
        /// Topics that nodes keep for themselves too
        #[arg(long)]
        internal: bool,
    },
    /// Show a topic's partitions, who leads them, and its configs
    Describe {
        /// The topic
        name: String,
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Let a partition begin at a later offset; whole segments before it are removed from every replica, and the mirrors follow
    #[command(visible_alias = "trim")]
    DeleteRecords {
        /// The topic
        name: String,
        /// Which of its partitions [default: all]
        #[arg(long, value_name = "N")]
        partition: Option<i32>,
        /// The first offset that is kept; `end` is behind all records
        #[arg(long, value_name = "OFFSET", value_parser = offset_or_end)]
        before: Before,
    },
    /// Remove a topic, its records and its mirrors
    Delete {
        /// The topic
        name: String,
        /// Succeed where there is no such topic
        #[arg(long)]
        if_exists: bool,
    },
}

/// Which records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Offset(i64),
    End,
}

fn offset_or_end(text: &str) -> Result<Before, String> {
    match (text, text.parse()) {
        ("end", _) => Ok(Before::End),
        (_, Ok(offset)) if offset >= 0 => Ok(Before::Offset(offset)),
        _ => Err("an offset is a number from 0, or `end`".into()),
    }
}

/// `KEY=VALUE`
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a config is KEY=VALUE".into()),
    }
}

/// A topic as `describe` and `list` tell it.
#[derive(Debug, serde::Serialize)]
struct Told {
    #[serde(flatten)]
    topic: TopicDescription,
    home: Option<String>,
    mirrors: Option<String>,
    configs: Option<Vec<Config>>,
}

impl Topic {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = self.target.connect()?;
        block_on(async {
            match self.verb {
                Verb::Create { name, partitions, replication_factor, mirrors, configs, if_not_exists } => {
                    let mut configs: BTreeMap<_, _> = configs.into_iter().collect();
                    configs.extend(mirrors.map(|mirrors| (MIRRORS.to_owned(), mirrors)));
                    create(&cluster, NewTopic { name, partitions, replication_factor, configs }, if_not_exists).await
                }
                Verb::List { format, internal } => list(&cluster, format, internal).await,
                Verb::Describe { name, format } => describe(&cluster, &name, format).await,
                Verb::DeleteRecords { name, partition, before } => delete_records(&cluster, &name, partition, before).await,
                Verb::Delete { name, if_exists } => delete(&cluster, &name, if_exists).await,
            }
        })
    }
}

async fn create(cluster: &Cluster, topic: NewTopic, if_not_exists: bool) -> Result<(), CliError> {
    match cluster.create_topic(&topic).await {
        Ok(()) => line(format_args!("topic {} created", topic.name)),
        Err(error) if if_not_exists && error.kafka() == Some(ResponseError::TopicAlreadyExists) => {
            line(format_args!("topic {} is there already", topic.name))
        }
        Err(error) => Err(error.into()),
    }
}

async fn delete_records(cluster: &Cluster, name: &str, partition: Option<i32>, before: Before) -> Result<(), CliError> {
    let partitions = match partition {
        Some(partition) => vec![partition],
        None => cluster.describe_topic(name).await?.partitions.iter().map(|partition| partition.partition).collect(),
    };
    let before = match before {
        Before::Offset(offset) => Some(offset),
        Before::End => None,
    };
    for partition in partitions {
        let start = cluster.delete_records(name, partition, before).await?;
        line(format_args!("topic {name}, partition {partition} begins at offset {start}"))?;
    }
    Ok(())
}

async fn delete(cluster: &Cluster, name: &str, if_exists: bool) -> Result<(), CliError> {
    match cluster.delete_topic(name).await {
        Ok(()) => line(format_args!("topic {name} deleted")),
        Err(error) if if_exists && error.kafka() == Some(ResponseError::UnknownTopicOrPartition) => {
            line(format_args!("there is no topic {name}"))
        }
        Err(error) => Err(error.into()),
    }
}

async fn tell(cluster: &Cluster, topic: TopicDescription) -> Result<Told, ClientError> {
    let configs = match cluster.topic_configs(&topic.name).await {
        Ok(configs) => Some(configs),
        // Who may see a topic need not be allowed to see its configs.
        Err(error) if error.kafka() == Some(ResponseError::TopicAuthorizationFailed) => None,
        Err(error) => return Err(error),
    };
    let value = |name: &str| configs.iter().flatten().find(|config| config.name == name).and_then(|config| config.value.clone());
    Ok(Told { home: value(HOME), mirrors: value(MIRRORS), topic, configs })
}

async fn list(cluster: &Cluster, format: Format, internal: bool) -> Result<(), CliError> {
    let mut told = Vec::new();
    for topic in cluster.list_topics().await?.into_iter().filter(|topic| internal || !topic.internal) {
        told.push(Told { configs: None, ..tell(cluster, topic).await? });
    }
    if format == Format::Json {
        return json(&told);
    }
    let row = |told: &Told| {
        let replicas = told.topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
        vec![
            told.topic.name.clone(),
            told.topic.partitions.len().to_string(),
            replicas.to_string(),
            told.home.clone().unwrap_or_else(|| "?".into()),
            told.mirrors.clone().unwrap_or_else(|| "?".into()),
        ]
    };
    let rows: Vec<_> = told.iter().map(row).collect();
    line(table(&["topic", "partitions", "replicas", "home", "mirrors"], &rows).trim_end())
}

async fn describe(cluster: &Cluster, name: &str, format: Format) -> Result<(), CliError> {
    let topic = cluster.describe_topic(name).await?;
    let told = tell(cluster, topic).await?;
    if format == Format::Json {
        return json(&told);
    }
    let home = told.home.as_deref().unwrap_or("unknown");
    let mirrors = told.mirrors.as_deref().filter(|mirrors| !mirrors.is_empty()).unwrap_or("none");
    line(format_args!("topic {}, id {}, home {home}, mirrors {mirrors}\n", told.topic.name, told.topic.id))?;
    let nodes = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let rows: Vec<_> = told
        .topic
        .partitions
        .iter()
        .map(|partition| {
            let leader = partition.leader.map_or_else(|| "none".into(), |leader| leader.to_string());
            let epoch = partition.leader_epoch.to_string();
            vec![partition.partition.to_string(), leader, epoch, nodes(&partition.replicas), nodes(&partition.in_sync)]
        })
        .collect();
    line(table(&["partition", "leader", "epoch", "replicas", "in sync"], &rows))?;
    let Some(configs) = told.configs else {
        return line("its configs may not be seen by this principal");
    };
    let set = |config: &Config| if config.is_set { "set" } else { "default" };
    let rows: Vec<_> =
        configs.iter().map(|config| vec![config.name.clone(), config.value.clone().unwrap_or_default(), set(config).into()]).collect();
    line(table(&["config", "value", "from"], &rows).trim_end())
}

#[cfg(test)]
mod tests {
    use super::{Before, key_value, offset_or_end};

    #[test]
    fn records_are_deleted_up_to_an_offset_or_all() {
        assert_eq!((offset_or_end("7"), offset_or_end("end")), (Ok(Before::Offset(7)), Ok(Before::End)));
        assert!(offset_or_end("-1").is_err() && offset_or_end("start").is_err());
    }

    #[test]
    fn a_config_has_a_key_and_maybe_an_empty_value() {
        assert_eq!(key_value("mesh.mirrors=eu,asia"), Ok(("mesh.mirrors".into(), "eu,asia".into())));
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("=x").is_err() && key_value("x").is_err());
    }
}
