//! What goes in and what comes back: bytes, order, refusals, and polls that wait.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreateAclsRequest, DeleteAclsRequest, DeleteRecordsRequest, FetchRequest, ProduceRequest, ProduceResponse, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use meridian_raft::batch::records::{Record, encode};
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{ROOT, Running, Wire, topic_name};

const FLIGHTS: &str = "flights";

fn batch(value: &str) -> Bytes {
    let record =
        |key: &str| Record { key: Some(Bytes::copy_from_slice(key.as_bytes())), value: Some(value.to_owned().into()), timestamp_ms: 5 };
    encode(&[record("a"), record("b")]).expect("a batch").bytes().clone()
}

fn produce(version: i16, id: Uuid, acks: i16, records: Bytes) -> ProduceRequest {
    let partition = PartitionProduceData::default().with_records(Some(records));
    let topic = TopicProduceData::default().with_partition_data(vec![partition]);
    let topic = if version >= 13 { topic.with_topic_id(id) } else { topic.with_name(topic_name(FLIGHTS)) };
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

fn part(response: ProduceResponse) -> PartitionProduceResponse {
    response.responses.into_iter().next().and_then(|topic| topic.partition_responses.into_iter().next()).expect("a partition")
}

fn fetch(version: i16, id: Uuid, offset: i64, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 23);
    let topic = FetchTopic::default().with_partitions(vec![partition]);
    let topic = if version >= 13 { topic.with_topic_id(id) } else { topic.with_topic(topic_name(FLIGHTS)) };
    FetchRequest::default().with_max_wait_ms(wait_ms).with_min_bytes(1).with_max_bytes(1 << 23).with_topics(vec![topic])
}

async fn fetched(wire: &mut Wire, version: i16, request: &FetchRequest) -> PartitionData {
    let response = wire.ask(version, request).await;
    response.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next()).expect("a partition")
}

