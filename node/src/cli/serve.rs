//! `meridian serve`: one node of a mesh, in the foreground.

use std::io;
use std::path::PathBuf;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

use super::CliError;
use super::parent::Parent;
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
    #[command(flatten)]
    parent: Parent,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        self.parent.bind()?;
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
