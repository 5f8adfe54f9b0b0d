//! The node's lives, and who remembers them: a data folder that comes back lost, damaged or older than it was is found out before it votes.
//!
//! The meta log counts its node's starts (boots) and, while votes or commit indexes change, twice a second a beat. Both are made durable before
//! peers are told, and peers keep what they were told. A node that starts asks them; until enough have answered it neither votes nor follows.
//! A node of which a peer remembers more than its own meta log does has lost votes: its groups take part again one by one, each once all other
//! voters have said which terms they know, and once its log holds what the group's leader has ([`super::losses`], [`crate::repair`]).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::Instant;

use super::losses::{Owed, note_loss};
use super::{Node, NodeConfig, NodeWeak, read};
use crate::env::Env;
use crate::group::Group;
use crate::peer::frame::{Kind, Request};
use crate::writer::Writer;
use crate::{GroupId, NodeId};

/// How often the beat is raised where anything of weight has changed, and peers are told.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Between two questions to a peer that has not answered yet.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// One that takes part waits for no answer longer: a peer out of reach must not keep the others from hearing of the next beat in time.
const TELL_DEADLINE: Duration = Duration::from_millis(250);
/// How long a node that starts waits for the word of *all* others before that of half of them has to do.
const ALL_PATIENCE: Duration = Duration::from_secs(1);
pub(super) const BOOTS_KEY: &[u8] = b"boots";
const MOMENT_BYTES: usize = 3 * 8;
const TELLING_BYTES: usize = 8 + 2 * MOMENT_BYTES + 1;

/// A moment in a node's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub boots: u64,
    pub beat: u64,
    /// Drawn anew by every life: a folder that was emptied counts from the beginning, and must not be taken for the one before.
    pub life: u64,
}

impl Moment {
    /// Whether this may have come before `later`, or is it: the numbers alone do not say, lives do.
    fn leads_to(self, later: Moment) -> bool {
        self.boots < later.boots || (self.boots == later.boots && self.life == later.life && self.beat <= later.beat)
    }
}

/// What a node tells of itself, and asks to have compared with what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Telling {
    pub node: NodeId,
    pub now: Moment,
    /// Where its meta log ended when it started.
    pub began_at: Moment,
    /// It knows that it has lost votes: it asks only what number its life must have.
    pub lost: bool,
}

/// What a peer says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub remembered: Moment,
    pub stale: bool,
    /// The peer's own data folder was empty when it started: it cannot have forgotten anybody.
    pub new: bool,
}

impl Telling {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(TELLING_BYTES);
        bytes.put_u64(self.node);
        bytes.put_slice(&value(self.now));
        bytes.put_slice(&value(self.began_at));
        bytes.put_u8(u8::from(self.lost));
        bytes.freeze()
    }

    pub fn decode(mut bytes: Bytes) -> Option<Telling> {
        if bytes.len() != TELLING_BYTES {
            return None;
        }
        let mut word = || bytes.get_u64();
        let (node, now) = (word(), Moment { boots: word(), beat: word(), life: word() });
        let began_at = Moment { boots: word(), beat: word(), life: word() };
        Some(Telling { node, now, began_at, lost: bytes.get_u8() != 0 })
    }
}

impl Verdict {
    fn encode(self) -> Vec<u8> {
        [value(self.remembered).as_slice(), &[u8::from(self.stale), u8::from(self.new)]].concat()
    }

    fn decode(mut bytes: Bytes) -> Option<Verdict> {
        if bytes.len() != MOMENT_BYTES + 2 {
            return None;
        }
        let remembered = Moment { boots: bytes.get_u64(), beat: bytes.get_u64(), life: bytes.get_u64() };
        Some(Verdict { remembered, stale: bytes.get_u8() != 0, new: bytes.get_u8() != 0 })
    }
}

fn moment(writer: &Writer, key: &[u8]) -> Moment {
    let value = writer.meta(key.to_vec()).unwrap_or_default();
    let word = |at: usize| value.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Moment { boots: word(0), beat: word(8), life: word(16) }
}

