//! The accepting half: reads a peer's questions, hands each to its group, writes the answers as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::client::STATUS_OK;
use super::frame::{self, Frame, Kind, Reader};
use super::identity;
use crate::consensus::wire;
use crate::env::{Listener, Stream};
use crate::group::Group;
use crate::group::incoming::Admitted;
use crate::node::lives::Telling;
use crate::node::{HANDOVER_DEADLINE, Node, NodeWeak, PeerTls};
use crate::{GroupId, NodeId, repair};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections accepted at once, handshakes included.
const CONNECTIONS_MAX: usize = 256;
/// Questions of one connection that may wait for their answer, or it to be written: what groups may have waiting is bounded by
/// [`crate::group::incoming`] besides.
const QUESTIONS_MAX: usize = 1 << 16;
/// Commands and repairs of one connection in progress.
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
struct Outgoing {
    number: u64,
    body: Vec<Bytes>,
    /// Its place among the questions of its connection.
    _place: OwnedSemaphorePermit,
}

/// Answers one question, from any thread. A question that is let go of without a word is answered with that.
#[derive(Debug)]
pub(crate) struct Responder {
    number: u64,
    answers: mpsc::UnboundedSender<Outgoing>,
    place: Option<OwnedSemaphorePermit>,
    admitted: Option<Admitted>,
}

impl Responder {
    pub fn send(mut self, answer: Result<Bytes, String>) {
        self.answer(answer);
    }

    fn answer(&mut self, answer: Result<Bytes, String>) {
        let Some(place) = self.place.take() else { return };
        self.admitted = None;
        let (status, body) = match answer {
            Ok(body) => (STATUS_OK, body),
            Err(reason) => (STATUS_FAILED, reason.into()),
        };
        let body = vec![Bytes::copy_from_slice(&[status]), body];
        // Whoever asked may be gone.
        let _ = self.answers.send(Outgoing { number: self.number, body, _place: place });
    }

    /// Nobody waits for an answer.
    fn forget(mut self) {
        self.place = None;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.answer(Err("not answered".to_owned()));
    }
}

async fn converse(node: NodeWeak, peer: Option<NodeId>, stream: Box<dyn Stream>) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::unbounded_channel();
    tokio::select! {
        biased;
        result = receive(node, peer, Reader::new(reader), answers) => result,
        result = send(BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer), outgoing) => result,
    }
}

