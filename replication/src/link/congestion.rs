//! Congestion control for links: holds about one bandwidth-delay product in flight, by the rate at which packets are delivered.
//!
//! Loss says little about an ocean's congestion: at 1 % loss and 80 ms, cubic carries 2 of 200 Mbit/s. So the window follows what arrives: the
//! greatest delivery rate of the last rounds times the smallest round trip, times a gain that probes for more. quinn paces what the window allows.
//!
//! - *Starting*: the gain is 2 until the rate stops growing for three rounds, or a queue builds.
//! - *Cruising*: a gain of 1, with two rounds of 1¼ and one of ¾ in every eight, to find more and to drain what the finding queued.
//! - *A queue* (the round trip of a whole round lies 1½ times, and at least 5 ms, above the smallest) takes the gain to ¾ until it is gone: to
//!   competing traffic this is a flow that backs off before a deep buffer is full, and so one that loses to cubic there.
//! - *Heavy loss* (more than a tenth of a round) takes the window down by a fifth, and the remembered rate with it. Below that, loss is repaired
//!   and otherwise ignored: beside a cubic flow on a shallow buffer this one takes more than its share. Links are meant to be given a rate.
//! - *Persistent congestion* starts over from the smallest window.
//!
//! A sender that has nothing to send lowers nothing: its samples count only where they raise the rate.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Before the first round trip is known: as many packets as Linux sends.
const INITIAL_PACKETS: u64 = 32;
/// Never fewer, or acknowledgements stop coming.
const WINDOW_PACKETS_MIN: u64 = 8;
/// Never more than the receiver lets a connection have.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// Rounds over which the greatest delivery rate counts.
const RATE_ROUNDS: u64 = 10;
/// The smallest round trip is forgotten after so long, so that a longer path becomes known.
const ROUND_TRIP_MEMORY: Duration = Duration::from_secs(30);
/// A queue shorter than this is jitter.
const QUEUE_MIN: Duration = Duration::from_millis(5);
/// Two rounds of probing, one of draining, the others hold.
const CYCLE_ROUNDS: u32 = 8;
/// Rounds without growth that end the start.
const FLAT_ROUNDS: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct RateBased;

impl ControllerFactory for RateBased {
    fn build(self: Arc<Self>, _now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Rate::new(mtu))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Cruising,
}

/// The state of one connection's controller.
#[derive(Debug, Clone)]
struct Rate {
    mtu: u64,
    window: u64,
    phase: Phase,
    round: Round,
    rounds: u64,
    /// Greatest delivery rates, bytes/s, descending, each with the round in which it was measured.
    rates: VecDeque<(u64, f64)>,
    smallest: Option<(Duration, Instant)>,
    draining: bool,
    /// Where in the cycle of probing, draining and holding this round is, and the rate found before it began.
    cycle: u32,
    rate_before: f64,
    flat_rounds: u32,
    best_at_start: f64,
}

/// One round trip's worth of acknowledgements.
#[derive(Debug, Clone, Default)]
struct Round {
    began: Option<Instant>,
    acknowledged: u64,
    lost: u64,
    round_trip_min: Option<Duration>,
    app_limited: bool,
}

