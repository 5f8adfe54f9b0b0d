//! Commands and the images they make.

use meridian_auth::acl::{Operation, Permission};
use meridian_replication::catalogue::{Catalogue, CatalogueNode, CatalogueTopic};
use proptest::prelude::*;

use super::super::node_config::SENDING_RATE;
use super::*;

const ALICE_HOST: &str = "10.0.0.1";

fn alice() -> Principal {
    Principal::user("alice")
}

fn node(id: u64) -> NodeRecord {
    let address = format!("n{id}.eu.example:9000");
    NodeRecord { id, host: format!("n{id}.eu.example"), port: 9092, admin: address.clone(), link: address, rack: None, peer: None }
}

/// Region eu with nodes 1 to 3; three commands applied.
fn eu() -> State {
    let mut state = State::new("dev", "eu", 2, vec![Principal::user("root")]);
    for id in 1..=3 {
        assert_eq!(state.apply(id, Command::RegisterNode { node: node(id), joins: false }), Answer::Done);
    }
    state
}

fn next(state: &mut State, command: Command) -> Answer {
    let index = state.image().version + 1;
    state.apply(index, command)
}

fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn create(name: &str, id: u128, pairs: &[(&str, &str)]) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: Uuid::from_u128(id),
        replicas: vec![vec![1, 2, 3], vec![2, 3, 1]],
        configs: configs(pairs),
    }
}

fn alter<const N: usize>(name: &str, changes: [(String, ConfigChange); N]) -> Command {
    Command::AlterTopicConfigs { name: name.into(), changes: BTreeMap::from(changes), replace: false }
}

fn delete(name: &str, id: u128) -> Command {
    Command::DeleteTopic { name: name.into(), id: Uuid::from_u128(id) }
}

fn grow(name: &str, from: usize, replicas: Vec<Vec<u64>>) -> Command {
    Command::GrowTopic { name: name.into(), from, replicas }
}

fn acl(resource: ResourceType, pattern: PatternType, name: &str, operation: Operation, permission: Permission) -> Binding {
    Binding { resource, pattern, name: name.into(), principal: alice(), host: "*".into(), operation, permission }
}

fn read_topic(name: &str) -> Binding {
    acl(ResourceType::Topic, PatternType::Literal, name, Operation::Read, Permission::Allow)
}

fn told(name: &str, id: u128) -> CatalogueTopic {
    CatalogueTopic {
        name: name.into(),
        id: Uuid::from_u128(id),
        partitions: 1,
        configs: configs(&[("mesh.mirrors", "eu"), ("later.thing", "1")]),
    }
}

fn remote(id: u64, link: &str) -> CatalogueNode {
    CatalogueNode { id, link: link.into() }
}

fn catalogue(version: u64, topics: &[CatalogueTopic], acls: &[Binding]) -> Command {
    let replicas = topics.iter().map(|topic| (topic.id, vec![vec![1, 2, 3]; topic.partitions.clamp(0, 8) as usize])).collect();
    let catalogue = Catalogue { version, topics: topics.to_vec(), acls: acls.to_vec(), nodes: vec![remote(1, "n1.us.example:9200")] };
    Command::AcceptCatalogue { region: "us".into(), catalogue, replicas }
}

fn may_read(state: &State, resource: ResourceType, name: &str) -> bool {
    state.image().allows(&alice(), ALICE_HOST, Operation::Read, resource, name)
}

