//! Scenarios on real processes: a mesh of `meridian dev`, a client nobody here wrote, faults, and a checker that reads everything back in
//! every region.
//!
//! A run that applied no fault, or in which too little was acknowledged, fails: green must mean something.

mod access;
mod bit_flip;
mod client;
mod decay;
mod disk_faults;
mod foreign_clients;
mod hostile_input;
mod java;
mod kafka_tools;
mod leader_kills;
mod link_cut;
mod membership;
mod mesh;
mod newcomer;
mod pause;
mod power_cut;
mod rolling_restart;
mod shim;
mod staleness;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::check::{Verdict, judge};
use crate::history::{HistoryError, parse};
use client::{Client, Producing};
use mesh::Mesh;
use shim::Shim;

/// The topic that every scenario writes to, homed in `us`.
const TOPIC: &str = "chaos";
const PARTITIONS: usize = 6;
const HOME: &str = "us";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Kill -9 the leader of each partition in turn while records are produced with acks=all
    LeaderKills,
    /// Stop the leader of each partition in turn beyond the election timeout, and let it go on
    Pause,
    /// Replace every node of a region under load, by new processes, drains, and one removed by force: clients and mirrors must follow
    Membership,
    /// End every node of a region in turn as an upgrade would (SIGTERM), and start it again: nothing but a short wait may be noticed
    RollingRestart,
    /// Kill -9 a leader, then a whole region, and take back from the files what was not synced
    PowerCut,
    /// Every write and sync of a leader fails: it must end, and acknowledge nothing false
    DiskError,
    /// Flip bits in the logs of one node after another while it is down: its peers must repair it
    BitFlip,
    /// While a node is down, cut, delete, flip or put back old copies of its files, or empty its folder: its peers must make it good
    Decay,
    /// Disks are full for a while, of one node and of all: new data is refused, and everything goes on by itself
    DiskFull,
    /// Cut the links of one mirror under load, heal them, and watch the mirror catch up
    LinkCut,
    /// No fault: the flights by librdkafka and by Apache Kafka's Java client, the same in every region for both, and groups that resume
    ForeignClients,
    /// No fault: Apache Kafka's own tools look at a region of four nodes, move a topic (throttled, cancelled, and again), and elect leaders
    KafkaTools,
    /// Bad tokens, readers without READ, and an ACL removed under open readers, in every region
    Access,
    /// Random bytes, cut frames and lies about lengths at every listener of a node
    HostileInput,
    /// No fault: how old mirrors say they are, with 0, 40 and 120 ms each way between regions
    Staleness,
}

/// How to run one.
#[derive(Debug, Clone)]
pub struct Plan {
    pub scenario: Scenario,
    /// The `meridian` binary.
    pub binary: PathBuf,
    /// Folder for the mesh, logs, history and report; made anew.
    pub dir: PathBuf,
    /// How long faults go on.
    pub duration: Duration,
    /// Records a second.
    pub rate: f64,
    /// What `foreign-clients` sends: JSON lines, gzipped.
    pub flights: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The machine lacks what the scenario needs; nothing was proven or refuted.
    #[error("skipped: {0}")]
    Skipped(String),
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    History(#[from] HistoryError),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ScenarioError {
    let what = what.into();
    move |error| ScenarioError::Io { what, error }
}

/// One fault as it was applied.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Fault {
    /// Milliseconds since the workload began.
    pub at_ms: u128,
    pub what: String,
}

/// What came of a run; written to `report.json` beside the history.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub scenario: String,
    pub faults: Vec<Fault>,
    /// The producer's own account: sent, acked, failed, unknown, longest_gap_ms.
    pub workload: serde_json::Value,
    /// What the scenario measured beside the history.
    pub observed: serde_json::Value,
    pub verdict: Verdict,
    /// Why the run is no proof, or a promise that is not one of the history's.
    pub broken: Vec<String>,
}

impl Report {
    pub fn passes(&self) -> bool {
        self.verdict.passes() && self.broken.is_empty()
    }

    fn write(&self, plan: &Plan) -> Result<(), ScenarioError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        std::fs::write(plan.dir.join("report.json"), text).map_err(io("report.json"))
    }
}

/// What a scenario works with.
struct Stage {
    plan: Plan,
    mesh: Mesh,
    client: Client,
    producer: Producing,
    shim: Option<Shim>,
    begun: Instant,
    faults: Vec<Fault>,
    broken: Vec<String>,
}

impl Stage {
    fn shim(&self) -> Result<&Shim, ScenarioError> {
        self.shim.as_ref().ok_or_else(|| ScenarioError::Failed("this scenario has no disk shim".into()))
    }

