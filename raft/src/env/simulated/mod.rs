//! The simulated world: an in-memory disk that forgets what was not synced, virtual time, seeded chance, turmoil's network.

mod disk;
mod net;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::{Clock, Env, Mutations, Random};
pub use disk::{Ills, SimDisk};
use net::SimNet;
pub use net::{Ear, Said};

/// Wall time at which every simulation starts: 2026-01-01T00:00:00Z.
const WALL_BASE_US: i64 = 1_767_225_600_000_000;

impl Env {
    /// One simulated node. Call it inside the simulation: virtual time starts counting here unless `disk` has been used before.
    pub fn simulated(seed: u64, disk: SimDisk) -> Env {
        let started = disk.started();
        Env {
            clock: Arc::new(SimClock { started, disk: disk.clone() }),
            net: Arc::new(SimNet { ear: None, disk: disk.clone() }),
            disk: Arc::new(disk),
            random: Arc::new(SimRandom(Mutex::new(StdRng::seed_from_u64(seed)))),
            mutations: Mutations::default(),
        }
    }

    /// As [`Env::simulated`]; `ear` hears all that is said on connections that this node makes.
    pub fn simulated_and_heard(seed: u64, disk: SimDisk, ear: Ear) -> Env {
        Env { net: Arc::new(SimNet { ear: Some(ear), disk: disk.clone() }), ..Env::simulated(seed, disk) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct SimClock {
    started: Instant,
    disk: SimDisk,
}

impl Clock for SimClock {
    fn wall_us(&self) -> i64 {
        // A host that starts again counts its instants from the real time at which it does so: only the world's own time goes on, and is the
        // same in every run. Outside such a world there is one runtime, whose instants are as good.
        let elapsed = turmoil::sim_elapsed().unwrap_or_else(|| self.started.elapsed());
        let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        let Ills { clock_offset_us, clock_drift_ppm, .. } = self.disk.ills();
        WALL_BASE_US + elapsed_us + elapsed_us / 1_000_000 * clock_drift_ppm + clock_offset_us
    }
}

#[derive(Debug)]
struct SimRandom(Mutex<StdRng>);

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        lock(&self.0).random()
    }
}
