//! One whole node, served in this process, and a client that speaks to it in bytes: nothing of ours is between a test and the wire.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    CreateTopicsRequest, RequestHeader, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Request, StrBytes, encode_request_header_into_buffer};
use meridian::config::{Admin, Authentication, Config, Kafka, Link, Peer, Telemetry, Tls};
use meridian::dev::authority::{Authority, CA_FILE, NODE_CERTIFICATE_FILE, NODE_KEY_FILE};
use meridian::dev::issuer::{AUDIENCE, ISSUER, Issuer};
use meridian::kafka::api;
use meridian::serve::{ServeError, serve};
use meridian::tls;
use meridian_raft::env::Env;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Who may do everything in these tests.
pub const ROOT: &str = "root";

pub fn now_s() -> i64 {
    Env::real().clock.wall_us() / 1_000_000
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

pub struct Running {
    pub issuer: Issuer,
    pub address: SocketAddr,
    ca: PathBuf,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
    _folder: tempfile::TempDir,
}

impl Running {
    pub async fn start() -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        Authority::open(path, "test", now_s()).and_then(|authority| authority.equip(path, "eu", 1)).expect("certificates");
        let issuer = Issuer::open(path).expect("an issuer");
        let (peer, kafka) = (free_address(), free_address());
        let config = Config {
            leader_balance: true,
            mesh: "test".to_owned(),
            region: "eu".to_owned(),
            region_number: 1,
            node_id: 1,
            data_dir: path.join("data"),
            rack: None,
            superusers: vec![format!("User:{ROOT}")],
            kafka: Kafka { listen: kafka, advertised: None },
            peer: Peer {
                listen: peer,
                nodes: BTreeMap::from([("1".to_owned(), peer.to_string())]),
                join: false,
                catch_up_bytes_per_s: 1 << 20,
            },
            link: Link { listen: free_address(), advertised: None, regions: BTreeMap::new(), discover: true },
            admin: Admin { listen: free_address() },
            tls: Tls { ca: path.join(CA_FILE), certificate: path.join(NODE_CERTIFICATE_FILE), key: path.join(NODE_KEY_FILE) },
            authentication: Authentication {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                jwks: path.join("jwks.json").display().to_string(),
            },
            storage: Default::default(),
            telemetry: Telemetry::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let ca = config.tls.ca.clone();
        let serving = tokio::spawn(serve(config, tokio::runtime::Handle::current(), async {
            let _ = stopped.await;
        }));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(kafka).await.is_err() {
            assert!(Instant::now() < deadline, "never listening");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Running { issuer, address: kafka, ca, stop, serving, _folder: folder }
    }

    pub async fn stop(self) {
        self.stop.send(()).expect("it runs");
        timeout(PATIENCE, self.serving).await.expect("in time").expect("no panic").expect("a clean stop");
    }

    pub fn token(&self, subject: &str) -> String {
        self.issuer.issue(subject, AUDIENCE, 600, now_s()).expect("a token")
    }

    /// Connected, and not authenticated.
    pub async fn dial(&self) -> Wire {
        let client = tls::client(tls::roots(&self.ca).expect("the authority")).expect("a client");
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        Wire { stream: TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("TLS"), next: 0 }
    }

    pub async fn connect(&self, subject: &str) -> Wire {
        self.connect_with(&self.token(subject)).await
    }

    pub async fn connect_with(&self, token: &str) -> Wire {
        let mut wire = self.dial().await;
        let passed = wire.authenticate(token).await;
        assert_eq!(passed.error_code, 0, "{:?}", passed.error_message);
        assert!(passed.session_lifetime_ms > 0);
        wire
    }

    /// Makes a topic of one partition, ready for writes.
    pub async fn topic(&self, name: &'static str, configs: &[(&'static str, &'static str)]) -> uuid::Uuid {
        let config = |(name, value): &(&'static str, &'static str)| {
            let value = Some(StrBytes::from_static_str(value));
            CreatableTopicConfig::default().with_name(StrBytes::from_static_str(name)).with_value(value)
        };
        let topic = CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(1).with_replication_factor(1);
        let topic = topic.with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let mut root = self.connect(ROOT).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = root.ask(7, &request).await.topics.remove(0);
            if made.error_code == 0 {
                return made.topic_id;
            }
            // The node may not have entered itself into the metadata yet.
            assert!(Instant::now() < deadline, "{made:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn topic_name(name: &'static str) -> TopicName {
    StrBytes::from_static_str(name).into()
}

/// A connection, and the bytes on it.
pub struct Wire {
    pub stream: TlsStream<TcpStream>,
    next: i32,
}

impl Wire {
    /// Handshake and OAUTHBEARER's first message.
    pub async fn authenticate(&mut self, token: &str) -> SaslAuthenticateResponse {
        self.sasl("OAUTHBEARER", format!("n,,\x01auth=Bearer {token}\x01\x01").into_bytes()).await
    }

    pub async fn sasl(&mut self, mechanism: &'static str, message: Vec<u8>) -> SaslAuthenticateResponse {
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        assert_eq!(self.ask(1, &handshake).await.error_code, 0);
        self.message(message).await
    }

    pub async fn message(&mut self, message: Vec<u8>) -> SaslAuthenticateResponse {
        self.ask(2, &SaslAuthenticateRequest::default().with_auth_bytes(message.into())).await
    }

    /// Sends a request and says under which id.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.next += 1;
        let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version);
        let header = header.with_correlation_id(self.next).with_client_id(Some(StrBytes::from_static_str("wire")));
        let mut bytes = BytesMut::zeroed(4);
        encode_request_header_into_buffer(&mut bytes, &header).expect("a header");
        request.encode(&mut bytes, version).expect("a request");
        let length = bytes.len() - 4;
        bytes[..4].copy_from_slice(&(length as i32).to_be_bytes());
        self.stream.write_all(&bytes).await.expect("sent");
        // TLS keeps what tokio's budget does not let it write, and tells nobody.
        self.stream.flush().await.expect("flushed");
        self.next
    }

    pub async fn receive<R: Request>(&mut self, version: i16, id: i32) -> R::Response {
        let mut frame = timeout(PATIENCE, self.frame()).await.expect("in time").expect("an answer");
        assert_eq!(frame.get_i32(), id, "answers come in order");
        if R::KEY != 18 && api::find(R::KEY).expect("served").is_flexible(version) {
            assert_eq!(frame.get_u8(), 0, "no tagged fields");
        }
        let response = R::Response::decode(&mut frame, version).expect("a response");
        assert!(frame.is_empty(), "nothing is left");
        response
    }

    pub async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request).await;
        self.receive::<R>(version, id).await
    }

    /// None when the node closed the connection.
    pub async fn frame(&mut self) -> Option<Bytes> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    pub async fn is_closed_within(&mut self, patience: Duration) -> bool {
        timeout(patience, self.frame()).await.is_ok_and(|frame| frame.is_none())
    }
}
