//! How much of what a leader sends may wait for one group's core, so that a slow group neither holds up the others nor fills the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Appends of one group that wait for its core.
const FRAMES_MAX: usize = 64;
/// Their bytes; a single one is taken whatever its size.
const BYTES_MAX: usize = 32 << 20;
/// Bytes of all groups' appends that wait, of one connection.
const CONNECTION_BYTES_MAX: usize = 256 << 20;

/// Appends of one group that have arrived and are not answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incoming {
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

/// One append's place, until dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    waiting: Arc<Waiting>,
    connection: Arc<AtomicUsize>,
    bytes: usize,
}

impl Incoming {
    /// A place for an append of `bytes` that came over a connection with so many bytes waiting; None where too much waits already.
    pub fn admit(&self, connection: &Arc<AtomicUsize>, bytes: usize) -> Option<Admitted> {
        let waiting = &self.waiting;
        let (frames, before) = (waiting.frames.load(Ordering::Relaxed), waiting.bytes.load(Ordering::Relaxed));
        let all = connection.load(Ordering::Relaxed);
        if frames >= FRAMES_MAX || (before > 0 && before + bytes > BYTES_MAX) || (all > 0 && all + bytes > CONNECTION_BYTES_MAX) {
            return None;
        }
        waiting.frames.fetch_add(1, Ordering::Relaxed);
        waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        connection.fetch_add(bytes, Ordering::Relaxed);
        Some(Admitted { waiting: waiting.clone(), connection: connection.clone(), bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.waiting.frames.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_group_is_refused_while_others_of_its_connection_are_not() {
        let (slow, other) = (Incoming::default(), Incoming::default());
        let connection = Arc::default();
        let mut held: Vec<Admitted> = (0..FRAMES_MAX).filter_map(|_| slow.admit(&connection, 100)).collect();
        assert_eq!(held.len(), FRAMES_MAX);
        assert!(slow.admit(&connection, 0).is_none());
        assert!(other.admit(&connection, 100).is_some());
        held.pop();
        assert!(slow.admit(&connection, 100).is_some());
    }

    #[test]
    fn an_entry_of_any_size_is_taken_alone_and_little_beside_it() {
        let group = Incoming::default();
        let connection = Arc::default();
        let huge = group.admit(&connection, BYTES_MAX + 1);
        assert!(huge.is_some() && group.admit(&connection, 1).is_none());
        drop(huge);
        assert_eq!(connection.load(Ordering::Relaxed), 0);
        assert!(group.admit(&connection, BYTES_MAX).is_some());
    }

    #[test]
    fn all_groups_of_a_connection_share_its_bytes() {
        let connection = Arc::default();
        let groups: Vec<Incoming> = (0..9).map(|_| Incoming::default()).collect();
        let held: Vec<Admitted> = groups.iter().filter_map(|group| group.admit(&connection, BYTES_MAX)).collect();
        assert_eq!(held.len(), CONNECTION_BYTES_MAX / BYTES_MAX);
    }
}
