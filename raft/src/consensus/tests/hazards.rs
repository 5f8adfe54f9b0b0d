//! What could go wrong, one at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::site::{Disk, Done, Site, TIMING, Write, command, founding, membership};
use crate::NodeId;
use crate::consensus::election::{Answer, Ballot, Cast};
use crate::consensus::follower::{Append, Reply, Taken};
use crate::consensus::leader::Next;
use crate::consensus::members::Members;
use crate::consensus::{Effect, Ground, Vote};
use crate::env::Mutations;
use crate::log::{FrameKind, LogEntry, LogPosition};
use crate::peer::liveness::Bond;

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) fn at(term: u64, index: u64) -> Option<LogPosition> {
    Some(LogPosition { term, index })
}

/// Entries behind the founding, of these terms.
pub(super) fn disk(voters: &[NodeId], vote: Vote, terms: &[u64]) -> Disk {
    let later = terms.iter().zip(1..).map(|(term, index)| command(*term, index, "x"));
    Disk { vote, past: None, entries: [founding(voters)].into_iter().chain(later).collect() }
}

pub(super) fn site(id: NodeId, disk: Disk) -> Site {
    let others: Vec<NodeId> = (1..=5).filter(|other| *other != id).collect();
    let mut site = Site::new(id, &others, disk, Mutations::default());
    site.place.reached = others.into_iter().collect();
    site
}

pub(super) fn new(id: NodeId, voters: &[NodeId]) -> Site {
    site(id, disk(voters, Vote::default(), &[]))
}

/// What a host does at once; the rest is handed back.
pub(super) fn carry_out(site: &mut Site) -> Vec<Effect> {
    let mut left = Vec::new();
    loop {
        let effects = site.core.take_effects();
        if effects.is_empty() {
            return left;
        }
        for effect in effects {
            match effect {
                Effect::Save(vote) => site.place.write(Write::Vote(vote), vec![Done::Saved(vote)]),
                Effect::Append(entry) => append(site, entry),
                effect => left.push(effect),
            }
        }
    }
}

pub(super) fn append(site: &mut Site, entry: LogEntry) {
    site.place.write(Write::Entries(vec![entry.clone()]), vec![Done::Flushed]);
    site.core.stored(&[entry], &site.place);
}

/// All that is queued becomes durable.
pub(super) fn flush(site: &mut Site) -> Vec<Effect> {
    let mut left = carry_out(site);
    while !site.place.queue.is_empty() {
        for done in site.place.flush_one() {
            match done {
                Done::Saved(vote) => site.core.saved(vote, &site.place),
                Done::Flushed => site.core.flushed(&site.place),
                Done::Answer(_) => {}
            }
        }
        left.extend(carry_out(site));
    }
    left
}

pub(super) fn ballot(effects: &[Effect]) -> Option<Ballot> {
    effects.iter().find_map(|effect| if let Effect::Ask { ballot, .. } = effect { Some(*ballot) } else { None })
}

pub(super) fn yes(site: &mut Site, from: NodeId, ballot: Ballot) {
    let cast = Cast { granted: true, vote: Vote::default(), last: None };
    site.core.heard_cast(from, ballot, cast, &site.place);
}

/// Stands, and asks for votes; its own is not durable.
pub(super) async fn stand(site: &mut Site, friend: NodeId) -> Ballot {
    tokio::time::advance(ms(TIMING.election_max_ms)).await;
    site.core.tick(&site.place);
    if let Some(pre) = ballot(&carry_out(site)) {
        yes(site, friend, pre);
    }
    ballot(&carry_out(site)).expect("it asks for votes")
}

/// Leads, its first entry durable.
pub(super) async fn lead(site: &mut Site, friend: NodeId) -> u64 {
    let ballot = stand(site, friend).await;
    yes(site, friend, ballot);
    flush(site);
    assert!(site.leads());
    ballot.term
}

pub(super) fn holds(site: &mut Site, from: NodeId, end: u64) -> Bond {
    let bond = Bond { process: from * 1_000_000, promise: 0 };
    site.core.contact(from, &site.place);
    let (session, term) = send(site, from).expect("something is to be sent");
    site.core.answered(from, session, term, Reply::Holds { end, bond }, &site.place);
    carry_out(site);
    bond
}

