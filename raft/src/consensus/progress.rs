//! How far one follower's log agrees with the leader's, and what is on its way to it.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::peer::liveness::Bond;

/// Appends on their way to one follower.
const IN_FLIGHT_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Progress {
    /// Counts what made everything on its way void: answers to earlier sessions are not heard.
    pub session: u64,
    /// It holds, durably, what the leader holds before this index.
    pub match_end: u64,
    /// What it is sent next.
    pub next: u64,
    /// Where the logs agree is not known: one append at a time.
    probing: bool,
    /// How far to go back when they do not; doubles.
    step: u64,
    /// First index, and the one behind the last, of each append on its way.
    in_flight: VecDeque<(u64, u64)>,
    /// By its last answer.
    pub bond: Option<Bond>,
    /// It has refused what it was sent: it is asked for its word alone first.
    pub bare: bool,
    /// It has been told of commits before this index.
    pub told: u64,
    /// It is to be sent something though there is nothing new, so that it answers.
    contact: bool,
    pub contact_at: Option<Instant>,
    /// The host has been asked to send.
    scheduled: bool,
    /// It is being sent a snapshot, or what is being read from the disk.
    busy: bool,
    pub retry_at: Option<Instant>,
    /// There is no connection; whoever makes one says so.
    lost: bool,
}

impl Progress {
    pub fn new(next: u64) -> Progress {
        Progress {
            session: 0,
            match_end: 0,
            next,
            probing: true,
            step: 1,
            in_flight: VecDeque::new(),
            bond: None,
            bare: false,
            told: 0,
            contact: true,
            contact_at: None,
            scheduled: false,
            busy: false,
            retry_at: None,
            lost: false,
        }
    }

    /// True if the host is to be asked to send now; it has been, then.
    pub fn schedule(&mut self, end: u64) -> bool {
        let now = self.is_ready(end) && !self.scheduled && !self.lost && self.retry_at.is_none();
        self.scheduled |= now;
        now
    }

    /// There is something to send, and room for it.
    pub fn is_ready(&self, end: u64) -> bool {
        let wants = self.next < end || (self.contact && self.in_flight.is_empty());
        wants && !self.busy && self.in_flight.len() < if self.probing { 1 } else { IN_FLIGHT_MAX }
    }

    /// The host can send now.
    pub fn unschedule(&mut self) {
        self.scheduled = false;
    }

    pub fn is_lost(&self) -> bool {
        self.lost
    }
    pub fn is_streaming(&self) -> bool {
        !self.probing && !self.lost
    }

    pub fn sent(&mut self, from: u64, end: u64, committed_end: u64) {
        self.in_flight.push_back((from, end));
        self.next = end;
        self.told = self.told.max(committed_end.min(end));
        (self.contact, self.contact_at) = (false, None);
    }

    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Something is to be sent soon, to be answered.
    pub fn contact(&mut self) {
        self.contact = true;
    }

    /// There is another connection: what was on its way over the last one is lost.
    pub fn reconnected(&mut self) {
        if let Some((from, _)) = self.in_flight.front() {
            self.restart(*from);
        }
    }

    /// There may be a connection again.
    pub fn found(&mut self) {
        (self.lost, self.retry_at) = (false, None);
    }

    pub fn holds(&mut self, end: u64, bond: Bond) {
        self.in_flight.pop_front();
        (self.bond, self.bare) = (Some(bond), false);
        self.match_end = self.match_end.max(end);
        if self.probing {
            self.probing = false;
            self.next = self.next.max(end);
        }
        self.step = 1;
    }

    /// It differs from the append that was sent first, and may agree before `end`.
    pub fn differs(&mut self, end: u64, bond: Bond) {
        let from = self.in_flight.front().map_or(self.next, |(from, _)| *from);
        let next = end.min(from.saturating_sub(self.step));
        self.step = self.step.saturating_mul(2);
        self.restart(next);
        self.bond = Some(bond);
        // Not less than it has acknowledged, unless its disk is another by now.
        self.match_end = self.match_end.min(next);
    }

    /// What is on its way will not be answered.
    pub fn failed(&mut self, retry_at: Option<Instant>) {
        let next = self.in_flight.front().map_or(self.next, |(from, _)| *from);
        self.restart(next);
        self.lost = retry_at.is_none();
        self.bare = !self.lost;
        self.retry_at = retry_at;
    }

    /// From here on, one append at a time, until it says that it agrees.
    pub fn restart(&mut self, next: u64) {
        self.session += 1;
        self.in_flight.clear();
        (self.next, self.probing, self.contact, self.busy) = (next, true, true, false);
    }
}
