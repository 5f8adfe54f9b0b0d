//! Reading: all or some partitions of a topic, from a place onwards, one long poll per leader under way at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest};

use super::ClientError;
use super::batch::{self, Fetched};
use super::cluster::{Cluster, Patience, topic_name};
use super::connection::Connection;

/// A leader with nothing new answers after so long.
const WAIT_MS: i32 = 500;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of one answer, and of one partition in it; a first batch that is larger comes whole.
const ANSWER_BYTES: i32 = 8 << 20;
const PARTITION_BYTES: i32 = 1 << 20;
/// How long a topic made a moment ago, perhaps in another region, may take to appear here.
const TOPIC_WAIT: Duration = Duration::from_secs(10);

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    End,
    Offset(i64),
    /// The first record at or after this time, ms since 1970; the end where there is none.
    Time(i64),
}

/// Reads one topic.
pub struct Consumer {
    cluster: Cluster,
    topic: String,
    /// Next offset of each partition that is read.
    positions: BTreeMap<i32, i64>,
    leaders: BTreeMap<i32, Option<i32>>,
    stale: bool,
    connections: BTreeMap<i32, Connection>,
    asked: BTreeSet<i32>,
    answers: FuturesUnordered<Answer>,
    patience: Patience,
    /// Taken, and not returned yet.
    ready: Vec<Fetched>,
}

