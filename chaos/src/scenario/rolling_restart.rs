//! Scenario 25: every node of the home region is ended by SIGTERM and started again, one after the other, as an upgrade does it. Leaderships are
//! handed over before a process ends, so no record may fail, and none may wait for an election.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::{HOME, PARTITIONS, ScenarioError, Stage, TOPIC};

/// By when a node that was ended serves again, its replicas have caught up, and it leads its share again.
const BACK_DEADLINE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(2);
/// A record that waits longer has waited for something else than a hand-over. On a machine that does nothing else, 100 ms is the goal.
const WAIT_MS_MAX: f64 = 1_000.0;

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let nodes = stage.mesh.nodes(HOME);
    let Some(shares) = until_all_lead(stage, &nodes).await? else { return Ok(serde_json::Value::Null) };
    tokio::time::sleep(CALM).await;
    let quiet = stage.producer.waited().await?;
    let mut restarts = Vec::new();
    let until = stage.begun + stage.plan.duration;
    // Every node once, whatever the time; then again while there is time.
    for node in nodes.iter().cycle().copied() {
        if restarts.len() >= nodes.len() && Instant::now() >= until {
            break;
        }
        let began = Instant::now();
        let pid = stage.mesh.signal(HOME, node, Signal::TERM)?;
        stage.fault(format!("told node {node} of {HOME} (process {pid}) to end"));
        stage.mesh.wait_until_dead(pid).await?;
        let ended_ms = began.elapsed().as_millis();
        if !stage.mesh.wait_until_back(HOME, node, pid, BACK_DEADLINE).await? || !caught_up(stage, &shares).await? {
            stage.broken.push(format!("node {node} was not what it had been within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        tokio::time::sleep(CALM).await;
        let waited = stage.producer.waited().await?;
        let line = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        eprintln!(
            "            node {node}: ended after {ended_ms} ms, whole after {:.1} s; {} acknowledged, {} failed; waits p50 {}, p99 {}, longest {}",
            began.elapsed().as_secs_f64(),
            waited.acked,
            waited.failed + waited.unknown,
            line(waited.p50_ms),
            line(waited.p99_ms),
            line(waited.longest_wait_ms),
        );
        if waited.failed + waited.unknown > 0 {
            stage.broken.push(format!("records failed while node {node} was restarted: {waited:?}"));
        }
        if waited.longest_wait_ms.is_none_or(|ms| ms > WAIT_MS_MAX) {
            stage.broken.push(format!("a record waited longer than a hand-over takes while node {node} was restarted: {waited:?}"));
        }
        restarts.push(serde_json::json!({ "node": node, "ended_ms": ended_ms, "waited": waited }));
    }
    Ok(serde_json::json!({ "before": quiet, "restarts": restarts }))
}

/// Who leads what, once every node leads something: the preferred replicas do.
async fn until_all_lead(stage: &mut Stage, nodes: &[i64]) -> Result<Option<BTreeMap<usize, i64>>, ScenarioError> {
    let until = Instant::now() + BACK_DEADLINE;
    while Instant::now() < until {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let leads = |node: &i64| leaders.values().filter(|leader| *leader == node).count();
        if nodes.iter().all(|node| leads(node) == PARTITIONS / nodes.len()) {
            return Ok(Some(leaders));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stage.broken.push("the leaderships were not spread over the nodes".into());
    Ok(None)
}

/// All replicas are in sync, and everybody leads what it led.
async fn caught_up(stage: &Stage, shares: &BTreeMap<usize, i64>) -> Result<bool, ScenarioError> {
    let until = Instant::now() + BACK_DEADLINE;
    while Instant::now() < until {
        let behind = stage.mesh.under_replicated(HOME).await?;
        if behind == Some(0.0) && stage.client.leaders(&stage.mesh, HOME, TOPIC).await? == *shares {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(false)
}
