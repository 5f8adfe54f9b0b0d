//! The foreign client: librdkafka, driven by `clients/librdkafka.py` in a Python environment of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::mesh::Mesh;
use super::{ScenarioError, io};

/// The workload, carried in the binary so that it runs from anywhere.
const SCRIPT: &str = include_str!("../../clients/librdkafka.py");
/// librdkafka comes inside this package's wheel.
const PACKAGE: &str = "confluent-kafka>=2.6,<3";
/// Longest answer of the script.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub struct Client {
    python: PathBuf,
    script: PathBuf,
    history: PathBuf,
}

impl Client {
    /// Finds or makes a Python environment with the client in it.
    pub fn prepare(dir: &Path) -> Result<Client, ScenarioError> {
        std::fs::create_dir_all(dir).map_err(io("scenario folder"))?;
        let script = dir.join("librdkafka.py");
        std::fs::write(&script, SCRIPT).map_err(io("librdkafka.py"))?;
        Ok(Client { python: python()?, script, history: dir.join("history.jsonl") })
    }

    pub fn history(&self) -> &Path {
        &self.history
    }

    /// Starts producing; see [`Producing::finish`].
    pub fn produce(&self, mesh: &Mesh, region: &str, topic: &str, rate: f64) -> Result<Producing, ScenarioError> {
        let mut command = self.command("produce", mesh, region, topic)?;
        command.arg("--history").arg(&self.history).arg("--rate").arg(rate.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(io("the producer"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| ScenarioError::Failed("a producer without output".into()))?;
        Ok(Producing { child, input, output: BufReader::new(output) })
    }

    /// Reads a region's copy from the first offset to the end.
    pub async fn read(&self, mesh: &Mesh, region: &str, topic: &str) -> Result<serde_json::Value, ScenarioError> {
        let mut command = self.command("read", mesh, region, topic)?;
        command.arg("--history").arg(&self.history).args(["--region", region]);
        answer(command, "the reader").await
    }

    /// Who leads each partition, as the client's own metadata say.
    pub async fn leaders(&self, mesh: &Mesh, region: &str, topic: &str) -> Result<BTreeMap<usize, i64>, ScenarioError> {
        told(answer(self.command("leaders", mesh, region, topic)?, "the client's metadata").await?)
    }

    /// Has every partition led by its preferred replica (ElectLeaders).
    pub async fn elect(&self, mesh: &Mesh, region: &str, topic: &str) -> Result<Elected, ScenarioError> {
        told(answer(self.command("elect", mesh, region, topic)?, "librdkafka").await?)
    }

    /// Sends a file, one record a line.
    pub async fn load(&self, mesh: &Mesh, region: &str, topic: &str, file: &Path) -> Result<Loaded, ScenarioError> {
        let mut command = self.command("load", mesh, region, topic)?;
        command.arg("--file").arg(file);
        told(answer(command, "librdkafka").await?)
    }

    pub async fn digest(&self, mesh: &Mesh, region: &str, topic: &str) -> Result<Digest, ScenarioError> {
        told(answer(self.command("digest", mesh, region, topic)?, "librdkafka").await?)
    }

    pub async fn resume(&self, mesh: &Mesh, region: &str, topic: &str, count: u64) -> Result<Resumed, ScenarioError> {
        let mut command = self.command("resume", mesh, region, topic)?;
        command.args(["--group", "resume-librdkafka", "--count", &count.to_string()]);
        told(answer(command, "librdkafka").await?)
    }

    /// Can one connect with this token?
    pub async fn connect(&self, mesh: &Mesh, region: &str, token: &Path) -> Result<Connected, ScenarioError> {
        let mut command = self.command_as("connect", mesh, region, "-", token)?;
        command.args(["--patience", "6"]);
        told(answer(command, "librdkafka").await?)
    }

    /// Reads one partition with this token until it is refused.
    pub fn watch(&self, mesh: &Mesh, region: &str, topic: &str, token: &Path, patience: Duration) -> Result<Watching, ScenarioError> {
        let mut command = self.command_as("watch", mesh, region, topic, token)?;
        command.args(["--count", "1", "--patience", &patience.as_secs().to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(io("a reader"))?;
        let output = child.stdout.take().ok_or_else(|| ScenarioError::Failed("a reader without output".into()))?;
        Ok(Watching { child, lines: BufReader::new(output).lines(), last: None })
    }

    fn command(&self, verb: &str, mesh: &Mesh, region: &str, topic: &str) -> Result<tokio::process::Command, ScenarioError> {
        self.command_as(verb, mesh, region, topic, mesh.token())
    }

    fn command_as(
        &self,
        verb: &str,
        mesh: &Mesh,
        region: &str,
        topic: &str,
        token: &Path,
    ) -> Result<tokio::process::Command, ScenarioError> {
        let mut command = tokio::process::Command::new(&self.python);
        command.arg(&self.script).arg(verb).args(["--bootstrap", mesh.bootstrap(region)?, "--topic", topic]);
        command.arg("--ca").arg(mesh.ca()).arg("--token").arg(token).kill_on_drop(true);
        Ok(command)
    }
}

/// How many partitions changed their leader, and what was said of those that could not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Elected {
    pub elected: usize,
    pub errors: Vec<String>,
}

/// How many records were acknowledged, how many refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct Loaded {
    pub acked: u64,
    pub failed: u64,
}

/// All records of a topic in one region: how many, and the SHA-256 over `partition \t offset \t key \t value \n` of each in order.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Digest {
    pub records: u64,
    pub digest: String,
}

/// What two lives of one consumer group read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct Resumed {
    pub read: u64,
    pub distinct: u64,
}

