//! How fast one partition takes batches: three nodes of one region in this process, mutual TLS between them, `fdatasync` on a majority before every
//! acknowledgement. No Kafka protocol and no client's TLS: this measures Raft, the log and the disk alone.

#[path = "../tests/region/harness.rs"]
#[expect(dead_code, reason = "the tests use more of a region than this does")]
mod harness;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use harness::Region;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::partition::Partition;
use tokio::time::Instant;

/// As a topic has them by default.
const SEGMENT_BYTES: u64 = 1 << 30;
const RECORD_BYTES: usize = 1024;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(8);

fn main() {
    let region = Region::start_with_segments(SEGMENT_BYTES);
    let partition = region.partition(region.leader()).clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    println!("durable, replicated to 3, mutual TLS between nodes; nodes, driver and disk share this machine");
    println!("records/batch  in flight      MB/s  batches/s   p50 ms   p99 ms   CPU s/GiB");
    for (records, in_flight) in [(1, 1), (1, 64), (16, 16), (256, 4), (900, 8)] {
        runtime.block_on(drive(&partition, records, in_flight));
    }
}

fn batch(records: usize) -> Batch {
    let record = Record { key: None, value: Some(Bytes::from(vec![b'x'; RECORD_BYTES])), timestamp_ms: 1_357_000_000_000 };
    encode(&vec![record; records]).expect("a batch")
}

/// User and system time of this process so far, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // Signed, because a process without a terminal has -1 among them. Behind the name and the state's letter, user and system time are the 11th and 12th number; a tick is 10 ms.
    fields.get(10..12).map_or(0.0, |times| times.iter().sum::<i64>() as f64 / 100.0)
}

/// Keeps `in_flight` appends going, and prints what came of it.
async fn drive(partition: &Partition, records: usize, in_flight: usize) {
    let batch = batch(records);
    let mut waiting = VecDeque::new();
    let mut latencies_us = Vec::new();
    let begun = Instant::now();
    let mut cpu_from = 0.0;
    let mut measured_from = None;
    while begun.elapsed() < WARM_UP + MEASURED {
        if measured_from.is_none() && begun.elapsed() >= WARM_UP {
            (measured_from, cpu_from) = (Some(Instant::now()), cpu_seconds());
            latencies_us.clear();
        }
        while waiting.len() < in_flight {
            // A buffer of its own, as the batch of a client has.
            let own = Batch::from_stored(Bytes::copy_from_slice(batch.bytes())).expect("a batch");
            let sent = Instant::now();
            waiting.push_back(partition.append(own).map(move |result| (result, sent)).boxed());
        }
        if let Some(next) = waiting.pop_front() {
            let (result, sent) = next.await;
            result.expect("acknowledged");
            latencies_us.push(sent.elapsed().as_micros() as u64);
        }
    }
    let seconds = measured_from.map_or(0.0, |from| from.elapsed().as_secs_f64());
    let cpu = cpu_seconds() - cpu_from;
    let count = latencies_us.len();
    latencies_us.sort_unstable();
    let at = |share: f64| latencies_us.get((count as f64 * share) as usize).map_or(0.0, |us| *us as f64 / 1e3);
    let bytes = (count * batch.bytes().len()) as f64;
    println!(
        "{records:>13} {in_flight:>10} {:>9.1} {:>10.0} {:>8.2} {:>8.2} {:>11.1}",
        bytes / 1e6 / seconds,
        count as f64 / seconds,
        at(0.5),
        at(0.99),
        cpu / (bytes / f64::from(1 << 30)),
    );
    for left in waiting {
        left.await.0.expect("acknowledged");
    }
}
