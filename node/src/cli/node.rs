//! `meridian node`: which nodes a region has, and how one comes in, is cleared, and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use meridian_raft::env::Env;
use meridian_raft::node::trust::trust_without;
use reqwest::Method;

use super::mesh::Asker;
use super::output::{Format, json, line, table};
use super::region::Target;
use super::{CliError, block_on};
use crate::admin::nodes::{NodeState, RegionNodes};
use crate::config;
use crate::folder_lock::FolderLock;
use crate::membership::entry::REMOVED_FILE;

/// Between two looks at how far a drain has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Node {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the region's nodes, what each holds, and what moves between them
    List {
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Let a new node join, or one that was removed come back: then start it with a certificate of its id and join = true in [peer]
    Add {
        /// The node's id
        id: u64,
    },
    /// Move every replica and every leadership off a node, which goes on running. Safe to stop and to run again
    Drain {
        /// The node's id
        id: u64,
        /// Let it hold replicas again; what has not arrived elsewhere goes back
        #[arg(long)]
        cancel: bool,
        /// Only ask for it; the region does it by itself
        #[arg(long, conflicts_with = "cancel")]
        no_wait: bool,
    },
    /// Override lost votes: let a stopped node that has lost its votes (its folder was emptied, restored from a copy, or damaged) take part again
    /// without the word of nodes that are gone for good. DANGER: acknowledged records that only those nodes and this one held are lost, and
    /// should one of them come back, what it held alone is undone. Only for a region that stands still because a majority is lost. Run it beside
    /// the node's data folder while the node is stopped, then start the node: the override is written to its log at every step. It is refused
    /// where no votes are lost, and counts for a node only as long as that node does not answer. Afterwards take the nodes that are gone out of
    /// the region: meridian node remove ID --force
    Trust {
        /// The stopped node's configuration file
        #[arg(value_name = "NODE.TOML")]
        file: PathBuf,
        /// Ids of the nodes that are gone for good
        #[arg(long, value_name = "ID,…", value_delimiter = ',', required = true)]
        without: Vec<u64>,
        /// You have understood the danger
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Take a drained node out of the region
    Remove {
        /// The node's id
        id: u64,
        /// The node is dead for good: take it out though it holds replicas, where a majority of each lives elsewhere. They are made anew on
        /// other nodes
        #[arg(long)]
        force: bool,
    },
}

impl Node {
    pub(super) fn run(self) -> Result<(), CliError> {
        if let Verb::Trust { file, without, accept_data_loss } = self.verb {
            return trust(&file, without, accept_data_loss);
        }
        let place = self.target.place()?;
        if place.admin.is_empty() {
            return Err(CliError::Usage("the --config file names no admin endpoints; add admin = \"host:port,…\"".into()));
        }
        let region = Region { asker: Asker::new(&place)?, name: place.region.clone() };
        block_on(async {
            match self.verb {
                Verb::List { format: Format::Json } => json(&region.nodes().await?),
                Verb::List { format: Format::Table } => line(tell(&region.nodes().await?).trim_end()),
                Verb::Add { id } => {
                    region.wish(id, "add").await?;
                    line(format_args!("node {id} may join: start it with a certificate of its id and join = true in [peer]"))
                }
                Verb::Drain { id, cancel: true, .. } => {
                    region.wish(id, "keep").await?;
                    line(format_args!("node {id} holds replicas again"))
                }
                Verb::Drain { id, no_wait, .. } => {
                    region.wish(id, "drain").await?;
                    if no_wait { line(format_args!("node {id} is being cleared")) } else { region.wait_until_drained(id).await }
                }
                // Needs no region: it stands still.
                Verb::Trust { .. } => Ok(()),
                Verb::Remove { id, force } => {
                    region.wish(id, if force { "remove-dead" } else { "remove" }).await?;
                    if let Some(folder) = self.target.data_folder(id) {
                        leave_word(&folder)?;
                    }
                    line(format_args!("node {id} is removed"))
                }
            }
        })
    }
}

/// Tells a development mesh not to wait for a node that cannot hear any more that it was taken out.
fn leave_word(folder: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::Usage(format!("the node is removed, but {} cannot be told: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    std::fs::write(folder.join(REMOVED_FILE), "").map_err(failed)
}

/// Notes in a stopped node's data folder that the word of others is not waited for.
fn trust(file: &Path, without: Vec<u64>, accept_data_loss: bool) -> Result<(), CliError> {
    let config = config::load(file)?;
    let gone: BTreeSet<u64> = without.into_iter().collect();
    let names = gone.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    if !accept_data_loss {
        return Err(CliError::Usage(format!(
            "acknowledged records that only node {} and the nodes that are gone ({names}) held would be lost for good; if they are, and the \
             region stands still without this, add --accept-data-loss",
            config.node_id
        )));
    }
    let refused = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
    // A node that runs holds it.
    let _lock = FolderLock::take(&config.data_dir).map_err(|error| refused(&error))?;
    let noted = block_on(async { Ok(trust_without(&Env::real(), &config.data_dir, config.node_id, &gone).await) })?;
    let waiting = noted.map_err(|error| refused(&error))?;
    line(format_args!(
        "node {} will not wait for the word of {names} about its lost votes; {waiting} of its groups wait as far as its folder shows. Start it \
         now, and when the region serves again: meridian node remove ID --force",
        config.node_id
    ))
}

struct Region {
    asker: Asker,
    /// None: the only one whose nodes a `--config` file names.
    name: Option<String>,
}

impl Region {
    /// The nodes as they all know them: of a move only its leader knows how far it is.
    async fn nodes(&self) -> Result<RegionNodes, CliError> {
        let token = self.asker.token()?;
        let here = self.asker.nodes().iter().filter(|node| self.name.is_none() || node.region == self.name);
        let answers = join_all(here.map(|node| self.asker.fetch::<RegionNodes>(node, Method::GET, "/v1/nodes", &token))).await;
        let mut failure = "it has no node".to_owned();
        let mut said = Vec::new();
        for answer in answers {
            match answer {
                Ok(account) => said.push(account),
                Err(error) => failure = error,
            }
        }
        let mut regions: Vec<&str> = said.iter().map(|said| said.region.as_str()).collect();
        regions.dedup();
        if regions.len() > 1 {
            return Err(CliError::Usage(format!("the --config file names admin endpoints of several regions: {}", regions.join(", "))));
        }
        merge(said).ok_or_else(|| CliError::Usage(format!("no node of the region says anything: {failure}")))
    }

    /// Any node passes it on; one that does not answer is no reason to give up.
    async fn wish(&self, id: u64, verb: &str) -> Result<(), CliError> {
        let token = self.asker.token()?;
        let mut failure = "the region has no node".to_owned();
        // The one that it is about may hear nothing more of the region.
        let (itself, others): (Vec<_>, Vec<_>) = self.asker.nodes().iter().partition(|node| node.node_id == Some(id));
        for node in others.into_iter().chain(itself).filter(|node| self.name.is_none() || node.region == self.name) {
            match self.asker.fetch::<bool>(node, Method::POST, &format!("/v1/nodes/{id}/{verb}"), &token).await {
                Ok(_) => return Ok(()),
                Err(error) if error.starts_with(super::mesh::REFUSED) => {
                    return Err(CliError::Usage(error.trim_start_matches(super::mesh::REFUSED).trim_end().to_owned()));
                }
                Err(error) => failure = error,
            }
        }
        Err(CliError::Usage(failure))
    }

    async fn wait_until_drained(&self, id: u64) -> Result<(), CliError> {
        let mut said = String::new();
        loop {
            let nodes = self.nodes().await?;
            let Some(node) = nodes.nodes.iter().find(|node| node.id == id) else {
                return Err(CliError::Usage(format!("node {id} does not belong to the region any more")));
            };
            if node.state == NodeState::Drained {
                return line(format_args!(
                    "node {id} is drained: it holds nothing. Stop it, and take it out with: meridian node remove {id}"
                ));
            }
            if node.state == NodeState::Serving {
                return Err(CliError::Usage(format!("node {id} is not to be drained any more: somebody cancelled it")));
            }
            let bytes: u64 = nodes.moves.iter().filter_map(|moving| moving.bytes_left).sum();
            let progress = format!(
                "node {id}: {} replicas and {} leaderships left; {} partitions move, {bytes} bytes to send",
                node.replicas,
                node.leads,
                nodes.moves.len()
            );
            if progress != said {
                line(&progress)?;
                said = progress;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The account of the node that knows most: it was asked last by the region's controller, or leads it.
fn merge(said: Vec<RegionNodes>) -> Option<RegionNodes> {
    let mut left: BTreeMap<(String, i32), u64> = BTreeMap::new();
    for moving in said.iter().flat_map(|said| &said.moves) {
        if let Some(bytes) = moving.bytes_left {
            left.insert((moving.topic.clone(), moving.partition), bytes);
        }
    }
    let leads = |said: &RegionNodes| said.controller == Some(said.node_id);
    let best = said.iter().position(leads).unwrap_or(0);
    let mut nodes = said.into_iter().nth(best)?;
    for moving in &mut nodes.moves {
        moving.bytes_left = left.get(&(moving.topic.clone(), moving.partition)).copied();
    }
    Some(nodes)
}

fn tell(region: &RegionNodes) -> String {
    let rows: Vec<Vec<String>> = region
        .nodes
        .iter()
        .map(|node| {
            let state = format!("{:?}", node.state).to_lowercase();
            let live = if node.live { "yes" } else { "no" };
            let role = match (Some(node.id) == region.controller, node.votes) {
                (true, _) => "leads",
                (false, true) => "votes",
                (false, false) => "-",
            };
            let rack = node.rack.clone().unwrap_or_else(|| "-".to_owned());
            let (id, replicas, leads) = (node.id.to_string(), node.replicas.to_string(), node.leads.to_string());
            vec![id, state, live.to_owned(), role.to_owned(), replicas, leads, rack, node.address.clone()]
        })
        .collect();
    let mut text = format!("region {}\n", region.region);
    text.push_str(&table(&["node", "state", "live", "controller", "replicas", "leads", "rack", "address"], &rows));
    if !region.moves.is_empty() {
        let row = |moving: &crate::admin::nodes::MoveAccount| {
            let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let left = moving.bytes_left.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
            vec![format!("{}-{}", moving.topic, moving.partition), list(&moving.from), list(&moving.to), left]
        };
        text.push('\n');
        text.push_str(&table(&["partition", "from", "to", "bytes left"], &region.moves.iter().map(row).collect::<Vec<_>>()));
    }
    text
}
