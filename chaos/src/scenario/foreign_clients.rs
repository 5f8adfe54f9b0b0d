//! The flights by two client families that nobody here wrote: what one wrote the other reads, the same at every offset in every region, and
//! a consumer group goes on where it committed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::client::{Client, Digest};
use super::java::Java;
use super::mesh::Mesh;
use super::{HOME, Plan, Report, ScenarioError, catch_up};
use crate::check::Verdict;

const PARTITIONS: usize = 4;
const BY_LIBRDKAFKA: &str = "flights-librdkafka";
const BY_JAVA: &str = "flights-java";

pub async fn run(plan: Plan, librdkafka: Client) -> Result<Report, ScenarioError> {
    let mesh = Mesh::start(&plan.binary, &plan.dir, &[]).await?;
    let java = Java::prepare(&plan.dir, properties(&mesh, HOME), mesh.token())?;
    let mut broken = Vec::new();
    let mut observed = BTreeMap::new();
    for topic in [BY_LIBRDKAFKA, BY_JAVA] {
        mesh.create_topic(topic, HOME, PARTITIONS).await?;
        let loaded = match topic {
            BY_JAVA => java.load(topic, &plan.flights).await?,
            _ => librdkafka.load(&mesh, HOME, topic, &plan.flights).await?,
        };
        eprintln!("{topic}: {} acknowledged, {} failed", loaded.acked, loaded.failed);
        if loaded.acked == 0 || loaded.failed > 0 {
            broken.push(format!("{topic}: {loaded:?}"));
        }
        catch_up(&mesh, topic, &mut broken).await?;
        let seen = compare(&mesh, &librdkafka, &java, topic, loaded.acked, &mut broken).await?;
        observed.insert(topic.to_owned(), serde_json::json!(seen));
        for region in mesh.regions() {
            let java = java.with(properties(&mesh, region));
            for (family, resumed) in [
                ("librdkafka", librdkafka.resume(&mesh, region, topic, loaded.acked).await?),
                ("java", java.resume(topic, loaded.acked).await?),
            ] {
                if (resumed.read, resumed.distinct) != (loaded.acked, loaded.acked) {
                    broken.push(format!("{topic} in {region}: a group of {family} read {resumed:?} over its two lives"));
                }
            }
        }
    }
    mesh.stop().await?;
    let observed = serde_json::json!(observed);
    let workload = serde_json::Value::Null;
    let report =
        Report { scenario: format!("{:?}", plan.scenario), faults: Vec::new(), workload, observed, verdict: Verdict::default(), broken };
    report.write(&plan)?;
    Ok(report)
}

fn properties(mesh: &Mesh, region: &str) -> PathBuf {
    mesh.dir().join(region).join("client.properties")
}

/// Both families must see the same records at the same offsets, everywhere.
async fn compare(
    mesh: &Mesh,
    librdkafka: &Client,
    java: &Java,
    topic: &str,
    records: u64,
    broken: &mut Vec<String>,
) -> Result<BTreeMap<String, Digest>, ScenarioError> {
    let mut seen = BTreeMap::new();
    for region in mesh.regions() {
        seen.insert(format!("{region} by librdkafka"), librdkafka.digest(mesh, region, topic).await?);
        seen.insert(format!("{region} by java"), java.with(properties(mesh, region)).digest(topic).await?);
    }
    for (who, digest) in &seen {
        eprintln!("{topic}: {who}: {} records, {}", digest.records, &digest.digest[..16.min(digest.digest.len())]);
        if digest.records != records || Some(digest) != seen.values().next() {
            broken.push(format!("{topic}: {who} read {digest:?}, {records} records were acknowledged"));
        }
    }
    Ok(seen)
}
