//! `meridian dev`: a whole mesh on this machine.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use super::parent::Parent;
use crate::dev::mesh::{self, Announcement, Wishes};

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Folder of the mesh: data, certificates, tokens. What is there is used again
    #[arg(long, value_name = "DIR", default_value = "dev-mesh")]
    data_dir: PathBuf,
    /// Regions, separated by commas [default: us,eu,asia]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Option<Vec<String>>,
    /// Nodes in each region [default: 3]
    #[arg(long, value_name = "N")]
    nodes: Option<u16>,
    /// First of the mesh's ports: region R (from 0), node N (from 1) has Kafka on P + 100 R + 10 (N - 1), its peers on the next, then admin
    /// and links [default: 19000, or another when that is taken]
    #[arg(long, value_name = "P")]
    port_base: Option<u16>,
    /// Put relays between regions that hold every datagram for half of this round trip and can be cut (`meridian link cut`), for example
    /// us-eu=80ms,us-asia=160ms,eu-asia=240ms
    #[arg(long, value_name = "A-B=TIMEms", value_delimiter = ',')]
    rtt: Vec<String>,
    /// How it is told on stdout that every region serves: in words, or as one line of JSON
    #[arg(long, value_enum, default_value = "text")]
    format: Announcement,
    /// Write folders, certificates and configuration files, print the JSON line, and start nothing
    #[arg(long, conflicts_with = "rtt")]
    init_only: bool,
    #[command(flatten)]
    parent: Parent,
}

impl Dev {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Dev { data_dir, regions, nodes, port_base, rtt, format, init_only, parent } = self;
        parent.bind()?;
        let wishes = Wishes { folder: data_dir, regions, nodes, port_base, rtt, announcement: format };
        if init_only {
            println!("{}", mesh::prepare(&wishes)?.to_line());
            return Ok(());
        }
        // One thread, the main one: nodes end with the thread that started them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
        Ok(runtime.block_on(mesh::run(wishes))?)
    }
}