impl Rate {
    fn new(mtu: u16) -> Rate {
        let mtu = u64::from(mtu);
        Rate {
            mtu,
            window: INITIAL_PACKETS * mtu,
            phase: Phase::Starting,
            round: Round::default(),
            rounds: 0,
            rates: VecDeque::new(),
            smallest: None,
            draining: false,
            cycle: 0,
            rate_before: 0.0,
            flat_rounds: 0,
            best_at_start: 0.0,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    fn note_rate(&mut self, rate: f64) {
        while self.rates.pop_back_if(|(_, held)| *held <= rate).is_some() {}
        self.rates.push_back((self.rounds, rate));
        while self.rates.len() > 1 && self.rates.pop_front_if(|(round, _)| *round + RATE_ROUNDS < self.rounds).is_some() {}
    }

    fn gain(&self) -> f64 {
        match (self.draining, self.phase, self.cycle) {
            (true, _, _) => 0.75,
            (false, Phase::Starting, _) => 2.0,
            (false, Phase::Cruising, 0 | 1) => 1.25,
            (false, Phase::Cruising, 2) => 0.75,
            (false, Phase::Cruising, _) => 1.0,
        }
    }

    /// The next round of the cycle. What a larger window brings is seen two rounds later; while it brings more, probing goes on.
    fn turn(&mut self) {
        self.cycle = match self.cycle {
            1 if self.rate() > self.rate_before * 1.1 => 0,
            cycle if cycle >= CYCLE_ROUNDS - 1 => 0,
            cycle => cycle + 1,
        };
        if self.cycle == 0 {
            self.rate_before = self.rate();
        }
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(WINDOW_PACKETS_MIN * self.mtu, WINDOW_BYTES_MAX);
    }

    fn acknowledge(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        let round_trip = now.saturating_duration_since(sent);
        if self.smallest.is_none_or(|(smallest, at)| round_trip <= smallest || now.duration_since(at) > ROUND_TRIP_MEMORY) {
            self.smallest = Some((round_trip, now));
        }
        self.round.began.get_or_insert(sent);
        self.round.acknowledged += bytes;
        self.round.app_limited |= app_limited;
        self.round.round_trip_min = Some(self.round.round_trip_min.map_or(round_trip, |least| least.min(round_trip)));
    }

    fn acknowledged_all(&mut self, now: Instant) {
        let (Some(began), Some((smallest, _))) = (self.round.began, self.smallest) else { return };
        let took = now.saturating_duration_since(began);
        // Below a millisecond (loopback, a rack) a round would hold too few packets to measure a rate by.
        if took >= smallest.max(Duration::from_millis(1)) {
            self.end_round(now, took);
        }
    }

    fn end_round(&mut self, now: Instant, took: Duration) {
        let round = std::mem::take(&mut self.round);
        self.round.began = Some(now);
        self.rounds += 1;
        let measured = round.acknowledged as f64 / took.as_secs_f64().max(1e-6);
        if !round.app_limited || measured > self.rate() {
            self.note_rate(measured);
        }
        let Some((smallest, _)) = self.smallest else { return };
        let queue = round.round_trip_min.unwrap_or(smallest).saturating_sub(smallest);
        self.draining = queue > QUEUE_MIN.max(smallest / 2);
        let heavy = round.lost * 10 > round.acknowledged + round.lost;
        if heavy {
            self.phase = Phase::Cruising;
            self.rates.iter_mut().for_each(|(_, rate)| *rate *= 0.8);
        }
        if self.phase == Phase::Starting && !round.app_limited {
            self.flat_rounds = if self.rate() > self.best_at_start * 1.25 { 0 } else { self.flat_rounds + 1 };
            self.best_at_start = self.best_at_start.max(self.rate());
            if self.flat_rounds >= FLAT_ROUNDS || self.draining {
                self.phase = Phase::Cruising;
            }
        }
        self.turn();
        // A round takes as long as its packets did; the acknowledgements' own delay needs some room on top.
        let product = self.rate() * smallest.as_secs_f64().max(0.001);
        let target = (product * self.gain()) as u64 + 4 * self.mtu;
        // While the sender has little to send, what was found before stays.
        if !round.app_limited || target > self.window || heavy {
            self.set_window(target);
        }
    }
}

impl Controller for Rate {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acknowledge(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, _in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.acknowledged_all(now);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.round.lost += lost_bytes;
        if is_persistent {
            let mtu = self.mtu;
            *self = Rate { smallest: self.smallest, ..Rate::new(mtu as u16) };
            self.set_window(0);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.set_window(self.window);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.pacing_rate = Some((self.rate() * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1452;

    /// A path of one bottleneck with a queue before it, and loss by chance behind it. A sender with endless data, paced as quinn paces.
    struct Path {
        bytes_per_second: f64,
        round_trip: Duration,
        queue_bytes: f64,
        loss_per_mille: u64,
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[derive(Debug)]
    struct Outcome {
        share: f64,
        queue_ms_mean: f64,
        resent_share: f64,
    }

    impl Path {
        /// The share of the bottleneck that was used in the last half of so many seconds, and the queue built for it.
        fn run(&self, controller: &mut Rate, start: Instant, seconds: u64) -> Outcome {
            let step = Duration::from_micros(500);
            // Arrival of the news, when it was sent, and whether it is bad.
            let mut news: VecDeque<(Instant, Instant, bool)> = VecDeque::new();
            let (mut in_flight, mut free_at, mut budget, mut chance) = (0u64, start, 0.0, 1u64);
            let (mut delivered, mut lost, mut queue, mut steps) = (0u64, 0u64, 0.0, 0u64);
            for tick in 0..seconds * 2000 {
                let now = start + step * tick as u32;
                let (mut bad, mut last_bad, mut any) = (0, now, false);
                while let Some((_, sent, is_lost)) = news.pop_front_if(|(at, _, _)| *at <= now) {
                    in_flight -= MTU;
                    if is_lost {
                        (bad, last_bad) = (bad + MTU, sent);
                    } else {
                        controller.acknowledge(now, sent, MTU, false);
                        any = true;
                    }
                    if tick > seconds * 1000 {
                        if is_lost { lost += MTU } else { delivered += MTU }
                    }
                }
                if any {
                    controller.acknowledged_all(now);
                }
                if bad > 0 {
                    controller.on_congestion_event(now, last_bad, false, bad);
                }
                let window = controller.window();
                budget = (budget + 1.25 * window as f64 / self.round_trip.as_secs_f64() * step.as_secs_f64()).min(16.0 * MTU as f64);
                while in_flight + MTU <= window && budget >= MTU as f64 {
                    budget -= MTU as f64;
                    in_flight += MTU;
                    let waiting = free_at.saturating_duration_since(now).as_secs_f64() * self.bytes_per_second;
                    chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let is_lost = waiting > self.queue_bytes || (chance >> 33) % 1000 < self.loss_per_mille;
                    if waiting <= self.queue_bytes {
                        free_at = free_at.max(now) + Duration::from_secs_f64(MTU as f64 / self.bytes_per_second);
                    }
                    news.push_back((free_at.max(now) + self.round_trip, now, is_lost));
                }
                if tick > seconds * 1000 {
                    queue += free_at.saturating_duration_since(now).as_secs_f64() * 1e3;
                    steps += 1;
                }
            }
            Outcome {
                share: delivered as f64 / (self.bytes_per_second * seconds as f64 / 2.0),
                queue_ms_mean: queue / steps as f64,
                resent_share: lost as f64 / (delivered + lost).max(1) as f64,
            }
        }
    }

    fn ocean(round_trip_ms: u64, loss_per_mille: u64) -> Path {
        let bytes_per_second = 25e6;
        let round_trip = Duration::from_millis(round_trip_ms);
        Path { bytes_per_second, round_trip, queue_bytes: bytes_per_second * 0.1, loss_per_mille }
    }

    #[test]
    fn an_ocean_is_filled_with_and_without_loss_and_its_queue_stays_short() {
        for (round_trip_ms, loss_per_mille) in [(20, 0), (80, 0), (80, 10), (160, 10), (230, 20)] {
            let outcome = ocean(round_trip_ms, loss_per_mille).run(&mut Rate::new(MTU as u16), now(), 20);
            assert!(outcome.share > 0.8, "{round_trip_ms} ms, {loss_per_mille} per mille: {outcome:?}");
            assert!(
                outcome.queue_ms_mean < round_trip_ms as f64 / 4.0 + 5.0,
                "{round_trip_ms} ms, {loss_per_mille} per mille: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_shallow_buffer_is_not_flooded() {
        let path = Path { queue_bytes: 25e6 * 0.005, ..ocean(80, 0) };
        let outcome = path.run(&mut Rate::new(MTU as u16), now(), 20);
        assert!(outcome.share > 0.7 && outcome.resent_share < 0.1, "{outcome:?}");
    }

    #[test]
    fn a_path_that_becomes_slower_is_believed() {
        let mut controller = Rate::new(MTU as u16);
        let start = now();
        ocean(80, 0).run(&mut controller, start, 10);
        let slower = Path { bytes_per_second: 2.5e6, queue_bytes: 2.5e6 * 0.2, ..ocean(80, 0) };
        let outcome = slower.run(&mut controller, start + Duration::from_secs(10), 20);
        assert!(outcome.share > 0.7 && outcome.resent_share < 0.1, "{outcome:?}");
    }

    #[test]
    fn a_dead_path_is_asked_again_from_the_smallest_window() {
        let mut controller = Rate::new(MTU as u16);
        let start = now();
        ocean(80, 0).run(&mut controller, start, 5);
        let now = start + Duration::from_secs(5);
        controller.on_congestion_event(now, now, true, 100 * MTU);
        assert_eq!(controller.window(), WINDOW_PACKETS_MIN * MTU);
        assert!(ocean(80, 0).run(&mut controller, now, 20).share > 0.8);
    }
}
