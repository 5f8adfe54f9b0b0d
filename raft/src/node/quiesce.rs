//! Groups at rest are put to sleep, all of one pair of nodes by one question, and woken when there is reason to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;
use openraft::raft::{VoteRequest, VoteResponse};
use tokio::time::Instant;

use super::{Node, NodeWeak};
use crate::group::quiesce::Drowsy;
use crate::group::rest::{Awake, Bonds, Rest};
use crate::group::storage::log_id;
use crate::group::{Group, Types};
use crate::peer::frame::{self, Kind, Position, Request};
use crate::peer::liveness::{Bond, Liveness};
use crate::{GroupId, NodeId};

/// Pulses without any change after which a group may sleep.
const QUIET_PULSES: u32 = 10;
/// Groups in one question.
const ASKED_MAX: usize = 1024;
/// Groups that are being put to sleep at once.
const FALLING_MAX: usize = 4096;
/// A neighbour that does not answer is asked again later.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Attempts to tell that a group is led no more, and the time between them: longer than a neighbour takes a silent node for alive.
const RELEASES_MAX: u32 = 20;
const RELEASE_AGAIN: Duration = Duration::from_millis(150);

/// Wakes sleeping groups to which something happened.
pub(super) async fn rouse_stirred(node: NodeWeak, awake: Awake) {
    loop {
        awake.stirred().await;
        let Some(node) = node.upgrade() else { return };
        for group in awake.all().into_iter().filter_map(|id| node.group(id)) {
            if group.rest().is_asleep() {
                group.wake().await;
            }
        }
    }
}

/// What one sweep knows of a group from earlier ones.
struct Quiet {
    last: Option<Drowsy>,
    /// Since when nothing has changed.
    since: Instant,
    awake_since: Instant,
    /// The term in which its lead was offered, and followers were told not to wait for this node.
    released: Option<u64>,
}

/// Sweeps over the groups that are awake, for ever.
pub(super) async fn put_to_sleep(node: NodeWeak, liveness: Liveness) {
    let mut quiet = BTreeMap::new();
    let mut bonds = BTreeMap::new();
    loop {
        tokio::time::sleep(liveness.spans().pulse).await;
        let Some(node) = node.upgrade() else { return };
        node.greet_returned(&mut bonds).await;
        let drowsy = node.drowsy(&mut quiet);
        if !drowsy.is_empty() {
            node.sleep_all(drowsy).await;
        }
    }
}

impl Node {
    /// Wakes what this node leads and a neighbour has a replica of, when that neighbour is back, or its promise is another.
    async fn greet_returned(&self, seen: &mut BTreeMap<NodeId, Bond>) {
        for peer in self.inner.peers.known() {
            let now = self.inner.liveness.bond(peer);
            let before = match now {
                Some(bond) => seen.insert(peer, bond),
                None => seen.remove(&peer),
            };
            let Some(now) = now.filter(|now| before != Some(*now)) else { continue };
            for group in self.groups() {
                let bound = group.rest().bound().filter(|_| group.rest().is_asleep() && group.leadership().borrow().is_leader);
                if bound.is_some_and(|bonds| group.has_member(peer) && !bonds.followers.contains(&(peer, now))) {
                    group.wake().await;
                }
            }
        }
    }

