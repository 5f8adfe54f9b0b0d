//! QUIC as links use it: one UDP socket and endpoint per node for both directions, and what each connection may take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};

use super::LinkError;
use super::congestion::RateBased;
use super::tls::Tls;

/// Streams a peer may open on one connection: the mirror streams, one control stream, and room for replacements.
const STREAMS_MAX: u32 = 2 * MIRROR_STREAMS as u32;
/// Long-lived mirror streams of a bulk connection; partitions are hashed onto them. One lost packet holds up one stream only.
pub(crate) const MIRROR_STREAMS: usize = 16;
/// Unacknowledged bytes of one stream. quinn takes at most 1,024 gaps in a stream's buffer, which bounds it near 2.8 MB.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Unacknowledged bytes of one connection: about twice what 200 Mbit/s hold over 320 ms, and no more than the streams may have.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes kept for sending and resending.
const SEND_WINDOW_BYTES: u64 = 24 << 20;
/// UDP payload, fixed: fits every path of 1,500 bytes, IPv6 included. Probing for more costs losses on every new connection.
const MTU_BYTES: u16 = 1452;
/// Without a packet for so long, QUIC gives a connection up. Heartbeats notice a dead path long before.
const IDLE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Kernel buffers of the socket. The kernel grants less where `net.core.rmem_max` is smaller.
const SOCKET_BYTES: usize = 4 << 20;
/// Connections that have not finished their handshake.
const INCOMING_MAX: usize = 256;

/// Opens the node's one UDP socket. The simulator's will be an abstract one, made here.
pub(crate) fn endpoint(listen: SocketAddr, tls: &Tls) -> Result<Endpoint, LinkError> {
    let failed = |source| LinkError::Listen { address: listen, source };
    let socket = std::net::UdpSocket::bind(listen).map_err(failed)?;
    for raised in [
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES),
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES),
    ] {
        if let Err(error) = raised {
            tracing::warn!(%error, "the link's socket buffers stay small");
        }
    }
    let mut server = ServerConfig::with_crypto(tls.server.clone());
    server.transport_config(Arc::new(transport())).migration(false).max_incoming(INCOMING_MAX);
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(failed)?;
    let mut client = ClientConfig::new(tls.client.clone());
    client.transport_config(Arc::new(transport()));
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .initial_mtu(MTU_BYTES)
        .min_mtu(MTU_BYTES)
        .mtu_discovery_config(None)
        .congestion_controller_factory(Arc::new(RateBased))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    transport
}
