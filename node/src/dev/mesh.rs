//! `meridian dev`: a whole mesh of real processes on one machine, from an empty or an earlier folder until it is told to stop.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::env::Env;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::authority::{Authority, AuthorityError, CA_FILE};
use super::client_files;
use super::control;
use super::document::Document;
use super::files::{self, FileError, Readers};
use super::issuer::{AUDIENCE, Issuer, IssuerError};
use super::layout::{ADMIN, Layout, LayoutError, MESH, Place};
use super::ports::{Ports, PortsError};
use super::process::{Event, LOG_FILE, Supervisor, ending};
use super::rtt::{self, RttError};
use super::wan::Wan;
use crate::folder_lock::{FolderLock, LockError};
use crate::signals::StopSignals;

const TOKEN_FILE: &str = "admin.token";
const TOKEN_TTL_S: u32 = 24 * 60 * 60;
/// A token is replaced long before it expires, by the wall clock: a machine may sleep.
const TOKEN_RENEW_AFTER_S: i64 = TOKEN_TTL_S as i64 / 2;
const TOKEN_LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long nodes may take to become ready before that is called a failure.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Of a node's log, when it does not become ready.
const LOG_TAIL_BYTES: u64 = 2000;
const EVENTS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Rtt(#[from] RttError),
    #[error("cannot put relays between regions: {0}")]
    Relays(io::Error),
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot start: {0}")]
    System(io::Error),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    #[error("not ready after {} s: {nodes}", READY_PATIENCE.as_secs())]
    NotReady { nodes: String },
}

/// What is asked for; None is the folder's own, or the default.
#[derive(Debug, Clone)]
pub struct Wishes {
    pub folder: PathBuf,
    pub regions: Option<Vec<String>>,
    pub nodes: Option<u16>,
    pub port_base: Option<u16>,
    /// `A-B=TIMEms`, for each pair of regions that shall have relays between them.
    pub rtt: Vec<String>,
    pub announcement: Announcement,
}

/// How it is told that the mesh is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Announcement {
    Text,
    Json,
}

/// A prepared folder: everything but the running nodes.
struct Mesh {
    dir: PathBuf,
    places: Vec<Place>,
    pids: Vec<Option<u32>>,
    ready: bool,
    issuer: Issuer,
    env: Env,
    token_made_at_s: i64,
    ports: Ports,
    wan: Arc<Wan>,
    _lock: FolderLock,
}

/// Makes a mesh's folder complete, without starting anything, and says what is in it.
pub fn prepare(wishes: &Wishes) -> Result<Document, DevError> {
    let mut mesh = Mesh::open(wishes)?;
    mesh.write()?;
    Ok(mesh.document())
}

/// Runs a mesh until SIGTERM or SIGINT. Must run on the main thread's own runtime: see [`Supervisor::keep`].
pub async fn run(wishes: Wishes) -> Result<(), DevError> {
    let mut signals = StopSignals::catch().map_err(DevError::System)?;
    let executable = std::env::current_exe().map_err(DevError::System)?;
    let mut mesh = Mesh::open(&wishes)?;
    mesh.write()?;
    mesh.say_ports();
    let control = mesh.control()?;
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (stop, stopped) = watch::channel(false);
    let supervisor = Supervisor::new(executable, events_in, stopped);
    let mut nodes = JoinSet::new();
    for (number, place) in mesh.places.iter().cloned().enumerate() {
        nodes.spawn(supervisor.clone().keep(number, place));
    }
    drop(supervisor);

    let wan = mesh.wan.clone();
    let result = tokio::select! {
        result = mesh.attend(events, wishes.announcement) => result,
        () = obey(control, &wan) => Ok(()),
        () = signals.next() => Ok(()),
    };

    // A second signal ends this process at once, and the kernel its nodes.
    tokio::spawn(signals.asked_to_stop_again());
    stop.send_replace(true);
    while nodes.join_next().await.is_some() {}
    control::close(&mesh.dir);
    mesh.pids.fill(None);
    mesh.ready = false;
    mesh.document().write()?;
    result
}

/// Lets links be cut where there are any to cut.
async fn obey(control: Option<UnixListener>, wan: &Wan) {
    match control {
        Some(listener) => control::serve(listener, wan).await,
        None => std::future::pending().await,
    }
}

impl Mesh {
    fn open(wishes: &Wishes) -> Result<Mesh, DevError> {
        // Keys and tokens live in it.
        DirBuilder::new().recursive(true).mode(0o700).create(&wishes.folder).map_err(FileError::at(&wishes.folder))?;
        let dir = wishes.folder.canonicalize().map_err(FileError::at(&wishes.folder))?;
        let lock = FolderLock::take(&dir)?;
        let layout = Layout::open(&dir, wishes.regions.clone(), wishes.nodes)?;
        let ports = Ports::find(&layout, wishes.port_base)?;
        let issuer = Issuer::open(&dir)?;
        let places = layout.places(&dir, ports.base);
        let wan = Arc::new(Wan::start(rtt::parse_all(&wishes.rtt, &layout.regions)?, &places).map_err(DevError::Relays)?);
        let pids = vec![None; places.len()];
        Ok(Mesh { dir, places, pids, ready: false, issuer, env: Env::real(), token_made_at_s: 0, ports, wan, _lock: lock })
    }

    fn now_s(&self) -> i64 {
        self.env.clock.wall_us() / 1_000_000
    }

