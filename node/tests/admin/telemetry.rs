//! What a node tells of itself, as a scraper and a collector receive it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::Uri;
use axum::routing::post;
use meridian::config::Telemetry;
use meridian::telemetry::otlp::Otlp;
use meridian::telemetry::spans::{RequestHead, destination};
use meridian_raft::env::Env;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::harness::Running;

/// Splits `name{labels} value`; panics on anything else.
fn sample(line: &str) -> (&str, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    (series, value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_scraped_without_a_token_and_hold_one_type_per_name() {
    let node = Running::start(Telemetry::default()).await;
    node.wait_until_missing(&["the Kafka listener does not accept yet"]).await;
    let text = node.metrics().await;
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(declared) => {
                let (name, kind) = declared.split_once(' ').expect("a type");
                assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} is declared twice");
            }
            None if line.starts_with('#') => assert!(line.starts_with("# HELP "), "{line}"),
            None => assert_eq!(samples.insert(sample(line).0.to_owned(), sample(line).1), None, "{line} is told twice"),
        }
    }
    assert_eq!(samples["kafka_controller_kafkacontroller_activecontrollercount"], 1.0);
    assert_eq!(samples["kafka_server_replicamanager_underreplicatedpartitions"], 0.0);
    assert!(samples["meridian_fsync_seconds_count"] > 0.0);
    assert!(samples["meridian_certificate_expires_in_seconds"] > 0.0);
    assert_eq!(types["meridian_disk_written_bytes_total"], "counter");
    node.stop().await;
}

type Received = Arc<Mutex<Vec<(String, Bytes)>>>;

/// A collector's OTLP/HTTP door on a port of its own; lives as long as the runtime.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let keep = received.clone();
    let take = move |uri: Uri, body: Bytes| {
        keep.lock().expect("no panic").push((uri.path().to_owned(), body));
        std::future::ready(())
    };
    let router = Router::new().route("/v1/traces", post(take.clone())).route("/v1/metrics", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    (endpoint, received)
}

fn bodies<M: Message + Default>(received: &Received, path: &str) -> Vec<M> {
    let received = received.lock().expect("no panic");
    received.iter().filter(|(at, _)| at == path).map(|(_, body)| M::decode(body.clone()).expect("protobuf")).collect()
}

fn text_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_has_exported_its_metrics_under_its_own_name() {
    let (endpoint, received) = collector().await;
    let node = Running::start(Telemetry { otlp_endpoint: Some(endpoint), ..Telemetry::default() }).await;
    node.stop().await;
    let requests: Vec<ExportMetricsServiceRequest> = bodies(&received, "/v1/metrics");
    let resource = &requests[0].resource_metrics[0];
    let attributes = &resource.resource.as_ref().expect("a resource").attributes;
    assert_eq!(text_of(attributes, "service.name"), Some("meridian"));
    assert_eq!(text_of(attributes, "service.instance.id"), Some("test.eu.1"));
    let names: Vec<&str> = resource.scope_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect();
    for name in ["meridian_fsync_seconds_count", "meridian_disk_written_bytes_total", "kafka_server_replicamanager_leadercount"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_of_a_request_arrives_as_a_servers_with_its_topic() {
    let (endpoint, received) = collector().await;
    // Only its config is of interest, which names this node.
    let node = Running::start(Telemetry::default()).await;
    let telemetry = Telemetry { otlp_endpoint: Some(endpoint), trace_ratio: 1.0 };
    let config = meridian::config::Config { telemetry: telemetry.clone(), ..node.config.clone() };
    let otlp = Otlp::start(&config).expect("an exporter").expect("an endpoint");
    let tracing = otlp.tracing(&telemetry, &Env::real());
    let head = RequestHead { api: "Produce", version: 12, client_id: "tests" };
    let span = tracing.request(head).expect("every request is traced");
    span.around(async {
        tokio::task::yield_now().await;
        destination("send", "flights");
    })
    .await;
    drop(span);
    destination("send", "nobody is traced here");
    let off = otlp.tracing(&Telemetry { trace_ratio: 0.0, ..telemetry }, &Env::real());
    assert!(off.request(head).is_none());
    otlp.shutdown().await;
    node.stop().await;

    let requests: Vec<ExportTraceServiceRequest> = bodies(&received, "/v1/traces");
    let spans: Vec<_> = requests.iter().flat_map(|request| &request.resource_spans[0].scope_spans[0].spans).collect();
    assert_eq!(spans.len(), 1);
    assert_eq!((spans[0].name.as_str(), spans[0].kind()), ("send flights", SpanKind::Server));
    assert_eq!(text_of(&spans[0].attributes, "messaging.system"), Some("kafka"));
    assert_eq!(text_of(&spans[0].attributes, "messaging.destination.name"), Some("flights"));
    assert_eq!(text_of(&spans[0].attributes, "messaging.operation.type"), Some("send"));
}
