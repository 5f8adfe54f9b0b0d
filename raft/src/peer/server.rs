//! The accepting half: reads a peer's questions, hands each to its group, writes the answers as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::client::STATUS_OK;
use super::frame::{self, Frame, Kind, Reader};
use super::identity;
use crate::env::{Listener, Stream};
use crate::group::incoming::Admitted;
use crate::group::rest::Rest;
use crate::group::{Group, Types};
use crate::node::lives::Telling;
use crate::node::{HANDOVER_DEADLINE, Node, NodeWeak, PeerTls};
use crate::{GroupId, NodeId, repair};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections accepted at once, handshakes included.
const CONNECTIONS_MAX: usize = 256;
/// Answers that may wait to be written.
const ANSWERS_MAX: usize = 1024;
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

async fn receive(
    node: NodeWeak,
    peer: Option<NodeId>,
    mut reader: Reader<impl tokio::io::AsyncRead + Unpin>,
    answers: mpsc::Sender<Answer>,
) -> io::Result<()> {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let bytes = Arc::new(AtomicUsize::new(0));
    // In simulation nothing but a peer's own word says who it is.
    let mut speaker = peer;
    // Ends, with everything it holds, when the connection does.
    let mut tasks = JoinSet::new();
    loop {
        let frame = reader.next().await?;
        while tasks.try_join_next().is_some() {}
        let Some(host) = node.upgrade() else { return Ok(()) };
        if let Some(speaker) = speaker {
            host.liveness().asked(speaker);
        }
        match frame.kind {
            Kind::Append => {
                let size = frame.body.len();
                let append = frame::decode_append(frame.body).ok_or_else(frame::malformed)?;
                // openraft sends as the leader of its vote; nobody may speak for another node.
                speaker = speaks_for_itself(speaker, append.vote.leader_id().voted_for)?;
                let answer = match host.group(frame.group) {
                    None => Some(failure(frame.request, "no such group here")),
                    Some(group) => match group.incoming().admit(&bytes, size) {
                        None => Some(failure(frame.request, "too much waits for this group; try again")),
                        Some(admitted) => {
                            group.rest().appended();
                            let mut appended = append_one(group, frame.request, append, admitted).boxed();
                            // The first poll hands it to the Raft core; only the order of first polls is the order of appends.
                            match futures_util::poll!(&mut appended) {
                                Poll::Ready(answer) => Some(answer),
                                Poll::Pending => {
                                    let answers = answers.clone();
                                    tasks.spawn(async move { drop(answers.send(appended.await).await) });
                                    None
                                }
                            }
                        }
                    },
                };
                if let Some(answer) = answer {
                    let _ = answers.send(answer).await;
                }
            }
            Kind::Leaders => {
                let led = frame::decode_leaders(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, led.node)?;
                host.heard_leaders(led);
            }
            Kind::Pulse => {
                let (from, process, refuses_data) = frame::decode_pulse(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, from)?;
                host.heard_of_space(from, refuses_data);
                let answer = match host.liveness().pulsed(from, process) {
                    Some(bond) => success(frame.request, frame::encode_pair(bond.process, bond.promise)),
                    None => failure(frame.request, "no node of this region"),
                };
                let _ = answers.send(answer).await;
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
            | Kind::Standing
            | Kind::Sleep
            | Kind::Rouse
            | Kind::Release => {
                let Ok(call) = calls.clone().acquire_owned().await else { return Ok(()) };
                let answers = answers.clone();
                tasks.spawn(async move {
                    let number = frame.request;
                    let told = frame.kind == Kind::Rouse;
                    let answer = match answer(&host, speaker, frame).await {
                        Ok(body) => success(number, body.into()),
                        Err(reason) => failure(number, &reason),
                    };
                    if !told {
                        let _ = answers.send(answer).await;
                    }
                    drop(call);
                });
            }
        }
    }
}

/// Whom the connection speaks for from now on: the node it has spoken for so far.
fn speaks_for_itself(speaker: Option<NodeId>, node: NodeId) -> io::Result<Option<NodeId>> {
    if speaker.is_some_and(|speaker| speaker != node) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer speaks in another node's name"));
    }
    Ok(Some(node))
}

