//! Metrics of the Kafka listener and of what passes through it, under our names and those of others' dashboards.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::family::{Family, Kind, Label};
use super::replica_families::SERIES_PARTITIONS_MAX;
use crate::admin::view::View;
use crate::kafka::counters::Counters;
use crate::kafka::errors::ErrorCode;
use crate::kafka::latency::{BOUNDS_US, Latency};

const MICROSECONDS: f64 = 1e6;
/// Our API's name, and Redpanda's for its request.
const REDPANDA_REQUESTS: [(&str, &str); 2] = [("produce", "produce"), ("fetch", "consume")];

fn load(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Counter, help)
}

fn total(name: &'static str, help: &'static str, value: f64) -> Family {
    Family::single(name, Kind::Counter, help, value)
}

pub(super) fn of_listener(view: &View) -> Vec<Family> {
    let counters = &*view.counters;
    let mut families = of_connections(counters);
    families.extend(of_requests(counters));
    families.extend(of_latencies(counters));
    families.push(total("meridian_kafka_fetched_records_total", "Records sent to clients.", load(&counters.fetched_records)));
    families
}

fn of_connections(counters: &Counters) -> Vec<Family> {
    let mut refusals = counter("meridian_authentication_failures_total", "Failed authentications of Kafka clients by reason.");
    for (reason, count) in counters.refusals() {
        refusals.push(vec![("reason", reason.into())], count as f64);
    }
    let open = "Kafka connections open now.";
    vec![
        Family::single("meridian_kafka_connections", Kind::Gauge, open, load(&counters.connections_open)),
        total("meridian_kafka_connections_accepted_total", "Kafka connections since start.", load(&counters.connections_accepted)),
        total("meridian_kafka_connections_refused_total", "Turned away: too many were open.", load(&counters.connections_refused)),
        total("meridian_authentications_total", "Kafka clients that authenticated.", load(&counters.authentications)),
        refusals,
        total("meridian_kafka_received_bytes_total", "Bytes of requests, before encryption.", load(&counters.bytes_in)),
        total("meridian_kafka_sent_bytes_total", "Bytes of answers, before encryption.", load(&counters.bytes_out)),
    ]
}

fn of_requests(counters: &Counters) -> Vec<Family> {
    let mut requests = counter("meridian_kafka_requests_total", "Requests by API.");
    let mut by_api = BTreeMap::new();
    for (api, count) in counters.requests() {
        requests.push(vec![("api", api.into())], count as f64);
        by_api.insert(api, count as f64);
    }
    let mut errors = counter("meridian_kafka_partition_errors_total", "Partitions of Produce and Fetch requests refused, by error.");
    let mut sum_of = |api: &'static str, occurred: &mut dyn Iterator<Item = (ErrorCode, u64)>| {
        let mut sum = 0.0;
        for (error, count) in occurred {
            errors.push(vec![("api", api.into()), ("error", Cow::Owned(format!("{error:?}")))], count as f64);
            sum += count as f64;
        }
        sum
    };
    let produce_failed = sum_of("produce", &mut counters.produce_errors());
    let fetch_failed = sum_of("fetch", &mut counters.fetch_errors());
    let asked = |api| by_api.get(api).copied().unwrap_or(0.0);
    vec![
        requests,
        errors,
        total("kafka_server_brokertopicmetrics_totalproducerequests_total", "Produce requests.", asked("produce")),
        total("kafka_server_brokertopicmetrics_totalfetchrequests_total", "Fetch requests.", asked("fetch")),
        total("kafka_server_brokertopicmetrics_failedproducerequests_total", "Refused partitions of Produce requests.", produce_failed),
        total("kafka_server_brokertopicmetrics_failedfetchrequests_total", "Refused partitions of Fetch requests.", fetch_failed),
    ]
}

fn of_latencies(counters: &Counters) -> Vec<Family> {
    let help = "From a request's arrival to its answer; a Fetch's wait for records included.";
    let mut ours = Family::new("meridian_kafka_request_seconds", Kind::Summary, help);
    let mut redpandas = Family::new("redpanda_kafka_request_latency_seconds", Kind::Histogram, help);
    for (api, latency) in counters.latencies() {
        let counted = latency.counted();
        let labels = vec![("api", api.into())];
        ours.push_part("_sum", labels.clone(), counted.sum_us as f64 / MICROSECONDS);
        ours.push_part("_count", labels, counted.count as f64);
        if let Some((_, request)) = REDPANDA_REQUESTS.iter().find(|(name, _)| *name == api) {
            push_histogram(&mut redpandas, &[("redpanda_request", (*request).into())], latency);
        }
    }
    vec![ours, redpandas]
}

fn push_histogram(family: &mut Family, labels: &[Label], latency: &Latency) {
    let counted = latency.counted();
    let bounded = |bound: String| [labels, &[("le", Cow::Owned(bound))]].concat();
    for (bound_us, within) in BOUNDS_US.iter().zip(counted.within) {
        family.push_part("_bucket", bounded((*bound_us as f64 / MICROSECONDS).to_string()), within as f64);
    }
    family.push_part("_bucket", bounded("+Inf".to_owned()), counted.count as f64);
    family.push_part("_sum", labels.to_vec(), counted.sum_us as f64 / MICROSECONDS);
    family.push_part("_count", labels.to_vec(), counted.count as f64);
}

/// What passed through this node, in all (no label, as Kafka's own exporter has it) and by topic.
pub(super) fn of_topics(view: &View) -> Vec<Family> {
    let counters = &*view.counters;
    let mut records_in =
        total("kafka_server_brokertopicmetrics_messagesin_total", "Records that clients produced here.", load(&counters.produced_records));
    let mut bytes_in = total(
        "kafka_server_brokertopicmetrics_bytesin_total",
        "Bytes of batches that clients produced here.",
        load(&counters.produced_bytes),
    );
    let mut bytes_out = total(
        "kafka_server_brokertopicmetrics_bytesout_total",
        "Bytes of batches that clients fetched here.",
        load(&counters.fetched_bytes),
    );
    let image = view.controller.image();
    let mut by_topic = BTreeMap::<&str, [f64; 3]>::new();
    let replicas = view.raft.partitions();
    for replica in replicas.iter().take(SERIES_PARTITIONS_MAX) {
        let Some(topic) = image.topics_by_id.get(&replica.id().topic) else { continue };
        let traffic = replica.traffic();
        let sums = by_topic.entry(topic.name.as_str()).or_default();
        for (sum, counter) in sums.iter_mut().zip([&traffic.records_in, &traffic.bytes_in, &traffic.bytes_out]) {
            *sum += load(counter);
        }
    }
    for (topic, sums) in by_topic {
        for (family, sum) in [&mut records_in, &mut bytes_in, &mut bytes_out].into_iter().zip(sums) {
            family.push(vec![("topic", Cow::Owned(topic.to_owned()))], sum);
        }
    }
    vec![records_in, bytes_in, bytes_out]
}
