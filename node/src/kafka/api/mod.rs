//! One file per API, named by it: its request's shape, and its handler. The table below says which are served in which versions.
//!
//! A handler of an API that is not hot is
//! `pub async fn handle(broker: &Broker, session: &Session, version: i16, request: XRequest) -> XResponse`, beside
//! `pub const SHAPE: &[Field]`. Refusals are error codes in the response; a handler never fails as a whole. To serve another API, write its
//! file, name the module, and add one line to the table. The codec refuses a response that sets a field which its version does not have.

pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod api_versions;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod elect_leaders;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sasl_authenticate;
pub mod sasl_handshake;
pub mod sync_group;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

use super::reply::Reply;
use super::shape::{self, Field};
use super::versions::{Api, NEVER};
use super::{Broker, Session};

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    Reply(Reply),
    /// The last answer of this connection.
    Last(Reply),
    /// Produce with acks=0: the client does not listen.
    Silent,
    /// There is nothing sensible to answer; the connection is closed.
    Close(&'static str),
}

/// A request whose header has been read.
#[derive(Debug, Clone)]
pub struct Call {
    pub api: &'static Api,
    pub version: i16,
    pub correlation_id: i32,
    pub body: Bytes,
}

impl Call {
    pub fn is_flexible(&self) -> bool {
        self.api.is_flexible(self.version)
    }
}

pub fn find(key: i16) -> Option<&'static Api> {
    TABLE.iter().find(|api| api.key == key)
}

macro_rules! apis {
    (
        own { $($own:ident = $own_key:literal, $own_min:literal ..= $own_max:literal, $own_flexible:expr;)* }
        plain { $($plain:ident: $request:ident = $key:literal, $min:literal ..= $max:literal, $flexible:expr;)* }
        read { $($read:ident: $read_request:ident = $read_key:literal, $read_min:literal ..= $read_max:literal, $read_flexible:expr;)* }
    ) => {
        /// Every API that is served: what ApiVersions advertises.
        pub const TABLE: &[Api] = &[
            $(Api { key: $own_key, name: stringify!($own), min: $own_min, max: $own_max, flexible_since: $own_flexible },)*
            $(Api { key: $key, name: stringify!($plain), min: $min, max: $max, flexible_since: $flexible },)*
            $(Api { key: $read_key, name: stringify!($read), min: $read_min, max: $read_max, flexible_since: $read_flexible },)*
        ];

        /// Answers a request of the plain kind. Nothing happens before the future is polled.
        pub fn answer(broker: &Broker, session: &Arc<Session>, call: Call) -> BoxFuture<'static, Outcome> {
            let (broker, session) = (broker.clone(), session.clone());
            match call.api.key {
                $($key => async move {
                    let Some(request) = decode::<$request>($plain::SHAPE, &call) else { return Outcome::Close("a misshapen request") };
                    encode(&call, &$plain::handle(&broker, &session, call.version, request).await)
                }.boxed(),)*
                $($read_key => async move {
                    let shaped = has_shape($read::SHAPE, &call);
                    let Some(request) = shaped.then(|| $read::read(call.version, &call.body)).flatten() else {
                        return Outcome::Close("a misshapen request");
                    };
                    encode(&call, &$read::handle(&broker, &session, call.version, request).await)
                }.boxed(),)*
                _ => std::future::ready(Outcome::Close("an API that has no handler")).boxed(),
            }
        }

        /// The plain APIs, for their tests.
        #[cfg(test)]
        fn plain() -> Vec<tests::Plain> {
            vec![
                $(tests::Plain::of::<$request>(find($key).expect("in the table"), $plain::SHAPE),)*
                $(tests::Plain::of::<$read_request>(find($read_key).expect("in the table"), $read::SHAPE),)*
            ]
        }
    };
}

