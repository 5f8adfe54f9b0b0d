//! A log on a real disk, through its public face: what a restart finds, what damage does, what lookups answer.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use meridian_raft::GroupId;
use meridian_raft::batch::BatchHeader;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::Env;
use meridian_raft::log::{FrameKind, Log, LogEntry, LogError, LogSettings, Memory, Place, Purged, Retention, Rolling, encode_start_offset};
use meridian_raft::writer::Writer;

const SEGMENT_BYTES: u64 = 64 * 1024;
/// Little enough that most is read from the disk.
const TAIL_BYTES: usize = 64 * 1024;
const INDEX_BYTES: usize = 16 * 1024;

struct Node {
    dir: tempfile::TempDir,
    memory: Memory,
}

impl Node {
    fn new() -> Node {
        let memory = Memory::default();
        memory.limit(TAIL_BYTES, INDEX_BYTES);
        Node { dir: tempfile::tempdir().expect("a folder"), memory }
    }

    fn open(&self) -> Result<Log, LogError> {
        self.open_behind(None)
    }

    fn open_behind(&self, purged: Option<Purged>) -> Result<Log, LogError> {
        let env = Env::real();
        let writer = Writer::start(&env, self.dir.path()).expect("a writer");
        let rolling = Rolling { segment_bytes: SEGMENT_BYTES, ..Rolling::DEFAULT };
        let settings = LogSettings { group: GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 }, rolling };
        let place = Place { env: &env, writer: &writer, memory: &self.memory };
        Log::open_behind(place, &self.dir.path().join("flights-0"), settings, purged)
    }

    fn sidecars(&self) -> Vec<PathBuf> {
        self.segments().iter().map(|path| path.with_extension("index")).filter(|path| path.exists()).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.dir.path().join("flights-0"))
            .expect("the log's folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        paths.sort();
        paths
    }
}

fn entry(index: u64, records: u64) -> LogEntry {
    let records: Vec<Record> = (0..records)
        .map(|n| Record { key: None, value: Some(format!("{index}/{n}/{:100}", "").into()), timestamp_ms: (index * 1_000 + n) as i64 })
        .collect();
    let payload = encode(&records).expect("a batch").bytes().clone();
    LogEntry { kind: FrameKind::Batch, term: 3, index, append_time_us: 0, payload }
}

/// Appends and waits until the entries are durable.
fn append(log: &Log, entries: Vec<LogEntry>) {
    let (done, durable) = mpsc::channel();
    log.append(entries, Box::new(move |result| done.send(result).expect("a waiting test"))).expect("queued");
    durable.recv().expect("an answer").expect("durable");
}

fn flip(path: &Path, position: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], position).expect("written");
}

#[test]
fn a_restart_finds_every_entry_in_every_segment() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, vec![LogEntry { kind: FrameKind::Blank, payload: Bytes::new(), ..entry(0, 1) }]);
    for index in 1..400 {
        append(&log, vec![entry(index, 3)]);
    }
    let before = log.entries(0..400, usize::MAX).expect("entries");
    assert_eq!(log.next_offset(), 399 * 3);
    drop(log);
    assert!(node.segments().len() > 2, "{:?}", node.segments());
    let log = node.open().expect("the same log");
    assert_eq!(log.entries(0..400, usize::MAX).expect("entries"), before);
    assert_eq!((log.indexes(), log.next_offset()), (0..400, 399 * 3));
    append(&log, vec![entry(400, 1)]);
    assert_eq!(log.next_offset(), 399 * 3 + 1);
}

#[test]
fn offsets_and_epochs_are_stamped_and_append_times_only_grow() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, (0..10).map(|index| entry(index, 2)).collect());
    let entries = log.entries(0..10, usize::MAX).expect("entries");
    for (n, entry) in (0i64..).zip(&entries) {
        let header = BatchHeader::decode(&entry.payload).expect("a header");
        assert_eq!((header.base_offset, header.leader_epoch), (n * 2, 3));
    }
    assert!(entries.windows(2).all(|pair| pair[0].append_time_us < pair[1].append_time_us));
    let closed = log.close_time();
    append(&log, vec![entry(10, 1)]);
    assert!(log.last_append_time_us() > closed);
}

