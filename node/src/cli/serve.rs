//! `meridian serve`: one node of a mesh, in the foreground.

use std::io;
use std::path::PathBuf;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::runtime::{Builder, Runtime};

use super::CliError;
use crate::config;
use crate::logs::{self, LogFormat};
use crate::serve::serve;
use crate::signals::StopSignals;

/// Raft takes a share of the cores, never more threads than this.
const RAFT_THREADS_MAX: usize = 4;
/// How long threads that block (a slow name server) may hold up the exit.
const BLOCKING_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How logs are written to stderr; levels by the environment variable MERIDIAN_LOG
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// End at once when the process PID, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<i32>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        if let Some(parent) = self.die_with_parent {
            die_with(parent).map_err(CliError::Parent)?;
        }
        let config = config::load(&self.config)?;
        logs::start(self.log_format)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let raft = runtime("raft", (cores / 2).clamp(1, RAFT_THREADS_MAX)).map_err(CliError::Runtime)?;
        let connections = runtime("connections", cores).map_err(CliError::Runtime)?;
        let served = connections.block_on(async {
            let signals = StopSignals::catch().map_err(CliError::Runtime)?;
            Ok(serve(config, raft.handle().clone(), signals.asked_to_stop()).await?)
        });
        connections.shutdown_timeout(BLOCKING_PATIENCE);
        raft.shutdown_timeout(BLOCKING_PATIENCE);
        served
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

/// The kernel kills this process when its parent ends, even if the parent is killed. Must run on the main thread: the wish is the thread's.
fn die_with(parent: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the kernel was asked.
    if getppid().map(Pid::as_raw_pid) == Some(parent) { Ok(()) } else { Err(io::Error::other("the parent process has ended")) }
}
