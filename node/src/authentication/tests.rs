//! Key sets that change under a running node, in a file and at an issuer that redirects, lies, or is down.

use std::net::Ipv4Addr;
use std::path::Path;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, KeyPair, SanType};
use reqwest::{Certificate, Client};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::dev::issuer::{AUDIENCE, ISSUER, Issuer};

fn rules() -> Rules {
    Rules::new(ISSUER, AUDIENCE)
}

fn token(issuer: &Issuer) -> String {
    issuer.issue("ann", AUDIENCE, 600, Env::real().clock.wall_us() / 1_000_000).expect("a token")
}

fn config(folder: &Path) -> config::Authentication {
    let jwks = folder.join("jwks.json").display().to_string();
    config::Authentication { issuer: ISSUER.into(), audience: AUDIENCE.into(), jwks }
}

#[tokio::test]
async fn a_key_that_is_added_is_believed_and_one_that_is_removed_is_not() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (old, new) = (Issuer::open(folder.path()).expect("an issuer"), Issuer::open(other.path()).expect("another"));
    let authenticator = Authenticator::start(Env::real(), &config(folder.path())).await.expect("started");
    let key = authenticator.verify(&token(&old)).await.expect("a good token").key_id;
    assert_eq!(authenticator.verify(&token(&new)).await, Err(TokenError::UnknownKey));

    let mut changes = authenticator.watch_keys();
    std::fs::copy(other.path().join("jwks.json"), folder.path().join("jwks.json")).expect("copied");
    changes.changed().await.expect("it lives");
    authenticator.verify(&token(&new)).await.expect("a good token");
    assert_eq!(authenticator.verify(&token(&old)).await, Err(TokenError::UnknownKey));
    assert!(!authenticator.believes(&key), "sessions begun with it must end");
}

#[tokio::test]
async fn a_damaged_or_missing_file_leaves_the_old_keys_for_a_day_and_no_longer() {
    let folder = tempfile::tempdir().expect("a folder");
    let issuer = Issuer::open(folder.path()).expect("an issuer");
    let authenticator = Authenticator::start(Env::real(), &config(folder.path())).await.expect("started");
    for damage in ["junk", "{\"keys\": []}"] {
        std::fs::write(folder.path().join("jwks.json"), damage).expect("written");
        authenticator.inner.refresh().await.expect_err("no key set");
        authenticator.verify(&token(&issuer)).await.expect("still believed");
    }
    std::fs::remove_file(folder.path().join("jwks.json")).expect("removed");
    authenticator.inner.refresh().await.expect_err("no file");
    let held = authenticator.inner.held();
    assert!(held.at(held.confirmed + STALENESS_MAX - Duration::from_secs(1)).is_some());
    assert!(held.at(held.confirmed + STALENESS_MAX).is_none());
}

#[tokio::test]
async fn a_file_that_is_missing_at_the_start_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    Authenticator::start(Env::real(), &config(folder.path())).await.expect_err("no file");
}

/// An https server on loopback, and a client that believes it.
async fn issuer_at(router: Router) -> (String, reqwest::ClientBuilder) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).expect("a certificate");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            let Ok(stream) = TlsAcceptor::from(Arc::new(tls.clone())).accept(stream).await else { continue };
            let service = TowerToHyperService::new(router.clone());
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(serving.await) });
        }
    });
    let root = Certificate::from_der(certificate.der()).expect("a root");
    (url, Client::builder().no_proxy().tls_certs_only([root]))
}

async fn read(url: &str, client: reqwest::ClientBuilder) -> Result<Vec<u8>, SourceError> {
    Source::url(url, client)?.read().await
}

#[tokio::test]
async fn an_issuer_is_asked_over_https_and_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let issuer = Issuer::open(folder.path()).expect("an issuer");
    let jwks = std::fs::read(folder.path().join("jwks.json")).expect("a key set");
    let moved = get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/jwks")]) });
    let (url, client) = issuer_at(Router::new().route("/jwks", get(|| async { jwks })).route("/old", moved)).await;
    let source = Source::url(&format!("{url}/old"), client).expect("a source");
    let authenticator = Authenticator::follow(Env::real(), rules(), source).await.expect("started");
    authenticator.verify(&token(&issuer)).await.expect("a good token");
}

#[tokio::test]
async fn a_redirect_to_another_host_or_an_endless_document_is_refused() {
    let (elsewhere, _) = issuer_at(Router::new().route("/jwks", get(|| async { "{}" }))).await;
    let away = get(move || async move { (StatusCode::FOUND, [(header::LOCATION, format!("{elsewhere}/jwks"))]) });
    let endless = get(|| async { vec![b' '; 2 * meridian_auth::jwt::KEY_SET_BYTES_MAX] });
    let router = Router::new().route("/away", away).route("/endless", endless);
    let (url, client) = issuer_at(router.clone()).await;
    assert!(matches!(read(&format!("{url}/away"), client).await, Err(SourceError::Status(302))));
    let (url, client) = issuer_at(router).await;
    assert!(matches!(read(&format!("{url}/endless"), client).await, Err(SourceError::Large)));
}

#[tokio::test]
async fn plain_http_is_never_asked() {
    let fetched = read("http://127.0.0.1:9/jwks", Client::builder().no_proxy()).await;
    assert!(matches!(fetched, Err(SourceError::Fetch(_))), "{fetched:?}");
}

#[tokio::test]
async fn tokens_with_unknown_keys_make_one_request_a_minute_at_most() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let router = Router::new()
        .route("/jwks", get(move || async move { (StatusCode::NOT_FOUND, count.fetch_add(1, Ordering::Relaxed).to_string()) }));
    let (url, client) = issuer_at(router).await;
    let source = Source::url(&format!("{url}/jwks"), client).expect("a source");
    let authenticator = Authenticator::follow(Env::real(), rules(), source).await.expect("an issuer that is down is no error");
    let folder = tempfile::tempdir().expect("a folder");
    let token = token(&Issuer::open(folder.path()).expect("an issuer"));
    for _ in 0..20 {
        assert_eq!(authenticator.verify(&token).await, Err(TokenError::UnknownKey));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2, "at the start, and once for all unknown keys");
}
