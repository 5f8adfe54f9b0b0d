//! A mesh of real processes: `meridian dev`, its JSON line, and what a scenario does to it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::hostile_input::Listeners;
use super::newcomer::Newcomer;
use super::shim::Shim;
use super::{ScenarioError, io};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest page of a node's health and metrics.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// What `meridian dev --format json` prints.
#[derive(Debug, serde::Deserialize)]
struct Told {
    dir: PathBuf,
    ca: PathBuf,
    admin_token: PathBuf,
    regions: BTreeMap<String, Region>,
}

#[derive(Debug, serde::Deserialize)]
struct Region {
    bootstrap: String,
    nodes: Vec<NodeAt>,
}

#[derive(Debug, Clone, serde::Deserialize)]
pub struct NodeAt {
    pub id: i64,
    pub admin: String,
    pub kafka: String,
    pub peer: String,
    pub link: String,
    pub data: PathBuf,
}

#[derive(Debug)]
pub struct Mesh {
    binary: PathBuf,
    process: Child,
    told: Told,
    newcomers: Vec<Newcomer>,
}

fn failed(what: impl Into<String>) -> ScenarioError {
    ScenarioError::Failed(what.into())
}

impl Mesh {
    /// Starts three regions of three nodes in `dir/mesh` and waits until every region serves.
    pub async fn start(binary: &Path, dir: &Path, more: &[&str]) -> Result<Mesh, ScenarioError> {
        Mesh::start_on(binary, dir, more, None).await
    }

    /// The same, with every node's disk behind a shim.
    pub async fn start_on(binary: &Path, dir: &Path, more: &[&str], shim: Option<&Shim>) -> Result<Mesh, ScenarioError> {
        let (process, told) = launch(binary, dir, more, shim).await?;
        Ok(Mesh { binary: binary.to_owned(), process, told, newcomers: Vec::new() })
    }

