//! The admin port of a whole node: what it tells to whom, and what hostile callers cannot do to it.

mod harness;
mod telemetry;

use std::time::Duration;

use harness::{ROOT, Running};
use meridian::admin::status::NodeStatus;
use meridian::client::admin::NewTopic;
use meridian::config::Telemetry;
use meridian_auth::acl::{Binding, CLUSTER_NAME, Operation, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_to_everyone_and_the_mesh_to_those_with_a_token_over_tls() {
    let node = Running::start(Telemetry::default()).await;
    node.wait_until_missing(&[]).await;
    let get = |url: String| node.client.get(url);
    for url in [node.plain("/healthz"), node.secure("/healthz"), node.secure("/readyz")] {
        assert_eq!(get(url.clone()).send().await.expect("an answer").status(), StatusCode::OK, "{url}");
    }

    let root = node.token(ROOT, 60, 0);
    let refused = get(node.plain("/v1/mesh")).bearer_auth(&root).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.text().await.expect("a body").contains("https"));

    for token in [None, Some("junk".to_owned()), Some(node.token(ROOT, 60, 3600)), Some(format!("{root}x"))] {
        let request = get(node.secure("/v1/mesh"));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.text().await.expect("a body"), "", "a refusal explains nothing");
    }

    let status: NodeStatus = get(node.secure("/v1/mesh")).bearer_auth(&root).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!((status.mesh.as_str(), status.region.as_str(), status.node_id), ("test", "eu", 1));
    assert_eq!(status.controller, Some(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_sees_the_topics_it_may_describe_and_no_others() {
    let node = Running::start(Telemetry::default()).await;
    node.wait_until_missing(&[]).await;
    let cluster = node.cluster(node.token(ROOT, 60, 0));
    for name in ["flights", "wages"] {
        let topic = NewTopic { name: name.to_owned(), partitions: Some(2), replication_factor: Some(1), ..NewTopic::default() };
        cluster.create_topic(&topic).await.expect("a topic");
    }
    let names_seen_by = async |subject: &str| {
        let request = node.client.get(node.secure("/v1/mesh")).bearer_auth(node.token(subject, 60, 0));
        let status: NodeStatus = request.send().await.expect("an answer").json().await.expect("JSON");
        status.topics.into_iter().filter(|topic| !topic.internal).map(|topic| topic.name).collect::<Vec<_>>()
    };
    assert_eq!(names_seen_by("ann").await, Vec::<String>::new());
    assert_eq!(names_seen_by(ROOT).await, ["flights", "wages"]);
    let may = |resource, name: &str, operation| Binding {
        resource,
        pattern: PatternType::Literal,
        name: name.to_owned(),
        principal: Principal::user("ann"),
        host: "*".to_owned(),
        operation,
        permission: Permission::Allow,
    };
    cluster.create_acls(&[may(ResourceType::Topic, "flights", Operation::Read)]).await.expect("an ACL");
    assert_eq!(names_seen_by("ann").await, ["flights"], "who may read may describe");
    cluster.create_acls(&[may(ResourceType::Cluster, CLUSTER_NAME, Operation::Describe)]).await.expect("an ACL");
    assert_eq!(names_seen_by("ann").await, ["flights", "wages"]);
    node.stop().await;
}

/// Reads until the other side closes; the time that took, and what came.
async fn until_closed(stream: &mut TcpStream) -> (Duration, String) {
    let begun = Instant::now();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("closed within 20 s");
    if let Err(error) = read {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    (begun.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_slow_heads_and_huge_heads_are_closed_and_harm_nobody() {
    let node = Running::start(Telemetry::default()).await;
    let at = node.config.admin.listen;
    let huge = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let body = "POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n";
    let cases: [(&[u8], &str); 5] = [
        (b"\x00\xff\xfe\r\n\r\n", "HTTP/1.1 400"),
        // An alert may come first, or a reset may overtake it.
        (b"\x16\x03\x01\x00\x05garbage", ""),
        (huge.as_bytes(), "HTTP/1.1 431"),
        (body.as_bytes(), "HTTP/1.1 413"),
        // Never finished: closed when the deadline for a head has passed.
        (b"GET /healthz HTTP/1.1\r\nhost: ", ""),
    ];
    let slow = cases.map(|(bytes, answer)| {
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(at).await.expect("connected");
            // The other side may close before it has read everything.
            let _ = stream.write_all(&bytes).await;
            let (took, got) = until_closed(&mut stream).await;
            assert!(got.starts_with(answer), "{:?} was answered {got:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
            took
        })
    });
    // Silence is closed too.
    let silent = tokio::spawn(async move { until_closed(&mut TcpStream::connect(at).await.expect("connected")).await.0 });
    let idle = tokio::spawn(async move {
        let mut stream = TcpStream::connect(at).await.expect("connected");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let (took, got) = until_closed(&mut stream).await;
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
        took
    });
    for _ in 0..3 {
        let answer = node.client.get(node.secure("/healthz")).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "others are served meanwhile");
    }
    for case in slow {
        let took = case.await.expect("as expected");
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
    assert!(silent.await.expect("closed") < Duration::from_secs(8));
    assert!(idle.await.expect("closed") < Duration::from_secs(12), "an idle connection keeps its place only so long");
    node.stop().await;
}
