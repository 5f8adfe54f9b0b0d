//! The relays' thread: receives, holds, sends on. Datagrams between two regions keep their order, for all wait equally long.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use tokio::time::Instant;

use super::Pair;

/// Held between two regions: 2 Gbit/s over 250 ms. What comes on top is dropped, as a router would.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Dialling sockets that one relay knows; the one silent for longest makes room.
const CALLERS_MAX: usize = 32;
/// Read from one socket before the others have their turn.
const TURN_MAX: usize = 64;
/// A socket's buffer in the kernel, where we may have that much: bursts must not be lost to a busy machine.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Largest UDP datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams that fall due within so long of each other leave together.
const COALESCE: Duration = Duration::from_micros(100);
/// How long a stop may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A datagram on its way.
struct Held {
    due: Instant,
    through: Arc<UdpSocket>,
    /// None: the socket is connected.
    to: Option<SocketAddr>,
    bytes: Box<[u8]>,
}

/// All datagrams between two regions, in both directions, by when they are due.
#[derive(Default)]
struct Line {
    held: VecDeque<Held>,
    bytes: usize,
}

/// Stands in for one node towards one region.
struct Relay {
    pair: usize,
    target: SocketAddr,
    front: Arc<UdpSocket>,
    callers: Vec<Caller>,
}

/// A socket that dialled, and the one through which it is seen by the node.
struct Caller {
    address: SocketAddr,
    back: Arc<UdpSocket>,
    heard: Instant,
}

pub(super) struct Relays {
    pairs: Arc<Vec<Pair>>,
    lines: Vec<Line>,
    relays: Vec<Relay>,
    buffer: Box<[u8]>,
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
        // Only root may exceed the system's limit; what the kernel grants instead is enough for a quiet machine.
        let _ = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
    }
    Ok(socket)
}

impl Relays {
    pub(super) fn new(pairs: Arc<Vec<Pair>>) -> Relays {
        let lines = pairs.iter().map(|_| Line::default()).collect();
        Relays { pairs, lines, relays: Vec::new(), buffer: vec![0; DATAGRAM_BYTES_MAX].into() }
    }

    /// A relay to `target`; returns where it listens.
    pub(super) fn add(&mut self, pair: usize, target: SocketAddr) -> io::Result<SocketAddr> {
        let front = Arc::new(socket()?);
        let address = front.local_addr()?;
        self.relays.push(Relay { pair, target, front, callers: Vec::new() });
        Ok(address)
    }

    pub(super) fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let next = self.send_due(Instant::now());
            for readable in self.wait(next) {
                self.receive(&readable);
            }
        }
    }

    /// Sends what is due; returns when the next will be.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        for (line, pair) in self.lines.iter_mut().zip(self.pairs.iter()) {
            while line.held.front().is_some_and(|held| held.due <= now) {
                let Some(held) = line.held.pop_front() else { break };
                line.bytes -= held.bytes.len();
                let sent = !pair.cut.load(Ordering::Relaxed) && held.send();
                (if sent { &pair.passed } else { &pair.dropped }).fetch_add(1, Ordering::Relaxed);
            }
        }
        self.lines.iter().filter_map(|line| line.held.front()).map(|held| held.due).min()
    }

    /// Sleeps until something arrives or is due; returns the sockets to read.
    fn wait(&self, next: Option<Instant>) -> Vec<Readable> {
        let until_next = next.map_or(LOOK_EVERY, |due| due.saturating_duration_since(Instant::now()) + COALESCE);
        let timeout = Timespec { tv_sec: 0, tv_nsec: until_next.min(LOOK_EVERY).subsec_nanos().into() };
        let sockets: Vec<Readable> = self.sockets().collect();
        let mut polled: Vec<PollFd<'_>> = sockets.iter().map(|readable| PollFd::new(&*readable.socket, PollFlags::IN)).collect();
        if poll(&mut polled, Some(&timeout)).is_err() {
            // Interrupted: the next round asks again.
            return Vec::new();
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        sockets.into_iter().zip(ready).filter_map(|(socket, ready)| ready.then_some(socket)).collect()
    }

    fn sockets(&self) -> impl Iterator<Item = Readable> {
        self.relays.iter().enumerate().flat_map(|(relay, Relay { front, callers, .. })| {
            let backs = callers.iter().map(move |caller| Readable { relay, socket: caller.back.clone(), caller: Some(caller.address) });
            std::iter::once(Readable { relay, socket: front.clone(), caller: None }).chain(backs)
        })
    }

    fn receive(&mut self, readable: &Readable) {
        for _ in 0..TURN_MAX {
            let (length, from) = match readable.socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // "Connection refused": the node is down, and what was sent to it is lost. What follows may still be good.
                Err(_) => continue,
            };
            let relay = &mut self.relays[readable.relay];
            let (number, now) = (relay.pair, Instant::now());
            let way = match readable.caller {
                Some(caller) => Some((relay.front.clone(), Some(caller))),
                None => relay.back(from, now).ok().map(|back| (back, None)),
            };
            let (line, pair) = (&mut self.lines[number], &self.pairs[number]);
            match way {
                Some((through, to)) if !pair.cut.load(Ordering::Relaxed) && line.bytes + length <= HELD_BYTES_MAX => {
                    line.bytes += length;
                    line.held.push_back(Held { due: now + pair.delay(), through, to, bytes: self.buffer[..length].into() });
                }
                _ => {
                    pair.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// A socket to read, and for whom its datagrams are; None: for the node.
struct Readable {
    relay: usize,
    socket: Arc<UdpSocket>,
    caller: Option<SocketAddr>,
}

impl Relay {
    /// The socket through which the node sees this caller.
    fn back(&mut self, address: SocketAddr, now: Instant) -> io::Result<Arc<UdpSocket>> {
        if let Some(caller) = self.callers.iter_mut().find(|caller| caller.address == address) {
            caller.heard = now;
            return Ok(caller.back.clone());
        }
        let back = Arc::new(socket()?);
        back.connect(self.target)?;
        if self.callers.len() >= CALLERS_MAX {
            let silent = (0..self.callers.len()).min_by_key(|at| self.callers[*at].heard).unwrap_or(0);
            self.callers.swap_remove(silent);
        }
        self.callers.push(Caller { address, back: back.clone(), heard: now });
        Ok(back)
    }
}

impl Held {
    fn send(&self) -> bool {
        let sent = match self.to {
            Some(to) => self.through.send_to(&self.bytes, to),
            None => self.through.send(&self.bytes),
        };
        sent.is_ok()
    }
}
