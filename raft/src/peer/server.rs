//! The accepting half: reads a peer's questions, hands each to its group, writes the answers as they come.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::client::STATUS_OK;
use super::frame::{self, Frame, Kind, Reader};
use super::identity;
use crate::env::{Listener, Stream};
use crate::group::{Group, Types};
use crate::node::lives::Telling;
use crate::node::{HANDOVER_DEADLINE, Node, NodeWeak, PeerTls};
use crate::{GroupId, NodeId, repair};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections accepted at once, handshakes included.
const CONNECTIONS_MAX: usize = 256;
/// Answers that may wait to be written.
const ANSWERS_MAX: usize = 1024;
/// Appends of one group and connection that wait for its Raft core.
const APPENDS_MAX: usize = 64;
/// Votes and commands of one connection in progress.
const CALLS_MAX: usize = 256;
const STATUS_FAILED: u8 = 1;
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Accepts for ever; ends with the task.
pub(crate) async fn serve(node: NodeWeak, mut listener: Box<dyn Listener>, tls: Option<PeerTls>) {
    let mut connections = JoinSet::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let (node, tls) = (node.clone(), tls.clone());
                connections.spawn(async move {
                    if let Err(error) = admit(node, stream, tls).await {
                        tracing::debug!(%address, %error, "peer connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept peers");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn admit(node: NodeWeak, stream: Box<dyn Stream>, tls: Option<PeerTls>) -> io::Result<()> {
    let Some(tls) = tls else { return converse(node, None, stream).await };
    let handshake = TlsAcceptor::from(tls.server.clone()).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let peer = identity::node_of(stream.get_ref().1.peer_certificates(), &tls.identity_prefix)
        .ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "the certificate names no node of this region"))?;
    converse(node, Some(peer), Box::new(stream)).await
}

/// One answer on its way out: the request's number and its body, status byte first.
type Answer = (u64, Vec<Bytes>);

fn success(number: u64, body: Bytes) -> Answer {
    (number, vec![Bytes::from_static(&[STATUS_OK]), body])
}

fn failure(number: u64, reason: &str) -> Answer {
    (number, vec![Bytes::from_static(&[STATUS_FAILED]), Bytes::copy_from_slice(reason.as_bytes())])
}

async fn converse(node: NodeWeak, peer: Option<NodeId>, stream: Box<dyn Stream>) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    tokio::select! {
        biased;
        result = receive(node, peer, Reader::new(reader), answers) => result,
        result = send(BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer), outgoing) => result,
    }
}

async fn send(mut writer: BufWriter<impl tokio::io::AsyncWrite + Unpin>, mut answers: mpsc::Receiver<Answer>) -> io::Result<()> {
    while let Some(first) = answers.recv().await {
        let mut next = Some(first);
        while let Some((number, body)) = next {
            writer.write_all(&frame::head(Kind::Answer, number, GroupId::CONTROLLER, body.iter().map(Bytes::len).sum())).await?;
            for part in &body {
                writer.write_all(part).await?;
            }
            next = answers.try_recv().ok();
        }
        writer.flush().await?;
    }
    Ok(())
}

type Append = (u64, AppendEntriesRequest<Types>);

async fn receive(
    node: NodeWeak,
    peer: Option<NodeId>,
    mut reader: Reader<impl tokio::io::AsyncRead + Unpin>,
    answers: mpsc::Sender<Answer>,
) -> io::Result<()> {
    let mut appenders: HashMap<GroupId, mpsc::Sender<Append>> = HashMap::new();
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    // Ends, with everything it holds, when the connection does.
    let mut tasks = JoinSet::new();
    loop {
        let frame = reader.next().await?;
        while tasks.try_join_next().is_some() {}
        let Some(host) = node.upgrade() else { return Ok(()) };
        match frame.kind {
            Kind::Append => {
                let append = frame::decode_append(frame.body).ok_or_else(frame::malformed)?;
                // openraft sends as the leader of its vote; nobody may speak for another node.
                if peer.is_some_and(|peer| append.vote.leader_id().voted_for != peer) {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer appends in another node's name"));
                }
                let Some(group) = host.group(frame.group) else {
                    let _ = answers.send(failure(frame.request, "no such group here")).await;
                    continue;
                };
                let live = appenders.get(&frame.group).filter(|appender| !appender.is_closed());
                let appender = live.cloned().unwrap_or_else(|| {
                    let (sender, queue) = mpsc::channel(APPENDS_MAX);
                    tasks.spawn(append_in_order(group, queue, answers.clone()));
                    sender
                });
                let _ = appender.send((frame.request, append)).await;
                appenders.insert(frame.group, appender);
            }
            Kind::Leaders => {
                let (sender, refuses_data, led) = frame::decode_leaders(frame.body).ok_or_else(frame::malformed)?;
                if peer.is_some_and(|peer| peer != sender) {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer tells of another node's groups"));
                }
                host.heard_leaders(sender, refuses_data, led);
            }
            Kind::Answer => return Err(frame::malformed()),
            Kind::Vote
            | Kind::PreVote
            | Kind::Transfer
            | Kind::Propose
            | Kind::Snapshot
            | Kind::HandOver
            | Kind::Repair
            | Kind::Lives
            | Kind::Standing => {
                let Ok(call) = calls.clone().acquire_owned().await else { return Ok(()) };
                let answers = answers.clone();
                tasks.spawn(async move {
                    let number = frame.request;
                    let answer = match answer(&host, peer, frame).await {
                        Ok(body) => success(number, body.into()),
                        Err(reason) => failure(number, &reason),
                    };
                    let _ = answers.send(answer).await;
                    drop(call);
                });
            }
        }
    }
}

