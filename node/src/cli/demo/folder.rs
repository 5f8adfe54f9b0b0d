//! Where the demonstration's mesh lives: a folder of its own that goes with it, or one that was asked for.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::CliError;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Nobody else knows it.
    is_own: bool,
}

impl Folder {
    /// `asked`, which must not be there; else a new one among the machine's temporary files.
    pub(super) fn choose(asked: Option<PathBuf>) -> Result<Folder, CliError> {
        if let Some(path) = asked {
            if path.exists() {
                let what = "is there already: the demonstration starts from nothing; remove it, or give another --dir";
                return Err(CliError::Usage(format!("{} {what}", path.display())));
            }
            return Ok(Folder { path, is_own: false });
        }
        let path = std::env::temp_dir().join(format!("meridian-demo-{}", Uuid::new_v4().simple()));
        // Keys and tokens will live in it.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| CliError::Usage(format!("cannot make {}: {error}; give another place with --dir", path.display())))?;
        Ok(Folder { path, is_own: true })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes away what is the demonstration's own. What was asked for by name stays.
    pub(super) fn remove(self) {
        if self.is_own
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("meridian: {} cannot be removed: {error}", self.path.display());
        }
    }
}
