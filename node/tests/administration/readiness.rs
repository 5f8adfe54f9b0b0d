//! Ready means ready: when a topic's creator has its answer, every partition takes an acknowledged write, whichever node leads it.

use bytes::Bytes;
use meridian_raft::GroupId;
use meridian_raft::batch::Batch;
use meridian_raft::batch::records::{Record, encode};
use tokio::time::Instant;

use super::harness::RegionOfNodes;
use super::topics::{create, new_topic};

fn batch() -> Batch {
    let record = Record { timestamp_ms: 1, key: None, value: Some(Bytes::from_static(b"value")) };
    encode(&[record]).expect("a batch")
}

async fn make_and_write(partitions: i32) {
    let region = RegionOfNodes::start(3).await;
    let started = Instant::now();
    let made = create(region.broker(), vec![new_topic("flights", partitions, 3)]).await;
    let took = started.elapsed();
    assert_eq!(made[0].error_code, 0, "{:?}", made[0].error_message);
    for partition in 0..partitions {
        let id = GroupId { topic: made[0].topic_id, partition };
        let (leader, _) = region.broker().raft.leader_of(id).expect("a leader is known");
        let leading = region.brokers().find(|broker| broker.node_id == leader).expect("a node of the region");
        let replica = leading.raft.partition(id).expect("the leader hosts it");
        if let Err(error) = replica.append(batch()).await {
            let seen: Vec<_> = region.brokers().map(|broker| broker.raft.partition(id).map(|replica| replica.leadership())).collect();
            panic!("partition {partition} led by node {leader}, {} ms after the answer: {error}; {seen:?}", started.elapsed().as_millis());
        }
    }
    println!("{partitions} partitions x 3 replicas, each ready for a write after {} ms", took.as_millis());
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_topics_partitions_take_writes_at_once() {
    make_and_write(12).await;
    make_and_write(100).await;
}
