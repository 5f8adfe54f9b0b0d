//! How a process is asked to stop: SIGTERM, or SIGINT from a terminal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that was asked twice and left without tidying up.
const EXIT_AT_ONCE: i32 = 130;

/// Both signals, caught from the moment this is made.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Must be called within a tokio runtime.
    pub fn catch() -> io::Result<StopSignals> {
        Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves at the first signal; the second then ends the process at once.
    pub async fn asked_to_stop(mut self) {
        self.next().await;
        tokio::spawn(self.asked_to_stop_again());
    }

    /// Ends the process at the next signal, without tidying up.
    pub async fn asked_to_stop_again(mut self) {
        self.next().await;
        std::process::exit(EXIT_AT_ONCE);
    }
}
