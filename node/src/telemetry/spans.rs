//! Spans of Kafka requests, by OpenTelemetry's messaging conventions. A request is sampled before anything is made for it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use meridian_raft::env::Random;
use opentelemetry::trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer, get_active_span};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

use crate::kafka::errors::ErrorCode;

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
    /// The API's name, as in `kafka::api::TABLE`.
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
        "produce" => Some(("send", "send")),
        "fetch" => Some(("poll", "receive")),
        "offset_commit" => Some(("commit", "settle")),
        _ => None,
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

/// Runs what a request does at once, so that [`destination`] and [`failed`] find its span.
pub fn within<T>(span: Option<&RequestSpan>, work: impl FnOnce() -> T) -> T {
    let _attached = span.map(|span| span.context.clone().attach());
    work()
}

/// A request's way to its answer, under its span, which ends with it. Without a span the same future comes back.
pub fn follow<T: 'static>(span: Option<RequestSpan>, future: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    let Some(span) = span else { return future };
    Box::pin(async move { future.with_context(span.context.clone()).await })
}

/// Names the topic that the request at hand is about, where it is one. Does next to nothing in a request that is not traced.
pub fn destination(operation: &str, topic: &str) {
    get_active_span(|span| {
        if span.is_recording() {
            span.set_attribute(KeyValue::new("messaging.destination.name", topic.to_owned()));
            span.update_name(format!("{operation} {topic}"));
        }
    });
}

/// The request at hand is refused, at least for one of its partitions, with this error.
pub fn failed(error: ErrorCode) {
    get_active_span(|span| {
        if span.is_recording() {
            span.set_attribute(KeyValue::new("error.type", format!("{error:?}")));
            span.set_status(Status::error(error.to_string()));
        }
    });
}
