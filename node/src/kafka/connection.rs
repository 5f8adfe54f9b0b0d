//! One client's connection, from TLS handshake to close. First it authenticates, one request at a time; then requests are read ahead and
//! answered strictly in order. Both halves run in one task: nothing is shared with other connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use meridian_raft::env::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::api::{self, Call, Outcome};
use super::counters::{Counters, Refusal, add};
use super::frame::{FrameError, Frames};
use super::gate::{Gate, Lease, Step};
use super::header::{self, HeaderError};
use super::{Broker, Session};
use crate::authentication::Authenticator;
use crate::telemetry::spans::{self, RequestHead};

mod outbox;

use outbox::Outbox;

/// From accept to a session.
const AUTHENTICATION_DEADLINE: Duration = Duration::from_secs(10);
/// Before a refusal is told: clients try again at once (`connection.failed.authentication.delay.ms`).
const REFUSAL_DELAY: Duration = Duration::from_millis(100);
/// Requests of one connection that may wait for their answers.
const PIPELINE_REQUESTS_MAX: usize = 64;
/// Bytes of requests that may wait; one request may exceed it alone.
const PIPELINE_BYTES_MAX: usize = 64 << 20;
/// A connection on which nothing is asked and nothing waits for so long is closed (`connections.max.idle.ms`).
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Answers gathered before they are written, where the next one is ready at once.
const GATHERED_BYTES_MAX: usize = 256 << 10;

const PRODUCE: i16 = ApiKey::Produce as i16;
const OFFSET_COMMIT: i16 = ApiKey::OffsetCommit as i16;
const FETCH: i16 = ApiKey::Fetch as i16;
const SASL_HANDSHAKE: i16 = ApiKey::SaslHandshake as i16;
const API_VERSIONS: i16 = ApiKey::ApiVersions as i16;
const SASL_AUTHENTICATE: i16 = ApiKey::SaslAuthenticate as i16;

type Tls = TlsStream<Box<dyn Stream>>;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the client closed it")]
    ByClient,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("not authenticated in time")]
    Deadline,
    #[error("not authenticated")]
    Unauthenticated,
    #[error("the token has expired")]
    Expired,
    #[error("the token's key is no longer in the key set")]
    KeyRemoved,
    #[error("idle")]
    Idle,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("{0}")]
    Request(&'static str),
    #[error("the client takes no bytes")]
    Stalled,
    #[error("writing: {0}")]
    Write(io::Error),
}

/// Counts an open connection until dropped.
struct Open(Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: Box<dyn Stream>, peer: SocketAddr, tls: TlsAcceptor, broker: Broker, half_open: OwnedSemaphorePermit) {
    add(&broker.counters.connections_open, 1);
    let _open = Open(broker.counters.clone());
    let mut gate = Gate::new(broker.clone(), peer.ip().to_canonical());
    let entering = tokio::time::timeout(AUTHENTICATION_DEADLINE, enter(stream, tls, &mut gate, &broker.counters));
    let closed = match entering.await {
        Err(_) => {
            broker.counters.refused(Refusal::Deadline);
            Closed::Deadline
        }
        Ok(Err(closed)) => closed,
        Ok(Ok((frames, outbox))) => {
            drop(half_open);
            converse(frames, outbox, gate, broker).await
        }
    };
    tracing::debug!(%peer, reason = %closed, "connection closed");
}

