//! The log of groups says the same before, while and after it is written anew, by a reader of it that knows nothing of coordinators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use meridian_raft::GroupId;
use meridian_raft::batch::{Batch, records};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Partition, PartitionSettings, PartitionSpec, ReadError, Rolling};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::leader::load;
use super::super::record::{StoredGroup, StoredMember};
use super::*;

/// What stands in the metadata of most offsets: a few hundred of them are several pieces.
const PADDING: usize = 4_000;
const OFFSETS: i32 = 300;
/// Times that every offset is committed before the log is looked at: enough for it to be due.
const ROUNDS: i64 = 6;

const DEADLINE: Duration = Duration::from_secs(20);

struct Stage {
    node: Node,
    partition: Partition,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A partition that says of a group `old` of long ago, of a stable group `team`, and of a group `g` too often.
    async fn filled() -> Stage {
        let folder = tempfile::tempdir().expect("a folder");
        let config = NodeConfig {
            node_id: 1,
            data_dir: folder.path().to_owned(),
            peer_listen: ([127, 0, 0, 1], 0).into(),
            peers: [(1, "127.0.0.1:1".to_owned())].into(),
            tls: None,
            timing: Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 },
        };
        let node = Node::start(Env::real(), config).await.expect("a node");
        let id = GroupId { topic: Uuid::from_u128(7), partition: 0 };
        let settings = PartitionSettings { rolling: Rolling::DEFAULT };
        let spec = PartitionSpec { id, replicas: vec![1], mirror: false, settings };
        let partition = node.open_partition(spec).await.expect("a partition");
        let mut leadership = partition.watch_leadership();
        leadership.wait_for(|leadership| leadership.is_leader).await.expect("a leader");
        let stage = Stage { node, partition, _folder: folder };
        stage.write(&[group("old", 1, &[]), offset("old", 0, committed(1, 1, 0)), group("team", i64::MAX / 2, &["a"])]).await;
        for round in 0..ROUNDS {
            let offsets = (0..OFFSETS).map(|number| offset("g", number, committed(round, i64::MAX / 2, PADDING)));
            stage.write(&offsets.collect::<Vec<_>>()).await;
        }
        stage
    }

    async fn write(&self, entries: &[Entry]) {
        let records = entries.iter().map(|entry| entry.encode(0).expect("a record")).collect::<Vec<_>>();
        self.partition.append(records::encode(&records).expect("a batch")).await.expect("committed");
    }

    async fn coordinator(&self) -> Coordinator {
        loop {
            match load(&Env::real(), &self.partition, Arc::default()).await {
                Ok(coordinator) => return coordinator,
                Err(ReadError::OutOfRange { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Each key's last value, and the bytes of all batches. Read again where the log begins anew meanwhile.
    async fn says(&self) -> (BTreeMap<Bytes, Bytes>, usize) {
        loop {
            match self.said().await {
                Err(ReadError::OutOfRange { .. }) => {}
                said => return said.expect("read"),
            }
        }
    }

    async fn said(&self) -> Result<(BTreeMap<Bytes, Bytes>, usize), ReadError> {
        let (mut says, mut bytes) = (BTreeMap::new(), 0);
        let mut at = self.partition.log_start_offset();
        while at < self.partition.high_watermark() {
            for stored in self.partition.read(at, 1 << 20).await? {
                bytes += stored.bytes.len();
                let batch = Batch::from_stored(stored.bytes).expect("a batch");
                at = batch.header().base_offset + i64::from(batch.header().last_offset_delta) + 1;
                for record in records::decode(&batch).expect("records") {
                    let key = record.key.expect("a key");
                    match record.value {
                        Some(value) => drop(says.insert(key, value)),
                        None => drop(says.remove(&key)),
                    }
                }
            }
        }
        Ok((says, bytes))
    }
}

fn committed(offset: i64, commit_timestamp_ms: i64, padding: usize) -> Committed {
    Committed { topic_id: Uuid::from_u128(9), offset, leader_epoch: 0, metadata: "x".repeat(padding), commit_timestamp_ms }
}

fn offset(group: &str, partition: i32, committed: Committed) -> Entry {
    Entry::Offset { group: group.to_owned(), topic: format!("t{}", partition % 7), partition, value: Some(committed) }
}

fn group(id: &str, timestamp_ms: i64, members: &[&str]) -> Entry {
    let member = |id: &&str| StoredMember {
        id: (*id).to_owned(),
        instance_id: None,
        client_id: "reader".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 60_000,
        subscription: Bytes::from_static(b"all"),
        assignment: Bytes::from_static(b"all"),
    };
    let stored = StoredGroup {
        protocol_type: "consumer".to_owned(),
        generation: 3,
        protocol: Some("range".to_owned()),
        leader: members.first().map(|id| (*id).to_owned()),
        timestamp_ms,
        members: members.iter().map(member).collect(),
    };
    Entry::Group { group: id.to_owned(), value: Some(stored) }
}

fn key(entry: &Entry) -> Bytes {
    entry.encode(0).expect("a record").key.expect("a key")
}

fn commit(number: i32, offset: i64) -> Commit {
    let offsets = vec![(format!("t{}", number % 7), number, committed(offset, 0, 0))];
    Commit { member_id: String::new(), instance_id: None, generation: -1, unknown_group: ResponseError::IllegalGeneration, offsets }
}

/// What the log says of a group itself, and its offsets.
type Held = (Option<StoredGroup>, BTreeMap<String, BTreeMap<i32, Committed>>);

/// What memory holds of each group.
fn held(coordinator: &Coordinator) -> BTreeMap<String, Held> {
    let of_group = |(id, hosted): (&String, &Hosted)| (id.clone(), (hosted.stored.clone(), hosted.group.offsets().clone()));
    coordinator.groups.iter().map(of_group).collect()
}

async fn one_event(coordinator: &mut Coordinator) {
    coordinator.compact();
    let event = tokio::time::timeout(DEADLINE, coordinator.committed()).await;
    assert!(event.expect("something is on its way to the log").is_continue());
}

fn is_at_rest(coordinator: &mut Coordinator) -> bool {
    coordinator.compact();
    coordinator.in_flight.is_empty()
}

#[tokio::test]
async fn a_coordinator_lost_at_any_step_of_a_rewriting_leaves_a_log_that_says_the_same() {
    let stage = Stage::filled().await;
    let (mut expected, full_bytes) = stage.says().await;
    // Nobody has used it for long: it is taken back, not copied.
    expected.retain(|key_held, _| *key_held != key(&group("old", 0, &[])) && *key_held != key(&offset("old", 0, committed(0, 0, 0))));
    let mut loaded = None;
    let mut steps = 0;
    while stage.partition.log_start_offset() == 0 {
        let mut coordinator = stage.coordinator().await;
        for _ in 0..steps {
            // The one before this may have come to the end after all.
            if is_at_rest(&mut coordinator) {
                break;
            }
            one_event(&mut coordinator).await;
        }
        // What it hands to the log now is committed without it, now or while the next one reads.
        coordinator.compact();
        drop(coordinator);
        if steps > 0 {
            assert_eq!(stage.says().await.0, expected, "after {steps} steps");
            let held = held(&stage.coordinator().await);
            assert_eq!(held.keys().collect::<Vec<_>>(), ["g", "team"]);
            assert_eq!(*loaded.get_or_insert_with(|| held.clone()), held, "after {steps} steps");
        }
        steps += 1;
        assert!(steps < 20, "the log is never let go");
    }
    assert!(steps > 3, "it was lost with the tombstones in flight, and with each of three pieces, not {steps} times");
    assert_eq!(stage.says().await.0, expected);
    let mut coordinator = stage.coordinator().await;
    assert_eq!(Some(held(&coordinator)), loaded);
    assert!(is_at_rest(&mut coordinator), "a log that is short is left alone");
    let (_, short_bytes) = stage.says().await;
    assert!(short_bytes < full_bytes / 4, "{short_bytes} of {full_bytes}");
    stage.node.shutdown().await;
}

#[tokio::test]
async fn what_is_committed_or_taken_back_while_the_log_is_written_anew_wins() {
    let stage = Stage::filled().await;
    let mut coordinator = stage.coordinator().await;
    let mut expected = BTreeMap::new();
    let mut answers = Vec::new();
    let mut number = 0;
    // Of every part of the state there is something in flight at every step: in front of the pieces, in them, and behind.
    while stage.partition.log_start_offset() == 0 || !is_at_rest(&mut coordinator) {
        coordinator.compact();
        for _ in 0..3 {
            if !coordinator.takes_requests() || stage.partition.log_start_offset() > 0 {
                break;
            }
            number += 1;
            let partition = (number * 37) % OFFSETS;
            let name = format!("t{}", partition % 7);
            if number % 4 == 0 {
                let (reply, answer) = oneshot::channel();
                coordinator.delete_offsets("g", vec![(name, vec![partition])], reply);
                answers.push(tokio::spawn(async move { answer.await.expect("answered").map(|_| ()) }));
                expected.insert(partition, None);
            } else {
                let (reply, answer) = oneshot::channel();
                coordinator.commit("g", commit(partition, 1_000 + i64::from(number)), reply);
                answers.push(tokio::spawn(async move { answer.await.expect("answered") }));
                expected.insert(partition, Some(1_000 + i64::from(number)));
            }
        }
        one_event(&mut coordinator).await;
    }
    assert!(number > 9, "{number} commits");
    for answer in answers {
        assert_eq!(answer.await.expect("no panic"), Ok(()));
    }
    let held_at_the_end = held(&coordinator);
    let anew = held(&stage.coordinator().await);
    assert_eq!(anew, held_at_the_end);
    for (partition, offset) in expected {
        let found = anew["g"].1.get(&format!("t{}", partition % 7)).and_then(|offsets| offsets.get(&partition));
        assert_eq!(found.map(|committed| committed.offset), offset, "partition {partition}");
    }
    let offsets = anew["g"].1.values().map(BTreeMap::len).sum::<usize>();
    assert!(offsets > 200, "{offsets} are left of {OFFSETS}");
    stage.node.shutdown().await;
}

#[tokio::test]
async fn a_group_that_is_between_two_generations_is_kept_as_the_log_knows_it() {
    let stage = Stage::filled().await;
    let team = key(&group("team", 0, &[]));
    let before = stage.says().await.0.remove(&team).expect("a group");
    let mut coordinator = stage.coordinator().await;
    let (reply, _waits) = oneshot::channel();
    let join = Join {
        member_id: String::new(),
        fresh_member_id: String::new(),
        instance_id: None,
        client_id: "late".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"all"))],
        requires_known_id: false,
        may_skip_assignment: false,
    };
    coordinator.join("team", join, reply);
    assert_eq!(coordinator.describe("team").expect("a group").state, State::PreparingRebalance);
    while stage.partition.log_start_offset() == 0 {
        one_event(&mut coordinator).await;
    }
    assert_eq!(stage.says().await.0.remove(&team), Some(before));
    stage.node.shutdown().await;
}
