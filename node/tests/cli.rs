//! The command line as its user runs it, against a real mesh of one node.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `meridian dev` of one node. Killed when dropped, and its node with it.
struct Mesh {
    process: Child,
    folder: tempfile::TempDir,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Mesh {
    fn start() -> Mesh {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.args(["dev", "--regions", "us", "--nodes", "1", "--format", "json", "--data-dir"]).arg(folder.path().join("mesh"));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
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
        assert!(line.contains("\"ready\":true"), "{line}");
        Mesh { process, folder, _stdout: stdout }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("mesh")
    }

    fn meridian(&self, arguments: &[&str], stdin: &str) -> Output {
        run(arguments, &["--dev", &self.dir().display().to_string()], stdin)
    }

    /// Runs a command that must succeed.
    fn good(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.meridian(arguments, stdin);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that must fail, and returns what it said.
    fn bad(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.meridian(arguments, stdin);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.good(&[&["consume"], arguments, &["--until-end", "--format", "json"]].concat(), "");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn token(&self, name: &str) -> String {
        let token = self.good(&["token", "issue", "--sub", name], "");
        let path = self.folder.path().join(name);
        std::fs::write(&path, token).expect("written");
        path.display().to_string()
    }
}

fn run(arguments: &[&str], more: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(arguments).args(more).env_remove("MERIDIAN_TOKEN_FILE");
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    // Who fails early does not read.
    let _ = process.stdin.take().expect("piped").write_all(stdin.as_bytes());
    process.wait_with_output().expect("it ends")
}

#[test]
fn a_topic_is_made_seen_and_removed() {
    let mesh = Mesh::start();
    mesh.good(&["topic", "create", "flights", "--partitions", "3", "-c", "retention.ms=3600000"], "");
    let again = mesh.bad(&["topic", "create", "flights"], "");
    assert!(again.contains("TOPIC_ALREADY_EXISTS") && again.contains("--if-not-exists"), "{again}");
    mesh.good(&["topic", "create", "flights", "--if-not-exists"], "");
    let wrong = mesh.bad(&["topic", "create", "other", "-c", "retention.sm=5"], "");
    assert!(wrong.contains("did you mean retention.ms"), "{wrong}");
    let as_elsewhere = mesh.meridian(&["topic", "create", "other", "--config", "retention.ms=5", "--config", "cleanup.policy=delete"], "");
    let hint = String::from_utf8_lossy(&as_elsewhere.stderr);
    assert!(as_elsewhere.status.code() == Some(2) && hint.contains("-c retention.ms=5"), "{hint}");

    let listed: Value = serde_json::from_str(&mesh.good(&["topic", "list", "--format", "json"], "")).expect("JSON");
    assert_eq!((&listed[0]["name"], listed[0]["partitions"].as_array().map(Vec::len)), (&Value::from("flights"), Some(3)));
    let described: Value = serde_json::from_str(&mesh.good(&["topic", "describe", "flights", "--format", "json"], "")).expect("JSON");
    let configs = described["configs"].as_array().expect("configs");
    let retention = configs.iter().find(|config| config["name"] == "retention.ms").expect("listed");
    assert_eq!((&retention["value"], &retention["is_set"]), (&Value::from("3600000"), &Value::from(true)));
    let status: Value = serde_json::from_str(&mesh.good(&["mesh", "status", "--format", "json"], "")).expect("JSON");
    assert_eq!((&status["topics"][0]["topic"], &status["topics"][0]["home"]), (&Value::from("flights"), &Value::from("us")));
    assert_eq!(status["unreachable"], Value::Array(Vec::new()));

    mesh.good(&["topic", "delete", "flights"], "");
    let gone = mesh.bad(&["topic", "delete", "flights"], "");
    assert!(gone.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{gone}");
    mesh.good(&["topic", "delete", "flights", "--if-exists"], "");
}

#[test]
fn records_are_read_back_from_where_one_asks() {
    let mesh = Mesh::start();
    mesh.good(&["topic", "create", "t", "--partitions", "3"], "");
    let lines: String = (0..3_000).map(|i| format!("{{\"carrier\":\"C{}\",\"i\":{i}}}\n", i % 20)).collect();
    mesh.good(&["produce", "t", "--key-field", "carrier"], &lines);
    let records = mesh.records(&["t"]);
    assert_eq!(records.len(), 3_000);
    for carrier in 0..20 {
        let key = format!("C{carrier}");
        let of_key: Vec<_> = records.iter().filter(|record| record["key"] == key.as_str()).collect();
        let partition = &of_key[0]["partition"];
        assert!(of_key.iter().all(|record| &record["partition"] == partition), "{key} is in one partition");
        let value = |record: &Value| serde_json::from_str::<Value>(record["value"].as_str().expect("text")).expect("JSON")["i"].as_i64();
        assert!(of_key.is_sorted_by_key(|record| value(record)), "{key} is in order");
    }

    let nowhere = mesh.bad(&["produce", "t", "--partition", "3"], "lost\n");
    assert!(nowhere.contains("1 records are not known to be stored") && nowhere.contains("no partition 3"), "{nowhere}");

    let of_0 = mesh.records(&["t", "--partition", "0"]);
    let from_5 = mesh.records(&["t", "--partition", "0", "--from", "offset:5"]);
    assert_eq!(from_5, of_0[5..]);
    assert_eq!(mesh.good(&["consume", "t", "--count", "7"], "").lines().count(), 7);
    assert_eq!(mesh.records(&["t", "--from", "end"]).len(), 0);

    let last_ms = records.iter().filter_map(|record| record["timestamp"].as_i64()).max().expect("a time");
    std::thread::sleep(Duration::from_millis(5));
    mesh.good(&["produce", "t", "--key-separator", ":", "--partition", "1"], "late:one:two\n");
    let late = mesh.records(&["t", "--from", &format!("@{}", last_ms + 1)]);
    assert_eq!(late.len(), 1);
    let late = &late[0];
    assert_eq!((&late["key"], &late["value"], &late["partition"]), (&Value::from("late"), &Value::from("one:two"), &Value::from(1)));
}

#[test]
fn a_group_goes_on_where_it_stopped() {
    let mesh = Mesh::start();
    mesh.good(&["topic", "create", "t", "--partitions", "3"], "");
    let lines = |numbers: std::ops::Range<u32>| numbers.map(|i| format!("k{i}:{i}\n")).collect::<String>();
    mesh.good(&["produce", "t", "--key-separator", ":"], &lines(0..300));
    assert_eq!(mesh.records(&["t", "--group", "g", "--count", "120"]).len(), 120);
    assert_eq!(mesh.records(&["t", "--group", "g"]).len(), 180);
    assert_eq!(mesh.records(&["t", "--group", "g"]).len(), 0);
    mesh.good(&["produce", "t", "--key-separator", ":"], &lines(300..310));
    let mut later: Vec<u32> =
        mesh.records(&["t", "--group", "g"]).iter().filter_map(|record| record["value"].as_str()?.parse().ok()).collect();
    later.sort_unstable();
    assert_eq!(later, (300..310).collect::<Vec<u32>>());
    assert_eq!(mesh.records(&["t", "--group", "another"]).len(), 310);

    let ann = mesh.token("ann");
    mesh.good(&["acl", "add", "--allow", "--principal", "User:ann", "--operation", "read", "--topic", "t"], "");
    let refused = mesh.bad(&["consume", "t", "--group", "g", "--until-end", "--token", &ann], "");
    assert!(refused.contains("GROUP_AUTHORIZATION_FAILED") && refused.contains("--group G"), "{refused}");
}

#[test]
fn who_has_no_rule_is_refused_and_told_what_to_do() {
    let mesh = Mesh::start();
    mesh.good(&["topic", "create", "t"], "");
    mesh.good(&["produce", "t"], "one\n");
    let ann = mesh.token("ann");
    let refused = mesh.bad(&["consume", "t", "--until-end", "--token", &ann], "");
    assert!(refused.contains("TOPIC_AUTHORIZATION_FAILED (29)") && refused.contains("meridian acl add"), "{refused}");
    let refused = mesh.bad(&["produce", "t", "--token", &ann], "two\n");
    assert!(refused.contains("AUTHORIZATION_FAILED"), "{refused}");

    mesh.good(&["acl", "add", "--allow", "--principal", "User:ann", "--operation", "read", "--topic", "t"], "");
    assert_eq!(mesh.good(&["consume", "t", "--until-end", "--token", &ann], ""), "one\n");
    assert!(mesh.good(&["acl", "list"], "").contains("User:ann"));
    assert!(mesh.good(&["acl", "remove", "--principal", "User:ann"], "").contains("User:ann"));
    assert!(mesh.bad(&["consume", "t", "--until-end", "--token", &ann], "").contains("TOPIC_AUTHORIZATION_FAILED"));
    assert!(mesh.bad(&["acl", "remove"], "").contains("--topic"), "a filter of nothing removes nothing");

    let junk = mesh.folder.path().join("junk");
    std::fs::write(&junk, "no.token.atall").expect("written");
    let refused = mesh.bad(&["topic", "list", "--token", &junk.display().to_string()], "");
    assert!(refused.contains("refuses the token"), "{refused}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mesh = Mesh::start();
    mesh.good(&["topic", "create", "t", "--partitions", "1"], "");
    mesh.good(&["produce", "t"], &"a line\n".repeat(50_000));
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(["consume", "t", "--dev"]).arg(mesh.dir()).env_remove("MERIDIAN_TOKEN_FILE");
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut some = [0; 7];
    process.stdout.take().expect("piped").read_exact(&mut some).expect("a line");
    // The pipe is closed here; far more than it holds is still to be written.
    let output = process.wait_with_output().expect("it ends");
    assert_eq!((&some, output.status.code()), (b"a line\n", Some(0)));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_mesh_that_is_not_there_is_named() {
    let output = run(&["topic", "list"], &["--dev", &Path::new("/nonexistent/mesh").display().to_string()], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("meridian dev"));
}
