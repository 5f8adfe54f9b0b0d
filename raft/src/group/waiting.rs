//! Proposals that wait for their commit: how many bytes they have, and who is answered in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::responder::Responder;
use tokio::sync::oneshot;

use super::Types;

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
pub(crate) struct Answering<T> {
    sender: oneshot::Sender<T>,
    _waiting: Option<Waiting>,
}

impl<T> Answering<T> {
    pub fn new(waiting: Option<Waiting>) -> (Answering<T>, oneshot::Receiver<T>) {
        let (sender, outcome) = oneshot::channel();
        (Answering { sender, _waiting: waiting }, outcome)
    }
}

impl<T> Responder<Types, T> for Answering<T>
where
    T: openraft::OptionalSend + 'static,
{
    fn on_complete(self, result: T) {
        // A proposer that is gone needs no answer.
        let _ = self.sender.send(result);
    }
}
