//! Metrics of the node as a whole: process, storage, Raft, links, certificate.

use meridian_raft::log::MemoryStats;
use meridian_raft::node::NodeStats;

use super::family::{Family, Kind};
use crate::admin::view::View;

const MICROSECONDS: f64 = 1e6;

pub(super) fn of_process(ready: bool) -> Vec<Family> {
    let mut build = Family::new("meridian_build_info", Kind::Gauge, "Version of the running binary; always 1.");
    build.push(vec![("version", env!("CARGO_PKG_VERSION").into())], 1.0);
    let mut families =
        vec![build, Family::single("meridian_ready", Kind::Gauge, "1 while clients may be sent to this node.", f64::from(u8::from(ready)))];
    if let Some(bytes) = resident_bytes() {
        let help = "Resident memory of the process, bytes.";
        families.push(Family::single("process_resident_memory_bytes", Kind::Gauge, help, bytes as f64));
    }
    families
}

/// From the line `VmRSS:  1234 kB` of `/proc/self/status`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

pub(super) fn of_node(view: &View) -> Vec<Family> {
    let mut families = of_storage(&view.raft.stats(), view.raft.memory_stats());
    let leads = view.controller.leader() == Some(view.node_id);
    let image = view.controller.image();
    let in_seconds = (view.certificate_expires_at_s as f64) - (view.env.clock.wall_us() as f64 / MICROSECONDS);
    families.extend([
        Family::single(
            "kafka_controller_kafkacontroller_activecontrollercount",
            Kind::Gauge,
            "1 on the node that leads the region's controller.",
            f64::from(u8::from(leads)),
        ),
        Family::single(
            "kafka_controller_kafkacontroller_globaltopiccount",
            Kind::Gauge,
            "Topics of the region, mirrors included.",
            image.topics.len() as f64,
        ),
        Family::single(
            "meridian_metadata_version",
            Kind::Gauge,
            "Index of the last command in this node's image of the region's metadata.",
            image.version as f64,
        ),
        Family::single("meridian_live_nodes", Kind::Gauge, "Nodes of the region heard of lately, this one included.", live(view)),
        Family::single(
            "meridian_certificate_expires_in_seconds",
            Kind::Gauge,
            "Until the first certificate of this node's chain expires.",
            in_seconds,
        ),
    ]);
    families.extend(of_links(view));
    families
}

fn live(view: &View) -> f64 {
    view.raft.live_nodes().len() as f64
}

fn of_storage(stats: &NodeStats, memory: MemoryStats) -> Vec<Family> {
    let mut reads =
        Family::new("meridian_log_read_bytes_total", Kind::Counter, "Bytes of entries read for clients, mirrors and followers.");
    reads.push(vec![("from", "memory".into())], memory.read_memory_bytes as f64);
    reads.push(vec![("from", "disk".into())], memory.read_disk_bytes as f64);
    let mut syncs = Family::new("meridian_fsync_seconds", Kind::Summary, "fdatasync calls of the data folder and the time they took.");
    syncs.push_part("_sum", Vec::new(), stats.sync_us_sum as f64 / MICROSECONDS);
    syncs.push_part("_count", Vec::new(), stats.syncs as f64);
    let longest = stats.sync_us_max as f64 / MICROSECONDS;
    vec![
        syncs,
        Family::single("meridian_fsync_seconds_max", Kind::Gauge, "Longest fdatasync since start.", longest),
        Family::single("meridian_disk_written_bytes_total", Kind::Counter, "Bytes written to the logs.", stats.bytes_written as f64),
        Family::single(
            "meridian_disk_free_bytes",
            Kind::Gauge,
            "Free bytes on the disk of the data folder, as of the last second.",
            stats.disk_free_bytes as f64,
        ),
        Family::single(
            "meridian_disk_full",
            Kind::Gauge,
            "1 while new data is refused because the disk is nearly full.",
            f64::from(u8::from(stats.disk_full)),
        ),
        Family::single("meridian_disk_fills_total", Kind::Counter, "How often the disk became nearly full.", stats.disk_fills as f64),
        reads,
        Family::single("meridian_tail_cache_bytes", Kind::Gauge, "Recent records in memory.", memory.tail_bytes as f64),
        Family::single("meridian_index_cache_bytes", Kind::Gauge, "Indexes of closed segments in memory.", memory.index_bytes as f64),
        Family::single("meridian_read_chunks_bytes", Kind::Gauge, "Chunks read from the disk a moment ago.", memory.chunk_bytes as f64),
        Family::single("meridian_raft_elections_total", Kind::Counter, "Leaderships this node has won.", stats.elections as f64),
    ]
}

fn of_links(view: &View) -> Vec<Family> {
    let mut connected = Family::new("meridian_link_connected", Kind::Gauge, "1 while the link to a node of another region is up.");
    let mut rtt = Family::new("meridian_link_rtt_seconds", Kind::Gauge, "Round trip of a connected link.");
    let mut received = Family::new("meridian_link_received_bytes_total", Kind::Counter, "Bytes received over a link.");
    let mut sent = Family::new("meridian_link_sent_bytes_total", Kind::Counter, "Bytes sent over a link.");
    for peer in view.links.iter().flat_map(|links| links.peers()) {
        let labels = vec![("region", peer.region.into()), ("address", peer.address.into())];
        connected.push(labels.clone(), f64::from(u8::from(peer.connected)));
        if let Some(rtt_us) = peer.rtt_us {
            rtt.push(labels.clone(), rtt_us as f64 / MICROSECONDS);
        }
        received.push(labels.clone(), peer.bytes_received as f64);
        sent.push(labels, peer.bytes_sent as f64);
    }
    vec![connected, rtt, received, sent]
}
