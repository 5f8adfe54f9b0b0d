//! One node, whole: everything a configuration file asks for, started in the order in which the parts need each other, and stopped in reverse.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::env::Env;
use meridian_raft::node::{Node, NodeConfig, NodeError, Timing};
use meridian_replication::link::{LinkConfig, LinkError, Links};

use crate::admin::health::{self, Phase};
use crate::admin::server::{Admin, AdminError};
use crate::admin::view::View;
use crate::authentication::{Authenticator, AuthenticatorError};
use crate::config::Config;
use crate::controller::command::{Answer, Command};
use crate::controller::handle::{Controller, Region};
use crate::controller::image::NodeRecord;
use crate::folder_lock::{FolderLock, LockError};
use crate::groups::Groups;
use crate::hosting::Hosting;
use crate::kafka::Broker;
use crate::kafka::listener::Listener;
use crate::membership::{Membership, MembershipConfig};
use crate::mesh::Mesh;
use crate::telemetry::otlp::{Otlp, OtlpError};
use crate::tls::{self, Credentials, TlsError};

/// Raft's clocks: a dead leader is replaced well within a second, a busy machine's pauses are not taken for death.
const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };
/// Between two attempts to enter this node into the region's metadata.
const REGISTER_AGAIN: Duration = Duration::from_millis(200);
/// In the data folder: the process that has it open.
pub const PID_FILE: &str = "node.pid";
/// In the data folder while this node serves clients as part of its region: the id of the process that does. What a killed process left behind
/// names another.
pub const READY_FILE: &str = "ready";
/// Between two looks whether something is missing still.
const READY_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Authenticator(#[from] AuthenticatorError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot listen for Kafka clients on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A write or a sync of the data folder has failed: nothing is written any more, and no sync is tried again.
    #[error("{0}; this node has ended, and its peers lead in its place")]
    Disk(String),
}

/// Serves until `stop` resolves, then hands leaderships over and stops. `raft` runs Raft alone, so that busy clients cannot starve its
/// heartbeats; everything else runs on the calling runtime.
pub async fn serve(config: Config, raft_runtime: tokio::runtime::Handle, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let _lock = FolderLock::take(&config.data_dir)?;
    // Two providers are compiled in, and a library that asks for the default one must not have to choose. Refused where it is set already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let env = Env::real();
    let credentials = Credentials::load(&config.tls)?;
    let authenticator = Authenticator::start(env.clone(), &config.authentication).await?;
    write_process_id(&config, PID_FILE)?;
    let otlp = Otlp::start(&config)?;
    let admin = Admin::start(config.admin.listen, Arc::new(credentials.server()?), authenticator.clone()).await?;
    let node_config = node_config(&config, &credentials)?;
    let start = Node::start(env.clone(), node_config);
    let raft = raft_runtime.spawn(start).await.map_err(|error| NodeError::Raft(error.to_string()))??;
    let region =
        Region { mesh: config.mesh.clone(), name: config.region.clone(), number: config.region_number, superusers: config.superusers() };
    raft.set_catch_up_rate(config.peer.catch_up_bytes_per_s);
    raft.limit_scrub(config.storage.scrub_bytes_per_s, Duration::from_secs(config.storage.scrub_pause_s));
    raft.limit_repairs(config.storage.repair_bytes_per_s);
    let controller = if config.peer.join { Controller::join(&raft, region).await? } else { Controller::start(&raft, region).await? };
    let membership = Membership::start(membership_config(&config), raft.clone(), controller.clone());
    let hosting = Hosting::start(config.node_id, raft.clone(), controller.clone());
    let mesh = Mesh::start(config.node_id, config.peer.nodes.len(), raft.clone(), controller.clone(), env.clone());
    let links = Links::start(link_config(&config)?, raft.clone(), Arc::new(mesh), env.clone()).await?;
    let groups = Groups::start(env.clone(), raft.clone(), controller.clone());
    let broker = Broker {
        node_id: config.node_id,
        region: config.region.as_str().into(),
        cluster_id: format!("{}.{}", config.mesh, config.region).into(),
        raft: raft.clone(),
        controller: controller.clone(),
        groups,
        authenticator,
        env: env.clone(),
        counters: Default::default(),
        producer_ids: Default::default(),
        tracing: otlp.as_ref().map(|otlp| otlp.tracing(&config.telemetry, &env)).unwrap_or_default(),
    };
    let view = View {
        mesh: config.mesh.as_str().into(),
        region: broker.region.clone(),
        node_id: config.node_id,
        env: broker.env.clone(),
        raft: raft.clone(),
        controller: controller.clone(),
        groups: broker.groups.clone(),
        counters: broker.counters.clone(),
        links: Some(links.clone()),
        certificate_expires_at_s: credentials.expires_at_s()?,
    };
    admin.show(view.clone());
    if let Some(otlp) = &otlp {
        otlp.observe(admin.metrics());
    }
    let listener = Listener::start(config.kafka.listen, credentials.server()?, broker.clone()).await;
    let mut listener = listener.map_err(|error| ServeError::Listen { address: config.kafka.listen, error })?;
    admin.phase().kafka_accepts();
    // Last: a node that says it is ready has every listener open.
    let joining = tokio::spawn(join(config.clone(), admin.phase().clone(), view));
    tracing::info!(region = %config.region, node = config.node_id, "serving");

    let mut stop = std::pin::pin!(stop);
    let failed = tokio::select! {
        () = &mut stop => None,
        reason = raft.disk_failed() => Some(reason),
        () = removed(config.node_id, controller.clone()) => {
            tracing::warn!("this node was removed from its region: it serves no clients any more, and may be stopped");
            admin.phase().stopping();
            listener.shutdown().await;
            tokio::select! {
                () = &mut stop => None,
                reason = raft.disk_failed() => Some(reason),
            }
        }
    };

    tracing::info!("stopping");
    admin.phase().stopping();
    joining.abort();
    let _ = joining.await;
    let _ = std::fs::remove_file(config.data_dir.join(READY_FILE));
    if let Some(reason) = failed {
        // As Kafka does: the process ends, and whoever supervises it or its machine decides whether it shall begin again.
        raft.abandon().await;
        return Err(ServeError::Disk(reason));
    }
    // Before connections close: what clients have in flight is still answered, and what they send next is told who leads.
    raft.hand_over().await;
    listener.shutdown().await;
    drop(broker);
    links.shutdown().await;
    drop((hosting, membership));
    raft.shutdown().await;
    if let Some(otlp) = otlp {
        otlp.shutdown().await;
    }
    drop(admin);
    let _ = std::fs::remove_file(config.data_dir.join(PID_FILE));
    Ok(())
}