    /// Groups led here in which nothing has happened for a while.
    fn drowsy(&self, quiet: &mut BTreeMap<GroupId, Quiet>) -> Vec<(Group, Drowsy)> {
        let (now, liveness) = (Instant::now(), &self.inner.liveness);
        let awake: BTreeSet<GroupId> = self.inner.awake.all().into_iter().collect();
        quiet.retain(|id, _| awake.contains(id));
        let lost: BTreeSet<NodeId> = self.inner.peers.known().into_iter().filter(|peer| liveness.bond(*peer).is_none()).collect();
        let (mut found, mut released) = (Vec::new(), Vec::new());
        for group in awake.into_iter().filter_map(|id| self.group(id)) {
            let drowsy = group.drowsy(|node| lost.contains(&node));
            let held = quiet.entry(group.id()).or_insert(Quiet { last: None, since: now, awake_since: now, released: None });
            let offered = group.offered_in();
            if offered.is_some() && offered != held.released {
                held.released = offered;
                released.push(group.id());
            }
            if held.last != drowsy {
                (held.last, held.since) = (drowsy, now);
                group.mind_lost_quorum(now - held.awake_since, self.inner.config.timing);
                continue;
            }
            match drowsy {
                Some(drowsy) if now - held.since >= liveness.spans().pulse * QUIET_PULSES && found.len() < FALLING_MAX => {
                    found.push((group, drowsy));
                }
                _ => group.mind_lost_quorum(now - held.awake_since, self.inner.config.timing),
            }
        }
        self.release_led_no_more(released);
        found
    }

    async fn sleep_all(&self, drowsy: Vec<(Group, Drowsy)>) {
        drowsy.iter().for_each(|(group, _)| group.hush(true));
        let mut asked: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        for (group, Drowsy { term, index, followers, .. }) in &drowsy {
            for follower in followers.iter().filter(|follower| self.inner.liveness.bond(**follower).is_some()) {
                asked.entry(*follower).or_default().push((group.id(), *term, *index));
            }
        }
        let questions = asked.into_iter().flat_map(|(node, positions)| {
            let chunks: Vec<Vec<Position>> = positions.chunks(ASKED_MAX).map(<[Position]>::to_vec).collect();
            chunks.into_iter().map(move |chunk| (node, chunk))
        });
        let answers: Vec<_> = futures_util::future::join_all(questions.map(|(node, chunk)| self.ask_to_sleep(node, chunk))).await;
        let agreed: BTreeMap<(GroupId, NodeId), Bond> = answers.into_iter().flatten().collect();
        for (group, drowsy) in drowsy {
            let bond_of = |node: &NodeId| agreed.get(&(group.id(), *node)).map(|bond| (*node, *bond));
            let followers: Vec<(NodeId, Bond)> = drowsy.followers.iter().filter_map(bond_of).collect();
            let all = drowsy.followers.iter().all(|node| self.inner.liveness.bond(*node).is_none() || bond_of(node).is_some());
            if all && followers.len() >= drowsy.voters / 2 && self.inner.awake.contains(group.id()) {
                let bonds = Bonds { term: drowsy.term, voters: drowsy.voters, followers, until: None };
                group.sleep_as_leader(&drowsy, bonds).await;
            } else {
                group.hush(false);
            }
        }
    }

    async fn ask_to_sleep(&self, node: NodeId, positions: Vec<Position>) -> Vec<((GroupId, NodeId), Bond)> {
        let body = vec![frame::encode_positions(self.inner.config.node_id, &positions)];
        let request = Request { kind: Kind::Sleep, group: GroupId::CONTROLLER, body };
        let Ok(mut answer) = self.inner.peers.call(node, request, ANSWER_DEADLINE).await else { return Vec::new() };
        let Some((process, promise)) = frame::decode_pair(&mut answer) else { return Vec::new() };
        let agreed = positions.iter().zip(answer).filter(|(_, agrees)| *agrees == 1);
        agreed.map(|((group, _, _), _)| ((*group, node), Bond { process, promise })).collect()
    }

    /// The leader's node asks whether replicas here may sleep; answers with the bond, and 1 for each that does from now on.
    pub(crate) async fn let_sleep(&self, leader: NodeId, positions: Vec<Position>) -> Vec<u8> {
        let liveness = &self.inner.liveness;
        let promise = liveness.promise(leader);
        let one = |(id, term, index): Position| async move {
            match self.group(id) {
                Some(group) => group.sleep_as_follower(leader, term, index).await,
                None => false,
            }
        };
        let agreed: Vec<bool> = stream::iter(positions.into_iter().take(ASKED_MAX)).map(one).buffered(64).collect().await;
        let mut body = BytesMut::from(&frame::encode_pair(liveness.process(), promise)[..]);
        agreed.iter().for_each(|agrees| body.put_u8(u8::from(*agrees)));
        body.to_vec()
    }

