//! Which groups this node leads, told to every neighbour: all of them on a new connection, after that what has changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Node, NodeWeak, lock};
use crate::partition::Leadership;
use crate::peer::client::Peers;
use crate::peer::frame::{self, Kind, Led, Position};
use crate::{GroupId, NodeId};

/// Changes within this time are told together.
const GATHER: Duration = Duration::from_millis(5);
/// A neighbour that could not take a telling is told everything after this time.
const AGAIN: Duration = Duration::from_millis(500);
/// Groups remembered of one neighbour's telling.
const LED_GROUPS_MAX: usize = 1 << 20;

/// What this node leads, and what of it has changed since it was told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    held: Mutex<Held>,
    stirred: Notify,
}

#[derive(Debug, Default)]
struct Held {
    led: BTreeMap<GroupId, i32>,
    changes: BTreeMap<GroupId, Option<i32>>,
    /// Terms that this node led and leads no more.
    released: BTreeMap<GroupId, u64>,
}

impl Telling {
    /// Notes a group's leadership; tells whether that made this node lead it, or lead it no more.
    pub fn changed(&self, group: GroupId, leadership: Leadership) -> Option<bool> {
        let epoch = leadership.is_leader.then_some(leadership.epoch);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match epoch {
            Some(epoch) => held.led.insert(group, epoch),
            None => held.led.remove(&group),
        };
        // The controller is led by whom its own replicas follow; every node has one.
        if before == epoch || group == GroupId::CONTROLLER {
            return (before.is_some() != epoch.is_some()).then_some(epoch.is_some());
        }
        held.changes.insert(group, epoch);
        self.stirred.notify_one();
        (before.is_some() != epoch.is_some()).then_some(epoch.is_some())
    }

    /// This node led the group in that term, and leads it no more.
    pub fn released(&self, group: GroupId, term: u64) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).released.insert(group, term);
        self.stirred.notify_one();
    }

    fn take_released(&self) -> Vec<Position> {
        let released = std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner).released);
        released.into_iter().map(|(group, term)| (group, term, 0)).collect()
    }

    fn take_changes(&self) -> Vec<(GroupId, Option<i32>)> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner).changes).into_iter().collect()
    }

    fn all(&self) -> Vec<(GroupId, Option<i32>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.led.iter().filter(|(group, _)| **group != GroupId::CONTROLLER).map(|(group, epoch)| (*group, Some(*epoch))).collect()
    }
}

/// Tells for ever.
pub(super) async fn tell(node: NodeWeak, telling: std::sync::Arc<Telling>, peers: Peers) {
    // By neighbour, the connection on which it has been told everything.
    let mut told: BTreeMap<NodeId, u64> = BTreeMap::new();
    loop {
        let behind = peers.known().into_iter().any(|peer| peers.session(peer).is_some_and(|session| told.get(&peer) != Some(&session)));
        tokio::select! {
            biased;
            () = telling.stirred.notified() => tokio::time::sleep(GATHER).await,
            () = peers.made() => {}
            () = tokio::time::sleep(AGAIN), if behind => {}
        }
        let Some(node) = node.upgrade() else { return };
        let node_id = node.inner.config.node_id;
        let changes = telling.take_changes();
        for peer in peers.known().into_iter() {
            let Some(session) = peers.session(peer) else { continue };
            let whole = told.get(&peer) != Some(&session);
            if whole {
                node.reconnected(peer);
            }
            let groups = if whole { telling.all() } else { changes.clone() };
            if !whole && groups.is_empty() {
                continue;
            }
            let body = frame::encode_leaders(&Led { node: node_id, whole, groups });
            match peers.tell(peer, Kind::Leaders, body) {
                Ok(()) => told.insert(peer, session),
                Err(_) => told.remove(&peer),
            };
        }
        if let Some(group) = changes.iter().find(|(_, epoch)| epoch.is_none()) {
            tracing::debug!(group = ?group.0, "led no more");
        }
        node.release_all(&telling.take_released());
    }
}

impl Node {
    /// A peer told which groups it leads now, and so which it leads no more.
    pub(crate) fn heard_leaders(&self, led: Led) {
        let Led { node, whole, groups } = led;
        let mut heard = lock(&self.inner.heard);
        if whole {
            heard.retain(|_, (holder, _)| *holder != node);
        }
        for (group, epoch) in groups.into_iter().take(LED_GROUPS_MAX) {
            let Some(epoch) = epoch else {
                if heard.get(&group).is_some_and(|(holder, _)| *holder == node) {
                    heard.remove(&group);
                }
                continue;
            };
            let held = heard.entry(group).or_insert((node, epoch));
            if held.1 <= epoch {
                *held = (node, epoch);
            }
        }
    }
}
