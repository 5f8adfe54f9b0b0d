//! Configs are listed with their sources and changed whole.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError::{self, *};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, alter_configs_request as replacing,
};
use kafka_protocol::protocol::StrBytes;
use meridian::controller::topic_config;
use meridian::kafka::Broker;
use meridian::kafka::api::{alter_configs, describe_configs, incremental_alter_configs};

use super::harness::{RegionOfNodes, root};
use super::topics::{config, create, new_topic};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A config's name, the operation, and the value.
pub type Change<'a> = (&'a str, i8, Option<&'a str>);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn question(kind: i8, name: &str) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name)).with_configuration_keys(None);
    DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true).with_include_documentation(true)
}

async fn describe(broker: &Broker, kind: i8, name: &str) -> DescribeConfigsResult {
    describe_configs::handle(broker, &root(), 4, question(kind, name)).await.results.remove(0)
}

pub fn change(kind: i8, name: &str, changes: &[Change<'_>]) -> IncrementalAlterConfigsRequest {
    let change = |(name, operation, value): &Change<'_>| {
        incremental::AlterableConfig::default().with_name(text(name)).with_config_operation(*operation).with_value(value.map(text))
    };
    let resource = incremental::AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(changes.iter().map(change).collect())])
}

pub fn replacement(kind: i8, name: &str, set: &[(&str, &str)]) -> AlterConfigsRequest {
    let set = set.iter().map(|(name, value)| replacing::AlterableConfig::default().with_name(text(name)).with_value(Some(text(value))));
    let resource = replacing::AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
    AlterConfigsRequest::default().with_resources(vec![resource.with_configs(set.collect())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_config_of_a_topic_is_listed_with_where_it_comes_from() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    create(broker, vec![new_topic("flights", 1, 1).with_configs(vec![config("retention.ms", "5")])]).await;
    let told = describe(broker, TOPIC, "flights").await;
    assert_eq!((told.error_code, told.error_message), (0, None));
    let names: Vec<&str> = told.configs.iter().map(|config| config.name.as_str()).collect();
    assert_eq!(names, topic_config::definitions().iter().map(|definition| definition.name).collect::<Vec<_>>());
    let by_name: BTreeMap<&str, _> = told.configs.iter().map(|config| (config.name.as_str(), config)).collect();
    let set = by_name["retention.ms"];
    assert_eq!((set.value.as_deref(), set.config_source, set.config_type, set.read_only), (Some("5"), 1, 5, false));
    let synonyms: Vec<_> = set.synonyms.iter().map(|synonym| (synonym.value.as_deref(), synonym.source)).collect();
    assert_eq!(synonyms, [(Some("5"), 1), (Some("604800000"), 5)]);
    assert!(told.configs.iter().all(|config| config.documentation.as_ref().is_some_and(|doc| !doc.is_empty())));
    let home = by_name["mesh.home"];
    assert_eq!((home.value.as_deref(), home.config_source, home.read_only), (Some("us"), 5, true));

    let mut some = question(TOPIC, "flights").with_include_synonyms(false).with_include_documentation(false);
    some.resources[0].configuration_keys = Some(vec![text("retention.ms"), text("nothing")]);
    let told = describe_configs::handle(broker, &root(), 4, some).await.results.remove(0);
    assert_eq!(told.configs.len(), 1);
    assert!(told.configs[0].synonyms.is_empty() && told.configs[0].documentation.is_none());
    assert_eq!(describe(broker, TOPIC, "nothing").await.error_code, UnknownTopicOrPartition.code());
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_what_it_is_and_nothing_can_be_changed() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let told = describe(broker, BROKER, "1").await;
    let value = |name: &str| told.configs.iter().find(|config| config.name.as_str() == name).and_then(|config| config.value.as_deref());
    assert_eq!(value("node.id"), Some("1"));
    assert_eq!(value("num.partitions"), Some("1"));
    assert_eq!(value("default.replication.factor"), Some("1"), "there is one node");
    assert_eq!(value("advertised.listeners"), Some("SASL_SSL://n1.us.example:9092"));
    assert_eq!(value("message.max.bytes"), Some("1048588"));
    assert!(told.configs.iter().all(|config| config.read_only && config.documentation.is_some()));
    assert_eq!(describe(broker, BROKER, "").await.configs.len(), 0);
    assert_eq!(describe(broker, BROKER, "2").await.error_code, InvalidRequest.code());
    assert_eq!(describe(broker, 99, "x").await.error_code, InvalidRequest.code());
    let refused = incremental_alter_configs::handle(broker, &root(), 1, change(BROKER, "1", &[("num.partitions", SET, Some("3"))])).await;
    assert_eq!(refused.responses[0].error_code, InvalidRequest.code(), "as Kafka says of a broker's, unlike a topic's");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_made_whole_or_not_at_all() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    create(broker, vec![new_topic("flights", 1, 1)]).await;
    let ask = |request| async { incremental_alter_configs::handle(broker, &root(), 1, request).await.responses[0].error_code };
    let configs = || broker.controller.image().topics["flights"].configs.clone();
    let wrong: [(&[Change<'_>], ResponseError); 7] = [
        (&[("retention.ms", SET, Some("7")), ("segment.bytes", SET, Some("0"))], InvalidConfig),
        (&[("retention.ms", SET, Some("7")), ("retention.sm", DELETE, None)], InvalidConfig),
        (&[("retention.ms", APPEND, Some("7"))], InvalidConfig),
        (&[("mesh.mirrors", APPEND, Some("us"))], InvalidConfig),
        (&[("retention.ms", SET, None)], InvalidRequest),
        (&[("retention.ms", 4, Some("7"))], InvalidRequest),
        (&[("retention.ms", SET, Some("7")), ("retention.ms", DELETE, None)], InvalidRequest),
    ];
    for (changes, error) in wrong {
        assert_eq!(ask(change(TOPIC, "flights", changes)).await, error.code(), "{changes:?}");
        assert!(configs().is_empty(), "{changes:?}");
    }
    assert_eq!(ask(change(TOPIC, "nothing", &[])).await, UnknownTopicOrPartition.code());
    let good = change(TOPIC, "flights", &[("retention.ms", SET, Some("7")), ("mesh.mirrors", APPEND, Some("eu,asia"))]);
    assert_eq!(ask(good.clone().with_validate_only(true)).await, 0);
    assert!(configs().is_empty(), "only asked");
    assert_eq!(ask(good).await, 0);
    assert_eq!(ask(change(TOPIC, "flights", &[("mesh.mirrors", SUBTRACT, Some("eu"))])).await, 0);
    assert_eq!(configs(), BTreeMap::from([("retention.ms".into(), "7".into()), ("mesh.mirrors".into(), "asia".into())]));
    let twice = change(TOPIC, "flights", &[("retention.ms", DELETE, None)]);
    let twice = twice.clone().with_resources([twice.resources.clone(), twice.resources].concat());
    let codes: Vec<i16> =
        incremental_alter_configs::handle(broker, &root(), 1, twice).await.responses.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [InvalidRequest.code(); 2]);

    let replaced = alter_configs::handle(broker, &root(), 2, replacement(TOPIC, "flights", &[("retention.bytes", "9")])).await;
    assert_eq!(replaced.responses[0].error_code, 0);
    assert_eq!(configs(), BTreeMap::from([("retention.bytes".into(), "9".into())]));
    region.stop().await;
}