async fn append_one(group: Group, number: u64, append: AppendEntriesRequest<Types>, admitted: Admitted) -> Answer {
    let naps = group.rest().naps();
    let (prev, last) = (append.prev_log_id, append.entries.last().map(|entry| entry.log_id).or(append.prev_log_id));
    // Refused before anything of it is accepted; the leader tries again, and a majority goes on without this replica.
    if group.log().refuses_data()
        && append.entries.iter().any(|entry| matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.is_data()))
    {
        return failure(number, "the disk is nearly full");
    }
    let response = group.raft().append_entries(append).await;
    drop(admitted);
    // Now that the core has heard its leader: before, its clock would have had it stand for election. What fell asleep since was told to.
    if group.rest().naps() == naps {
        group.wake().await;
    }
    match response {
        // Nothing precedes the first entry, so nothing can conflict with it.
        Ok(AppendEntriesResponse::Conflict) if prev.is_none() => failure(number, "conflict before the first entry"),
        Ok(response) => success(number, frame::encode_append_answer(&response.into_stream_result(prev, last))),
        Err(error) => failure(number, &error.to_string()),
    }
}

async fn answer(host: &Node, speaker: Option<NodeId>, frame: Frame) -> Result<Vec<u8>, String> {
    match frame.kind {
        Kind::Propose => return host.propose_for_peer(frame.body.to_vec()).await,
        Kind::Sleep | Kind::Rouse | Kind::Release => {
            let (from, positions) = frame::decode_positions(frame.body).ok_or_else(|| frame::malformed().to_string())?;
            speaks_for_itself(speaker, from).map_err(|error| error.to_string())?;
            return Ok(match frame.kind {
                Kind::Sleep => host.let_sleep(from, positions).await,
                Kind::Rouse => host.rouse(from, positions).await,
                _ => host.release(from, positions).await,
            });
        }
        Kind::Lives => {
            let telling = Telling::decode(frame.body).filter(|telling| speaker.is_none_or(|speaker| speaker == telling.node));
            let telling = telling.ok_or("malformed, or of another node's life")?;
            return host.remembers(telling).await.map_err(|error| error.to_string());
        }
        Kind::Standing => {
            return Ok(host.standing(frame.group).ok_or("this node has lost its votes, too")?.to_be_bytes().to_vec());
        }
        _ => {}
    }
    let group = host.group(frame.group).ok_or("no such group here")?;
    if frame.kind == Kind::Repair {
        return repair::answer::answer(&group, frame.body).map(Vec::from);
    }
    if frame.kind == Kind::HandOver {
        let to = NodeId::from_be_bytes(frame.body.as_ref().try_into().map_err(|_| "a node's number has eight bytes")?);
        return if group.transfer_to(to, HANDOVER_DEADLINE).await { Ok(Vec::new()) } else { Err("not handed over".to_owned()) };
    }
    ask_group(host, speaker, &group, frame).await
}

async fn ask_group(host: &Node, speaker: Option<NodeId>, group: &Group, frame: Frame) -> Result<Vec<u8>, String> {
    let malformed = |error: serde_json::Error| error.to_string();
    let raft = group.raft();
    let encoded = match frame.kind {
        Kind::Transfer => {
            let rpc: TransferLeaderRequest<Types> = serde_json::from_slice(&frame.body).map_err(malformed)?;
            if group.rest().bound_by().is_some() {
                return Err("its log does not reach what an earlier one held".to_owned());
            }
            group.sent_for_another(rpc.from_leader()).await;
            serde_json::to_vec(&raft.handle_transfer_leader(rpc).await.map_err(|error| error.to_string())?)
        }
        Kind::Snapshot => {
            let (vote, snapshot) = frame::decode_snapshot(frame.body).ok_or("malformed snapshot")?;
            speaks_for_itself(speaker, vote.leader_id().voted_for).map_err(|error| error.to_string())?;
            group.rest().appended();
            serde_json::to_vec(&raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?)
        }
        _ => {
            let rpc: VoteRequest<Types> = serde_json::from_slice(&frame.body).map_err(malformed)?;
            if let Some(refusal) = host.refuses(group, &rpc) {
                return serde_json::to_vec(&refusal).map_err(malformed);
            }
            let vote = group.vote();
            if Rest::is_sent_by_leader(&vote, &rpc) {
                group.sent_for_another(&vote).await;
            }
            group.rest().stir();
            let response = if frame.kind == Kind::Vote { raft.vote(rpc).await } else { raft.pre_vote(rpc).await };
            serde_json::to_vec(&response.map_err(|error| error.to_string())?)
        }
    };
    encoded.map_err(malformed)
}