/// Writes this process's id to a file of the data folder, whole or not at all.
fn write_process_id(config: &Config, name: &str) -> Result<(), ServeError> {
    let (path, draft) = (config.data_dir.join(name), config.data_dir.join(format!("{name}.draft")));
    let written = std::fs::write(&draft, format!("{}\n", std::process::id())).and_then(|()| std::fs::rename(&draft, &path));
    written.map_err(|error| ServeError::File { path, error })
}

fn node_config(config: &Config, credentials: &Credentials) -> Result<NodeConfig, ServeError> {
    Ok(NodeConfig {
        node_id: config.node_id,
        data_dir: config.data_dir.clone(),
        peer_listen: config.peer.listen,
        // `config::load` has checked that each is a number.
        peers: config.peer.nodes.iter().filter_map(|(id, address)| Some((id.parse().ok()?, address.clone()))).collect(),
        tls: Some(credentials.peer(&config.mesh, &config.region)?),
        timing: TIMING,
    })
}

fn membership_config(config: &Config) -> MembershipConfig {
    let peers = config.peer.nodes.iter().filter_map(|(id, address)| Some((id.parse().ok()?, address.clone()))).collect();
    MembershipConfig { node_id: config.node_id, peers, leader_balance: config.leader_balance }
}

fn link_config(config: &Config) -> Result<LinkConfig, TlsError> {
    Ok(LinkConfig {
        mesh: config.mesh.clone(),
        region: config.region.clone(),
        node_id: config.node_id,
        listen: config.link.listen,
        remote: config.link.regions.clone(),
        ca_pem: tls::read(&config.tls.ca)?,
        certificate_pem: tls::read(&config.tls.certificate)?,
        key_pem: tls::read(&config.tls.key)?,
    })
}

fn record(config: &Config) -> NodeRecord {
    let advertised = config.kafka.advertised.clone().unwrap_or_else(|| config.kafka.listen.to_string());
    let (host, port) = advertised.rsplit_once(':').unwrap_or((advertised.as_str(), ""));
    NodeRecord {
        id: config.node_id,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().unwrap_or(config.kafka.listen.port()),
        admin: config.admin.listen.to_string(),
        link: config.link.listen.to_string(),
        rack: config.rack.clone(),
        peer: config.peer.nodes.get(&config.node_id.to_string()).cloned(),
    }
}

/// Makes this node known to its region, and says in [`READY_FILE`] when nothing is missing any more.
async fn join(config: Config, phase: Phase, view: View) {
    register(view.controller.clone(), record(&config), config.peer.join).await;
    while !health::missing(&phase, Some(&view)).is_empty() {
        tokio::time::sleep(READY_AGAIN).await;
    }
    match write_process_id(&config, READY_FILE) {
        Ok(()) => tracing::info!("ready"),
        Err(error) => tracing::error!(%error, "ready, but cannot say so"),
    }
}

/// Resolves once the region's metadata say that this node was taken out.
async fn removed(node_id: u64, controller: Controller) {
    if controller.watch().wait_for(|image| image.removed.contains(&node_id)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Enters this node into the region's metadata, or corrects what they say of it.
async fn register(controller: Controller, record: NodeRecord, joins: bool) {
    let mut images = controller.watch();
    let mut refused = Answer::Done;
    loop {
        let image: Arc<_> = images.borrow_and_update().clone();
        if image.nodes.get(&record.id) == Some(&record) {
            return;
        }
        match controller.submit(Command::RegisterNode { node: record.clone(), joins }).await {
            Ok(Answer::Done) => return,
            Ok(answer) if answer == refused => {}
            Ok(answer) => {
                tracing::error!(?answer, "the region's controller refuses this node");
                refused = answer;
            }
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::time::sleep(REGISTER_AGAIN).await;
    }
}
