//! What could go wrong between a leader and its followers' logs, and who counts.

use std::collections::BTreeSet;

use super::hazards::{append, at, carry_out, catch_up, disk, flush, holds, lead, new, pulse, send, site, stand, take, yes};
use super::site::{Past, command, founding, membership};
use crate::NodeId;
use crate::consensus::follower::{Append, Reply, Taken};
use crate::consensus::leader::Next;
use crate::consensus::members::Members;
use crate::consensus::{Effect, Ground, Vote};
use crate::log::{FrameKind, LogPosition};
use crate::peer::liveness::Bond;

/// A thousand entries of a leader that nobody followed stand in the way.
#[tokio::test(start_paused = true)]
async fn where_a_follower_far_off_agrees_is_found_in_logarithmically_many_rounds() {
    let mut leader = site(1, disk(&[1, 2, 3], Vote { term: 3, node: 1, led: true }, &[[1; 10].as_slice(), &[3; 1990]].concat()));
    let mut follower = site(2, disk(&[1, 2, 3], Vote { term: 3, node: 1, led: true }, &[[1; 10].as_slice(), &[2; 1000]].concat()));
    let term = lead(&mut leader, 3).await;
    for round in 0.. {
        assert!(round < 40, "still probing after {round} rounds");
        let Next::Entries { session, prev, from, committed_end, .. } = leader.core.next_for(2, &leader.place) else {
            panic!("nothing to send")
        };
        let entries: Vec<_> = leader.place.disk.entry(from).cloned().into_iter().collect();
        assert!(leader.core.sent(2, session, term, (from, from + entries.len() as u64), committed_end, &leader.place));
        let append = Append { term, leader: 1, prev, entries, committed_end };
        match follower.core.appended(append, &follower.place) {
            Taken::Answered(reply) => leader.core.answered(2, session, term, reply, &leader.place),
            _ => break,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_has_at_most_eight_appends_on_their_way() {
    let mut site = site(1, disk(&[1, 2, 3], Vote { term: 1, node: 1, led: true }, &[1; 50]));
    lead(&mut site, 3).await;
    differs(&mut site, 2, 20);
    holds(&mut site, 2, 21);
    let mut sent = 0;
    while send(&mut site, 2).is_some() {
        sent += 1;
        if !carry_out(&mut site).contains(&Effect::Feed(2)) {
            break;
        }
    }
    assert_eq!(sent, 8);
}

fn differs(site: &mut super::site::Site, node: NodeId, end: u64) {
    let (session, term) = send(site, node).expect("a probe");
    let bond = Bond { process: node * 1_000_000, promise: 0 };
    site.core.answered(node, session, term, Reply::Differs { end, bond }, &site.place);
    carry_out(site);
}

/// Each of those who miss the leader has the connection asked for room once more.
#[tokio::test(start_paused = true)]
async fn whoever_misses_its_leader_often_is_not_sent_more_at_a_time() {
    let mut site = site(1, disk(&[1, 2, 3], Vote { term: 1, node: 1, led: true }, &[1; 50]));
    lead(&mut site, 3).await;
    differs(&mut site, 2, 20);
    (0..20).for_each(|_| site.core.contact(2, &site.place));
    let asked = carry_out(&mut site).into_iter().filter(|effect| *effect == Effect::Feed(2));
    let sent = asked.filter(|_| send(&mut site, 2).is_some()).count();
    assert_eq!(sent, 1, "it is not known what it holds");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_lacks_what_was_let_go_of_begins_anew_behind_a_snapshot() {
    let mut leader = site(1, disk(&[1, 2, 3], Vote { term: 1, node: 1, led: true }, &[1; 50]));
    let mut follower = new(2, &[1, 2, 3]);
    let term = lead(&mut leader, 3).await;
    catch_up(&mut leader, 3);
    let past = Past { last: LogPosition { term: 1, index: 40 }, since: Some(0), members: Members::founded_by([1, 2, 3]) };
    leader.place.begin_behind(past.clone());
    let (session, _) = send(&mut leader, 2).expect("a probe");
    let bond = follower.place.bond_with(1);
    leader.core.answered(2, session, term, Reply::Differs { end: 1, bond }, &leader.place);
    let Next::Snapshot { session, term } = leader.core.next_for(2, &leader.place) else { panic!("its log cannot be sent") };
    assert_eq!(follower.core.begins_behind(1, term, past.last, &follower.place), Ok(bond));
    flush(&mut follower);
    follower.place.begin_behind(past.clone());
    follower.core.began_behind(past.last, past.since, past.members.clone(), true);
    assert_eq!((follower.core.committed_end(), follower.core.members()), (41, &past.members));
    leader.core.began_anew(2, session, term, Reply::Holds { end: 41, bond }, &leader.place);
    assert!(matches!(leader.core.next_for(2, &leader.place), Next::Entries { from: 41, prev, .. } if prev == at(1, 40)));
    let taken = take(&mut follower, 1, term, at(1, 40), vec![command(1, 41, "x")]);
    assert!(matches!(taken, Taken::Store { cut: None, end: 42, .. }), "{taken:?}");
    // An old one changes nothing any more.
    assert_eq!(
        follower.core.begins_behind(1, term, LogPosition { term: 1, index: 7 }, &follower.place),
        Err(Reply::Holds { end: 8, bond })
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_follower_has_committed_is_never_taken_back() {
    let mut site = new(2, &[1, 2, 3]);
    take(&mut site, 1, 1, at(0, 0), vec![command(1, 1, "x"), command(1, 2, "y")]);
    site.core.commit(2);
    let taken = take(&mut site, 1, 1, at(0, 0), vec![command(1, 1, "x")]);
    assert!(matches!(taken, Taken::Store { cut: None, end: 2, .. }), "a shorter append takes nothing back: {taken:?}");
    assert_eq!(take(&mut site, 3, 2, at(1, 1), vec![command(2, 2, "z")]).clone_cut(), Some(2));
    assert_eq!(take(&mut site, 3, 2, at(0, 0), vec![command(2, 1, "z")]), Taken::Failed);
    assert!(site.core.failure().is_some());
}

impl Taken {
    fn clone_cut(&self) -> Option<u64> {
        if let Taken::Store { cut, .. } = self { *cut } else { None }
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_voter_leads_and_commits_alone_what_is_durable() {
    let mut site = new(1, &[1]);
    stand_alone(&mut site).await;
    assert!(site.leads() && site.core.holds_lease(&site.place));
    let entry = site.core.propose(FrameKind::Command, 0, "x".into(), None, &site.place);
    entry.into_iter().for_each(|entry| append(&mut site, entry));
    assert_eq!((site.place.end(), site.core.committed_end()), (3, 2));
    flush(&mut site);
    assert_eq!(site.core.committed_end(), 3);
}

async fn stand_alone(site: &mut super::site::Site) {
    tokio::time::advance(super::Duration::from_secs(1)).await;
    site.core.tick(&site.place);
    flush(site);
}

#[tokio::test(start_paused = true)]
async fn of_two_voters_neither_does_anything_alone() {
    let mut site = new(1, &[1, 2]);
    let ballot = stand(&mut site, 2).await;
    flush(&mut site);
    assert!(!site.leads());
    yes(&mut site, 2, ballot);
    flush(&mut site);
    assert!(site.leads() && !site.core.holds_lease(&site.place));
    assert_eq!(site.core.committed_end(), 0);
    let bond = holds(&mut site, 2, 2);
    assert_eq!(site.core.committed_end(), 2);
    pulse(&site, 2, Bond { promise: 9, ..bond });
    assert!(!site.core.holds_lease(&site.place), "another promise than that of its answer");
    pulse(&site, 2, bond);
    assert!(site.core.holds_lease(&site.place));
}

#[tokio::test(start_paused = true)]
async fn a_learner_counts_neither_for_a_vote_nor_for_a_commit_nor_for_a_lease() {
    let members = Members::of(vec![[1, 2, 3].into()], BTreeSet::from([4]));
    let mut disk = disk(&[1, 2, 3], Vote { term: 1, node: 1, led: true }, &[]);
    disk.entries.push(membership(&members, 1, 1));
    let mut site = site(1, disk.clone());
    let ballot = stand(&mut site, 2).await;
    flush(&mut site);
    yes(&mut site, 4, ballot);
    assert!(!site.leads());
    yes(&mut site, 2, ballot);
    flush(&mut site);
    assert!(site.leads());
    let bond = holds(&mut site, 4, 3);
    pulse(&site, 4, bond);
    assert_eq!((site.core.committed_end(), site.core.holds_lease(&site.place)), (0, false));
    // Nor does it ever stand.
    let mut learner =
        super::hazards::site(4, super::site::Disk { entries: vec![founding(&[1, 2, 3]), membership(&members, 1, 1)], ..disk });
    stand_alone(&mut learner).await;
    assert_eq!((learner.core.take_effects(), learner.core.due()), (Vec::new(), None));
}
