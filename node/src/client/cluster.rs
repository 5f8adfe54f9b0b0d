//! A region's nodes as a client sees them: found from a few addresses, asked again elsewhere when one is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use rustls::ClientConfig;
use tokio::time::Instant;

use super::ClientError;
use super::connection::Connection;

/// Largest token file read.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// How long a question that a moment may heal is asked again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts: doubled from the first to the last.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where the token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// Read at each connection, so that a renewed token is picked up.
    File(PathBuf),
    Text(Token),
}

/// A token that does not print itself.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl From<String> for Token {
    fn from(text: String) -> Token {
        Token(text)
    }
}

impl TokenSource {
    pub fn read(&self) -> Result<String, ClientError> {
        use std::io::Read;
        match self {
            TokenSource::Text(token) => Ok(token.0.clone()),
            TokenSource::File(path) => {
                let mut text = String::new();
                let read = std::fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
                read.map_err(|error| ClientError::Token { path: path.clone(), reason: error.to_string() })?;
                Ok(text.trim().to_owned())
            }
        }
    }
}

/// How to reach a region.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of some nodes; one that answers is enough.
    pub bootstrap: Vec<String>,
    pub tls: Arc<ClientConfig>,
    pub token: TokenSource,
    pub client_id: String,
}

/// A region's nodes. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: BTreeMap<i32, String>,
    connections: BTreeMap<String, Connection>,
}

/// A topic and who leads its partitions, None where nobody does.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub leaders: BTreeMap<i32, Option<i32>>,
}

/// Attempts with growing pauses, until a deadline.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience::of(PATIENCE)
    }
}

impl Patience {
    pub fn of(total: Duration) -> Patience {
        Patience { until: Instant::now() + total, pause: BACKOFF_MIN }
    }

    /// Pauses before the next attempt; the error itself where it is final or the time is over.
    pub async fn after(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() || Instant::now() + self.pause > self.until {
            return Err(error);
        }
        tracing::debug!(%error, "again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

impl Cluster {
    pub fn new(settings: Settings) -> Cluster {
        Cluster { inner: Arc::new(Inner { settings, known: Mutex::default() }) }
    }

    fn known<T>(&self, read: impl FnOnce(&mut Known) -> T) -> T {
        read(&mut self.inner.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new connection that is not shared, for questions that wait long.
    pub async fn dial(&self, address: &str) -> Result<Connection, ClientError> {
        let settings = &self.inner.settings;
        Connection::open(address, settings.tls.clone(), &settings.token.read()?, &settings.client_id).await
    }

    pub fn address_of(&self, node: i32) -> Option<String> {
        self.known(|known| known.addresses.get(&node).cloned())
    }

    async fn at(&self, address: &str) -> Result<Connection, ClientError> {
        let open = self.known(|known| known.connections.get(address).filter(|connection| !connection.is_closed()).cloned());
        if let Some(connection) = open {
            return Ok(connection);
        }
        let connection = self.dial(address).await?;
        Ok(self.known(|known| {
            // Two may have dialled at once: one connection is kept, so that questions stay in one order.
            let kept = known.connections.get(address).filter(|kept| !kept.is_closed()).cloned();
            kept.unwrap_or_else(|| {
                known.connections.insert(address.to_owned(), connection.clone());
                connection
            })
        }))
    }

    /// The connection to one node, whose address metadata have told.
    pub async fn node(&self, node: i32) -> Result<Connection, ClientError> {
        let address = self
            .address_of(node)
            .ok_or_else(|| ClientError::Unreachable { address: format!("node {node}"), reason: "its address is not known".into() })?;
        self.at(&address).await
    }

    /// Gives up a connection that does not answer.
    pub fn forget(&self, connection: &Connection) {
        self.known(|known| known.connections.remove(connection.address()));
    }

    /// A connection to any node: an open one, else the first that can be opened.
    pub async fn any(&self) -> Result<Connection, ClientError> {
        let open = self.known(|known| known.connections.values().find(|connection| !connection.is_closed()).cloned());
        if let Some(connection) = open {
            return Ok(connection);
        }
        let mut addresses = self.inner.settings.bootstrap.clone();
        addresses.extend(self.known(|known| known.addresses.values().cloned().collect::<Vec<_>>()));
        let mut last = "no address is given".to_owned();
        for address in &addresses {
            match self.at(address).await {
                Ok(connection) => return Ok(connection),
                // Another node would judge the token alike.
                Err(error @ (ClientError::Refused { .. } | ClientError::Token { .. })) => return Err(error),
                Err(error) => last = error.to_string(),
            }
        }
        Err(ClientError::NoNode { addresses: self.inner.settings.bootstrap.join(","), last })
    }

    /// Asks any node, again and elsewhere while the connection fails. What the answer's own error codes mean is the caller's to judge.
    pub async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let mut patience = Patience::default();
        loop {
            let error = match self.ask_once(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            // At the first question, a mesh that is not there is the likelier reason than one that is about to come.
            if matches!(error, ClientError::NoNode { .. }) && self.known(|known| known.addresses.is_empty()) {
                return Err(error);
            }
            patience.after(error).await?;
        }
    }

    async fn ask_once<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let connection = self.any().await?;
        let answered = connection.call(request).await;
        if answered.is_err() {
            self.forget(&connection);
        }
        answered
    }

    /// Nodes, and the topics named (all that the principal may see, for None).
    pub async fn metadata(&self, topics: Option<&[&str]>) -> Result<MetadataResponse, ClientError> {
        let topics = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let response = self.ask(&MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false)).await?;
        self.known(|known| {
            known.addresses =
                response.brokers.iter().map(|broker| (broker.node_id.0, format!("{}:{}", broker.host.as_str(), broker.port))).collect();
        });
        Ok(response)
    }

    /// Who leads a topic's partitions, asked once.
    pub async fn topic_once(&self, name: &str) -> Result<Topic, ClientError> {
        let response = self.metadata(Some(&[name])).await?;
        let topic = response.topics.into_iter().next().unwrap_or_default();
        match ClientError::of_code(format!("topic {name}"), topic.error_code, None) {
            Some(error) => Err(error),
            None => Ok(Topic { name: name.into(), leaders: leaders(&topic) }),
        }
    }

    /// Who leads a topic's partitions; waits a little for a topic that is about to appear and for its first leaders.
    pub async fn topic(&self, name: &str, appears_within: Duration) -> Result<Topic, ClientError> {
        let mut patience = Patience::of(appears_within);
        loop {
            let error = match self.topic_once(name).await {
                Ok(topic) if topic.leaders.values().all(Option::is_some) && !topic.leaders.is_empty() => return Ok(topic),
                Ok(topic) => no_leader(&topic),
                Err(error) => error,
            };
            patience.after(error).await?;
        }
    }
}

fn no_leader(topic: &Topic) -> ClientError {
    let headless: Vec<_> =
        topic.leaders.iter().filter(|(_, leader)| leader.is_none()).map(|(partition, _)| partition.to_string()).collect();
    ClientError::Kafka {
        what: format!("topic {}, partitions {}", topic.name, headless.join(",")),
        error: kafka_protocol::error::ResponseError::LeaderNotAvailable,
        message: None,
    }
}

fn leaders(topic: &MetadataResponseTopic) -> BTreeMap<i32, Option<i32>> {
    let leader = |id: i32| Some(id).filter(|id| *id >= 0);
    topic.partitions.iter().map(|partition| (partition.partition_index, leader(partition.leader_id.0))).collect()
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
