//! What a workload did and saw: one event a line of JSON, in the order in which the workload noticed them.
//!
//! Values are unique and describe themselves (`PRODUCER-SEQUENCE`), so that one value read twice, or never sent, gives itself away.

use std::io::{self, BufRead};

/// Longest line accepted; a longer one is refused before it is kept.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Most events one history may hold.
pub const EVENTS_MAX: usize = 20_000_000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A producer is about to send a value.
    Send { producer: String, sequence: u64, topic: String, partition: i32, value: String },
    /// The broker acknowledged it at an offset.
    Acked { producer: String, sequence: u64, topic: String, partition: i32, offset: i64 },
    /// The broker refused it for good: it must never be read.
    Failed { producer: String, sequence: u64 },
    /// Nobody knows (a timeout): it may or may not be read, once.
    Unknown { producer: String, sequence: u64 },
    /// A reader was handed a value. `pass` numbers one uninterrupted reading of a partition by one reader: within it, offsets only grow.
    Read { reader: String, region: String, pass: u64, topic: String, partition: i32, offset: i64, value: String },
    /// A final reading, from the first offset to the end, is complete up to (not including) this offset.
    ReadToEnd { region: String, topic: String, partition: i32, end: i64 },
}

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("history: {0}")]
    Io(#[from] io::Error),
    #[error("history, line {line}: longer than {LINE_BYTES_MAX} bytes")]
    Long { line: usize },
    #[error("history, line {line}: {message}")]
    Malformed { line: usize, message: String },
    #[error("history holds more than {EVENTS_MAX} events")]
    Many,
}

/// Reads a whole history. Blank lines are passed over.
pub fn parse(input: &mut dyn BufRead) -> Result<Vec<Event>, HistoryError> {
    let mut events = Vec::new();
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let read = io::Read::take(&mut *input, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut buffer)?;
        if read == 0 {
            break;
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(HistoryError::Long { line });
        }
        if buffer.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if events.len() == EVENTS_MAX {
            return Err(HistoryError::Many);
        }
        let event = serde_json::from_slice(&buffer).map_err(|error| HistoryError::Malformed { line, message: error.to_string() })?;
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let text = b"{\"event\":\"failed\",\"producer\":\"p\",\"sequence\":1}\n\n{\"event\":\"nonsense\"}\n";
        let error = parse(&mut &text[..]).expect_err("nonsense is no event");
        assert!(error.to_string().starts_with("history, line 3:"), "{error}");
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_kept() {
        let text = vec![b'x'; LINE_BYTES_MAX + 10];
        assert!(matches!(parse(&mut &text[..]), Err(HistoryError::Long { line: 1 })));
    }
}