async fn send(mut writer: BufWriter<impl tokio::io::AsyncWrite + Unpin>, mut answers: mpsc::UnboundedReceiver<Outgoing>) -> io::Result<()> {
    while let Some(first) = answers.recv().await {
        let mut next = Some(first);
        while let Some(Outgoing { number, body, .. }) = next {
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
    answers: mpsc::UnboundedSender<Outgoing>,
) -> io::Result<()> {
    let (questions, calls) = (Arc::new(Semaphore::new(QUESTIONS_MAX)), Arc::new(Semaphore::new(CALLS_MAX)));
    let bytes = Arc::new(AtomicUsize::new(0));
    // In simulation nothing but a peer's own word says who it is.
    let mut speaker = peer;
    // Ends, with everything it holds, when the connection does.
    let mut tasks = JoinSet::new();
    loop {
        let frame = reader.next().await?;
        while tasks.try_join_next().is_some() {}
        let Ok(place) = questions.clone().acquire_owned().await else { return Ok(()) };
        let Some(host) = node.upgrade() else { return Ok(()) };
        if let Some(speaker) = speaker {
            host.liveness().asked(speaker);
        }
        let mut responder = Responder { number: frame.request, answers: answers.clone(), place: Some(place), admitted: None };
        match frame.kind {
            Kind::Append => {
                let size = frame.body.len();
                let append = wire::decode_append(frame.body).ok_or_else(frame::malformed)?;
                // Nobody may speak for another node.
                speaker = speaks_for_itself(speaker, append.leader)?;
                match host.group(frame.group) {
                    None => responder.send(Err("no such group here".to_owned())),
                    Some(group) => match group.incoming().admit(&bytes, size) {
                        None => responder.send(Err("too much waits for this group; try again".to_owned())),
                        admitted => {
                            responder.admitted = admitted;
                            group.take(append, responder);
                        }
                    },
                }
            }
            Kind::Vote => {
                let ballot = wire::decode_ballot(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, ballot.candidate)?;
                match host.group(frame.group) {
                    None => responder.send(Err("no such group here".to_owned())),
                    Some(group) => group.judge(ballot, responder),
                }
            }
            Kind::Transfer => {
                let (term, leader, to, last) = wire::decode_offer(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, leader)?;
                let group = host.group(frame.group).filter(|group| group.node_id() == to);
                let group = group.ok_or_else(|| "no such group here".to_owned());
                responder.send(group.and_then(|group| group.sent_for(leader, term, last)).map(|()| Bytes::new()));
            }
            Kind::Leaders => {
                let led = frame::decode_leaders(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, led.node)?;
                host.heard_leaders(led);
                responder.forget();
            }
            Kind::Pulse => {
                let (from, process, refuses_data) = frame::decode_pulse(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, from)?;
                host.heard_of_space(from, refuses_data);
                let bond = host.liveness().pulsed(from, process).ok_or_else(|| "no node of this region".to_owned());
                responder.send(bond.map(|bond| frame::encode_pair(bond.process, bond.promise)));
            }
            Kind::Rouse | Kind::Release => {
                let (from, positions) = frame::decode_positions(frame.body).ok_or_else(frame::malformed)?;
                speaker = speaks_for_itself(speaker, from)?;
                if frame.kind == Kind::Rouse {
                    host.rouse(from, positions);
                    responder.forget();
                } else {
                    host.release(from, positions);
                    responder.send(Ok(Bytes::new()));
                }
            }
            Kind::Answer => return Err(frame::malformed()),
            Kind::Propose | Kind::Snapshot | Kind::HandOver | Kind::Repair | Kind::Lives | Kind::Standing => {
                let Ok(call) = calls.clone().acquire_owned().await else { return Ok(()) };
                tasks.spawn(async move {
                    responder.send(answer(&host, speaker, frame).await);
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

async fn answer(host: &Node, speaker: Option<NodeId>, frame: Frame) -> Result<Bytes, String> {
    match frame.kind {
        Kind::Propose => return host.propose_for_peer(frame.body.to_vec()).await.map(Bytes::from),
        Kind::Lives => {
            let telling = Telling::decode(frame.body).filter(|telling| speaker.is_none_or(|speaker| speaker == telling.node));
            let telling = telling.ok_or("malformed, or of another node's life")?;
            return host.remembers(telling).await.map(Bytes::from).map_err(|error| error.to_string());
        }
        Kind::Standing => {
            let standing = host.standing(frame.group).ok_or("this node has lost its votes, too")?;
            return Ok(Bytes::copy_from_slice(&standing.to_be_bytes()));
        }
        _ => {}
    }
    let group = host.group(frame.group).ok_or("no such group here")?;
    ask_group(speaker, &group, frame).await
}

async fn ask_group(speaker: Option<NodeId>, group: &Group, frame: Frame) -> Result<Bytes, String> {
    match frame.kind {
        Kind::Repair => repair::answer::answer(group, frame.body),
        Kind::HandOver => {
            let to = NodeId::from_be_bytes(frame.body.as_ref().try_into().map_err(|_| "a node's number has eight bytes")?);
            if group.transfer_to(to, HANDOVER_DEADLINE).await { Ok(Bytes::new()) } else { Err("not handed over".to_owned()) }
        }
        _ => {
            let mut snapshot = frame.body;
            let (term, leader) = wire::decode_begin(&mut snapshot).ok_or("malformed snapshot")?;
            speaks_for_itself(speaker, leader).map_err(|error| error.to_string())?;
            group.begin_anew(leader, term, snapshot).await
        }
    }
}
