//! Consumer groups over real Raft groups on a real disk: what was acknowledged is there after a restart, what waits is let go with the leadership.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use meridian::controller::command::{Answer, Command};
use meridian::controller::create::NewTopic;
use meridian::controller::handle::{Controller, Region};
use meridian::groups::{Commit, Committed, Found, Groups, Join, JoinAnswer, Joined, State, Sync};
use meridian::hosting::Hosting;
use meridian_raft::NodeId;
use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, Timing};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(20);

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

struct Running {
    id: NodeId,
    raft: Node,
    controller: Controller,
    groups: Groups,
    hosting: Hosting,
}

impl Running {
    async fn start(id: NodeId, addresses: &BTreeMap<NodeId, SocketAddr>, folder: &Path) -> Running {
        let config = NodeConfig {
            node_id: id,
            data_dir: folder.join(id.to_string()),
            peer_listen: addresses[&id],
            peers: addresses.iter().map(|(node, address)| (*node, address.to_string())).collect(),
            // What is proven here does not depend on it.
            tls: None,
            timing: Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
        };
        let raft = Node::start(Env::real(), config).await.expect("a node");
        let region = Region { mesh: "test".to_owned(), name: "us".to_owned(), number: 1, superusers: Vec::new() };
        let controller = Controller::start(&raft, region).await.expect("a controller");
        let hosting = Hosting::start(id, raft.clone(), controller.clone());
        let groups = Groups::start(Env::real(), raft.clone(), controller.clone());
        Running { id, raft, controller, groups, hosting }
    }

    async fn register(&self) {
        let id = self.id;
        let record = serde_json::json!({"command": "register_node", "node": {
            "id": id, "host": "localhost", "port": 9092, "admin": "localhost:9644", "link": "localhost:7000", "rack": null}});
        let command: Command = serde_json::from_value(record).expect("a command");
        let registered = async { while self.controller.submit(command.clone()).await != Ok(Answer::Done) {} };
        tokio::time::timeout(DEADLINE, registered).await.expect("registered in time");
    }

    async fn topic(&self, name: &str) -> Uuid {
        let new = NewTopic { name: name.to_owned(), partitions: Some(2), ..NewTopic::default() };
        self.controller.create_topic(&self.raft, new).await.expect("a topic").id
    }

