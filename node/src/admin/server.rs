//! The admin listener: one port for plain HTTP and for TLS, told apart by the first byte.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::health::Phase;
use super::routes::{self, Caller, REQUEST_DEADLINE, Rooms};
use super::view::View;
use crate::authentication::Authenticator;
use crate::telemetry::metrics::Metrics;

/// Connections at once; whoever comes then is closed at once. Probes and scrapers are few.
const CONNECTIONS_MAX: usize = 256;
/// From the connection to its first byte, and from there to the end of the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// From a request's first byte to the end of its head; also how long a connection may idle between requests.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Request line and headers; a token may have 16 KiB.
const HEADER_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// A connection is closed after this time, between two requests, so that a slow reader cannot keep its place.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// After a failed accept: out of file descriptors, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// First byte of a TLS record that holds a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen for admin requests on {address}: {error}")]
pub struct AdminError {
    address: SocketAddr,
    error: io::Error,
}

/// The running listener. Stops when dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    phase: Phase,
    view: Arc<OnceLock<View>>,
    metrics: Metrics,
    stop: watch::Sender<()>,
    accepting: AbortHandle,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.accepting.abort();
        self.stop.send_replace(());
    }
}

impl Admin {
    /// Listens, and answers that the node is starting until [`Admin::show`].
    pub async fn start(listen: SocketAddr, tls: Arc<rustls::ServerConfig>, authenticator: Authenticator) -> Result<Admin, AdminError> {
        let refused = |error| AdminError { address: listen, error };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let (phase, view) = (Phase::default(), Arc::<OnceLock<View>>::default());
        let metrics = Metrics::new(phase.clone(), view.clone());
        let rooms = Rooms { phase: phase.clone(), view: view.clone(), authenticator, metrics: metrics.clone() };
        let (stop, stopped) = watch::channel(());
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(tls), rooms, stopped)).abort_handle();
        Ok(Admin { address, phase, view, metrics, stop, accepting })
    }

    /// Where requests are accepted; tells the port when the configuration asked for any.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the node says of its start and stop.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What `/metrics` shows.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The node has opened its data folder: from now on there is something to tell.
    pub fn show(&self, view: View) {
        // A node starts once; a second view would be of the same node.
        let _ = self.view.set(view);
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, rooms: Rooms, stopped: watch::Receiver<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an admin connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (tls, rooms, stopped) = (tls.clone(), rooms.clone(), stopped.clone());
        tokio::spawn(async move {
            // What a stranger does to its own connection is not worth more than this.
            if let Err(error) = connection(stream, peer, tls, rooms, stopped).await {
                tracing::debug!(%peer, %error, "an admin connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, rooms: Rooms, stopped: watch::Receiver<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if tokio::time::timeout(HANDSHAKE_DEADLINE, stream.peek(&mut first)).await?? == 0 {
        return Ok(());
    }
    let host = peer.ip().to_canonical();
    if first[0] == TLS_HANDSHAKE {
        let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await??;
        http(stream, routes::router(rooms, Caller { secure: true, host }), stopped).await
    } else {
        http(stream, routes::router(rooms, Caller { secure: false, host }), stopped).await
    }
}

async fn http<S>(stream: S, router: axum::Router, mut stopped: watch::Receiver<()>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(2 * HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = tokio::time::sleep(CONNECTION_LIFETIME) => {}
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(REQUEST_DEADLINE, connection).await?.map_err(io::Error::other)
}
