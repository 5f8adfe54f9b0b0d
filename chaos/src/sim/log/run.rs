//! One seeded run: a random life of a log, cut short again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use meridian_raft::GroupId;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::env::{Env, SimDisk};
use meridian_raft::log::{FrameKind, Log, LogEntry, LogSettings, Memory, Place, Rolling};
use meridian_raft::writer::Writer;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::Reached;
use super::model::Model;
use crate::sim::{End, Mutations};

const STEPS: u64 = 160;
/// Small, so that a run rolls through many segments.
const SEGMENT_BYTES: u64 = 16 * 1024;
/// Short, so that some roll before they are full.
const SEGMENT_MS: u64 = 20;
const TAIL_BYTES: usize = 2 * 1024;
const INDEX_BYTES: usize = 4 * 1024;
const LOG_DIR: &str = "/data/groups/flights-0";

/// Runs one seed from beginning to end; otherwise the step and the promise that was broken.
pub(in crate::sim) fn simulate(seed: u64, mutations: Mutations) -> Result<End, (u64, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| (0, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let mut life = Life::begin(seed, mutations).map_err(|what| (0, what))?;
        for step in 0..STEPS {
            life.step().await.map_err(|what| (step, what))?;
        }
        life.power_cut().await.map_err(|what| (STEPS, what))?;
        Ok(End { trace: life.trace, reached: life.reached.table() })
    })
}

struct Life {
    random: StdRng,
    mutations: Mutations,
    disk: SimDisk,
    node: Running,
    model: Model,
    term: u64,
    batches: u64,
    trace: u32,
    /// As they were a while ago.
    old_sidecars: BTreeMap<PathBuf, Vec<u8>>,
    reached: Reached,
}

/// What a power cut ends.
struct Running {
    log: Log,
    writer: Writer,
    /// Entries before this index are durable, says the writer.
    durable: Arc<AtomicU64>,
    /// A flush has failed.
    failed: Arc<AtomicBool>,
    /// The disk has been told to fail its syncs; nothing appended from here on may be acknowledged.
    failing_from: Option<u64>,
}

impl Running {
    fn open(seed: u64, disk: &SimDisk, mutations: Mutations) -> Result<Running, String> {
        let mut env = Env::simulated(seed, disk.clone());
        env.mutations = mutations;
        let writer = Writer::start(&env, Path::new("/data")).map_err(|error| format!("the writer does not start: {error}"))?;
        // Little enough that entries are read from the disk, and indexes from their sidecars.
        let memory = Memory::default();
        memory.limit(TAIL_BYTES, INDEX_BYTES);
        let rolling = Rolling { segment_bytes: SEGMENT_BYTES, segment_ms: SEGMENT_MS };
        let settings = LogSettings { group: GroupId { topic: uuid::Uuid::from_u128(1), partition: 0 }, rolling };
        let log = Log::open(Place { env: &env, writer: &writer, memory: &memory }, Path::new(LOG_DIR), settings)
            .map_err(|error| format!("the log does not open: {error}"))?;
        Ok(Running { log, writer, durable: Arc::default(), failed: Arc::default(), failing_from: None })
    }
}

impl Life {
    fn begin(seed: u64, mutations: Mutations) -> Result<Life, String> {
        let disk = SimDisk::new();
        let node = Running::open(seed, &disk, mutations)?;
        let random = StdRng::seed_from_u64(seed);
        let reached = Reached::default();
        Ok(Life {
            random,
            mutations,
            disk,
            node,
            model: Model::default(),
            term: 1,
            batches: 0,
            trace: 0,
            old_sidecars: BTreeMap::new(),
            reached,
        })
    }

