//! Which ports a development mesh takes. A mesh holds its range by one UDP port that no node uses, so that two that start at once do not choose
//! the same.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use super::layout::{Layout, PORT_BASE_DEFAULT, PORTS};

/// Within the range, in the first node's ten.
const CLAIM: u16 = 9;
/// Ranges tried when the default one is taken; they end below the ports that systems hand out by themselves.
const RANGES_MAX: u16 = 12;
const RANGE_STEP: u16 = 1000;
const _: () = assert!(PORTS <= RANGE_STEP, "two ranges must not overlap");
const _: () = assert!(PORT_BASE_DEFAULT + RANGE_STEP * RANGES_MAX < 32_768, "the kernel hands out ports from 32768 on");

#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error("port {port} is taken ({error}); choose another range with --port-base")]
    Taken { port: u16, error: io::Error },
    #[error("--port-base: a mesh takes up to {PORTS} ports, so the first may be 1024 to {}", u16::MAX - PORTS)]
    Base,
    #[error("{RANGES_MAX} ranges of ports from {PORT_BASE_DEFAULT} on are all taken; choose one with --port-base")]
    None,
}

/// A range of free ports, held against other meshes until dropped.
#[derive(Debug)]
pub struct Ports {
    pub base: u16,
    /// The port that was wished for and taken, when another range had to be found.
    pub instead_of: Option<u16>,
    _claim: UdpSocket,
}

impl Ports {
    /// The range from `base` on, or the first free one from the default on.
    pub fn find(layout: &Layout, base: Option<u16>) -> Result<Ports, PortsError> {
        if let Some(base) = base {
            return if (1024..=u16::MAX - PORTS).contains(&base) { claim(layout, base, None) } else { Err(PortsError::Base) };
        }
        let mut instead_of = None;
        for range in 0..RANGES_MAX {
            match claim(layout, PORT_BASE_DEFAULT + range * RANGE_STEP, instead_of) {
                Err(PortsError::Taken { port, .. }) => instead_of = instead_of.or(Some(port)),
                claimed => return claimed,
            }
        }
        Err(PortsError::None)
    }
}

fn claim(layout: &Layout, base: u16, instead_of: Option<u16>) -> Result<Ports, PortsError> {
    let taken = |port| move |error| PortsError::Taken { port, error };
    let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, base + CLAIM)).map_err(taken(base + CLAIM))?;
    // All at once, so that a port cannot be counted twice.
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for place in layout.places(Path::new(""), base) {
        for address in [place.kafka(), place.peer(), place.admin()] {
            tcp.push(TcpListener::bind(address).map_err(taken(address.port()))?);
        }
        udp.push(UdpSocket::bind(place.link()).map_err(taken(place.link().port()))?);
    }
    Ok(Ports { base, instead_of, _claim: claim })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_and_the_next_mesh_finds_another_range() {
        let layout = Layout { regions: vec!["us".to_owned()], nodes: 1 };
        let first = Ports::find(&layout, None).expect("a free range");
        let refused = Ports::find(&layout, Some(first.base)).expect_err("the first mesh holds it").to_string();
        assert!(refused.contains(&format!("port {} is taken", first.base + CLAIM)) && refused.contains("--port-base"), "{refused}");
        let second = Ports::find(&layout, None).expect("another range");
        assert!(second.base > first.base && second.instead_of.is_some());

        let base = first.base;
        drop(first);
        let _node = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 2)).expect("free again");
        let refused = Ports::find(&layout, Some(base)).expect_err("its admin port is taken").to_string();
        assert!(refused.contains(&format!("port {} is taken", base + 2)), "{refused}");
        Ports::find(&layout, Some(80)).expect_err("not ours to take");
    }
}
