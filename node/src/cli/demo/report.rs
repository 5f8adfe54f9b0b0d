//! What the regions hold, side by side, and whether they agree.

use super::super::CliError;
use super::super::digest::Holding;
use super::super::mesh::MeshStatus;
use super::super::output::{line, table};

/// Of a digest, when shown beside others.
const DIGEST_SHOWN: usize = 16;

#[derive(Debug)]
pub(super) struct Side {
    pub region: String,
    pub holding: Holding,
    /// The worst of all partitions; None where one is unknown, and at home.
    pub staleness_ms: Option<i64>,
}

pub(super) fn staleness(status: &MeshStatus, topic: &str, region: &str) -> Option<i64> {
    let topic = status.topics.iter().find(|known| known.topic == topic)?;
    let of_partitions = topic.partitions.iter().map(|partition| partition.mirrors.get(region).and_then(|mirror| mirror.staleness_ms));
    of_partitions.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Prints all sides; an error where they differ or hold other than was sent.
pub(super) fn tell(sent: u64, sides: &[Side]) -> Result<(), CliError> {
    let row = |(i, side): (usize, &Side)| {
        let ends: Vec<_> = side.holding.end_offsets.values().map(i64::to_string).collect();
        let staleness = match (i, side.staleness_ms) {
            (0, _) => "home".into(),
            (_, Some(ms)) => format!("{ms} ms"),
            (_, None) => "unknown".into(),
        };
        let digest: String = side.holding.digest.chars().take(DIGEST_SHOWN).collect();
        vec![side.region.clone(), side.holding.records.to_string(), ends.join(" "), digest, staleness]
    };
    let rows: Vec<_> = sides.iter().enumerate().map(row).collect();
    line(format_args!("\n{}", table(&["region", "records", "end offsets", "digest", "staleness"], &rows)))?;
    let agree = sides.iter().all(|side| side.holding == sides[0].holding && side.holding.records == sent);
    if !agree {
        return Err(CliError::Demo(format!("the regions do not hold the same {sent} records")));
    }
    line("All regions hold the same records at the same offsets.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(region: &str, records: u64, digest: &str) -> Side {
        let holding = Holding { records, end_offsets: [(0, records as i64)].into(), digest: digest.into(), partitions: [].into() };
        Side { region: region.into(), holding, staleness_ms: None }
    }

    #[test]
    fn regions_that_differ_fail_the_demonstration() {
        assert!(tell(5, &[side("us", 5, "a"), side("eu", 5, "a")]).is_ok());
        assert!(tell(5, &[side("us", 5, "a"), side("eu", 5, "b")]).is_err());
        assert!(tell(6, &[side("us", 5, "a"), side("eu", 5, "a")]).is_err());
    }
}
