//! Scenario 5: leaders are stopped (SIGSTOP) beyond the election timeout, so that others lead, and go on: a zombie acknowledges nothing.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::{HOME, ScenarioError, Stage, TOPIC};

const CALM: Duration = Duration::from_secs(2);
/// Well beyond the election timeout.
const PAUSED: Duration = Duration::from_secs(3);

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let (mut partition, mut deposed) = (0, 0);
    tokio::time::sleep(CALM).await;
    while Instant::now() < until {
        let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        let number = partition % leaders.len().max(1);
        let Some(&leader) = leaders.get(&number) else { break };
        let pid = stage.mesh.signal(HOME, leader, Signal::STOP)?;
        stage.fault(format!("stopped node {leader} of {HOME} (process {pid}), leader of partition {number}"));
        tokio::time::sleep(PAUSED).await;
        stage.mesh.signal(HOME, leader, Signal::CONT)?;
        stage.fault(format!("let node {leader} of {HOME} go on"));
        let now = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
        deposed += u32::from(now.get(&number).is_some_and(|now| *now != leader));
        partition += 1;
        tokio::time::sleep(CALM).await;
    }
    if deposed == 0 {
        stage.broken.push("no pause was long enough for another leader".into());
    }
    Ok(serde_json::json!({ "pauses": partition, "leaders_deposed": deposed }))
}
