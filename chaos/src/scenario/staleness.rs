//! No fault, but oceans: how old mirrors say they are under load, with no delay and with 40 and 120 ms each way between the regions.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::mesh::Mesh;
use super::{HOME, PARTITIONS, Plan, Report, ScenarioError, TOPIC};
use crate::check::Verdict;

/// Delays each way between any two regions.
const ONE_WAY_MS: [i64; 3] = [0, 40, 120];
/// Before samples count: links, leaders and congestion windows settle.
const SETTLE: Duration = Duration::from_secs(3);
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// What the slowest hundredth may be beyond the delay, on a machine that does nothing else: three heartbeats.
const BEYOND_P99_MS_MAX: i64 = 300;

/// Milliseconds beyond the one-way delay, over all mirrored partitions.
#[derive(Debug, serde::Serialize)]
struct Beyond {
    samples: usize,
    p50_ms: i64,
    p99_ms: i64,
    max_ms: i64,
}

pub async fn run(plan: Plan, client: Client) -> Result<Report, ScenarioError> {
    let mut broken = Vec::new();
    let mut observed = BTreeMap::new();
    for one_way_ms in ONE_WAY_MS {
        let round_trip = one_way_ms * 2;
        let rtt = format!("us-eu={round_trip}ms,us-asia={round_trip}ms,eu-asia={round_trip}ms");
        let oceans: &[&str] = if one_way_ms == 0 { &[] } else { &["--rtt", &rtt] };
        let dir = plan.dir.join(format!("{one_way_ms}ms"));
        std::fs::create_dir_all(&dir).map_err(super::io("scenario folder"))?;
        let mesh = Mesh::start(&plan.binary, &dir, oceans).await?;
        mesh.create_topic(TOPIC, HOME, PARTITIONS).await?;
        let producer = client.produce(&mesh, HOME, TOPIC, plan.rate)?;
        tokio::time::sleep(SETTLE).await;
        let mut samples = sample(&mesh, plan.duration, &mut broken).await?;
        producer.finish().await?;
        mesh.stop().await?;
        samples.iter_mut().for_each(|sample| *sample -= one_way_ms);
        samples.sort_unstable();
        let at = |share: f64| samples.get((samples.len() as f64 * share) as usize).or(samples.last()).copied().unwrap_or(i64::MAX);
        let beyond = Beyond { samples: samples.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) };
        eprintln!("{one_way_ms} ms each way: {beyond:?}");
        if samples.is_empty() || beyond.p99_ms > BEYOND_P99_MS_MAX {
            broken.push(format!("{one_way_ms} ms each way: {beyond:?}"));
        }
        observed.insert(format!("{one_way_ms}ms"), beyond);
    }
    let (observed, workload) = (serde_json::json!(observed), serde_json::json!({ "records_per_second": plan.rate }));
    let report =
        Report { scenario: format!("{:?}", plan.scenario), faults: Vec::new(), workload, observed, verdict: Verdict::default(), broken };
    report.write(&plan)?;
    Ok(report)
}

async fn sample(mesh: &Mesh, duration: Duration, broken: &mut Vec<String>) -> Result<Vec<i64>, ScenarioError> {
    let begun = Instant::now();
    let (mut samples, mut unknown) = (Vec::new(), 0);
    while begun.elapsed() < duration {
        match mesh.all_staleness_ms(TOPIC).await? {
            Some(told) => samples.extend(told),
            None => unknown += 1,
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    if unknown > 0 {
        broken.push(format!("staleness was unknown {unknown} times though nothing was cut"));
    }
    Ok(samples)
}
