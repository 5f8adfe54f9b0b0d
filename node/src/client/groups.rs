//! Membership of a classic consumer group: who reads which partitions of a topic, and from where on. Partitions are shared out by range, as
//! other clients do by default, so that they may be members of the same group.

mod range;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolSubscription, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::time::Instant;
use uuid::Uuid;

use super::ClientError;
use super::cluster::{Cluster, Patience, topic_name};
use super::connection::Connection;

/// A member that is not heard of for so long is put out.
const SESSION_TIMEOUT_MS: i32 = 45_000;
/// How long the others may take to join again.
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const JOIN_TIMEOUT: Duration = Duration::from_secs(75);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const PROTOCOL_TYPE: &str = "consumer";
const RANGE: &str = "range";
/// Newest version of what members tell each other that this client reads; later ones only append.
const SUBSCRIPTION_VERSION_MAX: i16 = 3;

/// A member, once it has joined.
#[derive(Debug)]
pub struct Member {
    cluster: Cluster,
    group: GroupId,
    topic: String,
    topic_id: Uuid,
    member_id: StrBytes,
    generation: i32,
    /// Its own: joining waits long, and nothing shall wait behind it.
    coordinator: Option<Connection>,
    heard_at: Instant,
}

impl Member {
    pub fn new(cluster: Cluster, group: &str, topic: &str) -> Member {
        Member {
            cluster,
            group: GroupId(text(group)),
            topic: topic.into(),
            topic_id: Uuid::nil(),
            member_id: StrBytes::default(),
            generation: -1,
            coordinator: None,
            heard_at: Instant::now(),
        }
    }

    /// Enters the group's next generation. Returns the partitions that are this member's until [`Member::is_settled`] says otherwise.
    pub async fn join(&mut self) -> Result<Vec<i32>, ClientError> {
        let metadata = self.cluster.metadata(Some(&[&self.topic])).await?;
        self.topic_id = metadata.topics.first().map_or(Uuid::nil(), |topic| topic.topic_id);
        let mut patience = Patience::default();
        loop {
            match self.join_once().await {
                Ok(Some(partitions)) => {
                    self.heard_at = Instant::now();
                    return Ok(partitions);
                }
                Ok(None) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(error) => {
                    self.coordinator = None;
                    patience.after(error).await?;
                }
            }
        }
    }

