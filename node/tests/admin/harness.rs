//! One whole node, served in this process, with an authority and an issuer of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use meridian::client::{Cluster, Settings, TokenSource};
use meridian::config::{Admin, Authentication, Config, Kafka, Link, Peer, Telemetry, Tls};
use meridian::dev::issuer::{AUDIENCE, ISSUER, Issuer};
use meridian::serve::{ServeError, serve};
use meridian::tls;
use meridian_raft::env::Env;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use reqwest::{Certificate, Client, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);
/// Who may do everything in these tests.
pub const ROOT: &str = "root";

pub struct Running {
    pub config: Config,
    pub client: Client,
    issuer: Issuer,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
    _folder: tempfile::TempDir,
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// An authority's certificate, and a node's certificate and key that it signed, all PEM.
fn certificates() -> (String, String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("a root").pem();
    let issuer = rcgen::Issuer::new(params, key);
    let node_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    params.subject_alt_names.push(SanType::URI("spiffe://test/region/eu/node/1".try_into().expect("ascii")));
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let certificate = params.signed_by(&node_key, &issuer).expect("a certificate").pem();
    (root, certificate, node_key.serialize_pem())
}

impl Running {
    pub async fn start(telemetry: Telemetry) -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let (root, certificate, key) = certificates();
        for (name, pem) in [("ca.pem", &root), ("node.pem", &certificate), ("node.key", &key)] {
            std::fs::write(path.join(name), pem).expect("written");
        }
        let issuer = Issuer::open(&path.join("issuer")).expect("an issuer");
        let peer = free_address();
        let config = Config {
            leader_balance: true,
            mesh: "test".to_owned(),
            region: "eu".to_owned(),
            region_number: 1,
            node_id: 1,
            data_dir: path.join("data"),
            rack: None,
            superusers: vec![format!("User:{ROOT}")],
            kafka: Kafka { listen: free_address(), advertised: None },
            peer: Peer {
                listen: peer,
                nodes: BTreeMap::from([("1".to_owned(), peer.to_string())]),
                join: false,
                catch_up_bytes_per_s: 1 << 20,
            },
            link: Link { listen: free_address(), advertised: None, regions: BTreeMap::new(), discover: true },
            admin: Admin { listen: free_address() },
            tls: Tls { ca: path.join("ca.pem"), certificate: path.join("node.pem"), key: path.join("node.key") },
            authentication: Authentication {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                jwks: path.join("issuer/jwks.json").display().to_string(),
            },
            storage: Default::default(),
            telemetry,
        };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(config.clone(), tokio::runtime::Handle::current(), async {
            let _ = stopped.await;
        }));
        let root = Certificate::from_pem(root.as_bytes()).expect("a root");
        let client = Client::builder().no_proxy().tls_certs_only([root]).build().expect("a client");
        let running = Running { config, client, issuer, stop, serving, _folder: folder };
        running.wait_until_healthy().await;
        running
    }

    async fn wait_until_healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.client.get(self.plain("/healthz")).send().await {
                Ok(response) if response.status() == StatusCode::OK => return,
                answer => assert!(Instant::now() < deadline, "never healthy: {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until nothing but `missing` keeps clients away.
    pub async fn wait_until_missing(&self, missing: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.client.get(self.plain("/readyz")).send().await.expect("an answer");
            let code = response.status();
            let body: serde_json::Value = response.json().await.expect("JSON");
            if body["missing"] == serde_json::json!(missing) {
                assert_eq!(code, if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
                return;
            }
            assert!(Instant::now() < deadline, "still {body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn plain(&self, path: &str) -> String {
        format!("http://{}{path}", self.config.admin.listen)
    }
    pub fn secure(&self, path: &str) -> String {
        format!("https://{}{path}", self.config.admin.listen)
    }

    /// A token of `subject`, good for `ttl_s` seconds from `ago_s` seconds ago.
    pub fn token(&self, subject: &str, ttl_s: u32, ago_s: i64) -> String {
        let now_s = Env::real().clock.wall_us() / 1_000_000;
        self.issuer.issue(subject, AUDIENCE, ttl_s, now_s - ago_s).expect("a token")
    }

    /// A Kafka client with this token.
    pub fn cluster(&self, token: String) -> Cluster {
        let roots = tls::roots(&self.config.tls.ca).expect("the authority");
        Cluster::new(Settings {
            bootstrap: vec![self.config.kafka.listen.to_string()],
            tls: Arc::new(tls::client(roots).expect("a client")),
            token: TokenSource::Text(token.into()),
            client_id: "tests".to_owned(),
        })
    }

    pub async fn metrics(&self) -> String {
        self.client.get(self.plain("/metrics")).send().await.expect("an answer").text().await.expect("text")
    }

    pub async fn stop(self) {
        self.stop.send(()).expect("running");
        tokio::time::timeout(PATIENCE, self.serving).await.expect("in time").expect("no panic").expect("stopped well");
    }
}
