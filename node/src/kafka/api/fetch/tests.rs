//! Fetch's own codec against the codec crate's, at every version, and against bytes that mean harm.

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest as Oracle, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::kafka::topic_key::TopicRef;

const FLEXIBLE: i16 = 12;

fn id(at: usize) -> Uuid {
    Uuid::from_u128(at as u128 + 1)
}

/// A topic's name and its partitions: index, leader epoch, offset, size.
type Asked = (String, Vec<(i32, i32, i64, i32)>);

fn oracle(version: i16, topics: &[Asked]) -> Oracle {
    let topic = |(at, (name, partitions)): (usize, &Asked)| {
        let partitions = partitions.iter().map(|(index, epoch, offset, bytes_max)| {
            let partition =
                FetchPartition::default().with_partition(*index).with_fetch_offset(*offset).with_partition_max_bytes(*bytes_max);
            let partition = partition.with_current_leader_epoch(if version >= 9 { *epoch } else { -1 });
            // Tagged fields that only replicas send.
            if version >= 17 { partition.with_replica_directory_id(id(9)) } else { partition }
        });
        let topic = FetchTopic::default().with_partitions(partitions.collect());
        if version >= 13 { topic.with_topic_id(id(at)) } else { topic.with_topic(StrBytes::from_string(name.clone()).into()) }
    };
    let request = Oracle::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(1 << 20).with_isolation_level(1);
    let request = request.with_topics(topics.iter().enumerate().map(topic).collect());
    let request = if version >= 7 {
        let forgotten = ForgottenTopic::default().with_partitions(vec![1, 2]);
        let forgotten =
            if version >= 13 { forgotten.with_topic_id(id(0)) } else { forgotten.with_topic(StrBytes::from_static_str("f").into()) };
        request.with_session_id(8).with_session_epoch(3).with_forgotten_topics_data(vec![forgotten])
    } else {
        request
    };
    let request = if version >= 15 { request.with_replica_state(ReplicaState::default().with_replica_epoch(4)) } else { request };
    if version >= 11 { request.with_rack_id(StrBytes::from_static_str("a")) } else { request }
}

