//! `meridian certificate issue`: a node's certificate from a development mesh's own authority, for a node that joins it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::CliError;
use super::output::line;
use crate::config::{NAME_BYTES_MAX, is_name};
use crate::dev::authority::{Authority, NODE_CERTIFICATE_FILE, NODE_KEY_FILE};
use crate::dev::document::Document;
use crate::dev::layout::MESH;

#[derive(Debug, Args)]
pub(super) struct Certificate {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a node's key and certificate, valid for a year and for this machine's loopback only, into a folder
    Issue {
        /// The node's region
        #[arg(long, value_name = "NAME", value_parser = region)]
        region: String,
        /// The node's id
        #[arg(long, value_name = "ID")]
        node: u64,
        /// Folder that node.pem and node.key.pem are written to; what is there and valid stays
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Folder of the development mesh
        #[arg(long, value_name = "DIR", default_value = "dev-mesh")]
        dev: PathBuf,
    },
}

impl Certificate {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Verb::Issue { region, node, out, dev } = self.verb;
        // Only where a mesh is: a new authority would be nobody's.
        let document = Document::read(&dev)?;
        let now_s = meridian_raft::env::Env::real().clock.wall_us() / 1_000_000;
        let failed = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
        std::fs::create_dir_all(&out).map_err(|error| CliError::Usage(format!("{}: {error}", out.display())))?;
        let authority = Authority::open(&document.dir, MESH, now_s).map_err(|error| failed(&error))?;
        authority.equip(&out, &region, node).map_err(|error| failed(&error))?;
        let (certificate, key) = (out.join(NODE_CERTIFICATE_FILE), out.join(NODE_KEY_FILE));
        line(format_args!("certificate {}, key {}, authority {}", certificate.display(), key.display(), document.ca.display()))
    }
}

fn region(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(format!("a region is named by 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -")) }
}
