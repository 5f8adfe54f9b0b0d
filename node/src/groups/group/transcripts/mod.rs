//! The classic group protocol as transcripts: lines that begin with `>` are played, the others are what must come of them.

mod stage;

use uuid::Uuid;

use super::*;
use crate::groups::record::StoredMember;
use stage::{holds, play};

#[test]
fn two_members_join_within_the_initial_delay_and_share_one_generation() {
    holds(
        "> join a
        > wait 300
        > join b offers roundrobin,range
        > wait 199
        > state
        PreparingRebalance gen 0 [a1 b2]
        > wait 501
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync b gen 1
        > state
        CompletingRebalance gen 1 [a1 b2]
        > hold
        > sync a gen 1 assign a1=0,b2=1
        log: gen 1 [a1 b2]
        > heartbeat a gen 1
        ok
        > release
        a gets \"0\"
        b gets \"1\"
        > state
        Stable gen 1 [a1 b2]
        > heartbeat b gen 1
        ok
        > commit b gen 1
        ok",
    );
}

#[test]
fn a_new_client_is_told_its_id_first_and_must_use_it_in_time() {
    holds(
        "> join a v4
        a shall be a1
        > join a v4
        > wait 500
        a1 in gen 1 range leads [a1=a:range]
        > sync a gen 1 assign a1=0
        log: gen 1 [a1]
        a gets \"0\"
        > join b v4
        b shall be b4
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 1001
        > join b v4
        b may not join: UnknownMemberId",
    );
}

#[test]
fn a_third_member_makes_the_others_rejoin_and_a_late_one_is_left_behind() {
    holds(
        "> join a
        > join b
        > wait 1000
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync a gen 1 assign a1=0,b2=1
        log: gen 1 [a1 b2]
        a gets \"0\"
        > sync b gen 1
        b gets \"1\"
        > join c
        > heartbeat a gen 1
        RebalanceInProgress
        > commit a gen 1
        ok
        > join a
        > heartbeat b gen 1
        RebalanceInProgress
        > wait 9000
        > heartbeat b gen 1
        RebalanceInProgress
        > wait 10001
        a1 in gen 2 range leads [a1=a:range c5=c:range]
        c5 in gen 2 range follows a1
        > commit b gen 1
        UnknownMemberId
        > commit c gen 1
        IllegalGeneration
        > commit c gen 2
        RebalanceInProgress
        > heartbeat c gen 2
        ok",
    );
}

#[test]
fn a_member_that_leaves_or_falls_silent_is_missed_by_the_others() {
    holds(
        "> join a
        > join b
        > wait 1000
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync a gen 1 assign a1=0,b2=1
        log: gen 1 [a1 b2]
        a gets \"0\"
        > sync b gen 1
        b gets \"1\"
        > leave a
        ok
        > leave a
        UnknownMemberId
        > heartbeat a gen 1
        UnknownMemberId
        > heartbeat b gen 1
        RebalanceInProgress
        > join b
        b2 in gen 2 range leads [b2=b:range]
        > sync b gen 2 assign b2=01
        log: gen 2 [b2]
        b gets \"01\"
        > delete
        NonEmptyGroup
        > wait 9999
        > state
        Stable gen 2 [b2]
        > wait 1
        log: gen 3 []
        > state
        Empty gen 3 []
        > commit nobody
        ok
        > delete
        ok
        > join b anew
        b may not join: CoordinatorNotAvailable",
    );
}

#[test]
fn a_leader_that_never_assigns_is_put_out_though_it_heartbeats() {
    holds(
        "> join a
        > join b
        > wait 1000
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync b gen 1
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat a gen 1
        ok
        > wait 6000
        b gets no assignment: RebalanceInProgress
        > heartbeat a gen 1
        UnknownMemberId
        > join b
        b2 in gen 2 range leads [b2=b:range]",
    );
}

#[test]
fn a_follower_that_never_asks_is_put_out_of_a_stable_group_too() {
    holds(
        "> join a
        > join b
        > wait 1000
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync a gen 1 assign a1=0,b2=1
        log: gen 1 [a1 b2]
        a gets \"0\"
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 9000
        > heartbeat b gen 1
        ok
        > heartbeat a gen 1
        ok
        > wait 6000
        > heartbeat b gen 1
        UnknownMemberId
        > heartbeat a gen 1
        RebalanceInProgress",
    );
}

#[test]
fn a_static_member_comes_back_under_a_new_id_without_a_rebalance_and_its_old_self_is_fenced() {
    holds(
        "> join a static i
        > join b
        > wait 1000
        a1 in gen 1 range leads [a1=a:range b2=b:range]
        b2 in gen 1 range follows a1
        > sync a static i gen 1 assign a1=0,b2=1
        log: gen 1 [a1 b2]
        a gets \"0\"
        > sync b gen 1
        b gets \"1\"
        > join a anew static i v9
        log: gen 1 [a5 b2]
        a5 in gen 1 range leads without assigning [a5=a:range b2=b:range]
        > sync a static i gen 1
        a gets \"0\"
        > heartbeat b gen 1
        ok
        > heartbeat a as a1 static i gen 1
        FencedInstanceId
        > commit a as a1 static i gen 1
        FencedInstanceId
        > sync a as a1 static i gen 1
        a gets no assignment: FencedInstanceId
        > join a anew static i
        log: gen 1 [a8 b2]
        a8 in gen 1 range follows a5
        > leave a static i
        ok
        > heartbeat b gen 1
        RebalanceInProgress
        > heartbeat a static i gen 1
        UnknownMemberId",
    );
}