    /// Asks until the coordinator is loaded.
    async fn fetched(&self, group: &str) -> Found {
        let fetch = async {
            loop {
                match self.groups.fetch(group.to_owned(), None).await {
                    Ok(found) => return found,
                    Err(ResponseError::CoordinatorLoadInProgress | ResponseError::NotCoordinator) => {
                        tokio::time::sleep(Duration::from_millis(20)).await
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, fetch).await.expect("loaded in time")
    }

    async fn stop(self) {
        drop((self.groups, self.hosting));
        self.raft.shutdown().await;
    }
}

fn commit(topic: &str, topic_id: Uuid, offset: i64, metadata: &str) -> Commit {
    let committed = Committed { topic_id, offset, leader_epoch: 3, metadata: metadata.to_owned(), commit_timestamp_ms: 0 };
    let offsets = vec![(topic.to_owned(), 1, committed)];
    Commit { member_id: String::new(), instance_id: None, generation: -1, unknown_group: ResponseError::IllegalGeneration, offsets }
}

/// `topic/partition offset metadata`, one a line.
fn offsets(found: &Found) -> Vec<String> {
    let of_topic = |(topic, partitions): &(String, Vec<(i32, Option<Committed>)>)| {
        let told = |(number, committed): &(i32, Option<Committed>)| match committed {
            Some(committed) => format!("{topic}/{number} {} {}", committed.offset, committed.metadata),
            None => format!("{topic}/{number} none"),
        };
        partitions.iter().map(told).collect::<Vec<_>>()
    };
    found.iter().flat_map(of_topic).collect()
}

fn join(member_id: &str) -> Join {
    Join {
        member_id: member_id.to_owned(),
        fresh_member_id: String::new(),
        instance_id: None,
        client_id: "reader".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"))],
        requires_known_id: false,
        may_skip_assignment: false,
    }
}

/// The only member of a group, with its assignment.
async fn stable(node: &Running, group: &str) -> Joined {
    let joined: JoinAnswer = node.groups.join(group.to_owned(), join("")).await;
    let joined = joined.expect("joined");
    let sync = Sync {
        member_id: joined.member_id.clone(),
        instance_id: None,
        generation: joined.generation,
        protocol_type: None,
        protocol: None,
        assignments: BTreeMap::from([(joined.member_id.clone(), Bytes::from_static(b"all"))]),
    };
    assert_eq!(node.groups.sync(group.to_owned(), sync).await.expect("assigned").assignment, "all");
    joined
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_members_outlive_a_restart_and_offsets_of_a_deleted_topic_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses = BTreeMap::from([(1, free_address())]);
    let node = Running::start(1, &addresses, folder.path()).await;
    node.register().await;
    assert_eq!(node.groups.fetch("g".to_owned(), None).await, Err(ResponseError::NotCoordinator), "nobody has asked for it yet");
    assert_eq!(node.groups.find("g").await, Ok(1));
    let (t, u) = (node.topic("t").await, node.topic("u").await);
    assert_eq!(node.fetched("g").await, Vec::new());
    node.groups.commit("g".to_owned(), commit("t", t, 41, "")).await.expect("committed");
    node.groups.commit("g".to_owned(), commit("t", t, 42, "größe")).await.expect("committed");
    node.groups.commit("g".to_owned(), commit("u", u, 7, "")).await.expect("committed");
    let member = stable(&node, "h").await;
    let by_stranger = node.groups.commit("h".to_owned(), commit("t", t, 1, "")).await;
    assert_eq!(by_stranger, Err(ResponseError::UnknownMemberId), "a group with members takes offsets of members alone");
    node.stop().await;

    let node = Running::start(1, &addresses, folder.path()).await;
    let found = node.fetched("g").await;
    assert_eq!(offsets(&found), ["t/1 42 größe", "u/1 7 "]);
    let wanted = Some(vec![("t".to_owned(), vec![0, 1])]);
    let found = node.groups.fetch("g".to_owned(), wanted).await.expect("found");
    assert_eq!(offsets(&found), ["t/0 none", "t/1 42 größe"]);
    node.fetched("h").await;
    let beat = node.groups.heartbeat("h".to_owned(), member.member_id.clone(), None, member.generation).await;
    assert_eq!(beat, Ok(()), "the member is known still");

    // A topic made anew under the old name has none of the old one's offsets, now or after another restart.
    assert_eq!(node.controller.submit(Command::DeleteTopic { name: "t".to_owned(), id: t }).await, Ok(Answer::Done));
    node.topic("t").await;
    assert_eq!(offsets(&node.fetched("g").await), ["u/1 7 "]);
    assert_eq!(node.groups.leave("h".to_owned(), vec![(member.member_id, None)]).await, Ok(vec![Ok(())]));
    assert_eq!(node.groups.delete("h".to_owned()).await, Ok(()));
    assert_eq!(node.groups.delete("h".to_owned()).await, Err(ResponseError::GroupIdNotFound));
    node.stop().await;

    let node = Running::start(1, &addresses, folder.path()).await;
    assert_eq!(offsets(&node.fetched("g").await), ["u/1 7 "]);
    node.fetched("h").await;
    assert_eq!(node.groups.describe("h".to_owned()).await, Ok(None), "deleted for good");
    let overview = node.groups.overview().await.expect("all loaded");
    assert_eq!(
        overview.iter().map(|group| (group.group.as_str(), group.state, group.members)).collect::<Vec<_>>(),
        [("g", State::Empty, 0)]
    );
    assert_eq!(overview[0].offsets, [("u".to_owned(), 1, 7)]);
    node.stop().await;
}

/// The number of the node that a majority lets coordinate, as `node` hears.
async fn coordinator(node: &Running, group: &str) -> NodeId {
    let found = async {
        loop {
            if let Ok(id) = node.groups.find(group).await {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("a coordinator in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_let_go_with_the_leadership_and_the_next_coordinator_knows_what_was_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses: BTreeMap<NodeId, SocketAddr> = (1..=3).map(|node| (node, free_address())).collect();
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Running::start(id, &addresses, folder.path()).await);
    }
    for node in nodes.values() {
        node.register().await;
    }
    let t = nodes[&1].topic("t").await;
    let first = coordinator(&nodes[&1], "g").await;
    nodes[&first].fetched("g").await;
    nodes[&first].groups.commit("g".to_owned(), commit("t", t, 42, "")).await.expect("committed");
    let other = first % 3 + 1;
    assert_eq!(nodes[&other].groups.commit("g".to_owned(), commit("t", t, 43, "")).await, Err(ResponseError::NotCoordinator));

    // A second member would have to wait for the first, which does not come again.
    let member = stable(&nodes[&first], "g").await;
    let groups = nodes[&first].groups.clone();
    let waiting = tokio::spawn(async move { groups.join("g".to_owned(), join("")).await });
    while nodes[&first].groups.heartbeat("g".to_owned(), member.member_id.clone(), None, 1).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let offsets_topic = nodes[&first].controller.image().topics["__consumer_offsets"].id;
    for partition in nodes[&first].raft.partitions() {
        if partition.id().topic == offsets_topic && partition.leadership().is_leader {
            assert!(partition.transfer_leadership().await, "handed over");
        }
    }
    let let_go = tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("no panic");
    assert_eq!(let_go.map_err(|refused| refused.error), Err(ResponseError::NotCoordinator));

    let second = coordinator(&nodes[&first], "g").await;
    assert_ne!(second, first);
    assert_eq!(offsets(&nodes[&second].fetched("g").await), ["t/1 42 "]);
    let beat = nodes[&second].groups.heartbeat("g".to_owned(), member.member_id, None, member.generation).await;
    assert_eq!(beat, Ok(()), "the generation that was stored goes on");
    for (_, node) in nodes {
        node.stop().await;
    }
}

/// Offsets that take several pieces when their log is written anew, and their log with four commits of them.
const MANY: i32 = 200;
const PADDING: usize = 8_000;

/// One offset for many partitions.
fn commit_of_many(topic: &str, topic_id: Uuid, offset: i64) -> Commit {
    let one = commit(topic, topic_id, offset, &"x".repeat(PADDING));
    let offsets = one.offsets.iter().flat_map(|(topic, _, committed)| (0..MANY).map(|number| (topic.clone(), number, committed.clone())));
    Commit { offsets: offsets.collect(), ..one.clone() }
}

/// What the coordinator of the moment knows of a group: partition, offset.
async fn known(nodes: &BTreeMap<NodeId, Running>, group: &str) -> Vec<(i32, i64)> {
    let known = async {
        loop {
            let leader = coordinator(&nodes[&1], group).await;
            if let Ok(found) = nodes[&leader].groups.fetch(group.to_owned(), None).await {
                let partitions = found.into_iter().flat_map(|(_, partitions)| partitions);
                return partitions.filter_map(|(number, committed)| Some((number, committed?.offset))).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, known).await.expect("loaded in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_changes_while_the_log_of_offsets_is_written_anew_takes_nothing_acknowledged_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let addresses: BTreeMap<NodeId, SocketAddr> = (1..=3).map(|node| (node, free_address())).collect();
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Running::start(id, &addresses, folder.path()).await);
    }
    for node in nodes.values() {
        node.register().await;
    }
    let t = nodes[&1].topic("t").await;
    let (mut acknowledged, mut tried) = (0, 0);
    let mut log = None;
    known(&nodes, "g").await;
    for turn in 0..8 {
        // From one turn to the next the change comes a commit later, so that it meets each step of a rewriting.
        for _ in 0..4 + turn % 4 {
            let leader = coordinator(&nodes[&1], "g").await;
            tried += 1;
            match nodes[&leader].groups.commit("g".to_owned(), commit_of_many("t", t, tried)).await {
                Ok(()) => acknowledged = tried,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let leader = coordinator(&nodes[&1], "g").await;
        let offsets_topic = nodes[&leader].controller.image().topics["__consumer_offsets"].id;
        // Its only partition that holds anything.
        let partitions = nodes[&leader].raft.partitions().into_iter();
        let partition =
            partitions.filter(|partition| partition.id().topic == offsets_topic).max_by_key(|partition| partition.high_watermark());
        let partition = partition.expect("a replica");
        log = Some(partition.id());
        tried += 1;
        let (groups, commit) = (nodes[&leader].groups.clone(), commit_of_many("t", t, tried));
        let under_way = tokio::spawn(async move { groups.commit("g".to_owned(), commit).await });
        tokio::time::sleep(Duration::from_millis(7 * turn)).await;
        partition.transfer_leadership().await;
        if under_way.await.expect("no panic").is_ok() {
            acknowledged = tried;
        }
        let found = known(&nodes, "g").await;
        assert_eq!(found.len(), MANY as usize);
        let whole = |(_, offset): &(i32, i64)| (acknowledged..=tried).contains(offset) && *offset == found[0].1;
        assert!(found.iter().all(whole), "turn {turn}: {found:?}, acknowledged {acknowledged}, tried {tried}");
    }
    assert!(acknowledged > 20, "{acknowledged} of {tried}");
    let log = log.expect("a partition");
    for node in nodes.values() {
        let begins = node.raft.partition(log).expect("a replica").log_start_offset();
        assert!(begins > 0, "node {} has it from its start", node.id);
    }
    for (_, node) in nodes {
        node.stop().await;
    }
}
