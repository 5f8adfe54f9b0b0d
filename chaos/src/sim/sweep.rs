//! Many seeds, several at a time: what they reached together, and which did not hold.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Broken, End, Run, World, apart};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Fewer seeds need not reach a dangerous state.
pub(super) const SEEDS_PROVING: u64 = 50;
/// Nor fewer than these one that is rare.
pub(super) const SEEDS_PROVING_RARE: u64 = 300;
/// Findings to print.
const FINDINGS_MAX: usize = 50;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub world: World,
    pub mutation: Option<String>,
    pub seeds: Range<u64>,
    /// Runs at a time.
    pub jobs: usize,
    /// Not only up to the first finding.
    pub keep_going: bool,
}

/// One of the states to be reached.
#[derive(Debug, Default)]
struct State {
    times: u64,
    seeds: u64,
    required_of: Option<u64>,
}

#[derive(Debug, Default)]
struct Tally {
    reached: BTreeMap<String, State>,
    traces: BTreeMap<u64, u32>,
    broken: Vec<Broken>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sweep {
    /// Runs the seeds, each in a process that `program` starts (see [`apart`]), tells of progress on `progress` and of the result on stdout; true
    /// when every seed holds and all dangers were met.
    pub fn run(&self, program: impl Fn(&Run) -> Command + Sync, progress: &mut dyn Write) -> bool {
        let (next, stop, tally) = (AtomicU64::new(self.seeds.start), AtomicBool::new(false), Mutex::<Tally>::default());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    return;
                }
                let run = Run { world: self.world, seed, mutation: self.mutation.clone() };
                let lived = apart(&run, &program);
                let held = lived.is_ok();
                lock(&tally).take(seed, lived);
                if !held && !self.keep_going {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let mut waited = Duration::ZERO;
            while !workers.iter().all(|worker| worker.is_finished()) {
                std::thread::sleep(Duration::from_millis(50));
                waited += Duration::from_millis(50);
                if waited.as_millis().is_multiple_of(PROGRESS_EVERY.as_millis()) {
                    let tally = lock(&tally);
                    // Progress is a courtesy: nothing depends on its being seen.
                    let _ = writeln!(progress, "{} seeds hold, {} do not", tally.traces.len(), tally.broken.len());
                }
            }
        });
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        let missing = tally.missing(self.seeds.end - self.seeds.start);
        tally.print(&missing);
        tally.broken.is_empty() && missing.is_empty()
    }
}

impl Tally {
    fn take(&mut self, seed: u64, lived: Result<End, Broken>) {
        let end = match lived {
            Ok(end) => end,
            Err(broken) => return self.broken.push(broken),
        };
        self.traces.insert(seed, end.trace);
        for counter in end.reached {
            let state = self.reached.entry(counter.name).or_default();
            state.times += counter.count;
            state.seeds += u64::from(counter.count > 0);
            state.required_of = counter.required_of;
        }
    }

    /// What so many seeds ought to have met.
    fn missing(&self, seeds: u64) -> Vec<&str> {
        let missed = |state: &State| state.times == 0 && state.required_of.is_some_and(|least| seeds >= least);
        self.reached.iter().filter(|(_, state)| missed(state)).map(|(name, _)| name.as_str()).collect()
    }

    fn print(&self, missing: &[&str]) {
        self.broken.iter().take(FINDINGS_MAX).for_each(|broken| println!("{broken}"));
        println!("{:>12} {:>8}  state", "times", "seeds");
        for (name, State { times, seeds, .. }) in &self.reached {
            println!("{times:>12} {seeds:>8}  {name}");
        }
        let traces = self.traces.values().fold(0, |digest, trace| crc32c::crc32c_append(digest, &trace.to_le_bytes()));
        println!("{} seeds hold, {} do not; all their traces together {traces:08x}", self.traces.len(), self.broken.len());
        if !missing.is_empty() {
            println!("never reached: {}", missing.join(", "));
        }
    }
}
