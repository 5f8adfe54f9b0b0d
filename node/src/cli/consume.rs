//! `meridian consume TOPIC`: records on stdout, one a line.

mod membership;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::output::Output;
use super::progress::Progress;
use super::region::Target;
use super::{CliError, block_on};
use crate::client::Cluster;
use crate::client::batch::Fetched;
use crate::client::fetch::{Consumer, Start};
use crate::client::timestamp;

#[derive(Debug, Args)]
pub(super) struct Consume {
    /// The topic to read
    topic: String,
    /// Where to start: beginning, end, offset:N, or @TIME with TIME in ms since 1970 or as 2013-01-01T10:00:00Z
    #[arg(long, value_name = "PLACE", default_value = "beginning", value_parser = parse_start)]
    from: Start,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop at what is the end now, rather than wait for more
    #[arg(long)]
    until_end: bool,
    /// Print each record's key before its value
    #[arg(long)]
    print_key: bool,
    /// What is printed between key and value [default: a tab]
    #[arg(long, value_name = "SEP", default_value = "\t", hide_default_value = true)]
    key_separator: String,
    /// value: the value alone. json: an object with topic, partition, offset, timestamp, key, value and headers
    #[arg(long, value_enum, default_value = "value")]
    format: Shape,
    /// Read this partition alone
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Read as a member of this consumer group: its members share the partitions, and go on where the group stopped; --from is for
    /// partitions that it has not read yet
    #[arg(long, value_name = "GROUP", conflicts_with = "partition")]
    group: Option<String>,
    /// Report the rate on stderr even where it is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Value,
    Json,
}

fn parse_start(text: &str) -> Result<Start, String> {
    let wrong = || format!("{text:?} is neither beginning, end, offset:N nor @TIME");
    match text {
        "beginning" | "earliest" => Ok(Start::Beginning),
        "end" | "latest" => Ok(Start::End),
        _ => {
            if let Some(offset) = text.strip_prefix("offset:") {
                return offset.parse().ok().filter(|offset| *offset >= 0).map(Start::Offset).ok_or_else(wrong);
            }
            let time = text.strip_prefix('@').and_then(timestamp::parse_ms).filter(|ms| *ms >= 0);
            time.map(Start::Time).ok_or_else(wrong)
        }
    }
}

impl Consume {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = self.target.connect()?;
        block_on(async {
            match &self.group {
                Some(group) => membership::read(&self, cluster, group).await,
                None => self.read(cluster).await,
            }
        })
    }

    async fn read(&self, cluster: Cluster) -> Result<(), CliError> {
        let only = self.partition.map(|partition| vec![partition]);
        let mut consumer = Consumer::open(cluster, &self.topic, only.as_deref(), self.from).await?;
        let ends = if self.until_end { Some(consumer.end_offsets().await?) } else { None };
        let mut printer = self.printer();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 && !ends.as_ref().is_some_and(|ends| is_behind(consumer.positions(), ends)) {
            for fetched in consumer.poll().await? {
                // What came after the end was taken is not asked for.
                let is_beyond = ends.as_ref().and_then(|ends| ends.get(&fetched.partition)).is_some_and(|end| fetched.offset >= *end);
                if left == 0 || is_beyond {
                    continue;
                }
                left -= 1;
                self.print(&mut printer, &fetched)?;
            }
            printer.flush()?;
        }
        Ok(())
    }

    fn printer(&self) -> Printer {
        // A terminal that shows the records shows by them how it goes.
        let silent = std::io::stdout().is_terminal() && !self.progress;
        let progress = if silent { Progress::silent() } else { Progress::new("read", self.progress) };
        Printer { output: Output::new(), progress, records: 0 }
    }

    fn print(&self, printer: &mut Printer, fetched: &Fetched) -> Result<(), CliError> {
        printer.records += 1;
        let (record, output) = (&fetched.record, &mut printer.output);
        if self.format == Shape::Json {
            output.write(format!("{}\n", document(&self.topic, fetched)).as_bytes())?;
            return Ok(());
        }
        if self.print_key {
            output.write(record.key.as_deref().unwrap_or(b""))?;
            output.write(self.key_separator.as_bytes())?;
        }
        output.write(record.value.as_deref().unwrap_or(b""))?;
        output.write(b"\n")
    }
}

/// Records on stdout, and on stderr how many and how fast.
#[derive(Debug)]
struct Printer {
    output: Output,
    progress: Progress,
    records: u64,
}

impl Printer {
    fn flush(&mut self) -> Result<(), CliError> {
        self.output.flush()?;
        self.progress.tell(self.records);
        Ok(())
    }
}

/// True once every partition has been read up to its end.
pub(super) fn is_behind(positions: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> bool {
    ends.iter().all(|(partition, end)| positions.get(partition).is_some_and(|position| position >= end))
}

fn document(topic: &str, fetched: &Fetched) -> Value {
    let record = &fetched.record;
    let mut document = Map::new();
    document.insert("topic".into(), json!(topic));
    document.insert("partition".into(), json!(fetched.partition));
    document.insert("offset".into(), json!(fetched.offset));
    document.insert("timestamp".into(), json!(record.timestamp_ms));
    put(&mut document, "key", record.key.as_ref());
    put(&mut document, "value", record.value.as_ref());
    let header = |(name, value): &(String, Option<Bytes>)| {
        let mut header = Map::from_iter([("key".to_owned(), json!(name))]);
        put(&mut header, "value", value.as_ref());
        Value::Object(header)
    };
    document.insert("headers".into(), record.headers.iter().map(header).collect());
    Value::Object(document)
}

/// Text as it is; what is no text in hexadecimal under another name, so that nothing is lost.
fn put(document: &mut Map<String, Value>, name: &str, bytes: Option<&Bytes>) {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => document.insert(name.into(), Value::Null),
        Some((Ok(text), _)) => document.insert(name.into(), json!(text)),
        Some((Err(_), bytes)) => document.insert(format!("{name}_hex"), json!(hexadecimal(bytes))),
    };
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::batch::Record;

    #[test]
    fn a_start_is_a_place_an_offset_or_a_time() {
        assert_eq!((parse_start("beginning"), parse_start("end")), (Ok(Start::Beginning), Ok(Start::End)));
        assert_eq!(parse_start("offset:12"), Ok(Start::Offset(12)));
        assert_eq!(parse_start("@1357034400000"), Ok(Start::Time(1_357_034_400_000)));
        assert_eq!(parse_start("@2013-01-01T10:00:00Z"), Ok(Start::Time(1_357_034_400_000)));
        for wrong in ["", "12", "offset:", "offset:-1", "@", "@soon", "@-5"] {
            assert!(parse_start(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_tells_null_from_empty_and_keeps_what_is_no_text() {
        let record = Record {
            key: None,
            value: Some(Bytes::from_static(&[0xff, 0])),
            headers: vec![("h".into(), Some(Bytes::new()))],
            timestamp_ms: 5,
        };
        let document = document("t", &Fetched { partition: 1, offset: 2, record });
        let expected = json!({"topic": "t", "partition": 1, "offset": 2, "timestamp": 5, "key": null, "value_hex": "ff00",
            "headers": [{"key": "h", "value": ""}]});
        assert_eq!(document, expected);
    }
}