    /// Stops `meridian dev` and starts it again on the same folder. Nodes that are not its own go on meanwhile.
    pub async fn restart(&mut self, dir: &Path) -> Result<(), ScenarioError> {
        self.end().await?;
        (self.process, self.told) = launch(&self.binary, dir, &[], None).await?;
        for Newcomer { at, region, .. } in &self.newcomers {
            add(&mut self.told, region, at)?;
        }
        Ok(())
    }

    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.told.regions.keys().map(String::as_str)
    }
    pub fn bootstrap(&self, region: &str) -> Result<&str, ScenarioError> {
        self.told.regions.get(region).map(|region| region.bootstrap.as_str()).ok_or_else(|| failed(format!("no region {region}")))
    }
    pub fn ca(&self) -> &Path {
        &self.told.ca
    }
    pub fn token(&self) -> &Path {
        &self.told.admin_token
    }
    /// Where `meridian dev` writes its properties files.
    pub fn dir(&self) -> &Path {
        &self.told.dir
    }

    fn node(&self, region: &str, id: i64) -> Result<&NodeAt, ScenarioError> {
        let nodes = self.told.regions.get(region).map(|region| region.nodes.as_slice()).unwrap_or_default();
        nodes.iter().find(|node| node.id == id).ok_or_else(|| failed(format!("no node {id} in {region}")))
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where the nodes of a region reach each other.
    pub fn peers(&self, region: &str) -> Vec<(i64, String)> {
        self.told.regions.get(region).into_iter().flat_map(|region| &region.nodes).map(|node| (node.id, node.peer.clone())).collect()
    }

    /// A node that is not of `meridian dev` belongs to a region from now on, and ends with the mesh.
    pub fn adopt(&mut self, newcomer: Newcomer) -> Result<(), ScenarioError> {
        add(&mut self.told, &newcomer.region, &newcomer.at)?;
        self.newcomers.push(newcomer);
        Ok(())
    }

    /// Runs `meridian NOUN VERB …` against this mesh and returns what it prints.
    pub async fn command(&self, arguments: &[&str]) -> Result<String, ScenarioError> {
        self.run(arguments, &["--dev".as_ref(), self.told.dir.as_os_str()], COMMAND_DEADLINE).await
    }

    /// The same against the nodes of these regions, those included that `meridian dev` does not know of.
    pub async fn command_on(&self, regions: &[&str], arguments: &[&str], deadline: Duration) -> Result<String, ScenarioError> {
        let file = self.told.dir.join(format!("{}.cli.toml", regions.join("-")));
        let found = || regions.iter().filter_map(|region| self.told.regions.get(*region));
        let bootstrap: Vec<&str> = found().map(|region| region.bootstrap.as_str()).collect();
        let admin: Vec<&str> = found().flat_map(|region| &region.nodes).map(|node| node.admin.as_str()).collect();
        let text = format!(
            "bootstrap = {:?}\nca = {:?}\ntoken_file = {:?}\nadmin = {:?}\n",
            bootstrap.join(","),
            self.told.ca,
            self.told.admin_token,
            admin.join(",")
        );
        std::fs::write(&file, text).map_err(io("a --config file"))?;
        self.run(arguments, &["--config".as_ref(), file.as_os_str()], deadline).await
    }

    async fn run(&self, arguments: &[&str], target: &[&OsStr], deadline: Duration) -> Result<String, ScenarioError> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(target).stdin(Stdio::null()).kill_on_drop(true);
        let name = format!("meridian {}", arguments.join(" "));
        let output = timeout(deadline, command.output()).await.map_err(|_| failed(format!("{name}: no end")))?;
        let output = output.map_err(io(&name))?;
        if !output.status.success() {
            return Err(failed(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A topic homed in `home` and mirrored everywhere else.
    pub async fn create_topic(&self, name: &str, home: &str, partitions: usize) -> Result<(), ScenarioError> {
        let mirrors: Vec<&str> = self.regions().filter(|region| *region != home).collect();
        let (partitions, mirrors) = (partitions.to_string(), mirrors.join(","));
        self.command(&["topic", "create", name, "--region", home, "--partitions", &partitions, "--mirrors", &mirrors]).await.map(|_| ())
    }

    pub fn listeners(&self, region: &str, id: i64) -> Result<Listeners, ScenarioError> {
        let NodeAt { kafka, admin, peer, link, .. } = self.node(region, id)?;
        Ok(Listeners { kafka: kafka.clone(), admin: admin.clone(), peer: peer.clone(), link: link.clone() })
    }

    /// The process of a node; None while it is down.
    pub fn pid(&self, region: &str, id: i64) -> Result<Option<i32>, ScenarioError> {
        // Absent while the node is down.
        let text = std::fs::read_to_string(self.node(region, id)?.data.join("node.pid")).unwrap_or_default();
        Ok(text.trim().parse().ok())
    }

    pub fn nodes(&self, region: &str) -> Vec<i64> {
        self.told.regions.get(region).map(|region| region.nodes.iter().map(|node| node.id).collect()).unwrap_or_default()
    }

    /// A node's data folder.
    pub fn data(&self, region: &str, id: i64) -> Result<&Path, ScenarioError> {
        Ok(&self.node(region, id)?.data)
    }

    /// SIGKILL; returns the process that died.
    pub fn kill(&self, region: &str, id: i64) -> Result<i32, ScenarioError> {
        self.signal(region, id, Signal::KILL)
    }

    /// Stops `meridian dev`, which starts dead nodes again, or lets it go on.
    pub fn hold_restarts(&self, hold: bool) -> Result<(), ScenarioError> {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(pid as i32)).ok_or_else(|| failed("meridian dev has ended"))?;
        kill_process(pid, if hold { Signal::STOP } else { Signal::CONT }).map_err(|error| failed(format!("meridian dev: {error}")))
    }

    /// Returns once the process is no more, or a zombie: its files are closed.
    pub async fn wait_until_dead(&self, pid: i32) -> Result<(), ScenarioError> {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(['Z', 'X'])) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the node's readiness page says.
    pub async fn readiness(&self, region: &str, id: i64) -> Result<String, ScenarioError> {
        Ok(page(&self.node(region, id)?.admin, "/readyz").await)
    }

    /// A figure of the node's metrics page that has no labels.
    pub async fn metric(&self, region: &str, id: i64, name: &str) -> Result<Option<f64>, ScenarioError> {
        let told = page(&self.node(region, id)?.admin, "/metrics").await;
        Ok(told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()))
    }

    /// Whether all replicas of a region are in sync before `deadline` has passed.
    pub async fn comes_in_sync(&self, region: &str, deadline: Duration) -> Result<bool, ScenarioError> {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if self.under_replicated(region).await? == Some(0.0) {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(false)
    }

    /// Partitions of a region of which a replica is behind or away; None while a node does not say.
    pub async fn under_replicated(&self, region: &str) -> Result<Option<f64>, ScenarioError> {
        let mut sum = 0.0;
        for node in self.nodes(region) {
            let Some(behind) = self.metric(region, node, "kafka_server_replicamanager_underreplicatedpartitions").await? else {
                return Ok(None);
            };
            sum += behind;
        }
        Ok(Some(sum))
    }

    /// Sends a node's process a signal; returns the process.
    pub fn signal(&self, region: &str, id: i64, signal: Signal) -> Result<i32, ScenarioError> {
        let pid = self.pid(region, id)?.ok_or_else(|| failed(format!("node {id} of {region} does not run")))?;
        let process = Pid::from_raw(pid).ok_or_else(|| failed(format!("{pid} is no process")))?;
        kill_process(process, signal).map_err(|error| failed(format!("kill {pid}: {error}")))?;
        Ok(pid)
    }

    /// True once another process than `dead` serves as this node.
    pub async fn wait_until_back(&self, region: &str, id: i64, dead: i32, deadline: Duration) -> Result<bool, ScenarioError> {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if self.pid(region, id)?.is_some_and(|pid| pid != dead) && is_ready(&self.node(region, id)?.admin).await {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(false)
    }

    /// Of every mirrored partition of a topic in a region (None: all), the given figure; the outer None while one is unknown.
    async fn figures(&self, topic: &str, region: Option<&str>, figure: &str) -> Result<Option<Vec<i64>>, ScenarioError> {
        let regions: Vec<&str> = self.regions().collect();
        let told = self.command_on(&regions, &["mesh", "status", "--format", "json"], COMMAND_DEADLINE).await?;
        let told: serde_json::Value = serde_json::from_str(&told).map_err(|error| failed(format!("mesh status: {error}")))?;
        let topics = told["topics"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(found) = topics.iter().find(|one| one["topic"] == topic) else { return Ok(None) };
        let mut figures = Vec::new();
        for partition in found["partitions"].as_array().map(Vec::as_slice).unwrap_or_default() {
            for (mirror, of) in partition["mirrors"].as_object().into_iter().flatten() {
                if region.is_none_or(|region| region == mirror) {
                    let Some(value) = of[figure].as_i64() else { return Ok(None) };
                    figures.push(value);
                }
            }
        }
        Ok((!figures.is_empty()).then_some(figures))
    }

    /// The sum over all mirrors; None while one of them is unknown.
    pub async fn lag_records(&self, topic: &str) -> Result<Option<i64>, ScenarioError> {
        Ok(self.figures(topic, None, "lag_records").await?.map(|lags| lags.iter().sum()))
    }

    /// The worst of a region's partitions; None while one of them is unknown.
    pub async fn staleness_ms(&self, topic: &str, region: &str) -> Result<Option<i64>, ScenarioError> {
        Ok(self.figures(topic, Some(region), "staleness_ms").await?.and_then(|all| all.into_iter().max()))
    }

    /// Of every mirrored partition in every region; None while one of them is unknown.
    pub async fn all_staleness_ms(&self, topic: &str) -> Result<Option<Vec<i64>>, ScenarioError> {
        self.figures(topic, None, "staleness_ms").await
    }

    /// As Ctrl-C would.
    pub async fn stop(mut self) -> Result<(), ScenarioError> {
        for newcomer in &mut self.newcomers {
            newcomer.stop().await?;
        }
        self.end().await
    }

    async fn end(&mut self) -> Result<(), ScenarioError> {
        if let Some(pid) = self.process.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, Signal::INT).map_err(|error| failed(format!("meridian dev: {error}")))?;
        }
        match timeout(STOP_DEADLINE, self.process.wait()).await {
            Ok(status) => status.map(|_| ()).map_err(io("meridian dev")),
            Err(_) => Err(failed(format!("the mesh did not stop within {} s", STOP_DEADLINE.as_secs()))),
        }
    }
}

/// Starts `meridian dev` and waits for its line.
async fn launch(binary: &Path, dir: &Path, more: &[&str], shim: Option<&Shim>) -> Result<(Child, Told), ScenarioError> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("mesh.log")).map_err(io("mesh.log"))?;
    let mut command = Command::new(binary);
    command.args(["dev", "--format", "json", "--data-dir"]).arg(dir.join("mesh")).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
    command.envs(shim.iter().flat_map(|shim| shim.environment()));
    let mut process = command.spawn().map_err(io(binary.display().to_string()))?;
    let output = process.stdout.take().ok_or_else(|| failed("no output of meridian dev"))?;
    let mut line = String::new();
    let read = timeout(READY_DEADLINE, BufReader::new(output).read_line(&mut line)).await;
    read.map_err(|_| failed(format!("the mesh was not ready within {} s", READY_DEADLINE.as_secs())))?.map_err(io("meridian dev"))?;
    let told = serde_json::from_str(&line).map_err(|error| failed(format!("meridian dev, see mesh.log: {error}")))?;
    Ok((process, told))
}

/// Enters a node that `meridian dev` does not know of.
fn add(told: &mut Told, region: &str, node: &NodeAt) -> Result<(), ScenarioError> {
    let found = told.regions.get_mut(region).ok_or_else(|| failed(format!("no region {region}")))?;
    found.bootstrap = format!("{},{}", node.kafka, found.bootstrap);
    found.nodes.push(node.clone());
    Ok(())
}

/// Does the node's own readiness page say so?
async fn is_ready(admin: &str) -> bool {
    page(admin, "/readyz").await.starts_with("HTTP/1.1 200")
}

/// A page of a node's admin server; empty where the node does not answer.
async fn page(admin: &str, path: &str) -> String {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut page = Vec::new();
        stream.take(PAGE_BYTES_MAX).read_to_end(&mut page).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&page).into_owned())
    };
    timeout(Duration::from_secs(2), ask).await.ok().and_then(Result::ok).unwrap_or_default()
}
