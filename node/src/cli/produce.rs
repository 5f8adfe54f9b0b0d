//! `meridian produce TOPIC`: each line of stdin becomes a record.

use std::io::{BufRead, Read};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use meridian_raft::env::Env;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::progress::Progress;
use super::region::Target;
use super::{CliError, block_on};
use crate::client::ClientError;
use crate::client::batch::Record;
use crate::client::produce::{Delivery, Producer};

/// Longest line taken; no topic takes a record that is larger by default.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 4_096;
/// How long a record waits for others to share its batch.
const LINGER: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(super) struct Produce {
    /// The topic to write to, which must be there
    topic: String,
    /// What parts a line's key from its value: `k:v` with ':'. Without it a line is a value
    #[arg(long, value_name = "SEP", conflicts_with = "key_field")]
    key_separator: Option<String>,
    /// Take the key from this field of a line that is a JSON object
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// Write to this partition [default: by key, as Kafka's Java client does]
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Report the rate on stderr even where it is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    target: Target,
}

/// Where a line's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    None,
    Before(String),
    Field(String),
}

impl Produce {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = self.target.connect()?;
        let key = match (self.key_separator, self.key_field) {
            (Some(separator), _) if separator.is_empty() => return Err(CliError::Usage("--key-separator is empty".into())),
            (Some(separator), _) => Key::Before(separator),
            (None, Some(field)) => Key::Field(field),
            (None, None) => Key::None,
        };
        block_on(async {
            let producer = Producer::open(cluster, &self.topic, LINGER).await?;
            let progress = Progress::new("acknowledged", self.progress);
            let (delivery, seconds) = stream(producer, lines(std::io::stdin()), &key, self.partition, progress).await?;
            conclude(&delivery, seconds)
        })
    }
}

/// Sends every line, and waits for the last acknowledgement.
pub(super) async fn stream(
    mut producer: Producer,
    mut lines: mpsc::Receiver<Result<Bytes, CliError>>,
    key: &Key,
    partition: Option<i32>,
    mut progress: Progress,
) -> Result<(Delivery, f64), CliError> {
    let clock = Env::real().clock;
    let started = Instant::now();
    let mut number = 0u64;
    let mut refused = None;
    while let Some(line) = lines.recv().await {
        number += 1;
        let record = match line.and_then(|line| record(line, key, number)) {
            Ok(record) => Record { timestamp_ms: clock.wall_us() / 1_000, ..record },
            Err(error) => {
                refused = Some(error);
                break;
            }
        };
        // The producer remembers why, and `finish` tells it with how much was acknowledged before.
        if producer.send(record, partition).await.is_err() {
            break;
        }
        progress.tell(producer.acknowledged());
    }
    let delivery = producer.finish().await;
    drop(progress);
    match refused {
        Some(error) => {
            eprintln!("{} records acknowledged before line {number}", delivery.acknowledged);
            Err(error)
        }
        None => Ok((delivery, started.elapsed().as_secs_f64())),
    }
}

fn conclude(delivery: &Delivery, seconds: f64) -> Result<(), CliError> {
    let rate = delivery.acknowledged as f64 / seconds.max(0.001);
    eprintln!("{} records acknowledged in {seconds:.1} s ({rate:.0} a second)", delivery.acknowledged);
    match &delivery.error {
        None => Ok(()),
        Some(error) => Err(CliError::Undelivered { failed: delivery.given - delivery.acknowledged, first: error.clone() }),
    }
}

/// A line without its end, parted into key and value.
fn record(line: Bytes, key: &Key, number: u64) -> Result<Record, CliError> {
    let (key, value) = match key {
        Key::None => (None, line),
        Key::Before(separator) => {
            let at = line.windows(separator.len()).position(|window| window == separator.as_bytes());
            let at = at.ok_or_else(|| CliError::Usage(format!("line {number} does not hold the key separator {separator:?}")))?;
            (Some(line.slice(..at)), line.slice(at + separator.len()..))
        }
        Key::Field(field) => (Some(json_key(&line, field, number)?), line),
    };
    Ok(Record { key, value: Some(value), headers: Vec::new(), timestamp_ms: 0 })
}

/// A text is the key as it is; any other value as JSON writes it.
fn json_key(line: &[u8], field: &str, number: u64) -> Result<Bytes, CliError> {
    let object: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| CliError::Usage(format!("line {number} is not JSON: {error}")))?;
    match object.get(field) {
        Some(serde_json::Value::String(text)) => Ok(Bytes::from(text.clone())),
        Some(value) => Ok(Bytes::from(value.to_string())),
        None => Err(CliError::Usage(format!("line {number} has no field {field:?}"))),
    }
}

/// Reads lines on a thread of its own: reading stdin cannot be awaited.
pub(super) fn lines(source: impl Read + Send + 'static) -> mpsc::Receiver<Result<Bytes, CliError>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut reader = std::io::BufReader::with_capacity(1 << 20, source);
        loop {
            let line = next_line(&mut reader);
            let is_last = !matches!(line, Ok(Some(_)));
            let Some(line) = line.transpose() else { return };
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn next_line(reader: &mut impl BufRead) -> Result<Option<Bytes>, CliError> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line).map_err(CliError::Records)?;
    if line.len() > LINE_BYTES_MAX {
        return Err(CliError::Usage(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
    }
    if line.is_empty() {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    Ok(Some(line.into()))
}

/// For callers that have nothing to say about a failed delivery but its first error.
pub(super) fn delivered(delivery: Delivery) -> Result<u64, ClientError> {
    delivery.error.map_or(Ok(delivery.acknowledged), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(line: &'static str, key: &Key) -> Result<(Option<Bytes>, Bytes), String> {
        let record = record(Bytes::from(line), key, 7).map_err(|error| error.to_string())?;
        Ok((record.key, record.value.unwrap_or_default()))
    }

    #[test]
    fn keys_come_from_before_a_separator_or_from_a_field() {
        let before = Key::Before("::".into());
        assert_eq!(parted("UA::a::b", &before), Ok((Some("UA".into()), "a::b".into())));
        assert_eq!(parted("::b", &before), Ok((Some("".into()), "b".into())));
        assert!(parted("UA", &before).expect_err("no key").contains("line 7"));
        let field = Key::Field("carrier".into());
        assert_eq!(parted(r#"{"carrier":"UA"}"#, &field), Ok((Some("UA".into()), r#"{"carrier":"UA"}"#.into())));
        assert_eq!(parted(r#"{"carrier":7}"#, &field).map(|(key, _)| key), Ok(Some("7".into())));
        assert!(parted("{}", &field).expect_err("no field").contains("carrier"));
        assert!(parted("nothing", &field).expect_err("no JSON").contains("line 7"));
        assert_eq!(parted("UA::a", &Key::None), Ok((None, "UA::a".into())));
    }

    #[tokio::test]
    async fn lines_end_at_their_ends() {
        let mut lines = lines(&b"one\r\n\ntwo\nlast"[..]);
        let mut read = Vec::new();
        while let Some(line) = lines.recv().await {
            read.push(line.expect("a line"));
        }
        assert_eq!(read, ["one", "", "two", "last"]);
    }
}
