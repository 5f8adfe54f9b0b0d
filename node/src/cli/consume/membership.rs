//! `meridian consume --group`: reads what the group gives to this member, and commits what has been printed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::CliError;
use super::{Consume, Printer, is_behind};
use crate::client::Cluster;
use crate::client::fetch::Consumer;
use crate::client::groups::Member;
use crate::signals::StopSignals;

const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// A member without partitions looks so often whether it has some now.
const IDLE: Duration = Duration::from_millis(500);

/// What a generation ended with.
enum End {
    Done,
    JoinAgain,
}

struct Reading<'a> {
    asked: &'a Consume,
    cluster: Cluster,
    member: Member,
    printer: Printer,
    left: u64,
    /// Next offsets of what is on stdout for sure and not committed.
    printed: BTreeMap<i32, i64>,
}

/// Until interrupted, or as many records as asked for, or the end. Whatever happens, the group is told.
pub(super) async fn read(asked: &Consume, cluster: Cluster, group: &str) -> Result<(), CliError> {
    let mut signals = StopSignals::catch().map_err(CliError::Runtime)?;
    let member = Member::new(cluster.clone(), group, &asked.topic);
    let left = asked.count.unwrap_or(u64::MAX);
    let mut reading = Reading { asked, cluster, member, printer: asked.printer(), left, printed: BTreeMap::new() };
    let ended = tokio::select! {
        ended = reading.generations() => ended,
        () = signals.next() => Ok(()),
    };
    let committed = reading.commit().await;
    if matches!(committed, Ok(false)) {
        eprintln!("the group has moved on meanwhile: its members will read the last records again");
    }
    let left = reading.member.leave().await;
    ended.and(committed.map(|_| ())).and(left.map_err(CliError::from))
}

impl Reading<'_> {
    async fn generations(&mut self) -> Result<(), CliError> {
        loop {
            let partitions = self.member.join().await?;
            if let End::Done = self.generation(&partitions).await? {
                return Ok(());
            }
            // The next reader of a partition shall not read again what is printed. Refused, it does: at least once.
            if let Err(error) = self.commit().await {
                tracing::debug!(%error, "not committed");
            }
            self.printed.clear();
        }
    }

    async fn generation(&mut self, partitions: &[i32]) -> Result<End, CliError> {
        if partitions.is_empty() {
            return self.idle().await;
        }
        let committed = self.member.committed(partitions).await?;
        let mut consumer = Consumer::open(self.cluster.clone(), &self.asked.topic, Some(partitions), self.asked.from).await?;
        consumer.resume(&committed);
        let ends = if self.asked.until_end { Some(consumer.end_offsets().await?) } else { None };
        let mut commit_at = Instant::now() + COMMIT_EVERY;
        while self.left > 0 && !ends.as_ref().is_some_and(|ends| is_behind(consumer.positions(), ends)) {
            self.take(&mut consumer, ends.as_ref()).await?;
            if !self.member.is_settled().await? {
                return Ok(End::JoinAgain);
            }
            if Instant::now() >= commit_at {
                match self.commit().await {
                    Ok(true) => {}
                    Ok(false) => return Ok(End::JoinAgain),
                    // The next attempt commits this too.
                    Err(CliError::Client(error)) if error.is_retriable() => tracing::debug!(%error, "not committed yet"),
                    Err(error) => return Err(error),
                }
                commit_at = Instant::now() + COMMIT_EVERY;
            }
        }
        Ok(End::Done)
    }

    async fn idle(&mut self) -> Result<End, CliError> {
        while !self.asked.until_end {
            tokio::time::sleep(IDLE).await;
            if !self.member.is_settled().await? {
                return Ok(End::JoinAgain);
            }
        }
        Ok(End::Done)
    }

    async fn take(&mut self, consumer: &mut Consumer, ends: Option<&BTreeMap<i32, i64>>) -> Result<(), CliError> {
        let mut taken = BTreeMap::new();
        for fetched in consumer.poll().await? {
            let is_beyond = ends.and_then(|ends| ends.get(&fetched.partition)).is_some_and(|end| fetched.offset >= *end);
            if self.left == 0 || is_beyond {
                continue;
            }
            self.left -= 1;
            self.asked.print(&mut self.printer, &fetched)?;
            taken.insert(fetched.partition, fetched.offset + 1);
        }
        self.printer.flush()?;
        self.printed.extend(taken);
        Ok(())
    }

    /// False where the group does not take it any more.
    async fn commit(&mut self) -> Result<bool, CliError> {
        if self.printed.is_empty() {
            return Ok(true);
        }
        let taken = self.member.commit(&self.printed).await?;
        self.printed.clear();
        Ok(taken)
    }
}
