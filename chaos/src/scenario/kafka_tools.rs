//! Apache Kafka's own command line tools against a region of four nodes: they look at it, move a topic off a node at a throttled rate, take
//! that back, move it for good, and elect leaders. What the topic holds must be the same throughout.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::client::{Client, Digest};
use super::mesh::Mesh;
use super::{HOME, Plan, Report, ScenarioError, io, java};
use crate::check::Verdict;

const POM: &str = include_str!("../../clients/java/tools.xml");
const TOPIC: &str = "moved";
const PARTITIONS: usize = 4;
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const VERSIONS: &str = "org.apache.kafka.tools.BrokerApiVersionsCommand";
const QUORUM: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
const FOLDERS: &str = "org.apache.kafka.tools.LogDirsCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
/// Bytes a second: so slow that nothing arrives before it is taken back.
const SLOW: &str = "20000";
const FAST: &str = "50000000";
/// One tool's answer, a JVM's start included.
const ANSWER: Duration = Duration::from_secs(60);
const MOVED: Duration = Duration::from_secs(120);

/// The tools, the mesh that they work on, and what was wrong with their answers.
struct Bench {
    classpath: String,
    properties: PathBuf,
    token: PathBuf,
    bootstrap: String,
    dir: PathBuf,
    broken: Vec<String>,
    asked: usize,
}

pub async fn run(plan: Plan, librdkafka: Client) -> Result<Report, ScenarioError> {
    let library = java::jars("kafka-tools", POM)?;
    let mesh = Mesh::start(&plan.binary, &plan.dir, &["--regions", HOME, "--nodes", "4"]).await?;
    let mut bench = Bench {
        classpath: format!("{}/*", library.display()),
        properties: mesh.dir().join(HOME).join("client.properties"),
        token: mesh.token().to_owned(),
        bootstrap: mesh.bootstrap(HOME)?.to_owned(),
        dir: plan.dir.clone(),
        broken: Vec::new(),
        asked: 0,
    };
    let create = ["--create", "--topic", TOPIC, "--replica-assignment", "1:2:3,1:2:3,2:3:1,3:1:2"];
    bench.says(TOPICS, &create, &["Created topic"]).await?;
    let loaded = librdkafka.load(&mesh, HOME, TOPIC, &plan.flights).await?;
    let before = librdkafka.digest(&mesh, HOME, TOPIC).await?;
    bench.look(loaded.acked).await?;
    bench.move_and_take_back().await?;
    bench.is_unharmed(&mesh, &librdkafka, &before, "after a move was taken back").await?;
    bench.move_for_good().await?;
    bench.is_unharmed(&mesh, &librdkafka, &before, "after it was moved").await?;
    bench.elect().await?;
    mesh.stop().await?;
    let Bench { mut broken, asked, .. } = bench;
    if loaded.acked == 0 || loaded.failed > 0 {
        broken.push(format!("{loaded:?}"));
    }
    let report = Report {
        scenario: format!("{:?}", plan.scenario),
        faults: Vec::new(),
        workload: serde_json::json!({ "records": loaded.acked }),
        observed: serde_json::json!({ "tools_asked": asked }),
        verdict: Verdict::default(),
        broken,
    };
    report.write(&plan)?;
    Ok(report)
}

impl Bench {
    /// What a tool prints, whether it is content or not.
    async fn ask(&mut self, tool: &str, arguments: &[&str]) -> Result<(bool, String), ScenarioError> {
        let mut command = java::jvm(&self.token, &self.classpath);
        command.args([tool, "--bootstrap-server", &self.bootstrap, "--command-config"]).arg(&self.properties).args(arguments);
        self.asked += 1;
        let name = format!("{} {}", tool.rsplit('.').next().unwrap_or(tool), arguments.join(" "));
        let output = timeout(ANSWER, command.output()).await.map_err(|_| ScenarioError::Failed(format!("{name}: no end")))?;
        let output = output.map_err(io(&name))?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        eprintln!("{name}: {}", text.lines().find(|line| !line.trim().is_empty()).unwrap_or("(nothing)"));
        Ok((output.status.success(), text))
    }

