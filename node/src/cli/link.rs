//! `meridian link cut|heal|list`: the relays between regions of a development mesh.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::CliError;
use crate::dev::control::{Request, ask};
use crate::dev::wan::PairState;

#[derive(Debug, Args)]
pub(super) struct Link {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Drop every datagram between two regions
    Cut {
        #[command(flatten)]
        regions: Regions,
        #[command(flatten)]
        mesh: Mesh,
    },
    /// Let datagrams between two regions pass again
    Heal {
        #[command(flatten)]
        regions: Regions,
        #[command(flatten)]
        mesh: Mesh,
    },
    /// Say how it stands between regions
    List {
        #[command(flatten)]
        mesh: Mesh,
    },
}

#[derive(Debug, Args)]
struct Regions {
    /// One region
    #[arg(value_name = "A")]
    a: String,
    /// The other
    #[arg(value_name = "B")]
    b: String,
}

#[derive(Debug, Args)]
struct Mesh {
    /// Folder of the running development mesh
    #[arg(long, value_name = "DIR", default_value = "dev-mesh")]
    dev: PathBuf,
    /// A table for people, or JSON for programs
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Link {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (request, mesh) = match self.verb {
            Verb::Cut { regions: Regions { a, b }, mesh } => (Request::Cut { a, b }, mesh),
            Verb::Heal { regions: Regions { a, b }, mesh } => (Request::Heal { a, b }, mesh),
            Verb::List { mesh } => (Request::List, mesh),
        };
        let states = ask(&mesh.dev, &request)?;
        match mesh.format {
            Format::Json => println!("{}", serde_json::json!(states)),
            Format::Table => print!("{}", table(&states)),
        }
        Ok(())
    }
}

fn table(states: &[PairState]) -> String {
    let mut lines = format!("{:<20} {:>8} {:<6} {:>12} {:>12}\n", "REGIONS", "RTT", "STATE", "PASSED", "DROPPED");
    for PairState { regions: [a, b], rtt_ms, cut, passed, dropped } in states {
        let state = if *cut { "cut" } else { "open" };
        lines += &format!("{:<20} {:>8} {state:<6} {passed:>12} {dropped:>12}\n", format!("{a} - {b}"), format!("{rtt_ms}ms"));
    }
    lines
}
