//! Every (API, missing ACL) pair: denied with the exact error and no side effect; with the ACL it succeeds.

use kafka_protocol::ResponseError::*;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreateAclsRequest, CreatePartitionsRequest, DeleteAclsRequest, DeleteTopicsRequest};
use meridian::kafka::Broker;
use meridian::kafka::api::*;
use meridian_auth::acl::{Binding, Operation, ResourceType};

use super::configs::{change, question, replacement};
use super::harness::{RegionOfNodes, alice_may, on_cluster, session, set_rules_of_alice};
use super::rules::{everything, rule};
use super::topics::{create, creation, new_topic, topic_name};

/// What alice asks, always about topic `flights` where a topic is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    CreateTopic,
    DeleteTopic,
    DeleteTopicById,
    CreatePartitions,
    DescribeTopicConfigs,
    DescribeNodeConfigs,
    AlterTopicConfigs,
    AlterTopicConfigsTheOldWay,
    DescribeAcls,
    CreateAcls,
    DeleteAcls,
}
use Question::*;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

async fn ask(broker: &Broker, question_asked: Question) -> i16 {
    let alice = session("alice");
    match question_asked {
        CreateTopic => create_topics::handle(broker, &alice, 7, creation(vec![new_topic("new", 1, 1)])).await.topics[0].error_code,
        DeleteTopic => {
            let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("flights")]);
            delete_topics::handle(broker, &alice, 5, request).await.responses[0].error_code
        }
        DeleteTopicById => {
            let id = broker.controller.image().topics["flights"].id;
            let state = DeleteTopicState::default().with_name(None).with_topic_id(id);
            let response = delete_topics::handle(broker, &alice, 6, DeleteTopicsRequest::default().with_topics(vec![state])).await;
            response.responses[0].error_code
        }
        CreatePartitions => {
            let topic = CreatePartitionsTopic::default().with_name(topic_name("flights")).with_count(2).with_assignments(None);
            let request = CreatePartitionsRequest::default().with_topics(vec![topic]);
            create_partitions::handle(broker, &alice, 3, request).await.results[0].error_code
        }
        DescribeTopicConfigs => describe_configs::handle(broker, &alice, 4, question(TOPIC, "flights")).await.results[0].error_code,
        DescribeNodeConfigs => describe_configs::handle(broker, &alice, 4, question(BROKER, "1")).await.results[0].error_code,
        AlterTopicConfigs => {
            let request = change(TOPIC, "flights", &[("retention.ms", 0, Some("7"))]);
            incremental_alter_configs::handle(broker, &alice, 1, request).await.responses[0].error_code
        }
        AlterTopicConfigsTheOldWay => {
            let request = replacement(TOPIC, "flights", &[("retention.ms", "7")]);
            alter_configs::handle(broker, &alice, 2, request).await.responses[0].error_code
        }
        DescribeAcls => describe_acls::handle(broker, &alice, 3, everything()).await.error_code,
        CreateAcls => {
            let request = CreateAclsRequest::default().with_creations(vec![rule(3, "flights", "User:mallory")]);
            create_acls::handle(broker, &alice, 3, request).await.results[0].error_code
        }
        DeleteAcls => {
            let any = DeleteAclsFilter::default()
                .with_resource_type_filter(1)
                .with_pattern_type_filter(1)
                .with_operation(1)
                .with_permission_type(1);
            let any = any.with_resource_name_filter(None).with_principal_filter(None).with_host_filter(None);
            let request = DeleteAclsRequest::default().with_filters(vec![any]);
            delete_acls::handle(broker, &alice, 3, request).await.filter_results[0].error_code
        }
    }
}

