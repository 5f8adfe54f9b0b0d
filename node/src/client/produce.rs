//! Writing: an idempotent producer. Records are batched per partition, several batches are under way at once, and a batch that is sent again
//! keeps its sequence, so that it is stored once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::batch::{self, Record, Sequence};
use super::cluster::{Cluster, Patience, topic_name};
use super::connection::Connection;
use super::partitioner::{Sticky, of_key};
use super::{ClientError, partitioner};

/// A batch is sent once it has so many bytes; a default topic takes 1 MiB.
const BATCH_BYTES: usize = 256 << 10;
/// Batches of one partition under way at once: a leader remembers the last five of a producer.
const IN_FLIGHT_MAX: usize = 5;
/// Records of one partition that wait to be batched. More and the caller waits.
const QUEUED_MAX: usize = 4_096;
/// A batch that is not acknowledged for so long is reported; whether it was stored is then unknown.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a leader may take to have a batch on a majority of disks.
const COMMIT_TIMEOUT_MS: i32 = 30_000;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// How long a topic made a moment ago may take to have leaders.
const TOPIC_WAIT: Duration = Duration::from_secs(10);

/// Writes to one topic.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    sticky: Sticky,
}

/// What became of all records given to a producer.
#[derive(Debug)]
pub struct Delivery {
    pub acknowledged: u64,
    pub given: u64,
    /// The first that went wrong.
    pub error: Option<ClientError>,
}

#[derive(Debug)]
struct Lane {
    partition: i32,
    records: mpsc::Sender<Record>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    topic: String,
    linger: Duration,
    producer_id: i64,
    producer_epoch: i16,
    given: AtomicU64,
    acknowledged: AtomicU64,
    failed: OnceLock<ClientError>,
}

impl Producer {
    /// `linger` is how long a record waits for others to share its batch.
    pub async fn open(cluster: Cluster, topic: &str, linger: Duration) -> Result<Producer, ClientError> {
        let found = cluster.topic(topic, TOPIC_WAIT).await?;
        let (producer_id, producer_epoch) = producer_id(&cluster).await?;
        let shared = Arc::new(Shared {
            cluster,
            topic: topic.into(),
            linger,
            producer_id,
            producer_epoch,
            given: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            failed: OnceLock::new(),
        });
        let lanes = found.leaders.keys().map(|partition| Lane::start(shared.clone(), *partition)).collect();
        // Producers start at different partitions, so that short ones do not all write to the first.
        let first = partitioner::murmur2(&producer_id.to_be_bytes()) as usize;
        Ok(Producer { shared, lanes, sticky: Sticky::new(first, BATCH_BYTES) })
    }

    /// Queues a record, for `partition` or where its key belongs. Waits while the partition is busy. Fails once any record has failed.
    pub async fn send(&mut self, record: Record, partition: Option<i32>) -> Result<(), ClientError> {
        if let Some(error) = self.shared.failed.get() {
            return Err(error.clone());
        }
        let lane = match (partition, &record.key) {
            (Some(partition), _) => self.lanes.iter().find(|lane| lane.partition == partition),
            (None, Some(key)) => self.lanes.get(of_key(key, self.lanes.len())),
            (None, None) => self.lanes.get(self.sticky.next(batch::size(&record), self.lanes.len())),
        };
        self.shared.given.fetch_add(1, Ordering::Relaxed);
        let Some(lane) = lane else {
            let last = self.lanes.last().map_or(-1, |lane| lane.partition);
            let what = format!("topic {} has no partition {}; its last is {last}", self.shared.topic, partition.unwrap_or(0));
            // A record given and not stored is a failure of the whole, like any other.
            self.shared.fail(ClientError::Records(what));
            return Err(self.shared.error());
        };
        lane.records.send(record).await.map_err(|_| self.shared.error())
    }

