//! `mesh.json`: where a development mesh is reached. The command line (`--dev DIR`) and tests find bootstrap addresses, CA and token in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{self, FileError, Readers};
use super::layout::Place;

const DOCUMENT_FILE: &str = "mesh.json";

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no development mesh in {0}; start one with `meridian dev --data-dir {0}`")]
    Missing(PathBuf),
    #[error("{path}: {error}")]
    Malformed { path: PathBuf, error: serde_json::Error },
}

/// All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Document {
    /// Every region serves.
    pub ready: bool,
    pub dir: PathBuf,
    /// Certificate of the authority that every node's certificate comes from.
    pub ca: PathBuf,
    /// File with a token of a superuser, made anew while the mesh runs.
    pub admin_token: PathBuf,
    pub regions: BTreeMap<String, Region>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Region {
    /// `host:port,…` for Kafka clients.
    pub bootstrap: String,
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Node {
    pub id: u64,
    /// None while it does not run.
    pub pid: Option<u32>,
    pub kafka: String,
    pub admin: String,
    pub peer: String,
    pub link: String,
    pub data: PathBuf,
}

impl Document {
    /// What the mesh in `dir` last wrote of itself.
    pub fn read(dir: &Path) -> Result<Document, DocumentError> {
        let path = dir.join(DOCUMENT_FILE);
        let text = files::read(&path)?.ok_or_else(|| DocumentError::Missing(dir.to_path_buf()))?;
        serde_json::from_str(&text).map_err(|error| DocumentError::Malformed { path, error })
    }

    /// On one line.
    pub fn to_line(&self) -> String {
        // Neither maps with other keys than text nor failing writers are in it.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn write(&self) -> Result<(), FileError> {
        files::replace(&self.dir.join(DOCUMENT_FILE), &format!("{}\n", self.to_line()), Readers::All)
    }

    pub(super) fn add(&mut self, place: &Place, pid: Option<u32>) {
        let region = self.regions.entry(place.region.clone()).or_default();
        let kafka = place.kafka().to_string();
        region.bootstrap = if region.nodes.is_empty() { kafka.clone() } else { format!("{},{kafka}", region.bootstrap) };
        region.nodes.push(Node {
            id: place.node,
            pid,
            kafka,
            admin: place.admin().to_string(),
            peer: place.peer().to_string(),
            link: place.link().to_string(),
            data: place.data(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout::Layout;

    #[test]
    fn what_is_written_is_read_and_a_missing_mesh_says_how_to_start_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let missing = Document::read(dir.path()).expect_err("nothing there").to_string();
        assert!(missing.contains("meridian dev --data-dir"), "{missing}");

        let path = dir.path().to_path_buf();
        let mut document =
            Document { ready: true, ca: path.join("ca.pem"), admin_token: path.join("t"), dir: path, regions: BTreeMap::new() };
        for place in (Layout { regions: vec!["us".to_owned()], nodes: 2 }).places(dir.path(), 19_000) {
            document.add(&place, Some(7));
        }
        assert_eq!(document.regions["us"].bootstrap, "127.0.0.1:19000,127.0.0.1:19010");
        document.write().expect("written");
        assert_eq!(Document::read(dir.path()).expect("read"), document);
    }
}