/// Whether a token opened a connection, and what the client said if not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Connected {
    pub connected: bool,
    pub error: Option<String>,
}

/// What a reader saw before it was refused, if it was.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub struct Watched {
    pub read: u64,
    pub refused: Option<String>,
    pub seconds: f64,
}

/// A reader at work.
#[derive(Debug)]
pub struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    last: Option<String>,
}

impl Watching {
    /// Returns when the first record has been read, or the reader has ended.
    pub async fn reading(&mut self) -> Result<(), ScenarioError> {
        self.last = self.lines.next_line().await.map_err(io("a reader"))?;
        Ok(())
    }

    /// Waits for its end.
    pub async fn finish(&mut self) -> Result<Watched, ScenarioError> {
        while let Some(line) = self.lines.next_line().await.map_err(io("a reader"))? {
            self.last = Some(line);
        }
        let status = self.child.wait().await.map_err(io("a reader"))?;
        told(parse(status, self.last.as_deref().unwrap_or_default(), "a reader")?)
    }
}

pub(super) fn told<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, ScenarioError> {
    serde_json::from_value(answer).map_err(|error| ScenarioError::Failed(format!("a client's answer: {error}")))
}

/// A producer at work.
#[derive(Debug)]
pub struct Producing {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a producer waited for between two questions, in milliseconds; `failed` and `unknown` are since it began.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Waited {
    pub acked: u64,
    pub failed: u64,
    pub unknown: u64,
    /// From a record's sending to its acknowledgement.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub longest_wait_ms: Option<f64>,
    /// Between two acknowledgements of one partition.
    pub longest_gap_ms: f64,
}

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let Waited { acked, failed, unknown, p50_ms, p99_ms, longest_wait_ms, longest_gap_ms } = self;
        write!(
            f,
            "{acked} acknowledged, {} failed; waits p50 {}, p99 {}, longest {}",
            failed + unknown,
            ms(*p50_ms),
            ms(*p99_ms),
            ms(*longest_wait_ms)
        )?;
        write!(f, "; longest gap {longest_gap_ms:.1} ms")
    }
}

impl Producing {
    /// What it has waited for since this was last asked.
    pub async fn waited(&mut self) -> Result<Waited, ScenarioError> {
        let input = self.input.as_mut().ok_or_else(|| ScenarioError::Failed("the producer was told to end".into()))?;
        input.write_all(b"\n").await.map_err(io("the producer"))?;
        let mut line = String::new();
        (&mut self.output).take(ANSWER_BYTES_MAX).read_line(&mut line).await.map_err(io("the producer"))?;
        serde_json::from_str(&line).map_err(|error| ScenarioError::Failed(format!("the producer's account {line:?}: {error}")))
    }

    /// Lets it send what it has, and returns its account.
    pub async fn finish(mut self) -> Result<serde_json::Value, ScenarioError> {
        // The end of its input is its sign to stop.
        drop(self.input.take());
        let mut told = String::new();
        self.output.take(ANSWER_BYTES_MAX).read_to_string(&mut told).await.map_err(io("the producer"))?;
        let status = self.child.wait().await.map_err(io("the producer"))?;
        parse(status, &told, "the producer")
    }
}

pub(super) async fn answer(mut command: tokio::process::Command, who: &str) -> Result<serde_json::Value, ScenarioError> {
    let output = command.stdin(Stdio::null()).output().await.map_err(io(who))?;
    // What it complains of is for whoever reads this run.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    parse(output.status, &String::from_utf8_lossy(&output.stdout), who)
}

fn parse(status: std::process::ExitStatus, told: &str, who: &str) -> Result<serde_json::Value, ScenarioError> {
    if !status.success() {
        return Err(ScenarioError::Failed(format!("{who} ended with {status}")));
    }
    serde_json::from_str(told.trim()).map_err(|error| ScenarioError::Failed(format!("{who}: {error}")))
}

/// Where clients that had to be installed stay.
pub(super) fn cache() -> Result<PathBuf, ScenarioError> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(cache.ok_or_else(|| ScenarioError::Skipped("neither HOME nor XDG_CACHE_HOME is set".into()))?.join("meridian/clients"))
}

/// Runs an installation step; a machine on which it cannot run skips the scenario.
pub(super) fn install(program: &Path, arguments: &[&str]) -> Result<(), ScenarioError> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(ScenarioError::Skipped(format!("{} {} failed", program.display(), arguments.join(" "))))
}

/// A Python that has the client: the machine's own, or one in the user's cache, made on first use.
fn python() -> Result<PathBuf, ScenarioError> {
    let has_client = |python: &Path| {
        let probe = Command::new(python).args(["-c", "import confluent_kafka"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let own = PathBuf::from("python3");
    if has_client(&own) {
        return Ok(own);
    }
    let environment = cache()?.join("python");
    let python = environment.join("bin/python3");
    if has_client(&python) {
        return Ok(python);
    }
    install(&own, &["-m", "venv", &environment.to_string_lossy()])?;
    install(&python, &["-m", "pip", "install", "--quiet", PACKAGE])?;
    Ok(python)
}