fn value(moment: Moment) -> Vec<u8> {
    [moment.boots.to_be_bytes(), moment.beat.to_be_bytes(), moment.life.to_be_bytes()].concat()
}

fn peer_key(peer: NodeId) -> Vec<u8> {
    [b"peer".as_slice(), &peer.to_be_bytes()].concat()
}

fn beat_key(peer: NodeId) -> Vec<u8> {
    [b"beat".as_slice(), &peer.to_be_bytes()].concat()
}

/// This life, and whether it may take part.
#[derive(Debug)]
pub(crate) struct Lives {
    began_at: Moment,
    boots: AtomicU64,
    life: u64,
    /// As durable.
    beat: AtomicU64,
    /// May its groups vote, lead, follow?
    takes_part: watch::Sender<bool>,
    pub(super) deciding: tokio::sync::Mutex<()>,
    pub(super) owed: Owed,
    /// Votes were found lost in this life.
    lost: AtomicBool,
    /// Replicas are being closed over lost votes.
    withdrawing: AtomicBool,
}

/// Opens the meta log. One that is corrupt inside, or missing beside logs, is lost: what is left of it is kept as `meta.damaged`.
pub(super) fn open_writer(env: &Env, config: &NodeConfig) -> io::Result<(Writer, Option<&'static str>)> {
    let (path, logs) = (config.data_dir.join("meta.log"), config.data_dir.join("logs"));
    let orphaned = !env.disk.exists(&path) && env.disk.exists(&logs) && !env.disk.list(&logs)?.is_empty();
    match Writer::start(env, &config.data_dir) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            env.disk.rename(&path, &config.data_dir.join("meta.damaged"))?;
            env.disk.sync_dir(&config.data_dir)?;
            Ok((Writer::start(env, &config.data_dir)?, Some("the meta log is corrupt")))
        }
        started => Ok((started?, orphaned.then_some("the meta log is missing"))),
    }
}

