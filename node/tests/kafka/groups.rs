//! Consumer groups on the wire: every version, every refusal for want of an ACL, and the bounds.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, StrBytes};
use tokio::io::AsyncWriteExt;

use super::harness::{PATIENCE, ROOT, Running, Wire, topic_name};

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

fn join(id: &str, member: &str, version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(SUBSCRIPTION.into());
    let request = JoinGroupRequest::default().with_group_id(group(id)).with_session_timeout_ms(10_000).with_member_id(text(member));
    let request = request.with_protocol_type(text("consumer")).with_protocols(vec![protocol]);
    if version >= 1 { request.with_rebalance_timeout_ms(10_000) } else { request }
}

/// A consumer's, of topic `t`.
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff";

/// The only member of a group, in its first generation.
async fn joined(wire: &mut Wire, id: &str, version: i16) -> JoinGroupResponse {
    let mut answer = wire.ask(version, &join(id, "", version)).await;
    if version >= 4 {
        assert_eq!(answer.error_code, Error::MemberIdRequired.code());
        answer = wire.ask(version, &join(id, &answer.member_id, version)).await;
    }
    assert_eq!((answer.error_code, answer.generation_id), (0, 1), "join {version}");
    answer
}

fn sync(id: &str, member: &str, version: i16) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default().with_member_id(text(member)).with_assignment(Bytes::from_static(b"all"));
    let request = SyncGroupRequest::default().with_group_id(group(id)).with_generation_id(1).with_member_id(text(member));
    let request = request.with_assignments(vec![assignment]);
    if version < 5 {
        return request;
    }
    request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
}

fn beat(id: &str, member: &str) -> HeartbeatRequest {
    HeartbeatRequest::default().with_group_id(group(id)).with_generation_id(1).with_member_id(text(member))
}

fn commit(id: &str, topic: &'static str, partition: i32, metadata: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(42);
    let partition = partition.with_committed_metadata(Some(text(metadata)));
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default().with_group_id(group(id)).with_generation_id_or_member_epoch(-1).with_topics(vec![topic])
}

fn by_member(request: OffsetCommitRequest, member: &str) -> OffsetCommitRequest {
    request.with_generation_id_or_member_epoch(1).with_member_id(text(member))
}

/// The one partition's error.
fn committed(answer: OffsetCommitResponse) -> i16 {
    answer.topics[0].partitions[0].error_code
}

/// Group's error, topic's error, offset and metadata of `t`'s first partition.
async fn fetched(wire: &mut Wire, id: &str, version: i16) -> (i16, i16, i64, String) {
    if version >= 8 {
        let topic = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(Some(vec![topic]));
        let answer = wire.ask(version, &OffsetFetchRequest::default().with_groups(vec![asked])).await.groups.remove(0);
        let Some(partition) = answer.topics.first().map(|topic| topic.partitions[0].clone()) else {
            return (answer.error_code, 0, -1, String::new());
        };
        let metadata = partition.metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
        return (answer.error_code, partition.error_code, partition.committed_offset, metadata);
    }
    let topic = OffsetFetchRequestTopic::default().with_name(topic_name("t")).with_partition_indexes(vec![0]);
    let answer = wire.ask(version, &OffsetFetchRequest::default().with_group_id(group(id)).with_topics(Some(vec![topic]))).await;
    let Some(partition) = answer.topics.first().map(|topic| topic.partitions[0].clone()) else {
        return (answer.error_code, 0, -1, String::new());
    };
    let metadata = partition.metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
    (answer.error_code, partition.error_code, partition.committed_offset, metadata)
}

fn leave(id: &str, member: &str, version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group(id));
    if version < 3 {
        return request.with_member_id(text(member));
    }
    request.with_members(vec![MemberIdentity::default().with_member_id(text(member))])
}

async fn find(wire: &mut Wire, id: &str, version: i16) -> (i16, i32, i32) {
    if version < 4 {
        let answer = wire.ask(version, &FindCoordinatorRequest::default().with_key(text(id))).await;
        return (answer.error_code, answer.node_id.0, answer.port);
    }
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(id)]);
    let answer = wire.ask(version, &request).await.coordinators.remove(0);
    (answer.error_code, answer.node_id.0, answer.port)
}

