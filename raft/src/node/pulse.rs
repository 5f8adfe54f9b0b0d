//! The one frame that says to a neighbour that this process lives, whatever the number of groups.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Inner, Node};
use crate::peer::client::Peers;
use crate::peer::frame::{self, Kind, Request};
use crate::peer::liveness::{Bond, Liveness};
use crate::space::Space;
use crate::{GroupId, NodeId};

/// A neighbour that is slower has not acknowledged.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// How long a sign of life is waited for.
const SOUND_OUT_DEADLINE: Duration = Duration::from_millis(50);

/// Sends pulses to every neighbour for ever, and notes what they acknowledge.
pub(super) async fn send(peers: Peers, liveness: Liveness, space: Arc<Space>, node_id: NodeId) {
    let mut every = tokio::time::interval(liveness.spans().pulse);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // No more than fit into the deadline: where there is no connection, a question fails at once.
    let mut sent = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = sent.next(), if !sent.is_empty() => {}
            _ = every.tick() => {
                let pulse = pulse(node_id, &liveness, &space);
                for to in peers.known() {
                    // Taken before the question can be seen by anybody.
                    let at = Instant::now();
                    let answer = peers.call(to, pulse.clone(), ANSWER_DEADLINE);
                    let liveness = liveness.clone();
                    sent.push(async move {
                        if let Some(bond) = answer.await.ok().and_then(decode_bond) {
                            liveness.acknowledged(to, at, bond);
                        }
                    });
                }
            }
        }
    }
}

impl Node {
    /// Asks every neighbour for a sign of life and waits for it a moment. A process that had died before the call is known to have by then
    /// ([`Node::reaches`]); one that is merely slow is not taken for dead.
    pub async fn sound_out(&self) {
        let Inner { peers, liveness, space, config, .. } = &*self.inner;
        let pulse = pulse(config.node_id, liveness, space);
        let ask = |peer| peers.call(peer, pulse.clone(), SOUND_OUT_DEADLINE);
        futures_util::future::join_all(peers.known().into_iter().map(ask)).await;
    }
}

fn pulse(node_id: NodeId, liveness: &Liveness, space: &Space) -> Request {
    let body = vec![frame::encode_pulse(node_id, liveness.process(), space.is_full())];
    Request { kind: Kind::Pulse, group: GroupId::CONTROLLER, body }
}

fn decode_bond(mut body: Bytes) -> Option<Bond> {
    frame::decode_pair(&mut body).map(|(process, promise)| Bond { process, promise })
}