    fn fault(&mut self, what: String) {
        let at_ms = self.begun.elapsed().as_millis();
        eprintln!("{at_ms:>7} ms  {what}");
        self.faults.push(Fault { at_ms, what });
    }
}

/// Starts a mesh, plays the scenario, and says what came of it.
pub async fn run(plan: Plan) -> Result<Report, ScenarioError> {
    let client = Client::prepare(&plan.dir)?;
    match plan.scenario {
        Scenario::ForeignClients => foreign_clients::run(plan, client).await,
        Scenario::KafkaTools => kafka_tools::run(plan, client).await,
        Scenario::Access => access::run(plan, client).await,
        Scenario::HostileInput => hostile_input::run(plan, client).await,
        Scenario::Staleness => staleness::run(plan, client).await,
        Scenario::LeaderKills
        | Scenario::LinkCut
        | Scenario::Membership
        | Scenario::Pause
        | Scenario::RollingRestart
        | Scenario::PowerCut
        | Scenario::DiskError
        | Scenario::DiskFull
        | Scenario::BitFlip
        | Scenario::Decay => run_under_load(plan, client).await,
    }
}

/// Scenarios in which a producer works while faults happen, and a history is judged.
async fn run_under_load(plan: Plan, client: Client) -> Result<Report, ScenarioError> {
    let relays: &[&str] = if plan.scenario == Scenario::LinkCut { &["--rtt", "us-eu=0ms,us-asia=0ms,eu-asia=0ms"] } else { &[] };
    let shimmed = matches!(plan.scenario, Scenario::PowerCut | Scenario::DiskError | Scenario::DiskFull);
    let shim = if shimmed { Some(Shim::prepare(&plan.dir)?) } else { None };
    let mesh = Mesh::start_on(&plan.binary, &plan.dir, relays, shim.as_ref()).await?;
    mesh.create_topic(TOPIC, HOME, PARTITIONS).await?;
    let producer = client.produce(&mesh, HOME, TOPIC, plan.rate)?;
    let mut stage = Stage { plan, mesh, client, producer, shim, begun: Instant::now(), faults: Vec::new(), broken: Vec::new() };
    let observed = match stage.plan.scenario {
        Scenario::Membership => membership::play(&mut stage).await?,
        Scenario::LinkCut => link_cut::play(&mut stage).await?,
        Scenario::Pause => pause::play(&mut stage).await?,
        Scenario::RollingRestart => rolling_restart::play(&mut stage).await?,
        Scenario::PowerCut => power_cut::play(&mut stage).await?,
        Scenario::BitFlip => bit_flip::play(&mut stage).await?,
        Scenario::Decay => decay::play(&mut stage).await?,
        Scenario::DiskError => disk_faults::error(&mut stage).await?,
        Scenario::DiskFull => disk_faults::full(&mut stage).await?,
        _ => leader_kills::play(&mut stage).await?,
    };
    let Stage { plan, mesh, client, producer, faults, mut broken, .. } = stage;
    let workload = producer.finish().await?;
    read_everywhere(&mesh, &client, &mut broken).await?;
    mesh.stop().await?;
    let history = std::fs::File::open(client.history()).map_err(io("history"))?;
    let events = parse(&mut std::io::BufReader::new(history))?;
    // Half of what was asked for is the least with which the run says anything.
    let acked_min = (plan.rate * plan.duration.as_secs_f64() / 2.0) as u64;
    let verdict = judge(&events, acked_min);
    if faults.is_empty() {
        broken.push("no fault was applied".into());
    }
    let report = Report { scenario: format!("{:?}", plan.scenario), faults, workload, observed, verdict, broken };
    report.write(&plan)?;
    Ok(report)
}

/// Waits until every mirror has what its home has, then reads all of it by the foreign client.
async fn read_everywhere(mesh: &Mesh, client: &Client, broken: &mut Vec<String>) -> Result<(), ScenarioError> {
    catch_up(mesh, TOPIC, broken).await?;
    for region in mesh.regions() {
        client.read(mesh, region, TOPIC).await?;
    }
    Ok(())
}

async fn catch_up(mesh: &Mesh, topic: &str, broken: &mut Vec<String>) -> Result<(), ScenarioError> {
    const CATCH_UP: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    loop {
        match mesh.lag_records(topic).await? {
            Some(0) => return Ok(()),
            lag if begun.elapsed() > CATCH_UP => {
                broken.push(format!("the mirrors of {topic} have not caught up within {} s: lag {lag:?}", CATCH_UP.as_secs()));
                return Ok(());
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
