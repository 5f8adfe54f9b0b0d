//! Relays over real sockets: what passes, when, in which order, and what does not.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::dev::layout::Layout;

const PATIENCE: Duration = Duration::from_secs(10);

/// A node of region eu that is dialled from us, and the relay between.
struct Ocean {
    wan: Wan,
    near: UdpSocket,
    far: UdpSocket,
    relay: SocketAddr,
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ocean(rtt_ms: u64) -> Ocean {
    let layout = Layout { regions: vec!["us".to_owned(), "eu".to_owned()], nodes: 1 };
    let far = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    // The layout's steps are fixed, so its first port is chosen for the node of eu to come to lie where the socket is.
    let step = layout.places(Path::new("/"), 0)[1].link().port();
    let places = layout.places(Path::new("/"), far.local_addr().expect("bound").port() - step);
    let regions = ["us".to_owned(), "eu".to_owned()];
    let wan = Wan::start(vec![Distance { regions, rtt: Duration::from_millis(rtt_ms) }], &places).expect("relays");
    let relay = wan.address("us", places[1].link());
    assert_ne!(relay, places[1].link());
    assert_eq!(wan.address("asia", places[1].link()), places[1].link(), "no distance, no relay");
    let near = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    near.connect(relay).expect("connected");
    Ocean { wan, near, far, relay }
}

#[test]
fn a_datagram_and_its_answer_take_half_the_round_trip_each() {
    let ocean = ocean(20);
    let mut buffer = [0; 16];
    let (mut out, mut back) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let sent = Instant::now();
        ocean.near.send(b"ask").expect("sent");
        let (_, caller) = ocean.far.recv_from(&mut buffer).expect("received");
        out.push(sent.elapsed());
        let sent = Instant::now();
        ocean.far.send_to(b"answer", caller).expect("sent");
        let (length, from) = ocean.near.recv_from(&mut buffer).expect("received");
        back.push(sent.elapsed());
        assert_eq!((&buffer[..length], from), (b"answer".as_slice(), ocean.relay));
    }
    for way in [&mut out, &mut back] {
        way.sort_unstable();
        assert!(way[0] >= Duration::from_millis(10), "too early: {way:?}");
        // The best of several: others may use this machine too.
        assert!(way[0] < Duration::from_millis(11), "too late: {way:?}");
    }
    // A datagram is counted just after it is sent.
    let counted = Instant::now();
    while ocean.wan.states()[0].passed < 80 {
        assert!(counted.elapsed() < PATIENCE, "{:?}", ocean.wan.states());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((ocean.wan.states()[0].passed, ocean.wan.states()[0].dropped), (80, 0));
}

#[test]
fn order_is_kept_in_a_burst() {
    // As many as the kernel's default buffers hold, however slow this machine is now.
    const BURST: u32 = 40;
    let ocean = ocean(4);
    let mut buffer = [0; 2000];
    for burst in 0..25 {
        let numbers = burst * BURST..(burst + 1) * BURST;
        for number in numbers.clone() {
            ocean.near.send(&[&number.to_be_bytes()[..], &[0; 1196]].concat()).expect("sent");
        }
        for number in numbers {
            let length = ocean.far.recv(&mut buffer).expect("received");
            assert_eq!((length, &buffer[..4]), (1200, &number.to_be_bytes()[..]));
        }
    }
}

#[test]
fn a_cut_drops_what_is_on_its_way_and_heals() {
    let ocean = ocean(100);
    let mut buffer = [0; 16];
    ocean.near.send(b"on its way").expect("sent");
    std::thread::sleep(Duration::from_millis(10));
    assert!(ocean.wan.set_cut("eu", "us", true), "in whichever order they are named");
    assert!(!ocean.wan.set_cut("eu", "asia", true), "there is no relay");
    ocean.near.send(b"too late").expect("sent");
    let dropped = Instant::now();
    while ocean.wan.states()[0].dropped < 2 {
        assert!(dropped.elapsed() < PATIENCE, "{:?}", ocean.wan.states());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ocean.wan.set_cut("us", "eu", false));
    ocean.near.send(b"healed").expect("sent");
    let length = ocean.far.recv(&mut buffer).expect("received");
    assert_eq!(&buffer[..length], b"healed");
}
