//! A node's certificates, and the TLS that each of its listeners and connections speaks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_raft::node::PeerTls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config;

/// Largest PEM file read.
const PEM_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} is larger than {PEM_BYTES_MAX} bytes")]
    Large { path: PathBuf },
    #[error("{path} holds no {what} in PEM")]
    Pem { path: PathBuf, what: &'static str },
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
}

/// A node's own certificate and key, and the authority it believes.
pub struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn unusable(error: impl ToString) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// A PEM file's bytes, bounded.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    opened.map_err(|error| TlsError::Read { path: path.into(), error })?;
    if bytes.len() as u64 > PEM_BYTES_MAX { Err(TlsError::Large { path: path.into() }) } else { Ok(bytes) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    parsed.ok().filter(|chain| !chain.is_empty()).ok_or(TlsError::Pem { path: path.into(), what: "certificate" })
}

/// The authorities of a PEM file.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

/// A client that believes only this authority and shows no certificate.
pub fn client(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Credentials {
    pub fn load(files: &config::Tls) -> Result<Credentials, TlsError> {
        let roots = Arc::new(roots(&files.ca)?);
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?);
        let key = key.map_err(|_| TlsError::Pem { path: files.key.clone(), what: "private key" })?;
        Ok(Credentials { roots, chain, key })
    }

    /// When the first certificate of the chain expires, seconds since the epoch.
    pub fn expires_at_s(&self) -> Result<i64, TlsError> {
        let expiries = self.chain.iter().map(|certificate| meridian_auth::certificate::expires_at_s(certificate));
        let expiries: Vec<i64> = expiries.collect::<Result<_, _>>().map_err(unusable)?;
        expiries.into_iter().min().ok_or_else(|| unusable("the chain is empty"))
    }

    /// Mutual TLS 1.3 between the nodes of a region. No resumption: rustls would not look at the peer's certificate again.
    pub fn peer(&self, mesh: &str, region: &str) -> Result<PeerTls, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build().map_err(unusable)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)?;
        let identity_prefix = format!("spiffe://{mesh}/region/{region}/");
        Ok(PeerTls { server: Arc::new(server), client: Arc::new(client), identity_prefix })
    }

    /// TLS 1.2 and 1.3 for Kafka clients and admin callers, who show who they are with a token.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)
    }
}
