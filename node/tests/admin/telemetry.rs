//! What a node tells of itself, as a scraper and a collector receive it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::Uri;
use axum::routing::post;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use meridian::client::admin::NewTopic;
use meridian::client::batch::{Record, Sequence, encode};
use meridian::client::fetch::{Consumer, Start};
use meridian::config::Telemetry;
use meridian::telemetry::spans::{RequestHead, Tracing};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::harness::{ROOT, Running};

/// Splits `name{labels} value`; panics on anything else.
fn sample(line: &str) -> (&str, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    (series, value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_scraped_without_a_token_and_hold_one_type_per_name() {
    let node = Running::start(Telemetry::default()).await;
    node.wait_until_missing(&[]).await;
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

const RECORDS: u64 = 10;

/// Produces and fetches with a client of our own, and fails to authenticate once.
async fn traffic(node: &Running) {
    let cluster = node.cluster(node.token(ROOT, 60, 0));
    let flights = NewTopic { name: "flights".to_owned(), partitions: Some(1), replication_factor: Some(1), ..NewTopic::default() };
    cluster.create_topic(&flights).await.expect("a topic");
    cluster.topic("flights", Duration::from_secs(10)).await.expect("a leader");
    let record = |number: u64| Record { key: None, value: Some(number.to_string().into()), headers: Vec::new(), timestamp_ms: 1 };
    let records: Vec<Record> = (0..RECORDS).map(record).collect();
    let nobody = Sequence { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
    let batch = encode(&records, nobody).expect("a batch");
    let partition = |index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()));
    let name = TopicName(StrBytes::from_static_str("flights"));
    // There is no partition 7.
    let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![partition(0), partition(7)]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic]);
    let connection = cluster.node(1).await.expect("a connection");
    let response = connection.call(&request).await.expect("an answer");
    let codes: Vec<i16> = response.responses[0].partition_responses.iter().map(|part| part.error_code).collect();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()]);
    let mut consumer = Consumer::open(cluster, "flights", None, Start::Offset(0)).await.expect("a consumer");
    let mut fetched = 0;
    while fetched < RECORDS {
        fetched += consumer.poll().await.expect("records").len() as u64;
    }
    let address = node.config.kafka.listen.to_string();
    let refused = node.cluster(node.token(ROOT, 60, 3600)).dial(&address).await;
    assert!(refused.is_err(), "an expired token opens a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_move_is_counted_by_topic_and_their_failures_by_reason() {
    let node = Running::start(Telemetry::default()).await;
    node.wait_until_missing(&[]).await;
    traffic(&node).await;
    // Metrics are a second old at most.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let text = node.metrics().await;
    let samples: BTreeMap<&str, f64> = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
    let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("no {series} in {text}"));
    for series in [
        "kafka_server_brokertopicmetrics_messagesin_total",
        r#"kafka_server_brokertopicmetrics_messagesin_total{topic="flights"}"#,
        r#"kafka_topic_partition_current_offset{topic="flights",partition="0"}"#,
        r#"redpanda_kafka_max_offset{redpanda_namespace="kafka",redpanda_topic="flights",redpanda_partition="0"}"#,
    ] {
        assert_eq!(value(series), RECORDS as f64, "{series}");
    }
    let bytes = value(r#"kafka_server_brokertopicmetrics_bytesin_total{topic="flights"}"#);
    assert!(bytes > 0.0);
    assert_eq!(value(r#"kafka_server_brokertopicmetrics_bytesout_total{topic="flights"}"#), bytes, "read once");
    assert_eq!(value(r#"meridian_authentication_failures_total{reason="expired"}"#), 1.0);
    assert_eq!(value(r#"meridian_kafka_request_seconds_count{api="produce"}"#), value(r#"meridian_kafka_requests_total{api="produce"}"#));
    assert_eq!(value(r#"meridian_kafka_partition_errors_total{api="produce",error="UnknownTopicOrPartition"}"#), 1.0);
    let slowest = value(r#"redpanda_kafka_request_latency_seconds_bucket{redpanda_request="produce",le="+Inf"}"#);
    assert_eq!(slowest, value(r#"redpanda_kafka_request_latency_seconds_count{redpanda_request="produce"}"#));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_arrive_at_a_collector_as_spans_of_a_server_with_their_topic() {
    let (endpoint, received) = collector().await;
    let node = Running::start(Telemetry { otlp_endpoint: Some(endpoint), trace_ratio: 1.0 }).await;
    node.wait_until_missing(&[]).await;
    traffic(&node).await;
    node.stop().await;

    let requests: Vec<ExportTraceServiceRequest> = bodies(&received, "/v1/traces");
    let spans: Vec<_> = requests.iter().flat_map(|request| &request.resource_spans[0].scope_spans[0].spans).collect();
    for (name, operation) in [("send flights", "send"), ("poll flights", "receive")] {
        let span = spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"));
        assert_eq!(span.kind(), SpanKind::Server);
        assert_eq!(text_of(&span.attributes, "messaging.system"), Some("kafka"));
        assert_eq!(text_of(&span.attributes, "messaging.destination.name"), Some("flights"));
        assert_eq!(text_of(&span.attributes, "messaging.operation.type"), Some(operation));
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
        let error = (operation == "send").then_some("UnknownTopicOrPartition");
        assert_eq!(text_of(&span.attributes, "error.type"), error, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_traced_at_a_ratio_of_nothing_and_none_of_a_node_without_a_collector() {
    let (endpoint, received) = collector().await;
    let node = Running::start(Telemetry { otlp_endpoint: Some(endpoint), trace_ratio: 0.0 }).await;
    node.wait_until_missing(&[]).await;
    traffic(&node).await;
    node.stop().await;
    assert_eq!(bodies::<ExportTraceServiceRequest>(&received, "/v1/traces"), []);
    assert!(Tracing::default().request(RequestHead { api: "produce", version: 12, client_id: "" }).is_none());
}