/// The batch as it is stored: offset and leader epoch are the log's, all else the producer's.
fn stamped(batch: &Bytes, offset: i64, epoch: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[12..16].copy_from_slice(epoch);
    bytes.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_stores_the_producers_bytes_and_gives_them_back() {
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    let mut stored = Vec::new();
    for version in 3..=13 {
        let batch = batch(&format!("version {version} {}", "x".repeat(version as usize * 9_000)));
        let answer = part(wire.ask(version, &produce(version, id, -1, batch.clone())).await);
        assert_eq!((answer.error_code, answer.base_offset), (0, 2 * stored.len() as i64), "version {version}");
        stored.push(batch);
    }
    for version in 4..=18 {
        let got = fetched(&mut wire, version, &fetch(version, id, 0, 0)).await;
        let records = got.records.expect("records");
        let expected: Vec<Bytes> = (0..).zip(&stored).map(|(at, batch)| stamped(batch, 2 * at, &records[12..16])).collect();
        assert!(records == expected.concat(), "version {version}: other bytes");
        assert_eq!((got.high_watermark, got.last_stable_offset), (2 * stored.len() as i64, 2 * stored.len() as i64));
        let inside = fetched(&mut wire, version, &fetch(version, id, 3, 0)).await.records.expect("records");
        assert!(inside == expected[1..].concat(), "version {version}: an offset inside a batch gets the whole batch");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_gone_and_what_was_asked_for_before_them_is_out_of_range() {
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    for at in 0..5 {
        assert_eq!(part(wire.ask(9, &produce(9, id, -1, batch(&at.to_string()))).await).error_code, 0);
    }
    for (version, before, answer) in [(0, 11, (1, -1)), (1, 3, (0, 3)), (2, 2, (0, 3)), (2, -1, (0, 10))] {
        let asked = DeleteRecordsPartition::default().with_offset(before);
        let topic = DeleteRecordsTopic::default().with_name(topic_name(FLIGHTS)).with_partitions(vec![asked]);
        let response = wire.ask(version, &DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000)).await;
        let part = &response.topics[0].partitions[0];
        assert_eq!((part.error_code, part.low_watermark), answer, "version {version}, before {before}");
        if before == 2 {
            let below = fetched(&mut wire, 12, &fetch(12, id, 2, 0)).await;
            assert_eq!(below.error_code, 1);
            let held = fetched(&mut wire, 12, &fetch(12, id, 3, 0)).await;
            assert_eq!((held.error_code, held.log_start_offset), (0, 3));
            assert!(held.records.is_some_and(|records| !records.is_empty()));
        }
    }
    let unknown = DeleteRecordsTopic::default().with_name(topic_name("nowhere")).with_partitions(vec![DeleteRecordsPartition::default()]);
    let response = wire.ask(2, &DeleteRecordsRequest::default().with_topics(vec![unknown]).with_timeout_ms(5_000)).await;
    assert_eq!(response.topics[0].partitions[0].error_code, 3);
    assert_eq!(part(wire.ask(9, &produce(9, id, -1, batch("next"))).await).base_offset, 10);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_requests_in_flight_together_are_stored_in_their_order() {
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[]).await;
    let mut wire = node.connect(ROOT).await;
    let mut ids = Vec::new();
    for at in 0..100 {
        // Every third wants no answer.
        let acks = [-1, 1, 0][at % 3];
        let sent = wire.send(9, &produce(9, id, acks, batch(&at.to_string()))).await;
        ids.extend((acks != 0).then_some((at as i64, sent)));
    }
    for (at, sent) in ids {
        let answer = part(wire.receive::<ProduceRequest>(9, sent).await);
        assert_eq!((answer.error_code, answer.base_offset), (0, 2 * at));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_may_not_be_stored_is_refused_with_kafkas_code() {
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[("max.message.bytes", "1000")]).await;
    let mut wire = node.connect(ROOT).await;
    let good = batch("good");
    let broken = |at: usize| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] ^= 1;
        bytes.freeze()
    };
    let twice = Bytes::from([&good[..], &good[..]].concat());
    let cases = [
        ("a flipped bit", -1, broken(65), 2),
        ("magic 3", -1, broken(16), 43),
        ("two batches", -1, twice, 87),
        ("cut short", -1, good.slice(..good.len() - 1), 2),
        ("empty", -1, Bytes::new(), 87),
        ("too large", -1, batch(&"x".repeat(1000)), 10),
        ("acks 2", 2, good.clone(), 21),
    ];
    for (what, acks, records, code) in cases {
        assert_eq!(part(wire.ask(9, &produce(9, id, acks, records)).await).error_code, code, "{what}");
    }
    let transactional = produce(9, id, -1, good.clone()).with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("t"))));
    assert_eq!(part(wire.ask(9, &transactional).await).error_code, 48);
    assert_eq!(part(wire.ask(13, &produce(13, Uuid::from_u128(1), -1, good.clone())).await).error_code, 100, "an unknown topic id");
    let clean = fetched(&mut wire, 12, &fetch(12, id, 0, 0)).await;
    assert_eq!((clean.error_code, clean.high_watermark), (0, 0), "nothing was stored");
    assert_eq!(fetched(&mut wire, 12, &fetch(12, id, 1, 0)).await.error_code, 1, "beyond the end");
    let in_session = fetch(12, id, 0, 0).with_session_id(5).with_session_epoch(1);
    assert_eq!(wire.ask(12, &in_session).await.error_code, 70);
    // With acks=0 only the closed connection can say it.
    wire.send(9, &produce(9, id, 0, broken(65))).await;
    assert!(wire.is_closed_within(Duration::from_secs(3)).await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_waits_for_records_no_longer_than_asked_and_ends_when_they_come() {
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[]).await;
    let (mut reader, mut writer) = (node.connect(ROOT).await, node.connect(ROOT).await);
    let begun = Instant::now();
    assert_eq!(fetched(&mut reader, 16, &fetch(16, id, 0, 300)).await.records.as_deref(), Some(&b""[..]));
    assert!(begun.elapsed() >= Duration::from_millis(290));
    let begun = Instant::now();
    let waiting = reader.send(16, &fetch(16, id, 0, 20_000)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(part(writer.ask(9, &produce(9, id, -1, batch("come"))).await).error_code, 0);
    let response = reader.receive::<FetchRequest>(16, waiting).await;
    assert!(!response.responses[0].partitions[0].records.as_deref().unwrap_or_default().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(5));
    node.stop().await;
}

fn acl(operation: i8) -> AclCreation {
    // A literal topic name, allowed.
    let creation = AclCreation::default().with_resource_type(2).with_resource_pattern_type(3).with_permission_type(3);
    let creation = creation.with_principal(StrBytes::from_static_str("User:ann")).with_host(StrBytes::from_static_str("*"));
    creation.with_resource_name(StrBytes::from_static_str(FLIGHTS)).with_operation(operation)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_nothing_is_read_or_written_and_a_waiting_poll_ends_when_it_is_taken() {
    const READ: i8 = 3;
    const WRITE: i8 = 4;
    let node = Running::start().await;
    let id = node.topic(FLIGHTS, &[]).await;
    let (mut root, mut ann) = (node.connect(ROOT).await, node.connect("ann").await);
    assert_eq!(fetched(&mut ann, 12, &fetch(12, id, 0, 20_000)).await.error_code, 29, "at once");
    assert_eq!(part(ann.ask(9, &produce(9, id, -1, batch("no"))).await).error_code, 29);
    root.ask(2, &CreateAclsRequest::default().with_creations(vec![acl(READ)])).await;
    assert_eq!(part(ann.ask(9, &produce(9, id, -1, batch("no"))).await).error_code, 29, "reading is not writing");
    root.ask(2, &CreateAclsRequest::default().with_creations(vec![acl(WRITE)])).await;
    assert_eq!(part(ann.ask(9, &produce(9, id, -1, batch("yes"))).await).error_code, 0);
    assert_eq!(fetched(&mut ann, 12, &fetch(12, id, 0, 0)).await.error_code, 0);

    let waiting = ann.send(12, &fetch(12, id, 2, 20_000)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let filter = DeleteAclsFilter::default().with_resource_type_filter(2).with_pattern_type_filter(3).with_operation(READ);
    let filter = filter.with_permission_type(1).with_resource_name_filter(None).with_principal_filter(None).with_host_filter(None);
    root.ask(2, &DeleteAclsRequest::default().with_filters(vec![filter])).await;
    let response = ann.receive::<FetchRequest>(12, waiting).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 29);
    assert!(begun.elapsed() < Duration::from_secs(2));
    node.stop().await;
}