    /// Certificates, configuration files, the token and what clients need.
    fn write(&mut self) -> Result<(), DevError> {
        let authority = Authority::open(&self.dir, MESH, self.now_s())?;
        for place in &self.places {
            std::fs::create_dir_all(&place.home).map_err(FileError::at(&place.home))?;
            authority.equip(&place.home, &place.region, place.node)?;
            files::replace(
                &place.config(),
                &place.config_text(&self.places, |remote| self.wan.address(&place.region, remote.link())),
                Readers::All,
            )?;
        }
        self.renew_token()?;
        Ok(self.document().write()?)
    }

    /// The administrator's token, and the files of clients that hold it.
    fn renew_token(&mut self) -> Result<(), DevError> {
        let now_s = self.now_s();
        let token = self.issuer.issue(ADMIN, AUDIENCE, TOKEN_TTL_S, now_s)?;
        files::replace(&self.dir.join(TOKEN_FILE), &format!("{token}\n"), Readers::Owner)?;
        client_files::write(&self.document(), &token)?;
        self.token_made_at_s = now_s;
        Ok(())
    }

    fn document(&self) -> Document {
        let (ca, admin_token) = (self.dir.join(CA_FILE), self.dir.join(TOKEN_FILE));
        let mut document = Document { ready: self.ready, dir: self.dir.clone(), ca, admin_token, regions: BTreeMap::new() };
        for (place, pid) in self.places.iter().zip(&self.pids) {
            document.add(place, *pid);
        }
        document
    }

    fn control(&self) -> Result<Option<UnixListener>, FileError> {
        control::close(&self.dir);
        if self.wan.has_relays() { control::listen(&self.dir).map(Some) } else { Ok(None) }
    }

    fn say_ports(&self) {
        if let Some(taken) = self.ports.instead_of {
            eprintln!("meridian: port {taken} is taken, so this mesh's ports begin at {} (choose with --port-base)", self.ports.base);
        }
    }

    /// Follows what happens to the nodes; returns only when something fails.
    async fn attend(&mut self, mut events: mpsc::Receiver<(usize, Event)>, announcement: Announcement) -> Result<(), DevError> {
        let deadline = Instant::now() + READY_PATIENCE;
        let mut ready = vec![false; self.places.len()];
        let mut look = tokio::time::interval(TOKEN_LOOK_EVERY);
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some((number, event)) = event else { return Ok(()) };
                    // Who is not of its region any more is not waited for.
                    ready[number] = matches!(event, Event::Ready { .. } | Event::TakenOut { .. });
                    self.happened(number, event)?;
                    if !self.ready && ready.iter().all(|ready| *ready) {
                        self.ready = true;
                        self.document().write()?;
                        self.announce(announcement)?;
                    }
                }
                _ = look.tick() => if self.now_s() - self.token_made_at_s >= TOKEN_RENEW_AFTER_S {
                    self.renew_token()?;
                },
                () = tokio::time::sleep_until(deadline), if !self.ready => return Err(self.not_ready(&ready)),
            }
        }
    }

    fn happened(&mut self, number: usize, event: Event) -> Result<(), DevError> {
        let name = self.places[number].name();
        let pid = match event {
            Event::Started { pid } | Event::Ready { pid } => Some(pid),
            Event::TakenOut { pid } => {
                let Place { region, node, .. } = &self.places[number];
                eprintln!(
                    "meridian: node {name} was taken out of its region; it comes back after: meridian node add {node} --region {region}"
                );
                Some(pid)
            }
            Event::Died { status } => {
                eprintln!("meridian: node {name} ended {}; starting it again", ending(status));
                None
            }
            Event::NotStarted { error } => {
                eprintln!("meridian: node {name} cannot be started: {error}; trying again");
                None
            }
        };
        let changed = self.pids[number] != pid;
        self.pids[number] = pid;
        if changed && self.ready {
            self.document().write()?;
        }
        Ok(())
    }

    fn not_ready(&self, ready: &[bool]) -> DevError {
        let late = self.places.iter().zip(ready).filter(|(_, ready)| !**ready);
        let nodes: Vec<String> = late.map(|(place, _)| format!("{}\n{}", place.name(), tail(&place.home.join(LOG_FILE)))).collect();
        DevError::NotReady { nodes: nodes.join("\n") }
    }

    fn announce(&self, announcement: Announcement) -> Result<(), DevError> {
        let document = self.document();
        let text = match announcement {
            Announcement::Json => document.to_line(),
            Announcement::Text => in_words(&document),
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(DevError::Stdout)
    }
}

fn in_words(document: &Document) -> String {
    let nodes: usize = document.regions.values().map(|region| region.nodes.len()).sum();
    let mut lines = vec![format!("A mesh of {nodes} node(s) serves on this machine, in {}.", document.dir.display())];
    for (name, region) in &document.regions {
        let folder = document.dir.join(name);
        lines.push(format!("\n{name}: bootstrap {}", region.bootstrap));
        lines.push(format!("  Java        {}", folder.join(client_files::JAVA_PLAIN_FILE).display()));
        lines.push(format!("              {} (its first lines say what the JVM needs)", folder.join(client_files::JAVA_FILE).display()));
        lines.push(format!("  librdkafka  {}", folder.join(client_files::LIBRDKAFKA_FILE).display()));
    }
    lines.push(format!("\nTLS: believe {}.", document.ca.display()));
    lines.push(format!(
        "SASL: OAUTHBEARER, or PLAIN with the token as password. {} holds a token of User:{ADMIN}, who may do everything;",
        document.admin_token.display()
    ));
    lines.push(format!("`meridian token issue --dev {} --sub NAME` makes one of any other.", document.dir.display()));
    lines.push("Ctrl-C stops all nodes and keeps their data.".to_owned());
    lines.join("\n")
}

fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("{}: {error}", log.display()))
}
