//! One connection to one node: TLS, OAUTHBEARER, frames under a cap, answers matched to questions by correlation id.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::ClientError;

/// Largest answer taken: well above what a fetch asks for, well below what a lying length could cost.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Questions of one connection that wait to be written. More and the asker waits.
const OUTGOING_MAX: usize = 64;
/// TCP, TLS and the first three questions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take unless the question says otherwise.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An authenticated connection. Cheap to clone; closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: String,
    client_id: StrBytes,
    versions: BTreeMap<i16, (i16, i16)>,
    next_correlation: AtomicI32,
    outgoing: mpsc::Sender<Bytes>,
    waiting: Waiting,
    tasks: [AbortHandle; 2],
}

/// Who waits for which answer, and why nobody may wait any more.
#[derive(Debug, Clone, Default)]
struct Waiting {
    state: Arc<Mutex<WaitingState>>,
}

#[derive(Debug, Default)]
struct WaitingState {
    answers: HashMap<i32, oneshot::Sender<Bytes>>,
    closed: Option<String>,
}

impl Waiting {
    fn with<T>(&self, change: impl FnOnce(&mut WaitingState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn close(&self, reason: &str) {
        self.with(|state| {
            state.closed.get_or_insert_with(|| reason.to_owned());
            state.answers.clear();
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// An answer on its way. The question has been queued, in the order of the calls.
#[derive(Debug)]
pub struct Reply<R> {
    connection: Connection,
    answer: oneshot::Receiver<Bytes>,
    correlation: i32,
    version: i16,
    request: std::marker::PhantomData<fn() -> R>,
}

/// Newest version of an API that this client speaks; the crate's newest where not listed.
fn version_max(key: i16, of_crate: i16) -> i16 {
    // From version 13 on these name topics by id; this client names them by name, and so reads error messages that do too.
    let is_by_name = key == ApiKey::Produce as i16 || key == ApiKey::Fetch as i16;
    if is_by_name { of_crate.min(12) } else { of_crate }
}

impl Connection {
    /// Connects to `address` (`host:port`), and shows `token`.
    pub async fn open(address: &str, tls: Arc<ClientConfig>, token: &str, client_id: &str) -> Result<Connection, ClientError> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, tls, token, client_id)).await;
        opened.unwrap_or_else(|_| {
            Err(ClientError::Unreachable { address: address.into(), reason: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()) })
        })
    }

    pub fn address(&self) -> &str {
        &self.inner.address
    }

    pub fn is_closed(&self) -> bool {
        self.inner.waiting.with(|state| state.closed.is_some())
    }

    /// Asks and waits, [`ANSWER_TIMEOUT`] at most.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.send(request).await?.wait(ANSWER_TIMEOUT).await
    }

    /// Newest version of an API that both sides speak.
    fn version<R: Request>(&self) -> Result<i16, ClientError> {
        let of_crate = <R as Message>::VERSIONS;
        let (low, high) = *self.inner.versions.get(&R::KEY).unwrap_or(&(i16::MAX, i16::MIN));
        let newest = high.min(version_max(R::KEY, of_crate.max));
        if newest < low.max(of_crate.min) {
            return Err(ClientError::Unsupported { address: self.address().into(), what: api_name(R::KEY) });
        }
        Ok(newest)
    }

    /// Queues a question; questions are written in the order of the calls, and several may be under way.
    pub async fn send<R: Request>(&self, request: &R) -> Result<Reply<R>, ClientError> {
        self.send_version(request, self.version::<R>()?).await
    }

    async fn send_version<R: Request>(&self, request: &R, version: i16) -> Result<Reply<R>, ClientError> {
        let correlation = self.inner.next_correlation.fetch_add(1, Ordering::Relaxed);
        let frame = encode(request, version, correlation, &self.inner.client_id).map_err(|reason| ClientError::Malformed {
            address: self.address().into(),
            what: api_name(R::KEY),
            reason: format!("the question cannot be put: {reason}"),
        })?;
        let (sender, answer) = oneshot::channel();
        let closed = self.inner.waiting.with(|state| match &state.closed {
            Some(reason) => Some(reason.clone()),
            None => {
                state.answers.insert(correlation, sender);
                None
            }
        });
        if let Some(reason) = closed {
            return Err(ClientError::Lost { address: self.address().into(), reason });
        }
        let reply = Reply { connection: self.clone(), answer, correlation, version, request: std::marker::PhantomData };
        self.inner.outgoing.send(frame).await.map_err(|_| self.lost())?;
        Ok(reply)
    }

    fn lost(&self) -> ClientError {
        let reason = self.inner.waiting.with(|state| state.closed.clone());
        ClientError::Lost { address: self.address().into(), reason: reason.unwrap_or_else(|| "closed".into()) }
    }
}

impl<R: Request> Reply<R> {
    pub async fn wait(self, timeout: Duration) -> Result<R::Response, ClientError> {
        let Reply { connection, answer, correlation, version, .. } = self;
        let Ok(answered) = tokio::time::timeout(timeout, answer).await else {
            connection.inner.waiting.with(|state| state.answers.remove(&correlation));
            return Err(ClientError::Deadline { what: api_name(R::KEY).into(), seconds: timeout.as_secs() });
        };
        let mut body = answered.map_err(|_| connection.lost())?;
        let malformed = |reason: String| ClientError::Malformed { address: connection.address().into(), what: api_name(R::KEY), reason };
        // ApiVersions keeps the oldest header in every version; the crate knows.
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        ResponseHeader::decode(&mut body, header_version).map_err(|error| malformed(error.to_string()))?;
        R::Response::decode(&mut body, version).map_err(|error| malformed(error.to_string()))
    }
}

fn api_name(key: i16) -> &'static str {
    match ApiKey::try_from(key) {
        Ok(ApiKey::Produce) => "Produce",
        Ok(ApiKey::Fetch) => "Fetch",
        Ok(ApiKey::ListOffsets) => "ListOffsets",
        Ok(ApiKey::Metadata) => "Metadata",
        Ok(ApiKey::InitProducerId) => "InitProducerId",
        Ok(ApiKey::CreateTopics) => "CreateTopics",
        Ok(ApiKey::DeleteTopics) => "DeleteTopics",
        Ok(ApiKey::DeleteRecords) => "DeleteRecords",
        Ok(ApiKey::DescribeConfigs) => "DescribeConfigs",
        Ok(ApiKey::CreateAcls) => "CreateAcls",
        Ok(ApiKey::DescribeAcls) => "DescribeAcls",
        Ok(ApiKey::DeleteAcls) => "DeleteAcls",
        Ok(ApiKey::ApiVersions) => "ApiVersions",
        Ok(ApiKey::SaslHandshake | ApiKey::SaslAuthenticate) => "the login",
        _ => "a request",
    }
}

