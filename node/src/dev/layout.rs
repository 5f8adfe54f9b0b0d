//! Who lives where in a development mesh: regions, nodes, ports, folders, and each node's configuration file.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::authority::{CA_FILE, NODE_CERTIFICATE_FILE, NODE_KEY_FILE};
use super::files::{self, FileError, Readers};
use super::issuer::{AUDIENCE, ISSUER, JWKS_FILE};
use crate::config::{NAME_BYTES_MAX, is_name};

pub const MESH: &str = "dev";
/// A superuser of every development mesh.
pub const ADMIN: &str = "admin";
/// Regions and nodes of a mesh that is made without saying how many.
pub const REGIONS_DEFAULT: [&str; 3] = ["us", "eu", "asia"];
pub const NODES_DEFAULT: u16 = 3;
/// First port of a mesh, unless it is taken.
pub const PORT_BASE_DEFAULT: u16 = 19_000;
pub const REGIONS_MAX: usize = 8;
pub const NODES_MAX: u16 = 9;
/// Each region has a block of ports, each node ten of it.
const REGION_PORTS: u16 = 100;
const NODE_PORTS: u16 = 10;
/// A mesh's ports end below this one.
pub const PORTS: u16 = REGION_PORTS * REGIONS_MAX as u16;
/// Within a node's ten.
const KAFKA: u16 = 0;
const PEER: u16 = 1;
const ADMIN_HTTP: u16 = 2;
const LINK: u16 = 3;

const LAYOUT_FILE: &str = "layout.json";
pub const CONFIG_FILE: &str = "node.toml";
const DATA_FOLDER: &str = "data";

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} does not describe a development mesh ({error}); remove the folder, or use another with --data-dir")]
    Unreadable { path: PathBuf, error: String },
    #[error("--regions: {0}")]
    Regions(String),
    #[error("--nodes: {0} is not 1 to {NODES_MAX}")]
    Nodes(u16),
    #[error(
        "{folder} holds a mesh of {nodes} node(s) in each of {regions}, and its data cannot be spread anew; start it so, or use another folder with --data-dir"
    )]
    Differs { folder: PathBuf, regions: String, nodes: u16 },
}

/// What a mesh's data depend on: the same at every start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// A region's place in the list is its number, counted from 1.
    pub regions: Vec<String>,
    /// In each region.
    pub nodes: u16,
}

impl Layout {
    /// The layout of the mesh in `folder`, or a new one; what is asked for must not contradict what is there.
    pub fn open(folder: &Path, regions: Option<Vec<String>>, nodes: Option<u16>) -> Result<Layout, LayoutError> {
        let path = folder.join(LAYOUT_FILE);
        let Some(text) = files::read(&path)? else {
            let regions = regions.unwrap_or_else(|| REGIONS_DEFAULT.map(str::to_owned).to_vec());
            let layout = Layout { regions, nodes: nodes.unwrap_or(NODES_DEFAULT) }.checked()?;
            let text = serde_json::json!(layout).to_string();
            files::replace(&path, &text, Readers::All)?;
            return Ok(layout);
        };
        let unreadable = |error: String| LayoutError::Unreadable { path: path.clone(), error };
        let held: Layout = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        let held = held.checked().map_err(|error| unreadable(error.to_string()))?;
        if regions.is_some_and(|regions| regions != held.regions) || nodes.is_some_and(|nodes| nodes != held.nodes) {
            return Err(LayoutError::Differs { folder: folder.to_path_buf(), regions: held.regions.join(","), nodes: held.nodes });
        }
        Ok(held)
    }

    fn checked(self) -> Result<Layout, LayoutError> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(LayoutError::Nodes(self.nodes));
        }
        if !(1..=REGIONS_MAX).contains(&self.regions.len()) {
            return Err(LayoutError::Regions(format!("{} regions; 1 to {REGIONS_MAX} are possible", self.regions.len())));
        }
        for (at, region) in self.regions.iter().enumerate() {
            if !is_name(region) {
                return Err(LayoutError::Regions(format!("{region:?} is not 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -")));
            }
            if self.regions[..at].contains(region) {
                return Err(LayoutError::Regions(format!("{region} is named twice")));
            }
        }
        Ok(self)
    }

    /// Every node, region by region.
    pub fn places(&self, folder: &Path, port_base: u16) -> Vec<Place> {
        let mut places = Vec::new();
        for (at, region) in (0u16..).zip(&self.regions) {
            for node in 1..=self.nodes {
                let first_port = port_base + at * REGION_PORTS + (node - 1) * NODE_PORTS;
                let home = folder.join(region).join(node.to_string());
                places.push(Place { region: region.clone(), region_number: at + 1, node: u64::from(node), first_port, home });
            }
        }
        places
    }
}

/// One node: its region, ports and folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub region: String,
    pub region_number: u16,
    pub node: u64,
    first_port: u16,
    /// Its folder: configuration, certificate, log and data.
    pub home: PathBuf,
}

