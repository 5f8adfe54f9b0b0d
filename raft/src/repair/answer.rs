//! The sound side of a repair: a leader answers from its own log, every checksum verified as it reads.

use bytes::Bytes;

use super::wire::{ANSWER_BYTES_MAX, Question, Reply};
use crate::group::Group;
use crate::log::LogPosition;

/// What this replica says to a damaged one. An error: it cannot say.
pub(crate) fn answer(group: &Group, question: Bytes) -> Result<Bytes, String> {
    let question = Question::decode(question).ok_or("malformed question")?;
    Ok(reply(group, question)?.encode())
}

fn reply(group: &Group, question: Question) -> Result<Reply, String> {
    let not_leading = || {
        // Let go of before the group is asked, which tells of its leadership under a lock of its own.
        let leader = group.leadership().borrow().leader;
        match leader {
            None if group.has_held_nothing() => Reply::Empty,
            leader => Reply::NotLeading { leader },
        }
    };
    let Some(term) = group.leading_term().filter(|term| *term >= question.term_min) else { return Ok(not_leading()) };
    let log = group.log();
    let (held, last) = (log.indexes(), log.last());
    let from = question.after.map_or(0, |after| after.index.saturating_add(1));
    if from < held.start {
        let snapshot = group.snapshot().ok_or("the log begins behind that")?;
        return Ok(Reply::Begins { snapshot });
    }
    if let Some(LogPosition { term, index }) = question.after {
        let heads = log.heads(index..index.saturating_add(1)).map_err(|error| error.to_string())?;
        let held = heads.first().map(|head| (head.term, head.index));
        // The last entry purged is known without being held.
        let held = held.or(log.purged().map(|purged| (purged.term, purged.index)));
        if held != Some((term, index)) {
            return Ok(Reply::Differs);
        }
    }
    let entries = log.entries(from..u64::MAX, ANSWER_BYTES_MAX).map_err(|error| error.to_string())?;
    // Read under no lock: a leadership that ended meanwhile may have truncated what was read.
    if group.leading_term() != Some(term) {
        return Ok(not_leading());
    }
    Ok(Reply::Entries { term, last, entries })
}