    async fn step(&mut self) -> Result<(), String> {
        match self.random.random_range(0..100) {
            0..60 => self.append()?,
            60..85 => tokio::time::sleep(Duration::from_micros(self.random.random_range(1..3_000))).await,
            85..91 => self.truncate().await?,
            91..93 => self.fail_syncs(),
            93..95 => self.stop().await?,
            95..97 => self.end_process().await?,
            _ => self.power_cut().await?,
        }
        self.take_acknowledgements()?;
        self.model.check_running(&self.node.log)?;
        self.note(&[self.model.next_index(), self.model.acknowledged(), self.term]);
        Ok(())
    }

    fn append(&mut self) -> Result<(), String> {
        let first = self.model.next_index();
        let count = self.random.random_range(1..4);
        let entries: Vec<LogEntry> = (first..first + count).map(|index| self.entry(index)).collect();
        let (durable, failed) = (self.node.durable.clone(), self.node.failed.clone());
        let flushed = Box::new(move |result: std::io::Result<()>| match result {
            Ok(()) => durable.store(first + count, Ordering::SeqCst),
            Err(_) => failed.store(true, Ordering::SeqCst),
        });
        self.node.log.append(entries, flushed).map_err(|error| format!("append: {error}"))?;
        let stamped = self.node.log.entries(first..first + count, usize::MAX).map_err(|error| format!("reading back: {error}"))?;
        self.model.append(stamped);
        self.reached.appends += 1;
        Ok(())
    }

    fn entry(&mut self, index: u64) -> LogEntry {
        let blank = self.random.random_bool(0.1);
        let payload = if blank { Bytes::new() } else { self.batch() };
        let kind = if blank { FrameKind::Blank } else { FrameKind::Batch };
        LogEntry { kind, term: self.term, index, append_time_us: 0, payload }
    }

    /// A few records that nobody else has.
    fn batch(&mut self) -> Bytes {
        self.batches += 1;
        let (pad, timestamp_ms) = (self.random.random_range(0..900), self.random.random_range(0..100_000));
        let records: Vec<Record> = (0..self.random.random_range(1..5))
            .map(|n: u32| Record { key: None, value: Some(format!("{}/{n}/{:pad$}", self.batches, "").into()), timestamp_ms })
            .collect();
        encode(&records).map(|batch| batch.bytes().clone()).unwrap_or_default()
    }

    /// A new leader overwrites a tail: never what it may not, so the model forgets the acknowledgement along with the entries.
    async fn truncate(&mut self) -> Result<(), String> {
        if self.model.next_index() == 0 || self.node.failing_from.is_some() {
            return Ok(());
        }
        let keep = self.random.random_range(self.model.next_index().saturating_sub(6)..=self.model.next_index());
        let truncated = self.node.log.truncate_after(keep.checked_sub(1)).await;
        truncated.map_err(|error| format!("truncate to {keep}: {error}"))?;
        self.take_acknowledgements()?;
        self.model.truncate(keep);
        self.node.durable.store(keep, Ordering::SeqCst);
        self.term += 1;
        self.reached.truncations += 1;
        Ok(())
    }

    /// The process ends as it should, and another goes on with its files.
    async fn stop(&mut self) -> Result<(), String> {
        if self.node.failing_from.is_some() {
            return Ok(());
        }
        self.node.log.cover().map_err(|error| format!("covering: {error}"))?;
        self.node.writer.stop().await;
        self.take_acknowledgements()?;
        self.rot_sidecar();
        self.node = Running::open(self.random.random(), &self.disk, self.mutations)?;
        let (_, lost) = self.model.recover(&self.node.log)?;
        if lost > 0 {
            return Err(format!("{lost} entries are gone after a clean stop"));
        }
        self.node.durable.store(self.model.next_index(), Ordering::SeqCst);
        self.model.acknowledge(self.model.next_index());
        self.reached.clean_stops += 1;
        Ok(())
    }

