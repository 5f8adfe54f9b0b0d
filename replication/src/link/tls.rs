//! Who is at the other end of a link: mutual TLS 1.3, and an identity of the same mesh and another, expected region.

use std::sync::Arc;

use meridian_auth::certificate::NodeIdentity;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{LinkConfig, LinkError};

/// Names the protocol and its version; a peer that speaks another is refused by TLS.
const ALPN: &[u8] = b"meridian-link/1";

/// Both ends' TLS. Neither resumes a session nor sends early data: rustls looks at certificates in full handshakes only, and early data can be
/// replayed.
pub(crate) struct Tls {
    pub server: Arc<QuicServerConfig>,
    pub client: Arc<QuicClientConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the peer shows no certificate")]
    None,
    #[error(transparent)]
    Certificate(#[from] meridian_auth::certificate::CertificateError),
    #[error("the peer is of mesh {0}")]
    Mesh(String),
    #[error("the peer is of region {0}, which this link is not for")]
    Region(String),
}

fn unusable(error: impl ToString) -> LinkError {
    LinkError::Tls(error.to_string())
}

pub(crate) fn load(config: &LinkConfig) -> Result<Tls, LinkError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&config.ca_pem)? {
        roots.add(root).map_err(unusable)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&config.certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(&config.key_pem).map_err(unusable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(unusable)?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unusable)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.max_early_data_size = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_early_data = false;
    Ok(Tls {
        server: Arc::new(QuicServerConfig::try_from(server).map_err(unusable)?),
        client: Arc::new(QuicClientConfig::try_from(client).map_err(unusable)?),
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let parsed: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(unusable)?;
    if parsed.is_empty() { Err(LinkError::Tls("no certificate in PEM".to_owned())) } else { Ok(parsed) }
}

/// The peer of a connection, if it is a node of this mesh and of a region that `expected` accepts.
pub(crate) fn peer(connection: &quinn::Connection, mesh: &str, expected: impl FnOnce(&str) -> bool) -> Result<NodeIdentity, IdentityError> {
    let chain = connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = chain.as_ref().and_then(|chain| chain.first()).ok_or(IdentityError::None)?;
    let identity = NodeIdentity::from_der(certificate)?;
    if identity.mesh != mesh {
        return Err(IdentityError::Mesh(identity.mesh));
    }
    if !expected(&identity.region) {
        return Err(IdentityError::Region(identity.region));
    }
    Ok(identity)
}
