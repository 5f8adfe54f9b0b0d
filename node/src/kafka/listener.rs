//! Accepts Kafka clients: TLS 1.2 or 1.3, never plaintext, and never more connections than can be served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::env;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::Broker;
use super::connection;
use super::counters::add;

/// Connections open at once; beyond it new ones are closed at once.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Connections that have not authenticated yet, open at once.
pub const HALF_OPEN_MAX: usize = 512;
/// After an accept that failed, for lack of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until shut down or dropped, and closes its connections then.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub async fn start(listen: SocketAddr, tls: rustls::ServerConfig, broker: Broker) -> io::Result<Listener> {
        let listener = broker.env.net.listen(listen).await?;
        let address = listener.local_addr()?;
        Ok(Listener { address, task: tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), broker)) })
    }

    /// Where clients are accepted; tells the port when the configuration asked for any.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and closes every connection. Idempotent.
    pub async fn shutdown(&mut self) {
        self.task.abort();
        // An error only says that it was aborted. It may have been before.
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

async fn accept(mut listener: Box<dyn env::Listener>, tls: TlsAcceptor, broker: Broker) {
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    add(&broker.counters.connections_accepted, 1);
                    let permit = half_open.clone().try_acquire_owned().ok().filter(|_| connections.len() < CONNECTIONS_MAX);
                    match permit {
                        Some(permit) => drop(connections.spawn(connection::serve(stream, peer, tls.clone(), broker.clone(), permit))),
                        None => {
                            add(&broker.counters.connections_refused, 1);
                            tracing::debug!(%peer, "too many connections");
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(ended) = connections.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a connection's task has failed");
            },
        }
    }
}
