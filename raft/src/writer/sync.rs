//! Many files made durable at once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files synced at once.
const SYNC_THREADS_MAX: usize = 16;

/// One blocking call per item, several at once where threads may be used: a disk makes many syncs durable in little more time than one.
pub(super) fn all_at_once<T: Sync>(threads: bool, items: &[T], call: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    if !threads || items.len() < 2 {
        return items.iter().try_for_each(call);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            call(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SYNC_THREADS_MAX.min(items.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a sync panicked"))))
    })
}
