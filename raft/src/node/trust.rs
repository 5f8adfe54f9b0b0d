//! An operator's word that other nodes are gone for good, for a node that has lost its votes and would wait for theirs for ever.
//!
//! What only those nodes and this one held is lost by it, acknowledged or not; so it is given on a stopped node, for one loss of votes, by name,
//! and it counts for a node only while that node does not answer. Then: the term in which it may have voted is left out (and a long way beyond
//! every known one is voted instead), and a replica whose group has no leader among those that are left takes part again with the log it has.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::lives::BOOTS_KEY;
use super::losses::{last_loss, trusted_key};
use crate::env::Env;
use crate::writer::Writer;
use crate::{GroupId, NodeId};

/// Most nodes that can be named.
pub const GONE_MAX: usize = 16;
/// A node that is said to be gone has so long to answer after all.
pub(crate) const GONE_PATIENCE: Duration = Duration::from_secs(5);
/// So many terms beyond the last one known lie those in which this node may have voted for one that is gone.
pub(crate) const TERMS_UNHEARD: u64 = 1_000;
const TRUST_KEY: &[u8] = b"trust";

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("data folder: {0}")]
    Io(#[from] io::Error),
    #[error("no node has ever run in this data folder")]
    Unused,
    #[error("the data folder belongs to node {found}, not to node {expected}")]
    WrongNode { found: NodeId, expected: NodeId },
    #[error("name 1 to {GONE_MAX} other nodes that are gone for good")]
    Names,
    #[error("nothing to override: this node has its votes, or has made good their loss")]
    Unneeded,
}

/// Notes, durably, that these nodes are gone for good: their word about the votes that this node has lost is not waited for after its next
/// start. The node must not run. Refused where it has lost none, or all its groups take part again. Returns how many groups wait, as far as
/// the folder shows.
pub async fn trust_without(env: &Env, data_dir: &Path, node: NodeId, gone: &BTreeSet<NodeId>) -> Result<usize, TrustError> {
    if gone.is_empty() || gone.len() > GONE_MAX || gone.contains(&node) {
        return Err(TrustError::Names);
    }
    if !env.disk.exists(&data_dir.join("meta.log")) {
        return Err(TrustError::Unused);
    }
    let writer = Writer::start(env, data_dir)?;
    let noted = note(env, &writer, data_dir, node, gone).await;
    writer.stop().await;
    noted
}

async fn note(env: &Env, writer: &Writer, data_dir: &Path, node: NodeId, gone: &BTreeSet<NodeId>) -> Result<usize, TrustError> {
    writer.meta(BOOTS_KEY.to_vec()).ok_or(TrustError::Unused)?;
    match writer.meta(b"node".to_vec()).and_then(|value| Some(NodeId::from_be_bytes(value.try_into().ok()?))) {
        Some(found) if found != node => return Err(TrustError::WrongNode { found, expected: node }),
        _ => {}
    }
    let loss = last_loss(writer).ok_or(TrustError::Unneeded)?;
    let waiting = groups(env, data_dir)?.into_iter().filter(|group| trusted(writer, *group) < Some(loss)).count();
    if waiting == 0 {
        return Err(TrustError::Unneeded);
    }
    writer.save_meta(TRUST_KEY.to_vec(), Some(encode(loss, gone))).await?;
    Ok(waiting)
}

/// The controller, and every partition that has a log here.
fn groups(env: &Env, data_dir: &Path) -> io::Result<Vec<GroupId>> {
    let logs = data_dir.join("logs");
    let files = if env.disk.exists(&logs) { env.disk.list(&logs)? } else { Vec::new() };
    let named = files.iter().filter_map(|path| {
        let (topic, partition) = path.file_name()?.to_str()?.rsplit_once('-')?;
        Some(GroupId { topic: topic.parse().ok()?, partition: partition.parse().ok()? })
    });
    Ok(named.chain([GroupId::CONTROLLER]).collect::<BTreeSet<_>>().into_iter().collect())
}

fn trusted(writer: &Writer, group: GroupId) -> Option<u64> {
    Some(u64::from_be_bytes(writer.meta(trusted_key(group))?.try_into().ok()?))
}

fn encode(loss: u64, gone: &BTreeSet<NodeId>) -> Vec<u8> {
    [loss].iter().chain(gone).flat_map(|number| number.to_be_bytes()).collect()
}

/// Nodes whose word is not waited for to make good this loss of votes.
pub(crate) fn gone(writer: &Writer, loss: Option<u64>) -> BTreeSet<NodeId> {
    let value = writer.meta(TRUST_KEY.to_vec()).unwrap_or_default();
    let (numbers, _) = value.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
    // Of another loss than this one nobody has said anything.
    if loss.is_some() && numbers.next() == loss { numbers.collect() } else { BTreeSet::new() }
}

/// Says at every start what an operator has vouched for, as long as it matters.
pub(super) fn audit(writer: &Writer) {
    let gone = gone(writer, last_loss(writer));
    if !gone.is_empty() {
        tracing::warn!(
            ?gone,
            "an operator vouches that these nodes are gone for good: their word about this node's lost votes is not waited for, and what only \
             they and this node held is lost"
        );
    }
}
