//! What a configuration file may say: its keys and their values.

use std::path::Path;

use meridian_auth::principal::Principal;

use super::{Config, ConfigError, NAME_BYTES_MAX, REGION_NUMBER_MAX};
use crate::nearest::nearest;

/// Every key by its table, `""` being the file itself. A test holds it to the structs.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "mesh",
            "region",
            "region_number",
            "node_id",
            "data_dir",
            "rack",
            "superusers",
            "leader_balance",
            "kafka",
            "peer",
            "link",
            "admin",
            "tls",
            "authentication",
            "storage",
            "telemetry",
        ],
    ),
    ("kafka", &["listen", "advertised"]),
    ("peer", &["listen", "nodes", "join", "catch_up_bytes_per_s"]),
    ("link", &["listen", "advertised", "regions", "discover"]),
    ("admin", &["listen"]),
    ("tls", &["ca", "certificate", "key"]),
    ("authentication", &["issuer", "audience", "jwks"]),
    ("storage", &["scrub_bytes_per_s", "scrub_pause_s", "repair_bytes_per_s", "tail_cache_bytes", "index_cache_bytes"]),
    ("telemetry", &["otlp_endpoint", "trace_ratio"]),
];

/// serde refuses unknown keys too, but cannot say which known one was meant.
pub(super) fn refuse_unknown_keys(path: &Path, file: &toml::Table) -> Result<(), ConfigError> {
    for (table, known) in KEYS {
        let (keys, prefix) = match file.get(*table) {
            _ if table.is_empty() => (file, String::new()),
            Some(toml::Value::Table(keys)) => (keys, format!("{table}.")),
            _ => continue,
        };
        if let Some(key) = keys.keys().find(|key| !known.contains(&key.as_str())) {
            let nearest = nearest(key, known.iter().copied()).map(|nearest| format!("{prefix}{nearest}"));
            return Err(ConfigError::UnknownKey { path: path.to_path_buf(), key: format!("{prefix}{key}"), nearest });
        }
    }
    Ok(())
}

/// The key at fault, and what is wrong with it.
pub(super) type Fault = (String, String);

fn require(holds: bool, key: &str, problem: impl Into<String>) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err((key.to_string(), problem.into())) }
}

fn require_name(key: &str, name: &str) -> Result<(), Fault> {
    require(is_name(name), key, format!("{name:?} is not 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -"))
}

/// Is this a `host:port` that can be dialled?
pub fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        // An IPv6 address is written in brackets, or its last group would be read as the port.
        let whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        let number = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        whole && number && !host.is_empty() && !host.contains(char::is_whitespace)
    })
}

fn require_address(key: &str, address: &str) -> Result<(), Fault> {
    require(is_address(address), key, format!("{address:?} is not HOST:PORT"))
}

impl Config {
    pub(super) fn check(&self) -> Result<(), Fault> {
        require_name("mesh", &self.mesh)?;
        require_name("region", &self.region)?;
        let number = self.region_number;
        require((1..=REGION_NUMBER_MAX).contains(&number), "region_number", format!("is {number}, not 1 to {REGION_NUMBER_MAX}"))?;
        for superuser in &self.superusers {
            let user = Principal::parse(superuser).is_some_and(|principal| principal.kind == "User" && principal.name != "*");
            require(user, "superusers", format!("{superuser:?} is not User:NAME of one user"))?;
        }
        if let Some(advertised) = &self.kafka.advertised {
            require_address("kafka.advertised", advertised)?;
        }
        self.check_peers()?;
        self.check_links()?;
        require(!self.authentication.issuer.is_empty(), "authentication.issuer", "is empty")?;
        require(!self.authentication.audience.is_empty(), "authentication.audience", "is empty")?;
        let jwks = &self.authentication.jwks;
        require(!jwks.is_empty(), "authentication.jwks", "is empty")?;
        require(is_https(jwks) || !jwks.contains("://"), "authentication.jwks", "is neither a file nor an https URL")?;
        require(self.storage.repair_bytes_per_s > 0, "storage.repair_bytes_per_s", "is 0")?;
        let endpoint = self.telemetry.otlp_endpoint.as_deref();
        let http = endpoint.is_none_or(|url| is_https(url) || url.starts_with("http://"));
        require(http, "telemetry.otlp_endpoint", "is not an http or https URL")?;
        let ratio = self.telemetry.trace_ratio;
        require((0.0..=1.0).contains(&ratio), "telemetry.trace_ratio", format!("is {ratio}, not 0 to 1"))
    }

    fn check_peers(&self) -> Result<(), Fault> {
        for (id, address) in &self.peer.nodes {
            let key = format!("peer.nodes.{id}");
            // Kafka's node ids are i32; one spelling each, so that no node is listed twice.
            let canonical = id.parse::<i32>().is_ok_and(|number| number >= 0 && number.to_string() == *id);
            require(canonical, &key, format!("is not named by a node id, 0 to {}", i32::MAX))?;
            require_address(&key, address)?;
        }
        require(self.peer.catch_up_bytes_per_s > 0, "peer.catch_up_bytes_per_s", "is 0")?;
        require(!self.peer.join || self.peer.nodes.len() > 1, "peer.nodes", "names no node that this one could join")?;
        let listed = self.peer.nodes.contains_key(&self.node_id.to_string());
        require(listed, "node_id", format!("{} is not listed in peer.nodes", self.node_id))
    }

    fn check_links(&self) -> Result<(), Fault> {
        if let Some(advertised) = &self.link.advertised {
            require_address("link.advertised", advertised)?;
        }
        for (region, addresses) in &self.link.regions {
            let key = format!("link.regions.{region}");
            require_name(&key, region)?;
            require(*region != self.region, &key, "is this region; list only the others")?;
            require(!addresses.is_empty(), &key, "lists no address")?;
            addresses.iter().try_for_each(|address| require_address(&key, address))?;
        }
        Ok(())
    }
}

/// Is this a possible name of a mesh or region: `[a-z0-9-]{1,32}`?
pub fn is_name(name: &str) -> bool {
    let characters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    characters && (1..=NAME_BYTES_MAX).contains(&name.len())
}

pub(super) fn is_https(text: &str) -> bool {
    text.starts_with("https://")
}
