//! Identities of nodes in their certificates: a URI SAN `spiffe://MESH/region/R/node/N`.

/// A node as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    pub mesh: String,
    pub region: String,
    pub node: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate cannot be parsed")]
    Malformed,
    #[error("the certificate holds {0} spiffe:// names, needs exactly one")]
    Names(usize),
    #[error("the certificate's name is not spiffe://MESH/region/REGION/node/NUMBER")]
    Name,
}

impl NodeIdentity {
    /// Reads the identity from a certificate (DER). Does not verify the chain: rustls has done that.
    #[allow(unused_variables)]
    pub fn from_der(certificate: &[u8]) -> Result<NodeIdentity, CertificateError> {
        unimplemented!()
    }

    /// `spiffe://MESH/region/R/node/N`.
    pub fn uri(&self) -> String {
        format!("spiffe://{}/region/{}/node/{}", self.mesh, self.region, self.node)
    }
}
