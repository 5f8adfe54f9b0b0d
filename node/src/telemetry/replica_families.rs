//! Metrics of the replicas on this node. Series by topic and partition come from the leader alone, and are bounded.

use std::borrow::Cow;

use meridian_raft::GroupId;
use meridian_raft::partition::Partition;

use super::family::{Family, Kind, Label};
use crate::admin::view::View;
use crate::controller::image::Image;

/// Led partitions with series of their own; the rest is only counted.
pub const SERIES_PARTITIONS_MAX: usize = 10_000;

/// Name and number of one partition, as labels' values.
struct Name {
    topic: String,
    partition: String,
}

impl Name {
    fn of(image: &Image, id: GroupId) -> Option<Name> {
        let topic = image.topics_by_id.get(&id.topic)?;
        Some(Name { topic: topic.name.clone(), partition: id.partition.to_string() })
    }

    fn labels(&self) -> Vec<Label> {
        vec![("topic", Cow::Owned(self.topic.clone())), ("partition", Cow::Owned(self.partition.clone()))]
    }

    fn redpanda_labels(&self) -> Vec<Label> {
        vec![
            ("redpanda_namespace", "kafka".into()),
            ("redpanda_topic", Cow::Owned(self.topic.clone())),
            ("redpanda_partition", Cow::Owned(self.partition.clone())),
        ]
    }
}

pub(super) fn of_replicas(view: &View) -> Vec<Family> {
    let image = view.controller.image();
    let replicas = view.raft.partitions();
    let led: Vec<&Partition> = replicas.iter().filter(|replica| replica.leadership().is_leader).collect();
    let under_replicated = led.iter().filter(|replica| replica.in_sync_replicas().len() < replica.membership().voters.len()).count();
    let leaderless = replicas.iter().filter(|replica| replica.leadership().leader.is_none()).count();
    let (repairs, scrubbed) = (view.raft.repair_stats(), view.raft.scrub_stats());
    let mut families = vec![
        count("kafka_server_replicamanager_partitioncount", "Replicas on this node.", replicas.len()),
        count("kafka_server_replicamanager_leadercount", "Partitions this node leads.", led.len()),
        count(
            "kafka_server_replicamanager_underreplicatedpartitions",
            "Partitions led here of which a replica is behind or away.",
            under_replicated,
        ),
        count("kafka_server_replicamanager_offlinereplicacount", "Replicas here that know no leader.", leaderless),
        count(
            "meridian_replicas_damaged",
            "Replicas here that are damaged: they neither vote nor serve until their peers have repaired them.",
            view.raft.damaged().len(),
        ),
        total("meridian_replicas_found_damaged_total", "Replicas found damaged since start.", repairs.found),
        total("meridian_replicas_repaired_total", "Damaged replicas brought back since start.", repairs.repaired),
        total("meridian_repair_received_bytes_total", "Bytes of entries received from peers to repair replicas.", repairs.bytes),
        total("meridian_scrub_bytes_total", "Bytes of logs whose checksums were verified in the background.", scrubbed.bytes),
        total("meridian_scrub_passes_total", "How often the background scrub has read every log through.", scrubbed.passes),
        Family::single(
            "meridian_scrub_last_pass_timestamp_seconds",
            Kind::Gauge,
            "When the last pass of the scrub ended, seconds since the epoch; 0 before the first.",
            scrubbed.last_pass_us as f64 / 1e6,
        ),
        count(
            "meridian_metrics_partitions_left_out",
            "Partitions led here that have no series, because there are too many.",
            led.len().saturating_sub(SERIES_PARTITIONS_MAX),
        ),
    ];
    families.extend(of_led(&image, &led));
    families
}

fn count(name: &'static str, help: &'static str, value: usize) -> Family {
    Family::single(name, Kind::Gauge, help, value as f64)
}

fn total(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::single(name, Kind::Counter, help, value as f64)
}

fn of_led(image: &Image, led: &[&Partition]) -> Vec<Family> {
    let gauge = |name, help| Family::new(name, Kind::Gauge, help);
    let mut max_offset = gauge("redpanda_kafka_max_offset", "High watermark of a partition led here.");
    let mut current = gauge("kafka_topic_partition_current_offset", "High watermark of a partition led here.");
    let mut oldest = gauge("kafka_topic_partition_oldest_offset", "First offset of a partition led here.");
    let mut size = gauge("kafka_log_log_size", "Bytes on this node's disk of a partition led here.");
    let mut in_sync = gauge("kafka_cluster_partition_insyncreplicascount", "Replicas in sync of a partition led here.");
    for replica in led.iter().take(SERIES_PARTITIONS_MAX) {
        let Some(name) = Name::of(image, replica.id()) else { continue };
        let high_watermark = replica.high_watermark() as f64;
        max_offset.push(name.redpanda_labels(), high_watermark);
        current.push(name.labels(), high_watermark);
        oldest.push(name.labels(), replica.log_start_offset() as f64);
        size.push(name.labels(), replica.size_bytes() as f64);
        in_sync.push(name.labels(), replica.in_sync_replicas().len() as f64);
    }
    vec![max_offset, current, oldest, size, in_sync]
}

/// Mirrored partitions led here.
pub(super) fn of_mirrors(view: &View) -> Vec<Family> {
    let image = view.controller.image();
    let gauge = |name, help| Family::new(name, Kind::Gauge, help);
    let mut staleness = gauge("meridian_mirror_staleness_ms", "How old a mirror may be; grows while its link is cut. Milliseconds.");
    let mut lag = gauge("meridian_mirror_lag_records", "Records committed at a mirror's home, as last heard, that are not here.");
    let mut connected = gauge("meridian_mirror_connected", "1 while the mirror's home is heard.");
    let mirrors = view.links.iter().flat_map(|links| links.mirrors());
    for mirror in mirrors.take(SERIES_PARTITIONS_MAX) {
        let Some(name) = Name::of(&image, GroupId { topic: mirror.topic, partition: mirror.partition }) else { continue };
        let labels = || [name.labels(), vec![("home", Cow::Owned(mirror.home.clone()))]].concat();
        if let Some(staleness_ms) = mirror.staleness_ms {
            staleness.push(labels(), staleness_ms as f64);
        }
        if let Some(records) = mirror.lag_records {
            lag.push(labels(), records as f64);
        }
        connected.push(labels(), f64::from(u8::from(mirror.connected)));
    }
    vec![staleness, lag, connected]
}
