//! Export over OTLP (protobuf over HTTP): what `/metrics` shows, and the spans of sampled requests. Runs on threads of its own.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, PeriodicReader, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::family::{Kind, Sample};
use super::metrics::Metrics;
use super::replica_families::SERIES_PARTITIONS_MAX;
use super::spans::Tracing;
use crate::config::{Config, Telemetry};
use meridian_raft::env::Env;

const SCOPE: &str = "meridian";
const METRICS_EVERY: Duration = Duration::from_secs(10);
/// One export, and the last one of a stopping node.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);
/// Names that repeat, for other systems' dashboards, what a name of ours says already.
const REPEATED_PREFIXES: [&str; 2] = ["redpanda_", "kafka_topic_partition_"];

#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("the OTLP exporter cannot be made: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// The running exporters.
#[derive(Debug)]
pub struct Otlp {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
}

impl Otlp {
    /// None where no endpoint is configured. Nothing is asked of the endpoint yet: a collector may come later than its nodes.
    pub fn start(config: &Config) -> Result<Option<Otlp>, OtlpError> {
        let Some(endpoint) = config.telemetry.otlp_endpoint.as_deref() else { return Ok(None) };
        let endpoint = endpoint.trim_end_matches('/');
        let spans = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_timeout(EXPORT_DEADLINE)
            .build()?;
        let metrics = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/metrics"))
            .with_timeout(EXPORT_DEADLINE)
            .build()?;
        let resource = resource(config);
        // Requests are sampled before a span is made; what is made is exported.
        let tracers =
            SdkTracerProvider::builder().with_resource(resource.clone()).with_sampler(Sampler::AlwaysOn).with_batch_exporter(spans).build();
        let reader = PeriodicReader::builder(metrics).with_interval(METRICS_EVERY).build();
        let bounded = |_: &Instrument| Stream::builder().with_cardinality_limit(SERIES_PARTITIONS_MAX).build().ok();
        let meters = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).with_view(bounded).build();
        Ok(Some(Otlp { tracers, meters }))
    }

    /// Makes the spans of the configured share of requests.
    pub fn tracing(&self, telemetry: &Telemetry, env: &Env) -> Tracing {
        Tracing::new(self.tracers.tracer(SCOPE), telemetry.trace_ratio, env.random.clone())
    }

    /// Exports these metrics from now on.
    pub fn observe(&self, metrics: &Metrics) {
        let meter = self.meters.meter(SCOPE);
        for family in metrics.families().iter() {
            if REPEATED_PREFIXES.iter().any(|prefix| family.name.starts_with(prefix)) {
                continue;
            }
            match family.kind {
                Kind::Counter => observe_counter(&meter, family.name.to_owned(), family.help, metrics, family.name, ""),
                Kind::Gauge => observe_gauge(&meter, family.name, family.help, metrics),
                // Their sums and counts, which is what rates and means are made of.
                Kind::Histogram | Kind::Summary => ["_sum", "_count"].into_iter().for_each(|suffix| {
                    observe_counter(&meter, format!("{}{suffix}", family.name), family.help, metrics, family.name, suffix);
                }),
            }
        }
    }

    /// Exports what is left, for a few seconds at most.
    pub async fn shutdown(self) {
        let stopped = tokio::task::spawn_blocking(move || {
            let (spans, metrics) =
                (self.tracers.shutdown_with_timeout(EXPORT_DEADLINE), self.meters.shutdown_with_timeout(EXPORT_DEADLINE));
            spans.and(metrics)
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(%error, "the last telemetry was not exported");
        }
    }
}

fn resource(config: &Config) -> Resource {
    let instance = format!("{}.{}.{}", config.mesh, config.region, config.node_id);
    Resource::builder()
        .with_service_name("meridian")
        .with_attributes([
            KeyValue::new("service.instance.id", instance),
            KeyValue::new("service.namespace", config.mesh.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("meridian.mesh", config.mesh.clone()),
            KeyValue::new("meridian.region", config.region.clone()),
            KeyValue::new("meridian.node", config.node_id as i64),
        ])
        .build()
}

fn observe_counter(meter: &Meter, name: String, help: &'static str, metrics: &Metrics, family: &'static str, suffix: &'static str) {
    let metrics = metrics.clone();
    let tell = move |instrument: &dyn AsyncInstrument<f64>| observe_family(&metrics, family, suffix, instrument);
    meter.f64_observable_counter(name).with_description(help).with_callback(tell).build();
}

fn observe_gauge(meter: &Meter, name: &'static str, help: &'static str, metrics: &Metrics) {
    let metrics = metrics.clone();
    let tell = move |instrument: &dyn AsyncInstrument<f64>| observe_family(&metrics, name, "", instrument);
    meter.f64_observable_gauge(name).with_description(help).with_callback(tell).build();
}

fn observe_family(metrics: &Metrics, name: &str, suffix: &str, instrument: &dyn AsyncInstrument<f64>) {
    let families = metrics.families();
    let samples = families.iter().filter(|family| family.name == name).flat_map(|family| &family.samples);
    for Sample { labels, value, .. } in samples.filter(|sample| sample.suffix == suffix) {
        let attributes: Vec<KeyValue> = labels.iter().map(|(name, value)| KeyValue::new(*name, value.to_string())).collect();
        instrument.observe(*value, &attributes);
    }
}
