//! Links: authenticated QUIC sessions between the nodes of two regions, carrying catalogues, heartbeats and mirror streams.
//!
//! The target dials: every node connects to every node of every other region ([`dialling`], [`session`]), and each accepts from all
//! ([`service`]). A mirror
//! runs from the node that leads a partition at home to the node that leads its copy; which node that is, heartbeats tell.
//!
//! What does not live here: which topics are mirrored and who may have them (`catalogue::Metadata`), and the logs (`meridian_raft`).

mod congestion;
mod dialling;
pub(crate) mod frame;
mod pulse;
mod service;
pub(crate) mod session;
mod tls;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_raft::GroupId;
use meridian_raft::env::Env;
use meridian_raft::node::Node;
use meridian_raft::partition::Partition;
use quinn::{Endpoint, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

use crate::catalogue::Metadata;
use crate::heartbeat::Freshness;
use crate::mirror::target;
use dialling::Dials;
use pulse::Tick;
use session::{Session, close};

/// Bytes of mirrored batches, all links together, that wait for this node's commits; in KiB.
const BUFFER_KIB: usize = 256 << 10;
/// How often new replicas of mirrored partitions are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time for the peers to learn that this node stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a node takes part in links.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    pub mesh: String,
    pub region: String,
    pub node_id: u64,
    pub listen: SocketAddr,
    /// Link addresses (`host:port`) of every other region, as far as known. No other region is linked.
    pub remote: BTreeMap<String, Vec<String>>,
    /// Dial the nodes that these regions tell of, too.
    pub discover: bool,
    /// PEM of the mesh's CA, of this node's certificate chain and of its key.
    pub ca_pem: Vec<u8>,
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot listen for links on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("link certificates: {0}")]
    Tls(String),
}

/// One mirrored partition that this node leads, as telemetry and `mesh status` tell it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MirrorStatus {
    pub topic: Uuid,
    pub partition: i32,
    pub home: String,
    /// First offset not yet committed here.
    pub end_offset: i64,
    /// The home's high watermark as last heard; None before the first heartbeat.
    pub home_end_offset: Option<i64>,
    /// `home_end_offset - end_offset`; while the link is cut, what was missing when it was last heard.
    pub lag_records: Option<i64>,
    /// How old the mirror may be, ms: everything committed at home longer ago than this is here, as far as both regions' clocks agree. Grows
    /// while the link is cut. None before the first heartbeat.
    pub staleness_ms: Option<i64>,
    /// A heartbeat of the partition's leader came within the last second.
    pub connected: bool,
    /// Why the mirror does not run, if it does not: the logs disagree, the home refuses, the copy cannot be appended to.
    #[serde(default)]
    pub error: Option<String>,
    /// Records that the home let go of before they came here, since this node started: the mirror has none of them.
    #[serde(default)]
    pub skipped_records: i64,
}

/// One node of a remote region as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerStatus {
    pub region: String,
    pub address: String,
    pub connected: bool,
    pub rtt_us: Option<u64>,
    /// UDP payload since this node started.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Why the last attempt failed, while not connected.
    pub error: Option<String>,
}

/// All links of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: LinkConfig,
    pub(crate) raft: Node,
    pub(crate) metadata: Arc<dyn Metadata>,
    pub(crate) env: Env,
    pub(crate) endpoint: Endpoint,
    /// Changes when some session's claims do.
    pub(crate) claims: watch::Sender<u64>,
    pub(crate) pulse: watch::Sender<Arc<Tick>>,
    /// Replicas here of partitions with another home.
    pub(crate) mirrors: Mutex<BTreeMap<GroupId, Mirrored>>,
    sessions: Mutex<BTreeMap<u64, Arc<Session>>>,
    session_ids: AtomicU64,
    dials: Dials,
    buffers: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
}

/// One replica of a mirrored partition.
#[derive(Debug)]
pub(crate) struct Mirrored {
    home: String,
    partition: Partition,
    freshness: Freshness,
    pub(crate) error: Option<String>,
    /// What the home let go of before it came here.
    pub(crate) skipped_records: i64,
    task: AbortHandle,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    /// Listens, dials every remote address, and keeps dialling.
    pub async fn start(config: LinkConfig, raft: Node, metadata: Arc<dyn Metadata>, env: Env) -> Result<Links, LinkError> {
        let endpoint = transport::endpoint(config.listen, &tls::load(&config)?)?;
        let inner = Arc::new(Inner {
            config,
            raft,
            metadata,
            env,
            endpoint,
            claims: watch::Sender::new(0),
            pulse: watch::Sender::default(),
            mirrors: Mutex::default(),
            sessions: Mutex::default(),
            session_ids: AtomicU64::new(1),
            dials: Dials::default(),
            buffers: Arc::new(Semaphore::new(BUFFER_KIB)),
            tasks: Mutex::default(),
        });
        inner.spawn(service::accept(inner.clone()));
        inner.spawn(pulse::beat(inner.clone()));
        inner.spawn(follow_mirrors(inner.clone()));
        inner.spawn(dialling::dial_all(inner.clone()));
        Ok(Links { inner })
    }

    /// Where links are accepted; tells the port when the configuration asked for any.
    pub fn address(&self) -> Option<SocketAddr> {
        self.inner.endpoint.local_addr().ok()
    }