proptest! {
    #[test]
    fn requests_of_the_codec_crate_are_read_as_it_meant_them(
        topics in prop::collection::vec(("[a-z]{0,20}", prop::collection::vec(any::<(i32, i32, i64, i32)>(), 0..4)), 0..4),
    ) {
        for version in 4..=18 {
            let mut body = BytesMut::new();
            oracle(version, &topics).encode(&mut body, version).expect("encoded");
            let read = parse(version, version >= FLEXIBLE, &body).expect("a request");
            prop_assert_eq!((read.max_wait_ms, read.min_bytes, read.max_bytes, read.isolation), (500, 1, 1 << 20, 1));
            prop_assert_eq!(read.session_epoch, if version >= 7 { 3 } else { -1 });
            prop_assert_eq!(read.topics.len(), topics.len());
            for (at, (read, (name, partitions))) in read.topics.iter().zip(&topics).enumerate() {
                prop_assert_eq!(read.key, if version >= 13 { TopicRef::Id(id(at)) } else { TopicRef::Name(name) });
                let epoch = |epoch| if version >= 9 { epoch } else { -1 };
                let meant: Vec<_> = partitions.iter().map(|p| request::Partition { index: p.0, epoch: epoch(p.1), offset: p.2, bytes_max: p.3 }).collect();
                prop_assert_eq!(&read.partitions, &meant);
            }
            for end in 0..body.len() {
                prop_assert!(parse(version, version >= FLEXIBLE, &body[..end]).is_err(), "version {} cut at {}", version, end);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..120)) {
        for version in 4..=18 {
            let _ = parse(version, version >= FLEXIBLE, &bytes);
        }
    }
}

#[test]
fn a_claim_of_more_topics_than_remain_is_refused() {
    let mut body = vec![0; 17];
    body.extend(i32::MAX.to_be_bytes());
    assert!(parse(4, false, &body).is_err());
}

fn refused(index: i32, error: ErrorCode, hint: Option<Hint>) -> Slot {
    let asked = request::Partition { index, epoch: -1, offset: 0, bytes_max: 1 };
    Slot { asked, next: 0, batches: Vec::new(), bytes: 0, full: false, source: Err(error), hint }
}

fn decoded(version: i16, writer: Writer) -> FetchResponse {
    let mut bytes = BytesMut::from(&writer.finish().concat()[..]).freeze();
    assert_eq!(bytes.get_i32() as usize, bytes.len());
    assert_eq!(bytes.get_i32(), 7);
    if version >= FLEXIBLE {
        assert_eq!(bytes.get_u8(), 0);
    }
    let response = FetchResponse::decode(&mut bytes, version).expect("a response");
    assert!(bytes.is_empty(), "version {version}");
    response
}

fn begun(version: i16, partitions: usize) -> Writer {
    let mut writer = Writer::new(7, version >= FLEXIBLE);
    writer.i32(0);
    if version >= 7 {
        writer.i16(NONE);
        writer.i32(0);
    }
    writer.count(1);
    if version >= 13 {
        writer.uuid(id(4))
    } else {
        writer.string("flights")
    }
    writer.count(partitions);
    writer
}

#[test]
fn the_codec_crate_reads_refusals_as_they_were_meant() {
    for version in 4..=18 {
        let mut writer = begun(version, 2);
        refused(3, ErrorCode::NotLeaderOrFollower, Some(Hint { leader: 2, epoch: 9 })).write(&mut writer, version, 0);
        refused(4, ErrorCode::OffsetOutOfRange, None).write(&mut writer, version, 1);
        writer.tags();
        writer.tags();
        let response = decoded(version, writer);
        let [first, second] = &response.responses[0].partitions[..] else { panic!("two partitions") };
        assert_eq!((first.partition_index, first.error_code, first.high_watermark), (3, 6, -1));
        assert_eq!(first.records.as_deref(), Some(&b""[..]));
        let leader = if version >= 12 { (2, 9) } else { (-1, -1) };
        assert_eq!((first.current_leader.leader_id.0, first.current_leader.leader_epoch), leader);
        assert_eq!((second.partition_index, second.error_code), (4, 1));
        assert_eq!((first.aborted_transactions.is_none(), second.aborted_transactions.as_ref().map(Vec::len)), (true, Some(0)));
    }
}

#[test]
fn an_unknown_session_is_told_so() {
    for version in 7..=18 {
        let api = crate::kafka::api::find(1).expect("Fetch");
        let call = Call { api, version, correlation_id: 7, body: Bytes::new() };
        let mut bytes = Bytes::from(no_such_session(&call).concat()).split_off(8);
        if version >= FLEXIBLE {
            bytes.advance(1);
        }
        let response = FetchResponse::decode(&mut bytes, version).expect("a response");
        assert_eq!((response.error_code, response.session_id, bytes.is_empty()), (70, 0, true), "version {version}");
    }
}

#[test]
fn payloads_go_between_the_fields_without_a_copy() {
    let payload = [Bytes::from_static(b"first batch"), Bytes::from_static(b"second")];
    for flexible in [false, true] {
        let mut writer = Writer::new(7, flexible);
        writer.i16(1);
        writer.payload(payload.clone(), 17);
        writer.i16(2);
        writer.payload([], 0);
        let parts = writer.finish();
        assert!(payload.iter().all(|payload| parts.iter().any(|part| part.as_ptr() == payload.as_ptr())));
        let whole = parts.concat();
        assert_eq!(i32::from_be_bytes([whole[0], whole[1], whole[2], whole[3]]) as usize, whole.len() - 4);
        let records: &[u8] = if flexible { b"\x12first batchsecond\0\x02\x01" } else { b"\0\0\0\x11first batchsecond\0\x02\0\0\0\0" };
        assert!(whole.ends_with(records), "{whole:?}");
    }
}

#[test]
fn what_a_waiting_fetch_holds_already_is_not_counted_twice_against_what_still_fits() {
    let batch = || Bytes::from(vec![0; 300]);
    let asked = request::Partition { index: 0, epoch: -1, offset: 0, bytes_max: 1000 };
    let source = Err(ErrorCode::UnknownServerError);
    let mut slot = Slot { asked, next: 0, batches: Vec::new(), bytes: 0, full: false, source, hint: None };
    slot.take([batch(), batch()].into_iter(), 1000, true);
    slot.take([batch()].into_iter(), 400, false);
    assert_eq!((slot.bytes, slot.full), (900, false));
    slot.take([batch()].into_iter(), 100, false);
    assert_eq!((slot.bytes, slot.full), (900, true));
}