impl Place {
    fn at(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first_port + port).into()
    }
    pub fn kafka(&self) -> SocketAddr {
        self.at(KAFKA)
    }
    pub fn peer(&self) -> SocketAddr {
        self.at(PEER)
    }
    pub fn admin(&self) -> SocketAddr {
        self.at(ADMIN_HTTP)
    }
    pub fn link(&self) -> SocketAddr {
        self.at(LINK)
    }
    pub fn data(&self) -> PathBuf {
        self.home.join(DATA_FOLDER)
    }
    pub fn config(&self) -> PathBuf {
        self.home.join(CONFIG_FILE)
    }

    /// `region/node`, as people read it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.region, self.node)
    }

    /// The text of its configuration file. `remote` says at which address to dial each node of another region; where those are relays,
    /// no other address leads there.
    pub fn config_text(&self, places: &[Place], remote: impl Fn(&Place) -> SocketAddr) -> String {
        let peers: Vec<String> = places
            .iter()
            .filter(|place| place.region == self.region)
            .map(|place| format!("{} = \"{}\"", place.node, place.peer()))
            .collect();
        let mut regions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for place in places.iter().filter(|place| place.region != self.region) {
            regions.entry(&place.region).or_default().push(format!("\"{}\"", remote(place)));
        }
        let direct = places.iter().all(|place| place.region == self.region || remote(place) == place.link());
        let regions: Vec<String> = regions.iter().map(|(region, addresses)| format!("{region} = [{}]", addresses.join(", "))).collect();
        format!(
            r#"# Node {node} of region {region} of a development mesh. Written anew at each start of `meridian dev`.
mesh = "{MESH}"
region = "{region}"
region_number = {number}
node_id = {node}
data_dir = "{DATA_FOLDER}"
superusers = ["User:{ADMIN}"]

[kafka]
listen = "{kafka}"

[peer]
listen = "{peer}"
nodes = {{ {peers} }}

[link]
listen = "{link}"
regions = {{ {regions} }}
discover = {direct}

[admin]
listen = "{admin}"

[tls]
ca = "../../{CA_FILE}"
certificate = "{NODE_CERTIFICATE_FILE}"
key = "{NODE_KEY_FILE}"

[authentication]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "../../{JWKS_FILE}"
"#,
            node = self.node,
            region = self.region,
            number = self.region_number,
            kafka = self.kafka(),
            peer = self.peer(),
            peers = peers.join(", "),
            link = self.link(),
            regions = regions.join(", "),
            admin = self.admin(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_folder_keeps_its_layout_and_refuses_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = Layout::open(dir.path(), names(&["us", "eu"]), Some(1)).expect("a new layout");
        assert_eq!(Layout::open(dir.path(), None, None).expect("the same"), made);
        assert_eq!(Layout::open(dir.path(), names(&["us", "eu"]), None).expect("the same"), made);
        let other_order = Layout::open(dir.path(), names(&["eu", "us"]), None).expect_err("their numbers would change");
        assert!(other_order.to_string().contains("1 node(s) in each of us,eu"), "{other_order}");
        Layout::open(dir.path(), None, Some(3)).expect_err("more nodes");
    }

    #[test]
    fn impossible_layouts_are_refused_with_the_option_at_fault() {
        let dir = tempfile::tempdir().expect("a folder");
        let complaint = |regions: &[&str], nodes| Layout::open(dir.path(), names(regions), Some(nodes)).expect_err("refused").to_string();
        assert_eq!(complaint(&["us"], 0), "--nodes: 0 is not 1 to 9");
        assert_eq!(complaint(&["us", "us"], 1), "--regions: us is named twice");
        assert_eq!(complaint(&["US"], 1), "--regions: \"US\" is not 1 to 32 of a-z, 0-9 and -");
        assert_eq!(complaint(&["a", "b", "c", "d", "e", "f", "g", "h", "i"], 1), "--regions: 9 regions; 1 to 8 are possible");
    }

    #[test]
    fn the_largest_mesh_has_ports_of_its_own_within_its_range() {
        let layout = Layout { regions: (0..REGIONS_MAX).map(|n| format!("r{n}")).collect(), nodes: NODES_MAX };
        let places = layout.places(Path::new("/dev-mesh"), PORT_BASE_DEFAULT);
        let ports: BTreeSet<u16> =
            places.iter().flat_map(|place| [place.kafka(), place.peer(), place.admin(), place.link()]).map(|at| at.port()).collect();
        assert_eq!(ports.len(), 4 * REGIONS_MAX * usize::from(NODES_MAX));
        assert!(ports.iter().all(|port| (PORT_BASE_DEFAULT..PORT_BASE_DEFAULT + PORTS).contains(port)));
    }

    #[test]
    fn a_written_configuration_is_one_that_serve_takes() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout { regions: names(&["us", "eu", "asia"]).expect("three"), nodes: 3 };
        let places = layout.places(dir.path(), 19_000);
        let place = &places[4];
        std::fs::create_dir_all(&place.home).expect("a folder");
        std::fs::write(place.config(), place.config_text(&places, Place::link)).expect("a file");
        let config = crate::config::load(&place.config()).expect("a good file");
        assert_eq!((config.region.as_str(), config.region_number, config.node_id), ("eu", 2, 2));
        assert_eq!(config.kafka.listen.to_string(), "127.0.0.1:19110");
        assert_eq!(config.link.regions["us"], ["127.0.0.1:19003", "127.0.0.1:19013", "127.0.0.1:19023"]);
        assert_eq!(config.peer.nodes["3"], "127.0.0.1:19121");
        assert_eq!(config.data_dir, place.data());
    }
}
