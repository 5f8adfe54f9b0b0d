//! Oceans on loopback: UDP relays between regions that hold every datagram for half a round trip, and can be cut.
//!
//! There is one relay for each node of another region that a region dials. One thread carries them all: the timers of the asynchronous runtime
//! are too coarse (1 ms) and too busy for it.

mod relay;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::layout::Place;
use super::rtt::Distance;
use relay::Relays;

/// Relays between two regions.
#[derive(Debug)]
struct Pair {
    distance: Distance,
    cut: AtomicBool,
    passed: AtomicU64,
    dropped: AtomicU64,
}

impl Pair {
    fn delay(&self) -> Duration {
        self.distance.rtt / 2
    }

    fn joins(&self, a: &str, b: &str) -> bool {
        let [here, there] = &self.distance.regions;
        (here == a && there == b) || (here == b && there == a)
    }
}

/// How it stands between two regions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PairState {
    pub regions: [String; 2],
    pub rtt_ms: u64,
    pub cut: bool,
    /// Datagrams, since the mesh started.
    pub passed: u64,
    pub dropped: u64,
}

/// One relay: whoever of `from` dials `to` dials `address` instead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Detour {
    from: String,
    to: SocketAddr,
    address: SocketAddr,
}

/// All relays of a mesh; they end when this is dropped.
#[derive(Debug)]
pub struct Wan {
    pairs: Arc<Vec<Pair>>,
    detours: Vec<Detour>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wan {
    /// Puts relays between the regions that have a distance; others reach each other directly.
    pub fn start(distances: Vec<Distance>, places: &[Place]) -> io::Result<Wan> {
        let new = |distance| Pair { distance, cut: AtomicBool::new(false), passed: AtomicU64::new(0), dropped: AtomicU64::new(0) };
        let pairs: Arc<Vec<Pair>> = Arc::new(distances.into_iter().map(new).collect());
        let mut relays = Relays::new(pairs.clone());
        let mut detours = Vec::new();
        for (number, pair) in pairs.iter().enumerate() {
            let [a, b] = &pair.distance.regions;
            for (from, far) in [(a, b), (b, a)] {
                for place in places.iter().filter(|place| place.region == *far) {
                    let address = relays.add(number, place.link())?;
                    detours.push(Detour { from: from.clone(), to: place.link(), address });
                }
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = if pairs.is_empty() {
            None
        } else {
            Some(std::thread::Builder::new().name("wan".to_owned()).spawn(move || relays.run(&stopped))?)
        };
        Ok(Wan { pairs, detours, stop, thread })
    }

    /// Where nodes of region `from` dial `to`.
    pub fn address(&self, from: &str, to: SocketAddr) -> SocketAddr {
        self.detours.iter().find(|detour| detour.from == from && detour.to == to).map_or(to, |detour| detour.address)
    }

    pub fn has_relays(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// Drops every datagram between two regions from now on, those on their way included, or lets them pass again. False where there is no relay.
    pub fn set_cut(&self, a: &str, b: &str, cut: bool) -> bool {
        let pair = self.pairs.iter().find(|pair| pair.joins(a, b));
        pair.inspect(|pair| pair.cut.store(cut, Ordering::Relaxed)).is_some()
    }

    pub fn states(&self) -> Vec<PairState> {
        let state = |pair: &Pair| PairState {
            regions: pair.distance.regions.clone(),
            rtt_ms: u64::try_from(pair.distance.rtt.as_millis()).unwrap_or(u64::MAX),
            cut: pair.cut.load(Ordering::Relaxed),
            passed: pair.passed.load(Ordering::Relaxed),
            dropped: pair.dropped.load(Ordering::Relaxed),
        };
        self.pairs.iter().map(state).collect()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic, if it had one, has been printed.
            let _ = thread.join();
        }
    }
}