/// Feeds one group the appends of one connection in order, several in flight, and answers in order.
async fn append_in_order(group: Group, mut queue: mpsc::Receiver<Append>, answers: mpsc::Sender<Answer>) {
    let mut in_flight = FuturesOrdered::new();
    loop {
        let (number, append) = tokio::select! {
            biased;
            Some(answer) = in_flight.next(), if !in_flight.is_empty() => {
                if answers.send(answer).await.is_err() {
                    return;
                }
                continue;
            }
            next = queue.recv(), if in_flight.len() < APPENDS_MAX => match next {
                Some(next) => next,
                None => return,
            },
        };
        let mut appended = append_one(group.clone(), number, append).boxed();
        // The first poll hands it to the Raft core; only the order of first polls is the order of appends.
        match futures_util::poll!(&mut appended) {
            Poll::Ready(answer) => in_flight.push_back(std::future::ready(answer).boxed()),
            Poll::Pending => in_flight.push_back(appended),
        }
    }
}

async fn append_one(group: Group, number: u64, append: AppendEntriesRequest<Types>) -> Answer {
    let (prev, last) = (append.prev_log_id, append.entries.last().map(|entry| entry.log_id).or(append.prev_log_id));
    // Refused before anything of it is accepted; the leader tries again, and a majority goes on without this replica.
    if group.log().refuses_data()
        && append.entries.iter().any(|entry| matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.is_data()))
    {
        return failure(number, "the disk is nearly full");
    }
    match group.raft().append_entries(append).await {
        // Nothing precedes the first entry, so nothing can conflict with it.
        Ok(AppendEntriesResponse::Conflict) if prev.is_none() => failure(number, "conflict before the first entry"),
        Ok(response) => success(number, frame::encode_append_answer(&response.into_stream_result(prev, last))),
        Err(error) => failure(number, &error.to_string()),
    }
}

async fn answer(host: &Node, peer: Option<NodeId>, frame: Frame) -> Result<Vec<u8>, String> {
    let malformed = |error: serde_json::Error| error.to_string();
    if frame.kind == Kind::Propose {
        return host.propose_for_peer(frame.body.to_vec()).await;
    }
    if frame.kind == Kind::Lives {
        let telling = Telling::decode(frame.body).filter(|telling| peer.is_none_or(|peer| peer == telling.node));
        return Ok(host.remembers(telling.ok_or("malformed, or of another node's life")?));
    }
    if frame.kind == Kind::Standing {
        return Ok(host.standing(frame.group).ok_or("this node has lost its votes, too")?.to_be_bytes().to_vec());
    }
    let group = host.group(frame.group).ok_or("no such group here")?;
    if frame.kind == Kind::Repair {
        return repair::answer::answer(&group, frame.body).map(Vec::from);
    }
    if frame.kind == Kind::HandOver {
        let to = NodeId::from_be_bytes(frame.body.as_ref().try_into().map_err(|_| "a node's number has eight bytes")?);
        return if group.transfer_to(to, HANDOVER_DEADLINE).await { Ok(Vec::new()) } else { Err("not handed over".to_owned()) };
    }
    let raft = group.raft();
    let encoded = match frame.kind {
        Kind::Vote => {
            let rpc = serde_json::from_slice(&frame.body).map_err(malformed)?;
            serde_json::to_vec(&raft.vote(rpc).await.map_err(|error| error.to_string())?)
        }
        Kind::Snapshot => {
            let (vote, snapshot) = frame::decode_snapshot(frame.body).ok_or("malformed snapshot")?;
            if peer.is_some_and(|peer| vote.leader_id().voted_for != peer) {
                return Err("the peer sends a snapshot in another node's name".to_owned());
            }
            serde_json::to_vec(&raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?)
        }
        Kind::PreVote => {
            let rpc = serde_json::from_slice(&frame.body).map_err(malformed)?;
            serde_json::to_vec(&raft.pre_vote(rpc).await.map_err(|error| error.to_string())?)
        }
        _ => {
            let rpc = serde_json::from_slice(&frame.body).map_err(malformed)?;
            serde_json::to_vec(&raft.handle_transfer_leader(rpc).await.map_err(|error| error.to_string())?)
        }
    };
    encoded.map_err(malformed)
}
