//! A disk that fails, fills up or loses power: `clients/disk.c`, compiled here and loaded before libc by every node of the mesh.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ScenarioError, io};

const SOURCE: &str = include_str!("../../clients/disk.c");

/// What a process's disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Every write and sync of a log fails.
    Error,
    /// No log may grow.
    Full,
    /// Every sync takes 20 ms longer.
    Slow,
}

/// The library, and the folder by which it is told what to do.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    folder: PathBuf,
}

impl Shim {
    /// Compiles it into `dir`, which must be on the file system of the mesh.
    pub fn prepare(dir: &Path) -> Result<Shim, ScenarioError> {
        let folder = std::path::absolute(dir).map_err(io("the scenario's folder"))?.join("shim");
        std::fs::create_dir_all(&folder).map_err(io("the disk shim's folder"))?;
        let (source, library) = (folder.join("disk.c"), folder.join("disk.so"));
        std::fs::write(&source, SOURCE).map_err(io("disk.c"))?;
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).args(["-ldl", "-lpthread"]);
        match compile.stdin(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(Shim { library, folder }),
            Ok(status) => Err(ScenarioError::Skipped(format!("cc cannot compile the disk shim: {status}"))),
            Err(error) => Err(ScenarioError::Skipped(format!("no cc, so no disk shim: {error}"))),
        }
    }

    /// What a process needs to be under its influence.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("DISK_SHIM", &self.folder)]
    }

    pub fn begin(&self, pid: i32, fault: DiskFault) -> Result<(), ScenarioError> {
        let word = match fault {
            DiskFault::Error => "eio",
            DiskFault::Full => "full",
            DiskFault::Slow => "slow",
        };
        std::fs::write(self.folder.join(format!("fault-{pid}")), word).map_err(io("the disk shim's folder"))
    }

    pub fn end(&self, pid: i32) -> Result<(), ScenarioError> {
        std::fs::remove_file(self.folder.join(format!("fault-{pid}"))).map_err(io("the disk shim's folder"))
    }

    /// Something that the process wanted of its disk was refused.
    pub fn bit(&self, pid: i32) -> bool {
        self.folder.join(format!("bit-{pid}")).exists()
    }

    /// Takes back what a dead process wrote to `data` and had not synced. Returns how many changes that were.
    pub fn lose_unsynced(&self, pid: i32, data: &Path) -> Result<usize, ScenarioError> {
        let journal = std::fs::read(self.folder.join(format!("journal-{pid}"))).map_err(io("the disk shim's journal"))?;
        let changes = unsynced(&journal);
        let mut files = BTreeMap::new();
        for folder in [data, &self.folder] {
            find_files(folder, &mut files).map_err(io("the data folder"))?;
        }
        for change in changes.iter().rev() {
            change.take_back(&files).map_err(io("an un-synced change"))?;
        }
        Ok(changes.len())
    }
}

/// One change of the disk, as it was before.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Bytes { inode: u64, offset: u64, length: u64, held: &'a [u8] },
    Name { path: &'a Path, backup: Option<&'a Path> },
}

impl Change<'_> {
    fn take_back(&self, files: &BTreeMap<u64, PathBuf>) -> std::io::Result<()> {
        match self {
            Change::Bytes { inode, offset, length, held } => {
                // A file without a name is gone anyway.
                let Some(path) = files.get(inode).filter(|path| path.exists()) else { return Ok(()) };
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                file.write_all_at(held, *offset)?;
                file.set_len(*length)
            }
            Change::Name { path, backup: Some(backup) } => std::fs::rename(backup, path),
            Change::Name { path, backup: None } => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}

/// The changes in a journal that no later sync made durable. A cut last record is of a change that had not happened yet.
fn unsynced(mut journal: &[u8]) -> Vec<Change<'_>> {
    let mut changes = Vec::new();
    while let Some(end) = journal.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&journal[..end], &journal[end + 1..]);
        journal = rest;
        let Ok(line) = std::str::from_utf8(line) else { break };
        let (kind, told) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Vec<u64> = told.split(' ').filter_map(|word| word.parse().ok()).collect();
        match (kind, &numbers[..]) {
            ("bytes", [inode, offset, length, count]) => {
                let Some((held, rest)) = journal.split_at_checked(*count as usize) else { break };
                journal = rest;
                changes.push(Change::Bytes { inode: *inode, offset: *offset, length: *length, held });
            }
            ("synced", [synced]) => changes.retain(|change| !matches!(change, Change::Bytes { inode, .. } if inode == synced)),
            ("folder", _) => {
                changes.retain(|change| !matches!(change, Change::Name { path, .. } if path.parent() == Some(Path::new(told))));
            }
            ("name", _) => {
                let Some((path, backup)) = told.split_once('\t') else { break };
                changes.push(Change::Name { path: Path::new(path), backup: (backup != "-").then(|| Path::new(backup)) });
            }
            _ => break,
        }
    }
    changes
}

fn find_files(folder: &Path, files: &mut BTreeMap<u64, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is = entry.metadata()?;
        if is.is_dir() {
            find_files(&entry.path(), files)?;
        } else {
            files.insert(is.ino(), entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_later_sync_covers_is_taken_back() {
        let journal = b"bytes 7 0 64 3\nabcsynced 7\nbytes 7 10 64 0\nname /d/new\t-\nname /d/old\t/b/1\nfolder /e\nbytes 8 0 0 2\nx\nbytes 9 0 0 9\nshort";
        let expected = [
            Change::Bytes { inode: 7, offset: 10, length: 64, held: b"" },
            Change::Name { path: Path::new("/d/new"), backup: None },
            Change::Name { path: Path::new("/d/old"), backup: Some(Path::new("/b/1")) },
            Change::Bytes { inode: 8, offset: 0, length: 0, held: b"x\n" },
        ];
        assert_eq!(unsynced(journal), expected);
        assert_eq!(unsynced(b"name /d/new\t-\nfolder /d\n"), []);
    }
}