    /// Mirrored partitions whose copy this node leads.
    pub fn mirrors(&self) -> Vec<MirrorStatus> {
        let now_us = self.inner.env.clock.wall_us();
        let mut mirrors = lock(&self.inner.mirrors);
        let led = mirrors.iter_mut().filter(|(_, mirror)| mirror.partition.leadership().is_leader);
        led.map(|(group, mirror)| self.inner.status(*group, mirror, now_us)).collect()
    }

    /// Every remote address that this node dials.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner.dials.status()
    }

    /// Closes every connection. Idempotent.
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        tasks.shutdown().await;
        lock(&self.inner.mirrors).values().for_each(|mirror| mirror.task.abort());
        self.inner.endpoint.close(VarInt::from_u32(close::STOPPED), b"the node stops");
        let _ = tokio::time::timeout(GOODBYE, self.inner.endpoint.wait_idle()).await;
        lock(&self.inner.sessions).clear();
        lock(&self.inner.mirrors).clear();
    }
}

impl Inner {
    /// Runs a task until it ends or the links are shut down.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    /// Waits until so many bytes more may wait for commits here.
    pub(crate) async fn admit(&self, bytes: usize) -> OwnedSemaphorePermit {
        let wanted = (bytes / 1024 + 1).min(BUFFER_KIB);
        loop {
            // The semaphore is never closed; were it, there would be nothing left to admit to.
            match self.buffers.clone().acquire_many_owned(wanted as u32).await {
                Ok(permit) => return permit,
                Err(_) => std::future::pending::<()>().await,
            }
        }
    }

    pub(crate) fn claims_changed(&self) {
        self.claims.send_modify(|version| *version += 1);
    }

    /// The session whose peer leads the partition at home, by the highest epoch.
    pub(crate) fn source_of(&self, home: &str, group: GroupId) -> Option<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let claiming = sessions.values().filter(|session| session.region == home).filter_map(|session| {
            let (claim, _) = session.claim(group)?;
            Some((claim.epoch, session))
        });
        claiming.max_by_key(|(epoch, _)| *epoch).map(|(_, session)| session.clone())
    }

    /// A source vouches for a pair of high watermark and closed time.
    pub(crate) fn note(&self, group: GroupId, pair: (i64, i64)) {
        if let Some(mirror) = lock(&self.mirrors).get_mut(&group) {
            let end = mirror.partition.high_watermark();
            mirror.freshness.note(pair);
            mirror.freshness.reached_us(end);
        }
    }

    /// The home agreed to send.
    pub(crate) fn opened(&self, group: GroupId) {
        if let Some(mirror) = lock(&self.mirrors).get_mut(&group) {
            mirror.error = None;
        }
    }

    fn status(&self, group: GroupId, mirror: &mut Mirrored, now_us: i64) -> MirrorStatus {
        let end_offset = mirror.partition.high_watermark();
        let mut connected = false;
        if let Some(session) = self.source_of(&mirror.home, group)
            && let Some((_, pair)) = session.claim(group)
        {
            connected = session.is_fresh();
            mirror.freshness.note(pair);
        }
        let home_end_offset = mirror.freshness.home_end();
        // Append times grow along a partition: the last batch here vouches for its own time.
        let held = mirror.partition.last_committed().map(|(_, append_time_us)| append_time_us);
        let reached_us = mirror.freshness.reached_us(end_offset).max(held).filter(|_| home_end_offset.is_some());
        MirrorStatus {
            topic: group.topic,
            partition: group.partition,
            home: mirror.home.clone(),
            end_offset,
            home_end_offset,
            lag_records: home_end_offset.map(|home_end| (home_end - end_offset).max(0)),
            staleness_ms: reached_us.map(|reached_us| (now_us.saturating_sub(reached_us)).max(0) / 1000),
            connected,
            error: mirror.error.clone(),
            skipped_records: mirror.skipped_records,
        }
    }
}

/// Starts a follower for every replica here whose topic has another home, and stops those whose topic is gone.
async fn follow_mirrors(inner: Arc<Inner>) {
    let mut changes = inner.metadata.watch_changes();
    loop {
        reconcile(&inner);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn reconcile(inner: &Arc<Inner>) {
    let mut wanted = BTreeSet::new();
    for home in inner.config.remote.keys() {
        for (topic, partitions) in inner.metadata.mirrored_from(home) {
            for partition in 0..partitions {
                let group = GroupId { topic, partition };
                let Some(partition) = inner.raft.partition(group).filter(|partition| partition.spec().mirror) else { continue };
                wanted.insert(group);
                let mut mirrors = lock(&inner.mirrors);
                if mirrors.get(&group).is_some_and(|mirror| mirror.home == *home && !mirror.task.is_finished()) {
                    continue;
                }
                let task = inner.spawn(target::follow(inner.clone(), home.clone(), partition.clone()));
                let mirror =
                    Mirrored { home: home.clone(), partition, freshness: Freshness::default(), error: None, skipped_records: 0, task };
                if let Some(replaced) = mirrors.insert(group, mirror) {
                    replaced.task.abort();
                }
            }
        }
    }
    lock(&inner.mirrors).retain(|group, mirror| {
        let keep = wanted.contains(group);
        if !keep {
            mirror.task.abort();
        }
        keep
    });
}