fn on_topic(operation: Operation, name: &str) -> Binding {
    alice_may(operation, ResourceType::Topic, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_question_needs_its_rule_and_no_other_will_do() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let topic = TopicAuthorizationFailed.code();
    let cluster = ClusterAuthorizationFailed.code();
    let hidden = UnknownTopicId.code();
    let flights = |operation| on_topic(operation, "flights");
    // What is asked, the error without the rule, the rules that look alike and do not grant, and the rule that does.
    let table: Vec<(Question, i16, Vec<Binding>, Binding)> = vec![
        (CreateTopic, topic, vec![on_topic(Operation::Write, "new"), flights(Operation::Create)], on_topic(Operation::Create, "new")),
        (CreateTopic, topic, vec![on_cluster(Operation::Alter)], on_cluster(Operation::Create)),
        (DeleteTopic, topic, vec![flights(Operation::Write), on_cluster(Operation::All)], flights(Operation::Delete)),
        (DeleteTopicById, hidden, vec![on_topic(Operation::Delete, "clicks")], flights(Operation::Delete)),
        (DeleteTopicById, topic, vec![flights(Operation::Describe)], flights(Operation::Delete)),
        (CreatePartitions, topic, vec![flights(Operation::Create), on_cluster(Operation::Alter)], flights(Operation::Alter)),
        (DescribeTopicConfigs, topic, vec![flights(Operation::Describe), flights(Operation::Read)], flights(Operation::DescribeConfigs)),
        (DescribeTopicConfigs, topic, vec![flights(Operation::Alter)], flights(Operation::AlterConfigs)),
        (DescribeNodeConfigs, cluster, vec![on_cluster(Operation::Describe)], on_cluster(Operation::DescribeConfigs)),
        (AlterTopicConfigs, topic, vec![flights(Operation::Alter), flights(Operation::DescribeConfigs)], flights(Operation::AlterConfigs)),
        (AlterTopicConfigsTheOldWay, topic, vec![flights(Operation::Write)], flights(Operation::AlterConfigs)),
        (DescribeAcls, cluster, vec![on_cluster(Operation::DescribeConfigs)], on_cluster(Operation::Describe)),
        (CreateAcls, cluster, vec![on_cluster(Operation::Describe), on_cluster(Operation::Create)], on_cluster(Operation::Alter)),
        (DeleteAcls, cluster, vec![on_cluster(Operation::Describe), on_cluster(Operation::Delete)], on_cluster(Operation::Alter)),
    ];
    for (asked, denied, near, granting) in table {
        if !broker.controller.image().topics.contains_key("flights") {
            create(broker, vec![new_topic("flights", 1, 1)]).await;
        }
        set_rules_of_alice(broker, &near).await;
        let before = broker.controller.image();
        assert_eq!(ask(broker, asked).await, denied, "{asked:?} with {near:?}");
        assert_eq!(*broker.controller.image(), *before, "{asked:?} was denied and changed something");
        set_rules_of_alice(broker, std::slice::from_ref(&granting)).await;
        assert_eq!(ask(broker, asked).await, 0, "{asked:?} with {granting:?}");
        if asked == CreateTopic {
            let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("new")]);
            delete_topics::handle(broker, &session("root"), 5, request).await;
        }
        if asked == CreatePartitions {
            let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("flights")]);
            delete_topics::handle(broker, &session("root"), 5, request).await;
        }
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_caller_hears_the_same_of_what_exists_and_what_does_not() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    create(broker, vec![new_topic("flights", 1, 1)]).await;
    let alice = session("alice");
    let mut heard = Vec::new();
    for name in ["flights", "nothing"] {
        let deletion = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]);
        let deleted = delete_topics::handle(broker, &alice, 5, deletion).await.responses.remove(0);
        let grown = CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(1).with_assignments(None);
        let grown = CreatePartitionsRequest::default().with_topics(vec![grown]);
        let grown = create_partitions::handle(broker, &alice, 3, grown).await.results.remove(0);
        let described = describe_configs::handle(broker, &alice, 4, question(TOPIC, name)).await.results.remove(0);
        let altered = incremental_alter_configs::handle(broker, &alice, 1, change(TOPIC, name, &[])).await.responses.remove(0);
        let created = create_topics::handle(broker, &alice, 7, creation(vec![new_topic(name, 1, 1)])).await.topics.remove(0);
        heard.push(
            [
                (deleted.error_code, deleted.error_message),
                (grown.error_code, grown.error_message),
                (described.error_code, described.error_message),
                (altered.error_code, altered.error_message),
                (created.error_code, created.error_message),
            ]
            .map(|(code, message)| (code, message.map(|message| message.to_string()))),
        );
    }
    assert_eq!(heard[0], heard[1]);
    assert!(heard[0].iter().all(|(code, _)| *code == TopicAuthorizationFailed.code()));
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_create_but_not_describe_configs_is_not_told_them() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    set_rules_of_alice(broker, &[on_topic(Operation::Create, "new")]).await;
    let told = create_topics::handle(broker, &session("alice"), 7, creation(vec![new_topic("new", 1, 1)])).await.topics.remove(0);
    assert_eq!((told.error_code, told.topic_config_error_code), (0, TopicAuthorizationFailed.code()));
    assert_eq!((told.num_partitions, told.replication_factor, told.configs), (-1, -1, None));
    region.stop().await;
}
