//! What a heartbeat says and what a mirror concludes from it: how old it may be. Pure: no clock, no network.
//!
//! The source vouches with pairs (closed time T, high watermark H), T asked for before H: every record with an append time at or before T lies
//! before H. Once a mirror holds everything before H, it is at most `now − T` old. Of partitions at rest nothing is said but one time for all.

use std::collections::{HashMap, VecDeque};

use meridian_raft::GroupId;

use crate::link::frame::{Beat, ENTRIES_MAX, Frame, Heartbeat};

/// Partitions that one peer may name.
pub const NAMED_MAX: usize = 1 << 20;
/// Pairs kept while a mirror has not reached them. Beyond, every second one is dropped: staleness then falls in larger steps, never too early.
const PAIRS_MAX: usize = 64;

/// A partition that this node leads, at one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    pub group: GroupId,
    pub epoch: i32,
    pub high_watermark: i64,
    /// 0 where the leader's lease does not hold.
    pub closed_us: i64,
}

/// What one session has told of a partition.
#[derive(Debug, Clone, Copy)]
struct Told {
    number: u32,
    epoch: i32,
    high_watermark: i64,
    closed_us: i64,
    quiet: bool,
    /// The tick in which the partition was last led.
    tick: u64,
}

/// The sending half of one session: remembers what was told, says only what changed.
#[derive(Debug, Default)]
pub struct Teller {
    told: HashMap<GroupId, Told>,
    named: u32,
    tick: u64,
}

impl Teller {
    /// The frames of one tick. `now_us` was read before any of `led` was looked at.
    pub fn tell<'a>(&mut self, now_us: i64, led: impl Iterator<Item = &'a Led>) -> Vec<Frame> {
        self.tick += 1;
        let mut frames = Vec::new();
        let mut beats = Vec::new();
        for led in led {
            if !self.told.contains_key(&led.group) && self.told.len() >= NAMED_MAX {
                continue;
            }
            // What is closed up to this tick may share the tick's one time from now on.
            let quiet = led.closed_us >= now_us;
            let told = self.told.entry(led.group).or_insert_with(|| {
                self.named = self.named.wrapping_add(1);
                frames.push(Frame::Name { number: self.named, group: led.group });
                Told { number: self.named, epoch: -1, high_watermark: -1, closed_us: 0, quiet: false, tick: 0 }
            });
            told.tick = self.tick;
            let same = (told.epoch, told.high_watermark, told.quiet) == (led.epoch, led.high_watermark, quiet);
            if same && (quiet || told.closed_us == led.closed_us) {
                continue;
            }
            *told = Told { epoch: led.epoch, high_watermark: led.high_watermark, closed_us: led.closed_us, quiet, ..*told };
            let Led { epoch, high_watermark, closed_us, .. } = *led;
            beats.push(Beat { number: told.number, epoch, high_watermark, closed_us, quiet });
        }
        let tick = self.tick;
        let mut gone = Vec::new();
        self.told.retain(|_, told| {
            if told.tick != tick {
                gone.push(told.number);
            }
            told.tick == tick
        });
        frames.extend(split(now_us, beats, gone).map(Frame::Heartbeat));
        frames
    }
}

/// Bounded frames; only the last closes the quiet, when the target has heard every beat of the tick.
fn split(now_us: i64, beats: Vec<Beat>, gone: Vec<u32>) -> impl Iterator<Item = Heartbeat> {
    let count = beats.len().div_ceil(ENTRIES_MAX).max(gone.len().div_ceil(ENTRIES_MAX)).max(1);
    let (mut beats, mut gone) = (beats.into_iter(), gone.into_iter());
    (1..=count).map(move |i| Heartbeat {
        quiet_us: if i == count { now_us } else { 0 },
        beats: beats.by_ref().take(ENTRIES_MAX).collect(),
        gone: gone.by_ref().take(ENTRIES_MAX).collect(),
    })
}

/// What a peer last said of a partition that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub epoch: i32,
    pub high_watermark: i64,
    pub closed_us: i64,
    pub quiet: bool,
}