#[test]
fn a_torn_last_frame_is_cut_and_the_log_goes_on() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, (0..5).map(|index| entry(index, 1)).collect());
    let whole = log.size_bytes();
    append(&log, vec![entry(5, 1)]);
    drop(log);
    let path = &node.segments()[0];
    let file = OpenOptions::new().write(true).open(path).expect("the segment");
    file.write_all_at(&[0; 40], whole + 80).expect("a hole in the last frame");
    let log = node.open().expect("a torn tail is no corruption");
    assert_eq!(log.indexes(), 0..5);
    append(&log, vec![entry(5, 2)]);
    assert_eq!(log.next_offset(), 7);
}

#[test]
fn a_flipped_bit_inside_the_log_is_refused_not_cut() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, (0..20).map(|index| entry(index, 1)).collect());
    drop(log);
    flip(&node.segments()[0], 64 + 64 + 100);
    let error = node.open().expect_err("corruption inside the log");
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
}

#[test]
fn a_flipped_bit_in_an_old_segment_is_never_served() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    for index in 0..1_000 {
        append(&log, vec![entry(index, 3)]);
    }
    drop(log);
    flip(&node.segments()[0], 64 + 64 + 150);
    let log = node.open().expect("headers of old segments are sound");
    let error = log.entries(0..1, usize::MAX).expect_err("a damaged batch");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(log.read_batches(0, i64::MAX, 1 << 20).is_err());
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let node = Node::new();
    append(&node.open().expect("a new log"), vec![entry(0, 1)]);
    // One byte of the topic's id, in the segment's header.
    flip(&node.segments()[0], 20);
    assert!(matches!(node.open(), Err(LogError::Corrupt { .. })));
}

#[tokio::test]
async fn a_truncated_tail_stays_gone_after_a_restart() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    for index in 0..600 {
        append(&log, vec![entry(index, 2)]);
    }
    log.truncate_after(Some(9)).await.expect("truncated");
    assert_eq!((log.indexes(), log.next_offset()), (0..10, 20));
    append(&log, vec![LogEntry { term: 4, ..entry(10, 1) }]);
    drop(log);
    let log = node.open().expect("the same log");
    assert_eq!((log.indexes(), log.next_offset()), (0..11, 21));
    assert_eq!(log.end_offset_for_epoch(3, i64::MAX), Some((3, 20)));
    assert_eq!(log.end_offset_for_epoch(9, i64::MAX), Some((4, 21)));
    assert_eq!(log.end_offset_for_epoch(2, i64::MAX), None);
    log.truncate_after(None).await.expect("emptied");
    assert_eq!((log.indexes().end, log.next_offset()), (0, 0));
}

#[test]
fn a_lookup_by_time_is_exact_to_the_record() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, (0..100).map(|index| entry(index, 3)).collect());
    let at =
        |timestamp_ms| log.offset_for_timestamp(timestamp_ms, i64::MAX).expect("a lookup").map(|found| (found.offset, found.timestamp_ms));
    assert_eq!(at(0), Some((0, 0)));
    assert_eq!(at(50_001), Some((151, 50_001)));
    assert_eq!(at(50_003), Some((153, 51_000)));
    assert_eq!(at(99_003), None);
    let last = log.offset_of_max_timestamp(i64::MAX).expect("a lookup").expect("a record");
    assert_eq!((last.offset, last.timestamp_ms), (299, 99_002));
}

#[test]
fn a_lookup_by_time_reads_what_it_finds_and_not_the_log_behind_it() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    // More than is kept in memory.
    for first in (0..4_000).step_by(100) {
        append(&log, (first..first + 100).map(|index| entry(index, 3)).collect());
    }
    // Whoever reads the second segment learns that it is damaged.
    let second = &node.segments()[1];
    (28..60_000).step_by(7).for_each(|position| flip(second, position));
    assert!(log.heads(0..4_000).is_err(), "the damage is met by reading on");
    let early = log.offset_for_timestamp(1_001, i64::MAX).expect("a lookup").expect("a record");
    assert_eq!((early.offset, early.timestamp_ms), (4, 1_001));
    let last = log.offset_of_max_timestamp(i64::MAX).expect("a lookup").expect("a record");
    assert_eq!((last.offset, last.timestamp_ms), (11_999, 3_999_002));
    let committed = log.offset_of_max_timestamp(11_001).expect("a lookup").expect("a record");
    assert_eq!((committed.offset, committed.timestamp_ms), (11_000, 3_666_002), "what is not committed does not count");
}