    /// How many records are on a majority of disks.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends what is queued and waits for every answer.
    pub async fn finish(self) -> Delivery {
        let Producer { shared, lanes, .. } = self;
        let mut tasks = Vec::new();
        for lane in lanes {
            drop(lane.records);
            tasks.push(lane.task);
        }
        for task in tasks {
            if let Err(error) = task.await {
                shared.fail(ClientError::Records(format!("a partition's task ended: {error}")));
            }
        }
        Delivery {
            acknowledged: shared.acknowledged.load(Ordering::Relaxed),
            given: shared.given.load(Ordering::Relaxed),
            error: shared.failed.get().cloned(),
        }
    }
}

impl Shared {
    fn fail(&self, error: ClientError) {
        // The first error is the one to report.
        let _ = self.failed.set(error);
    }

    fn error(&self) -> ClientError {
        self.failed.get().cloned().unwrap_or_else(|| ClientError::Records("the producer has ended".into()))
    }
}

async fn producer_id(cluster: &Cluster) -> Result<(i64, i16), ClientError> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let mut patience = Patience::default();
    loop {
        let response = cluster.ask(&request).await?;
        match ClientError::of_code("a producer id", response.error_code, None) {
            None => return Ok((response.producer_id.0, response.producer_epoch)),
            Some(error) => patience.after(error).await?,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<ProduceResponse, ClientError>> + Send>>;

/// A batch without an answer yet.
struct InFlight {
    batch: Bytes,
    count: u64,
    answer: Answer,
}

/// One partition's way: records in, batches out, answers in order.
struct Way {
    shared: Arc<Shared>,
    partition: i32,
    records: mpsc::Receiver<Record>,
    closed: bool,
    pending: Vec<Record>,
    pending_bytes: usize,
    /// When the pending records are sent even though they fill no batch.
    send_at: Instant,
    next_sequence: i32,
    in_flight: VecDeque<InFlight>,
    connection: Option<Connection>,
    patience: Patience,
}

impl Lane {
    fn start(shared: Arc<Shared>, partition: i32) -> Lane {
        let (sender, records) = mpsc::channel(QUEUED_MAX);
        let way = Way {
            shared: shared.clone(),
            partition,
            records,
            closed: false,
            pending: Vec::new(),
            pending_bytes: 0,
            send_at: Instant::now(),
            next_sequence: 0,
            in_flight: VecDeque::new(),
            connection: None,
            patience: Patience::of(DELIVERY_TIMEOUT),
        };
        let task = tokio::spawn(async move {
            if let Err(error) = way.run().await {
                shared.fail(error);
            }
        });
        Lane { partition, records: sender, task }
    }
}

impl Way {
    async fn run(mut self) -> Result<(), ClientError> {
        loop {
            let is_due = !self.pending.is_empty() && (self.closed || self.pending_bytes >= BATCH_BYTES || Instant::now() >= self.send_at);
            if is_due && self.in_flight.len() < IN_FLIGHT_MAX {
                self.dispatch().await?;
                continue;
            }
            if self.closed && self.pending.is_empty() && self.in_flight.is_empty() {
                return Ok(());
            }
            let takes = !self.closed && self.pending_bytes < BATCH_BYTES;
            let lingers = !self.pending.is_empty() && !is_due;
            tokio::select! {
                record = self.records.recv(), if takes => self.take(record),
                () = tokio::time::sleep_until(self.send_at), if lingers => {}
                answered = front(&mut self.in_flight), if !self.in_flight.is_empty() => self.answered(answered).await?,
            }
        }
    }

    fn take(&mut self, record: Option<Record>) {
        let Some(record) = record else {
            self.closed = true;
            return;
        };
        if self.pending.is_empty() {
            self.send_at = Instant::now() + self.shared.linger;
        }
        self.pending_bytes += batch::size(&record);
        self.pending.push(record);
    }

    async fn dispatch(&mut self) -> Result<(), ClientError> {
        let records = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let sequence = Sequence {
            producer_id: self.shared.producer_id,
            producer_epoch: self.shared.producer_epoch,
            base_sequence: self.next_sequence,
        };
        let batch = batch::encode(&records, sequence)?;
        // Sequences wrap to 0 behind i32::MAX, as Kafka's do.
        self.next_sequence = ((i64::from(self.next_sequence) + records.len() as i64) & i64::from(i32::MAX)) as i32;
        if self.in_flight.is_empty() {
            self.patience = Patience::of(DELIVERY_TIMEOUT);
        }
        let answer = self.put(&batch).await;
        self.in_flight.push_back(InFlight { batch, count: records.len() as u64, answer });
        Ok(())
    }

    /// Puts a batch on its way; a connection that cannot be had is the answer.
    async fn put(&mut self, batch: &Bytes) -> Answer {
        match self.try_put(batch).await {
            Ok(answer) => answer,
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    async fn try_put(&mut self, batch: &Bytes) -> Result<Answer, ClientError> {
        let connection = match &self.connection {
            Some(connection) if !connection.is_closed() => connection.clone(),
            _ => self.leader().await?,
        };
        let data = PartitionProduceData::default().with_index(self.partition).with_records(Some(batch.clone()));
        let topic = TopicProduceData::default().with_name(topic_name(&self.shared.topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(COMMIT_TIMEOUT_MS)
            .with_topic_data(vec![topic]);
        let reply = connection.send(&request).await?;
        Ok(Box::pin(reply.wait(ANSWER_TIMEOUT)))
    }

    async fn leader(&mut self) -> Result<Connection, ClientError> {
        let topic = self.shared.cluster.topic_once(&self.shared.topic).await?;
        let leader = topic.leaders.get(&self.partition).copied().flatten();
        let leader = leader.ok_or_else(|| self.error(ResponseError::LeaderNotAvailable.code(), None))?;
        let connection = self.shared.cluster.node(leader).await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    fn error(&self, code: i16, message: Option<&str>) -> ClientError {
        let what = format!("topic {}, partition {}", self.shared.topic, self.partition);
        ClientError::of_code(what, code, message).unwrap_or_else(|| ClientError::Records("an answer without a result".into()))
    }

    async fn answered(&mut self, answered: Result<ProduceResponse, ClientError>) -> Result<(), ClientError> {
        let result = answered.and_then(|response| self.judge(&response));
        match result {
            Ok(()) => {
                if let Some(done) = self.in_flight.pop_front() {
                    self.shared.acknowledged.fetch_add(done.count, Ordering::Relaxed);
                }
                self.patience = Patience::of(DELIVERY_TIMEOUT);
                Ok(())
            }
            Err(error) => self.again(error).await,
        }
    }

    fn judge(&self, response: &ProduceResponse) -> Result<(), ClientError> {
        let partition = response.responses.iter().flat_map(|topic| &topic.partition_responses).find(|found| found.index == self.partition);
        let partition = partition.ok_or_else(|| ClientError::Records("the answer leaves the partition out".into()))?;
        // A sequence that the leader has seen and forgotten the offset of is stored all the same.
        if partition.error_code == 0 || partition.error_code == ResponseError::DuplicateSequenceNumber.code() {
            return Ok(());
        }
        let of_record = partition.record_errors.first().and_then(|record| record.batch_index_error_message.as_deref());
        Err(self.error(partition.error_code, partition.error_message.as_deref().or(of_record)))
    }

    /// Sends everything without an answer again, in order and with the same sequences.
    async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if let Some(connection) = self.connection.take()
            && matches!(error, ClientError::Deadline { .. } | ClientError::Lost { .. })
        {
            self.shared.cluster.forget(&connection);
        }
        self.patience.after(error).await?;
        let batches: Vec<_> = self.in_flight.drain(..).map(|waiting| (waiting.batch, waiting.count)).collect();
        for (batch, count) in batches {
            let answer = self.put(&batch).await;
            self.in_flight.push_back(InFlight { batch, count, answer });
        }
        Ok(())
    }
}

/// The answer to the oldest batch. Only called while there is one.
async fn front(in_flight: &mut VecDeque<InFlight>) -> Result<ProduceResponse, ClientError> {
    match in_flight.front_mut() {
        Some(oldest) => (&mut oldest.answer).await,
        None => std::future::pending().await,
    }
}
