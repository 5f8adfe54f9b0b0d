//! Scenarios 17 and 18: a leader's disk answers every write and sync with an error, and disks are full for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::shim::DiskFault;
use super::{HOME, ScenarioError, Stage, TOPIC};

const CALM: Duration = Duration::from_secs(2);
const BACK_DEADLINE: Duration = Duration::from_secs(30);
/// By when a node whose disk fails must have ended.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How long a disk is full, and how long a node may need to say so and to take data again.
const FULL: Duration = Duration::from_secs(4);
const SAY_DEADLINE: Duration = Duration::from_secs(5);

/// Fail-stop: the node ends, others lead, and it serves again once its disk works.
pub async fn error(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let mut ended_after_ms = Vec::new();
    tokio::time::sleep(CALM).await;
    while Instant::now() < until {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let number = ended_after_ms.len() % leaders.len().max(1);
        let Some(&leader) = leaders.get(&number) else { break };
        let Some(pid) = stage.mesh.pid(HOME, leader)? else { break };
        stage.shim()?.begin(pid, DiskFault::Error)?;
        let failed = Instant::now();
        stage.fault(format!("every write and sync of node {leader} of {HOME} (process {pid}) fails from now on"));
        if tokio::time::timeout(END_DEADLINE, stage.mesh.wait_until_dead(pid)).await.is_err() {
            stage.broken.push(format!("node {leader} goes on {} s after its disk failed", END_DEADLINE.as_secs()));
            break;
        }
        ended_after_ms.push(failed.elapsed().as_millis());
        if !stage.shim()?.bit(pid) {
            stage.broken.push("nothing was refused".into());
        }
        if !stage.mesh.wait_until_back(HOME, leader, pid, BACK_DEADLINE).await? {
            stage.broken.push(format!("node {leader} did not serve again within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        tokio::time::sleep(CALM).await;
    }
    Ok(serde_json::json!({ "ended_after_ms": ended_after_ms }))
}

/// First one node, then all of the region: new data is refused, nobody ends, and everything goes on by itself.
pub async fn full(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let everybody = stage.mesh.nodes(HOME);
    let mut windows = 0;
    tokio::time::sleep(CALM).await;
    while Instant::now() < until || windows < 2 {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let one: Vec<i64> = leaders.get(&(windows % leaders.len().max(1))).copied().into_iter().collect();
        let nodes = if windows % 2 == 0 { &one } else { &everybody };
        fill(stage, nodes).await?;
        windows += 1;
        tokio::time::sleep(CALM).await;
    }
    Ok(serde_json::json!({ "windows": windows }))
}

async fn fill(stage: &mut Stage, nodes: &[i64]) -> Result<(), ScenarioError> {
    let mut pids = Vec::new();
    for node in nodes {
        let pid = stage.mesh.pid(HOME, *node)?.ok_or_else(|| ScenarioError::Failed(format!("node {node} does not run")))?;
        stage.shim()?.begin(pid, DiskFault::Full)?;
        pids.push(pid);
    }
    stage.fault(format!("the disks of nodes {nodes:?} of {HOME} are full"));
    says(stage, nodes, true).await?;
    tokio::time::sleep(FULL).await;
    for pid in &pids {
        stage.shim()?.end(*pid)?;
    }
    stage.fault(format!("there is space again for nodes {nodes:?} of {HOME}"));
    says(stage, nodes, false).await?;
    for (node, pid) in nodes.iter().zip(pids) {
        if stage.mesh.pid(HOME, *node)? != Some(pid) {
            stage.broken.push(format!("node {node} ended because its disk was full"));
        }
    }
    Ok(())
}

/// Waits until each of the nodes says that its disk is full, or says it no more.
async fn says(stage: &mut Stage, nodes: &[i64], full: bool) -> Result<(), ScenarioError> {
    let until = Instant::now() + SAY_DEADLINE;
    for node in nodes {
        while stage.mesh.readiness(HOME, *node).await?.contains("nearly full") != full {
            if Instant::now() > until {
                stage.broken.push(format!("node {node} does not say that its disk is {}full", if full { "" } else { "no longer " }));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}