async fn delete_offsets(wire: &mut Wire, id: &str) -> OffsetDeleteResponse {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
    wire.ask(0, &OffsetDeleteRequest::default().with_group_id(group(id)).with_topics(vec![topic])).await
}

/// Asks until the group's coordinator has read its log.
async fn coordinated(wire: &mut Wire, id: &str) {
    let loaded = async {
        while find(wire, id, 4).await.0 != 0 || fetched(wire, id, 8).await.0 != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, loaded).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_life_goes_the_same_in_every_version() {
    let node = Running::start().await;
    node.topic("t", &[]).await;
    let mut wire = node.connect(ROOT).await;
    coordinated(&mut wire, "g0").await;
    for version in 0..=9 {
        let id = format!("g{version}");
        coordinated(&mut wire, &id).await;
        let port = i32::from(node.address.port());
        assert_eq!(find(&mut wire, &id, version.min(6)).await, (0, 1, port), "find {version}");
        let member = joined(&mut wire, &id, version).await;
        let (sync_version, beat_version) = (version.min(5), version.min(4));
        let synced = wire.ask(sync_version, &sync(&id, &member.member_id, sync_version)).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]), "sync {version}");
        assert_eq!(wire.ask(beat_version, &beat(&id, &member.member_id)).await.error_code, 0, "heartbeat {version}");
        let offsets = by_member(commit(&id, "t", 0, "mine"), &member.member_id);
        assert_eq!(committed(wire.ask(version.max(2), &offsets).await), 0, "commit {version}");
        assert_eq!(fetched(&mut wire, &id, version.max(1)).await, (0, 0, 42, "mine".to_owned()), "fetch {version}");

        let asked = DescribeGroupsRequest::default().with_groups(vec![group(&id)]);
        let described = wire.ask(version.min(6), &asked).await.groups.remove(0);
        assert_eq!(
            (described.error_code, &*described.group_state, &*described.protocol_data),
            (0, "Stable", "range"),
            "describe {version}"
        );
        assert_eq!((&described.members[0].member_metadata[..], &described.members[0].member_assignment[..]), (SUBSCRIPTION, &b"all"[..]));
        let listed = wire.ask(version.min(5), &ListGroupsRequest::default()).await;
        assert!(listed.groups.iter().any(|listed| *listed.group_id.0 == *id), "list {version}");

        let topics = delete_offsets(&mut wire, &id).await.topics;
        assert_eq!(topics[0].partitions[0].error_code, Error::GroupSubscribedToTopic.code());
        let delete = DeleteGroupsRequest::default().with_groups_names(vec![group(&id)]);
        let delete_version = version.min(2);
        assert_eq!(wire.ask(delete_version, &delete).await.results[0].error_code, Error::NonEmptyGroup.code());
        assert_eq!(wire.ask(version.min(5), &leave(&id, &member.member_id, version.min(5))).await.error_code, 0, "leave {version}");
        assert_eq!(delete_offsets(&mut wire, &id).await.topics[0].partitions[0].error_code, 0);
        assert_eq!(fetched(&mut wire, &id, version.max(1)).await.2, -1, "taken back");
        assert_eq!(wire.ask(delete_version, &delete).await.results[0].error_code, 0, "delete {version}");
        let described = wire.ask(version.min(6), &asked).await.groups.remove(0);
        let code = if version >= 6 { Error::GroupIdNotFound.code() } else { 0 };
        assert_eq!((described.error_code, &*described.group_state), (code, "Dead"));
    }
    node.stop().await;
}