apis! {
    // Read and written by their own code, from `kafka::connection`.
    own {
        produce = 0, 0..=13, 9;
        fetch = 1, 4..=18, 12;
        sasl_handshake = 17, 0..=1, NEVER;
        api_versions = 18, 0..=4, 3;
        sasl_authenticate = 36, 0..=2, 2;
    }
    // file: request type = API key, versions, first flexible version
    plain {
        list_offsets: ListOffsetsRequest = 2, 1..=11, 6;
        metadata: MetadataRequest = 3, 0..=13, 9;
        create_topics: CreateTopicsRequest = 19, 2..=7, 5;
        delete_topics: DeleteTopicsRequest = 20, 1..=6, 4;
        delete_records: DeleteRecordsRequest = 21, 0..=2, 2;
        init_producer_id: InitProducerIdRequest = 22, 0..=5, 2;
        offset_for_leader_epoch: OffsetForLeaderEpochRequest = 23, 2..=4, 4;
        describe_acls: DescribeAclsRequest = 29, 1..=3, 2;
        create_acls: CreateAclsRequest = 30, 1..=3, 2;
        delete_acls: DeleteAclsRequest = 31, 1..=3, 2;
        describe_configs: DescribeConfigsRequest = 32, 1..=4, 4;
        alter_configs: AlterConfigsRequest = 33, 0..=2, 2;
        create_partitions: CreatePartitionsRequest = 37, 0..=3, 2;
        elect_leaders: ElectLeadersRequest = 43, 0..=2, 2;
        alter_partition_reassignments: AlterPartitionReassignmentsRequest = 45, 0..=1, 0;
        list_partition_reassignments: ListPartitionReassignmentsRequest = 46, 0..=0, 0;
        incremental_alter_configs: IncrementalAlterConfigsRequest = 44, 0..=1, 1;
        describe_log_dirs: DescribeLogDirsRequest = 35, 1..=4, 2;
        describe_cluster: DescribeClusterRequest = 60, 0..=2, 0;
        find_coordinator: FindCoordinatorRequest = 10, 0..=6, 3;
        join_group: JoinGroupRequest = 11, 0..=9, 6;
        heartbeat: HeartbeatRequest = 12, 0..=4, 4;
        leave_group: LeaveGroupRequest = 13, 0..=5, 4;
        sync_group: SyncGroupRequest = 14, 0..=5, 4;
        describe_groups: DescribeGroupsRequest = 15, 0..=6, 5;
        list_groups: ListGroupsRequest = 16, 0..=5, 3;
        delete_groups: DeleteGroupsRequest = 42, 0..=2, 2;
        offset_delete: OffsetDeleteRequest = 47, 0..=0, NEVER;
    }
    // Likewise, but their newest versions are unknown to the codec crate and read by the file's own `read`.
    read {
        offset_commit: OffsetCommitRequest = 8, 2..=10, 8;
        offset_fetch: OffsetFetchRequest = 9, 1..=10, 6;
    }
}

fn has_shape(shape: &[Field], call: &Call) -> bool {
    let fits = shape::check(shape, call.version, call.is_flexible(), &call.body).is_ok();
    if !fits {
        tracing::debug!(api = call.api.name, version = call.version, bytes = call.body.len(), "a misshapen request");
    }
    fits
}

fn decode<R: Decodable + Message>(shape: &[Field], call: &Call) -> Option<R> {
    if !has_shape(shape, call) {
        return None;
    }
    // Where Kafka's newest version is encoded like the one before and the codec does not know it yet (a test lists which).
    R::decode(&mut call.body.clone(), call.version.min(R::VERSIONS.max)).ok()
}

/// A whole response of a plain API.
fn encode<R: Encodable + Message>(call: &Call, response: &R) -> Outcome {
    let version = call.version.min(R::VERSIONS.max);
    let mut buffer = BytesMut::with_capacity(64);
    buffer.put_i32(0);
    buffer.put_i32(call.correlation_id);
    if call.is_flexible() {
        buffer.put_u8(0);
    }
    if let Err(error) = response.encode(&mut buffer, version) {
        tracing::error!(api = call.api.name, version, %error, "a response cannot be encoded");
        return Outcome::Close("a response that cannot be encoded");
    }
    sealed(buffer)
}

/// Writes the length in front.
fn sealed(mut buffer: BytesMut) -> Outcome {
    let length = buffer.len() - 4;
    buffer[..4].copy_from_slice(&(length as i32).to_be_bytes());
    Outcome::Reply(vec![buffer.freeze()])
}

#[cfg(test)]
mod tests;
