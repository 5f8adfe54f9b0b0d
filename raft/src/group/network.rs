//! openraft's calls to the other voters of one group, over the node's peer connections.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

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
use tokio::time::Instant;

use super::rest::Rest;
use super::snapshot::{GroupSnapshot, Past};
use super::{BACKOFF, Learners, Types};
use crate::peer::client::Peers;
use crate::peer::frame::{self, Request};
use crate::{GroupId, NodeId};

/// AppendEntries in flight per follower.
const APPENDS_IN_FLIGHT_MAX: usize = 8;
/// A follower hears of a commit with the next entries, or so much later. Nobody waits for a follower's high watermark: clients read from
/// leaders, and a new leader commits an entry of its own before it serves.
const COMMIT_TOLD_WITHIN: Duration = Duration::from_millis(100);

pub(crate) struct NetworkFactory {
    pub group: GroupId,
    pub peers: Peers,
    pub takes_part: watch::Receiver<bool>,
    pub learners: Arc<Learners>,
    pub rest: Arc<Rest>,
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
            rest: self.rest.clone(),
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
    rest: Arc<Rest>,
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
        // Whoever may have forgotten votes, or lacks what it once held, asks for none: openraft's own elections end before they change anything.
        if !*self.takes_part.borrow() || self.rest.bound_by().is_some() {
            return Err(unreachable(&io::ErrorKind::NotConnected.into()));
        }
        let body = serde_json::to_vec(body).map_err(|error| unreachable(&error.into()))?;
        let answer =
            self.peers.call(self.target, encode(self.group, body), option.hard_ttl()).await.map_err(|error| unreachable(&error))?;
        serde_json::from_slice(&answer).map_err(|error| unreachable(&error.into()))
    }
}

/// Holds back requests that only tell of a commit: the next one tells of it too, and its answer covers both. Every record written alone
/// would otherwise cost a second round. What ends the stream is sent at once, so probes and heartbeats, streams of one request, never wait.
fn with_commits_held<S>(input: S, told_within: Duration) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send + 'static
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    futures_util::stream::unfold(input.fuse(), move |mut input| async move {
        let mut next = input.next().await?;
        let told_by = Instant::now() + told_within;
        while next.entries.is_empty() && !told_within.is_zero() {
            match tokio::time::timeout_at(told_by, input.next()).await {
                Ok(Some(later)) => next = later,
                Ok(None) | Err(_) => break,
            }
        }
        Some((next, input))
    })
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
        // The controller's commands take effect on every node, and their proposers wait for that.
        let told_within = if group == GroupId::CONTROLLER { Duration::ZERO } else { COMMIT_TOLD_WITHIN };
        let answers = with_commits_held(input, told_within)
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
        // Whoever hears of it waits for no lease any more. openraft takes no proposal in this term again, whatever becomes of the offer.
        self.rest.released(rpc.from_leader().leader_id().term);
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

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::group::storage::{entry_of, log_id};
    use crate::log::{FrameKind, LogEntry};

    fn request(index: Option<u64>, committed: u64) -> AppendEntriesRequest<Types> {
        let entry = |index| LogEntry { kind: FrameKind::Command, term: 1, index, append_time_us: 1, payload: vec![1].into() };
        let entries = index.map(|index| entry_of(entry(index)).expect("an entry")).into_iter().collect();
        AppendEntriesRequest {
            vote: VoteOf::<Types>::new_committed(1, 1),
            prev_log_id: None,
            entries,
            leader_commit: Some(log_id(1, committed)),
        }
    }

    async fn sent(input: impl Stream<Item = AppendEntriesRequest<Types>> + Send + 'static) -> Vec<(usize, u64)> {
        let sent = with_commits_held(input.boxed(), COMMIT_TOLD_WITHIN);
        sent.map(|rpc| (rpc.entries.len(), rpc.leader_commit.map_or(0, |id| id.index))).collect().await
    }

    #[tokio::test]
    async fn a_commit_travels_with_the_next_entries_or_alone_when_none_come() {
        let busy = stream::iter([request(Some(1), 0), request(None, 1), request(Some(2), 1), request(None, 2)]);
        assert_eq!(sent(busy).await, [(1, 0), (1, 1), (0, 2)]);
        let begun = Instant::now();
        let late = stream::once(async {
            tokio::time::sleep(10 * COMMIT_TOLD_WITHIN).await;
            request(Some(2), 2)
        });
        let quiet = stream::iter([request(None, 1)]).chain(stream::iter([request(None, 2)])).chain(late.boxed());
        assert_eq!(sent(quiet).await, [(0, 2), (1, 2)]);
        assert!(begun.elapsed() >= 10 * COMMIT_TOLD_WITHIN);
    }

    #[tokio::test]
    async fn a_stream_of_one_empty_request_does_not_wait() {
        let begun = Instant::now();
        // As openraft makes them: not to be polled behind their end.
        let probe = stream::unfold(true, |more| async move { more.then(|| (request(None, 7), false)) });
        assert_eq!(sent(probe).await, [(0, 7)]);
        assert!(begun.elapsed() < COMMIT_TOLD_WITHIN);
    }
}