#[test]
fn members_without_a_common_protocol_are_refused() {
    holds(
        "> join a offers range,sticky
        > join b offers roundrobin
        b may not join: InconsistentGroupProtocol
        > join c offers range type connect
        c may not join: InconsistentGroupProtocol
        > join d offers sticky,range
        > wait 1000
        a1 in gen 1 range leads [a1=a:range d4=d:range]
        d4 in gen 1 range follows a1
        > sync d gen 1 protocol sticky
        d gets no assignment: InconsistentGroupProtocol",
    );
}

#[test]
fn requests_of_another_generation_or_of_nobody_are_refused() {
    holds(
        "> heartbeat x as x gen 1
        UnknownMemberId
        > commit x as x gen 1
        UnknownMemberId
        > commit nobody
        ok
        > join x as x
        x may not join: UnknownMemberId
        > join a
        > commit nobody
        UnknownMemberId
        > wait 500
        a2 in gen 1 range leads [a2=a:range]
        > sync a gen 2
        a gets no assignment: IllegalGeneration
        > heartbeat a gen 0
        IllegalGeneration
        > sync a gen 1 assign a2=0
        log: gen 1 [a2]
        a gets \"0\"
        > sync a gen 1
        a gets \"0\"
        > join a
        a2 in gen 2 range leads [a2=a:range]",
    );
}

#[test]
fn a_rebalance_overtakes_assignments_on_their_way_to_the_log() {
    holds(
        "> join a
        > wait 500
        a1 in gen 1 range leads [a1=a:range]
        > hold
        > sync a gen 1 assign a1=0
        log: gen 1 [a1]
        > join b
        a gets no assignment: RebalanceInProgress
        > join a
        a1 in gen 2 range leads [a1=a:range b3=b:range]
        b3 in gen 2 range follows a1
        > release
        > state
        CompletingRebalance gen 2 [a1 b3]",
    );
}

#[test]
fn a_group_read_from_the_log_goes_on_where_it_stood() {
    let now = Now { monotonic_ms: 0, wall_ms: 0 };
    let (mut group, mut effects) = (Group::new(now), Vec::new());
    let member = |id: &str, instance: Option<&str>| StoredMember {
        id: id.to_owned(),
        instance_id: instance.map(str::to_owned),
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 10_000,
        subscription: Bytes::from_static(b"topics"),
        assignment: Bytes::from_static(b"0"),
    };
    let members = vec![member("a1", None), member("b2", Some("i"))];
    let stored = StoredGroup {
        protocol_type: "consumer".to_owned(),
        generation: 4,
        protocol: Some("range".to_owned()),
        leader: Some("a1".to_owned()),
        timestamp_ms: 0,
        members,
    };
    group.restore(stored.clone(), now);
    assert_eq!(group.snapshot(None, now), stored);
    let later = Now { monotonic_ms: 9_999, wall_ms: 0 };
    group.wake(later);
    assert_eq!(group.heartbeat("a1", None, 4, later), Ok(()));
    assert_eq!(group.heartbeat("a1", Some("i"), 4, later), Err(ResponseError::FencedInstanceId));
    assert_eq!(group.deadline_ms(), Some(19_999), "a whole session from when it was awake");
    group.tick(Now { monotonic_ms: 19_999, wall_ms: 0 }, &mut effects);
    assert!(matches!(&effects[..], [Effect::Store { group, .. }] if group.members.is_empty() && group.generation == 5));
}

#[test]
fn a_group_has_bounds() {
    let now = Now { monotonic_ms: 0, wall_ms: 0 };
    let mut group = Group::new(now);
    let committed = |topic_id| Committed { topic_id, offset: 1, leader_epoch: -1, metadata: String::new(), commit_timestamp_ms: 0 };
    for partition in 0..OFFSETS_MAX as i32 {
        group.committed("t", partition, committed(Uuid::from_u128(1)));
    }
    assert!(group.has_room_for([("t", 5)].into_iter()), "what is there may be committed again");
    assert!(!group.has_room_for([("u", 5)].into_iter()));
    assert_eq!(group.offsets_of(Uuid::from_u128(1)).len(), OFFSETS_MAX);

    let mut stage = String::new();
    (0..=MEMBERS_MAX).for_each(|_| stage.push_str("> join m anew\n"));
    assert!(play(&stage).ends_with("m may not join: GroupMaxSizeReached\n"));
}
