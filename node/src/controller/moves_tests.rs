//! Moves and nodes as the metadata see them.

use meridian_auth::principal::Principal;

use super::super::command::Command;
use super::super::image::NodeRecord;
use super::super::state::State;
use super::*;

const TOPIC: Uuid = Uuid::from_u128(7);

fn node(id: u64) -> NodeRecord {
    let address = format!("n{id}.eu.example:9000");
    let (admin, link, peer) = (address.clone(), address.clone(), Some(address));
    NodeRecord { id, host: format!("n{id}.eu.example"), port: 9092, admin, link, rack: None, peer }
}

fn register(id: u64, joins: bool) -> Command {
    Command::RegisterNode { node: node(id), joins }
}

/// Nodes 1 to `nodes`, and a topic of two partitions on the first three.
fn region(nodes: u64) -> State {
    let mut state = State::new("dev", "eu", 2, vec![Principal::user("root")]);
    (1..=nodes).for_each(|id| assert_eq!(apply(&mut state, register(id, false)), Answer::Done));
    let replicas = vec![vec![1, 2, 3], vec![2, 3, 1]];
    assert_eq!(apply(&mut state, Command::CreateTopic { name: "t".into(), id: TOPIC, replicas, configs: BTreeMap::new() }), Answer::Done);
    state
}

fn apply(state: &mut State, command: Command) -> Answer {
    let index = state.image().version + 1;
    state.apply(index, command)
}

fn move_one(state: &mut State, partition: i32, target: Option<&[u64]>) -> Option<MoveRefusal> {
    let wanted = PartitionMove { topic: TOPIC, partition, target: target.map(<[u64]>::to_vec) };
    match apply(state, Command::MovePartitions { moves: vec![wanted] }) {
        Answer::Moves { mut refusals } => refusals.pop().expect("one answer"),
        other => panic!("{other:?}"),
    }
}

fn finish_one(state: &mut State, partition: i32, target: &[u64]) {
    assert_eq!(apply(state, Command::FinishMove { topic: TOPIC, partition, target: target.to_vec() }), Answer::Done);
}

fn topic(state: &State) -> std::sync::Arc<Topic> {
    state.image().topics["t"].clone()
}

fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Invalid { message } => message,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn while_a_partition_moves_old_and_new_nodes_host_it_and_only_the_old_ones_may_form_it() {
    let mut state = region(5);
    assert_eq!(move_one(&mut state, 0, Some(&[4, 5, 1])), None);
    let moving = topic(&state);
    assert_eq!(moving.partitions[0], [1, 2, 3]);
    assert_eq!(moving.hosts(0), BTreeSet::from([1, 2, 3, 4, 5]));
    assert_eq!(moving.founders(0), [1, 2, 3]);
    finish_one(&mut state, 0, &[4, 5, 1]);
    let moved = topic(&state);
    assert_eq!((&moved.partitions[0], moved.hosts(0)), (&vec![4, 5, 1], BTreeSet::from([1, 4, 5])));
    assert!(moved.founders(0).is_empty(), "an empty disk forms no second group");
    assert_eq!(moved.founders(1), [2, 3, 1]);
    assert_eq!(state.image().topics_by_id[&TOPIC], moved);
}

#[test]
fn a_move_taken_back_keeps_every_host_until_the_group_says_that_it_is_back() {
    let mut state = region(5);
    move_one(&mut state, 0, Some(&[4, 5, 1]));
    move_one(&mut state, 0, Some(&[5, 2, 1]));
    assert_eq!(move_one(&mut state, 0, None), None);
    assert_eq!(topic(&state).hosts(0), BTreeSet::from([1, 2, 3, 4, 5]));
    finish_one(&mut state, 0, &[5, 2, 1]);
    assert_eq!(topic(&state).moves.len(), 1, "a late report of another target");
    finish_one(&mut state, 0, &[1, 2, 3]);
    assert_eq!(topic(&state).hosts(0), BTreeSet::from([1, 2, 3]));
    assert_eq!(move_one(&mut state, 0, None), Some(MoveRefusal::NothingToCancel));
}

