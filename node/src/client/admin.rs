//! Changes and questions about topics and ACLs.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateTopicsRequest, DeleteAclsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeAclsRequest,
    DescribeConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;
use meridian_auth::acl::{Binding, Filter, Operation, PatternFilter, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;

use super::ClientError;
use super::cluster::{Cluster, Patience, topic_name};

/// How long a node may take to have a change on a majority of disks.
const TIMEOUT_MS: i32 = 15_000;
/// `AlterConfigs`' number for a topic.
const CONFIG_OF_TOPIC: i8 = 2;
/// Where a config's value comes from, if somebody set it on the topic.
const SOURCE_TOPIC: i8 = 1;

/// One partition as metadata tell it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    pub partition: i32,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TopicDescription {
    pub name: String,
    pub id: String,
    pub internal: bool,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Config {
    pub name: String,
    pub value: Option<String>,
    /// Somebody set it on this topic; otherwise it is the default.
    pub is_set: bool,
}

/// What a new topic should be; None leaves the choice to the node.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    pub name: String,
    pub partitions: Option<i32>,
    pub replication_factor: Option<i16>,
    pub configs: BTreeMap<String, String>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Asks until the answer is no error that a moment may heal.
macro_rules! patiently {
    ($attempt:expr) => {{
        let mut patience = Patience::default();
        loop {
            match $attempt.await {
                Ok(answer) => break Ok(answer),
                Err(error) => {
                    if let Err(error) = patience.after(error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

impl Cluster {
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), ClientError> {
        let config =
            |(name, value): (&String, &String)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(topic.configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(TIMEOUT_MS);
        patiently!(async {
            let response = self.ask(&request).await?;
            let result = response.topics.first().ok_or_else(|| ClientError::Records("the answer leaves the topic out".into()))?;
            let what = format!("topic {}", topic.name);
            ClientError::of_code(what, result.error_code, result.error_message.as_deref()).map_or(Ok(()), Err)
        })
    }

    /// Not tried again where the topic is unknown: that is the answer.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))])
            .with_timeout_ms(TIMEOUT_MS);
        let response = self.ask(&request).await?;
        let result = response.responses.first().ok_or_else(|| ClientError::Records("the answer leaves the topic out".into()))?;
        ClientError::of_code(format!("topic {name}"), result.error_code, result.error_message.as_deref()).map_or(Ok(()), Err)
    }

    /// Has a partition begin at `before` (None: behind all that is committed); where it begins then.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: Option<i64>) -> Result<i64, ClientError> {
        let asked = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before.unwrap_or(-1));
        let asked = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(TIMEOUT_MS);
        let what = || format!("topic {topic}, partition {partition}");
        patiently!(async {
            let leaders = self.topic_once(topic).await?.leaders;
            let unknown = ClientError::of_code(what(), kafka_protocol::error::ResponseError::UnknownTopicOrPartition.code(), None);
            let Some(leader) = leaders.get(&partition) else { return unknown.map_or(Ok(0), Err) };
            let response = self.node(leader.unwrap_or(-1)).await?.call(&request).await?;
            let result = response.topics.first().and_then(|topic| topic.partitions.first());
            let result = result.ok_or_else(|| ClientError::Records("the answer leaves the partition out".into()))?;
            ClientError::of_code(what(), result.error_code, None).map_or(Ok(result.low_watermark), Err)
        })
    }

    /// All topics that the principal may see, by name.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        let response = self.metadata(None).await?;
        let mut topics: Vec<_> = response.topics.iter().map(describe).collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let response = self.metadata(Some(&[name])).await?;
        let topic = response.topics.first().ok_or_else(|| ClientError::Records("the answer leaves the topic out".into()))?;
        ClientError::of_code(format!("topic {name}"), topic.error_code, None).map_or_else(|| Ok(describe(topic)), Err)
    }

    pub async fn topic_configs(&self, name: &str) -> Result<Vec<Config>, ClientError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(CONFIG_OF_TOPIC)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let response = self.ask(&DescribeConfigsRequest::default().with_resources(vec![resource])).await?;
        let result = response.results.first().ok_or_else(|| ClientError::Records("the answer leaves the topic out".into()))?;
        if let Some(error) = ClientError::of_code(format!("configs of topic {name}"), result.error_code, result.error_message.as_deref()) {
            return Err(error);
        }
        let config = |found: &kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| Config {
            name: found.name.to_string(),
            value: found.value.as_ref().map(StrBytes::to_string),
            is_set: found.config_source == SOURCE_TOPIC,
        };
        let mut configs: Vec<_> = result.configs.iter().map(config).collect();
        configs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(configs)
    }

    pub async fn create_acls(&self, bindings: &[Binding]) -> Result<(), ClientError> {
        let request = CreateAclsRequest::default().with_creations(bindings.iter().map(creation).collect());
        patiently!(async {
            let response = self.ask(&request).await?;
            let failed = response
                .results
                .iter()
                .find_map(|result| ClientError::of_code("the ACL", result.error_code, result.error_message.as_deref()));
            failed.map_or(Ok(()), Err)
        })
    }

    pub async fn acls(&self, filter: &Filter) -> Result<Vec<Binding>, ClientError> {
        let codes = FilterCodes::of(filter);
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(codes.resource)
            .with_resource_name_filter(codes.name)
            .with_pattern_type_filter(codes.pattern)
            .with_principal_filter(codes.principal)
            .with_host_filter(codes.host)
            .with_operation(codes.operation)
            .with_permission_type(codes.permission);
        let response = self.ask(&request).await?;
        if let Some(error) = ClientError::of_code("the ACLs", response.error_code, response.error_message.as_deref()) {
            return Err(error);
        }
        let mut bindings = Vec::new();
        for resource in &response.resources {
            for acl in &resource.acls {
                let of = (resource.resource_type, resource.pattern_type, acl.operation, acl.permission_type);
                bindings.push(binding(of, &resource.resource_name, &acl.principal, &acl.host)?);
            }
        }
        bindings.sort();
        Ok(bindings)
    }

    /// Removes every binding that the filter selects, and returns them.
    pub async fn delete_acls(&self, filter: &Filter) -> Result<Vec<Binding>, ClientError> {
        let codes = FilterCodes::of(filter);
        let deletion = DeleteAclsFilter::default()
            .with_resource_type_filter(codes.resource)
            .with_resource_name_filter(codes.name)
            .with_pattern_type_filter(codes.pattern)
            .with_principal_filter(codes.principal)
            .with_host_filter(codes.host)
            .with_operation(codes.operation)
            .with_permission_type(codes.permission);
        let response = self.ask(&DeleteAclsRequest::default().with_filters(vec![deletion])).await?;
        let mut bindings = Vec::new();
        for result in &response.filter_results {
            if let Some(error) = ClientError::of_code("the ACLs", result.error_code, result.error_message.as_deref()) {
                return Err(error);
            }
            for acl in &result.matching_acls {
                if let Some(error) = ClientError::of_code("an ACL", acl.error_code, acl.error_message.as_deref()) {
                    return Err(error);
                }
                let of = (acl.resource_type, acl.pattern_type, acl.operation, acl.permission_type);
                bindings.push(binding(of, &acl.resource_name, &acl.principal, &acl.host)?);
            }
        }
        bindings.sort();
        Ok(bindings)
    }
}

fn describe(topic: &kafka_protocol::messages::metadata_response::MetadataResponseTopic) -> TopicDescription {
    let ids = |nodes: &[kafka_protocol::messages::BrokerId]| nodes.iter().map(|node| node.0).collect();
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| Partition {
            partition: partition.partition_index,
            leader: Some(partition.leader_id.0).filter(|leader| *leader >= 0),
            leader_epoch: partition.leader_epoch,
            replicas: ids(&partition.replica_nodes),
            in_sync: ids(&partition.isr_nodes),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.partition);
    TopicDescription {
        name: topic.name.as_ref().map(|name| name.0.to_string()).unwrap_or_default(),
        id: topic.topic_id.to_string(),
        internal: topic.is_internal,
        partitions,
    }
}

fn creation(binding: &Binding) -> AclCreation {
    AclCreation::default()
        .with_resource_type(binding.resource.code())
        .with_resource_name(text(&binding.name))
        .with_resource_pattern_type(binding.pattern.code())
        .with_principal(text(&binding.principal.to_string()))
        .with_host(text(&binding.host))
        .with_operation(binding.operation.code())
        .with_permission_type(binding.permission.code())
}

/// A filter in the wire's numbers, 1 for any.
struct FilterCodes {
    resource: i8,
    pattern: i8,
    name: Option<StrBytes>,
    principal: Option<StrBytes>,
    host: Option<StrBytes>,
    operation: i8,
    permission: i8,
}

impl FilterCodes {
    fn of(filter: &Filter) -> FilterCodes {
        FilterCodes {
            resource: filter.resource.map_or(1, ResourceType::code),
            pattern: match filter.pattern {
                PatternFilter::Any => 1,
                PatternFilter::Match => 2,
                PatternFilter::Literal => PatternType::Literal.code(),
                PatternFilter::Prefixed => PatternType::Prefixed.code(),
            },
            name: filter.name.as_deref().map(text),
            principal: filter.principal.as_ref().map(|principal| text(&principal.to_string())),
            host: filter.host.as_deref().map(text),
            operation: filter.operation.map_or(1, Operation::code),
            permission: filter.permission.map_or(1, Permission::code),
        }
    }
}

fn binding(
    (resource, pattern, operation, permission): (i8, i8, i8, i8),
    name: &str,
    principal: &str,
    host: &str,
) -> Result<Binding, ClientError> {
    let parsed = || {
        Some(Binding {
            resource: ResourceType::from_code(resource)?,
            pattern: PatternType::from_code(pattern)?,
            name: name.to_owned(),
            principal: Principal::parse(principal)?,
            host: host.to_owned(),
            operation: Operation::from_code(operation)?,
            permission: Permission::from_code(permission)?,
        })
    };
    parsed().ok_or_else(|| ClientError::Records(format!("the node tells of an ACL that this client does not know ({principal} on {name})")))
}
