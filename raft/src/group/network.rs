//! openraft's calls to the other voters of one group, over the node's peer connections.

use std::future::Future;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::VoteOf;
use tokio::sync::watch;

use super::snapshot::{GroupSnapshot, Past};
use super::{BACKOFF, Learners, Types};
use crate::peer::client::Peers;
use crate::peer::frame::{self, Request};
use crate::{GroupId, NodeId};

/// AppendEntries in flight per follower.
const APPENDS_IN_FLIGHT_MAX: usize = 8;

pub(crate) struct NetworkFactory {
    pub group: GroupId,
    pub peers: Peers,
    pub takes_part: watch::Receiver<bool>,
    pub learners: Arc<Learners>,
}

impl RaftNetworkFactory<Types> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _node: &openraft::EmptyNode) -> Network {
        Network {
            group: self.group,
            target,
            peers: self.peers.clone(),
            takes_part: self.takes_part.clone(),
            learners: self.learners.clone(),
        }
    }
}

/// The way to one member.
pub(crate) struct Network {
    group: GroupId,
    target: NodeId,
    peers: Peers,
    takes_part: watch::Receiver<bool>,
    learners: Arc<Learners>,
}

fn unreachable(error: &io::Error) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn payload_bytes(rpc: &AppendEntriesRequest<Types>) -> u64 {
    let bytes = rpc.entries.iter().map(|entry| match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.payload.len() as u64,
        _ => 0,
    });
    bytes.sum()
}

impl Network {
    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        option: &RPCOption,
        encode: fn(GroupId, Vec<u8>) -> Request,
        body: &impl serde::Serialize,
    ) -> Result<T, RPCError<Types>> {
        // Whoever may have forgotten votes asks for none: openraft's own elections end before they change anything.
        if !*self.takes_part.borrow() {
            return Err(unreachable(&io::ErrorKind::NotConnected.into()));
        }
        let body = serde_json::to_vec(body).map_err(|error| unreachable(&error.into()))?;
        let answer =
            self.peers.call(self.target, encode(self.group, body), option.hard_ttl()).await.map_err(|error| unreachable(&error))?;
        serde_json::from_slice(&answer).map_err(|error| unreachable(&error.into()))
    }
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = Past;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = frame::append_request(self.group, rpc).map_err(|error| unreachable(&error))?;
        let answer = self.peers.call(self.target, request, option.hard_ttl()).await.map_err(|error| unreachable(&error))?;
        let result = frame::decode_append_answer(&answer).ok_or_else(|| unreachable(&frame::malformed()))?;
        Ok(match result {
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    /// Sends as long as openraft has something to send, awaits the answers in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        let (group, target, peers, deadline) = (self.group, self.target, self.peers.clone(), option.hard_ttl());
        let (learners, throttle) = (self.learners.clone(), self.peers.catch_up().clone());
        let answers = input
            // Before it is queued, so that the order stays; voters never wait here.
            .then(move |rpc| {
                let slowed = (learners.contains(target) && !rpc.entries.is_empty()).then(|| throttle.clone());
                async move {
                    if let Some(throttle) = slowed {
                        throttle.take(payload_bytes(&rpc)).await;
                    }
                    rpc
                }
            })
            .map(move |rpc| {
                // Queued here, in order; only the answer is awaited later.
                let queued = frame::append_request(group, rpc).map(|request| peers.call(target, request, deadline));
                async move {
                    let answer = queued.map_err(|error| unreachable(&error))?.await.map_err(|error| unreachable(&error))?;
                    frame::decode_append_answer(&answer).ok_or_else(|| unreachable(&frame::malformed()))
                }
            })
            .buffered(APPENDS_IN_FLIGHT_MAX);
        // openraft takes nothing after the first failure.
        let until_failure = answers.scan(false, |failed, answer| {
            let item = (!*failed).then_some(answer);
            *failed |= !matches!(item, Some(Ok(Ok(_))));
            std::future::ready(item)
        });
        Box::pin(async move { Ok(until_failure.boxed()) })
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(&option, Request::vote, &rpc).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(&option, Request::pre_vote, &rpc).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(&option, Request::transfer, &rpc).await
    }

    /// One frame: a snapshot is what a log's past comes down to, not the past itself.
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: GroupSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |error: io::Error| StreamingError::Unreachable(Unreachable::new(&error));
        let request = frame::snapshot_request(self.group, &vote, &snapshot).map_err(failed)?;
        let answer = tokio::select! {
            answer = self.peers.call(self.target, request, option.hard_ttl()) => answer.map_err(failed)?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        serde_json::from_slice(&answer).map_err(|error| failed(error.into()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
