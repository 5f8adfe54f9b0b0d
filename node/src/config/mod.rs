//! The node's configuration file: TOML, every key documented here, unknown keys refused.

mod check;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meridian_auth::principal::Principal;

pub use check::{is_address, is_name};
use check::{is_https, refuse_unknown_keys};

/// All of `meridian serve --config FILE`. Relative paths are relative to the file's folder.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
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
    /// Give the lead of a partition back to its preferred replica once that one has kept up for some seconds; default true.
    #[serde(default = "yes")]
    pub leader_balance: bool,
    pub kafka: Kafka,
    pub peer: Peer,
    pub link: Link,
    pub admin: Admin,
    pub tls: Tls,
    pub authentication: Authentication,
    #[serde(default)]
    pub storage: Storage,
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
    /// `host:port` of every node of the region by node id, this one included. A node that joins needs only its own and some of the others'.
    pub nodes: BTreeMap<String, String>,
    /// This node joins a region that others founded, after `meridian node add ID`; default false: the nodes above found it together.
    #[serde(default)]
    pub join: bool,
    /// Bytes per second that this node sends to replicas which catch up before they vote, all partitions together; default 50 MiB. More makes
    /// moves shorter and leaves clients less; less than what producers write to a partition, and its move never ends.
    #[serde(default = "catch_up_bytes_per_s_default")]
    pub catch_up_bytes_per_s: u64,
}

/// QUIC to the nodes of other regions, with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub listen: SocketAddr,
    /// `host:port` that the other regions are told, so that they dial this node though their files do not name it; default: `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised: Option<String>,
    /// `host:port` of the link listeners of every other region's nodes, as far as known: one that answers tells of the others. This region is
    /// not among them, and a region that is not here is neither dialled nor accepted.
    #[serde(default)]
    pub regions: BTreeMap<String, Vec<String>>,
    /// Dial the nodes that a region tells of beyond those in `regions`; default true. False where only the addresses above lead there.
    #[serde(default = "yes")]
    pub discover: bool,
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

/// How the data folder is looked after.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// The most that the scrub reads to find damage, bytes per second; 0 switches it off; default 8 MiB.
    pub scrub_bytes_per_s: u64,
    /// How long the scrub rests once it has read every log, seconds; default 3600.
    pub scrub_pause_s: u64,
    /// The most that damaged replicas fetch from their peers, bytes per second, all together; default 64 MiB.
    pub repair_bytes_per_s: u64,
    /// The most that recent records of all partitions together take in memory, for whoever reads at the tail, bytes; default 128 MiB.
    pub tail_cache_bytes: u64,
    /// The most that indexes of closed segments take in memory, bytes; default 16 MiB. Beyond it they are read again when they are wanted.
    pub index_cache_bytes: u64,
}

/// Where traces and metrics go.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP over HTTP, for example `http://collector:4318`; off when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Share of Kafka requests that are traced, 0 to 1; default 0.01.
    #[serde(default = "trace_ratio_default")]
    pub trace_ratio: f64,
}

fn yes() -> bool {
    true
}

fn catch_up_bytes_per_s_default() -> u64 {
    meridian_raft::CATCH_UP_BYTES_PER_S_DEFAULT
}

fn trace_ratio_default() -> f64 {
    0.01
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            scrub_bytes_per_s: meridian_raft::SCRUB_BYTES_PER_S_DEFAULT,
            scrub_pause_s: meridian_raft::SCRUB_PAUSE_DEFAULT.as_secs(),
            repair_bytes_per_s: meridian_raft::REPAIR_BYTES_PER_S_DEFAULT,
            tail_cache_bytes: meridian_raft::log::TAIL_BYTES_DEFAULT as u64,
            index_cache_bytes: meridian_raft::log::INDEX_BYTES_DEFAULT as u64,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry { otlp_endpoint: None, trace_ratio: trace_ratio_default() }
    }
}

/// A configuration file larger than this is some other file.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a mesh or region.
pub const NAME_BYTES_MAX: usize = 32;
/// Region numbers fit the high bits of a producer id.
pub const REGION_NUMBER_MAX: u8 = 127;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} is larger than {CONFIG_BYTES_MAX} bytes")]
    Large { path: PathBuf },
    #[error("{path}: {error}")]
    Toml { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{path}: unknown key {key}{}", .nearest.as_ref().map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default())]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String> },
    #[error("{path}: {key} {problem}")]
    Value { path: PathBuf, key: String, problem: String },
}

/// Reads, checks and completes a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |error| ConfigError::Read { path: path.to_path_buf(), error };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(ConfigError::Large { path: path.to_path_buf() });
    }
    let malformed = |error| ConfigError::Toml { path: path.to_path_buf(), error: Box::new(error) };
    refuse_unknown_keys(path, &toml::from_str(&text).map_err(malformed)?)?;
    let mut config: Config = toml::from_str(&text).map_err(malformed)?;
    config.check().map_err(|(key, problem)| ConfigError::Value { path: path.to_path_buf(), key, problem })?;
    config.resolve(path.parent().unwrap_or(Path::new("")));
    Ok(config)
}

impl Config {
    /// The superusers, parsed. [`load`] has checked that each is a `User:NAME`.
    pub fn superusers(&self) -> Vec<Principal> {
        self.superusers.iter().filter_map(|text| Principal::parse(text)).collect()
    }

