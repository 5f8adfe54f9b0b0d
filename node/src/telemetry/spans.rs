//! Spans of Kafka requests, by OpenTelemetry's messaging conventions. A request is sampled before anything is made for it.

use std::future::Future;
use std::sync::Arc;

use meridian_raft::env::Random;
use opentelemetry::trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer, get_active_span};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

/// Makes spans, or nothing at all. Cheap to clone; while it is off a request costs one branch.
#[derive(Debug, Clone, Default)]
pub struct Tracing {
    live: Option<Arc<Live>>,
}

#[derive(Debug)]
struct Live {
    tracer: SdkTracer,
    /// A random number below it is a request to trace.
    threshold: u64,
    random: Arc<dyn Random>,
}

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The API's name, as in Kafka's protocol.
    pub api: &'static str,
    pub version: i16,
    pub client_id: &'a str,
}

/// The span of one sampled request; ends when dropped.
#[derive(Debug)]
pub struct RequestSpan {
    context: Context,
}

impl Tracing {
    pub(super) fn new(tracer: SdkTracer, ratio: f64, random: Arc<dyn Random>) -> Tracing {
        // A product beyond u64 becomes its maximum: all.
        let threshold = (ratio * u64::MAX as f64) as u64;
        Tracing { live: (threshold > 0).then(|| Arc::new(Live { tracer, threshold, random })) }
    }

    /// A span, if this request is to be traced.
    pub fn request(&self, head: RequestHead<'_>) -> Option<RequestSpan> {
        let live = self.live.as_ref()?;
        if live.random.next_u64() > live.threshold {
            return None;
        }
        let mut attributes = vec![
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.client.id", head.client_id.to_owned()),
            KeyValue::new("meridian.kafka.api", head.api),
            KeyValue::new("meridian.kafka.api_version", i64::from(head.version)),
        ];
        if let Some((name, kind)) = operation(head.api) {
            attributes.extend([KeyValue::new("messaging.operation.name", name), KeyValue::new("messaging.operation.type", kind)]);
        }
        let span = live.tracer.span_builder(head.api).with_kind(SpanKind::Server).with_attributes(attributes).start(&live.tracer);
        Some(RequestSpan { context: Context::new().with_span(span) })
    }
}

/// Name and type of a messaging operation, for the APIs that are one.
fn operation(api: &str) -> Option<(&'static str, &'static str)> {
    match api {
        "Produce" => Some(("send", "send")),
        "Fetch" => Some(("poll", "receive")),
        "OffsetCommit" => Some(("commit", "settle")),
        _ => None,
    }
}

impl RequestSpan {
    /// Runs the request's handler, so that [`destination`] finds the span.
    pub async fn around<F: Future>(&self, handler: F) -> F::Output {
        handler.with_context(self.context.clone()).await
    }

    /// The request was answered with this Kafka error.
    pub fn failed(&self, error: &'static str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("error.type", error));
        span.set_status(Status::error(error));
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

/// Names the topic that the request at hand is about; the last one named counts. Does next to nothing in a request that is not traced.
pub fn destination(operation: &str, topic: &str) {
    get_active_span(|span| {
        if span.is_recording() {
            span.set_attribute(KeyValue::new("messaging.destination.name", topic.to_owned()));
            span.update_name(format!("{operation} {topic}"));
        }
    });
}