fn encode<R: Request>(request: &R, version: i16, correlation: i32, client_id: &StrBytes) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(client_id.clone()));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    header.encode(&mut frame, R::header_version(version)).map_err(|error| error.to_string())?;
    request.encode(&mut frame, version).map_err(|error| error.to_string())?;
    let length = i32::try_from(frame.len() - 4).map_err(|_| "it is larger than 2 GiB".to_owned())?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

async fn connect(address: &str, tls: Arc<ClientConfig>, token: &str, client_id: &str) -> Result<Connection, ClientError> {
    let unreachable = |error: std::io::Error| ClientError::unreachable(address, &error);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host)
        .map_err(|_| ClientError::Unreachable { address: address.into(), reason: "this is no host:port".into() })?;
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(unreachable)?;
    let mut connection = start(address, client_id, stream);
    let versions = api_versions(&connection).await?;
    // Nobody else has this connection yet.
    if let Some(inner) = Arc::get_mut(&mut connection.inner) {
        inner.versions = versions;
    }
    authenticate(&connection, token).await?;
    Ok(connection)
}

fn start(address: &str, client_id: &str, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Connection {
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    let (read_half, write_half) = tokio::io::split(stream);
    let waiting = Waiting::default();
    let reader = tokio::spawn(read_answers(read_half, waiting.clone())).abort_handle();
    let writer = tokio::spawn(write_questions(write_half, queue, waiting.clone())).abort_handle();
    let inner = Inner {
        address: address.into(),
        client_id: StrBytes::from_string(client_id.into()),
        versions: BTreeMap::new(),
        next_correlation: AtomicI32::new(0),
        outgoing,
        waiting,
        tasks: [reader, writer],
    };
    Connection { inner: Arc::new(inner) }
}

async fn write_questions(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>, waiting: Waiting) {
    while let Some(frame) = queue.recv().await {
        let written = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            waiting.close(&error.to_string());
            return;
        }
    }
}

