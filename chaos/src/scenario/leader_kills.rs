//! Scenario 3: the leader of each partition is killed with SIGKILL, in turn, while a producer waits for every acknowledgement.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{HOME, ScenarioError, Stage, TOPIC};

/// Quiet before the first fault and after each recovery.
const CALM: Duration = Duration::from_secs(2);
/// By when a killed node must serve again: it is started a second after its death.
const BACK_DEADLINE: Duration = Duration::from_secs(30);

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let mut kills: BTreeMap<i64, u32> = BTreeMap::new();
    let until = stage.begun + stage.plan.duration;
    let mut partition = 0;
    tokio::time::sleep(CALM).await;
    while Instant::now() < until {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let Some(&leader) = leaders.get(&(partition % leaders.len().max(1))) else { break };
        let pid = stage.mesh.kill(HOME, leader)?;
        stage.fault(format!("killed node {leader} of {HOME} (process {pid}), leader of partition {}", partition % leaders.len()));
        *kills.entry(leader).or_default() += 1;
        partition += 1;
        if !stage.mesh.wait_until_back(HOME, leader, pid, BACK_DEADLINE).await? {
            stage.broken.push(format!("node {leader} did not serve again within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        tokio::time::sleep(CALM).await;
    }
    Ok(serde_json::json!({ "kills_by_node": kills }))
}
