//! What the group around a log looks at with every entry: terms, and entries that are still in memory.

use std::io;

use super::{Log, LogEntry};

impl Log {
    /// The term of an entry; None where the log does not hold it. That of the last entry let go of is known.
    pub(crate) fn term_of(&self, index: u64) -> io::Result<Option<u64>> {
        {
            let state = self.state();
            if let Some(last) = state.last.filter(|last| last.index == index) {
                return Ok(Some(last.term));
            }
            if let Some(purged) = state.purged.filter(|purged| purged.index == index) {
                return Ok(Some(purged.term));
            }
            if let Some(entry) = state.tail.get(index) {
                return Ok(Some(entry.term));
            }
            if !(state.first_index()..state.next_index()).contains(&index) {
                return Ok(None);
            }
        }
        Ok(self.heads(index..index + 1)?.first().filter(|head| head.index == index).map(|head| head.term))
    }

    /// Entries from `from` on, no more than that many and about that many bytes, but one at least where there is one; None where the first of
    /// them is not in memory.
    pub(crate) fn recent(&self, from: u64, entries_max: usize, bytes_max: usize) -> Option<Vec<LogEntry>> {
        let state = self.state();
        let end = state.next_index();
        if from == end {
            return Some(Vec::new());
        }
        let (mut found, mut bytes) = (Vec::new(), 0usize);
        while let Some(entry) = state.tail.get(from + found.len() as u64) {
            bytes = bytes.saturating_add(entry.payload.len());
            if found.len() >= entries_max || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        drop(state);
        self.inner.memory.count_read(found.iter().map(|entry| entry.payload.len() as u64).sum(), 0);
        (!found.is_empty()).then_some(found)
    }
}