impl Claim {
    /// The pair that holds now, given the time that closes the quiet.
    pub fn pair(&self, quiet_us: i64) -> (i64, i64) {
        (self.high_watermark, if self.quiet { self.closed_us.max(quiet_us) } else { self.closed_us })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HearingError {
    #[error("the peer names more than {NAMED_MAX} partitions")]
    Names,
    #[error("the peer speaks of partition number {0}, which it has not named")]
    Unnamed(u32),
}

/// The receiving half of one session.
#[derive(Debug, Default)]
pub struct Hearing {
    names: HashMap<u32, GroupId>,
    claims: HashMap<GroupId, Claim>,
    quiet_us: i64,
}

impl Hearing {
    pub fn name(&mut self, number: u32, group: GroupId) -> Result<(), HearingError> {
        if self.names.len() >= NAMED_MAX {
            return Err(HearingError::Names);
        }
        self.names.insert(number, group);
        Ok(())
    }

    /// Takes a heartbeat in. True when the set of claimed partitions, or the epoch of one, has changed.
    pub fn hear(&mut self, heartbeat: &Heartbeat, mut heard: impl FnMut(GroupId, Claim)) -> Result<bool, HearingError> {
        let mut changed = false;
        for beat in &heartbeat.beats {
            let group = *self.names.get(&beat.number).ok_or(HearingError::Unnamed(beat.number))?;
            let claim = Claim { epoch: beat.epoch, high_watermark: beat.high_watermark, closed_us: beat.closed_us, quiet: beat.quiet };
            let before = self.claims.insert(group, claim);
            changed |= before.is_none_or(|before| before.epoch != claim.epoch);
            heard(group, claim);
        }
        for number in &heartbeat.gone {
            let group = self.names.remove(number).ok_or(HearingError::Unnamed(*number))?;
            changed |= self.claims.remove(&group).is_some();
        }
        self.quiet_us = self.quiet_us.max(heartbeat.quiet_us);
        Ok(changed)
    }

    pub fn claim(&self, group: GroupId) -> Option<Claim> {
        self.claims.get(&group).copied()
    }

    pub fn quiet_us(&self) -> i64 {
        self.quiet_us
    }
}

/// How fresh one mirror is, by the pairs that it was told.
#[derive(Debug, Default)]
pub struct Freshness {
    /// Pairs (H, T) not yet reached, both strictly ascending.
    pairs: VecDeque<(i64, i64)>,
    /// Everything committed at home at or before this time is here (µs); 0 before the first pair is reached.
    reached_us: i64,
    home_end: Option<i64>,
}

impl Freshness {
    pub fn note(&mut self, (high_watermark, closed_us): (i64, i64)) {
        self.home_end = Some(self.home_end.map_or(high_watermark, |known| known.max(high_watermark)));
        if closed_us <= self.reached_us {
            return;
        }
        while self.pairs.pop_back_if(|(end, time)| *end >= high_watermark && *time <= closed_us).is_some() {}
        if self.pairs.back().is_some_and(|(end, time)| *end >= high_watermark || *time >= closed_us) {
            // An older word that came late, or one that says less.
            return;
        }
        if self.pairs.len() >= PAIRS_MAX {
            let mut number = 0;
            self.pairs.retain(|_| {
                number += 1;
                number % 2 == 0
            });
        }
        self.pairs.push_back((high_watermark, closed_us));
    }

    /// The time up to which the mirror is complete, given the end of what it has committed.
    pub fn reached_us(&mut self, end_offset: i64) -> Option<i64> {
        while let Some((_, closed_us)) = self.pairs.pop_front_if(|(high_watermark, _)| *high_watermark <= end_offset) {
            self.reached_us = closed_us;
        }
        (self.reached_us > 0).then_some(self.reached_us)
    }

    /// The home's high watermark, as last heard.
    pub fn home_end(&self) -> Option<i64> {
        self.home_end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn group(partition: i32) -> GroupId {
        GroupId { topic: Uuid::from_u128(1), partition }
    }

    fn led(partition: i32, high_watermark: i64, closed_us: i64) -> Led {
        Led { group: group(partition), epoch: 1, high_watermark, closed_us }
    }

    fn pass(frames: &[Frame], hearing: &mut Hearing) -> bool {
        let mut changed = false;
        for frame in frames {
            match frame {
                Frame::Name { number, group } => hearing.name(*number, *group).expect("room"),
                Frame::Heartbeat(heartbeat) => changed |= hearing.hear(heartbeat, |_, _| ()).expect("named"),
                other => panic!("{other:?} is no part of a heartbeat"),
            }
        }
        changed
    }

    #[test]
    fn a_thousand_idle_partitions_cost_one_small_frame() {
        let (mut teller, mut hearing) = (Teller::default(), Hearing::default());
        let at = |now: i64| -> Vec<Led> { (0..1000).map(|partition| led(partition, 7, now + 1)).collect() };
        assert!(pass(&teller.tell(100, at(100).iter()), &mut hearing));
        let frames = teller.tell(200, at(200).iter());
        assert!(frames.len() == 1 && frames[0].encode().concat().len() < 32);
        assert!(!pass(&frames, &mut hearing));
        let claim = hearing.claim(group(999)).expect("claimed");
        assert_eq!(claim.pair(hearing.quiet_us()), (7, 200));
    }

    #[test]
    fn a_partition_with_appends_in_flight_is_not_closed_with_the_quiet_ones() {
        let (mut teller, mut hearing) = (Teller::default(), Hearing::default());
        pass(&teller.tell(100, [led(0, 7, 100), led(1, 7, 100)].iter()), &mut hearing);
        pass(&teller.tell(200, [led(0, 7, 200), led(1, 7, 120)].iter()), &mut hearing);
        pass(&teller.tell(300, [led(0, 7, 300), led(1, 7, 120)].iter()), &mut hearing);
        let pair = |partition| hearing.claim(group(partition)).expect("claimed").pair(hearing.quiet_us());
        assert_eq!((pair(0), pair(1)), ((7, 300), (7, 120)));
    }

    #[test]
    fn a_lost_lease_vouches_for_nothing_new() {
        let (mut teller, mut hearing) = (Teller::default(), Hearing::default());
        pass(&teller.tell(100, [led(0, 7, 100)].iter()), &mut hearing);
        pass(&teller.tell(200, [led(0, 7, 0)].iter()), &mut hearing);
        pass(&teller.tell(300, [led(0, 7, 0)].iter()), &mut hearing);
        assert_eq!(hearing.claim(group(0)).expect("claimed").pair(hearing.quiet_us()), (7, 0));
    }

    #[test]
    fn what_is_no_longer_led_is_no_longer_claimed_and_may_come_back() {
        let (mut teller, mut hearing) = (Teller::default(), Hearing::default());
        pass(&teller.tell(100, [led(0, 7, 100)].iter()), &mut hearing);
        assert!(pass(&teller.tell(200, [].iter()), &mut hearing));
        assert_eq!(hearing.claim(group(0)), None);
        assert!(pass(&teller.tell(300, [led(0, 8, 300)].iter()), &mut hearing));
        assert_eq!(hearing.claim(group(0)).map(|claim| claim.high_watermark), Some(8));
    }

    #[test]
    fn more_beats_than_a_frame_holds_are_split_and_the_last_closes_the_quiet() {
        let (mut teller, mut hearing) = (Teller::default(), Hearing::default());
        let many: Vec<Led> = (0..ENTRIES_MAX as i32 + 1).map(|partition| led(partition, 7, 100)).collect();
        let frames = teller.tell(100, many.iter());
        let beats: Vec<&Heartbeat> =
            frames.iter().filter_map(|frame| if let Frame::Heartbeat(heartbeat) = frame { Some(heartbeat) } else { None }).collect();
        assert_eq!(beats.iter().map(|beat| (beat.quiet_us, beat.beats.len())).collect::<Vec<_>>(), [(0, ENTRIES_MAX), (100, 1)]);
        pass(&frames, &mut hearing);
        assert!(hearing.claim(group(ENTRIES_MAX as i32)).is_some());
    }

    #[test]
    fn a_beat_of_an_unnamed_partition_is_refused() {
        let beat = Beat { number: 5, epoch: 1, high_watermark: 1, closed_us: 1, quiet: false };
        let heard = Hearing::default().hear(&Heartbeat { beats: vec![beat], ..Heartbeat::default() }, |_, _| ());
        assert_eq!(heard, Err(HearingError::Unnamed(5)));
    }

    #[test]
    fn a_time_counts_once_all_before_its_watermark_is_here() {
        let mut freshness = Freshness::default();
        assert_eq!((freshness.reached_us(0), freshness.home_end()), (None, None));
        freshness.note((10, 100));
        freshness.note((20, 200));
        assert_eq!(freshness.reached_us(9), None);
        assert_eq!(freshness.reached_us(10), Some(100));
        assert_eq!(freshness.reached_us(25), Some(200));
        assert_eq!(freshness.home_end(), Some(20));
    }

    proptest! {
        /// Against all pairs ever told: never fresher than the truth, and exact where no pair had to be dropped.
        #[test]
        fn freshness_is_never_better_than_what_was_vouched_for(
            steps in prop::collection::vec((0i64..3, 0i64..3, 0i64..4), 1..300), late in any::<bool>()
        ) {
            let (mut freshness, mut all, mut end) = (Freshness::default(), Vec::new(), 0);
            let (mut high_watermark, mut closed) = (0, 1);
            for (records, time, mirrored) in &steps {
                (high_watermark, closed) = (high_watermark + records, closed + time);
                end = (end + mirrored).min(high_watermark);
                all.push((high_watermark, closed));
                let told = if late { all[all.len() / 2] } else { (high_watermark, closed) };
                freshness.note(told);
                let truth = all.iter().filter(|(h, _)| *h <= end).map(|(_, t)| *t).max();
                let reached = freshness.reached_us(end);
                prop_assert!(reached <= truth);
                if steps.len() <= PAIRS_MAX && !late {
                    prop_assert_eq!(reached, truth);
                }
            }
        }
    }
}