#[tokio::test]
async fn saved_meta_survives_a_restart_and_a_deletion_too() {
    let node = Node::new();
    let env = Env::real();
    let writer = Writer::start(&env, node.dir.path()).expect("a writer");
    writer.save_meta(b"vote".to_vec(), Some(b"7".to_vec())).await.expect("saved");
    writer.save_meta(b"gone".to_vec(), Some(b"x".to_vec())).await.expect("saved");
    writer.save_meta(b"gone".to_vec(), None).await.expect("deleted");
    writer.stop().await;
    let writer = Writer::start(&env, node.dir.path()).expect("a writer again");
    assert_eq!((writer.meta(b"vote".to_vec()), writer.meta(b"gone".to_vec())), (Some(b"7".to_vec()), None));
}

/// A log of several segments: three records an entry, a thousand milliseconds an entry.
fn long_log(node: &Node) -> Log {
    let log = node.open().expect("a new log");
    for index in 0..500 {
        append(&log, vec![entry(index, 3)]);
    }
    assert!(node.segments().len() >= 4, "{:?}", node.segments());
    log
}

fn gone(node: &Node, left: usize) {
    // Files are removed beside the log's own work.
    for _ in 0..500 {
        if node.segments().len() == left {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("expected {left} segments: {:?}", node.segments());
}

#[tokio::test]
async fn only_whole_segments_before_the_start_are_purged_and_a_restart_begins_behind_them() {
    let node = Node::new();
    let log = long_log(&node);
    let count = node.segments().len();
    assert_eq!(log.purge_point(u64::MAX - 1).expect("readable"), None, "nothing has been let go yet");
    log.raise_start_offset(800);
    let purged = log.purge_point(u64::MAX - 1).expect("readable").expect("a segment lies before offset 800");
    assert!(purged.next_offset <= 800 && purged.next_offset == (purged.index as i64 + 1) * 3, "{purged:?}");
    assert_eq!(log.purge_point(purged.index - 1).expect("readable").map(|earlier| earlier.index < purged.index), None);
    log.purge(purged);
    assert_eq!((log.indexes().start, log.start_offset()), (purged.index + 1, 800));
    assert_eq!(log.entries(0..10, usize::MAX).expect("readable"), Vec::new());
    let kept = log.read_batches(800, i64::MAX, usize::MAX).expect("readable");
    assert_eq!(BatchHeader::decode(&kept[0].bytes).map(|header| header.base_offset), Some(798));
    let found = log.offset_for_timestamp(0, i64::MAX).expect("readable").expect("a record");
    assert_eq!(found.offset, 800, "what has been let go is not found any more");
    gone(&node, log_segments(&log));
    assert!(node.segments().len() < count);
    drop(log);
    let log = node.open_behind(Some(purged)).expect("the same log");
    assert_eq!((log.indexes(), log.start_offset(), log.next_offset()), (purged.index + 1..500, purged.next_offset, 1500));
    append(&log, vec![entry(500, 1)]);
    assert_eq!(log.last().map(|last| last.index), Some(500));
    drop(log);
    let hole = node.open().expect_err("without the snapshot the entries before are missing");
    assert!(matches!(hole, LogError::Corrupt { .. }), "{hole}");
}

fn log_segments(log: &Log) -> usize {
    // One file a segment: what is left begins where the log begins.
    usize::try_from(log.size_bytes() / SEGMENT_BYTES + 1).expect("few")
}

#[tokio::test]
async fn a_log_that_ends_before_the_snapshot_begins_anew_behind_it() {
    let node = Node::new();
    let log = long_log(&node);
    let purged = Purged { term: 4, index: 900, next_offset: 2_700, append_time_us: 5 };
    log.purge(purged);
    assert_eq!((log.indexes(), log.next_offset(), log.start_offset()), (901..901, 2_700, 2_700));
    assert_eq!(log.last().map(|last| (last.term, last.index)), Some((4, 900)));
    append(&log, vec![LogEntry { term: 5, ..entry(901, 2) }]);
    assert_eq!(log.next_offset(), 2_702);
    log.truncate_after(Some(900)).await.expect("truncated");
    assert_eq!((log.last().map(|last| (last.term, last.index)), log.next_offset()), (Some((4, 900)), 2_700));
    drop(log);
    // The node stopped before the old segments were gone.
    let other = Node::new();
    drop(long_log(&other));
    let log = other.open_behind(Some(purged)).expect("a new beginning");
    assert_eq!((log.indexes(), log.next_offset()), (901..901, 2_700));
    gone(&other, 0);
}

#[test]
fn age_and_size_let_whole_segments_go_but_never_what_is_not_committed() {
    let node = Node::new();
    let log = long_log(&node);
    let (day, first) = (24 * 3_600_000, log.size_bytes() / 4);
    let by_time = |now_ms| log.expired(Retention { time_ms: Some(day), bytes: None }, now_ms, 1_500).expect("readable");
    assert_eq!(by_time(day), None);
    let some = by_time(day + 300_000).expect("the oldest segment");
    assert!(some > 0 && some < 900, "{some}");
    assert_eq!(by_time(2 * day), Some(1_500), "all of it, the segment that is written to as well");
    let uncommitted = log.expired(Retention { time_ms: Some(day), bytes: None }, 2 * day, 1_400).expect("readable");
    assert!(uncommitted.is_some_and(|start| start < 1_400), "{uncommitted:?}");
    let by_size = |bytes| log.expired(Retention { time_ms: None, bytes: Some(bytes) }, 0, 1_500).expect("readable");
    assert_eq!(by_size(log.size_bytes()), None);
    assert!(by_size(first).is_some_and(|start| start > 500), "{:?}", by_size(first));
    assert!(by_size(0).is_some_and(|start| start < 1_500), "the last segment stays");
}

#[test]
fn a_point_that_lets_go_of_everything_opens_a_segment_and_may_skip_offsets() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, (0..5).map(|index| entry(index, 1)).collect());
    let point = |index, offset| LogEntry { kind: FrameKind::RetentionPoint, payload: encode_start_offset(offset), ..entry(index, 1) };
    append(&log, vec![point(5, 3)]);
    assert_eq!((node.segments().len(), log.next_offset()), (1, 5));
    append(&log, vec![point(6, 40)]);
    assert_eq!((node.segments().len(), log.next_offset()), (2, 40));
    append(&log, vec![entry(7, 1)]);
    drop(log);
    let log = node.open().expect("the same log");
    assert_eq!(log.next_offset(), 41);
    assert_eq!(log.read_batches(5, i64::MAX, usize::MAX).expect("readable").len(), 1);
}

