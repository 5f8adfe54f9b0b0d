//! The simulator's own promises: it finds nothing in the sound log, and it finds what is broken on purpose.

use std::path::Path;

use bytes::Bytes;
use meridian_raft::GroupId;
use meridian_raft::env::{Env, SimDisk};
use meridian_raft::log::{FrameKind, Log, LogEntry, LogSettings, Memory, Place, Rolling};
use meridian_raft::writer::Writer;

use super::*;
use crate::sim::process::tests::program;
use crate::sim::sweep::Sweep;
use crate::sim::{Mutations, World};

#[test]
fn no_seed_breaks_the_log_and_every_danger_is_met() {
    let sweep = Sweep { world: World::Log, mutation: None, seeds: 0..60, jobs: 2, keep_going: false };
    assert!(sweep.run(program, &mut std::io::sink()), "see what was printed");
}

#[test]
fn an_acknowledgement_without_fsync_is_caught_within_ten_seeds() {
    let mutations = Mutations::named("no-fsync").expect("it is there");
    let found: Vec<String> = (0..10).filter_map(|seed| simulate(seed, mutations).err()).map(|(_, what)| what).collect();
    assert!(found.iter().any(|what| what.contains("acknowledged entries are lost")), "the oracle sleeps: {found:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_in_memory_is_not_taken_for_durable_by_the_next_process() {
    let disk = SimDisk::new();
    let appended = async |failing: bool, index: u64| {
        let (log, writer) = opened(&disk);
        let held = log.indexes().end;
        disk.fail_syncs(failing);
        let (done, flushed) = tokio::sync::oneshot::channel();
        let entry = LogEntry { kind: FrameKind::Blank, term: 1, index, append_time_us: 0, payload: Bytes::new() };
        let told = if held == index { log.append(vec![entry], Box::new(|result| drop(done.send(result)))) } else { Ok(()) };
        told.expect("queued");
        let outcome = flushed.await;
        // The process ends, the machine goes on.
        writer.stop().await;
        disk.fail_syncs(false);
        (held, outcome.is_ok_and(|result| result.is_ok()))
    };
    assert_eq!(appended(false, 0).await, (0, true));
    assert_eq!(appended(true, 1).await, (1, false), "its sync fails");
    assert_eq!(appended(false, 1).await, (1, true), "the entry whose sync failed is not there");
    disk.crash(None);
    assert_eq!(opened(&disk).0.indexes(), 0..2);
}

fn opened(disk: &SimDisk) -> (Log, Writer) {
    let env = Env::simulated(1, disk.clone());
    let writer = Writer::start(&env, Path::new("/data")).expect("a writer");
    let rolling = Rolling { segment_bytes: 1 << 16, segment_ms: u64::MAX };
    let settings = LogSettings { group: GroupId { topic: uuid::Uuid::from_u128(1), partition: 0 }, rolling };
    let place = Place { env: &env, writer: &writer, memory: &Memory::default() };
    (Log::open(place, Path::new("/data/logs/flights-0"), settings).expect("a log"), writer)
}
