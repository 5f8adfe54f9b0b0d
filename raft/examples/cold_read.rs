//! What reading a log costs that is no longer in memory, as consumers fetch it: 1 MiB of each partition in turn, from the first offset to the last.
//!
//! `cold_read FOLDER [MIB [PARTITIONS]]` fills FOLDER (must be empty) once for each size of batches, and reads it by a process of its own. One node
//! that is a region by itself; no Kafka protocol and no TLS: Raft's partition, the log and the disk alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use meridian_raft::GroupId;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::batch::{Batch, BatchHeader};
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use meridian_raft::partition::{Partition, PartitionSettings, PartitionSpec, Rolling};
use tokio::time::Instant;

const RECORD_BYTES: usize = 1 << 10;
/// Records of a batch.
const BATCHES: [usize; 4] = [1, 16, 64, 900];
/// What clients ask for of one partition by default.
const FETCH_BYTES: usize = 1 << 20;
/// Bytes that wait for their commit, per partition.
const WAITING_BYTES: usize = 16 << 20;
const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (Some(folder), mib, partitions) = (arguments.first(), number(1, 1024), number(2, 12)) else {
        eprintln!("usage: cold_read FOLDER [MIB [PARTITIONS]]");
        return ExitCode::FAILURE;
    };
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match arguments.get(3).map(String::as_str) {
        Some("fill") => runtime().block_on(fill(Path::new(folder), partitions, mib << 20, number(4, 1))),
        Some(_) => runtime().block_on(read(Path::new(folder), partitions, number(4, 1))),
        None => return measure(folder, mib, partitions),
    }
    ExitCode::SUCCESS
}

fn measure(folder: &str, mib: usize, partitions: usize) -> ExitCode {
    println!("{mib} MiB in {partitions} partitions of one node, no client's TLS; {FETCH_BYTES} bytes of each partition at a time");
    println!("records/batch      MB/s   CPU s/GiB  of it system  bytes read/served  resident MiB");
    for records in BATCHES {
        let folder = format!("{folder}/{records}");
        for phase in ["fill", "read"] {
            let child = Command::new(std::env::current_exe().expect("this program"))
                .args([&folder, &mib.to_string(), &partitions.to_string(), phase, &records.to_string()])
                .status();
            if !child.is_ok_and(|status| status.success()) {
                return ExitCode::FAILURE;
            }
        }
        std::fs::remove_dir_all(&folder).expect("it was made here");
    }
    ExitCode::SUCCESS
}

async fn open(folder: &Path, partitions: usize) -> (Node, Vec<Partition>) {
    std::fs::create_dir_all(folder).expect("a folder");
    let config = NodeConfig {
        node_id: 1,
        data_dir: folder.to_owned(),
        peer_listen: ([127, 0, 0, 1], 0).into(),
        peers: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
        tls: None,
        timing: TIMING,
    };
    let node = Node::start(Env::real(), config).await.expect("a node");
    let mut opened = Vec::new();
    for partition in 0..i32::try_from(partitions).expect("few") {
        let id = GroupId { topic: uuid::Uuid::from_u128(1), partition };
        let settings = PartitionSettings { rolling: Rolling::DEFAULT };
        opened.push(node.open_partition(PartitionSpec { id, replicas: vec![1], mirror: false, settings }).await.expect("a partition"));
    }
    for partition in &opened {
        while !partition.leadership().is_leader {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    (node, opened)
}

async fn fill(folder: &Path, partitions: usize, bytes: usize, records: usize) {
    let (node, opened) = open(folder, partitions).await;
    let record = Record { key: None, value: Some(Bytes::from(vec![b'x'; RECORD_BYTES])), timestamp_ms: 1_357_000_000_000 };
    let batch = encode(&vec![record; records]).expect("a batch");
    let each = bytes / partitions / batch.bytes().len();
    let filling = opened.iter().map(|partition| {
        let appends = futures_util::stream::iter(0..each).map(|_| {
            // A buffer of its own, as the batch of a client has.
            let own = Batch::from_stored(Bytes::copy_from_slice(batch.bytes())).expect("a batch");
            partition.append(own)
        });
        let waiting_max = (WAITING_BYTES / batch.bytes().len()).clamp(1, 1024);
        appends.buffered(waiting_max).for_each(|appended| {
            assert!(appended.is_ok(), "{appended:?}");
            std::future::ready(())
        })
    });
    // Together, so that the partitions' bytes lie among each other on the disk.
    futures_util::future::join_all(filling).await;
    node.shutdown().await;
}

async fn read(folder: &Path, partitions: usize, records: usize) {
    let (node, opened) = open(folder, partitions).await;
    let mut places: Vec<(Partition, i64)> = opened.into_iter().map(|partition| (partition, 0)).collect();
    let (begun, before, read_before) = (Instant::now(), cpu_seconds(), proc_number("/proc/self/io", "read_bytes:"));
    let mut served = 0;
    while !places.is_empty() {
        let mut answer = Vec::new();
        for (partition, next) in &mut places {
            let batches = partition.read(*next, FETCH_BYTES).await.expect("read");
            let last = batches.last().and_then(|batch| BatchHeader::decode(&batch.bytes));
            *next = last.map_or(i64::MAX, |last| last.base_offset + i64::from(last.last_offset_delta) + 1);
            answer.extend(batches);
        }
        served += answer.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        places.retain(|(partition, next)| *next < partition.high_watermark());
    }
    let (seconds, after) = (begun.elapsed().as_secs_f64(), cpu_seconds());
    let read = proc_number("/proc/self/io", "read_bytes:") - read_before;
    let gib = served as f64 / f64::from(1 << 30);
    println!(
        "{records:>13} {:>9.0} {:>11.2} {:>13.2} {:>18.2} {:>13.1}",
        served as f64 / 1e6 / seconds,
        (after.0 + after.1 - before.0 - before.1) / gib,
        (after.1 - before.1) / gib,
        read as f64 / served as f64,
        proc_number("/proc/self/status", "VmRSS:") as f64 / 1024.0,
    );
    node.shutdown().await;
}

/// User and system time of this process so far, seconds.
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // Signed, because a process without a terminal has -1 among them. Behind the name and the state's letter, user and system time are the 11th
    // and 12th number; a tick is 10 ms.
    fields.get(10..12).map_or((0.0, 0.0), |times| (times[0] as f64 / 100.0, times[1] as f64 / 100.0))
}

/// A number of this process as the kernel tells it.
fn proc_number(file: &str, name: &str) -> u64 {
    let told = std::fs::read_to_string(file).unwrap_or_default();
    let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
