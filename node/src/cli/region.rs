//! Which region a command talks to, and as whom: a development mesh's folder, or a file that names a real one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::CliError;
use crate::client::{Cluster, Settings, TokenSource};
use crate::dev::document::Document;
use crate::tls;

/// The region asked where none is named, if the mesh has it; else its first.
const REGION_DEFAULT: &str = "us";
/// Largest `--config` file read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Options of every command that talks to a mesh.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which mesh, and as whom")]
pub(super) struct Target {
    /// Region of the development mesh to talk to [default: us, else its first]
    #[arg(long, global = true, value_name = "NAME")]
    region: Option<String>,
    /// Folder of the development mesh
    #[arg(long, global = true, value_name = "DIR", default_value = "dev-mesh")]
    dev: PathBuf,
    /// Talk to a mesh that this file names instead: TOML with bootstrap = "host:port,…", ca = "FILE", token_file = "FILE" (or token), and
    /// admin = "host:port,…" for `mesh status`
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["region", "dev"], value_parser = config_file)]
    config: Option<PathBuf>,
    /// File with the token that says who you are [default: the development mesh's operator]
    #[arg(long, global = true, value_name = "FILE", env = "MERIDIAN_TOKEN_FILE")]
    token: Option<PathBuf>,
}

/// One node's admin endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminNode {
    /// Both None until the node has told them itself.
    pub region: Option<String>,
    pub node_id: Option<u64>,
    pub address: String,
}

/// Everything needed to connect.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub bootstrap: Vec<String>,
    /// Its name, where it is known.
    pub region: Option<String>,
    pub tls: Arc<rustls::ClientConfig>,
    pub token: TokenSource,
    /// Of every region, as far as known.
    pub admin: Vec<AdminNode>,
}

/// A `--config` file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    bootstrap: String,
    ca: PathBuf,
    token: Option<String>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    admin: String,
}

impl Target {
    pub(super) fn of_mesh(dev: &Path, region: Option<&str>, token: Option<&Path>) -> Target {
        Target { region: region.map(str::to_owned), dev: dev.into(), config: None, token: token.map(Path::to_path_buf) }
    }

    pub(super) fn connect(&self) -> Result<Cluster, CliError> {
        Ok(self.place()?.cluster())
    }

    /// Where a node of a development mesh has its data.
    pub(super) fn data_folder(&self, node: u64) -> Option<PathBuf> {
        let document = self.config.is_none().then(|| Document::read(&self.dev).ok())??;
        let name = self.name(&document).to_owned();
        document.regions.get(&name)?.nodes.iter().find(|known| known.id == node).map(|known| known.data.clone())
    }

    pub(super) fn place(&self) -> Result<Place, CliError> {
        match &self.config {
            Some(path) => self.of_config(path),
            None => self.of_document(&Document::read(&self.dev)?),
        }
    }

    fn of_document(&self, document: &Document) -> Result<Place, CliError> {
        let name = self.name(document);
        let region = document.regions.get(name).ok_or_else(|| {
            let known: Vec<_> = document.regions.keys().map(String::as_str).collect();
            CliError::Usage(format!("the mesh has no region {name:?}; it has {}", known.join(", ")))
        })?;
        let nodes = document.regions.iter().flat_map(|(name, region)| region.nodes.iter().map(move |node| (name, node)));
        let admin =
            nodes.map(|(region, node)| AdminNode { region: Some(region.clone()), node_id: Some(node.id), address: node.admin.clone() });
        Ok(Place {
            bootstrap: addresses(&region.bootstrap),
            region: Some(name.to_owned()),
            tls: Arc::new(tls::client(tls::roots(&document.ca)?)?),
            token: TokenSource::File(self.token.clone().unwrap_or_else(|| document.admin_token.clone())),
            admin: admin.collect(),
        })
    }

    fn name<'a>(&'a self, document: &'a Document) -> &'a str {
        match &self.region {
            Some(region) => region.as_str(),
            None if document.regions.contains_key(REGION_DEFAULT) => REGION_DEFAULT,
            None => document.regions.keys().next().map_or("", String::as_str),
        }
    }

    fn of_config(&self, path: &Path) -> Result<Place, CliError> {
        use std::io::Read;
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| CliError::Usage(format!("cannot read {}: {error}", path.display())))?;
        let file: ConfigFile = toml::from_str(&text).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let token = match (&self.token, &file.token_file, file.token) {
            (Some(given), _, _) => TokenSource::File(given.clone()),
            (None, Some(named), _) => TokenSource::File(folder.join(named)),
            (None, None, Some(text)) => TokenSource::Text(text.into()),
            (None, None, None) => {
                let missing = "says neither token_file nor token; name a token's file there, or give --token FILE";
                return Err(CliError::Usage(format!("{} {missing}", path.display())));
            }
        };
        let admin = addresses(&file.admin).into_iter().map(|address| AdminNode { region: None, node_id: None, address });
        let tls = Arc::new(tls::client(tls::roots(&folder.join(&file.ca))?)?);
        Ok(Place { bootstrap: addresses(&file.bootstrap), region: None, tls, token, admin: admin.collect() })
    }
}

impl Place {
    pub(super) fn cluster(&self) -> Cluster {
        let settings = Settings {
            bootstrap: self.bootstrap.clone(),
            tls: self.tls.clone(),
            token: self.token.clone(),
            client_id: "meridian-cli".into(),
        };
        Cluster::new(settings)
    }
}

/// Kafka's own tools take a topic's config by this name: who means that is told how it is done here.
fn config_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.contains('=') && !path.exists() {
        return Err(format!("here --config names the file that says where the mesh is; a config of the topic is given with -c {text}"));
    }
    Ok(path)
}

fn addresses(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect()
}
