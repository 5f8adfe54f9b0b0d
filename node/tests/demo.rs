//! `meridian demo` as its user runs it: the regions agree, and nothing is left of it, however it ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use meridian::dev::document::Document;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn demo(temporary_files: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    let flights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-2013-01.jsonl.gz");
    command.args(["demo", "--data"]).arg(flights).env("TMPDIR", temporary_files).stdin(Stdio::null());
    command
}

fn folders(temporary_files: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(temporary_files).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// A zombie does not run: nobody may have waited for it yet.
fn runs(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_regions_agree_and_nothing_is_left() {
    let temporary_files = tempfile::tempdir().expect("a folder");
    let output = demo(temporary_files.path()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("27004 flights acknowledged in us"), "{said}");
    assert!(said.contains("All regions hold the same records at the same offsets."), "{said}");
    assert!(said.contains("refused in eu: TOPIC_AUTHORIZATION_FAILED"), "{said}");
    assert_eq!(folders(temporary_files.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_demonstration_takes_its_mesh_along() {
    let temporary_files = tempfile::tempdir().expect("a folder");
    let mut demo = demo(temporary_files.path()).stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(demo.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let document = folders(temporary_files.path()).first().and_then(|folder| Document::read(folder).ok());
    demo.kill().expect("killed");
    demo.wait().expect("ended");

    let document = document.unwrap_or_else(|| panic!("no mesh served: {line:?}"));
    let nodes: Vec<u32> = document.regions.values().flat_map(|region| &region.nodes).filter_map(|node| node.pid).collect();
    assert_eq!(nodes.len(), 9);
    for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
        if !nodes.iter().any(|pid| runs(*pid)) {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    panic!("its nodes still run: {nodes:?}");
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path()).arg("--dir").arg(folder.path()).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"), "{output:?}");
    assert!(folder.path().exists());
}
