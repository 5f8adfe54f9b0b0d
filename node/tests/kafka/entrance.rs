//! Who gets in, how far, and until when.

use std::time::Duration;

use bytes::Buf;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use kafka_protocol::protocol::Decodable;
use meridian::dev::issuer::{AUDIENCE, Issuer};
use meridian::kafka::api::TABLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{PATIENCE, ROOT, Running, now_s};

const REFUSED: i16 = 58;
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_refused_by_both_mechanisms_and_the_connection_closed() {
    let node = Running::start().await;
    let strangers = tempfile::tempdir().expect("a folder");
    let stranger = Issuer::open(strangers.path()).expect("another issuer");
    let good = node.token(ROOT);
    let (_, rest) = good.split_once('.').expect("a token");
    let (claims, signature) = rest.split_once('.').expect("a token");
    let bad = [
        ("expired", node.issuer.issue(ROOT, AUDIENCE, 60, now_s() - 600).expect("a token")),
        ("not yet valid", node.issuer.issue(ROOT, AUDIENCE, 60, now_s() + 600).expect("a token")),
        ("another audience", node.issuer.issue(ROOT, "elsewhere", 60, now_s()).expect("a token")),
        ("another key", stranger.issue(ROOT, AUDIENCE, 60, now_s()).expect("a token")),
        // {"alg":"none","typ":"JWT"}
        ("no algorithm", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")),
        ("no algorithm, signed", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.{signature}")),
        ("no token", "token".to_owned()),
    ];
    for (what, token) in bad {
        let mut wire = node.dial().await;
        let challenge = wire.authenticate(&token).await;
        assert_eq!((challenge.error_code, &challenge.auth_bytes[..]), (0, &br#"{"status":"invalid_token"}"#[..]), "{what}");
        assert_eq!(wire.message(vec![1]).await.error_code, REFUSED, "{what}");
        assert!(wire.is_closed_within(SOON).await, "{what}");

        let mut wire = node.dial().await;
        let refused = wire.sasl("PLAIN", format!("\0token\0{token}").into_bytes()).await;
        assert_eq!(refused.error_code, REFUSED, "{what}");
        let message = refused.error_message.expect("a reason");
        assert!(!message.contains(&token) || token == "token", "{what}: {message}");
        assert!(wire.is_closed_within(SOON).await, "{what}");
    }
    let mut wire = node.dial().await;
    assert_eq!(wire.sasl("PLAIN", format!("\0{ROOT}\0{good}").into_bytes()).await.error_code, 0);
    let mut wire = node.dial().await;
    assert_eq!(wire.sasl("PLAIN", format!("\0somebody\0{good}").into_bytes()).await.error_code, REFUSED, "the name is another's");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_way_in_is_answered_before_authentication() {
    let node = Running::start().await;
    let mut wire = node.dial().await;
    let versions = wire.ask(4, &ApiVersionsRequest::default()).await;
    let told: Vec<_> = versions.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    assert_eq!(told, TABLE.iter().map(|api| (api.key, api.min, api.max)).collect::<Vec<_>>());
    wire.send(12, &MetadataRequest::default()).await;
    assert!(wire.is_closed_within(SOON).await, "Metadata");

    let mut wire = node.dial().await;
    wire.stream.write_i32((512 << 10) + 1).await.expect("sent");
    assert!(wire.is_closed_within(SOON).await, "a long frame");

    let mut plaintext = TcpStream::connect(node.address).await.expect("connected");
    plaintext.write_all(b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff").await.expect("sent");
    let mut answer = Vec::new();
    let ended = timeout(SOON, plaintext.read_to_end(&mut answer)).await.expect("closed");
    // A TLS alert may come before the end, an answer may not.
    assert!(ended.is_err() || answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_of_api_versions_is_answered_with_the_oldest_body() {
    let node = Running::start().await;
    let mut wire = node.dial().await;
    wire.stream.write_all(b"\0\0\0\x0a\0\x12\0\x63\0\0\0\x09\xff\xff").await.expect("sent");
    let mut frame = timeout(PATIENCE, wire.frame()).await.expect("in time").expect("an answer");
    assert_eq!(frame.get_i32(), 9);
    let response = ApiVersionsResponse::decode(&mut frame, 0).expect("version 0");
    assert_eq!((response.error_code, response.api_keys.len(), frame.is_empty()), (35, TABLE.len(), true));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_close_their_connection_and_no_other() {
    let node = Running::start().await;
    let mut bystander = node.connect(ROOT).await;
    let hostile: [&[u8]; 5] = [
        b"\0\0\0\0",
        b"\0\0\0\x03\0\x03\0",
        b"\xff\xff\xff\xff",
        // Metadata 0 with an array of i32::MAX topics.
        b"\0\0\0\x0e\0\x03\0\0\0\0\0\x01\xff\xff\x7f\xff\xff\xff",
        // An API that is not served.
        b"\0\0\0\x0a\x03\xe7\0\0\0\0\0\x01\xff\xff",
    ];
    for bytes in hostile {
        let mut wire = node.connect(ROOT).await;
        wire.stream.write_all(bytes).await.expect("sent");
        assert!(wire.is_closed_within(SOON).await, "{bytes:?}");
    }
    assert_eq!(bystander.ask(3, &ApiVersionsRequest::default()).await.error_code, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_though_idle_unless_it_is_renewed() {
    let node = Running::start().await;
    let short = |subject| node.issuer.issue(subject, AUDIENCE, 3, now_s()).expect("a token");
    let mut idle = node.connect_with(&short("ann")).await;
    let mut renewed = node.connect_with(&short("ann")).await;
    let mut usurped = node.connect_with(&short("ann")).await;
    let begun = Instant::now();
    let long = node.token("ann");
    assert_eq!(renewed.authenticate(&long).await.error_code, 0);
    let other = node.token("bob");
    assert!(!usurped.authenticate(&other).await.auth_bytes.is_empty(), "another principal is refused");
    assert_eq!(usurped.message(vec![1]).await.error_code, REFUSED);
    assert!(usurped.is_closed_within(SOON).await);
    assert!(idle.is_closed_within(Duration::from_secs(6)).await);
    assert!(begun.elapsed() > Duration::from_secs(1), "not before its time");
    assert_eq!(renewed.ask(3, &ApiVersionsRequest::default()).await.error_code, 0);
    node.stop().await;
}
