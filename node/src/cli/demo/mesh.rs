//! The demonstration's own mesh: a `meridian dev` that is started, waited for, and stopped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Take};
use tokio::process::{Child, ChildStdout, Command};

use super::super::CliError;
use super::super::output::line;

/// How long nine nodes may take to serve.
const READY_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Longest announcement read.
const ANNOUNCEMENT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct DemoMesh {
    child: Child,
    /// Held open, so that the mesh never writes into a closed pipe.
    stdout: Option<BufReader<Take<ChildStdout>>>,
}

impl DemoMesh {
    /// Starts it. Unless it is to be kept, it ends with this process, even if that is killed. Must be called on the main thread: the kernel
    /// looks at the thread.
    pub(super) fn spawn(dir: &Path, keep: bool) -> Result<DemoMesh, CliError> {
        let executable = std::env::current_exe().map_err(CliError::Runtime)?;
        // Ours is the only stdout; what its nodes have to say goes where the mesh puts it.
        let mut command = Command::new(executable);
        command.args(["dev", "--regions", "us,eu,asia", "--nodes", "3", "--format", "json", "--data-dir"]).arg(dir);
        if !keep {
            command.arg("--die-with-parent").arg(std::process::id().to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // A terminal's interrupt is for us; we then stop the mesh.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(CliError::Runtime)?;
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout.take(ANNOUNCEMENT_BYTES_MAX)));
        Ok(DemoMesh { child, stdout })
    }

    /// Waits until every node serves.
    pub(super) async fn ready(&mut self) -> Result<(), CliError> {
        let mut announcement = String::new();
        let bytes = match &mut self.stdout {
            Some(stdout) => tokio::time::timeout(READY_PATIENCE, stdout.read_line(&mut announcement)).await,
            None => Ok(Ok(0)),
        };
        match bytes {
            Ok(Ok(1..)) => Ok(()),
            _ => Err(CliError::Demo("the mesh did not start; what it said is above".into())),
        }
    }

    /// Leaves the mesh to itself, and says what to do with it.
    pub(super) fn keep(self, dir: &Path) -> Result<(), CliError> {
        let pid = self.child.id().map_or_else(|| "?".into(), |pid| pid.to_string());
        // Dropping would kill it.
        std::mem::forget(self);
        line(format_args!("\nthe mesh keeps running (process {pid}; `kill {pid}` stops it). Try:"))?;
        let dir = dir.display();
        line(format_args!("  meridian mesh status --dev {dir}"))?;
        line(format_args!("  meridian consume flights --dev {dir} --region asia --token {dir}/ann.token --count 3 --print-key"))
    }

    /// Asks it to stop, waits, and kills it if it does not.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
