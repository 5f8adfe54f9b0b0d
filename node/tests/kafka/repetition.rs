//! Small requests that repeat themselves: the answer is no larger than for one that does not, and nothing is half done.

use bytes::Bytes;
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteRecordsRequest, DescribeConfigsRequest, DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest,
    GroupId, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use meridian_raft::batch::records::{Record, encode};

use crate::harness::{ROOT, Running, Wire, topic_name};

const FLIGHTS: &str = "flights";
/// As many as a hostile client would send in a frame of the largest size, less what a test can wait for.
const MANY: usize = 20_000;

fn batch(value: &'static str) -> Bytes {
    encode(&[Record { key: None, value: Some(value.into()), timestamp_ms: 5 }]).expect("a batch").bytes().clone()
}

fn produce(parts: &[&'static str]) -> ProduceRequest {
    let parts = parts.iter().map(|value| PartitionProduceData::default().with_records(Some(batch(value))));
    let topics = parts.map(|part| TopicProduceData::default().with_name(topic_name(FLIGHTS)).with_partition_data(vec![part]));
    ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(topics.collect())
}

async fn appended(wire: &mut Wire, parts: &[&'static str]) -> Vec<(i16, i64)> {
    let response = wire.ask(9, &produce(parts)).await;
    let parts = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    parts.map(|part| (part.error_code, part.base_offset)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_for_one_partition_are_refused_together_and_one_is_stored() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    assert_eq!(appended(&mut wire, &["one", "two"]).await, [(Error::InvalidRequest.code(), -1)]);
    assert_eq!(appended(&mut wire, &["three"]).await, [(0, 0)], "neither of the two was stored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_many_partitions_says_why_once() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    let parts = (0..MANY as i32).map(|index| PartitionProduceData::default().with_index(index)).collect();
    let topic = TopicProduceData::default().with_name(topic_name(FLIGHTS)).with_partition_data(parts);
    let request = ProduceRequest::default().with_acks(7).with_timeout_ms(10_000).with_topic_data(vec![topic]);
    let response = wire.ask(9, &request).await;
    let told = &response.responses[0].partition_responses;
    assert!(told.len() == MANY && told.iter().all(|part| part.error_code == Error::InvalidRequiredAcks.code()));
    assert_eq!(told.iter().filter(|part| part.error_message.is_some()).count(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_fetched_once_from_where_it_was_asked_last() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    for value in ["zero", "one"] {
        assert_eq!(appended(&mut wire, &[value]).await[0].0, 0);
    }
    let asked = |offset| FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let mut partitions = vec![asked(0); MANY];
    partitions.push(asked(1));
    let topic = FetchTopic::default().with_topic(topic_name(FLIGHTS)).with_partitions(partitions);
    let request = FetchRequest::default().with_min_bytes(1).with_max_bytes(1 << 20).with_topics(vec![topic.clone(), topic]);
    let response = wire.ask(12, &request).await;
    assert_eq!((response.responses.len(), response.responses[0].partitions.len()), (1, 1));
    let records = response.responses[0].partitions[0].records.clone().expect("records");
    assert_eq!(records[..8], 1i64.to_be_bytes(), "the batch at offset 1, and it alone");
    assert_eq!(records.len(), batch("one").len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_looked_up_once_or_not_at_all_and_deleted_up_to_the_last_word() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    for value in ["zero", "one", "two"] {
        assert_eq!(appended(&mut wire, &[value]).await[0].0, 0);
    }
    let asked = |partitions| ListOffsetsTopic::default().with_name(topic_name(FLIGHTS)).with_partitions(partitions);
    let latest = ListOffsetsPartition::default().with_timestamp(-1);
    let twice = ListOffsetsRequest::default().with_topics(vec![asked(vec![latest.clone(); MANY]), asked(vec![latest.clone()])]);
    let response = wire.ask(7, &twice).await;
    assert_eq!((response.topics.len(), response.topics[0].partitions.len()), (1, 1));
    assert_eq!(response.topics[0].partitions[0].error_code, Error::InvalidRequest.code());
    let once = wire.ask(7, &ListOffsetsRequest::default().with_topics(vec![asked(vec![latest])])).await;
    assert_eq!((once.topics[0].partitions[0].error_code, once.topics[0].partitions[0].offset), (0, 3));

    let before = |offset| DeleteRecordsPartition::default().with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(FLIGHTS)).with_partitions(vec![before(3), before(1)]);
    let response = wire.ask(2, &DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000)).await;
    assert_eq!(response.topics[0].partitions.len(), 1);
    assert_eq!((response.topics[0].partitions[0].error_code, response.topics[0].partitions[0].low_watermark), (0, 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions_are_told_once() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(FLIGHTS)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic; MANY]));
    assert_eq!(wire.ask(9, &request).await.topics.len(), 1);
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(StrBytes::from_static_str(FLIGHTS));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(None); MANY]);
    assert_eq!(wire.ask(4, &request).await.results.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_told_of_once_and_its_last_commit_of_a_request_stands() {
    let node = Running::start().await;
    node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    let group = || GroupId(StrBytes::from_static_str("g"));
    let find = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("g"));
    while wire.ask(3, &find).await.error_code != 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let committed = |offset| OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name(FLIGHTS)).with_partitions(vec![committed(4), committed(7)]);
    let commit = OffsetCommitRequest::default().with_group_id(group()).with_generation_id_or_member_epoch(-1);
    let mut answer = wire.ask(8, &commit.clone().with_topics(vec![topic.clone()])).await;
    // The coordinator's own partition may be electing its leader, or be read by it.
    let not_yet = [Error::CoordinatorLoadInProgress.code(), Error::NotCoordinator.code(), Error::CoordinatorNotAvailable.code()];
    while not_yet.contains(&answer.topics[0].partitions[0].error_code) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        answer = wire.ask(8, &commit.clone().with_topics(vec![topic.clone()])).await;
    }
    assert_eq!(answer.topics[0].partitions.iter().map(|part| part.error_code).collect::<Vec<_>>(), [0, 0]);

    let topics = OffsetFetchRequestTopics::default().with_name(topic_name(FLIGHTS)).with_partition_indexes(vec![0; MANY]);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topics.clone(), topics]));
    let response = wire.ask(8, &OffsetFetchRequest::default().with_groups(vec![asked.clone(), asked])).await;
    let told = response.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| &topic.partitions);
    assert_eq!(told.map(|partition| (partition.error_code, partition.committed_offset)).collect::<Vec<_>>(), [(0, 7)]);

    let described = wire.ask(5, &DescribeGroupsRequest::default().with_groups(vec![group(); MANY])).await;
    assert_eq!(described.groups.len(), 1);
    let deleted = wire.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(); 3])).await;
    assert_eq!(deleted.results.iter().map(|result| result.error_code).collect::<Vec<_>>(), [0]);
    node.stop().await;
}
