//! Produce's own codec against the codec crate's, at every version, and against bytes that mean harm.

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest as Oracle, TopicProduceData};
use kafka_protocol::messages::{ProduceResponse, TransactionalId};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::kafka::topic_key::TopicRef;

const FLEXIBLE: i16 = 9;

/// A topic's name and its partitions: index and records.
type Sent = (String, Vec<(i32, Option<Vec<u8>>)>);

fn oracle(version: i16, transactional: bool, topics: &[Sent]) -> Oracle {
    let topics = topics.iter().enumerate().map(|(at, (name, partitions))| {
        let partitions = partitions
            .iter()
            .map(|(index, records)| PartitionProduceData::default().with_index(*index).with_records(records.clone().map(Bytes::from)));
        let topic = TopicProduceData::default().with_partition_data(partitions.collect());
        if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(at as u128 + 1))
        } else {
            topic.with_name(StrBytes::from_string(name.clone()).into())
        }
    });
    let id = transactional.then(|| TransactionalId(StrBytes::from_static_str("t")));
    Oracle::default().with_transactional_id(id).with_acks(-1).with_timeout_ms(1234).with_topic_data(topics.collect())
}

fn partitions() -> impl Strategy<Value = Vec<(i32, Option<Vec<u8>>)>> {
    prop::collection::vec((any::<i32>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..200))), 0..4)
}

proptest! {
    #[test]
    fn requests_of_the_codec_crate_are_read_as_it_meant_them(
        topics in prop::collection::vec(("[a-z]{0,20}", partitions()), 0..4), transactional: bool,
    ) {
        for version in 3..=13 {
            let mut body = BytesMut::new();
            oracle(version, transactional, &topics).encode(&mut body, version).expect("encoded");
            let read = parse(version, version >= FLEXIBLE, &body).expect("a request");
            prop_assert_eq!((read.transactional, read.acks, read.timeout_ms), (transactional, -1, 1234));
            prop_assert_eq!(read.topics.len(), topics.len());
            for (at, (read, (name, partitions))) in read.topics.iter().zip(&topics).enumerate() {
                let key = if version >= 13 { TopicRef::Id(Uuid::from_u128(at as u128 + 1)) } else { TopicRef::Name(name) };
                prop_assert_eq!(read.key, key);
                let read: Vec<_> = read.partitions.iter().map(|p| (p.index, p.records.clone().map(|at| body[at].to_vec()))).collect();
                prop_assert_eq!(&read, partitions);
            }
            for end in 0..body.len() {
                prop_assert!(parse(version, version >= FLEXIBLE, &body[..end]).is_err(), "version {} cut at {}", version, end);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..80)) {
        for version in 0..=13 {
            let _ = parse(version, version >= FLEXIBLE, &bytes);
        }
    }
}

#[test]
fn a_claim_of_more_topics_or_partitions_than_remain_is_refused() {
    let plain = b"\xff\xff\0\x01\0\0\0\0\x7f\xff\xff\xff";
    assert!(parse(3, false, plain).is_err());
    assert!(parse(9, true, b"\0\0\x01\0\0\0\0\xff\xff\xff\xff\x0f").is_err());
    assert!(parse(3, false, b"\xff\xff\0\x01\0\0\0\0\0\0\0\x01\0\x01a\x7f\xff\xff\xff").is_err());
}

#[test]
fn a_small_batch_does_not_pin_its_frame_and_a_large_one_is_not_copied() {
    let body = Bytes::from(vec![7; 3 * SLICE_BYTES_MIN]);
    let key = TopicRef::Name("t");
    let sent = |records| Named { last: request::Partition { index: 0, records: Some(records) }, twice: false };
    let records = |range| detach(vec![(key, vec![sent(range)])], &body)[0].1[0].records.clone().expect("records");
    let inside = body.as_ptr_range();
    assert!(!inside.contains(&records(10..20).as_ptr()));
    assert!(!inside.contains(&records(0..SLICE_BYTES_MIN).as_ptr()), "a third of the frame");
    assert!(inside.contains(&records(0..2 * SLICE_BYTES_MIN).as_ptr()));
}

/// Writes one partition's part with everything around it, as `Answer::write` does.
fn written(version: i16, result: Result<(i64, i64), Refused>, hint: Option<Hint>) -> ProduceResponse {
    let mut writer = Writer::new(7, version >= FLEXIBLE);
    writer.count(1);
    if version >= 13 {
        writer.uuid(Uuid::from_u128(5))
    } else {
        writer.string("flights")
    }
    writer.count(1);
    write_part(&mut writer, version, 3, result, hint);
    writer.tags();
    if version >= 1 {
        writer.i32(0);
    }
    writer.tags();
    let mut bytes = BytesMut::from(&writer.finish().concat()[..]).freeze();
    assert_eq!(bytes.get_i32() as usize, bytes.len());
    assert_eq!(bytes.get_i32(), 7);
    if version >= FLEXIBLE {
        assert_eq!(bytes.get_u8(), 0);
    }
    let response = ProduceResponse::decode(&mut bytes, version).expect("a response");
    assert!(bytes.is_empty(), "version {version}");
    response
}

#[test]
fn the_codec_crate_reads_responses_as_they_were_meant() {
    for version in 3..=13 {
        let good = written(version, Ok((42, 5)), None);
        let part = &good.responses[0].partition_responses[0];
        let start = if version >= 5 { 5 } else { -1 };
        assert_eq!((part.index, part.error_code, part.base_offset, part.log_start_offset), (3, 0, 42, start));
        assert_eq!(part.log_append_time_ms, -1);
        let hint = Hint { leader: 2, epoch: 9 };
        let bad = written(version, Err(Refused::new(ErrorCode::NotLeaderOrFollower, "elsewhere")), Some(hint));
        let part = &bad.responses[0].partition_responses[0];
        assert_eq!((part.error_code, part.base_offset), (6, -1));
        assert_eq!(part.error_message.as_deref(), (version >= 8).then_some("elsewhere"));
        let leader = if version >= 10 { (2, 9) } else { (-1, -1) };
        assert_eq!((part.current_leader.leader_id.0, part.current_leader.leader_epoch), leader);
    }
}
