//! How fast and how fresh a mirror is: two regions of one node each in this process, mutual TLS 1.3 over QUIC on loopback, `fdatasync` before every
//! acknowledgement on both sides. Drivers, both nodes and both disks share this machine; no Kafka protocol, no round trip worth the name.

#[path = "../tests/links/harness.rs"]
#[expect(dead_code, reason = "the tests use more of two regions than this does")]
mod harness;

use std::time::Duration;

use bytes::Bytes;
use harness::Mesh;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::partition::Partition;
use meridian_replication::link::Links;
use tokio::time::Instant;

const RECORD_BYTES: usize = 1024;
const MEASURED: Duration = Duration::from_secs(6);
const PARTITIONS: i32 = 16;
/// Records of the backlog, per partition.
const BACKLOG: usize = 20_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("records of {RECORD_BYTES} bytes, {PARTITIONS} partitions, durable on both sides, TLS; everything shares this machine");
    catch_up().await;
    for rate in [100, 1_000, 10_000] {
        in_step(rate).await;
    }
    idle().await;
}

fn batch(records: usize) -> Batch {
    let record = Record { key: None, value: Some(Bytes::from(vec![b'x'; RECORD_BYTES])), timestamp_ms: 1_357_000_000_000 };
    let encoded = encode(&vec![record; records]).expect("a batch");
    Batch::from_stored(Bytes::copy_from_slice(encoded.bytes())).expect("a batch")
}

/// User and system time of this process so far, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // Signed, because a process without a terminal has -1 among them. Behind the name and the state's letter, user and system time are the 11th and 12th number; a tick is 10 ms.
    fields.get(10..12).map_or(0.0, |times| times.iter().sum::<i64>() as f64 / 100.0)
}

async fn led(mesh: &Mesh) -> Vec<Partition> {
    let partitions = mesh.home.members[&1].partitions.clone();
    harness::until("leaders", || partitions.iter().all(|partition| partition.leadership().is_leader)).await;
    partitions
}

async fn mirrored(mesh: &Mesh, end: i64) {
    for partition in &mesh.mirror.members[&1].partitions {
        partition.watch_high_watermark().wait_for(|held| *held >= end).await.expect("running");
    }
}

fn links(mesh: &Mesh) -> Links {
    mesh.mirror.members[&1].links.clone().expect("links")
}

/// A backlog, then the link: how fast the mirror comes into step.
async fn catch_up() {
    let mut mesh = Mesh::open(1, PARTITIONS).await;
    for partition in led(&mesh).await {
        for _ in 0..BACKLOG / 100 {
            partition.append(batch(100)).await.expect("acknowledged");
        }
    }
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    mesh.start_links("us", 1).await;
    mesh.start_links("eu", 1).await;
    mirrored(&mesh, BACKLOG as i64).await;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let bytes = (BACKLOG * RECORD_BYTES * PARTITIONS as usize) as f64;
    println!(
        "catching up: {:.0} MB/s, {:.1} CPU s/GiB (relay, both links and the mirror's log)",
        bytes / 1e6 / seconds,
        cpu * f64::from(1 << 30) / bytes
    );
    mesh.stop().await;
}

/// A steady load, one record a batch: how old the mirrors are, by their own account.
async fn in_step(per_second: u32) {
    let mesh = Mesh::with_partitions(1, PARTITIONS).await;
    let partitions = led(&mesh).await;
    let links = links(&mesh);
    let cpu = cpu_seconds();
    let begun = Instant::now();
    let mut staleness = Vec::new();
    let mut sent = 0u32;
    let mut pending = futures_util::stream::FuturesUnordered::new();
    while begun.elapsed() < MEASURED {
        let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u32;
        while sent < due {
            pending.push(partitions[(sent % PARTITIONS as u32) as usize].append(batch(1)));
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(Some(done)) = futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut pending)) {
            done.expect("acknowledged");
        }
        if begun.elapsed() > Duration::from_secs(1) {
            staleness.extend(links.mirrors().iter().filter_map(|mirror| mirror.staleness_ms));
        }
    }
    let cpu = (cpu_seconds() - cpu) / begun.elapsed().as_secs_f64();
    println!("{per_second:>6} records/s: {}, {:.0} % of a core", percentiles(staleness), cpu * 100.0);
    drop(pending);
    mesh.stop().await;
}

async fn idle() {
    let mesh = Mesh::with_partitions(1, PARTITIONS).await;
    led(&mesh).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let links = links(&mesh);
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut staleness = Vec::new();
    while begun.elapsed() < MEASURED {
        tokio::time::sleep(Duration::from_millis(7)).await;
        staleness.extend(links.mirrors().iter().filter_map(|mirror| mirror.staleness_ms));
    }
    let cpu = (cpu_seconds() - cpu) / begun.elapsed().as_secs_f64();
    println!("idle: {}, {:.1} % of a core", percentiles(staleness), cpu * 100.0);
    mesh.stop().await;
}

fn percentiles(mut staleness_ms: Vec<i64>) -> String {
    staleness_ms.sort_unstable();
    let at = |share: f64| staleness_ms.get((staleness_ms.len() as f64 * share) as usize).copied().unwrap_or(-1);
    format!("staleness p50 {} ms, p99 {} ms, max {} ms", at(0.5), at(0.99), staleness_ms.last().copied().unwrap_or(-1))
}
