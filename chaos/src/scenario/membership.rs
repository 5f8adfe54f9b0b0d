//! Scenario 24: under load every node of the home region is replaced. New processes join, are given partitions by drains (one of them taken back
//! on its way), and one node is killed for good, its folder gone, and removed by force. In the end none of the nodes is left that the other
//! regions' configuration names, all of them have been restarted, and their mirrors follow still.

use std::time::Duration;

use tokio::time::Instant;

use super::newcomer::Newcomer;
use super::{HOME, ScenarioError, Stage};

const CALM: Duration = Duration::from_secs(2);
/// By when a node has come, gone, or given away what it held.
const DEADLINE: Duration = Duration::from_secs(120);

/// A line of `meridian node list`.
#[derive(Debug, serde::Deserialize)]
struct Listed {
    id: i64,
    state: String,
    live: bool,
    votes: bool,
    replicas: usize,
}

#[derive(Debug, serde::Deserialize)]
struct Region {
    nodes: Vec<Listed>,
    moves: Vec<serde_json::Value>,
}

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    tokio::time::sleep(CALM).await;
    let quiet = stage.producer.waited().await?;
    stage.joins(4).await?;
    let turned_back = stage.drain_is_taken_back(2).await?;
    let first = stage.leaves(1).await?;
    // Three are left for three replicas.
    stage.is_refused(&["node", "drain", "2"], "add a node first").await?;
    stage.joins(5).await?;
    stage.dies_for_good(3).await?;
    stage.joins(6).await?;
    let second = stage.leaves(2).await?;
    stage.fault("restarting meridian dev: every node of the mirrors has to find the home's new nodes by what its own region knows".into());
    let dir = stage.plan.dir.clone();
    stage.mesh.restart(&dir).await?;
    stage.fault("meridian dev has started again, and does not wait for nodes that were removed".into());
    tokio::time::sleep(CALM).await;
    let region = stage.region().await?;
    let left: Vec<i64> = region.nodes.iter().filter(|node| node.state == "serving").map(|node| node.id).collect();
    if left != [4, 5, 6] {
        stage.broken.push(format!("nodes 4, 5 and 6 should be left: {region:?}"));
    }
    let waited = stage.producer.waited().await?;
    eprintln!("            at rest: {quiet}");
    if waited.failed + waited.unknown > 0 {
        stage.broken.push(format!("records failed while nodes were replaced: {waited}"));
    }
    Ok(serde_json::json!({
        "partitions_under_way_when_a_drain_was_taken_back": turned_back, "drains": [first, second], "before": quiet, "failed": waited.failed, "unknown": waited.unknown,
    }))
}

impl Stage {
    async fn node_command(&self, arguments: &[&str]) -> Result<String, ScenarioError> {
        self.mesh.command_on(&[HOME], arguments, DEADLINE).await
    }