type Answer = Pin<Box<dyn Future<Output = (i32, Result<FetchResponse, ClientError>)> + Send>>;

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("topic", &self.topic).field("positions", &self.positions).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Reads `partitions` (all, for None) of a topic.
    pub async fn open(cluster: Cluster, topic: &str, partitions: Option<&[i32]>, start: Start) -> Result<Consumer, ClientError> {
        let found = cluster.topic(topic, TOPIC_WAIT).await?;
        let wanted: Vec<i32> = partitions.map_or_else(|| found.leaders.keys().copied().collect(), <[i32]>::to_vec);
        if let Some(missing) = wanted.iter().find(|partition| !found.leaders.contains_key(partition)) {
            let last = found.leaders.keys().last().copied().unwrap_or(-1);
            return Err(ClientError::Records(format!("topic {topic} has no partition {missing}; its last is {last}")));
        }
        let positions = match start {
            Start::Offset(offset) => wanted.iter().map(|partition| (*partition, offset)).collect(),
            Start::Beginning => offsets(&cluster, topic, &wanted, -2).await?,
            Start::End => offsets(&cluster, topic, &wanted, -1).await?,
            Start::Time(ms) => at_time(&cluster, topic, &wanted, ms).await?,
        };
        Ok(Consumer {
            cluster,
            topic: topic.into(),
            positions,
            leaders: found.leaders,
            stale: false,
            connections: BTreeMap::new(),
            asked: BTreeSet::new(),
            answers: FuturesUnordered::new(),
            patience: Patience::default(),
            ready: Vec::new(),
        })
    }

    /// Goes on from these offsets in the partitions that are read; to be called before the first [`Consumer::poll`].
    pub fn resume(&mut self, offsets: &BTreeMap<i32, i64>) {
        for (partition, position) in &mut self.positions {
            *position = offsets.get(partition).copied().unwrap_or(*position);
        }
    }

    /// Next offset of each partition that is read: everything before it has been returned.
    pub fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    /// First offset of each partition that is not there yet.
    pub async fn end_offsets(&self) -> Result<BTreeMap<i32, i64>, ClientError> {
        let partitions: Vec<i32> = self.positions.keys().copied().collect();
        offsets(&self.cluster, &self.topic, &partitions, -1).await
    }

    /// The next records, in order within their partition; none where nothing new came within half a second. Safe to drop while it waits.
    pub async fn poll(&mut self) -> Result<Vec<Fetched>, ClientError> {
        if !self.ready.is_empty() {
            return Ok(std::mem::take(&mut self.ready));
        }
        loop {
            let asked = match self.stale {
                true => self.refresh().await,
                false => Ok(()),
            };
            let answered = match asked {
                Ok(()) => {
                    self.ask().await;
                    self.answers.next().await
                }
                Err(error) => {
                    self.patience.after(error).await?;
                    continue;
                }
            };
            let Some((leader, answer)) = answered else {
                self.stale = true;
                let headless = ClientError::of_code(format!("topic {}", self.topic), 5, None);
                self.patience.after(headless.unwrap_or_else(|| ClientError::Records("nothing to read".into()))).await?;
                continue;
            };
            self.asked.remove(&leader);
            match answer.and_then(|response| self.take(response)) {
                Ok(records) => {
                    self.patience = Patience::default();
                    // The next answer is on its way while the caller works on this one.
                    self.ready = records;
                    self.ask().await;
                    return Ok(std::mem::take(&mut self.ready));
                }
                Err(error) => {
                    self.connections.remove(&leader);
                    self.stale = true;
                    self.patience.after(error).await?;
                }
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), ClientError> {
        self.leaders = self.cluster.topic_once(&self.topic).await?.leaders;
        self.stale = false;
        Ok(())
    }

    /// Puts a question to every leader that has none; one that cannot be reached answers with the reason.
    async fn ask(&mut self) {
        let mut by_leader: BTreeMap<i32, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, offset) in &self.positions {
            if let Some(leader) = self.leaders.get(partition).copied().flatten() {
                let question = FetchPartition::default()
                    .with_partition(*partition)
                    .with_fetch_offset(*offset)
                    .with_partition_max_bytes(PARTITION_BYTES)
                    .with_current_leader_epoch(-1);
                by_leader.entry(leader).or_default().push(question);
            }
        }
        for (leader, questions) in by_leader {
            if self.asked.contains(&leader) {
                continue;
            }
            let answer: Answer = match self.connection(leader).await {
                Ok(connection) => {
                    let request = request(&self.topic, questions);
                    Box::pin(async move { (leader, fetch(connection, request).await) })
                }
                Err(error) => Box::pin(std::future::ready((leader, Err(error)))),
            };
            self.asked.insert(leader);
            self.answers.push(answer);
        }
    }

    /// Connections of their own: a long poll holds up whatever is asked behind it.
    async fn connection(&mut self, leader: i32) -> Result<Connection, ClientError> {
        if let Some(connection) = self.connections.get(&leader).filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let address = self
            .cluster
            .address_of(leader)
            .ok_or_else(|| ClientError::Unreachable { address: format!("node {leader}"), reason: "its address is not known".into() })?;
        let connection = self.cluster.dial(&address).await?;
        self.connections.insert(leader, connection.clone());
        Ok(connection)
    }

    fn take(&mut self, response: FetchResponse) -> Result<Vec<Fetched>, ClientError> {
        if let Some(error) = ClientError::of_code(format!("topic {}", self.topic), response.error_code, None) {
            return Err(error);
        }
        let mut records = Vec::new();
        let mut failed = None;
        for partition in response.responses.into_iter().flat_map(|topic| topic.partitions) {
            match self.take_partition(partition) {
                Ok(taken) => records.extend(taken),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // A moment's trouble of one partition does not hold back what others brought.
            Some(error) if records.is_empty() || !error.is_retriable() => Err(error),
            Some(_) => {
                self.stale = true;
                Ok(records)
            }
            None => Ok(records),
        }
    }

    fn take_partition(&mut self, data: PartitionData) -> Result<Vec<Fetched>, ClientError> {
        let Some(position) = self.positions.get_mut(&data.partition_index) else { return Ok(Vec::new()) };
        let what = || format!("topic {}, partition {}, offset {position}", self.topic, data.partition_index);
        if data.error_code == 1 {
            let within = format!("it holds {} to {}", data.log_start_offset, data.high_watermark);
            let within = Some(within).filter(|_| data.high_watermark >= 0);
            return Err(ClientError::of_code(what(), 1, within.as_deref()).unwrap_or_else(|| ClientError::Records(what())));
        }
        if let Some(error) = ClientError::of_code(what(), data.error_code, None) {
            return Err(error);
        }
        let decoded = batch::decode(data.partition_index, *position, data.records.unwrap_or_default())?;
        // Never back: a batch may begin before the position.
        *position = decoded.next_offset.unwrap_or(*position).max(*position);
        Ok(decoded.records)
    }
}

fn request(topic: &str, questions: Vec<FetchPartition>) -> FetchRequest {
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(questions);
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(ANSWER_BYTES)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

async fn fetch(connection: Connection, request: FetchRequest) -> Result<FetchResponse, ClientError> {
    connection.send(&request).await?.wait(ANSWER_TIMEOUT).await
}

async fn at_time(cluster: &Cluster, topic: &str, partitions: &[i32], ms: i64) -> Result<BTreeMap<i32, i64>, ClientError> {
    let mut found = offsets(cluster, topic, partitions, ms.max(0)).await?;
    let ends = offsets(cluster, topic, partitions, -1).await?;
    for (partition, offset) in found.iter_mut().filter(|(_, offset)| **offset < 0) {
        *offset = ends.get(partition).copied().unwrap_or(0);
    }
    Ok(found)
}

/// Asks the leaders for the offset at a time: −2 the first, −1 behind the last, else ms since 1970 (answered −1 where no record is so late).
pub async fn offsets(cluster: &Cluster, topic: &str, partitions: &[i32], time: i64) -> Result<BTreeMap<i32, i64>, ClientError> {
    let mut patience = Patience::default();
    let mut found = BTreeMap::new();
    while found.len() < partitions.len() {
        let missing: Vec<i32> = partitions.iter().copied().filter(|partition| !found.contains_key(partition)).collect();
        if let Err(error) = offsets_once(cluster, topic, &missing, time, &mut found).await {
            patience.after(error).await?;
        }
    }
    Ok(found)
}

async fn offsets_once(
    cluster: &Cluster,
    topic: &str,
    partitions: &[i32],
    time: i64,
    found: &mut BTreeMap<i32, i64>,
) -> Result<(), ClientError> {
    let leaders = cluster.topic_once(topic).await?.leaders;
    let mut by_leader: BTreeMap<Option<i32>, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for partition in partitions {
        let leader = leaders.get(partition).copied().flatten();
        let question = ListOffsetsPartition::default().with_partition_index(*partition).with_current_leader_epoch(-1).with_timestamp(time);
        by_leader.entry(leader).or_default().push(question);
    }
    let what = |partition: i32| format!("topic {topic}, partition {partition}");
    let mut failed = None;
    for (leader, questions) in by_leader {
        let Some(leader) = leader else {
            failed = ClientError::of_code(what(questions.first().map_or(0, |question| question.partition_index)), 5, None);
            continue;
        };
        let connection = cluster.node(leader).await?;
        let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(questions);
        let answered = connection.call(&ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![asked])).await;
        let response = answered.inspect_err(|_| cluster.forget(&connection))?;
        for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
            match ClientError::of_code(what(partition.partition_index), partition.error_code, None) {
                Some(error) => failed = Some(error),
                None => drop(found.insert(partition.partition_index, partition.offset)),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
