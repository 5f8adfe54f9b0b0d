//! Which nodes of other regions are dialled, and where: the addresses of the configuration for ever, and those that a region tells of its nodes
//! while no address of the configuration leads to them. So a mirror follows a region whose nodes have all been replaced.
//!
//! A region speaks for its own nodes only, and whoever answers at an address must show a certificate of that region and that node.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::session::{self, Session, close};
use super::{Inner, PeerStatus, lock};

/// Between two attempts to dial a node, doubling from the first to the last, with jitter.
const DIAL_AGAIN_MIN: Duration = Duration::from_millis(50);
const DIAL_AGAIN_MAX: Duration = Duration::from_secs(1);
/// A node must be out of reach at every address of the configuration for so long before it is dialled where its region says.
const UNREACHED_FOR: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most addresses of one region that are dialled because it told of them.
const TOLD_MAX: usize = 1_000;

/// Where a node is dialled: its region, and `host:port`.
type Place = (String, String);

/// Every address that is dialled now.
#[derive(Debug, Default)]
pub(super) struct Dials {
    open: Mutex<BTreeMap<Place, Arc<Dial>>>,
}

/// One remote address, dialled until it is given up.
#[derive(Debug)]
pub(super) struct Dial {
    region: String,
    address: String,
    /// Whom the region says to be there; None of an address of the configuration, where any of its nodes may be.
    node: Option<u64>,
    given_up: watch::Sender<bool>,
    state: Mutex<DialState>,
}

#[derive(Debug, Default)]
struct DialState {
    session: Option<Arc<Session>>,
    error: Option<String>,
    /// Of sessions that ended.
    bytes_received: u64,
    bytes_sent: u64,
}

impl Dials {
    pub(super) fn status(&self) -> Vec<PeerStatus> {
        lock(&self.open).values().map(|dial| dial.status()).collect()
    }

    fn begin(&self, inner: &Arc<Inner>, (region, address): Place, node: Option<u64>) {
        let dial =
            Dial { region: region.clone(), address: address.clone(), node, given_up: watch::Sender::new(false), state: Mutex::default() };
        let dial = Arc::new(dial);
        lock(&self.open).insert((region, address), dial.clone());
        inner.spawn(keep_dialling(inner.clone(), dial));
    }

    fn give_up(&self, place: &Place) {
        if let Some(dial) = lock(&self.open).remove(place) {
            dial.given_up.send_replace(true);
        }
    }

    /// Nodes of the region that an address of the configuration leads to now.
    fn reached(&self, region: &str) -> Vec<u64> {
        let open = lock(&self.open);
        let configured = open.values().filter(|dial| dial.node.is_none() && dial.region == region);
        configured.filter_map(|dial| lock(&dial.state).session.as_ref().map(|session| session.node)).collect()
    }

    fn is_open(&self, place: &Place) -> bool {
        lock(&self.open).contains_key(place)
    }

    /// Of one region, the places that are dialled because it told of them, and whom it says to be there.
    fn told(&self, region: &str) -> Vec<(Place, u64)> {
        let open = lock(&self.open);
        let told = open.iter().filter(|(_, dial)| dial.region == region);
        told.filter_map(|(place, dial)| Some((place.clone(), dial.node?))).collect()
    }
}

impl Dial {
    fn status(&self) -> PeerStatus {
        let state = lock(&self.state);
        let stats = state.session.as_ref().map(|session| (session.control.stats(), session.bulk.stats()));
        let live = stats
            .as_ref()
            .map_or((0, 0), |(control, bulk)| (control.udp_rx.bytes + bulk.udp_rx.bytes, control.udp_tx.bytes + bulk.udp_tx.bytes));
        PeerStatus {
            region: self.region.clone(),
            address: self.address.clone(),
            connected: state.session.is_some(),
            rtt_us: stats.map(|(control, _)| u64::try_from(control.path.rtt.as_micros()).unwrap_or(u64::MAX)),
            bytes_received: state.bytes_received + live.0,
            bytes_sent: state.bytes_sent + live.1,
            error: state.error.clone(),
        }
    }

    fn connected(&self, session: &Arc<Session>) {
        let mut state = lock(&self.state);
        state.session = Some(session.clone());
        state.error = None;
    }

