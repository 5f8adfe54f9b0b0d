//! The development mesh's own certificate authority, and its nodes' certificates. All keys are P-256, each in a file of mode 0600; the
//! authority's stays in the mesh's folder.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::files::{self, FileError, Readers};

/// The authority's certificate, which clients and nodes believe.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key.pem";
/// In a node's folder.
pub const NODE_CERTIFICATE_FILE: &str = "node.pem";
pub const NODE_KEY_FILE: &str = "node.key.pem";

const DAY_S: i64 = 24 * 60 * 60;
const VALID_S: i64 = 365 * DAY_S;
/// A certificate this old is made anew at the next start.
const RENEW_AFTER_S: i64 = 300 * DAY_S;
/// Clocks of containers on one machine may differ a little.
const BACKDATED_S: i64 = 60 * 60;

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is not a private key in PEM; remove it to have a new one made")]
    Key { path: PathBuf },
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// An opened authority.
pub struct Authority {
    mesh: String,
    issuer: Issuer<'static, KeyPair>,
    now_s: i64,
    /// When the authority's certificate was written: older ones of nodes may come from another authority.
    made_at_s: i64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `folder`; makes key and certificate where they are missing, and a new certificate where the old one ages.
    pub fn open(folder: &Path, mesh: &str, now_s: i64) -> Result<Authority, AuthorityError> {
        let (key, is_new) = open_key(&folder.join(CA_KEY_FILE))?;
        let params = authority_params(mesh, now_s);
        let path = folder.join(CA_FILE);
        if is_new || !is_fresh(&path, now_s) {
            files::replace(&path, &params.self_signed(&key)?.pem(), Readers::All)?;
        }
        let made_at_s = files::written_at_s(&path).unwrap_or(now_s);
        Ok(Authority { mesh: mesh.to_owned(), issuer: Issuer::new(params, key), now_s, made_at_s })
    }

    /// Makes a node's key and certificate in its folder where they are missing or age.
    pub fn equip(&self, folder: &Path, region: &str, node: u64) -> Result<(), AuthorityError> {
        let (key, is_new) = open_key(&folder.join(NODE_KEY_FILE))?;
        let path = folder.join(NODE_CERTIFICATE_FILE);
        let outlived = files::written_at_s(&path).is_some_and(|written_at_s| written_at_s < self.made_at_s);
        if is_new || outlived || !is_fresh(&path, self.now_s) {
            let params = node_params(&self.mesh, region, node, self.now_s)?;
            files::replace(&path, &params.signed_by(&key, &self.issuer)?.pem(), Readers::All)?;
        }
        Ok(())
    }
}

fn is_fresh(certificate: &Path, now_s: i64) -> bool {
    files::written_at_s(certificate).is_some_and(|written_at_s| now_s - written_at_s < RENEW_AFTER_S)
}

/// The key, and whether it is new.
fn open_key(path: &Path) -> Result<(KeyPair, bool), AuthorityError> {
    match files::read(path)? {
        Some(pem) => Ok((KeyPair::from_pem(&pem).map_err(|_| AuthorityError::Key { path: path.to_path_buf() })?, false)),
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            files::replace(path, &key.serialize_pem(), Readers::Owner)?;
            Ok((key, true))
        }
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn valid_for_a_year(params: &mut CertificateParams, now_s: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |s: i64| epoch + Duration::from_secs(s.max(0).unsigned_abs());
    params.not_before = at(now_s - BACKDATED_S);
    params.not_after = at(now_s + VALID_S);
}

fn authority_params(mesh: &str, now_s: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Meridian development mesh {mesh}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for_a_year(&mut params, now_s);
    params
}

fn node_params(mesh: &str, region: &str, node: u64, now_s: i64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("{mesh} {region} node {node}"));
    params.subject_alt_names = vec![
        SanType::URI(format!("spiffe://{mesh}/region/{region}/node/{node}").try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for_a_year(&mut params, now_s);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use meridian_auth::certificate::NodeIdentity;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn certificate(path: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(path).expect("a certificate")
    }

    /// Would a TLS peer that believes `ca` take this node for `server`, at that time?
    fn is_believed(ca: &Path, node: &Path, server: &str, at_s: i64) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(ca)).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let as_server = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
            .build()
            .expect("a verifier");
        let as_client = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at_s.unsigned_abs()));
        let (node, server) = (certificate(node), ServerName::try_from(server.to_owned()).expect("a name"));
        use rustls::client::danger::ServerCertVerifier;
        as_server.verify_server_cert(&node, &[], &server, &[], at).is_ok() && as_client.verify_client_cert(&node, &[], at).is_ok()
    }

    #[test]
    fn a_node_is_believed_as_server_and_client_for_a_year_and_names_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open(dir.path(), "dev", NOW).expect("an authority");
        authority.equip(dir.path(), "eu", 2).expect("a certificate");
        let (ca, node) = (dir.path().join(CA_FILE), dir.path().join(NODE_CERTIFICATE_FILE));
        for server in ["localhost", "127.0.0.1", "::1"] {
            assert!(is_believed(&ca, &node, server, NOW + VALID_S - 1), "{server}");
        }
        assert!(!is_believed(&ca, &node, "localhost", NOW + VALID_S + 1), "it must expire");
        assert!(!is_believed(&ca, &node, "example.org", NOW), "it is for this machine only");
        let identity = NodeIdentity::from_der(&certificate(&node)).expect("an identity");
        assert_eq!(identity.uri(), "spiffe://dev/region/eu/node/2");
        for key in [CA_KEY_FILE, NODE_KEY_FILE] {
            let mode = std::fs::metadata(dir.path().join(key)).expect("a key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn certificates_are_reused_until_they_age_and_replaced_with_their_authority() {
        let dir = tempfile::tempdir().expect("a folder");
        let (ca, node) = (dir.path().join(CA_FILE), dir.path().join(NODE_CERTIFICATE_FILE));
        // The files' own times are those of the machine.
        let now_s = meridian_raft::env::Env::real().clock.wall_us() / 1_000_000;
        let open = |now_s| Authority::open(dir.path(), "dev", now_s).expect("an authority").equip(dir.path(), "eu", 2).expect("equipped");
        open(now_s);
        let (first_ca, first) = (certificate(&ca), certificate(&node));
        open(now_s + RENEW_AFTER_S - DAY_S);
        assert_eq!((certificate(&ca), certificate(&node)), (first_ca.clone(), first.clone()));
        open(now_s + RENEW_AFTER_S + DAY_S);
        assert_ne!(certificate(&node), first);
        assert!(is_believed(&ca, &node, "localhost", now_s + VALID_S + DAY_S));
        std::fs::remove_file(dir.path().join(CA_KEY_FILE)).expect("a key");
        std::thread::sleep(Duration::from_millis(1100));
        open(now_s);
        assert_ne!(certificate(&ca), first_ca);
        assert!(is_believed(&ca, &node, "localhost", now_s), "an old certificate of another authority is of no use");
    }
}
