//! Scenario 15: bits flip in the logs of one node while it is down. It must find that, serve none of it, and be repaired by its peers.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{HOME, ScenarioError, Stage, TOPIC, io};

const CALM: Duration = Duration::from_secs(3);
const BACK_DEADLINE: Duration = Duration::from_secs(30);
const REPAIR_DEADLINE: Duration = Duration::from_secs(30);
/// Behind the segment's header and inside of the first batches, which every segment of a busy topic has.
const FLIPPED_AT: u64 = 700;
/// A log smaller than this holds no batch worth a flip.
const LOG_BYTES_MIN: u64 = 4096;

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let nodes = stage.mesh.nodes(HOME);
    let (mut rounds, mut flips, mut repaired) = (0, 0, 0);
    tokio::time::sleep(CALM).await;
    while Instant::now() < until || rounds == 0 {
        let node = nodes[rounds % nodes.len()];
        rounds += 1;
        stage.mesh.hold_restarts(true)?;
        let pid = stage.mesh.kill(HOME, node)?;
        stage.mesh.wait_until_dead(pid).await?;
        let flipped = flip(&stage.mesh.data(HOME, node)?.join("logs"))?;
        stage.mesh.hold_restarts(false)?;
        stage.fault(format!("flipped one bit in each of {flipped} logs of node {node} of {HOME}, which was down"));
        flips += flipped;
        if !stage.mesh.wait_until_back(HOME, node, pid, BACK_DEADLINE).await? {
            stage.broken.push(format!("node {node} did not serve again within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        let begun = Instant::now();
        let mut mended = 0;
        while mended < flipped && begun.elapsed() < REPAIR_DEADLINE {
            mended = stage.mesh.metric(HOME, node, "meridian_replicas_repaired_total").await?.unwrap_or(0.0) as usize;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if mended < flipped {
            stage.broken.push(format!("of {flipped} damaged replicas of node {node} only {mended} were repaired"));
        }
        repaired += mended;
        tokio::time::sleep(CALM).await;
    }
    if flips == 0 {
        stage.broken.push("no bit was flipped".into());
    }
    let leaders = stage.client.leaders(&stage.mesh, HOME, TOPIC).await?;
    Ok(serde_json::json!({ "rounds": rounds, "bits_flipped": flips, "replicas_repaired": repaired, "leaders": leaders }))
}

/// One bit in the first segment of every log that holds something.
fn flip(logs: &Path) -> Result<usize, ScenarioError> {
    let mut flipped = 0;
    for folder in std::fs::read_dir(logs).map_err(io("logs"))? {
        let folder = folder.map_err(io("logs"))?.path();
        // The controller's group has a nil topic; its log is repaired by other means.
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("00000000-0000-0000")) {
            continue;
        }
        let mut segments: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io("a log"))? {
            segments.push(entry.map_err(io("a log"))?.path());
        }
        segments.retain(|path| path.extension().is_some_and(|end| end == "log"));
        segments.sort();
        let Some(first) = segments.first() else { continue };
        let file = std::fs::OpenOptions::new().read(true).write(true).open(first).map_err(io("a segment"))?;
        let mut around = [0; 64];
        let length = file.metadata().map_err(io("a segment"))?.len();
        // What is reserved and not written is zeros: a flip there harms nobody.
        let holds =
            length >= LOG_BYTES_MIN && file.read_at(&mut around, LOG_BYTES_MIN - 64).is_ok() && around.iter().any(|byte| *byte != 0);
        if holds {
            let mut byte = [0];
            file.read_exact_at(&mut byte, FLIPPED_AT).map_err(io("a segment"))?;
            byte[0] ^= 0x10;
            file.write_all_at(&byte, FLIPPED_AT).map_err(io("a segment"))?;
            flipped += 1;
        }
    }
    Ok(flipped)
}
