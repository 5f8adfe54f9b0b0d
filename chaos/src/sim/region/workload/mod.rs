//! What is done to a partition while the world breaks. A new workload is a function and a line in [`WORKLOADS`].

mod burst;
mod idempotent;
mod moves;
mod offer;
mod plain;
mod read;
mod transfer;
mod trim;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use meridian_raft::batch::records::{Record, encode};
use meridian_raft::batch::{Batch, BatchError};
use meridian_raft::partition::Partition;
use meridian_raft::{GroupId, NodeId};

use super::oracle::GroupOracle;
use super::placement::Placement;
use super::site::{Site, lock};
pub(super) use idempotent::Producer;

/// An append without an answer is given up after this time; a producer then sends it again.
const ANSWER_PATIENCE: Duration = Duration::from_millis(800);

/// Where a value tells its partition.
const PARTITION_BITS: u32 = 48;

/// One kind of client, at every replica of every partition. It runs until its node dies.
pub(in crate::sim) struct Workload {
    pub name: &'static str,
    /// Part of every run; the others are part of every second one.
    pub always: bool,
    pub run: fn(Place) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

pub(in crate::sim) const WORKLOADS: &[Workload] = &[
    Workload { name: "burst", always: false, run: |place| burst::append(place).boxed() },
    Workload { name: "idempotent", always: true, run: |place| idempotent::append(place).boxed() },
    Workload { name: "moves", always: true, run: |place| moves::carry_out(place).boxed() },
    Workload { name: "offer", always: true, run: |place| offer::offer(place).boxed() },
    Workload { name: "plain", always: true, run: |place| plain::append(place).boxed() },
    Workload { name: "read", always: true, run: |place| read::read(place).boxed() },
    Workload { name: "transfer", always: false, run: |place| transfer::transfer(place).boxed() },
    Workload { name: "trim", always: false, run: |place| trim::delete(place).boxed() },
    Workload { name: "watch", always: true, run: |place| watch::watch(place).boxed() },
];

/// A replica on a node that is up.
#[derive(Clone)]
pub(in crate::sim) struct Place {
    pub site: Site,
    pub partition: Partition,
    pub stream: Arc<Stream>,
}

/// What all replicas' clients of one partition share, across crashes.
#[derive(Debug, Default)]
pub(in crate::sim) struct Stream {
    pub values: Mutex<u64>,
    pub producer: Mutex<Producer>,
    pub placement: Mutex<Placement>,
    /// To whom the leader is to hand over at once.
    pub offer: Mutex<Option<NodeId>>,
}

impl Stream {
    pub fn new(replicas: Vec<NodeId>) -> Stream {
        Stream { placement: Mutex::new(Placement::new(replicas)), ..Stream::default() }
    }

    /// A node is down: whoever waited for its answer will never get one.
    pub fn forget(&self, node: NodeId) {
        lock(&self.producer).forget(node);
    }
}

impl Place {
    pub fn node(&self) -> NodeId {
        self.site.node
    }
    pub fn id(&self) -> GroupId {
        self.partition.id()
    }
    /// The partition's own `n`th value: no two partitions share one.
    fn value(&self, n: u64) -> u64 {
        (u64::from(self.id().partition.unsigned_abs()) << PARTITION_BITS) + n
    }
    /// Tells the oracle of this partition something.
    pub fn tell<T>(&self, what: impl FnOnce(&mut GroupOracle<'_>) -> T) -> T {
        what(&mut lock(&self.site.oracle).group(self.id()))
    }
}

/// All workloads of the run's profile at one replica.
pub(super) async fn act(place: Place) {
    let workloads = place.site.profile.workloads.clone();
    futures_util::future::join_all(workloads.into_iter().map(|workload| (workload.run)(place.clone()))).await;
}

/// A batch that tells its value.
fn value_batch(value: u64) -> Result<Batch, BatchError> {
    let padding = (value % 7) as usize * 150;
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + padding, b'.');
    encode(&[Record { key: None, value: Some(Bytes::from(bytes)), timestamp_ms: value as i64 }])
}
