//! Scenarios 11 and 13: a leader loses power, then a whole region at once: the processes die by SIGKILL, and what they had not synced is taken
//! back from their files before they start again.

use std::time::Duration;

use tokio::time::Instant;

use super::shim::DiskFault;
use super::{HOME, ScenarioError, Stage, TOPIC};

/// How long syncs are slow before the power goes.
const SLOW: Duration = Duration::from_millis(500);
const CALM: Duration = Duration::from_secs(2);
const BACK_DEADLINE: Duration = Duration::from_secs(30);

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let everybody = stage.mesh.nodes(HOME);
    let (mut cuts, mut lost) = (0, 0);
    tokio::time::sleep(CALM).await;
    while Instant::now() < until || cuts < 2 {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let one: Vec<i64> = leaders.get(&(cuts % leaders.len().max(1))).copied().into_iter().collect();
        lost += cut(stage, if cuts % 2 == 0 { &one } else { &everybody }).await?;
        cuts += 1;
        tokio::time::sleep(CALM).await;
    }
    if lost == 0 {
        stage.broken.push("no power cut lost anything".into());
    }
    Ok(serde_json::json!({ "power_cuts": cuts, "unsynced_changes_lost": lost }))
}

/// Cuts the power of all these nodes at once. Returns how many changes were lost.
async fn cut(stage: &mut Stage, nodes: &[i64]) -> Result<usize, ScenarioError> {
    // So that at most moments something is written and not synced.
    for node in nodes {
        if let Some(pid) = stage.mesh.pid(HOME, *node)? {
            stage.shim()?.begin(pid, DiskFault::Slow)?;
        }
    }
    tokio::time::sleep(SLOW).await;
    // Nobody starts them again before their files are as after a power cut.
    stage.mesh.hold_restarts(true)?;
    let mut dead = Vec::new();
    for node in nodes {
        dead.push((*node, stage.mesh.kill(HOME, *node)?));
    }
    let mut changes = 0;
    for (node, pid) in &dead {
        stage.mesh.wait_until_dead(*pid).await?;
        changes += stage.shim()?.lose_unsynced(*pid, stage.mesh.data(HOME, *node)?)?;
    }
    stage.mesh.hold_restarts(false)?;
    stage.fault(format!("cut the power of nodes {nodes:?} of {HOME}: {changes} un-synced changes are lost"));
    for (node, pid) in dead {
        if !stage.mesh.wait_until_back(HOME, node, pid, BACK_DEADLINE).await? {
            stage.broken.push(format!("node {node} did not serve again within {} s", BACK_DEADLINE.as_secs()));
        }
    }
    Ok(changes)
}