fn refused(answer: Answer) -> String {
    match answer {
        Answer::Invalid { message } => message,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_topic_is_created_altered_and_deleted_and_old_images_stay() {
    let mut state = eu();
    assert_eq!(next(&mut state, create("orders", 7, &[("mesh.mirrors", "us,asia"), ("mesh.home", "eu")])), Answer::Done);
    let created = state.image();
    assert_eq!(created.topics["orders"].mirrors, ["asia", "us"]);
    assert_eq!(created.topics["orders"], created.topics_by_id[&Uuid::from_u128(7)]);
    let changes = [("mesh.mirrors".to_string(), ConfigChange::Reset), ("retention.ms".to_string(), ConfigChange::Set("1000".to_string()))];
    assert_eq!(next(&mut state, alter("orders", changes)), Answer::Done);
    assert!(state.image().topics["orders"].mirrors.is_empty());
    assert_eq!(state.image().topics_by_id[&Uuid::from_u128(7)].configs["retention.ms"], "1000");
    assert_eq!(next(&mut state, delete("orders", 8)), Answer::UnknownTopic, "another topic of that name");
    assert_eq!(next(&mut state, delete("orders", 7)), Answer::Done);
    assert_eq!(next(&mut state, delete("orders", 7)), Answer::UnknownTopic);
    assert!(state.image().topics_by_id.is_empty());
    assert_eq!(created.topics["orders"].mirrors, ["asia", "us"], "an image given out does not change");
}

#[test]
fn a_topic_grows_and_what_was_there_stays() {
    let mut state = eu();
    next(&mut state, create("orders", 7, &[]));
    assert_eq!(next(&mut state, grow("orders", 2, vec![vec![3, 1, 2]])), Answer::Done);
    let image = state.image();
    assert_eq!(image.topics["orders"].partitions, [vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]]);
    assert_eq!(image.topics["orders"], image.topics_by_id[&Uuid::from_u128(7)]);
}

#[test]
fn lists_are_changed_where_they_are_and_a_replacement_resets_the_rest() {
    let mut state = eu();
    next(&mut state, create("orders", 7, &[("mesh.mirrors", "us"), ("retention.ms", "5")]));
    next(&mut state, alter("orders", [("mesh.mirrors".into(), ConfigChange::Append("asia, us".into()))]));
    assert_eq!(state.image().topics["orders"].mirrors, ["asia", "us"]);
    next(&mut state, alter("orders", [("mesh.mirrors".into(), ConfigChange::Subtract("us".into()))]));
    assert_eq!(state.image().topics["orders"].mirrors, ["asia"]);
    let changes = BTreeMap::from([("retention.bytes".to_string(), ConfigChange::Set("1".into()))]);
    let replacement = Command::AlterTopicConfigs { name: "orders".into(), changes, replace: true };
    assert_eq!(next(&mut state, replacement), Answer::Done);
    assert_eq!(state.image().topics["orders"].configs, configs(&[("retention.bytes", "1")]));
    assert!(state.image().topics["orders"].mirrors.is_empty());
}

#[test]
fn a_refused_command_changes_only_the_version() {
    let mut state = eu();
    next(&mut state, create("orders", 7, &[]));
    let before = state.image();
    let with =
        |replicas: Vec<Vec<u64>>| Command::CreateTopic { name: "new".into(), id: Uuid::from_u128(8), replicas, configs: BTreeMap::new() };
    let one_good_one_bad = vec![read_topic("orders"), read_topic("")];
    let commands = [
        create("a/b", 8, &[]),
        create("new", 7, &[]),
        create("new", 0, &[]),
        create("new", 8, &[("retention.sm", "1")]),
        create("new", 8, &[("mesh.home", "us")]),
        create("__consumer_offsets", 8, &[("mesh.mirrors", "us")]),
        with(vec![]),
        with(vec![vec![]]),
        with(vec![vec![1, 1]]),
        with(vec![vec![1, 9]]),
        with(vec![vec![1], vec![1, 2]]),
        Command::RegisterNode { node: NodeRecord { port: 0, ..node(4) }, joins: false },
        Command::RegisterNode { node: node(1 << 31), joins: false },
        alter("orders", [("banana".into(), ConfigChange::Reset)]),
        alter("orders", [("retention.ms".into(), ConfigChange::Append("1".into()))]),
        alter("orders", [("mesh.mirrors".into(), ConfigChange::Append("us,eu".into()))]),
        grow("orders", 2, vec![]),
        grow("orders", 1, vec![vec![1, 2, 3]]),
        grow("orders", 2, vec![vec![1, 2]]),
        grow("orders", 2, vec![vec![1, 2, 9]]),
        Command::CreateAcls { bindings: one_good_one_bad },
        Command::AllocateProducerIds { count: 0 },
    ];
    for command in commands {
        refused(next(&mut state, command));
    }
    assert_eq!(next(&mut state, create("orders", 8, &[])), Answer::TopicExists);
    assert_eq!(*state.image(), Image { version: state.image().version, ..Image::clone(&before) });
}

#[test]
fn producer_ids_carry_the_region_and_never_repeat() {
    let mut state = eu();
    let first = 2i64 << 48;
    assert_eq!(next(&mut state, Command::AllocateProducerIds { count: 1000 }), Answer::ProducerIds { first, count: 1000 });
    assert_eq!(next(&mut state, Command::AllocateProducerIds { count: 1 }), Answer::ProducerIds { first: first + 1000, count: 1 });
    let mut last = Image::clone(&state.image());
    last.next_producer_id = (3i64 << 48) - 1;
    state.image = Arc::new(last);
    refused(next(&mut state, Command::AllocateProducerIds { count: 2 }));
    assert_eq!(next(&mut state, Command::AllocateProducerIds { count: 1 }), Answer::ProducerIds { first: (3 << 48) - 1, count: 1 });
    refused(next(&mut state, Command::AllocateProducerIds { count: 1 }));
}

#[test]
fn a_mirror_is_made_updated_and_removed_by_its_home_alone() {
    let mut state = eu();
    assert_eq!(next(&mut state, catalogue(5, &[told("clicks", 20)], &[])), Answer::Done);
    let mirror = state.image().topics["clicks"].clone();
    assert_eq!((mirror.home.as_str(), mirror.mirrors.as_slice()), ("us", ["eu".to_string()].as_slice()));
    assert!(!mirror.configs.contains_key("later.thing"), "what this version does not know has no meaning here");

    let elsewhere = Answer::HomedElsewhere { home: "us".into() };
    assert_eq!(next(&mut state, delete("clicks", 20)), elsewhere);
    assert_eq!(next(&mut state, alter("clicks", [])), elsewhere);
    assert_eq!(next(&mut state, grow("clicks", 1, vec![vec![1, 2, 3]])), elsewhere);
    assert_eq!(next(&mut state, Command::CreateAcls { bindings: vec![read_topic("clicks")] }), elsewhere);
    assert_eq!(next(&mut state, create("clicks", 9, &[])), Answer::TopicExists);

    let grown = CatalogueTopic { partitions: 2, ..told("clicks", 20) };
    assert_eq!(next(&mut state, catalogue(4, &[], &[])), Answer::Done);
    assert!(state.image().topics.contains_key("clicks"), "an older catalogue is ignored");
    assert_eq!(next(&mut state, catalogue(6, &[grown], &[])), Answer::Done);
    assert_eq!(state.image().topics["clicks"].partitions.len(), 2);
    assert_eq!(next(&mut state, catalogue(7, &[told("clicks", 21)], &[])), Answer::Done);
    assert_eq!(state.image().topics["clicks"].id, Uuid::from_u128(21), "made anew at home, made anew here");
    assert_eq!(next(&mut state, catalogue(8, &[], &[])), Answer::Done);
    assert!(state.image().topics.is_empty() && state.image().topics_by_id.is_empty());
}

#[test]
fn a_name_clash_is_recorded_and_never_overwrites() {
    let mut state = eu();
    next(&mut state, create("orders", 7, &[]));
    let own = state.image().topics["orders"].clone();
    let topics = [
        told("orders", 20),
        told("stolen", 7),
        told("__consumer_offsets", 22),
        told("a/b", 23),
        told("clicks", 24),
        told("clicks", 25),
        CatalogueTopic { partitions: -1, ..told("negative", 26) },
    ];
    assert_eq!(next(&mut state, catalogue(1, &topics, &[])), Answer::Done);
    let image = state.image();
    assert_eq!(image.topics["orders"], own);
    assert_eq!(image.topics.keys().collect::<Vec<_>>(), ["clicks", "orders"]);
    let names: Vec<&str> = image.conflicts["us"].iter().map(|conflict| conflict.name.as_str()).collect();
    assert_eq!(names, ["orders", "stolen", "__consumer_offsets", "a/b", "clicks", "negative"]);
    next(&mut state, delete("orders", 7));
    assert_eq!(next(&mut state, catalogue(2, &[told("orders", 20)], &[])), Answer::Done);
    assert!(state.image().conflicts.is_empty());
    assert_eq!(state.image().topics["orders"].home, "us");
}

#[test]
fn a_catalogue_without_a_placement_is_not_accepted() {
    let mut state = eu();
    let catalogue = Catalogue { version: 1, topics: vec![told("clicks", 20)], acls: vec![], nodes: vec![] };
    let region = |region: &str| Command::AcceptCatalogue { region: region.into(), catalogue: catalogue.clone(), replicas: BTreeMap::new() };
    assert!(refused(next(&mut state, region("us"))).contains("placement"));
    assert!(state.image().catalogue_versions.is_empty());
    refused(next(&mut state, region("eu")));
}

#[test]
fn a_topic_is_decided_by_its_home_alone() {
    let mut state = eu();
    next(&mut state, create("orders", 7, &[]));
    let here = acl(ResourceType::Topic, PatternType::Prefixed, "c", Operation::All, Permission::Allow);
    next(&mut state, Command::CreateAcls { bindings: vec![here, read_topic("orders")] });
    assert!(may_read(&state, ResourceType::Topic, "clicks"), "an unknown topic is decided here");
    next(&mut state, catalogue(1, &[told("clicks", 20)], &[]));
    assert!(!may_read(&state, ResourceType::Topic, "clicks"));
    let deny_orders = acl(ResourceType::Topic, PatternType::Literal, "orders", Operation::All, Permission::Deny);
    let cluster = acl(ResourceType::Cluster, PatternType::Literal, CLUSTER_NAME, Operation::All, Permission::Allow);
    next(&mut state, catalogue(2, &[told("clicks", 20)], &[read_topic("clicks"), deny_orders, cluster]));
    assert!(may_read(&state, ResourceType::Topic, "clicks") && may_read(&state, ResourceType::Topic, "orders"));
    assert!(!may_read(&state, ResourceType::Cluster, CLUSTER_NAME), "no region rules another's cluster");
    next(&mut state, catalogue(3, &[told("clicks", 20)], &[]));
    assert!(!may_read(&state, ResourceType::Topic, "clicks"), "a region's ACLs are replaced, not added to");
    let mut unloaded = Image::clone(&state.image());
    unloaded.acls.clear();
    assert!(!unloaded.allows(&alice(), ALICE_HOST, Operation::Read, ResourceType::Topic, "orders"));
    assert!(unloaded.allows(&Principal::user("root"), ALICE_HOST, Operation::Read, ResourceType::Topic, "orders"));
}

#[test]
fn a_group_is_decided_by_every_region_and_any_deny_refuses() {
    for resource in [ResourceType::Group, ResourceType::TransactionalId] {
        let mut state = eu();
        assert!(!may_read(&state, resource, "g"));
        let rule = |permission| acl(resource, PatternType::Literal, "g", Operation::Read, permission);
        next(&mut state, catalogue(1, &[], &[rule(Permission::Allow)]));
        assert!(may_read(&state, resource, "g"));
        next(&mut state, Command::CreateAcls { bindings: vec![rule(Permission::Deny)] });
        assert!(!may_read(&state, resource, "g"));
        let filters = vec![Filter { permission: Some(Permission::Deny), ..Filter::default() }, Filter::default()];
        let removed = vec![vec![rule(Permission::Deny)], vec![]];
        assert_eq!(next(&mut state, Command::DeleteAcls { filters }), Answer::AclsDeleted { matches: removed });
        assert!(may_read(&state, resource, "g"));
    }
}

#[test]
fn another_regions_deny_counts_even_where_it_could_not_be_made_here() {
    let mut state = eu();
    let long = "g".repeat(TEXT_BYTES_MAX + 1);
    let rule = |pattern, name: &str, permission| acl(ResourceType::Group, pattern, name, Operation::Read, permission);
    next(&mut state, Command::CreateAcls { bindings: vec![rule(PatternType::Prefixed, "g", Permission::Allow)] });
    assert!(may_read(&state, ResourceType::Group, &long));
    let deny = rule(PatternType::Literal, &long, Permission::Deny);
    refused(next(&mut state, Command::CreateAcls { bindings: vec![deny.clone()] }));
    next(&mut state, catalogue(1, &[], &[deny]));
    assert!(!may_read(&state, ResourceType::Group, &long));
}

#[test]
fn a_mirror_that_grows_keeps_its_partitions_where_they_are() {
    let mut state = eu();
    next(&mut state, catalogue(1, &[told("clicks", 20)], &[]));
    let grown = CatalogueTopic { partitions: 2, ..told("clicks", 20) };
    let replicas = BTreeMap::from([(grown.id, vec![vec![3, 2, 1], vec![2, 3, 1]])]);
    let catalogue = Catalogue { version: 2, topics: vec![grown], acls: vec![], nodes: vec![] };
    assert_eq!(next(&mut state, Command::AcceptCatalogue { region: "us".into(), catalogue, replicas }), Answer::Done);
    assert_eq!(state.image().topics["clicks"].partitions, [[1, 2, 3], [2, 3, 1]]);
}

fn any_command() -> impl Strategy<Value = Command> {
    let name = prop::sample::select(vec!["a", "b", "c", "a/b", "__consumer_offsets"]);
    let config = prop::sample::select(vec![("retention.ms", "5"), ("mesh.mirrors", "us"), ("mesh.home", "us"), ("nothing", "")]);
    let ids = 0u128..6;
    let created = (name.clone(), ids.clone(), config.clone()).prop_map(|(name, id, pair)| create(name, id, &[pair]));
    let altered = (name.clone(), config, any::<bool>()).prop_map(|(name, (config, value), set)| Command::AlterTopicConfigs {
        name: name.into(),
        changes: BTreeMap::from([(config.into(), if set { ConfigChange::Set(value.into()) } else { ConfigChange::Reset })]),
        replace: false,
    });
    let topics = prop::collection::vec((name.clone(), ids, -1i32..4), 0..4);
    let accepted = (0u64..6, topics, name.clone()).prop_map(|(version, topics, acl)| {
        let topics: Vec<_> = topics.into_iter().map(|(name, id, partitions)| CatalogueTopic { partitions, ..told(name, id) }).collect();
        catalogue(version, &topics, &[read_topic(acl)])
    });
    prop_oneof![
        (0u64..5).prop_map(|id| Command::RegisterNode { node: node(id), joins: false }),
        created,
        altered,
        (name.clone(), 0u128..6).prop_map(|(name, id)| delete(name, id)),
        (name.clone(), 1usize..4).prop_map(|(name, from)| grow(name, from, vec![vec![1, 2, 3]])),
        name.clone().prop_map(|name| Command::CreateAcls { bindings: vec![read_topic(name)] }),
        name.prop_map(|name| Command::DeleteAcls { filters: vec![Filter { name: Some(name.into()), ..Filter::default() }] }),
        (0u32..9).prop_map(|count| Command::AllocateProducerIds { count }),
        (0u64..5).prop_map(|id| Command::AdmitNode { id }),
        (0u64..5, any::<bool>()).prop_map(|(id, drain)| Command::DrainNode { id, drain }),
        (0u64..5, any::<bool>()).prop_map(|(id, force)| Command::RemoveNode { id, force }),
        (0u64..5, any::<bool>()).prop_map(|(node, set)| {
            let change = if set { ConfigChange::Set("7".into()) } else { ConfigChange::Reset };
            Command::AlterNodeConfigs { node, changes: BTreeMap::from([(SENDING_RATE.into(), change)]) }
        }),
        accepted,
    ]
}

proptest! {
    #[test]
    fn the_same_commands_make_the_same_image(commands in prop::collection::vec(any_command(), 0..30)) {
        let (mut one, mut other) = (eu(), eu());
        for command in commands {
            // The second hears each command as the log would give it back.
            let json = serde_json::to_string(&command).expect("JSON");
            let read: Command = serde_json::from_str(&json).expect("a command");
            prop_assert_eq!(&read, &command);
            let answer = next(&mut one, command);
            prop_assert_eq!(serde_json::from_str::<Answer>(&serde_json::to_string(&answer).expect("JSON")).expect("an answer"), answer.clone());
            prop_assert_eq!(next(&mut other, read), answer);
            prop_assert_eq!(&one.image(), &other.image());
            let image = one.image();
            prop_assert_eq!(image.topics.len(), image.topics_by_id.len());
            for topic in image.topics.values() {
                prop_assert_eq!(image.topics_by_id.get(&topic.id), Some(topic));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_state_goes_on_from_what_another_saved(commands in prop::collection::vec(any_command(), 0..30), at in 0_usize..30) {
        let (mut one, mut other) = (eu(), State::new("dev", "eu", 2, vec![Principal::user("root")]));
        for (i, command) in commands.into_iter().enumerate() {
            if i == at {
                other.restore(&one.save()).expect("saved by the same version");
                prop_assert_eq!(&other.image(), &one.image());
            }
            let answer = next(&mut one, command.clone());
            if i >= at {
                prop_assert_eq!(next(&mut other, command), answer);
                prop_assert_eq!(&other.image(), &one.image());
            }
        }
    }
}

#[test]
fn of_the_nodes_that_a_region_tells_of_those_are_kept_that_can_be_dialled() {
    let mut state = eu();
    let nodes = vec![
        remote(1, "n1.us.example:9200"),
        remote(2, "0.0.0.0:9200"),
        remote(3, "[::]:9200"),
        remote(4, "nowhere"),
        remote(5, "n5.us.example:0"),
        remote(1, "n1.moved.example:9200"),
    ];
    let catalogue = Catalogue { version: 1, topics: vec![], acls: vec![], nodes };
    assert_eq!(next(&mut state, Command::AcceptCatalogue { region: "us".into(), catalogue, replicas: BTreeMap::new() }), Answer::Done);
    assert_eq!(state.image().remote_nodes["us"], [remote(1, "n1.moved.example:9200")]);
}

#[test]
fn what_is_no_saved_state_changes_nothing() {
    let mut state = eu();
    let before = state.image();
    for bytes in [b"".as_slice(), b"{}", b"\xff\x00", &state.save()[1..]] {
        assert!(state.restore(bytes).is_err(), "{bytes:?}");
        assert_eq!(state.image(), before);
    }
}

#[test]
fn a_command_with_unknown_fields_is_refused() {
    assert!(serde_json::from_str::<Command>(r#"{"command":"allocate_producer_ids","count":1}"#).is_ok());
    for json in
        [r#"{"command":"allocate_producer_ids","count":1,"force":true}"#, r#"{"command":"drop_topic","name":"a"}"#, r#"{"name":"a"}"#]
    {
        assert!(serde_json::from_str::<Command>(json).is_err(), "{json}");
    }
}
