//! ACLs are made, listed and removed by Kafka's filters.

use kafka_protocol::ResponseError::InvalidRequest;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest};
use kafka_protocol::protocol::StrBytes;
use meridian::controller::command::{Answer, Command};
use meridian::kafka::Broker;
use meridian::kafka::api::{create_acls, delete_acls, describe_acls};
use meridian_replication::catalogue::{Catalogue, CatalogueTopic};
use uuid::Uuid;

use super::harness::{RegionOfNodes, root};

const ANY: i8 = 1;
const MATCH: i8 = 2;
const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;
const TOPIC: i8 = 2;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn rule(pattern: i8, name: &str, principal: &str) -> AclCreation {
    AclCreation::default()
        .with_resource_type(TOPIC)
        .with_resource_pattern_type(pattern)
        .with_resource_name(text(name))
        .with_principal(text(principal))
        .with_host(text("*"))
        .with_operation(3)
        .with_permission_type(3)
}

pub fn everything() -> DescribeAclsRequest {
    DescribeAclsRequest::default()
        .with_resource_type_filter(ANY)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(ANY)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(ANY)
        .with_permission_type(ANY)
}

async fn create(broker: &Broker, rules: Vec<AclCreation>) -> Vec<(i16, Option<String>)> {
    let response = create_acls::handle(broker, &root(), 3, CreateAclsRequest::default().with_creations(rules)).await;
    response.results.iter().map(|result| (result.error_code, result.error_message.as_ref().map(|text| text.to_string()))).collect()
}

async fn names(broker: &Broker, filter: DescribeAclsRequest) -> Vec<String> {
    let response = describe_acls::handle(broker, &root(), 3, filter).await;
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
    response
        .resources
        .iter()
        .map(|resource| format!("{}{}", resource.resource_name.as_str(), if resource.pattern_type == PREFIXED { "…" } else { "" }))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_rules_are_kept_beside_bad_ones_and_filters_find_them() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let rules = vec![
        rule(LITERAL, "flights", "User:alice"),
        rule(PREFIXED, "fli", "User:bob"),
        rule(LITERAL, "*", "User:bob"),
        rule(LITERAL, "clicks", "User:alice"),
        rule(LITERAL, "flights", "alice"),
        rule(MATCH, "flights", "User:alice"),
        rule(LITERAL, "flights", "User:alice").with_host(text("somewhere")),
    ];
    let results = create(broker, rules).await;
    let codes: Vec<i16> = results.iter().map(|(code, _)| *code).collect();
    let invalid = InvalidRequest.code();
    assert_eq!(codes, [0, 0, 0, 0, invalid, invalid, invalid]);
    assert!(results[4..].iter().all(|(_, message)| message.is_some()), "{results:?}");

    assert_eq!(names(broker, everything()).await, ["*", "clicks", "flights", "fli…"]);
    let named = |pattern| {
        everything().with_resource_type_filter(TOPIC).with_pattern_type_filter(pattern).with_resource_name_filter(Some(text("flights")))
    };
    assert_eq!(names(broker, named(ANY)).await, ["flights"]);
    assert_eq!(names(broker, named(MATCH)).await, ["*", "flights", "fli…"]);
    assert_eq!(names(broker, named(PREFIXED)).await, Vec::<String>::new());
    assert_eq!(names(broker, everything().with_pattern_type_filter(PREFIXED)).await, ["fli…"]);
    assert_eq!(names(broker, everything().with_principal_filter(Some(text("User:alice")))).await, ["clicks", "flights"]);
    assert_eq!(names(broker, everything().with_resource_type_filter(7)).await, Vec::<String>::new(), "user resources have no rules");
    let unknown = describe_acls::handle(broker, &root(), 3, everything().with_operation(0)).await;
    assert_eq!(unknown.error_code, invalid);

    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(TOPIC)
        .with_resource_name_filter(Some(text("flights")))
        .with_pattern_type_filter(MATCH)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(ANY)
        .with_permission_type(ANY);
    let filters = vec![filter.clone().with_permission_type(0), filter.clone().with_principal_filter(Some(text("nobody"))), filter];
    let response = delete_acls::handle(broker, &root(), 3, DeleteAclsRequest::default().with_filters(filters)).await;
    let told: Vec<_> = response.filter_results.iter().map(|result| (result.error_code, result.matching_acls.len())).collect();
    assert_eq!(told, [(invalid, 0), (0, 0), (0, 3)]);
    assert_eq!(names(broker, everything()).await, ["clicks"]);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_about_a_mirror_is_refused_and_its_home_named() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let id = Uuid::from_u128(40);
    let topic = CatalogueTopic { name: "orders".into(), id, partitions: 1, configs: [("mesh.mirrors".into(), "us".into())].into() };
    let catalogue = Catalogue { version: 1, topics: vec![topic], acls: vec![], nodes: vec![] };
    let told = Command::AcceptCatalogue { region: "eu".into(), catalogue, replicas: [(id, vec![vec![1]])].into() };
    assert_eq!(broker.controller.submit(told).await.expect("committed"), Answer::Done);
    let results = create(broker, vec![rule(LITERAL, "orders", "User:alice"), rule(LITERAL, "flights", "User:alice")]).await;
    assert_eq!((results[0].0, results[1].0), (InvalidRequest.code(), 0));
    assert!(results[0].1.as_ref().is_some_and(|message| message.contains("region eu")), "{results:?}");
    assert_eq!(names(broker, everything()).await, ["flights"]);
    region.stop().await;
}