    /// Now and then a sidecar is flipped, cut, gone, or an older one, perhaps of what has been truncated since.
    fn rot_sidecar(&mut self) {
        let is_sidecar = |path: &PathBuf| path.extension().is_some_and(|end| end == "index");
        let now: BTreeMap<PathBuf, Vec<u8>> = self.disk.copy().into_iter().filter(|(path, _)| is_sidecar(path)).collect();
        self.reached.sidecars = self.reached.sidecars.max(now.len() as u64);
        if let Some((path, bytes)) = now.iter().choose(&mut self.random).filter(|_| self.random.random_bool(0.4)) {
            let at = self.random.random_range(0..bytes.len().max(1));
            let rotten = match self.random.random_range(0..4) {
                0 => bytes.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == at)).collect(),
                1 => bytes[..at].to_vec(),
                2 => Vec::new(),
                _ => self.old_sidecars.get(path).cloned().unwrap_or_default(),
            };
            self.reached.sidecars_rotten += 1;
            self.disk.replace(path, Some(rotten).filter(|bytes| !bytes.is_empty()));
        }
        if self.random.random_bool(0.3) {
            self.old_sidecars = now;
        }
    }

    fn fail_syncs(&mut self) {
        if self.node.failing_from.is_none() {
            self.disk.fail_syncs(true);
            self.node.failing_from = Some(self.model.next_index());
        }
    }

    /// Power goes, perhaps tearing what was being written, and comes back.
    async fn power_cut(&mut self) -> Result<(), String> {
        let tear = self.random.random_bool(0.5).then(|| self.random.random());
        self.break_off(|disk| disk.crash(tear)).await?;
        self.reached.power_cuts += 1;
        Ok(())
    }

    /// The process is killed with all that its writer has not come to; the machine goes on.
    async fn end_process(&mut self) -> Result<(), String> {
        self.break_off(SimDisk::end_process).await?;
        self.reached.process_ends += 1;
        Ok(())
    }

    async fn break_off(&mut self, how: impl FnOnce(&SimDisk)) -> Result<(), String> {
        self.take_acknowledgements()?;
        self.reached.failed_syncs += u64::from(self.node.failed.load(Ordering::SeqCst));
        how(&self.disk);
        self.disk.fail_syncs(false);
        self.reached.unprepared += self.unprepared();
        self.rot_sidecar();
        let old = std::mem::replace(&mut self.node, Running::open(self.random.random(), &self.disk, self.mutations)?);
        // The old process is gone; its task must not linger in the runtime. What it still tries hits a disk that knows it no more.
        old.writer.stop().await;
        let (kept, lost) = self.model.recover(&self.node.log)?;
        self.node.durable.store(self.model.next_index(), Ordering::SeqCst);
        self.model.acknowledge(self.model.next_index());
        self.term += 1;
        self.reached.unacknowledged_kept += u64::from(kept > 0);
        self.reached.unacknowledged_lost += u64::from(lost > 0);
        self.note(&[kept, lost]);
        Ok(())
    }

    /// Segments that were begun and never written.
    fn unprepared(&self) -> u64 {
        self.disk.names().into_iter().filter(|(path, bytes)| *bytes == 0 && path.extension().is_some_and(|end| end == "log")).count() as u64
    }

    fn take_acknowledgements(&mut self) -> Result<(), String> {
        let durable = self.node.durable.load(Ordering::SeqCst);
        if let Some(from) = self.node.failing_from.filter(|from| durable > *from && !self.mutations.no_fsync) {
            return Err(format!("index {} was acknowledged although every sync since index {from} failed", durable - 1));
        }
        let before = self.model.acknowledged();
        self.model.acknowledge(durable);
        self.reached.acknowledged += self.model.acknowledged() - before;
        self.reached.segments_rolled = self.reached.segments_rolled.max(self.node.log.size_bytes() / SEGMENT_BYTES);
        Ok(())
    }

    fn note(&mut self, values: &[u64]) {
        for value in values {
            self.trace = crc32c::crc32c_append(self.trace, &value.to_le_bytes());
        }
    }
}
