//! One process per folder: a lock that ends with its process, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const LOCK_FILE: &str = "lock";
/// Longest text read from another's lock file: a process id.
const HOLDER_BYTES_MAX: u64 = 32;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{folder} is in use by process {holder}; stop it first, or use another folder")]
    Held { folder: PathBuf, holder: String },
}

/// Held until dropped. The kernel drops it with the process.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of `folder`, which is made if missing, or says who has it.
    pub fn take(folder: &Path) -> Result<FolderLock, LockError> {
        let path = folder.join(LOCK_FILE);
        let failed = |error| LockError::File { path: path.clone(), error };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who holds it is told for the reader's convenience only.
                let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                return Err(LockError::Held { folder: folder.to_path_buf(), holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(FolderLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_who_is_named_to_the_second() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let held = FolderLock::take(&path).expect("the first");
        let refused = FolderLock::take(&path).expect_err("the second").to_string();
        assert!(refused.contains(&format!("in use by process {};", std::process::id())), "{refused}");
        drop(held);
        FolderLock::take(&path).expect("the next, once it is free");
    }
}