/// The handshake and everything before there is a session.
async fn enter(
    stream: Box<dyn Stream>,
    tls: TlsAcceptor,
    gate: &mut Gate,
    counters: &Arc<Counters>,
) -> Result<(Frames<ReadHalf<Tls>>, Outbox<WriteHalf<Tls>>), Closed> {
    let stream = tls.accept(stream).await.map_err(|error| {
        counters.refused(Refusal::Tls);
        Closed::Tls(error)
    })?;
    let (read, write) = tokio::io::split(stream);
    let (mut frames, mut outbox) = (Frames::new(read), Outbox::new(write, counters.clone()));
    while gate.session().is_none() {
        let frame = frames.next(false).await?.ok_or(Closed::ByClient)?;
        add(&counters.bytes_in, frame.len() + 4);
        match admit(gate, counters, &frame).await? {
            Outcome::Reply(reply) => outbox.push(reply),
            Outcome::Last(reply) => {
                tokio::time::sleep(REFUSAL_DELAY).await;
                outbox.push(reply);
                outbox.flush().await?;
                return Err(Closed::Unauthenticated);
            }
            Outcome::Silent => {}
            Outcome::Close(reason) => return Err(Closed::Request(reason)),
        }
        outbox.flush().await?;
    }
    Ok((frames, outbox))
}

/// One request of somebody who is not known yet.
async fn admit(gate: &mut Gate, counters: &Counters, frame: &Bytes) -> Result<Outcome, Closed> {
    if gate.expects_raw() {
        return Ok(raw(gate.step(frame, "").await));
    }
    let (call, client_id) = match header::decode(frame) {
        Ok(header) => (call(&header, frame), header.client_id),
        Err(error) => return unknown(error),
    };
    counters.request(call.api.key);
    match call.api.key {
        API_VERSIONS => Ok(api::api_versions::answer(call.correlation_id, call.version)),
        SASL_HANDSHAKE => Ok(api::sasl_handshake::handle(gate, &call)),
        SASL_AUTHENTICATE => Ok(api::sasl_authenticate::handle(gate, &call, client_id).await),
        _ => Err(Closed::Unauthenticated),
    }
}

/// SASL as it was before SaslAuthenticate: bare messages, and a closed connection for a refusal.
fn raw(step: Step) -> Outcome {
    let message: &[u8] = match step {
        Step::Passed { .. } => b"",
        Step::Challenge(challenge) => challenge,
        Step::Refused(_) => return Outcome::Close("authentication refused"),
    };
    let length = (message.len() as i32).to_be_bytes();
    Outcome::Reply(vec![[&length[..], message].concat().into()])
}

fn call(header: &header::RequestHeader<'_>, frame: &Bytes) -> Call {
    let body = frame.slice(header.body_at..);
    Call { api: header.api, version: header.version, correlation_id: header.correlation_id, body }
}

/// An unreadable header closes the connection, as in Kafka, unless it asks for versions.
fn unknown(error: HeaderError) -> Result<Outcome, Closed> {
    match error {
        HeaderError::UnknownVersion { api, correlation_id, .. } if api.key == API_VERSIONS => {
            Ok(api::api_versions::answer_unknown_version(correlation_id))
        }
        error => Err(error.into()),
    }
}

/// A request on its way to its answer.
struct Work {
    future: BoxFuture<'static, Outcome>,
    api: i16,
    arrived: Instant,
    _bytes: OwnedSemaphorePermit,
}

async fn converse(frames: Frames<ReadHalf<Tls>>, outbox: Outbox<WriteHalf<Tls>>, gate: Gate, broker: Broker) -> Closed {
    let Some(lease) = gate.lease().cloned() else { return Closed::Unauthenticated };
    let (lease, ending) = watch::channel(lease);
    let authenticator = broker.authenticator.clone();
    let (queue, work) = mpsc::channel(PIPELINE_REQUESTS_MAX);
    let end = tokio::select! {
        end = Reader { frames, gate, broker, queue, lease }.run() => end,
        end = write(work, outbox) => end,
        end = outlived(ending, authenticator) => return end,
    };
    end.err().unwrap_or(Closed::ByClient)
}

/// Resolves when the session ends, however often it is renewed before: its token has expired, or its key is believed no more.
async fn outlived(mut lease: watch::Receiver<Lease>, authenticator: Authenticator) -> Closed {
    let mut keys = authenticator.watch_keys();
    loop {
        let Lease { expires, key_id } = lease.borrow_and_update().clone();
        if !authenticator.believes(&key_id) {
            return Closed::KeyRemoved;
        }
        tokio::select! {
            () = tokio::time::sleep_until(expires) => return Closed::Expired,
            changed = lease.changed() => if changed.is_err() { return Closed::Expired },
            changed = keys.changed() => if changed.is_err() { return Closed::KeyRemoved },
        }
    }
}