#[test]
fn a_segment_is_left_when_its_time_is_over_by_a_config_that_changed_meanwhile_too() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    let short = Rolling { segment_bytes: SEGMENT_BYTES, segment_ms: 1_000 };
    let at = |index, ms: i64| LogEntry { append_time_us: ms * 1_000, ..entry(index, 1) };
    append(&log, vec![at(0, 1_000), at(1, 5_000)]);
    assert_eq!(node.segments().len(), 1);
    log.set_rolling(short);
    append(&log, vec![at(2, 5_001), at(3, 6_000)]);
    assert_eq!(node.segments().len(), 2, "the first entry was older than a second");
    drop(log);
    let log = node.open().expect("the same log");
    log.set_rolling(short);
    append(&log, vec![at(4, 6_001)]);
    assert_eq!(node.segments().len(), 3, "the time of the first entry outlives a restart");
    append(&log, vec![at(5, 6_002), at(6, 7_000)]);
    assert_eq!((node.segments().len(), log.indexes()), (3, 0..7));
}

#[test]
fn a_reader_beside_an_appender_finds_every_entry_whole() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    append(&log, vec![LogEntry { kind: FrameKind::Blank, payload: Bytes::new(), ..entry(0, 1) }]);
    std::thread::scope(|scope| {
        let reader = log.clone();
        scope.spawn(move || {
            let mut from = 1;
            while from < 1_500 {
                let found = reader.entries(from..u64::MAX, 1 << 20).expect("entries");
                assert!(found.iter().zip(from..).all(|(entry, index)| entry.index == index), "in order from {from}");
                // Again from well behind, where memory holds nothing any more.
                from = found.last().map_or(from, |last| (last.index + 1).max(from));
                let behind = from.saturating_sub(1_200).max(1);
                assert!(
                    reader.entries(behind..from, 1 << 20).expect("entries").iter().zip(behind..).all(|(entry, index)| entry.index == index)
                );
            }
        });
        for index in 1..1_500 {
            append(&log, vec![entry(index, 9)]);
        }
    });
}