    async fn region(&self) -> Result<Region, ScenarioError> {
        let told = self.node_command(&["node", "list", "--format", "json"]).await?;
        serde_json::from_str(&told).map_err(|error| ScenarioError::Failed(format!("node list: {error}")))
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Region) -> bool) -> Result<(), ScenarioError> {
        let begun = Instant::now();
        loop {
            // A node that has just died is asked, too.
            let region = self.region().await;
            if region.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if begun.elapsed() > DEADLINE {
                return Err(ScenarioError::Failed(format!("not within {} s: {what}; {region:?}", DEADLINE.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The command must fail, and say that.
    async fn is_refused(&mut self, arguments: &[&str], words: &str) -> Result<(), ScenarioError> {
        match self.node_command(arguments).await {
            Err(ScenarioError::Failed(said)) if said.contains(words) => {}
            other => self.broken.push(format!("meridian {} should have been refused with {words:?}: {other:?}", arguments.join(" "))),
        }
        Ok(())
    }

    /// A new process: refused before it is admitted, then part of the region.
    async fn joins(&mut self, id: i64) -> Result<(), ScenarioError> {
        let mut newcomer = Newcomer::equip(&self.mesh, HOME, id, self.plan.dir.join(format!("node-{id}"))).await?;
        newcomer.start()?;
        self.fault(format!("started a new process as node {id} of {HOME}, which the region does not know"));
        let (add, begun) = (format!("meridian node add {id}"), Instant::now());
        while !newcomer.log().contains(&add) {
            if begun.elapsed() > DEADLINE {
                return Err(ScenarioError::Failed(format!("node {id} does not say that it needs {add:?}: {}", newcomer.log())));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.mesh.adopt(newcomer)?;
        let number = id.to_string();
        self.node_command(&["node", "add", &number]).await?;
        self.fault(format!("admitted node {id}"));
        self.until("the new node serves", |region| region.nodes.iter().any(|node| node.id == id && node.state == "serving" && node.live))
            .await
    }

    /// Drains a node, takes that back at once, and says how many partitions were on their way.
    async fn drain_is_taken_back(&mut self, id: i64) -> Result<usize, ScenarioError> {
        let number = id.to_string();
        self.node_command(&["node", "drain", &number, "--no-wait"]).await?;
        self.fault(format!("drained node {id}"));
        let (begun, mut moving) = (Instant::now(), 0);
        while moving == 0 && begun.elapsed() < CALM {
            moving = self.region().await?.moves.len();
        }
        self.node_command(&["node", "drain", &number, "--cancel"]).await?;
        self.fault(format!("took that back: {moving} partitions were under way"));
        let back = |region: &Region| region.moves.is_empty() && region.nodes.iter().any(|node| node.id == id && node.state == "serving");
        self.until("nothing moves any more", back).await?;
        tokio::time::sleep(CALM).await;
        let region = self.region().await?;
        if !back(&region) {
            self.broken.push(format!("node {id} is drained though that was taken back: {region:?}"));
        }
        Ok(moving)
    }

    /// Drains a node, with progress, and removes it: its process ends by itself, and what `meridian dev` starts in its place waits.
    async fn leaves(&mut self, id: i64) -> Result<serde_json::Value, ScenarioError> {
        let number = id.to_string();
        self.is_refused(&["node", "remove", &number], "drain it first").await?;
        let pid = self.mesh.pid(HOME, id)?.ok_or_else(|| ScenarioError::Failed(format!("node {id} does not run")))?;
        self.producer.waited().await?;
        let begun = Instant::now();
        self.fault(format!("draining node {id} of {HOME}"));
        let progress = self.node_command(&["node", "drain", &number]).await?;
        let (took_ms, lines) = (begun.elapsed().as_millis(), progress.lines().count());
        progress.lines().for_each(|line| eprintln!("            {line}"));
        let waited = self.producer.waited().await?;
        eprintln!("            drained in {took_ms} ms; {waited}");
        if lines < 2 || !progress.contains("holds nothing") {
            self.broken.push(format!("the drain of node {id} told no progress: {progress:?}"));
        }
        self.node_command(&["node", "remove", &number]).await?;
        self.fault(format!("removed node {id} of {HOME}, drained in {took_ms} ms"));
        let ended = tokio::time::timeout(DEADLINE, self.mesh.wait_until_dead(pid)).await;
        ended.map_err(|_| ScenarioError::Failed(format!("the process {pid} of the removed node {id} did not end")))??;
        self.until("the removed node has no vote", |region| !region.nodes.iter().any(|node| node.id == id && node.votes)).await?;
        Ok(serde_json::json!({ "node": id, "ms": took_ms, "progress": lines, "waited": waited }))
    }

    /// Kill -9, and the folder with everything is gone: the node is removed by force, and its replicas are made anew elsewhere.
    async fn dies_for_good(&mut self, id: i64) -> Result<(), ScenarioError> {
        let number = id.to_string();
        self.is_refused(&["node", "remove", &number, "--force"], "lives: drain it").await?;
        // What starts dead nodes again must not.
        self.mesh.hold_restarts(true)?;
        let pid = self.mesh.kill(HOME, id)?;
        self.fault(format!("killed node {id} of {HOME} (process {pid}) for good, with its data folder"));
        self.mesh.wait_until_dead(pid).await?;
        std::fs::remove_dir_all(self.mesh.data(HOME, id)?).map_err(super::io("a data folder"))?;
        let begun = Instant::now();
        // By the folder of the development mesh, which then knows not to wait for it at its next start.
        while let Err(error) = self.mesh.command(&["node", "remove", &number, "--force", "--region", HOME]).await {
            if begun.elapsed() > DEADLINE {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.fault(format!("removed node {id} by force"));
        let replaced = |region: &Region| {
            let of = |id: i64| region.nodes.iter().find(|node| node.id == id);
            region.moves.is_empty()
                && of(id).is_none_or(|node| node.replicas == 0 && !node.votes)
                && of(5).is_some_and(|node| node.replicas > 0)
        };
        self.until("its replicas have been made anew", replaced).await?;
        self.fault(format!("what node {id} held is complete again elsewhere"));
        self.mesh.hold_restarts(false)
    }
}
