//! `meridian digest TOPIC`: everything a topic holds in one region, as one number that another region's can be compared with.

use std::collections::BTreeMap;

use clap::Args;
use sha2::{Digest as _, Sha256};

use super::consume::{hexadecimal, is_behind};
use super::output::{Format, json, line, table};
use super::region::Target;
use super::{CliError, block_on};
use crate::client::batch::Fetched;
use crate::client::fetch::{Consumer, Start};
use crate::client::{ClientError, Cluster};

#[derive(Debug, Args)]
pub(super) struct Digest {
    /// The topic
    topic: String,
    /// A table for people, or JSON for programs
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// What a topic holds from its beginning to what was its end when reading began.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Holding {
    pub records: u64,
    pub end_offsets: BTreeMap<i32, i64>,
    /// SHA-256 over the partitions' digests in order, in hexadecimal.
    pub digest: String,
    pub partitions: BTreeMap<i32, String>,
}

impl Digest {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = self.target.connect()?;
        let holding = block_on(async { Ok(read(cluster, &self.topic).await?) })?;
        if self.format == Format::Json {
            return json(&holding);
        }
        let row = |(partition, digest): (&i32, &String)| {
            let end = holding.end_offsets.get(partition).map_or_else(String::new, i64::to_string);
            vec![partition.to_string(), end, digest.clone()]
        };
        let rows: Vec<_> = holding.partitions.iter().map(row).collect();
        line(format_args!("{} records, digest {}\n", holding.records, holding.digest))?;
        line(table(&["partition", "end offset", "digest"], &rows).trim_end())
    }
}

pub(super) async fn read(cluster: Cluster, topic: &str) -> Result<Holding, ClientError> {
    let mut consumer = Consumer::open(cluster, topic, None, Start::Beginning).await?;
    let ends = consumer.end_offsets().await?;
    let mut hashes: BTreeMap<i32, Sha256> = ends.keys().map(|partition| (*partition, Sha256::new())).collect();
    let mut records = 0;
    while !is_behind(consumer.positions(), &ends) {
        for fetched in consumer.poll().await? {
            let is_within = ends.get(&fetched.partition).is_some_and(|end| fetched.offset < *end);
            if let Some(hash) = hashes.get_mut(&fetched.partition).filter(|_| is_within) {
                add(hash, &fetched);
                records += 1;
            }
        }
    }
    let partitions: BTreeMap<i32, String> =
        hashes.into_iter().map(|(partition, hash)| (partition, hexadecimal(&hash.finalize()))).collect();
    let mut whole = Sha256::new();
    for (partition, digest) in &partitions {
        whole.update(format!("{partition}:{digest}\n"));
    }
    Ok(Holding { records, end_offsets: ends, digest: hexadecimal(&whole.finalize()), partitions })
}

/// Offset, key and value, each with its length, so that no two different records add the same bytes.
fn add(hash: &mut Sha256, fetched: &Fetched) {
    hash.update(fetched.offset.to_be_bytes());
    for part in [&fetched.record.key, &fetched.record.value] {
        match part {
            Some(bytes) => {
                hash.update((bytes.len() as i64).to_be_bytes());
                hash.update(bytes);
            }
            None => hash.update((-1i64).to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::client::batch::Record;

    fn of(offset: i64, key: Option<&'static str>, value: Option<&'static str>) -> String {
        let record = Record { key: key.map(Bytes::from), value: value.map(Bytes::from), ..Record::default() };
        let mut hash = Sha256::new();
        add(&mut hash, &Fetched { partition: 0, offset, record });
        hexadecimal(&hash.finalize())
    }

    #[test]
    fn records_that_differ_anywhere_have_different_digests() {
        let all = [
            of(0, Some("a"), Some("b")),
            of(1, Some("a"), Some("b")),
            of(0, Some("ab"), Some("")),
            of(0, Some(""), Some("ab")),
            of(0, None, Some("ab")),
            of(0, Some("ab"), None),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "{i}");
        }
        assert_eq!(of(0, None, None), of(0, None, None));
    }
}