/// Sends what is to be sent to a follower: one entry at most.
pub(super) fn send(site: &mut Site, to: NodeId) -> Option<(u64, u64)> {
    match site.core.next_for(to, &site.place) {
        Next::Entries { session, term, from, committed_end, .. } => {
            let end = site.place.end().min(from + 1);
            site.core.sent(to, session, term, (from, end), committed_end, &site.place).then_some((session, term))
        }
        _ => None,
    }
}

/// Its node acknowledges a pulse sent now.
pub(super) fn pulse(site: &Site, from: NodeId, bond: Bond) {
    site.place.liveness.acknowledged(from, site.place.now(), bond);
}

/// As sent by the leader of a term.
pub(super) fn take(site: &mut Site, leader: NodeId, term: u64, prev: Option<LogPosition>, entries: Vec<LogEntry>) -> Taken {
    site.place.liveness.pulsed(leader, leader * 1_000_000);
    let taken = site.core.appended(Append { term, leader, prev, entries, committed_end: 0 }, &site.place);
    carry_out(site);
    if let Taken::Store { cut, entries, .. } = &taken {
        cut.iter().for_each(|cut| site.place.write(Write::Cut(*cut), Vec::new()));
        site.place.write(Write::Entries(entries.clone()), Vec::new());
    }
    taken
}

pub(super) fn asks(term: u64, candidate: NodeId, last: Option<LogPosition>) -> Ballot {
    Ballot { term, candidate, last, pre: false, sent: false }
}