    /// None where the group asks to join once more.
    async fn join_once(&mut self) -> Result<Option<Vec<i32>>, ClientError> {
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text(&self.topic)]);
        let range = JoinGroupRequestProtocol::default().with_name(text(RANGE)).with_metadata(framed(&subscription)?);
        let request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(text(PROTOCOL_TYPE))
            .with_protocols(vec![range]);
        let joined = self.ask(&request, JOIN_TIMEOUT).await?;
        if joined.error_code == ResponseError::MemberIdRequired.code() {
            self.member_id = joined.member_id;
            return Ok(None);
        }
        if !self.goes_on(joined.error_code)? {
            return Ok(None);
        }
        self.member_id = joined.member_id.clone();
        self.generation = joined.generation_id;
        let assignments = if joined.leader == joined.member_id { self.share_out(&joined).await? } else { Vec::new() };
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(Some(text(PROTOCOL_TYPE)))
            .with_protocol_name(Some(text(RANGE)))
            .with_assignments(assignments);
        let synced = self.ask(&request, JOIN_TIMEOUT).await?;
        if !self.goes_on(synced.error_code)? {
            return Ok(None);
        }
        self.mine(synced.assignment).map(Some)
    }

    /// As the group's leader: what every member gets, of every topic that any of them reads.
    async fn share_out(&self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut topics: BTreeMap<String, Vec<StrBytes>> = BTreeMap::new();
        for member in &joined.members {
            for topic in subscribed(member.metadata.clone())? {
                topics.entry(topic).or_default().push(member.member_id.clone());
            }
        }
        let names: Vec<&str> = topics.keys().map(String::as_str).collect();
        let metadata = self.cluster.metadata(Some(&names)).await?;
        let mut shares: BTreeMap<StrBytes, ConsumerProtocolAssignment> =
            joined.members.iter().map(|member| (member.member_id.clone(), ConsumerProtocolAssignment::default())).collect();
        for found in &metadata.topics {
            let Some(name) = &found.name else { continue };
            let partitions: Vec<i32> = found.partitions.iter().map(|partition| partition.partition_index).collect();
            let members = topics.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            for (member, share) in range::share(partitions, members) {
                let share = TopicPartition::default().with_topic(name.clone()).with_partitions(share);
                shares.entry(member).or_default().assigned_partitions.push(share);
            }
        }
        let assignment =
            |(member, share)| Ok(SyncGroupRequestAssignment::default().with_member_id(member).with_assignment(framed(&share)?));
        shares.into_iter().map(assignment).collect()
    }

    fn mine(&self, mut assignment: Bytes) -> Result<Vec<i32>, ClientError> {
        if assignment.is_empty() {
            return Ok(Vec::new());
        }
        let version = assignment.try_get_i16().unwrap_or(0).clamp(0, SUBSCRIPTION_VERSION_MAX);
        let assignment = ConsumerProtocolAssignment::decode(&mut assignment, version)
            .map_err(|error| ClientError::Records(format!("an assignment does not parse: {error}")))?;
        let of_topic = assignment.assigned_partitions.into_iter().filter(|share| share.topic.as_str() == self.topic);
        Ok(of_topic.flat_map(|share| share.partitions).collect())
    }

    /// Tells the group now and then that this member lives. False once it must join again.
    pub async fn is_settled(&mut self) -> Result<bool, ClientError> {
        if self.heard_at.elapsed() < HEARTBEAT_EVERY {
            return Ok(true);
        }
        self.heard_at = Instant::now();
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone());
        let answered = self.ask(&request, ANSWER_TIMEOUT).await;
        match answered.and_then(|answer| self.goes_on(answer.error_code)) {
            // Another node coordinates by the next time, or this one answers again.
            Err(error) if error.is_retriable() => {
                self.coordinator = None;
                Ok(true)
            }
            settled => settled,
        }
    }

    /// Where the group has read up to; partitions without a commit are left out.
    pub async fn committed(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, ClientError> {
        let mut patience = Patience::default();
        loop {
            match self.committed_once(partitions).await {
                Ok(offsets) => return Ok(offsets),
                Err(error) => {
                    self.coordinator = None;
                    patience.after(error).await?;
                }
            }
        }
    }

    async fn committed_once(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, ClientError> {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name(&self.topic))
            .with_topic_id(self.topic_id)
            .with_partition_indexes(partitions.to_vec());
        let group = OffsetFetchRequestGroup::default().with_group_id(self.group.clone()).with_topics(Some(vec![topic]));
        let response = self.ask(&OffsetFetchRequest::default().with_groups(vec![group]), ANSWER_TIMEOUT).await?;
        let mut offsets = BTreeMap::new();
        for group in response.groups {
            self.fails(group.error_code)?;
            for partition in group.topics.into_iter().flat_map(|topic| topic.partitions) {
                self.fails(partition.error_code)?;
                if partition.committed_offset >= 0 {
                    offsets.insert(partition.partition_index, partition.committed_offset);
                }
            }
        }
        Ok(offsets)
    }

    /// Remembers for the group what was read; the next offset of each partition. False where the group has moved on and does not take it.
    pub async fn commit(&mut self, offsets: &BTreeMap<i32, i64>) -> Result<bool, ClientError> {
        let partition = |(partition, offset): (&i32, &i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_topic_id(self.topic_id)
            .with_partitions(offsets.iter().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member_id.clone())
            .with_topics(vec![topic]);
        let response = self.ask(&request, ANSWER_TIMEOUT).await?;
        let mut goes_on = true;
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            goes_on &= self.goes_on(partition.error_code)?;
        }
        Ok(goes_on)
    }

    /// So that the others need not wait until this member is missed.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        if self.member_id.is_empty() {
            return Ok(());
        }
        let member = MemberIdentity::default().with_member_id(self.member_id.clone());
        let request = LeaveGroupRequest::default().with_group_id(self.group.clone()).with_members(vec![member]);
        let response = self.ask(&request, ANSWER_TIMEOUT).await?;
        self.fails(response.error_code)
    }

    fn fails(&self, code: i16) -> Result<(), ClientError> {
        ClientError::of_code(format!("group {}", self.group.as_str()), code, None).map_or(Ok(()), Err)
    }

    /// False where the group has moved on and this member must join again.
    fn goes_on(&mut self, code: i16) -> Result<bool, ClientError> {
        match ResponseError::try_from_code(code) {
            Some(ResponseError::UnknownMemberId) => {
                self.member_id = StrBytes::default();
                Ok(false)
            }
            Some(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => Ok(false),
            _ => self.fails(code).map(|()| true),
        }
    }

    async fn ask<R: Request>(&mut self, request: &R, timeout: Duration) -> Result<R::Response, ClientError> {
        let connection = match self.coordinator.clone().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.find().await?,
        };
        connection.send(request).await?.wait(timeout).await
    }

    async fn find(&mut self) -> Result<Connection, ClientError> {
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![self.group.0.clone()]);
        let response = self.cluster.ask(&request).await?;
        let found = response.coordinators.into_iter().next().unwrap_or_default();
        self.fails(found.error_code)?;
        let connection = self.cluster.dial(&format!("{}:{}", found.host.as_str(), found.port)).await?;
        self.coordinator = Some(connection.clone());
        Ok(connection)
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// What members tell each other has its version before it.
fn framed(message: &impl Encodable) -> Result<Bytes, ClientError> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    message.encode(&mut bytes, 0).map_err(|error| ClientError::Records(format!("cannot be written: {error}")))?;
    Ok(bytes.freeze())
}

fn subscribed(mut metadata: Bytes) -> Result<Vec<String>, ClientError> {
    let version = metadata.try_get_i16().unwrap_or(0).clamp(0, SUBSCRIPTION_VERSION_MAX);
    let subscription = ConsumerProtocolSubscription::decode(&mut metadata, version)
        .map_err(|error| ClientError::Records(format!("a member's subscription does not parse: {error}")))?;
    Ok(subscription.topics.iter().map(|topic| topic.to_string()).collect())
}
