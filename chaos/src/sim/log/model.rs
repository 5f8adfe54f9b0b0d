//! What the log must hold, kept in the plainest way, and the comparison with what it does hold.

use meridian_raft::log::{Log, LogEntry};

/// Most bytes read back at once.
const READ_BYTES: usize = 1 << 20;

/// Entries in order of index, as the log stamped them.
#[derive(Debug, Default)]
pub(super) struct Model {
    entries: Vec<LogEntry>,
    /// Entries before this index have been acknowledged.
    acknowledged: u64,
}

impl Model {
    pub(super) fn next_index(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn append(&mut self, stamped: Vec<LogEntry>) {
        self.entries.extend(stamped);
    }

    pub(super) fn acknowledge(&mut self, before: u64) {
        self.acknowledged = self.acknowledged.max(before.min(self.next_index()));
    }

    pub(super) fn truncate(&mut self, next_index: u64) {
        self.entries.truncate(next_index as usize);
        self.acknowledged = self.acknowledged.min(next_index);
    }

    /// The running log holds exactly this.
    pub(super) fn check_running(&self, log: &Log) -> Result<(), String> {
        if log.indexes().end != self.next_index() {
            return Err(format!("the log ends at index {}, appended were {}", log.indexes().end, self.next_index()));
        }
        self.check_content(log, self.next_index())
    }

    /// After a power cut: everything acknowledged, nothing invented. Returns how many unacknowledged entries survived, and takes the
    /// rest as never appended.
    pub(super) fn recover(&mut self, log: &Log) -> Result<(u64, u64), String> {
        let end = log.indexes().end;
        if end < self.acknowledged {
            return Err(format!("acknowledged entries are lost: the log ends at index {end}, acknowledged were {}", self.acknowledged));
        }
        if end > self.next_index() {
            return Err(format!("the log holds {end} entries, only {} were ever appended", self.next_index()));
        }
        self.check_content(log, end)?;
        let (kept, lost) = (end - self.acknowledged, self.next_index() - end);
        self.truncate(end);
        Ok((kept, lost))
    }

    fn check_content(&self, log: &Log, end: u64) -> Result<(), String> {
        let mut next = 0;
        let mut next_offset = 0;
        while next < end {
            let found = log.entries(next..end, READ_BYTES).map_err(|error| format!("index {next} cannot be read: {error}"))?;
            if found.is_empty() {
                return Err(format!("nothing is read at index {next}, the log ends at {end}"));
            }
            for entry in found {
                if self.entries.get(next as usize) != Some(&entry) {
                    return Err(format!("index {next} holds {entry:?}, appended was {:?}", self.entries.get(next as usize)));
                }
                if let Some(batch) = meridian_raft::batch::BatchHeader::decode(&entry.payload) {
                    if batch.base_offset != next_offset {
                        return Err(format!("index {next} begins at offset {}, the one before ended at {next_offset}", batch.base_offset));
                    }
                    next_offset += i64::from(batch.last_offset_delta) + 1;
                }
                next += 1;
            }
        }
        if log.next_offset() != next_offset {
            return Err(format!("the log's next offset is {}, its batches end at {next_offset}", log.next_offset()));
        }
        self.check_by_offset(log, next_offset)
    }

    /// The same batches, read as a consumer reads them.
    fn check_by_offset(&self, log: &Log, end_offset: i64) -> Result<(), String> {
        let mut offset = 0;
        while offset < end_offset {
            let batches = log.read_batches(offset, end_offset, 4096).map_err(|error| format!("offset {offset} cannot be read: {error}"))?;
            let Some(last) = batches.last().and_then(|batch| meridian_raft::batch::BatchHeader::decode(&batch.bytes)) else {
                return Err(format!("nothing is read at offset {offset}, the log ends at {end_offset}"));
            };
            let first = batches.first().and_then(|batch| meridian_raft::batch::BatchHeader::decode(&batch.bytes));
            if first.is_none_or(|first| first.base_offset != offset) {
                return Err(format!("reading at offset {offset} begins elsewhere"));
            }
            offset = last.base_offset + i64::from(last.last_offset_delta) + 1;
        }
        Ok(())
    }
}