async fn read_answers(mut stream: impl AsyncRead + Unpin, waiting: Waiting) {
    loop {
        match read_frame(&mut stream).await {
            Ok(frame) => {
                let correlation = frame.clone().get_i32();
                if let Some(answer) = waiting.with(|state| state.answers.remove(&correlation)) {
                    // Whoever asked may have given up.
                    let _ = answer.send(frame);
                }
            }
            Err(reason) => return waiting.close(&reason),
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, String> {
    let length = stream.read_i32().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the node closed it".to_owned(),
        _ => error.to_string(),
    })?;
    let length = usize::try_from(length).ok().filter(|length| (4..=FRAME_BYTES_MAX).contains(length));
    let length = length.ok_or_else(|| format!("an answer's length is not between 4 and {FRAME_BYTES_MAX}"))?;
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    let mut limited = stream.take(length as u64);
    while frame.len() < length {
        if limited.read_buf(&mut frame).await.map_err(|error| error.to_string())? == 0 {
            return Err("the node closed it inside an answer".into());
        }
    }
    Ok(frame.freeze())
}

async fn api_versions(connection: &Connection) -> Result<BTreeMap<i16, (i16, i16)>, ClientError> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("meridian"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    let response = connection.send_version(&request, 3).await?.wait(CONNECT_TIMEOUT).await?;
    match ClientError::of_code(connection.address(), response.error_code, None) {
        Some(error) => Err(error),
        None => Ok(response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect()),
    }
}

/// RFC 7628. A refusal comes as an error code, or as a JSON document with no error code.
async fn authenticate(connection: &Connection, token: &str) -> Result<(), ClientError> {
    let refused = |reason: String| ClientError::Refused { address: connection.address().into(), reason };
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("OAUTHBEARER"));
    let response = connection.call(&handshake).await?;
    if let Some(error) = ClientError::of_code("OAUTHBEARER", response.error_code, None) {
        return Err(refused(error.to_string()));
    }
    let message = Bytes::from(format!("n,,\u{1}auth=Bearer {}\u{1}\u{1}", token.trim()));
    let response = connection.call(&SaslAuthenticateRequest::default().with_auth_bytes(message)).await?;
    if response.error_code != 0 {
        return Err(refused(response.error_message.map_or_else(|| "no reason given".into(), |text| text.to_string())));
    }
    if !response.auth_bytes.is_empty() {
        return Err(refused(String::from_utf8_lossy(&response.auth_bytes).chars().take(200).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{MetadataRequest, ProduceRequest};

    use super::*;

    fn connected(versions: &[(i16, (i16, i16))]) -> (Connection, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut connection = start("test:1", "tests", ours);
        Arc::get_mut(&mut connection.inner).expect("nobody else has it").versions = versions.iter().copied().collect();
        (connection, theirs)
    }

    #[tokio::test]
    async fn the_newest_version_of_both_sides_is_spoken() {
        let (connection, _theirs) = connected(&[(0, (0, 13)), (3, (0, 9))]);
        assert_eq!(connection.version::<ProduceRequest>().expect("a version"), 12);
        assert_eq!(connection.version::<MetadataRequest>().expect("a version"), 9);
        assert!(matches!(connection.version::<SaslHandshakeRequest>(), Err(ClientError::Unsupported { .. })));
    }

    #[tokio::test]
    async fn answers_find_their_questions_in_any_order() {
        let (connection, mut theirs) = connected(&[(17, (1, 1))]);
        let ask = SaslHandshakeRequest::default();
        let first = connection.send(&ask).await.expect("sent");
        let second = connection.send(&ask).await.expect("sent");
        for (correlation, code) in [(1i32, 35i16), (0, 33)] {
            let mut frame = BytesMut::new();
            frame.put_i32(10);
            frame.put_i32(correlation);
            frame.put_i16(code);
            frame.put_i32(0);
            theirs.write_all(&frame).await.expect("written");
        }
        assert_eq!(first.wait(ANSWER_TIMEOUT).await.expect("an answer").error_code, 33);
        assert_eq!(second.wait(ANSWER_TIMEOUT).await.expect("an answer").error_code, 35);
    }

    #[tokio::test]
    async fn a_lying_length_ends_the_connection_before_anything_is_allocated() {
        let (connection, mut theirs) = connected(&[(17, (1, 1))]);
        let reply = connection.send(&SaslHandshakeRequest::default()).await.expect("sent");
        theirs.write_all(&i32::MAX.to_be_bytes()).await.expect("written");
        let error = reply.wait(ANSWER_TIMEOUT).await.expect_err("no answer");
        assert!(error.to_string().contains("length"), "{error}");
        assert!(connection.is_closed());
        assert!(connection.send(&SaslHandshakeRequest::default()).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_node_is_waited_for_only_so_long() {
        let (connection, _theirs) = connected(&[(17, (1, 1))]);
        let reply = connection.send(&SaslHandshakeRequest::default()).await.expect("sent");
        let error = reply.wait(Duration::from_millis(20)).await.expect_err("no answer");
        assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
        assert!(connection.inner.waiting.with(|state| state.answers.is_empty()));
    }
}
