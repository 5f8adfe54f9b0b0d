//! One node of a development mesh as a child process: started, started again when it dies, stopped.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::layout::Place;
use crate::membership::entry::REMOVED_FILE;
use crate::serve::READY_FILE;

pub const LOG_FILE: &str = "node.log";
/// A log larger than this is set aside at the next start, in place of the one before.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Before a node that died is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long a node may take to hand over and stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const READY_AGAIN: Duration = Duration::from_millis(10);
const OUT_AGAIN: Duration = Duration::from_millis(100);

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    Started {
        pid: u32,
    },
    /// This process serves its region.
    Ready {
        pid: u32,
    },
    /// The region has taken this node out: the process waits to be let in again.
    TakenOut {
        pid: u32,
    },
    Died {
        status: ExitStatus,
    },
    NotStarted {
        error: io::Error,
    },
}

/// How nodes are started, and told to stop.
#[derive(Debug, Clone)]
pub struct Supervisor {
    executable: PathBuf,
    /// Numbered as the places are.
    events: mpsc::Sender<(usize, Event)>,
    stop: watch::Receiver<bool>,
}

impl Supervisor {
    pub fn new(executable: PathBuf, events: mpsc::Sender<(usize, Event)>, stop: watch::Receiver<bool>) -> Supervisor {
        Supervisor { executable, events, stop }
    }

    /// Keeps the node running until told to stop. Must be polled on the main thread: nodes end with the thread that started them.
    pub async fn keep(self, number: usize, place: Place) {
        while !*self.stop.borrow() {
            match self.spawn(&place) {
                Ok(child) => self.watch(number, &place, child).await,
                Err(error) => self.tell(number, Event::NotStarted { error }).await,
            }
            tokio::select! {
                () = self.told_to_stop() => {}
                () = tokio::time::sleep(RESTART_AFTER) => {}
            }
        }
    }

    fn spawn(&self, place: &Place) -> io::Result<Child> {
        let log = open_log(&place.home.join(LOG_FILE))?;
        let arguments: [OsString; 5] =
            ["serve".into(), "--config".into(), place.config().into(), "--die-with-parent".into(), std::process::id().to_string().into()];
        Command::new(&self.executable)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's Ctrl-C is for the mesh, which then asks its nodes: a second signal would cut their hand-over short.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    async fn watch(&self, number: usize, place: &Place, mut child: Child) {
        let Some(pid) = child.id() else { return };
        self.tell(number, Event::Started { pid }).await;
        let died = tokio::select! {
            status = self.attend(number, place, &mut child, pid) => status.ok(),
            () = self.told_to_stop() => None,
        };
        match died {
            Some(status) => self.tell(number, Event::Died { status }).await,
            None => stop_gracefully(&mut child, pid).await,
        }
    }

    /// Tells when the node is ready, or out of its region; resolves when it dies.
    async fn attend(&self, number: usize, place: &Place, child: &mut Child, pid: u32) -> io::Result<ExitStatus> {
        let data = place.data();
        tokio::select! {
            status = child.wait() => return status,
            () = until_taken_out(&data) => self.tell(number, Event::TakenOut { pid }).await,
            () = until_ready(&data, pid) => {
                self.tell(number, Event::Ready { pid }).await;
                return child.wait().await;
            }
        }
        tokio::select! {
            status = child.wait() => return status,
            () = until_ready(&data, pid) => self.tell(number, Event::Ready { pid }).await,
        }
        child.wait().await
    }

    async fn told_to_stop(&self) {
        // A sender that is gone means the same.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    async fn tell(&self, number: usize, event: Event) {
        // Nobody listens any more only when the mesh stops.
        let _ = self.events.send((number, event)).await;
    }
}

async fn until_ready(data: &Path, pid: u32) {
    let path = data.join(READY_FILE);
    loop {
        // A file of a killed process names that one.
        let named = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if named == Some(pid) {
            return;
        }
        tokio::time::sleep(READY_AGAIN).await;
    }
}

/// The node says so in its data folder, and takes it back when it is let in.
async fn until_taken_out(data: &Path) {
    let path = data.join(REMOVED_FILE);
    while !path.exists() {
        tokio::time::sleep(OUT_AGAIN).await;
    }
}

async fn stop_gracefully(child: &mut Child, pid: u32) {
    // Not waited for yet, so the id is still this child's.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn open_log(path: &Path) -> io::Result<std::fs::File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// `by signal 9`, `with exit code 1`.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}
