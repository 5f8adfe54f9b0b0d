//! `meridian dev` as its user runs it: real processes that serve, are restarted, and end with the mesh, however it ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use meridian::dev::document::Document;
use meridian::dev::wan::PairState;
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running `meridian dev`. Killed when dropped, and its nodes with it.
struct Mesh {
    process: Child,
    folder: PathBuf,
    ready: Document,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dev(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(["dev", "--format", "json", "--data-dir"]).arg(folder).args(arguments).stdin(Stdio::null());
    command
}

impl Mesh {
    fn start(folder: &Path, arguments: &[&str]) -> Mesh {
        let mut process = dev(folder, arguments).stdout(Stdio::piped()).spawn().expect("started");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            let _ = sender.send((read, line, stdout));
        });
        let answer = receiver.recv_timeout(PATIENCE);
        if answer.is_err() {
            let _ = process.kill();
        }
        let (_, line, stdout) = answer.expect("a line in time");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Mesh { process, folder: folder.to_path_buf(), ready, _stdout: stdout }
    }

    fn pids(&self) -> Vec<u32> {
        self.ready.regions.values().flat_map(|region| &region.nodes).map(|node| node.pid.expect("it runs")).collect()
    }

    fn signal(&self, signal: Signal) {
        send(self.process.id(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("it ends", || self.process.try_wait().expect("a child"))
    }
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("not 0"), signal).expect("sent");
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// A zombie does not run: nobody may have waited for it yet.
fn runs(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn read_pid(path: PathBuf) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn a_node_that_dies_comes_back_and_a_stop_leaves_nothing_running() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mesh = Mesh::start(&folder.path().join("mesh"), &["--regions", "us", "--nodes", "1"]);
    let node = mesh.ready.regions["us"].nodes[0].clone();
    let first = node.pid.expect("it runs");
    assert!(mesh.ready.ready && runs(first));
    assert_eq!(read_pid(node.data.join("node.pid")), Some(first));
    assert_eq!(Document::read(&mesh.folder).expect("mesh.json"), mesh.ready);

    send(first, Signal::KILL);
    let second = eventually("another process is ready", || read_pid(node.data.join("ready")).filter(|pid| *pid != first));
    assert!(runs(second) && !runs(first));
    eventually("mesh.json names it", || {
        let document = Document::read(&mesh.folder).expect("mesh.json");
        (document.ready && document.regions["us"].nodes[0].pid == Some(second)).then_some(())
    });

    mesh.signal(Signal::TERM);
    assert!(mesh.wait().success());
    assert!(!runs(second));
    assert!(!node.data.join("ready").exists() && !node.data.join("node.pid").exists(), "a graceful stop tidies up");
    assert!(!Document::read(&mesh.folder).expect("mesh.json").ready);
}

#[test]
fn three_regions_serve_and_die_with_a_killed_mesh_whose_folder_serves_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["--regions", "us,eu,asia", "--nodes", "1"];
    let mut mesh = Mesh::start(folder.path(), &arguments);
    let nodes = mesh.pids();
    assert_eq!(nodes.len(), 3);
    assert!(nodes.iter().all(|pid| runs(*pid)));
    let second = dev(folder.path(), &[]).output().expect("refused");
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && complaint.contains(&format!("in use by process {}", mesh.process.id())), "{complaint}");

    mesh.signal(Signal::KILL);
    mesh.wait();
    for pid in nodes {
        eventually("its nodes end with it", || (!runs(pid)).then_some(()));
    }

    // Its layout is the folder's own now.
    let again = Mesh::start(folder.path(), &[]);
    assert_eq!(again.ready.regions.keys().collect::<Vec<_>>(), ["asia", "eu", "us"]);
    assert!(again.pids().iter().all(|pid| runs(*pid)));
}

fn link(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("link").args(arguments).arg("--dev").arg(folder).output().expect("run")
}

#[test]
fn links_are_cut_and_healed_where_there_are_relays_and_elsewhere_it_is_said_how() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = link(folder.path(), &["list"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("there is no development mesh in"));

    let mut mesh = Mesh::start(folder.path(), &["--regions", "us,eu,asia", "--nodes", "1", "--rtt", "us-eu=40ms"]);
    let config = |region: &str| std::fs::read_to_string(folder.path().join(region).join("1/node.toml")).expect("written");
    let direct = |region: &str| format!("\"{}\"", mesh.ready.regions[region].nodes[0].link);
    assert!(!config("us").contains(&direct("eu")) && !config("eu").contains(&direct("us")), "these reach each other through relays");
    assert!(config("us").contains(&direct("asia")) && config("asia").contains(&direct("eu")), "these do not");

    let cut = |arguments: &[&str]| {
        let output = link(folder.path(), &[arguments, &["--format", "json"]].concat());
        let states: Vec<PairState> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let [state] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!((state.regions.join("-").as_str(), state.rtt_ms), ("us-eu", 40));
        state.cut
    };
    assert!(!cut(&["list"]));
    assert!(cut(&["cut", "eu", "us"]) && cut(&["list"]));
    assert!(!cut(&["heal", "us", "eu"]));
    let refused = link(folder.path(), &["cut", "us", "asia"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no relay between us and asia; there are us-eu")
    );
    mesh.signal(Signal::TERM);
    assert!(mesh.wait().success());

    let _mesh = Mesh::start(folder.path(), &[]);
    let no_relays = link(folder.path(), &["cut", "us", "eu"]);
    assert!(!no_relays.status.success() && String::from_utf8_lossy(&no_relays.stderr).contains("start it with --rtt"), "{no_relays:?}");
}

#[test]
fn a_bad_configuration_is_refused_with_exit_code_1_and_the_key_at_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = dev(folder.path(), &["--init-only", "--regions", "us", "--nodes", "1"]).output().expect("prepared");
    let document: Document = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert!(!document.ready && document.regions["us"].nodes[0].pid.is_none());
    let config = folder.path().join("us/1/node.toml");
    let text = std::fs::read_to_string(&config).expect("written");
    std::fs::write(&config, text.replace("region_number", "region_numbr")).expect("spoilt");
    let refused = Command::new(env!("CARGO_BIN_EXE_meridian")).arg("serve").arg("--config").arg(&config).output().expect("refused");
    assert_eq!(refused.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("unknown key region_numbr; did you mean region_number?"), "{complaint}");
}
