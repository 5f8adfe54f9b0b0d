//! What a node reads at its start, and what it knows afterwards: after a clean stop, after an end without one, and where what it saved is gone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use meridian_raft::GroupId;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Appended, Partition, PartitionSettings, PartitionSpec, Rolling};

const ID: GroupId = GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 };
const SEGMENT_BYTES: u64 = 256 << 10;
/// Of one batch.
const VALUE_BYTES: usize = 8 << 10;
const BATCHES: i32 = 300;
/// Single entries, by which a start finds out where the log's terms begin.
const FEW_BYTES: u64 = 4 << 10;
/// What apply reads of each batch.
const HEAD_BYTES: u64 = 61;

async fn started(folder: &Path) -> (Node, Partition) {
    let config = NodeConfig {
        node_id: 1,
        data_dir: folder.to_owned(),
        peer_listen: ([127, 0, 0, 1], 0).into(),
        peers: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
        tls: None,
        timing: Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 },
    };
    let node = Node::start(Env::real(), config).await.expect("a node");
    let settings = PartitionSettings { rolling: Rolling { segment_bytes: SEGMENT_BYTES, ..Rolling::DEFAULT } };
    let partition = node.open_partition(PartitionSpec { id: ID, replicas: vec![1], mirror: false, settings }).await.expect("a partition");
    (node, partition)
}

/// One batch of an idempotent producer.
fn batch(sequence: i32) -> Batch {
    const PRODUCER_ID_AT: usize = 43;
    const CRC_AT: usize = 17;
    let record = Record { key: None, value: Some(vec![b'x'; VALUE_BYTES].into()), timestamp_ms: i64::from(sequence) };
    let mut bytes = encode(&[record]).expect("a batch").bytes().to_vec();
    bytes[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].copy_from_slice(&5i64.to_be_bytes());
    bytes[PRODUCER_ID_AT + 8..PRODUCER_ID_AT + 10].copy_from_slice(&0i16.to_be_bytes());
    bytes[PRODUCER_ID_AT + 10..PRODUCER_ID_AT + 14].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_AT + 4..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    Batch::validate(bytes.into()).expect("well-formed")
}

async fn append(partition: &Partition, sequence: i32) -> Appended {
    let mut leadership = partition.watch_leadership();
    leadership.wait_for(|leadership| leadership.is_leader).await.expect("a leader");
    partition.append(batch(sequence)).await.expect("acknowledged")
}

/// A life of a node, ended as `stops` says, that knows everything of before and reads so many bytes for it.
fn live(folder: &Path, read_bytes: Range<u64>, next: i32, stops: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (node, partition) = started(folder).await;
        let read = node.memory_stats().read_disk_bytes;
        assert!(read_bytes.contains(&read), "{read} bytes were read at the start, not {read_bytes:?}");
        if next > 0 {
            let again = append(&partition, next - 1).await;
            assert_eq!(again, Appended { base_offset: i64::from(next) - 1, last_offset: i64::from(next) - 1, duplicate: true });
            assert_eq!((partition.log_start_offset(), partition.high_watermark()), (0, i64::from(next)));
        }
        for sequence in next..next + BATCHES {
            assert_eq!(append(&partition, sequence).await.base_offset, i64::from(sequence));
        }
        if stops {
            node.shutdown().await;
        }
    });
    // What still runs ends here, wherever it is.
    drop(runtime);
}

fn saved(folder: &Path) -> PathBuf {
    let groups = std::fs::read_dir(folder.join("logs")).expect("the logs' folder");
    let mut found = groups.map(|entry| entry.expect("an entry").path().join("applied"));
    found.find(|path| path.exists()).expect("a replica's checkpoint")
}

#[test]
fn a_start_applies_what_came_since_the_last_checkpoint_and_knows_what_came_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = |lives: i32| {
        let bytes = u64::from((lives * BATCHES).unsigned_abs()) * HEAD_BYTES;
        bytes..bytes * 5 / 4 + FEW_BYTES
    };
    let mut next = 0;
    let mut life = |read_bytes: Range<u64>, stops: bool| {
        live(folder.path(), read_bytes, next, stops);
        next += BATCHES;
    };
    life(0..1, true);
    life(0..FEW_BYTES, false);
    // What lies between two checkpoints.
    life(0..FEW_BYTES, true);
    std::fs::write(saved(folder.path()), b"something else").expect("spoilt");
    life(whole(3), true);
    std::fs::remove_file(saved(folder.path())).expect("removed");
    life(whole(4), true);
    life(0..FEW_BYTES, true);
}