    fn failed(&self, error: &session::SessionError) {
        let mut state = lock(&self.state);
        if let Some(session) = state.session.take() {
            let (control, bulk) = (session.control.stats(), session.bulk.stats());
            state.bytes_received += control.udp_rx.bytes + bulk.udp_rx.bytes;
            state.bytes_sent += control.udp_tx.bytes + bulk.udp_tx.bytes;
        }
        let error = error.to_string();
        if state.error.as_ref() != Some(&error) {
            tracing::info!(region = %self.region, address = %self.address, %error, "a link is down");
            state.error = Some(error);
        }
    }

    async fn is_given_up(&self) {
        let mut given_up = self.given_up.subscribe();
        // The sender is this very dial's.
        let _ = given_up.wait_for(|given_up| *given_up).await;
    }
}

/// Dials every address of the configuration, and follows what the regions tell of their nodes.
pub(super) async fn dial_all(inner: Arc<Inner>) {
    // A region does not link to itself, whatever the configuration says.
    let remote: Vec<_> = inner.config.remote.iter().filter(|(region, _)| **region != inner.config.region).collect();
    for (region, addresses) in &remote {
        for address in *addresses {
            inner.dials.begin(&inner, ((*region).clone(), address.clone()), None);
        }
    }
    if !inner.config.discover {
        return;
    }
    let mut unreached = BTreeMap::new();
    loop {
        for (region, _) in &remote {
            follow_told(&inner, region, &mut unreached);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Dials the nodes of a region that are out of reach otherwise, and gives up those that are not, or that are told of no more.
fn follow_told(inner: &Arc<Inner>, region: &str, unreached: &mut BTreeMap<(Place, u64), Instant>) {
    let told = inner.metadata.nodes_of(region).into_iter().take(TOLD_MAX);
    let told: BTreeMap<(Place, u64), ()> = told.map(|node| (((region.to_owned(), node.link), node.id), ())).collect();
    let reached = inner.dials.reached(region);
    for (place, node) in inner.dials.told(region) {
        if reached.contains(&node) || !told.contains_key(&(place.clone(), node)) {
            tracing::info!(region, node, address = %place.1, "a node is not dialled any more where its region told");
            inner.dials.give_up(&place);
        }
    }
    unreached.retain(|wanted, _| wanted.0.0 != region || (told.contains_key(wanted) && !reached.contains(&wanted.1)));
    for wanted in told.into_keys().filter(|(place, node)| !reached.contains(node) && !inner.dials.is_open(place)) {
        let since = *unreached.entry(wanted.clone()).or_insert_with(Instant::now);
        if since.elapsed() >= UNREACHED_FOR {
            let (place, node) = wanted;
            tracing::info!(region, node, address = %place.1, "a node is dialled where its region told");
            inner.dials.begin(inner, place, Some(node));
        }
    }
}

/// Keeps one session to one address alive.
async fn keep_dialling(inner: Arc<Inner>, dial: Arc<Dial>) {
    let mut pause = DIAL_AGAIN_MIN;
    loop {
        let id = inner.session_ids.fetch_add(1, Ordering::Relaxed);
        let dialled = tokio::select! {
            biased;
            () = dial.is_given_up() => return,
            dialled = Session::dial(&inner, id, &dial.region, dial.node, &dial.address) => dialled,
        };
        let error = match dialled {
            Ok(session) => {
                let session = Arc::new(session);
                let Some(error) = keep(&inner, &dial, &session).await else { return };
                if session.is_heard() {
                    pause = DIAL_AGAIN_MIN;
                }
                error
            }
            Err(error) => error,
        };
        dial.failed(&error);
        let jitter = 0.5 + (inner.env.random.next_u64() % 1024) as f64 / 2048.0;
        tokio::select! {
            biased;
            () = dial.is_given_up() => return,
            () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(DIAL_AGAIN_MAX);
    }
}

/// Why the session ended; None when its address was given up.
async fn keep(inner: &Arc<Inner>, dial: &Dial, session: &Arc<Session>) -> Option<session::SessionError> {
    tracing::info!(region = %dial.region, node = session.node, address = %dial.address, "a link is up");
    dial.connected(session);
    lock(&inner.sessions).insert(session.id, session.clone());
    let error = tokio::select! {
        biased;
        () = dial.is_given_up() => {
            session.close(close::STOPPED, "the node is dialled elsewhere, or not any more");
            None
        }
        error = session.run(inner) => Some(error),
    };
    lock(&inner.sessions).remove(&session.id);
    inner.claims_changed();
    error
}
