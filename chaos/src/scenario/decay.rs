//! Scenarios 15 and 16, of files as wholes: while a node is down its segments are cut or deleted, its logs deleted, its meta log flipped, deleted or
//! put back from a copy, or its whole folder is. It must find that, serve none of it, and be made good by its peers. `bit_flip` does the same to
//! single bits of logs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{HOME, ScenarioError, Stage, io};

/// Longer than nodes need to tell each other how far they are: what a copy lacks of the last second, nobody can notice.
const CALM: Duration = Duration::from_secs(3);
const BACK_DEADLINE: Duration = Duration::from_secs(40);
/// A log smaller than this holds no batch worth damaging.
const LOG_BYTES_MIN: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decay {
    SegmentsCut,
    SegmentsDeleted,
    LogsDeleted,
    MetaLogFlipped,
    MetaLogDeleted,
    MetaLogOld,
    FolderOld,
    FolderEmpty,
}

const DECAYS: [Decay; 8] = [
    Decay::SegmentsCut,
    Decay::SegmentsDeleted,
    Decay::LogsDeleted,
    Decay::MetaLogFlipped,
    Decay::MetaLogDeleted,
    Decay::MetaLogOld,
    Decay::FolderOld,
    Decay::FolderEmpty,
];

impl Decay {
    fn needs_copy(self) -> bool {
        matches!(self, Decay::MetaLogOld | Decay::FolderOld)
    }

    /// Peers send single logs back, and say so; what else is lost comes back without a word.
    fn is_repaired(self) -> bool {
        matches!(self, Decay::SegmentsCut | Decay::SegmentsDeleted)
    }
}

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    let until = stage.begun + stage.plan.duration;
    let nodes = stage.mesh.nodes(HOME);
    let mut rounds = Vec::new();
    tokio::time::sleep(CALM).await;
    // Every kind once, whatever the time; then again while there is time.
    for (round, decay) in DECAYS.iter().cycle().copied().enumerate() {
        if round >= DECAYS.len() && Instant::now() >= until {
            break;
        }
        let node = nodes[round % nodes.len()];
        if decay.needs_copy() && !(down(stage, node, copy).await? && stage.mesh.comes_in_sync(HOME, BACK_DEADLINE).await?) {
            stage.broken.push(format!("node {node} did not come back from a stop of its own"));
            break;
        }
        tokio::time::sleep(CALM).await;
        let began = Instant::now();
        let back = down(stage, node, |data| strike(decay, data)).await?;
        stage.fault(format!("{decay:?}: node {node} of {HOME}, which was down"));
        let repaired = stage.mesh.metric(HOME, node, "meridian_replicas_repaired_total").await?.unwrap_or(0.0);
        if !back || !stage.mesh.comes_in_sync(HOME, BACK_DEADLINE).await? {
            stage.broken.push(format!("{decay:?}: node {node} was not what it had been within {} s", BACK_DEADLINE.as_secs()));
            break;
        }
        let repaired = stage.mesh.metric(HOME, node, "meridian_replicas_repaired_total").await?.unwrap_or(repaired);
        if decay.is_repaired() && repaired == 0.0 {
            stage.broken.push(format!("{decay:?}: node {node} says of no replica that it was repaired"));
        }
        rounds.push(serde_json::json!({ "what": format!("{decay:?}"), "whole_ms": began.elapsed().as_millis(), "repaired": repaired }));
    }
    Ok(serde_json::json!({ "rounds": rounds }))
}

/// Kills a node, does this to its folder, and starts it again; false where it does not serve in time.
async fn down(stage: &Stage, node: i64, act: impl FnOnce(&Path) -> Result<(), ScenarioError>) -> Result<bool, ScenarioError> {
    stage.mesh.hold_restarts(true)?;
    let pid = stage.mesh.kill(HOME, node)?;
    stage.mesh.wait_until_dead(pid).await?;
    let acted = act(stage.mesh.data(HOME, node)?);
    stage.mesh.hold_restarts(false)?;
    acted?;
    stage.mesh.wait_until_back(HOME, node, pid, BACK_DEADLINE).await
}

/// Beside the folder itself.
fn copied(data: &Path) -> PathBuf {
    data.with_extension("copy")
}

fn copy(data: &Path) -> Result<(), ScenarioError> {
    let to = copied(data);
    if to.exists() {
        fs::remove_dir_all(&to).map_err(io("an old copy"))?;
    }
    copy_folder(data, &to)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), ScenarioError> {
    fs::create_dir_all(to).map_err(io("a copy"))?;
    for entry in fs::read_dir(from).map_err(io("a folder"))? {
        let path = entry.map_err(io("a folder"))?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).map_err(io("a copy"))?;
        }
    }
    Ok(())
}

fn strike(decay: Decay, data: &Path) -> Result<(), ScenarioError> {
    let meta = data.join("meta.log");
    match decay {
        Decay::SegmentsCut => each_segment(data, |segment, length| {
            let file = fs::OpenOptions::new().write(true).open(segment).map_err(io("a segment"))?;
            file.set_len(length / 2).map_err(io("a segment"))
        }),
        Decay::SegmentsDeleted => each_segment(data, |segment, _| fs::remove_file(segment).map_err(io("a segment"))),
        Decay::LogsDeleted => fs::remove_dir_all(data.join("logs")).map_err(io("the logs")),
        Decay::MetaLogFlipped => {
            let file = fs::OpenOptions::new().read(true).write(true).open(&meta).map_err(io("the meta log"))?;
            let (mut byte, middle) = ([0], file.metadata().map_err(io("the meta log"))?.len() / 2);
            file.read_exact_at(&mut byte, middle).map_err(io("the meta log"))?;
            byte[0] ^= 0x10;
            file.write_all_at(&byte, middle).map_err(io("the meta log"))
        }
        Decay::MetaLogDeleted => fs::remove_file(&meta).map_err(io("the meta log")),
        Decay::MetaLogOld => fs::copy(copied(data).join("meta.log"), &meta).map(drop).map_err(io("the meta log")),
        Decay::FolderOld => {
            fs::remove_dir_all(data).map_err(io("the folder"))?;
            copy_folder(&copied(data), data)
        }
        Decay::FolderEmpty => {
            fs::remove_dir_all(data).map_err(io("the folder"))?;
            fs::create_dir_all(data).map_err(io("the folder"))
        }
    }
}

/// Hands over the last segment of every partition's log that holds something, and where its bytes end: what is reserved behind is zeros.
fn each_segment(data: &Path, mut act: impl FnMut(&Path, u64) -> Result<(), ScenarioError>) -> Result<(), ScenarioError> {
    for folder in fs::read_dir(data.join("logs")).map_err(io("logs"))? {
        let folder = folder.map_err(io("logs"))?.path();
        // The controller's group has a nil topic; its log is repaired by other means.
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("00000000-0000-0000")) {
            continue;
        }
        let mut segments: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io("a log"))? {
            segments.push(entry.map_err(io("a log"))?.path());
        }
        segments.retain(|path| path.extension().is_some_and(|end| end == "log"));
        segments.sort();
        let Some(last) = segments.last() else { continue };
        let bytes = fs::read(last).map_err(io("a segment"))?;
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64);
        if length >= LOG_BYTES_MIN {
            act(last, length)?;
        }
    }
    Ok(())
}
