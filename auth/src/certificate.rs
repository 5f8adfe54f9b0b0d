//! Identities of nodes in their certificates: a URI SAN `spiffe://MESH/region/R/node/N`.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

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
    pub fn from_der(certificate: &[u8]) -> Result<NodeIdentity, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let names: Vec<&str> = certificate
            .extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
                _ => None,
            })
            .collect();
        match names.as_slice() {
            [name] => NodeIdentity::from_uri(name),
            names => Err(CertificateError::Names(names.len())),
        }
    }

    /// Parses `spiffe://MESH/region/R/node/N`, exactly.
    pub fn from_uri(uri: &str) -> Result<NodeIdentity, CertificateError> {
        let path = uri.strip_prefix("spiffe://").ok_or(CertificateError::Name)?;
        let parts: Vec<&str> = path.split('/').collect();
        let [mesh, "region", region, "node", node] = parts.as_slice() else {
            return Err(CertificateError::Name);
        };
        let number: u64 = node.parse().map_err(|_| CertificateError::Name)?;
        let identity = NodeIdentity { mesh: mesh.to_string(), region: region.to_string(), node: number };
        // One spelling per node: `+7` and `007` parse, and are refused here.
        if mesh.is_empty() || region.is_empty() || identity.uri() != uri {
            return Err(CertificateError::Name);
        }
        Ok(identity)
    }

    /// `spiffe://MESH/region/R/node/N`.
    pub fn uri(&self) -> String {
        format!("spiffe://{}/region/{}/node/{}", self.mesh, self.region, self.node)
    }
}

/// When a certificate (DER) expires, seconds since the epoch.
pub fn expires_at_s(certificate: &[u8]) -> Result<i64, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::Malformed)?;
    Ok(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).expect("a DNS name");
        for name in names {
            params.subject_alt_names.push(SanType::URI((*name).try_into().expect("an IA5 string")));
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn a_node_is_read_from_its_one_name() {
        let der = certificate(&["spiffe://dev/region/eu/node/3", "https://example.org/"]);
        let identity = NodeIdentity::from_der(&der).expect("an identity");
        assert_eq!(identity, NodeIdentity { mesh: "dev".into(), region: "eu".into(), node: 3 });
    }

    #[test]
    fn no_name_and_two_names_are_refused() {
        assert_eq!(NodeIdentity::from_der(&certificate(&[])), Err(CertificateError::Names(0)));
        let two = certificate(&["spiffe://dev/region/eu/node/3", "spiffe://dev/region/us/node/1"]);
        assert_eq!(NodeIdentity::from_der(&two), Err(CertificateError::Names(2)));
    }

    #[test]
    fn only_the_exact_form_names_a_node() {
        let refused = [
            "dev/region/eu/node/x",
            "dev/region/eu/node/007",
            "dev/region/eu/node/+7",
            "dev/region/eu",
            "/region/eu/node/1",
            "dev/region/eu/node/1/",
        ];
        for name in refused {
            assert_eq!(NodeIdentity::from_uri(&format!("spiffe://{name}")), Err(CertificateError::Name), "{name}");
        }
    }

    #[test]
    fn the_expiry_is_the_last_second_of_validity() {
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).expect("a DNS name");
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let der = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec();
        assert_eq!(expires_at_s(&der), Ok(2_208_988_800));
        assert_eq!(expires_at_s(b"junk"), Err(CertificateError::Malformed));
    }

    #[test]
    fn junk_is_no_certificate() {
        assert_eq!(NodeIdentity::from_der(b"junk"), Err(CertificateError::Malformed));
    }
}
