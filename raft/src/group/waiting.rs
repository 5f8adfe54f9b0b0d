//! Proposals that wait for their commit: how many bytes they have, and who is answered in the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::proposal::{Outcome, Proposed, Refusal};

/// Counts bytes as waiting until dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Waiting {
    /// None where more than `bytes_max` would wait then.
    pub fn within(bytes_max: usize, all: &Arc<AtomicUsize>, bytes: usize) -> Option<Waiting> {
        let waiting = Waiting { bytes, all: all.clone() };
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        before.checked_add(bytes).is_some_and(|after| after <= bytes_max).then_some(waiting)
    }

    /// Takes so many of these bytes apart, or all of them.
    pub fn split(&mut self, bytes: usize) -> Waiting {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Waiting { bytes, all: self.all.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Answers a proposer once. The proposal's bytes count as waiting until then, even where the proposer has lost patience or is gone.
#[derive(Debug)]
pub(crate) struct Answering {
    sender: oneshot::Sender<Proposed>,
    _waiting: Option<Waiting>,
}

impl Answering {
    pub fn new(waiting: Option<Waiting>) -> (Answering, oneshot::Receiver<Proposed>) {
        let (sender, outcome) = oneshot::channel();
        (Answering { sender, _waiting: waiting }, outcome)
    }

    pub fn answer(self, proposed: Proposed) {
        // A proposer that is gone needs no answer.
        let _ = self.sender.send(proposed);
    }
}

/// Whoever waits for entries of one log, in their order.
#[derive(Debug, Default)]
pub(crate) struct Proposers {
    waiting: VecDeque<(u64, Answering)>,
}

impl Proposers {
    /// Entries are proposed in the order of their indexes.
    pub fn push(&mut self, index: u64, answering: Answering) {
        self.waiting.push_back((index, answering));
    }

    /// The entry has been applied.
    pub fn applied(&mut self, index: u64, outcome: Outcome) {
        if let Some((_, answering)) = self.waiting.pop_front_if(|(first, _)| *first == index) {
            answering.answer(Ok(outcome));
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(16);
        }
    }

    /// Entries from `end` on have been taken back.
    pub fn cut(&mut self, end: u64) {
        while let Some((_, answering)) = self.waiting.pop_back_if(|(index, _)| *index >= end) {
            answering.answer(Err(Refusal::NotLeader { leader: None }));
        }
    }

    /// The log begins anew at `end`: whether entries before it were the ones proposed here, nobody can tell.
    pub fn skip(&mut self, end: u64) {
        while let Some((_, answering)) = self.waiting.pop_front_if(|(index, _)| *index < end) {
            answering.answer(Err(Refusal::Unknown));
        }
    }

    pub fn stop(&mut self, reason: &str) {
        self.waiting.drain(..).for_each(|(_, answering)| answering.answer(Err(Refusal::Stopped(reason.to_owned()))));
    }
}
