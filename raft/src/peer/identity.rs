//! Which node a peer's certificate names.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::NodeId;

/// The node number in the URI name `{prefix}node/N`; None where the certificate has no such name.
pub(crate) fn node_of(certificates: Option<&[CertificateDer<'_>]>, prefix: &str) -> Option<NodeId> {
    let (_, certificate) = X509Certificate::from_der(certificates?.first()?).ok()?;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(prefix)?.strip_prefix("node/")?.parse().ok(),
            _ => None,
        }),
        _ => None,
    })
}
