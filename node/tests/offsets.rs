//! Committed offsets on a real node that is killed again and again while it keeps their log short: what was acknowledged is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use meridian::client::admin::NewTopic;
use meridian::client::{Cluster, Settings, TokenSource, fetch};
use meridian::dev::document::Document;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 30;
const OFFSETS_TOPIC: &str = "__consumer_offsets";
const OFFSETS_PARTITIONS: u32 = 16;
/// All in one partition of the offsets' topic, which with this padding holds several pieces of what lives.
const GROUPS: usize = 8;
const PADDING: usize = 4_000;
const KILLS: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `meridian dev` of one node, which starts it again when it dies.
struct Mesh {
    process: Child,
    ready: Document,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Mesh {
    fn start(folder: &Path) -> Mesh {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.args(["dev", "--regions", "us", "--nodes", "1", "--format", "json", "--data-dir"]).arg(folder);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Mesh { process, ready, _stdout: stdout }
    }

    fn cluster(&self) -> Cluster {
        let tls = meridian::tls::client(meridian::tls::roots(&self.ready.ca).expect("an authority")).expect("TLS");
        let bootstrap = self.ready.regions["us"].bootstrap.split(',').map(str::to_owned).collect();
        let token = TokenSource::File(self.ready.admin_token.clone());
        Cluster::new(Settings { bootstrap, tls: Arc::new(tls), token, client_id: "offsets".to_owned() })
    }

    fn kill_node(&self) {
        let pid = std::fs::read_to_string(self.ready.regions["us"].nodes[0].data.join("node.pid")).expect("it runs");
        let pid = pid.trim().parse().expect("a number");
        kill_process(Pid::from_raw(pid).expect("not 0"), Signal::KILL).expect("killed");
    }
}

/// As Java hashes a group's id, to one of the offsets' partitions.
fn partition_of(group: &str) -> u32 {
    let hash = group.bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    hash.unsigned_abs() % OFFSETS_PARTITIONS
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// One offset for all partitions; true once it is acknowledged.
async fn commit(cluster: &Cluster, group: &str, offset: i64) -> bool {
    let partition = |number| {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(number).with_committed_offset(offset);
        partition.with_committed_leader_epoch(-1).with_committed_metadata(Some(text(&"x".repeat(PADDING))))
    };
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(TOPIC)));
    let topic = topic.with_partitions((0..PARTITIONS).map(partition).collect());
    let request = OffsetCommitRequest::default().with_group_id(GroupId(text(group))).with_generation_id_or_member_epoch(-1);
    let Ok(connection) = cluster.any().await else { return false };
    match connection.call(&request.with_topics(vec![topic])).await {
        Ok(response) => response.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.error_code == 0),
        Err(_) => {
            cluster.forget(&connection);
            false
        }
    }
}

/// The offsets of all partitions, asked until the coordinator has loaded them.
async fn committed(cluster: &Cluster, group: &str) -> Vec<i64> {
    let topic = OffsetFetchRequestTopics::default().with_name(TopicName(text(TOPIC)));
    let topic = topic.with_partition_indexes((0..PARTITIONS).collect());
    let asked = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![topic]));
    let request = OffsetFetchRequest::default().with_groups(vec![asked]);
    let found = async {
        loop {
            if let Ok(connection) = cluster.any().await {
                match connection.call(&request).await {
                    Ok(response) if response.groups[0].error_code == 0 => {
                        return response.groups[0].topics[0].partitions.iter().map(|partition| partition.committed_offset).collect();
                    }
                    Ok(_) => {}
                    Err(_) => cluster.forget(&connection),
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, found).await.expect("loaded in time")
}

/// Commits until the node is killed in the middle of it; what was acknowledged last, and what was tried.
async fn commit_until(cluster: &Cluster, group: &str, from: i64, killed_at: Instant) -> (i64, i64) {
    let (mut acknowledged, mut tried) = (from, from);
    loop {
        tried += 1;
        if commit(cluster, group, tried).await {
            acknowledged = tried;
        } else if Instant::now() > killed_at {
            return (acknowledged, tried);
        } else {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_offset_is_lost_by_a_node_that_is_killed_while_it_writes_their_log_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let mesh = Mesh::start(folder.path());
    let cluster = mesh.cluster();
    let topic = NewTopic { name: TOPIC.to_owned(), partitions: Some(PARTITIONS), ..NewTopic::default() };
    cluster.create_topic(&topic).await.expect("a topic");
    let number = partition_of("g0");
    let groups = (0..).map(|n| format!("g{n}")).filter(|group| partition_of(group) == number).take(GROUPS).collect::<Vec<_>>();
    cluster.ask(&FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g0")])).await.expect("a coordinator");
    let mut committed_so_far = BTreeMap::new();
    for group in &groups {
        committed(&cluster, group).await;
        committed_so_far.insert(group.clone(), 0);
    }
    let number = number.cast_signed();
    let mut starts = Vec::new();
    for kill in 0..KILLS {
        // Long enough for the log to be written anew a few times, and a moment of its own in each round.
        let killed_at = Instant::now() + Duration::from_millis(1_500 + 137 * kill);
        let writers = groups.iter().map(|group| {
            let (cluster, group, from) = (mesh.cluster(), group.clone(), committed_so_far[group]);
            tokio::spawn(async move { (commit_until(&cluster, &group, from, killed_at).await, group) })
        });
        let writers = writers.collect::<Vec<_>>();
        tokio::time::sleep_until(killed_at).await;
        mesh.kill_node();
        for writer in writers {
            let ((acknowledged, tried), group) = writer.await.expect("no panic");
            let found = committed(&cluster, &group).await;
            assert_eq!(found.len(), PARTITIONS as usize);
            let all = |offset: &i64| (acknowledged..=tried).contains(offset) && *offset == found[0];
            assert!(found.iter().all(all), "kill {kill}: {group} has {found:?}, acknowledged {acknowledged}, tried {tried}");
            committed_so_far.insert(group, found[0].max(0));
        }
        starts.push(fetch::offsets(&cluster, OFFSETS_TOPIC, &[number], -2).await.expect("a start")[&number]);
    }
    assert!(starts.is_sorted() && starts[KILLS as usize - 1] > starts[0], "the log's start: {starts:?}");
    let end = fetch::offsets(&cluster, OFFSETS_TOPIC, &[number], -1).await.expect("an end")[&number];
    let live = GROUPS as i64 * i64::from(PARTITIONS);
    eprintln!("starts {starts:?}, end {end}, live {live}");
    assert!(end - starts[KILLS as usize - 1] < 16 * live, "of {end} records, the log begins at {starts:?}");
}
