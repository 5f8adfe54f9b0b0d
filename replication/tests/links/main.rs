//! What links promise: a mirror holds its home's log byte for byte, through cuts and changes of leader, and only whoever may have it gets it.

mod harness;
mod stranger;

use std::time::Duration;

use harness::{Authority, Mesh, until};
use meridian_raft::batch::BatchHeader;
use meridian_raft::partition::StoredBatch;
use meridian_replication::catalogue::{CatalogueNode, Metadata};
use meridian_replication::link::{Links, MirrorStatus};
use stranger::{Stranger, reason};
use tokio::time::Instant;

const ALPN: &[u8] = b"meridian-link/1";

async fn both_hold_the_same(mesh: &Mesh, end: i64) {
    mesh.mirror.wait_for_end(end).await;
    let (home, mirror) = (mesh.home.read().await, mesh.mirror.read().await);
    assert_eq!(mirror.len() as i64, end / 2);
    assert!(home == mirror, "offsets, epochs, append times and bytes are the home's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_at_the_same_offsets_with_the_same_bytes() {
    let mesh = Mesh::start(1).await;
    mesh.home.append(0..50).await;
    both_hold_the_same(&mesh, 100).await;
    let status = mesh.mirror.status().await;
    assert!(status.connected && status.error.is_none() && status.end_offset == 100, "{status:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_path_makes_the_mirror_stale_and_healing_it_leaves_no_gap() {
    let mesh = Mesh::start(1).await;
    mesh.home.append(0..10).await;
    both_hold_the_same(&mesh, 20).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fresh = mesh.mirror.status().await;
    assert!(fresh.staleness_ms.expect("heard") < 250, "{fresh:?}");
    mesh.path.cut(true);
    mesh.home.append(10..20).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let stale = mesh.mirror.status().await;
    assert!(!stale.connected && stale.staleness_ms.expect("heard") >= 1400 && stale.end_offset == 20, "{stale:?}");
    mesh.path.cut(false);
    both_hold_the_same(&mesh, 40).await;
    mesh.home.append(20..30).await;
    both_hold_the_same(&mesh, 60).await;
    let begun = Instant::now();
    loop {
        let healed = mesh.mirror.status().await;
        if healed.connected && healed.staleness_ms.expect("heard") < 250 && healed.lag_records == Some(0) {
            break;
        }
        assert!(begun.elapsed() < harness::PATIENCE, "{healed:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_for_longer_than_its_patience_is_dialled_anew_and_resumes() {
    let mesh = Mesh::start(1).await;
    mesh.home.append(0..10).await;
    both_hold_the_same(&mesh, 20).await;
    mesh.path.cut(true);
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    until("the link to be given up", || links.peers().iter().all(|peer| !peer.connected && peer.error.is_some())).await;
    mesh.home.append(10..20).await;
    mesh.path.cut(false);
    both_hold_the_same(&mesh, 40).await;
    mesh.stop().await;
}

/// Waits until the mirror's node has these peers: address, and whether it is connected.
async fn dialled(mesh: &Mesh, expected: &[(String, bool)]) {
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    let told = || links.peers().iter().map(|peer| (peer.address.clone(), peer.connected)).collect::<std::collections::BTreeSet<_>>();
    let expected = expected.iter().cloned().collect();
    until(&format!("{expected:?} to be dialled"), || told() == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_its_region_tells_of_is_dialled_there_while_no_configured_address_leads_to_it() {
    let mesh = Mesh::start(1).await;
    mesh.home.append(0..10).await;
    both_hold_the_same(&mesh, 20).await;
    let (configured, told) = (mesh.home.dialled[&1].to_string(), mesh.home.listen[&1].to_string());
    mesh.home.metadata.tell(vec![CatalogueNode { id: 1, link: told.clone() }]);
    until("the mirror to be told", || !mesh.mirror.metadata.nodes_of("us").is_empty()).await;
    mesh.path.cut(true);
    dialled(&mesh, &[(configured.clone(), false), (told, true)]).await;
    mesh.home.append(10..20).await;
    both_hold_the_same(&mesh, 40).await;
    mesh.path.cut(false);
    dialled(&mesh, &[(configured, true)]).await;
    mesh.home.append(20..30).await;
    both_hold_the_same(&mesh, 60).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_where_another_node_was_told_to_be_is_no_link() {
    let mesh = Mesh::start(1).await;
    let told = mesh.home.listen[&1].to_string();
    mesh.home.metadata.tell(vec![CatalogueNode { id: 7, link: told.clone() }]);
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    let refused = |peer: &meridian_replication::link::PeerStatus| {
        peer.address == told && !peer.connected && peer.error.as_deref() == Some("node 1 answers where node 7 was told to be")
    };
    until("the stranger to be refused", || links.peers().iter().any(refused)).await;
    // Told of no more: given up.
    mesh.home.metadata.tell(Vec::new());
    dialled(&mesh, &[(mesh.home.dialled[&1].to_string(), true)]).await;
    mesh.stop().await;
}

/// Both logs begin at `start`, end at `end`, and hold the same in between.
async fn both_begin_at(mesh: &Mesh, start: i64, end: i64) {
    let begun = Instant::now();
    loop {
        let (home, mirror) = (mesh.home.leading().await, mesh.mirror.leading().await);
        let held = (mirror.log_start_offset(), mirror.high_watermark());
        if held == (start, end) {
            let (home, mirror) = (home.read(start, usize::MAX).await, mirror.read(start, usize::MAX).await);
            assert!(home.is_ok() && home == mirror, "{home:?} {mirror:?}");
            return;
        }
        assert!(begun.elapsed() < harness::PATIENCE, "the mirror holds {held:?}, not {:?}: {:?}", (start, end), mesh.mirror.status().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_begins_where_its_homes_log_begins_and_follows_it() {
    let mut mesh = Mesh::unlinked(1).await;
    mesh.home.append(0..20).await;
    // Within a batch: the batch is stored whole, and read from its middle.
    assert_eq!(mesh.home.leading().await.delete_records(Some(15)).await, Ok(15));
    mesh.start_links("us", 1).await;
    mesh.start_links("eu", 1).await;
    both_begin_at(&mesh, 15, 40).await;
    assert_eq!(mesh.mirror.status().await.skipped_records, 0, "a new copy has missed nothing");
    assert_eq!(mesh.home.leading().await.delete_records(Some(30)).await, Ok(30));
    both_begin_at(&mesh, 30, 40).await;
    assert_eq!(mesh.home.leading().await.delete_records(None).await, Ok(40));
    both_begin_at(&mesh, 40, 40).await;
    mesh.home.append(20..25).await;
    both_begin_at(&mesh, 40, 50).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_lags_behind_its_homes_start_goes_on_there_and_says_what_it_missed() {
    for all in [false, true] {
        let mesh = Mesh::start(1).await;
        mesh.home.append(0..10).await;
        both_hold_the_same(&mesh, 20).await;
        mesh.path.cut(true);
        // What was under way would still come over the same connection.
        let links = mesh.home.members[&1].links.clone().expect("links");
        let back = mesh.mirror.members[&1].links.clone().expect("links");
        let given_up = |links: &Links| links.peers().iter().all(|peer| !peer.connected && peer.error.is_some());
        until("the link to be given up", || given_up(&links) && given_up(&back)).await;
        mesh.home.append(10..20).await;
        let start = mesh.home.leading().await.delete_records((!all).then_some(30)).await.expect("deleted");
        mesh.path.cut(false);
        both_begin_at(&mesh, start, 40).await;
        mesh.home.append(20..25).await;
        both_begin_at(&mesh, start, 50).await;
        assert_eq!(mesh.mirror.status().await.skipped_records, start - 20);
        mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_may_no_longer_have_a_topic_gets_nothing_more_of_it_until_it_may() {
    let mesh = Mesh::start(1).await;
    mesh.home.append(0..5).await;
    both_hold_the_same(&mesh, 10).await;
    mesh.home.metadata.allow("eu", false);
    mesh.home.append(5..15).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let refused = mesh.mirror.status().await;
    assert!(refused.end_offset == 10 && !refused.connected, "{refused:?}");
    assert!(refused.error.as_ref().is_some_and(|error| error.contains("may not have the topic")), "{refused:?}");
    mesh.home.metadata.allow("eu", true);
    both_hold_the_same(&mesh, 30).await;
    assert_eq!(mesh.mirror.status().await.error, None);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_may_move_on_either_side_while_records_flow() {
    let mesh = Mesh::start(3).await;
    mesh.home.append(0..20).await;
    mesh.mirror.wait_for_end(40).await;
    assert!(mesh.home.leading().await.transfer_leadership().await);
    mesh.home.append(20..40).await;
    mesh.mirror.wait_for_end(80).await;
    assert!(mesh.mirror.leading().await.transfer_leadership().await);
    mesh.home.append(40..60).await;
    both_hold_the_same(&mesh, 120).await;
    let epochs = |batches: Vec<StoredBatch>| -> Vec<i32> {
        batches.iter().map(|batch| BatchHeader::decode(&batch.bytes).expect("a header").leader_epoch).collect()
    };
    let epochs = epochs(mesh.mirror.read().await);
    assert!(epochs.first() < epochs.last(), "the mirror shows that its home's leader moved: {epochs:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_move_under_load_leave_neither_gap_nor_duplicate() {
    let mesh = Mesh::start(3).await;
    let load = async {
        for round in 0..40u32 {
            mesh.home.append(round * 10..(round + 1) * 10).await;
        }
    };
    let moves = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            mesh.mirror.leading().await.transfer_leadership().await;
            mesh.home.leading().await.transfer_leadership().await;
        }
    };
    tokio::join!(load, moves);
    let end = mesh.home.leading().await.high_watermark();
    both_hold_the_same(&mesh, end).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_share_the_streams_and_all_come_into_step() {
    let mesh = Mesh::with_partitions(1, 40).await;
    let home = &mesh.home.members[&1].partitions;
    until("leaders", || home.iter().all(|partition| partition.leadership().is_leader)).await;
    for partition in home {
        for number in 0..5 {
            partition.append(harness::batch(number)).await.expect("acknowledged");
        }
    }
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    let in_step = |mirror: &MirrorStatus| mirror.end_offset == 10 && mirror.lag_records == Some(0) && mirror.staleness_ms < Some(250);
    let begun = Instant::now();
    loop {
        let mirrors = links.mirrors();
        let behind: Vec<_> = mirrors.iter().filter(|mirror| !in_step(mirror)).collect();
        if mirrors.len() == 40 && behind.is_empty() {
            break;
        }
        assert!(begun.elapsed() < harness::PATIENCE, "{} mirrors, of which behind: {behind:?}", mirrors.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_holds_what_its_home_does_not_is_left_alone_and_says_so() {
    let mesh = Mesh::unlinked(1).await;
    let mirror = mesh.mirror.leading().await;
    let mut stranded = bytes::BytesMut::from(&harness::batch(999).bytes()[..]);
    meridian_raft::batch::stamp(&mut stranded, 0, 1);
    let stranded = StoredBatch { append_time_us: 1, bytes: stranded.freeze() };
    mirror.append_mirrored(vec![stranded.clone()]).await.expect("appended");
    mesh.home.append(0..5).await;
    let mut mesh = mesh;
    mesh.start_links("us", 1).await;
    mesh.start_links("eu", 1).await;
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    until("the divergence to be told", || {
        links.mirrors().iter().any(|mirror| mirror.error.as_ref().is_some_and(|error| error.contains("another batch than its home")))
    })
    .await;
    assert_eq!(mesh.mirror.read().await, [stranded], "nothing is appended, nothing is cut");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_comes_on_connecting_and_with_each_change() {
    let mesh = Mesh::start(1).await;
    let topics = |at: usize| {
        let accepted = mesh.mirror.metadata.accepted.lock().expect("no panic");
        accepted.get(at).map(|(region, catalogue)| (region.clone(), catalogue.version, catalogue.topics.len()))
    };
    until("a catalogue", || topics(0) == Some(("us".to_owned(), 1, 1))).await;
    mesh.home.metadata.allow("eu", false);
    until("its change", || topics(1) == Some(("us".to_owned(), 2, 0))).await;
    // Nothing changes for this region: the version alone is told.
    mesh.home.metadata.allow("asia", false);
    until("its version", || topics(2) == Some(("us".to_owned(), 3, 0))).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_nodes_of_the_same_mesh_and_of_a_configured_other_region_are_let_in() {
    let mesh = Mesh::start(1).await;
    let (authority, other) = (&mesh.authority, Authority::new());
    let to = mesh.home.listen[&1];
    let named = |uri: &str| Stranger::new(authority, authority, Some(uri), ALPN);
    let refused = [
        ("spiffe://other/region/eu/node/1", "of mesh other"),
        ("spiffe://test/region/mars/node/1", "region mars"),
        ("spiffe://test/region/us/node/1", "region us"),
        ("https://test/region/eu/node/1", "0 spiffe:// names"),
    ];
    for (uri, why) in refused {
        let reason = reason(&named(uri).refusal(to).await);
        assert!(reason.contains(why), "{uri}: {reason}");
    }
    // Refused by TLS itself: no certificate, a foreign authority, another protocol.
    let eu = Some("spiffe://test/region/eu/node/1");
    for stranger in [
        Stranger::new(authority, authority, None, ALPN),
        Stranger::new(&other, authority, eu, ALPN),
        Stranger::new(authority, authority, eu, b"meridian-link/0"),
    ] {
        let error = stranger.refusal(to).await;
        assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
    }
    assert!(named("spiffe://test/region/eu/node/7").connect(to).await.is_ok_and(|connection| connection.close_reason().is_none()));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_answers_for_another_region_is_not_believed() {
    let mut mesh = Mesh::unlinked(1).await;
    // What eu takes for us is a node of asia, which expects eu.
    mesh.home.name = "asia".to_owned();
    mesh.start_links("us", 1).await;
    mesh.home.name = "us".to_owned();
    mesh.start_links("eu", 1).await;
    let links = mesh.mirror.members[&1].links.clone().expect("links");
    until("the wrong region to be noticed", || {
        links.peers().iter().any(|peer| !peer.connected && peer.error.as_ref().is_some_and(|error| error.contains("region asia")))
    })
    .await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_and_on_the_streams_harms_nobody() {
    let mesh = Mesh::start(1).await;
    let to = mesh.home.listen[&1];
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for length in [0, 1, 20, 1200, 1452, 9000] {
        for seed in 0..20u8 {
            let junk: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed.wrapping_mul(77))).collect();
            let _ = socket.send_to(&junk, to);
        }
    }
    let peer = Stranger::new(&mesh.authority, &mesh.authority, Some("spiffe://test/region/eu/node/9"), ALPN);
    let bulk = [0, 0, 0, 1, 2];
    let garbage: [(&[u8], &str); 7] = [
        (&[0xff; 64], "at most"),
        (&[0, 0, 0, 0], "0 bytes"),
        (&[0, 0, 0, 1, 99], "unknown kind 99"),
        // A heartbeat, which only sources send.
        (&[0, 0, 0, 17, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "does not send"),
        (&[&bulk[..], &[0, 0, 0, 2, 3, 3]].concat(), "too early or late"),
        (&[&bulk[..], &[0, 0, 0, 33, 3], &[0; 32]].concat(), "partition is impossible"),
        (&[&bulk[..], &bulk[..]].concat(), "does not send"),
    ];
    for (bytes, why) in garbage {
        let reason = reason(&peer.refusal_of(to, bytes).await);
        assert!(reason.contains(why), "{bytes:?}: {reason}");
    }
    mesh.home.append(0..10).await;
    both_hold_the_same(&mesh, 20).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_mirror_stays_fresh_without_a_single_record() {
    let mesh = Mesh::start(3).await;
    mesh.home.append(0..1).await;
    both_hold_the_same(&mesh, 2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut worst = 0;
    for _ in 0..50 {
        let idle = mesh.mirror.status().await;
        assert!(idle.connected && idle.lag_records == Some(0), "{idle:?}");
        worst = worst.max(idle.staleness_ms.expect("heard"));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    // A heartbeat every 100 ms, and what a busy machine adds.
    assert!(worst < 400, "{worst} ms");
    mesh.stop().await;
}