    /// A tool must be content, and say all of these words.
    async fn says(&mut self, tool: &str, arguments: &[&str], words: &[&str]) -> Result<String, ScenarioError> {
        let (content, text) = self.ask(tool, arguments).await?;
        if !content || text.contains("Exception") || words.iter().any(|words| !text.contains(words)) {
            self.broken.push(format!("{tool} {} should say {words:?}: {text}", arguments.join(" ")));
        }
        Ok(text)
    }

    async fn look(&mut self, records: u64) -> Result<(), ScenarioError> {
        let described = self.says(TOPICS, &["--describe", "--topic", TOPIC], &["PartitionCount: 4", "ReplicationFactor: 3"]).await?;
        let whole = described.lines().filter(|line| line.contains("Isr: ") && !line.contains("Leader: none")).count();
        if whole != PARTITIONS {
            self.broken.push(format!("{whole} of {PARTITIONS} partitions are described with a leader: {described}"));
        }
        for flaw in ["--under-replicated-partitions", "--unavailable-partitions"] {
            let flawed = self.says(TOPICS, &["--describe", flaw], &[]).await?;
            if flawed.contains("Partition:") {
                self.broken.push(format!("{flaw}: {flawed}"));
            }
        }
        let told = self.says(OFFSETS, &["--topic", TOPIC], &[]).await?;
        let sum: u64 = told.lines().filter_map(|line| line.rsplit(':').next()?.trim().parse::<u64>().ok()).sum();
        if sum != records {
            self.broken.push(format!("offsets add up to {sum}, {records} records were acknowledged: {told}"));
        }
        self.says(VERSIONS, &[], &["(id: 1 ", "(id: 4 ", "AlterPartitionReassignments(45): 0 to 1"]).await?;
        self.says(FOLDERS, &["--describe"], &["\"broker\":4", "moved-0"]).await?;
        self.says(CONFIGS, &["--describe", "--entity-type", "topics", "--entity-name", TOPIC, "--all"], &["retention.ms="]).await?;
        self.says(CONFIGS, &["--describe", "--entity-type", "brokers", "--entity-name", "1", "--all"], &["node.id=1"]).await?;
        // Meridian's metadata are kept by a Raft group of its own making, which it does not pass off as Kafka's.
        let (_, refused) = self.ask(QUORUM, &["describe", "--status"]).await?;
        if !refused.contains("does not support DESCRIBE_QUORUM") {
            self.broken.push(format!("kafka-metadata-quorum should be told clearly that it asks in vain: {refused}"));
        }
        Ok(())
    }

    /// The topic as every node describes it, each of which must know all leaders; what the last one says.
    async fn describe(&mut self) -> Result<String, ScenarioError> {
        let (all, mut told) = (self.bootstrap.clone(), String::new());
        for node in all.split(',') {
            self.bootstrap = node.to_owned();
            told = self.says(TOPICS, &["--describe", "--topic", TOPIC], &["PartitionCount: 4"]).await?;
            if told.contains("Leader: none") {
                self.broken.push(format!("{node} does not know every leader: {told}"));
            }
        }
        self.bootstrap = all;
        Ok(told)
    }

    /// The file of a plan that puts the topic on these nodes, as the tool generates it.
    async fn plan(&mut self, nodes: &str) -> Result<PathBuf, ScenarioError> {
        let topics = self.dir.join("topics.json");
        std::fs::write(&topics, format!("{{\"version\":1,\"topics\":[{{\"topic\":\"{TOPIC}\"}}]}}")).map_err(io("topics.json"))?;
        let arguments = ["--generate", "--topics-to-move-json-file", &topics.to_string_lossy(), "--broker-list", nodes];
        let told = self.says(REASSIGN, &arguments, &["Proposed partition reassignment configuration"]).await?;
        let proposed = told.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
        let file = self.dir.join("plan.json");
        std::fs::write(&file, proposed).map_err(io("plan.json"))?;
        Ok(file)
    }