#[test]
fn impossible_targets_are_refused_each_for_itself() {
    let mut state = region(3);
    let target = |partition, nodes: &[u64]| PartitionMove { topic: TOPIC, partition, target: Some(nodes.to_vec()) };
    let moves = vec![target(0, &[]), target(0, &[1, 1]), target(0, &[9]), target(5, &[1]), target(-1, &[1]), target(1, &[3, 2, 1])];
    let Answer::Moves { refusals } = apply(&mut state, Command::MovePartitions { moves }) else { panic!("no answer per partition") };
    assert!(refusals[..3].iter().all(|refusal| matches!(refusal, Some(MoveRefusal::Impossible { .. }))), "{refusals:?}");
    assert_eq!(refusals[3..], [Some(MoveRefusal::UnknownPartition), Some(MoveRefusal::UnknownPartition), None]);
    assert_eq!(topic(&state).moves[&1].target, [3, 2, 1], "another order is another preferred leader");
}

#[test]
fn a_node_that_did_not_found_the_region_is_let_in_only_when_admitted() {
    let mut state = region(3);
    assert_eq!(apply(&mut state, register(4, true)), Answer::NotAdmitted);
    assert_eq!(apply(&mut state, Command::AdmitNode { id: 4 }), Answer::Done);
    assert_eq!(apply(&mut state, register(4, true)), Answer::Done);
    assert!(state.image().admitted.is_empty());
    assert_eq!(apply(&mut state, register(4, true)), Answer::Done, "a restart");
    refusal(apply(&mut state, Command::AdmitNode { id: 4 }));
}

#[test]
fn a_removed_node_does_not_come_back_by_itself() {
    let mut state = region(4);
    assert_eq!(apply(&mut state, Command::RemoveNode { id: 4, force: false }), Answer::Done);
    assert_eq!(apply(&mut state, register(4, false)), Answer::NotAdmitted);
    apply(&mut state, Command::AdmitNode { id: 4 });
    assert_eq!(apply(&mut state, register(4, false)), Answer::Done);
}

#[test]
fn a_node_that_holds_something_is_removed_by_force_alone_and_never_a_majority() {
    let mut state = region(4);
    assert_eq!(refusal(apply(&mut state, Command::RemoveNode { id: 1, force: false })), "node 1 holds 2 replicas: drain it first");
    assert_eq!(apply(&mut state, Command::RemoveNode { id: 1, force: true }), Answer::Done);
    assert!(refusal(apply(&mut state, Command::RemoveNode { id: 2, force: true })).contains("majority"));
    assert!(!state.image().nodes.contains_key(&1));
}

#[test]
fn draining_is_refused_where_the_replicas_would_have_no_place() {
    let mut state = region(3);
    let refused = refusal(apply(&mut state, Command::DrainNode { id: 2, drain: true }));
    assert_eq!(refused, "topic t keeps 3 replicas, and only 2 nodes would be left for them: add a node first");
    assert!(state.image().draining.is_empty());
    apply(&mut state, register(4, false));
    assert_eq!(apply(&mut state, Command::DrainNode { id: 2, drain: true }), Answer::Done);
}

#[test]
fn an_end_of_draining_takes_back_the_moves_that_were_for_it() {
    let mut state = region(5);
    apply(&mut state, Command::DrainNode { id: 2, drain: true });
    move_one(&mut state, 0, Some(&[1, 4, 3]));
    move_one(&mut state, 1, Some(&[2, 5, 1]));
    assert_eq!(apply(&mut state, Command::DrainNode { id: 2, drain: false }), Answer::Done);
    assert_eq!(topic(&state).moves[&0].target, [1, 2, 3]);
    assert_eq!(topic(&state).moves[&1].target, [2, 5, 1], "this one keeps the node");
}
