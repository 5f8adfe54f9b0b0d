//! What links promise: a mirror holds its home's log byte for byte, through cuts and changes of leader, and only whoever may have it gets it.

mod harness;

use std::time::Duration;

use harness::{Mesh, until};
use tokio::time::Instant;

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
