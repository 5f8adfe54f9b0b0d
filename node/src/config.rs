//! The node's configuration file: TOML, every key documented here, unknown keys refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// All of `meridian serve --config FILE`. Relative paths are relative to the file's folder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the mesh; part of every certificate's identity.
    pub mesh: String,
    pub region: String,
    /// This region's number in the mesh, 1 to 127, different in each: producer ids carry it.
    pub region_number: u8,
    pub node_id: u64,
    pub data_dir: PathBuf,
    /// Availability zone or rack, told to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Principals (`User:NAME`) that may do everything.
    #[serde(default)]
    pub superusers: Vec<String>,
    pub kafka: Kafka,
    pub peer: Peer,
    pub link: Link,
    pub admin: Admin,
    pub tls: Tls,
    pub authentication: Authentication,
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// The listener for Kafka clients: TLS and SASL/OAUTHBEARER.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub listen: SocketAddr,
    /// `host:port` that clients are told; default: `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised: Option<String>,
}

/// Raft between the nodes of the region: TCP with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub listen: SocketAddr,
    /// `host:port` of every node of the region by node id, this one included.
    pub nodes: BTreeMap<String, String>,
}

/// QUIC to the nodes of other regions, with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub listen: SocketAddr,
    /// `host:port` of every node's link listener, by region; this region is not among them.
    #[serde(default)]
    pub regions: BTreeMap<String, Vec<String>>,
}

/// Health, metrics and status.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
}

/// PEM files. The certificate carries `spiffe://MESH/region/REGION/node/ID` and the advertised host names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    pub issuer: String,
    pub audience: String,
    /// A JWKS file, or an https URL of one.
    pub jwks: String,
}

/// Where traces and metrics go.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP over HTTP, for example `http://collector:4318`; off when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}
