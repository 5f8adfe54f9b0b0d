//! Each API's shape agrees with the codec at every version: whole bodies pass, cut ones do not.

use bytes::BytesMut;
use kafka_protocol::messages::alter_configs_request as alter;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use meridian::kafka::api;
use meridian::kafka::shape::{Field, check};
use uuid::Uuid;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn name(name: &'static str) -> TopicName {
    TopicName(text(name))
}

fn agree<R: Encodable>(shape: &[Field], version: i16, flexible_from: i16, request: &R) {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("encodes");
    let flexible = version >= flexible_from;
    assert_eq!(check(shape, version, flexible, &body), Ok(()), "version {version}");
    for end in 0..body.len() {
        assert!(check(shape, version, flexible, &body[..end]).is_err(), "version {version} cut at {end} of {}", body.len());
    }
}

#[test]
fn create_topics() {
    let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
    let config = |value| CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(value);
    let topic = CreatableTopic::default()
        .with_name(name("flights"))
        .with_assignments(vec![assignment.clone(), assignment])
        .with_configs(vec![config(Some(text("5"))), config(None)]);
    let request = CreateTopicsRequest::default().with_topics(vec![topic.clone(), topic]);
    (2..=7).for_each(|version| agree(api::create_topics::SHAPE, version, 5, &request));
}

#[test]
fn delete_topics() {
    let by_name = DeleteTopicsRequest::default().with_topic_names(vec![name("flights"), name("clicks")]);
    (1..=5).for_each(|version| agree(api::delete_topics::SHAPE, version, 4, &by_name));
    let state = DeleteTopicState::default().with_topic_id(Uuid::from_u128(7));
    let by_id = DeleteTopicsRequest::default().with_topics(vec![state.clone().with_name(None), state.with_name(Some(name("flights")))]);
    agree(api::delete_topics::SHAPE, 6, 4, &by_id);
}

#[test]
fn delete_records() {
    let partition = |index| delete_records_request::DeleteRecordsPartition::default().with_partition_index(index).with_offset(7);
    let topic = delete_records_request::DeleteRecordsTopic::default().with_name(name("flights"));
    let topic = topic.with_partitions(vec![partition(0), partition(1)]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic.clone(), topic]).with_timeout_ms(5);
    (0..=2).for_each(|version| agree(api::delete_records::SHAPE, version, 2, &request));
}

#[test]
fn create_partitions() {
    let assignments = vec![CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)])];
    let topic = |assignments| CreatePartitionsTopic::default().with_name(name("flights")).with_count(3).with_assignments(assignments);
    let request = CreatePartitionsRequest::default().with_topics(vec![topic(None), topic(Some(assignments))]);
    (0..=3).for_each(|version| agree(api::create_partitions::SHAPE, version, 2, &request));
}

#[test]
fn rules() {
    let creation = AclCreation::default().with_resource_name(text("flights")).with_principal(text("User:a")).with_host(text("*"));
    let create = CreateAclsRequest::default().with_creations(vec![creation.clone(), creation]);
    let filter = DeleteAclsFilter::default().with_resource_name_filter(None).with_principal_filter(Some(text("User:a")));
    let delete = DeleteAclsRequest::default().with_filters(vec![filter.clone(), filter]);
    let describe = DescribeAclsRequest::default().with_resource_name_filter(Some(text("flights"))).with_host_filter(None);
    for version in 1..=3 {
        agree(api::create_acls::SHAPE, version, 2, &create);
        agree(api::delete_acls::SHAPE, version, 2, &delete);
        agree(api::describe_acls::SHAPE, version, 2, &describe);
    }
}

#[test]
fn configs() {
    let resource = |keys| DescribeConfigsResource::default().with_resource_name(text("flights")).with_configuration_keys(keys);
    let describe = DescribeConfigsRequest::default().with_resources(vec![resource(None), resource(Some(vec![text("retention.ms")]))]);
    (1..=4).for_each(|version| agree(api::describe_configs::SHAPE, version, 4, &describe));

    let config = incremental::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_name(text("flights"))
        .with_configs(vec![config.clone(), config.with_value(None)]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    (0..=1).for_each(|version| agree(api::incremental_alter_configs::SHAPE, version, 1, &request));

    let config = alter::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let resource = alter::AlterConfigsResource::default().with_resource_name(text("flights")).with_configs(vec![config]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    (0..=2).for_each(|version| agree(api::alter_configs::SHAPE, version, 2, &request));
}
