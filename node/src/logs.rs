//! Where a process's logs go: stderr, as text or JSON, filtered by `MERIDIAN_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Levels by target, as `tracing_subscriber::EnvFilter` reads them: `info`, `info,meridian_raft=debug`, …
pub const FILTER_VARIABLE: &str = "MERIDIAN_LOG";
const FILTER_DEFAULT: &str = "info";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("{FILTER_VARIABLE}: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(format: LogFormat) -> Result<(), LogsError> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| FILTER_DEFAULT.to_owned());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    Ok(())
}
