//! A node that `meridian dev` knows nothing of: a process, a data folder, a certificate and a configuration file of its own, as an operator
//! would set it up on another machine.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::mesh::{Mesh, NodeAt};
use super::{ScenarioError, io};

#[derive(Debug)]
pub struct Newcomer {
    pub at: NodeAt,
    pub region: String,
    folder: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
}

impl Newcomer {
    /// Equips node `id` of a region, which must join it: nothing is started.
    pub async fn equip(mesh: &Mesh, region: &str, id: i64, folder: PathBuf) -> Result<Newcomer, ScenarioError> {
        let (node, out) = (id.to_string(), folder.to_string_lossy().into_owned());
        mesh.command(&["certificate", "issue", "--region", region, "--node", &node, "--out", &out]).await?;
        let at = NodeAt { id, admin: free_tcp()?, kafka: free_tcp()?, peer: free_tcp()?, link: free_udp()?, data: folder.join("data") };
        std::fs::write(folder.join("node.toml"), configuration(mesh, region, &at)?).map_err(io("node.toml"))?;
        Ok(Newcomer { at, region: region.to_owned(), folder, binary: mesh.binary().to_owned(), child: None })
    }

    pub fn start(&mut self) -> Result<(), ScenarioError> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).map_err(io("a node's log"))?;
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--config"]).arg(self.folder.join("node.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(io("a new node"))?);
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// What the process has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Asks it to end, and waits.
    pub async fn stop(&mut self) -> Result<(), ScenarioError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|error| ScenarioError::Failed(format!("a new node: {error}")))?;
        }
        child.wait().await.map(|_| ()).map_err(io("a new node"))
    }
}

/// A port that nobody listens on now.
fn free_tcp() -> Result<String, ScenarioError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.map_err(io("a free port"))?.to_string())
}

fn free_udp() -> Result<String, ScenarioError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    Ok(socket.map_err(io("a free port"))?.to_string())
}

/// The configuration of the region's first node, with what is this node's own in its place.
fn configuration(mesh: &Mesh, region: &str, at: &NodeAt) -> Result<String, ScenarioError> {
    let folder = mesh.dir().join(region).join("1");
    let model = std::fs::read_to_string(folder.join("node.toml")).map_err(io("node.toml of node 1"))?;
    let absolute = |name: &str| mesh.dir().join(name).display().to_string();
    let mut table = "";
    let mut text = String::new();
    for line in model.lines() {
        if line.starts_with('[') {
            table = line;
        }
        let own = match (table, line.split_once(" = ").map(|(key, _)| key)) {
            (_, Some("node_id")) => format!("node_id = {}", at.id),
            ("[kafka]", Some("listen")) => format!("listen = \"{}\"", at.kafka),
            ("[admin]", Some("listen")) => format!("listen = \"{}\"", at.admin),
            ("[link]", Some("listen")) => format!("listen = \"{}\"", at.link),
            ("[peer]", Some("listen")) => format!("listen = \"{}\"\njoin = true", at.peer),
            ("[peer]", Some("nodes")) => format!("nodes = {{ {} }}", peers(mesh, region, at)),
            ("[tls]", Some("ca")) => format!("ca = \"{}\"", absolute("ca.pem")),
            ("[authentication]", Some("jwks")) => format!("jwks = \"{}\"", absolute("jwks.json")),
            _ => line.to_owned(),
        };
        text.push_str(&own);
        text.push('\n');
    }
    Ok(text)
}

/// Its own address, and those of the nodes that the region has now.
fn peers(mesh: &Mesh, region: &str, at: &NodeAt) -> String {
    let known = mesh.peers(region).into_iter().filter(|(id, _)| *id != at.id).chain([(at.id, at.peer.clone())]);
    known.map(|(id, peer)| format!("{id} = \"{peer}\"")).collect::<Vec<_>>().join(", ")
}