    async fn reassign(&mut self, plan: &Path, arguments: &[&str], words: &[&str]) -> Result<String, ScenarioError> {
        let plan = plan.to_string_lossy();
        self.says(REASSIGN, &[&["--reassignment-json-file", &plan], arguments].concat(), words).await
    }

    async fn move_and_take_back(&mut self) -> Result<(), ScenarioError> {
        let plan = self.plan("2,3,4").await?;
        self.reassign(&plan, &["--execute", "--throttle", SLOW], &["The inter-broker throttle limit was set", "Successfully started"])
            .await?;
        self.says(REASSIGN, &["--list"], &["adding: 4"]).await?;
        self.says(CONFIGS, &["--describe", "--entity-type", "brokers", "--entity-name", "2"], &["leader.replication.throttled.rate=20000"])
            .await?;
        self.reassign(&plan, &["--verify"], &["is still in progress"]).await?;
        let cancelled = self.reassign(&plan, &["--cancel"], &["Successfully cancelled partition reassignments"]).await?;
        let begun = Instant::now();
        while !self.says(REASSIGN, &["--list"], &[]).await?.contains("No partition reassignments found") {
            if begun.elapsed() > MOVED {
                self.broken.push("what was cancelled has not gone back".into());
                break;
            }
        }
        let told = self.describe().await?;
        for number in (0..PARTITIONS).filter(|number| cancelled.contains(&format!("{TOPIC}-{number}"))) {
            let back = |line: &str| line.contains(&format!("Partition: {number}\t")) && !replicas(line).contains(&"4");
            if !told.lines().any(back) {
                self.broken.push(format!("after its move was cancelled partition {number} is still on node 4: {told}"));
            }
        }
        let told = self.says(CONFIGS, &["--describe", "--entity-type", "brokers", "--entity-name", "2"], &[]).await?;
        if told.contains("throttled") {
            self.broken.push(format!("a throttle outlives the move that it was for: {told}"));
        }
        Ok(())
    }

    async fn move_for_good(&mut self) -> Result<(), ScenarioError> {
        let plan = self.plan("2,3,4").await?;
        self.reassign(&plan, &["--execute", "--throttle", FAST], &["Successfully started"]).await?;
        let begun = Instant::now();
        loop {
            let told = self.reassign(&plan, &["--verify"], &["Status of partition reassignment"]).await?;
            if told.matches("is completed").count() == PARTITIONS {
                break;
            }
            if begun.elapsed() > MOVED {
                self.broken.push(format!("not moved within {} s: {told}", MOVED.as_secs()));
                break;
            }
        }
        let told = self.describe().await?;
        let with_one = told.lines().filter(|line| replicas(line).contains(&"1")).count();
        if with_one > 0 || told.lines().filter(|line| replicas(line).len() == 3).count() != PARTITIONS {
            self.broken.push(format!("the topic is not on nodes 2, 3 and 4: {told}"));
        }
        Ok(())
    }

    async fn elect(&mut self) -> Result<(), ScenarioError> {
        self.says(ELECT, &["--election-type", "preferred", "--all-topic-partitions"], &[]).await?;
        let told = self.describe().await?;
        let preferred = |line: &&str| replicas(line).first().is_some_and(|first| line.contains(&format!("Leader: {first}\t")));
        if told.lines().filter(preferred).count() != PARTITIONS {
            self.broken.push(format!("not every partition is led by its preferred replica: {told}"));
        }
        Ok(())
    }

    async fn is_unharmed(&mut self, mesh: &Mesh, client: &Client, before: &Digest, when: &str) -> Result<(), ScenarioError> {
        let now = client.digest(mesh, HOME, TOPIC).await?;
        if now != *before {
            self.broken.push(format!("{when} the topic holds {now:?}, not {before:?}"));
        }
        Ok(())
    }
}

/// The replicas in a line of `kafka-topics --describe`.
fn replicas(line: &str) -> Vec<&str> {
    let listed = line.split_once("Replicas: ").map(|(_, rest)| rest.split('\t').next().unwrap_or_default());
    listed.map(|listed| listed.split(',').map(str::trim).collect()).unwrap_or_default()
}