/// Whether it votes so, once that is durable.
pub(super) fn votes(site: &mut Site, ballot: Ballot) -> bool {
    let answer = site.core.asked(ballot, &site.place);
    flush(site);
    matches!(answer, Answer::Saved(Cast { granted: true, .. }))
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_leader_appended_is_not_committed_before_something_of_the_leaders_own() {
    let mut site = site(1, disk(&[1, 2, 3], Vote { term: 2, node: 1, led: true }, &[2]));
    lead(&mut site, 2).await;
    holds(&mut site, 2, 2);
    assert_eq!(site.core.committed_end(), 0, "a majority holds the entry of term 2");
    holds(&mut site, 2, 3);
    assert_eq!(site.core.committed_end(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_does_not_lead_before_its_own_vote_is_durable_and_no_term_twice() {
    let mut site = new(1, &[1, 2, 3]);
    let ballot = stand(&mut site, 2).await;
    yes(&mut site, 2, ballot);
    yes(&mut site, 3, ballot);
    assert!(!site.leads());
    flush(&mut site);
    assert!(site.leads());
    let led = site.core.vote().term;
    site.crash(0);
    site.start(&[2, 3], 7);
    assert!(lead(&mut site, 3).await > led);
}

/// It has asked for votes before its own was durable, and asks for them in the same term again, without the tail that a crash took from it.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_has_lost_its_tail_meanwhile_is_not_given_the_same_vote_again() {
    let mut site = site(1, disk(&[1, 2, 3, 4, 5], Vote { term: 1, node: 3, led: true }, &[1, 1]));
    tokio::time::advance(ms(TIMING.election_min_ms)).await;
    assert!(votes(&mut site, asks(2, 2, at(1, 2))));
    assert!(votes(&mut site, asks(2, 2, at(1, 2))), "the answer may have been lost");
    assert!(!votes(&mut site, asks(2, 2, at(1, 1))));
}

#[tokio::test(start_paused = true)]
async fn a_replica_opened_anew_keeps_what_it_may_have_promised() {
    let mut site = new(1, &[1, 2, 3]);
    take(&mut site, 2, 1, at(0, 0), vec![command(1, 1, "x")]);
    flush(&mut site);
    site.crash(0);
    site.start(&[2, 3], 7);
    let last = site.place.last();
    assert!(!votes(&mut site, asks(2, 3, last)));
    tokio::time::advance(ms(TIMING.election_min_ms)).await;
    assert!(votes(&mut site, asks(2, 3, last)));
}

/// Its files were damaged, say, and are mended while its node goes on answering its leader's pulses.
#[tokio::test(start_paused = true)]
async fn a_replica_that_has_failed_and_is_opened_anew_is_counted_on_no_more() {
    let mut site = new(1, &[1, 2, 3]);
    take(&mut site, 2, 1, at(0, 0), vec![command(1, 1, "x")]);
    let bond = site.place.bond_with(2);
    site.core.fail("a damaged file".to_owned());
    site.reopen(7);
    tokio::time::advance(ms(TIMING.election_min_ms)).await;
    site.place.liveness.pulsed(2, 2_000_000);
    let last = site.place.last();
    assert!(!votes(&mut site, asks(2, 3, last)) || site.place.bond_with(2) != bond, "its leader counts on it by the same bond");
}

/// The leader was taken for gone, and is heard again before the group hears of that.
#[tokio::test(start_paused = true)]
async fn one_whose_leader_is_heard_again_is_not_orphaned_without_its_leader_knowing() {
    let mut site = new(1, &[1, 2, 3]);
    take(&mut site, 2, 1, at(0, 0), vec![command(1, 1, "x")]);
    tokio::time::advance(ms(TIMING.election_max_ms)).await;
    assert_eq!(site.place.liveness.newly_gone(), [2]);
    let Taken::Store { bond, .. } = take(&mut site, 2, 1, at(1, 1), vec![command(1, 2, "x")]) else { panic!("it is taken") };
    site.core.was_orphaned(2, Duration::ZERO, &site.place);
    let last = site.place.last();
    assert!(!votes(&mut site, asks(2, 3, last)) || site.place.bond_with(2) != bond, "its leader counts on it by the same bond");
}

/// It voted for one that did not win, which says truly that it does not lead that term: the one that does has let go of nobody.
#[tokio::test(start_paused = true)]
async fn a_release_by_one_that_never_led_the_term_does_not_free_the_followers_of_the_one_that_does() {
    let mut site = new(1, &[1, 2, 3, 4, 5]);
    assert!(votes(&mut site, asks(6, 2, at(1, 9))));
    site.core.was_released(6, Duration::ZERO, &site.place);
    take(&mut site, 3, 6, at(0, 0), vec![command(6, 1, "x")]);
    flush(&mut site);
    assert!(!votes(&mut site, asks(7, 4, at(6, 9))), "node 3 counts on it");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_past_a_promise_but_the_leaders_own_envoy_of_the_next_term() {
    let follower = || {
        let mut site = new(1, &[1, 2, 3]);
        take(&mut site, 2, 4, at(0, 0), vec![command(4, 1, "x")]);
        flush(&mut site);
        site
    };
    let envoy = |term| Ballot { sent: true, ..asks(term, 3, at(4, 1)) };
    assert!(!votes(&mut follower(), asks(5, 3, at(4, 1))));
    assert!(!votes(&mut follower(), envoy(6)), "another leader may lead term 5");
    assert!(!votes(&mut follower(), Ballot { last: at(4, 0), ..envoy(5) }), "it lacks something");
    assert!(votes(&mut follower(), envoy(5)));
    assert!(votes(&mut follower(), asks(5, 2, at(4, 1))), "whoever leads may stand anew");
}

#[tokio::test(start_paused = true)]
async fn a_released_follower_votes_at_once() {
    let mut site = new(1, &[1, 2, 3]);
    take(&mut site, 2, 4, at(0, 0), vec![command(4, 1, "x")]);
    flush(&mut site);
    assert!(!votes(&mut site, asks(5, 3, at(4, 1))));
    site.core.was_released(4, ms(100), &site.place);
    assert!(votes(&mut site, asks(5, 3, at(4, 1))));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_offered_and_is_not_relieved_holds_no_lease_and_stands_anew_in_the_next_term() {
    let mut site = new(1, &[1, 2, 3]);
    let term = lead(&mut site, 2).await;
    let end = site.place.end();
    let bond = holds(&mut site, 2, end);
    pulse(&site, 2, bond);
    assert!(site.core.holds_lease(&site.place));
    assert!(site.core.offer(2, &site.place));
    let offered = carry_out(&mut site);
    assert!(offered.iter().any(|effect| matches!(effect, Effect::Offer { to: 2, .. })), "{offered:?}");
    assert!(!site.core.holds_lease(&site.place));
    assert!(site.core.propose(FrameKind::Command, 0, "y".into(), None, &site.place).is_err());
    tokio::time::advance(ms(TIMING.election_max_ms)).await;
    site.core.tick(&site.place);
    assert!(!site.leads() && !site.core.holds_lease(&site.place));
    site.core.tick(&site.place);
    assert_eq!(ballot(&carry_out(&mut site)).map(|ballot| (ballot.term, ballot.pre)), Some((term + 1, true)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_no_majority_resigns() {
    let mut site = new(1, &[1, 2, 3]);
    lead(&mut site, 2).await;
    let end = site.place.end();
    let bond = holds(&mut site, 2, end);
    pulse(&site, 2, bond);
    tokio::time::advance(ms(TIMING.election_max_ms - 1)).await;
    site.core.mind_quorum(&site.place);
    assert!(site.leads() && !site.core.holds_lease(&site.place), "its lease is over before");
    tokio::time::advance(ms(1)).await;
    site.core.mind_quorum(&site.place);
    assert!(!site.leads());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_voted_out_hands_over_and_holds_no_lease() {
    let mut site = new(1, &[1, 2, 3]);
    let term = lead(&mut site, 2).await;
    for (index, sets) in [vec![[1, 2, 3].into(), [2, 3].into()], vec![BTreeSet::from([2, 3])]].into_iter().enumerate() {
        for node in [2, 3] {
            catch_up(&mut site, node);
        }
        let members = Members::of(sets, BTreeSet::new());
        let entry = site.core.propose_members(&members, &site.place);
        assert_eq!(entry.as_ref().ok(), Some(&membership(&members, term, index as u64 + 2)));
        entry.into_iter().for_each(|entry| append(&mut site, entry));
        flush(&mut site);
    }
    assert!(!site.core.holds_lease(&site.place));
    let effects = [2, 3].map(|node| catch_up(&mut site, node)).concat();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Offer { .. })), "{effects:?}");
}

/// The follower acknowledges everything.
pub(super) fn catch_up(site: &mut Site, node: NodeId) -> Vec<Effect> {
    let bond = Bond { process: node * 1_000_000, promise: 0 };
    let mut left = Vec::new();
    while let Some((session, term)) = send(site, node) {
        let end = site.place.end();
        site.core.answered(node, session, term, Reply::Holds { end, bond }, &site.place);
        left.extend(carry_out(site));
    }
    left
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_removed_and_comes_back_disturbs_nobody() {
    let mut leader = new(1, &[1, 2]);
    let term = lead(&mut leader, 2).await;
    let bond = holds(&mut leader, 2, 2);
    pulse(&leader, 2, bond);
    let answer = leader.core.asked(Ballot { pre: true, ..asks(term + 9, 3, at(9, 9)) }, &leader.place);
    assert!(matches!(answer, Answer::Now(Cast { granted: false, .. })), "{answer:?}");
    assert!(!votes(&mut leader, asks(term + 9, 3, at(9, 9))));
    assert!(leader.leads() && leader.core.vote().term == term);
    // It only ever asks whether it would be elected.
    let mut removed = new(3, &[1, 2, 3]);
    for _ in 0..5 {
        tokio::time::advance(ms(TIMING.election_max_ms)).await;
        removed.core.tick(&removed.place);
        assert!(ballot(&carry_out(&mut removed)).is_some_and(|ballot| ballot.pre));
    }
    assert_eq!(removed.core.vote(), Vote::default());
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_has_lost_its_tail_is_found_out_and_sent_it_again() {
    let mut site = site(1, disk(&[1, 2, 3], Vote { term: 1, node: 1, led: true }, &[1; 9]));
    lead(&mut site, 2).await;
    holds(&mut site, 2, 11);
    let bond = Bond { process: 2_000_001, promise: 0 };
    let entry = site.core.propose(FrameKind::Command, 0, "y".into(), None, &site.place);
    entry.into_iter().for_each(|entry| append(&mut site, entry));
    flush(&mut site);
    let (session, term) = send(&mut site, 2).expect("an append");
    site.core.answered(2, session, term, Reply::Differs { end: 4, bond }, &site.place);
    assert!(site.core.lead().is_some_and(|lead| lead.matched().any(|held| held == (2, 4))), "it holds no more than that");
    assert!(matches!(site.core.next_for(2, &site.place), Next::Entries { from: 4, .. }));
}