/// Sends a body that the codec crate cannot write, and returns the answer's body.
async fn raw(wire: &mut Wire, key: i16, version: i16, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i32(11 + body.len() as i32);
    bytes.put_i16(key);
    bytes.put_i16(version);
    bytes.put_i32(77);
    bytes.put_slice(b"\xff\xff\0");
    bytes.put_slice(body);
    wire.stream.write_all(&bytes).await.expect("sent");
    let mut frame = tokio::time::timeout(PATIENCE, wire.frame()).await.expect("in time").expect("an answer");
    assert_eq!((frame.get_i32(), frame.get_u8()), (77, 0));
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_10_commits_and_fetches_by_topic_id() {
    let node = Running::start().await;
    let id = node.topic("t", &[]).await;
    let mut wire = node.connect(ROOT).await;
    coordinated(&mut wire, "g").await;
    let partition = b"\x02\0\0\0\0\0\0\0\0\0\0\0\x2a\0\0\0\x03\x05mine\0\0".as_slice();
    let body = |topic: uuid::Uuid| [b"\x02g\xff\xff\xff\xff\x01\0\x02", topic.as_bytes().as_slice(), partition, b"\0"].concat();
    let answer = OffsetCommitResponse::decode(&mut raw(&mut wire, 8, 10, &body(id)).await, 10).expect("a response");
    assert_eq!((answer.topics[0].topic_id, answer.topics[0].partitions[0].error_code), (id, 0));
    let answer = OffsetCommitResponse::decode(&mut raw(&mut wire, 8, 10, &body(uuid::Uuid::from_u128(5))).await, 10).expect("a response");
    assert_eq!(committed(answer), Error::UnknownTopicId.code());

    let topics = [b"\x02".as_slice(), id.as_bytes(), b"\x02\0\0\0\0\0"].concat();
    for topics in [&topics[..], b"\0"] {
        let body = [b"\x02\x02g\0\xff\xff\xff\xff", topics, b"\0\0\0"].concat();
        let answer = OffsetFetchResponse::decode(&mut raw(&mut wire, 9, 10, &body).await, 10).expect("a response");
        let topic = &answer.groups[0].topics[0];
        let partition = &topic.partitions[0];
        assert_eq!((topic.topic_id, partition.error_code, partition.committed_offset, partition.committed_leader_epoch), (id, 0, 42, 3));
    }
    node.stop().await;
}

const GROUP: i8 = 3;
const TOPIC: i8 = 2;
const READ: i8 = 3;
const DELETE: i8 = 6;

async fn grant(root: &mut Wire, resource: i8, name: &str, operation: i8) {
    let acl = AclCreation::default().with_resource_type(resource).with_resource_name(text(name)).with_resource_pattern_type(3);
    let acl = acl.with_principal(text("User:alice")).with_host(text("*")).with_operation(operation).with_permission_type(3);
    let answer = root.ask(2, &CreateAclsRequest::default().with_creations(vec![acl])).await;
    assert_eq!(answer.results[0].error_code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_acl_refuses_with_its_own_error_and_changes_nothing() {
    let node = Running::start().await;
    node.topic("t", &[]).await;
    let (mut root, mut alice) = (node.connect(ROOT).await, node.connect("alice").await);
    let (no_group, no_topic) = (Error::GroupAuthorizationFailed.code(), Error::TopicAuthorizationFailed.code());
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("g")]);
    let asked = DescribeGroupsRequest::default().with_groups(vec![group("g")]);

    assert_eq!(find(&mut alice, "g", 4).await.0, no_group);
    coordinated(&mut root, "g").await;
    assert_eq!(alice.ask(0, &join("g", "", 0)).await.error_code, no_group);
    assert_eq!(alice.ask(0, &sync("g", "m", 0)).await.error_code, no_group);
    assert_eq!(alice.ask(0, &beat("g", "m")).await.error_code, no_group);
    assert_eq!(alice.ask(3, &leave("g", "m", 3)).await.error_code, no_group);
    assert_eq!(committed(alice.ask(8, &commit("g", "t", 0, "")).await), no_group);
    assert_eq!(fetched(&mut alice, "g", 8).await.0, no_group);
    assert_eq!(fetched(&mut alice, "g", 1).await.1, no_group, "version 1 has only the partition to say it");
    assert_eq!(alice.ask(5, &asked).await.groups[0].error_code, no_group);
    assert_eq!(alice.ask(2, &delete).await.results[0].error_code, no_group);
    assert_eq!(delete_offsets(&mut alice, "g").await.error_code, no_group);
    assert_eq!(root.ask(5, &ListGroupsRequest::default()).await.groups, [], "nothing came of it");

    grant(&mut root, GROUP, "g", READ).await;
    assert_eq!(find(&mut alice, "g", 4).await.0, 0);
    assert_eq!(committed(alice.ask(8, &commit("g", "t", 0, "")).await), no_topic);
    assert_eq!(committed(alice.ask(8, &commit("g", "nowhere", 0, "")).await), no_topic, "nor does it tell which topics exist");
    assert_eq!(fetched(&mut alice, "g", 8).await, (0, no_topic, -1, String::new()));
    grant(&mut root, TOPIC, "t", READ).await;
    assert_eq!(committed(alice.ask(8, &commit("g", "t", 0, "")).await), 0);
    assert_eq!(fetched(&mut alice, "g", 8).await, (0, 0, 42, String::new()));
    assert_eq!(committed(root.ask(8, &commit("other", "t", 0, "")).await), 0);
    let listed = alice.ask(5, &ListGroupsRequest::default()).await.groups;
    assert_eq!(listed.iter().map(|listed| listed.group_id.to_string()).collect::<Vec<_>>(), ["g"], "others' groups are not shown");
    assert_eq!(alice.ask(2, &delete).await.results[0].error_code, no_group);
    grant(&mut root, GROUP, "g", DELETE).await;
    assert_eq!(delete_offsets(&mut alice, "g").await.topics[0].partitions[0].error_code, 0);
    assert_eq!(alice.ask(2, &delete).await.results[0].error_code, Error::GroupIdNotFound.code(), "it went with its last offset");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_of_bounds_is_refused_by_name() {
    let node = Running::start().await;
    node.topic("t", &[]).await;
    let mut wire = node.connect(ROOT).await;
    coordinated(&mut wire, "g").await;
    for session_ms in [5_999, 1_800_001] {
        let answer = wire.ask(9, &join("g", "", 9).with_session_timeout_ms(session_ms)).await;
        assert_eq!(answer.error_code, Error::InvalidSessionTimeout.code());
    }
    assert_eq!(wire.ask(9, &join("", "", 9)).await.error_code, Error::InvalidGroupId.code());
    assert_eq!(wire.ask(9, &join("g", "stranger", 9)).await.error_code, Error::UnknownMemberId.code());
    let large = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(vec![0; 256 * 1024].into());
    assert_eq!(wire.ask(9, &join("g", "", 9).with_protocols(vec![large])).await.error_code, Error::InvalidRequest.code());
    assert_eq!(committed(wire.ask(8, &commit("g", "t", 0, &"x".repeat(4_097))).await), Error::OffsetMetadataTooLarge.code());
    assert_eq!(committed(wire.ask(8, &commit("g", "t", 1, "")).await), Error::UnknownTopicOrPartition.code());
    assert_eq!(committed(wire.ask(8, &commit("g", "t", -1, "")).await), Error::UnknownTopicOrPartition.code());
    assert_eq!(committed(wire.ask(8, &commit("g", "nowhere", 0, "")).await), Error::UnknownTopicOrPartition.code());
    assert_eq!(committed(wire.ask(8, &by_member(commit("g", "t", 0, ""), "m")).await), Error::IllegalGeneration.code());
    assert_eq!(committed(wire.ask(9, &by_member(commit("g", "t", 0, ""), "m")).await), Error::GroupIdNotFound.code());
    let transaction = FindCoordinatorRequest::default().with_key(text("t")).with_key_type(1);
    assert_eq!(wire.ask(3, &transaction).await.error_code, Error::InvalidRequest.code());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_behind_one_another_are_answered_in_order_and_the_last_one_stands() {
    let node = Running::start().await;
    node.topic("t", &[]).await;
    let mut wire = node.connect(ROOT).await;
    coordinated(&mut wire, "g").await;
    let mut sent = Vec::new();
    for number in 0..200 {
        sent.push(wire.send(8, &commit("g", "t", 0, &number.to_string())).await);
    }
    for id in sent {
        assert_eq!(committed(wire.receive::<OffsetCommitRequest>(8, id).await), 0);
    }
    assert_eq!(fetched(&mut wire, "g", 8).await.3, "199");
    node.stop().await;
}