    /// Makes relative paths relative to the file's folder. `join` leaves absolute ones alone.
    fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.data_dir, &mut self.tls.ca, &mut self.tls.certificate, &mut self.tls.key] {
            *path = folder.join(&*path);
        }
        if !is_https(&self.authentication.jwks) {
            // Both halves came from UTF-8 text but for the folder, which the caller named.
            self.authentication.jwks = folder.join(&self.authentication.jwks).to_string_lossy().into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check::KEYS;
    use super::*;

    const GOOD: &str = r#"
mesh = "dev"
region = "eu"
region_number = 2
node_id = 1
data_dir = "data"
rack = "a"
superusers = ["User:root"]
[kafka]
listen = "127.0.0.1:9092"
advertised = "n1.example:9092"
[peer]
listen = "127.0.0.1:9100"
nodes = { 1 = "127.0.0.1:9100", 2 = "[::1]:9101" }
[link]
listen = "127.0.0.1:9200"
advertised = "n1.eu.example:9200"
regions = { us = ["n1.us.example:9200"] }
[admin]
listen = "127.0.0.1:9300"
[tls]
ca = "ca.pem"
certificate = "/etc/node.pem"
key = "node.key"
[authentication]
issuer = "https://issuer.example"
audience = "meridian"
jwks = "jwks.json"
[storage]
scrub_bytes_per_s = 0
[telemetry]
otlp_endpoint = "http://collector:4318"
trace_ratio = 0.5
"#;

    fn load_text(text: &str) -> (PathBuf, Result<Config, ConfigError>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        (folder.path().to_path_buf(), load(&path))
    }

    fn complaint(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        let (folder, loaded) = load_text(&GOOD.replacen(from, to, 1));
        let message = loaded.expect_err(to).to_string();
        message.replace(&format!("{}: ", folder.join("node.toml").display()), "")
    }

    #[test]
    fn a_good_file_is_read_and_its_paths_resolved() {
        let (folder, loaded) = load_text(GOOD);
        let config = loaded.expect("a good file");
        assert_eq!(config.data_dir, folder.join("data"));
        assert_eq!(config.tls.certificate, Path::new("/etc/node.pem"));
        assert_eq!(Path::new(&config.authentication.jwks), folder.join("jwks.json"));
        assert_eq!(config.superusers(), [Principal::user("root")]);
        let (_, by_url) = load_text(&GOOD.replace("jwks.json", "https://issuer.example/jwks"));
        assert_eq!(by_url.expect("a good file").authentication.jwks, "https://issuer.example/jwks");
    }

    #[test]
    fn the_table_of_keys_is_that_of_the_structs() {
        let written = toml::Table::try_from(load_text(GOOD).1.expect("a good file")).expect("a table");
        for (table, known) in KEYS {
            let keys = if table.is_empty() { &written } else { written[*table].as_table().expect("a table") };
            let mut known = known.to_vec();
            known.sort_unstable();
            let mut keys: Vec<&str> = keys.keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, known, "{table}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known() {
        assert_eq!(complaint("node_id", "nodeid"), "unknown key nodeid; did you mean node_id?");
        assert_eq!(complaint("advertised", "advertized"), "unknown key kafka.advertized; did you mean kafka.advertised?");
        assert_eq!(complaint("rack = ", "banana = "), "unknown key banana");
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_wrong() {
        assert_eq!(complaint("\"dev\"", "\"Dev\""), "mesh \"Dev\" is not 1 to 32 of a-z, 0-9 and -");
        assert_eq!(complaint("region_number = 2", "region_number = 0"), "region_number is 0, not 1 to 127");
        assert_eq!(complaint("region_number = 2", "region_number = 128"), "region_number is 128, not 1 to 127");
        assert_eq!(complaint("node_id = 1", "node_id = 7"), "node_id 7 is not listed in peer.nodes");
        assert_eq!(complaint("{ us =", "{ eu ="), "link.regions.eu is this region; list only the others");
        assert_eq!(complaint("User:root", "root"), "superusers \"root\" is not User:NAME of one user");
        assert_eq!(complaint("[::1]:9101", "::1:9101"), "peer.nodes.2 \"::1:9101\" is not HOST:PORT");
        assert_eq!(complaint("2 = \"[", "02 = \"["), "peer.nodes.02 is not named by a node id, 0 to 2147483647");
        assert_eq!(complaint("jwks.json", "http://issuer.example"), "authentication.jwks is neither a file nor an https URL");
        assert_eq!(complaint("trace_ratio = 0.5", "trace_ratio = 1.5"), "telemetry.trace_ratio is 1.5, not 0 to 1");
        assert_eq!(complaint("n1.example:9092", "n1.example:0"), "kafka.advertised \"n1.example:0\" is not HOST:PORT");
    }

    #[test]
    fn toml_errors_and_missing_files_name_the_file() {
        assert!(complaint("node_id = 1", "node_id = \"one\"").contains("node_id = \"one\""));
        assert!(complaint("data_dir = \"data\"", "").contains("missing field `data_dir`"));
        let missing = load(Path::new("/nowhere/node.toml")).expect_err("no file").to_string();
        assert!(missing.starts_with("cannot read /nowhere/node.toml: "), "{missing}");
    }

    #[test]
    fn a_huge_file_is_not_read() {
        assert!(matches!(load_text(&"#".repeat(CONFIG_BYTES_MAX as usize + 1)).1, Err(ConfigError::Large { .. })));
    }
}
