//! All families of a node at one moment; asked more often than once a second, the same moment again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::family::{Family, Kind};
use super::{kafka_families, node_families, replica_families};
use crate::admin::health::{self, Phase};
use crate::admin::view::View;

/// How old an answer may be: however many scrape, the node is looked at once.
const FRESH: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    view: Arc<OnceLock<View>>,
    /// Tokens refused at the admin listener.
    refused: AtomicU64,
    last: Mutex<Option<(Instant, Arc<Vec<Family>>)>>,
}

impl Metrics {
    pub fn new(phase: Phase, view: Arc<OnceLock<View>>) -> Metrics {
        Metrics { inner: Arc::new(Inner { phase, view, refused: AtomicU64::new(0), last: Mutex::default() }) }
    }

    /// Somebody came to the admin listener without a good token.
    pub fn refused(&self) {
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn families(&self) -> Arc<Vec<Family>> {
        let mut last = self.inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, families)) = &*last
            && at.elapsed() < FRESH
        {
            return families.clone();
        }
        let families = Arc::new(self.gather());
        *last = Some((Instant::now(), families.clone()));
        families
    }

    fn gather(&self) -> Vec<Family> {
        let view = self.inner.view.get();
        let ready = health::missing(&self.inner.phase, view).is_empty();
        let mut families = node_families::of_process(ready);
        let refused = self.inner.refused.load(Ordering::Relaxed) as f64;
        let help = "Requests to the admin listener without a good token.";
        families.push(Family::single("meridian_admin_authentication_failures_total", Kind::Counter, help, refused));
        if let Some(view) = view {
            families.extend(node_families::of_node(view));
            families.extend(replica_families::of_replicas(view));
            families.extend(replica_families::of_mirrors(view));
            families.extend(kafka_families::of_listener(view));
            families.extend(kafka_families::of_topics(view));
        }
        families
    }
}
