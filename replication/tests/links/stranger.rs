//! Somebody who speaks QUIC to a link listener and is not, or does not behave as, a node of the mesh.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{Authority, PATIENCE};

/// A client with a certificate, or without.
pub struct Stranger {
    endpoint: Endpoint,
}

impl Stranger {
    /// `signer` signs the certificate of this name; `believed` is the authority of the node that is dialled.
    pub fn new(signer: &Authority, believed: &Authority, uri: Option<&str>, alpn: &[u8]) -> Stranger {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(believed.root_pem.as_bytes()).expect("a root")).expect("a root");
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let mut tls = match uri.map(|uri| signer.identity(uri)) {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a client")
            }
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("an endpoint");
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a QUIC client"))));
        Stranger { endpoint }
    }

    pub async fn connect(&self, to: SocketAddr) -> Result<Connection, ConnectionError> {
        self.endpoint.connect(to, "127.0.0.1").expect("a valid name").await
    }

    /// Why the node closes the connection, at the handshake or behind it.
    pub async fn refusal(&self, to: SocketAddr) -> ConnectionError {
        let refused = async {
            match self.connect(to).await {
                Err(error) => error,
                Ok(connection) => connection.closed().await,
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("an answer")
    }

    /// Sends bytes on a new stream and tells why the connection was closed for it.
    pub async fn refusal_of(&self, to: SocketAddr, bytes: &[u8]) -> ConnectionError {
        let connection = self.connect(to).await.expect("an accepted connection");
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        // The node may close before all is written.
        let _ = send.write_all(bytes).await;
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("an answer")
    }
}

/// The reason that the node gave when it closed a connection.
pub fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
        other => panic!("closed without a reason of the link's: {other}"),
    }
}