/// Turns frames into work.
struct Reader {
    frames: Frames<ReadHalf<Tls>>,
    gate: Gate,
    broker: Broker,
    queue: mpsc::Sender<Work>,
    lease: watch::Sender<Lease>,
}

impl Reader {
    async fn run(mut self) -> Result<(), Closed> {
        let in_flight = Arc::new(Semaphore::new(PIPELINE_BYTES_MAX));
        loop {
            let Some(frame) = next(&mut self.frames, &in_flight, IDLE_MAX).await? else { return Ok(()) };
            add(&self.broker.counters.bytes_in, frame.len() + 4);
            let bytes = frame.len().clamp(1, PIPELINE_BYTES_MAX) as u32;
            let Ok(permit) = in_flight.clone().acquire_many_owned(bytes).await else { return Ok(()) };
            let arrived = Instant::now();
            let (api, future) = self.begin(frame).await?;
            if self.queue.send(Work { future, api, arrived, _bytes: permit }).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Produce and OffsetCommit are submitted here and now, in the order of the connection; SASL changes who speaks; all else begins when its turn comes.
    async fn begin(&mut self, frame: Bytes) -> Result<(i16, BoxFuture<'static, Outcome>), Closed> {
        if self.gate.expects_raw() {
            return Err(Closed::Request("bare SASL messages cannot renew a session"));
        }
        let (call, client_id) = match header::decode(&frame) {
            Ok(header) => (call(&header, &frame), header.client_id),
            Err(error) => return Ok((API_VERSIONS, ready(unknown(error)?))),
        };
        let key = call.api.key;
        self.broker.counters.request(key);
        let span = self.broker.tracing.request(RequestHead { api: call.api.name, version: call.version, client_id });
        let Some(session) = self.gate.session() else { return Err(Closed::Unauthenticated) };
        let future = match key {
            PRODUCE => {
                // The request is to hold its frame alone.
                drop(frame);
                spans::within(span.as_ref(), || api::produce::submit(&self.broker, session, call))
            }
            FETCH => api::fetch::answer(&self.broker, session, call),
            API_VERSIONS => ready(api::api_versions::answer(call.correlation_id, call.version)),
            SASL_HANDSHAKE => ready(api::sasl_handshake::handle(&mut self.gate, &call)),
            SASL_AUTHENTICATE => {
                let outcome = api::sasl_authenticate::handle(&mut self.gate, &call, client_id).await;
                if let Some(lease) = self.gate.lease() {
                    self.lease.send_replace(lease.clone());
                }
                ready(outcome)
            }
            OFFSET_COMMIT => begun(api::answer(&self.broker, &named(session, client_id), call)).await,
            _ => api::answer(&self.broker, &named(session, client_id), call),
        };
        Ok((key, spans::follow(span, future)))
    }
}

/// Takes a request's first step, in which it is handed to whoever decides it, before its turn to be answered: commits that are sent one behind
/// the other share a sync, and the heartbeat behind them does not wait for one sync each.
async fn begun(mut future: BoxFuture<'static, Outcome>) -> BoxFuture<'static, Outcome> {
    match futures_util::poll!(future.as_mut()) {
        Poll::Ready(outcome) => ready(outcome),
        Poll::Pending => future,
    }
}

/// The next frame; an error when neither side has anything to say for too long.
async fn next<R: AsyncRead + Unpin>(frames: &mut Frames<R>, in_flight: &Semaphore, idle_max: Duration) -> Result<Option<Bytes>, Closed> {
    let mut next = std::pin::pin!(frames.next(true));
    loop {
        match tokio::time::timeout(idle_max, &mut next).await {
            Ok(frame) => return Ok(frame?),
            // Every request holds a part of the bytes until it is answered; one that is being answered is in no queue any more.
            Err(_) if in_flight.available_permits() == PIPELINE_BYTES_MAX => return Err(Closed::Idle),
            // Somebody waits for an answer: a long poll, or a group's rebalance.
            Err(_) => {}
        }
    }
}

fn ready(outcome: Outcome) -> BoxFuture<'static, Outcome> {
    std::future::ready(outcome).boxed()
}

/// The session under the client id of this request, which is that of the first but for odd clients.
fn named(session: &Arc<Session>, client_id: &str) -> Arc<Session> {
    if *session.client_id == *client_id {
        return session.clone();
    }
    Arc::new(Session { client_id: client_id.into(), ..Session::clone(session) })
}

/// Answers in order. What is ready together is written together.
async fn write<W: AsyncWrite + Unpin>(mut work: mpsc::Receiver<Work>, mut outbox: Outbox<W>) -> Result<(), Closed> {
    loop {
        let mut next = match work.try_recv() {
            Ok(next) => next,
            Err(_) => {
                outbox.flush().await?;
                let Some(next) = work.recv().await else { return Ok(()) };
                next
            }
        };
        let outcome = match (&mut next.future).now_or_never() {
            Some(outcome) => outcome,
            None => {
                outbox.flush().await?;
                next.future.await
            }
        };
        outbox.counters.answered(next.api, next.arrived.elapsed());
        match outcome {
            Outcome::Reply(reply) => outbox.push(reply),
            Outcome::Last(reply) => {
                outbox.push(reply);
                outbox.flush().await?;
                return Err(Closed::Unauthenticated);
            }
            Outcome::Silent => {}
            Outcome::Close(reason) => {
                outbox.flush().await?;
                return Err(Closed::Request(reason));
            }
        }
        if outbox.bytes >= GATHERED_BYTES_MAX {
            outbox.write().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, BufWriter};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_not_idle_while_an_answer_is_awaited() {
        let (_client, server) = tokio::io::duplex(64);
        let (mut frames, in_flight) = (Frames::new(server), Semaphore::new(PIPELINE_BYTES_MAX));
        let idle_max = Duration::from_millis(20);
        // A join that waits for the others, for longer than an idle connection may live.
        let answering = in_flight.acquire().await.expect("room");
        let waited = tokio::time::timeout(10 * idle_max, next(&mut frames, &in_flight, idle_max)).await;
        assert!(waited.is_err(), "closed while the answer was awaited: {waited:?}");
        drop(answering);
        let waited = tokio::time::timeout(500 * idle_max, next(&mut frames, &in_flight, idle_max)).await;
        assert!(matches!(waited, Ok(Err(Closed::Idle))), "{waited:?}");
    }

    #[tokio::test]
    async fn a_large_answer_reaches_the_client_though_nothing_is_asked_after_it() {
        let (server, mut client) = tokio::io::duplex(4 << 10);
        let reply = vec![Bytes::from(vec![7; GATHERED_BYTES_MAX + 1])];
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("a permit");
        let (queue, work) = mpsc::channel(1);
        let asked = Work { future: ready(Outcome::Reply(reply)), api: FETCH, arrived: Instant::now(), _bytes: permit };
        queue.send(asked).await.unwrap_or_else(|_| panic!("the queue is open"));
        // Holds back what it took until it is flushed, as TLS does when the socket is full.
        let outbox = Outbox::new(BufWriter::with_capacity(GATHERED_BYTES_MAX * 2, server), Arc::default());
        let mut answer = vec![0; GATHERED_BYTES_MAX + 1];
        tokio::select! {
            end = write(work, outbox) => panic!("the connection ended: {:?}", end.err()),
            read = tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut answer)) => {
                read.expect("the answer stays in the connection").expect("read");
            }
        }
        assert!(answer.iter().all(|byte| *byte == 7));
    }
}
