//! Scenario 25: every node of the home region is ended by SIGTERM and started again, one after the other, as an upgrade does it. Leaderships are
//! handed over before a process ends, so no record may fail, and none may wait for an election.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::{HOME, PARTITIONS, ScenarioError, Stage, TOPIC};

/// By when a node that was ended serves again and its replicas have caught up, and by when it leads its share again.
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
        if !stage.mesh.wait_until_back(HOME, node, pid, BACK_DEADLINE).await? || !stage.mesh.comes_in_sync(HOME, BACK_DEADLINE).await? {
            stage.broken.push(format!("node {node} was not what it had been within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        let (whole_ms, left) = (began.elapsed().as_millis(), stage.producer.waited().await?);
        eprintln!("            it ended after {ended_ms} ms, and is whole after {whole_ms} ms; {left}");
        let elected = leads_again(stage, &shares).await?;
        let given_back = stage.producer.waited().await?;
        eprintln!("            its leaderships are given back ({elected} by ElectLeaders); {given_back}");
        for waited in [&left, &given_back] {
            if waited.failed + waited.unknown > 0 {
                stage.broken.push(format!("records failed while node {node} was restarted: {waited}"));
            }
            if waited.longest_wait_ms.is_none_or(|ms| ms > WAIT_MS_MAX) {
                stage.broken.push(format!("a record waited longer than a hand-over takes while node {node} was restarted: {waited}"));
            }
        }
        let restart = serde_json::json!({
            "node": node, "ended_ms": ended_ms, "whole_ms": whole_ms, "left": left, "elected": elected, "given_back": given_back,
        });
        restarts.push(restart);
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

/// Asks for the preferred leaders until everybody leads what it led; returns how many partitions changed theirs by that.
async fn leads_again(stage: &mut Stage, shares: &BTreeMap<usize, i64>) -> Result<usize, ScenarioError> {
    let (until, mut elected) = (Instant::now() + BACK_DEADLINE, 0);
    loop {
        elected += stage.client.elect(&stage.mesh, HOME, TOPIC).await?.elected;
        let now = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        if now == *shares {
            tokio::time::sleep(CALM).await;
            return Ok(elected);
        }
        if Instant::now() > until {
            stage.broken.push(format!("the leaderships were not given back: {now:?}, not {shares:?}"));
            return Ok(elected);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
