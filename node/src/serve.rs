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
use crate::controller::handle::{Controller, Region};
use crate::controller::image::NodeRecord;
use crate::folder_lock::{FolderLock, LockError};
use crate::groups::Groups;
use crate::hosting::Hosting;
use crate::kafka::Broker;
use crate::kafka::listener::Listener;
use crate::membership::entry::{self, Entry, REMOVED_FILE};
use crate::membership::{Membership, MembershipConfig};
use crate::mesh::Mesh;
use crate::open_files::{self, OpenFilesError};
use crate::telemetry::otlp::{Otlp, OtlpError};
use crate::tls::{self, Credentials, TlsError};

/// Raft's clocks: a dead leader is replaced well within a second, a busy machine's pauses are not taken for death.
const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };
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
    OpenFiles(#[from] OpenFilesError),
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A write or a sync of the data folder has failed: nothing is written any more, and no sync is tried again.
    #[error("{0}; this node has ended, and its peers lead in its place")]
    Disk(String),
}

/// Serves until `stop` resolves, then hands leaderships over and stops. `raft` runs Raft alone, so that busy clients cannot starve its
/// heartbeats; everything else runs on the calling runtime.
pub async fn serve(config: Config, raft_runtime: tokio::runtime::Handle, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    open_files::raise()?;
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
    raft.limit_scrub(config.storage.scrub_bytes_per_s, Duration::from_secs(config.storage.scrub_pause_s));
    raft.limit_repairs(config.storage.repair_bytes_per_s);
    let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    raft.limit_memory(bytes(config.storage.tail_cache_bytes), bytes(config.storage.index_cache_bytes));
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
    let mut listener = None;
    let tls = credentials.server()?;
    let listen = async { Listener::start(config.kafka.listen, tls, broker.clone()).await };
    let mut stop = std::pin::pin!(stop);
    let ending = tokio::select! {
        () = &mut stop => Ending::Stopped,
        reason = raft.disk_failed() => Ending::Disk(reason),
        attended = attend(&config, admin.phase(), &view, listen, &mut listener) => attended?,
    };

    tracing::info!("stopping");
    admin.phase().stopping();
    let _ = std::fs::remove_file(config.data_dir.join(READY_FILE));
    if let Ending::Disk(reason) = ending {
        // As Kafka does: the process ends, and whoever supervises it or its machine decides whether it shall begin again.
        raft.abandon().await;
        return Err(ServeError::Disk(reason));
    }
    // Before connections close: what clients have in flight is still answered, and what they send next is told who leads.
    raft.hand_over().await;
    if let Some(listener) = &mut listener {
        listener.shutdown().await;
    }
    drop((broker, view));
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
    MembershipConfig {
        node_id: config.node_id,
        peers,
        catch_up_bytes_per_s: config.peer.catch_up_bytes_per_s,
        leader_balance: config.leader_balance,
    }
}

fn link_config(config: &Config) -> Result<LinkConfig, TlsError> {
    Ok(LinkConfig {
        mesh: config.mesh.clone(),
        region: config.region.clone(),
        node_id: config.node_id,
        listen: config.link.listen,
        remote: config.link.regions.clone(),
        discover: config.link.discover,
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
        link: config.link.advertised.clone().unwrap_or_else(|| config.link.listen.to_string()),
        rack: config.rack.clone(),
        peer: config.peer.nodes.get(&config.node_id.to_string()).cloned(),
    }
}

/// Why a node stops.
enum Ending {
    Stopped,
    Disk(String),
    TakenOut,
}

/// Lets clients in, as part of the region. Returns when the region has taken this node out; one that was taken out before waits to be let in.
async fn attend(
    config: &Config,
    phase: &Phase,
    view: &View,
    listen: impl Future<Output = io::Result<Listener>>,
    listener: &mut Option<Listener>,
) -> Result<Ending, ServeError> {
    let (node, removed) = (config.node_id, config.data_dir.join(REMOVED_FILE));
    if removed.exists() {
        tracing::warn!("this node was taken out of its region: it serves nobody until it is let in again by: meridian node add {node}");
        entry::enter(&view.controller, &record(config), config.peer.join, true).await;
        std::fs::remove_file(&removed).map_err(|error| ServeError::File { path: removed.clone(), error })?;
    }
    let opened = listen.await.map_err(|error| ServeError::Listen { address: config.kafka.listen, error })?;
    let opened = listener.insert(opened);
    phase.kafka_accepts();
    tracing::info!(region = %config.region, node, "serving");
    tokio::select! {
        () = join(config, phase, view) => {}
        () = entry::taken_out(node, &view.controller) => {}
    }
    tracing::warn!("this node was taken out of its region: it serves no clients any more, and ends");
    std::fs::write(&removed, "").map_err(|error| ServeError::File { path: removed, error })?;
    phase.stopping();
    opened.shutdown().await;
    entry::let_go(node, &view.controller).await;
    Ok(Ending::TakenOut)
}

/// Makes this node known to its region, and says in [`READY_FILE`] when nothing is missing any more. Returns only when it was taken out.
async fn join(config: &Config, phase: &Phase, view: &View) {
    if entry::enter(&view.controller, &record(config), config.peer.join, false).await == Entry::TakenOut {
        return;
    }
    // Last: a node that says it is ready has every listener open.
    while !health::missing(phase, Some(view)).is_empty() {
        tokio::time::sleep(READY_AGAIN).await;
    }
    match write_process_id(config, READY_FILE) {
        Ok(()) => tracing::info!("ready"),
        Err(error) => tracing::error!(%error, "ready, but cannot say so"),
    }
    std::future::pending().await
}
