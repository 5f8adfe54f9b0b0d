//! The one I/O thread of a data folder: group commit of every log's appends, and the node's meta log.

use std::io;
use std::path::Path;

use futures_util::future::BoxFuture;

use crate::env::Env;

/// Figures since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    pub syncs: u64,
    pub sync_us_sum: u64,
    pub sync_us_max: u64,
    pub bytes_written: u64,
}

/// Handle to the writer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {}

#[allow(unused_variables)]
impl Writer {
    pub fn start(env: &Env, data_dir: &Path, fsync: bool) -> io::Result<Writer> {
        unimplemented!()
    }
    pub fn meta(&self, key: Vec<u8>) -> Option<Vec<u8>> {
        unimplemented!()
    }
    pub fn save_meta(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> BoxFuture<'static, io::Result<()>> {
        unimplemented!()
    }
    pub fn save_meta_lazily(&self, key: Vec<u8>, value: Vec<u8>) {
        unimplemented!()
    }
    pub fn stats(&self) -> WriterStats {
        unimplemented!()
    }
    pub fn stop(&self) -> BoxFuture<'static, ()> {
        unimplemented!()
    }
}