/// Fills `node` with several segments and stops it cleanly.
fn stopped(node: &Node) -> Vec<LogEntry> {
    let log = long_log(node);
    let before = log.entries(0..500, usize::MAX).expect("entries");
    log.cover().expect("queued");
    // Behind the cover in the writer's queue.
    append(&log, Vec::new());
    assert_eq!(node.sidecars().len(), node.segments().len());
    before
}

#[test]
fn a_clean_start_reads_no_segment_but_the_last_frame_of_each() {
    let node = Node::new();
    let before = stopped(&node);
    // Whoever walks a segment learns that its second frame is damaged.
    node.segments().iter().for_each(|path| flip(path, 64 + 64 + 461 + 70));
    let log = node.open().expect("opened by its sidecars");
    assert_eq!((log.indexes(), log.next_offset(), log.last_append_time_us()), (0..500, 1_500, before[499].append_time_us));
    assert_eq!(log.end_offset_for_epoch(3, i64::MAX), Some((3, 1_500)));
    append(&log, vec![entry(500, 1)]);
    assert_eq!(log.entries(499..501, usize::MAX).expect("the end is sound").len(), 2);
    assert!(log.entries(0..500, usize::MAX).is_err(), "the damage is met when it is read");
}

#[test]
fn sidecars_that_are_gone_or_damaged_or_of_another_segment_are_had_from_the_segments_again() {
    let node = Node::new();
    let before = stopped(&node);
    let spoil: [fn(&[PathBuf]); 4] = [
        |paths| paths.iter().for_each(|path| fs::remove_file(path).expect("removed")),
        |paths| paths.iter().for_each(|path| flip(path, 70)),
        |paths| paths.iter().for_each(|path| flip(path, fs::metadata(path).expect("a file").len() - 5)),
        |paths| {
            for pair in paths.windows(2) {
                fs::copy(&pair[1], &pair[0]).expect("copied");
            }
        },
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        spoil(&node.sidecars());
        let log = node.open().expect("the segments are sound");
        assert_eq!(log.entries(0..500, usize::MAX).expect("entries"), before, "{i}");
        assert_eq!((log.indexes(), log.next_offset()), (0..500, 1_500), "{i}");
        for offset in (0..1_500).step_by(77) {
            let first = log.read_batches(offset, i64::MAX, 1).expect("readable").remove(0);
            assert_eq!(BatchHeader::decode(&first.bytes).map(|batch| batch.base_offset), Some(offset / 3 * 3), "{i}");
        }
        for index in (0..500i64).step_by(53) {
            let found = log.offset_for_timestamp(index * 1_000 + 1, i64::MAX).expect("readable").map(|found| found.offset);
            assert_eq!(found, Some(index * 3 + 1), "{i}");
        }
        log.cover().expect("queued");
        append(&log, Vec::new());
        drop(log);
        assert_eq!(node.sidecars().len(), node.segments().len(), "{i}: written again");
    }
}

