//! `--die-with-parent PID`: a process that must not outlive the one that started it, however that ends.

use std::io;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::CliError;

#[derive(Debug, Args)]
pub(super) struct Parent {
    /// End at once when the process PID, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<i32>,
}

impl Parent {
    /// The kernel kills this process when its parent ends, even if the parent is killed. Must run on the main thread: the wish is the
    /// thread's.
    pub(super) fn bind(&self) -> Result<(), CliError> {
        let Some(parent) = self.die_with_parent else { return Ok(()) };
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| CliError::Parent(error.into()))?;
        // The parent may have ended before the kernel was asked.
        if getppid().map(Pid::as_raw_pid) == Some(parent) {
            Ok(())
        } else {
            Err(CliError::Parent(io::Error::other("the parent process has ended")))
        }
    }
}