    /// A follower has been asked for its vote while it sleeps: the leader wakes, and it by that. Who leads no more says so.
    pub(crate) async fn rouse(&self, from: NodeId, positions: Vec<Position>) -> Vec<u8> {
        for (id, ..) in positions.into_iter().take(ASKED_MAX) {
            let Some(group) = self.group(id) else { continue };
            if group.leadership().borrow().is_leader {
                group.wake().await;
            } else {
                self.release_to(from, vec![id]);
            }
        }
        Vec::new()
    }

    /// The node that led these groups says that it does no more.
    pub(crate) async fn release(&self, from: NodeId, positions: Vec<Position>) -> Vec<u8> {
        for (id, term, _) in positions.into_iter().take(ASKED_MAX) {
            let Some(group) = self.group(id) else { continue };
            let vote = group.vote();
            if vote.leader_id().voted_for == from && vote.leader_id().term <= term {
                group.rest().released(vote.leader_id().term);
                group.wake().await;
            }
        }
        Vec::new()
    }

    /// Tells every neighbour of groups that this node leads no more, or has offered in vain: replicas may sleep there.
    pub(super) fn release_led_no_more(&self, groups: Vec<GroupId>) {
        for peer in self.inner.peers.known() {
            groups.chunks(ASKED_MAX).for_each(|chunk| self.release_to(peer, chunk.to_vec()));
        }
    }

    fn release_to(&self, peer: NodeId, groups: Vec<GroupId>) {
        let (node_id, peers) = (self.inner.config.node_id, self.inner.peers.clone());
        let position = |id: GroupId| self.group(id).map(|group| (id, group.led_no_more_up_to(), 0));
        let positions: Vec<Position> = groups.into_iter().filter_map(position).collect();
        if positions.is_empty() {
            return;
        }
        let body = frame::encode_positions(node_id, &positions);
        tokio::spawn(async move {
            for _ in 0..RELEASES_MAX {
                let request = Request { kind: Kind::Release, group: GroupId::CONTROLLER, body: vec![body.clone()] };
                if peers.call(peer, request, ANSWER_DEADLINE).await.is_ok() {
                    return;
                }
                tokio::time::sleep(RELEASE_AGAIN).await;
            }
        });
    }

    /// The answer to a candidate against whom a promise binds this replica.
    pub(crate) fn refuses(&self, group: &Group, rpc: &VoteRequest<Types>) -> Option<VoteResponse<Types>> {
        let (vote, candidate) = (group.vote(), rpc.vote.leader_id().voted_for);
        let bound = group.rest().bound_by().map(|bound| log_id(bound.term, bound.index));
        if bound.is_some() && rpc.last_log_id < bound {
            return Some(VoteResponse::new(vote, bound, false));
        }
        let leader = vote.leader_id().voted_for;
        if Rest::is_sent_by_leader(&vote, rpc) || candidate == leader {
            return None;
        }
        let leads = leader == self.inner.config.node_id && group.holds_lease();
        if !leads && group.rest().promised_until(&vote).is_none() {
            return None;
        }
        // The candidate misses its leader; heartbeats will show it.
        if leads {
            group.rest().stir();
        } else if group.rest().is_asleep() {
            let body: Bytes = frame::encode_positions(self.inner.config.node_id, &[(group.id(), 0, 0)]);
            // Not connected: then the leader's node is soon taken for gone.
            let _ = self.inner.peers.tell(leader, Kind::Rouse, body);
        }
        let last = group.log().last().map(|last| log_id(last.term, last.index));
        Some(VoteResponse::new(vote, last, false))
    }
}