impl Lives {
    /// Begins a life, durably.
    pub(super) async fn begin(env: &Env, writer: &Writer, lost: Option<&'static str>) -> io::Result<Lives> {
        super::trust::audit(writer);
        let began_at = moment(writer, BOOTS_KEY);
        let now = Moment { boots: began_at.boots + 1, beat: 0, life: env.random.next_u64() };
        if let Some(reason) = lost {
            tracing::error!(reason, "this node has lost votes: no group takes part before its peers have brought it up to date");
            note_loss(writer).await?;
        }
        writer.save_meta(BOOTS_KEY.to_vec(), Some(value(now))).await?;
        let (boots, beat) = (AtomicU64::new(now.boots), AtomicU64::new(0));
        let lost = AtomicBool::new(lost.is_some());
        Ok(Lives {
            lost,
            began_at,
            owed: Owed::read(writer),
            life: now.life,
            boots,
            beat,
            takes_part: watch::Sender::new(false),
            deciding: Default::default(),
            withdrawing: AtomicBool::new(false),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.takes_part.subscribe()
    }

    /// The data folder was empty when this life began.
    fn is_new(&self) -> bool {
        self.began_at.boots == 0
    }

    fn now(&self) -> Moment {
        Moment { boots: self.boots.load(Ordering::Relaxed), beat: self.beat.load(Ordering::Relaxed), life: self.life }
    }
}

impl Node {
    /// False until enough peers have said that this node's data folder is as they remember it, and while replicas are closed because it is not.
    pub fn takes_part(&self) -> bool {
        *self.inner.lives.takes_part.borrow()
    }

    /// A peer tells of its life: what is remembered of it, and whether that is more than it knows itself.
    /// A new life is remembered durably before it is answered: the peer may do what it must not forget as soon as it has the answer.
    pub(crate) async fn remembers(&self, telling: Telling) -> io::Result<Vec<u8>> {
        let Telling { node, now, began_at, lost } = telling;
        let remembered = moment(&self.inner.writer, &peer_key(node)).max(moment(&self.inner.writer, &beat_key(node)));
        // Of an earlier life only what it found at its start counts; of this one it knows better than anyone.
        let stale = !lost && !remembered.leads_to(if now.boots == remembered.boots { now } else { began_at });
        let forgotten = lost && now.boots <= remembered.boots;
        if !stale && !forgotten && now > remembered {
            if now.boots > remembered.boots {
                self.inner.writer.save_meta(peer_key(node), Some(value(now))).await?;
            } else {
                self.inner.writer.save_meta_lazily(beat_key(node), value(now));
            }
        }
        Ok(Verdict { remembered, stale, new: self.inner.lives.is_new() }.encode())
    }

    /// Waits a little for the word of the peers: whoever opens a log that is found lost later has to close it again.
    pub(super) async fn await_clearance(&self, patience: Duration) {
        let mut takes_part = self.inner.lives.watch();
        let _ = tokio::time::timeout(patience, takes_part.wait_for(|takes_part| *takes_part)).await;
    }

    async fn tell(&self, peer: NodeId) -> Option<Verdict> {
        let began_at = self.inner.lives.began_at;
        // Only a loss of this very life: an earlier one's has been told.
        let lost = self.inner.lives.lost.load(Ordering::Relaxed);
        let now = self.inner.lives.now();
        let telling = Telling { node: self.inner.config.node_id, now, began_at, lost };
        let deadline = if self.takes_part() { TELL_DEADLINE } else { ASK_DEADLINE };
        let request = Request { kind: Kind::Lives, group: GroupId::CONTROLLER, body: vec![telling.encode()] };
        Verdict::decode(self.inner.peers.call(peer, request, deadline).await.ok()?)
    }

    async fn judged(&self, verdict: Verdict) -> io::Result<()> {
        let now = self.inner.lives.now();
        let lost = self.inner.lives.lost.load(Ordering::Relaxed);
        if self.inner.env.mutations().trust_old_votes {
            return Ok(());
        }
        if verdict.stale && !lost || lost && verdict.remembered.boots >= now.boots {
            self.lose_votes(verdict.remembered.boots, "peers remember more of this node than its data folder does").await?;
        }
        Ok(())
    }

    /// Notes durably that votes are lost, in a life later than `boots`, and closes every open replica.
    pub(super) async fn lose_votes(&self, boots: u64, reason: &'static str) -> io::Result<()> {
        let known = {
            let _deciding = self.inner.lives.deciding.lock().await;
            let now = self.inner.lives.now();
            let known = self.inner.lives.lost.load(Ordering::Relaxed);
            if known && boots < now.boots {
                return Ok(());
            }
            let next = Moment { boots: now.boots.max(boots) + 1, beat: 0, life: now.life };
            if !known {
                note_loss(&self.inner.writer).await?;
            }
            self.inner.lives.lost.store(true, Ordering::Relaxed);
            self.inner.writer.save_meta(BOOTS_KEY.to_vec(), Some(value(next))).await?;
            self.inner.lives.beat.store(0, Ordering::Relaxed);
            self.inner.lives.boots.store(next.boots, Ordering::Relaxed);
            known
        };
        if !known {
            tracing::error!(reason, "this node has lost votes: no group takes part before its peers have brought it up to date");
            // Until the last is closed nothing takes part. Not awaited: whoever found it out may hold a lock that closing needs.
            self.inner.lives.withdrawing.store(true, Ordering::Relaxed);
            self.inner.lives.takes_part.send_replace(false);
            let node = NodeWeak(Arc::downgrade(&self.inner));
            self.inner.runtime.spawn(async move {
                if let Some(node) = node.upgrade() {
                    node.withdraw_all(reason).await;
                    node.inner.lives.withdrawing.store(false, Ordering::Relaxed);
                }
            });
        }
        Ok(())
    }
}

/// Asks peers until enough have answered, then tells them of every beat, as long as the node lives.
pub(super) async fn live(node: NodeWeak) {
    let begun = Instant::now();
    let mut answered = BTreeSet::new();
    // A peer with a past has answered.
    let mut elders = false;
    let mut told: Option<Moment> = None;
    let mut changes = 0;
    loop {
        let Some(host) = node.upgrade() else { return };
        let now = host.inner.lives.now();
        // Those of the configuration, until the region's metadata name others.
        let others = host.inner.peers.known();
        let asked: Vec<NodeId> = others.iter().copied().filter(|peer| told != Some(now) || !answered.contains(peer)).collect();
        if told != Some(now) {
            answered.clear();
            told = Some(now);
        }
        let verdicts = futures_util::future::join_all(asked.iter().map(|peer| host.tell(*peer))).await;
        for (peer, verdict) in asked.into_iter().zip(verdicts) {
            let Some(verdict) = verdict else { continue };
            answered.insert(peer);
            elders |= !verdict.new;
            if let Err(error) = host.judged(verdict).await {
                tracing::error!(%error, "cannot note what peers remember");
            }
        }
        answered.retain(|peer| others.contains(peer));
        // An empty folder in a region that is not new is known to all others or to none; one that has never heard of it proves nothing.
        let half_will_do = begun.elapsed() > ALL_PATIENCE && !(elders && host.inner.lives.is_new());
        let enough = answered.len() == others.len() || (half_will_do && answered.len() * 2 >= others.len());
        if enough && host.inner.lives.now() == now && !host.inner.lives.withdrawing.load(Ordering::Relaxed) {
            let begins = host.inner.lives.takes_part.send_if_modified(|takes_part| !std::mem::replace(takes_part, true));
            if begins {
                host.groups().iter().for_each(Group::begin);
            }
        }
        let waits = !host.takes_part();
        drop(host);
        tokio::time::sleep(if waits { ASK_AGAIN } else { BEAT_EVERY }).await;
        let Some(host) = node.upgrade() else { return };
        let written = host.inner.writer.changes();
        if !waits && written != changes {
            changes = written;
            beat(&host).await;
        }
    }
}

/// Makes a beat durable, and with it all that was written before.
async fn beat(node: &Node) {
    let _deciding = node.inner.lives.deciding.lock().await;
    let now = node.inner.lives.now();
    let next = Moment { beat: now.beat + 1, ..now };
    // What was saved without a sync of its own is part of what a beat vouches for.
    node.inner.writer.save_lazy();
    // A disk that refuses it refuses the votes too, and says so there.
    if node.inner.writer.save_meta(BOOTS_KEY.to_vec(), Some(value(next))).await.is_ok() {
        node.inner.lives.beat.store(next.beat, Ordering::Relaxed);
    }
}

impl Node {
    /// Closes every open replica: its vote and its log's end may be older than what this node has promised.
    async fn withdraw_all(&self, reason: &str) {
        let open: Vec<GroupId> = read(&self.inner.partitions).keys().copied().collect();
        let controller = read(&self.inner.control).as_ref().map(|_| GroupId::CONTROLLER);
        for id in open.into_iter().chain(controller) {
            self.withdraw(id, reason.to_owned()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_folder_is_not_taken_for_the_life_before_though_it_counts_the_same() {
        let remembered = Moment { boots: 1, beat: 0, life: 5 };
        assert!(remembered.leads_to(remembered));
        assert!(remembered.leads_to(Moment { beat: 3, ..remembered }));
        assert!(!remembered.leads_to(Moment { life: 6, ..remembered }));
        assert!(!Moment { beat: 4, ..remembered }.leads_to(Moment { beat: 3, ..remembered }));
        assert!(!remembered.leads_to(Moment::default()), "a new folder's life began at nothing");
        assert!(Moment::default().leads_to(Moment::default()), "nobody remembers a new node");
    }

    #[test]
    fn tellings_arrive_as_sent_and_other_lengths_are_refused() {
        let telling =
            Telling { node: 3, now: Moment { boots: 7, beat: 9, life: 1 }, began_at: Moment { boots: 6, beat: 8, life: 2 }, lost: true };
        assert_eq!(Telling::decode(telling.encode()), Some(telling));
        assert_eq!(Telling::decode(telling.encode().slice(1..)), None);
        let verdict = Verdict { remembered: telling.now, stale: true, new: false };
        assert_eq!(Verdict::decode(verdict.encode().into()), Some(verdict));
        assert_eq!(Verdict::decode(Bytes::new()), None);
    }
}