#[tokio::test]
async fn the_sidecar_of_what_was_cut_off_tells_nothing_of_what_took_its_place() {
    let node = Node::new();
    drop(stopped(&node));
    let (old, path) = (fs::read(&node.sidecars()[1]).expect("a sidecar"), node.sidecars()[1].clone());
    let log = node.open().expect("the same log");
    let kept = log.indexes().end / 4;
    log.truncate_after(Some(kept)).await.expect("truncated");
    assert_eq!(
        node.sidecars(),
        node.segments().iter().take(node.segments().len() - 1).map(|path| path.with_extension("index")).collect::<Vec<_>>()
    );
    append(&log, (kept + 1..500).map(|index| LogEntry { term: 4, ..entry(index, 3) }).collect());
    let before = log.entries(0..500, usize::MAX).expect("entries");
    log.cover().expect("queued");
    append(&log, Vec::new());
    drop(log);
    fs::write(&path, old).expect("an old copy comes back");
    let log = node.open().expect("the segments are sound");
    assert_eq!(log.entries(0..500, usize::MAX).expect("entries"), before);
    assert_eq!(log.end_offset_for_epoch(3, i64::MAX), Some((3, (kept as i64 + 1) * 3)));
}

#[test]
fn a_node_keeps_no_more_recent_entries_than_it_may_whatever_the_number_of_logs() {
    let nodes = [Node::new(), Node::new()];
    let memory = &nodes[0].memory;
    let logs: Vec<Log> = nodes
        .iter()
        .map(|node| {
            let env = Env::real();
            let writer = Writer::start(&env, node.dir.path()).expect("a writer");
            let settings = LogSettings { group: GroupId { topic: uuid::Uuid::from_u128(7), partition: 0 }, rolling: Rolling::DEFAULT };
            Log::open(Place { env: &env, writer: &writer, memory }, &node.dir.path().join("flights-0"), settings).expect("a log")
        })
        .collect();
    for index in 0..400 {
        logs.iter().for_each(|log| append(log, vec![entry(index, 3)]));
        let held = memory.stats().tail_bytes;
        assert!(held <= TAIL_BYTES as u64 + 4_096, "{held}");
    }
    assert!(memory.stats().tail_bytes > TAIL_BYTES as u64 / 2, "what is recent is kept");
    assert_eq!(logs[1].entries(0..400, usize::MAX).expect("the rest is read from the disk").len(), 400);
    drop(logs);
}

/// Reads batches from `offset` to the end of what has been appended; returns how many bytes came from memory and from the disk.
fn read_from(node: &Node, log: &Log, offset: i64) -> (u64, u64) {
    let before = node.memory.stats();
    let mut next = offset;
    while next < log.next_offset() {
        let batches = log.read_batches(next, i64::MAX, 16 * 1024).expect("readable");
        let last = batches.last().and_then(|batch| BatchHeader::decode(&batch.bytes)).expect("a batch");
        next = last.base_offset + i64::from(last.last_offset_delta) + 1;
    }
    let after = node.memory.stats();
    (after.read_memory_bytes - before.read_memory_bytes, after.read_disk_bytes - before.read_disk_bytes)
}

#[test]
fn whoever_follows_the_tail_reads_from_memory_though_others_read_the_whole_log_from_the_disk() {
    let node = Node::new();
    let log = node.open().expect("a new log");
    (0..2_000).for_each(|index| append(&log, vec![entry(index, 3)]));
    let tail = log.next_offset() - 3 * 80;
    let (hot, none) = read_from(&node, &log, tail);
    assert!(hot > 30_000 && none == 0, "{hot} bytes from memory, {none} from the disk");
    for _ in 0..3 {
        let (memory, disk) = read_from(&node, &log, 0);
        assert!(disk > 700_000 && memory <= TAIL_BYTES as u64, "{memory} bytes from memory, {disk} from the disk");
    }
    assert_eq!(read_from(&node, &log, tail), (hot, 0), "what is read from the disk takes the place of nothing");
    append(&log, vec![entry(2_000, 3)]);
    assert_eq!(read_from(&node, &log, log.next_offset() - 3).1, 0, "what was just appended is in memory");
}
