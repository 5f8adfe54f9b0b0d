//! How long a node takes to open its logs, how much it reads for that, and what it keeps in memory: after a clean stop and after a kill.
//!
//! `start_time FOLDER [PARTITIONS [SEGMENTS]]` fills FOLDER (must be empty) with that many partitions of that many segments, each opened again by a
//! process of its own. One node that is a region by itself, no Kafka protocol.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use meridian_raft::GroupId;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Partition, PartitionSettings, PartitionSpec, Rolling};
use tokio::time::Instant;

/// Short, so that many segments take little space.
const SEGMENT_BYTES: u64 = 16 << 10;
const RECORD_BYTES: usize = 4 << 10;
/// Records that wait for their commit: a partition takes no more than 64 MiB at once.
const WAITING_MAX: usize = 4096;
/// Partitions opened at once, as a node does.
const OPENING_MAX: usize = 16;
const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: i32| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (Some(folder), partitions, segments) = (arguments.first(), number(1, 100), number(2, 100).unsigned_abs()) else {
        eprintln!("usage: start_time FOLDER [PARTITIONS [SEGMENTS]]");
        return ExitCode::FAILURE;
    };
    if let Some(phase) = arguments.get(3) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(play(phase, Path::new(folder), partitions, u64::from(segments)));
        return ExitCode::SUCCESS;
    }
    println!("{partitions} partitions of {segments} segments");
    println!("phase                     seconds   read MiB  resident MiB");
    for phase in ["fill", "start after a clean stop", "start once more", "write and be killed", "start after a kill"] {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args([folder.as_str(), &partitions.to_string(), &segments.to_string(), phase])
            .status();
        if phase != "write and be killed" && !child.is_ok_and(|status| status.success()) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn play(phase: &str, folder: &Path, partitions: i32, segments: u64) {
    let begun = Instant::now();
    let read_before = proc_number("/proc/self/io", "rchar:");
    let (node, opened) = open(folder, partitions).await;
    let seconds = begun.elapsed().as_secs_f64();
    let read = (proc_number("/proc/self/io", "rchar:") - read_before) as f64 / f64::from(1 << 20);
    let resident = proc_number("/proc/self/status", "VmRSS:") as f64 / 1024.0;
    match phase {
        "fill" => {
            for partition in &opened {
                write(partition, segments * (SEGMENT_BYTES / RECORD_BYTES as u64)).await;
            }
            let seconds = begun.elapsed().as_secs_f64();
            println!("{phase:<25} {seconds:>7.2}");
        }
        "write and be killed" => {
            for partition in &opened {
                write(partition, 2).await;
            }
            std::process::abort();
        }
        _ => println!("{phase:<25} {seconds:>7.2} {read:>10.1} {resident:>13.1}"),
    }
    node.shutdown().await;
}

async fn open(folder: &Path, partitions: i32) -> (Node, Vec<Partition>) {
    let config = NodeConfig {
        node_id: 1,
        data_dir: folder.to_owned(),
        peer_listen: ([127, 0, 0, 1], 0).into(),
        peers: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
        tls: None,
        timing: TIMING,
    };
    let node = Node::start(Env::real(), config).await.expect("a node");
    let opening = (0..partitions).map(|partition| {
        let node = node.clone();
        async move {
            let id = GroupId { topic: uuid::Uuid::from_u128(1), partition };
            let settings = PartitionSettings { rolling: Rolling { segment_bytes: SEGMENT_BYTES, ..Rolling::DEFAULT } };
            node.open_partition(PartitionSpec { id, replicas: vec![1], mirror: false, settings }).await.expect("a partition")
        }
    });
    let opened = futures_util::stream::iter(opening).buffered(OPENING_MAX);
    (node.clone(), opened.collect().await)
}

async fn write(partition: &Partition, records: u64) {
    while !partition.leadership().is_leader {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let record = Record { key: None, value: Some(Bytes::from(vec![b'x'; RECORD_BYTES])), timestamp_ms: 1_357_000_000_000 };
    let batch = encode(&[record]).expect("a batch");
    let appends = futures_util::stream::iter(0..records).map(|_| {
        // A buffer of its own, as the batch of a client has.
        let own = Batch::from_stored(Bytes::copy_from_slice(batch.bytes())).expect("a batch");
        partition.append(own)
    });
    let mut acknowledged = appends.buffered(WAITING_MAX);
    while let Some(appended) = acknowledged.next().await {
        appended.expect("acknowledged");
    }
}

/// A number of this process as the kernel tells it.
fn proc_number(file: &str, name: &str) -> u64 {
    let told = std::fs::read_to_string(file).unwrap_or_default();
    let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
