//! Topics are made, grown and deleted, each for itself.

use kafka_protocol::ResponseError::{self, *};
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use meridian::kafka::Broker;
use meridian::kafka::api::{create_partitions, create_topics, delete_topics};
use uuid::Uuid;

use super::harness::{RegionOfNodes, root};

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

pub fn new_topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(partitions).with_replication_factor(replicas)
}

pub fn config(name: &str, value: &str) -> CreatableTopicConfig {
    let (name, value) = (StrBytes::from_string(name.to_owned()), StrBytes::from_string(value.to_owned()));
    CreatableTopicConfig::default().with_name(name).with_value(Some(value))
}

pub fn creation(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000)
}

pub async fn create(broker: &Broker, topics: Vec<CreatableTopic>) -> Vec<CreatableTopicResult> {
    create_topics::handle(broker, &root(), 7, creation(topics)).await.topics
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_is_told_whole_and_takes_writes() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let asked = new_topic("flights", 3, -1).with_configs(vec![config("retention.ms", "60000"), config("mesh.mirrors", "eu")]);
    let results = create(broker, vec![asked, new_topic("clicks", -1, -1)]).await;
    assert_eq!(results.iter().map(|result| result.error_code).collect::<Vec<_>>(), [0, 0]);
    let told = &results[0];
    assert_eq!((told.num_partitions, told.replication_factor, told.topic_config_error_code), (3, 1, 0));
    let configs = told.configs.as_ref().expect("configs");
    let of = |name: &str| {
        configs.iter().find(|config| config.name.as_str() == name).map(|c| (c.value.as_deref().unwrap_or(""), c.config_source))
    };
    assert_eq!(of("retention.ms"), Some(("60000", 1)));
    assert_eq!(of("mesh.home"), Some(("us", 5)));
    assert_eq!(of("cleanup.policy"), Some(("delete", 5)));
    let image = broker.controller.image();
    assert_eq!((image.topics["flights"].id, image.topics["flights"].mirrors.as_slice()), (told.topic_id, ["eu".to_string()].as_slice()));
    assert_eq!(image.topics["clicks"].partitions.len(), 1);
    for topic in image.topics.values() {
        for partition in 0..topic.partitions.len() as i32 {
            let replica = broker.raft.partition(meridian_raft::GroupId { topic: topic.id, partition }).expect("hosted");
            assert!(replica.leadership().is_leader, "{} {partition}", topic.name);
        }
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_topic_is_refused_for_its_own_reason_and_leaves_no_trace() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    create(broker, vec![new_topic("flights", 1, 1)]).await;
    let assigned = |partition, nodes: &[i32]| {
        let nodes = nodes.iter().map(|node| BrokerId(*node)).collect();
        CreatableReplicaAssignment::default().with_partition_index(partition).with_broker_ids(nodes)
    };
    let manual = |assignments| new_topic("new", -1, -1).with_assignments(assignments);
    let null = CreatableTopicConfig::default().with_name(StrBytes::from_static_str("retention.ms")).with_value(None);
    let wrong = [
        (new_topic("flights", 1, 1), TopicAlreadyExists),
        (new_topic("a/b", 1, 1), InvalidTopicException),
        (new_topic("", 1, 1), InvalidTopicException),
        (new_topic("new", 0, 1), InvalidPartitions),
        (new_topic("new", -2, 1), InvalidPartitions),
        (new_topic("new", 10_001, 1), InvalidPartitions),
        (new_topic("new", i32::MAX, 1), InvalidPartitions),
        (new_topic("new", 1, 0), InvalidReplicationFactor),
        (new_topic("new", 1, 2), InvalidReplicationFactor),
        (new_topic("new", 1, 1).with_configs(vec![config("retention.sm", "1")]), InvalidConfig),
        (new_topic("new", 1, 1).with_configs(vec![config("retention.ms", "soon")]), InvalidConfig),
        (new_topic("new", 1, 1).with_configs(vec![config("mesh.home", "eu")]), InvalidConfig),
        (new_topic("new", 1, 1).with_configs(vec![config("mesh.mirrors", "us")]), InvalidConfig),
        (new_topic("new", 1, 1).with_configs(vec![null]), InvalidConfig),
        (manual(vec![assigned(0, &[1])]).with_num_partitions(1), InvalidRequest),
        (manual(vec![assigned(1, &[1])]), InvalidReplicaAssignment),
        (manual(vec![assigned(0, &[1]), assigned(0, &[1])]), InvalidReplicaAssignment),
        (manual(vec![assigned(0, &[9])]), InvalidReplicaAssignment),
        (manual(vec![assigned(0, &[-1])]), InvalidReplicaAssignment),
        (manual(vec![assigned(0, &[1, 1])]), InvalidReplicaAssignment),
        (manual(vec![assigned(0, &[])]), InvalidReplicaAssignment),
    ];
    for (topic, error) in wrong {
        let results = create(broker, vec![topic.clone()]).await;
        assert_eq!((results.len(), results[0].error_code), (1, code(error)), "{topic:?}: {:?}", results[0].error_message);
        assert!(results[0].error_message.as_ref().is_some_and(|message| !message.is_empty()), "{topic:?}");
    }
    let twice = create(broker, vec![new_topic("twice", 1, 1), new_topic("other", 1, 1), new_topic("twice", 2, 1)]).await;
    let told: Vec<_> = twice.iter().map(|result| (result.name.as_str(), result.error_code)).collect();
    assert_eq!(told, [("other", 0), ("twice", code(InvalidRequest))]);
    let only_asked = creation(vec![new_topic("asked", 2, 1)]).with_validate_only(true);
    let answer = create_topics::handle(broker, &root(), 7, only_asked).await;
    assert_eq!((answer.topics[0].error_code, answer.topics[0].num_partitions), (0, 2));
    assert_eq!(broker.controller.image().topics.keys().collect::<Vec<_>>(), ["flights", "other"]);
    region.stop().await;
}

fn deletion(names: &[&str]) -> DeleteTopicsRequest {
    DeleteTopicsRequest::default().with_topic_names(names.iter().map(|name| topic_name(name)).collect())
}

fn deleted(response: &DeleteTopicsResponse) -> Vec<(Option<&str>, i16)> {
    response.responses.iter().map(|result| (result.name.as_ref().map(|name| name.as_str()), result.error_code)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_go_by_name_or_id_and_their_files_go_too() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    let made = create(broker, vec![new_topic("a", 2, 1), new_topic("b", 1, 1), new_topic("c", 1, 1)]).await;
    let logs = region.folder().join("1").join("logs");
    let folders = || std::fs::read_dir(&logs).expect("a folder").count();
    assert_eq!(folders(), 5, "four partitions and the controller");
    let response = delete_topics::handle(broker, &root(), 5, deletion(&["b", "b", "a", "nothing"])).await;
    let twice = (Some("b"), code(InvalidRequest));
    let expected = [twice, twice, (Some("a"), 0), (Some("nothing"), code(UnknownTopicOrPartition))];
    assert_eq!(deleted(&response), expected);

    let by_id = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let both = DeleteTopicState::default().with_name(Some(topic_name("c"))).with_topic_id(made[2].topic_id);
    let topics = vec![by_id(made[1].topic_id), by_id(Uuid::from_u128(9)), both, by_id(Uuid::nil())];
    let response = delete_topics::handle(broker, &root(), 6, DeleteTopicsRequest::default().with_topics(topics)).await;
    let invalid = code(InvalidRequest);
    assert_eq!(deleted(&response), [(Some("b"), 0), (None, code(UnknownTopicId)), (Some("c"), invalid), (None, invalid)]);
    assert_eq!(broker.controller.image().topics.keys().collect::<Vec<_>>(), ["c"]);
    for _ in 0..500 {
        if folders() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(folders(), 2, "one partition and the controller");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_only_grow() {
    let region = RegionOfNodes::start(1).await;
    let broker = region.broker();
    create(broker, vec![new_topic("flights", 2, 1)]).await;
    let growth = |name: &str, count| CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
    let placed = |nodes: &[i32]| {
        let nodes = nodes.iter().map(|node| BrokerId(*node)).collect();
        Some(vec![CreatePartitionsAssignment::default().with_broker_ids(nodes)])
    };
    let wrong = [
        (growth("nothing", 3), UnknownTopicOrPartition),
        (growth("flights", 2), InvalidPartitions),
        (growth("flights", 1), InvalidPartitions),
        (growth("flights", -1), InvalidPartitions),
        (growth("flights", 10_001), InvalidPartitions),
        (growth("flights", 4).with_assignments(placed(&[1])), InvalidReplicaAssignment),
        (growth("flights", 3).with_assignments(placed(&[7])), InvalidReplicaAssignment),
    ];
    let ask = |topic, validate_only| {
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_validate_only(validate_only);
        async { create_partitions::handle(broker, &root(), 3, request).await.results[0].error_code }
    };
    for (topic, error) in wrong {
        assert_eq!(ask(topic.clone(), false).await, code(error), "{topic:?}");
    }
    assert_eq!(ask(growth("flights", 5), true).await, 0);
    assert_eq!(broker.controller.image().topics["flights"].partitions.len(), 2, "only asked");
    assert_eq!(ask(growth("flights", 4), false).await, 0);
    assert_eq!(ask(growth("flights", 5).with_assignments(placed(&[1])), false).await, 0);
    let image = broker.controller.image();
    let topic = &image.topics["flights"];
    assert_eq!(topic.partitions, vec![vec![1]; 5]);
    for partition in 0..5 {
        let replica = broker.raft.partition(meridian_raft::GroupId { topic: topic.id, partition }).expect("hosted");
        assert!(replica.leadership().is_leader);
    }
    region.stop().await;
}
