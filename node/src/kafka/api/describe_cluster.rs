//! DescribeCluster: the region's nodes and its controller.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::{OPERATIONS_UNASKED, cluster_operations, node_id};
use crate::kafka::errors::ErrorCode;
use crate::kafka::shape::{Field, Shape, always, since};
use crate::kafka::{Broker, Session};

pub const SHAPE: &[Field] = &[always(Shape::Fixed(1)), since(1, Shape::Fixed(1)), since(2, Shape::Fixed(1))];

/// The only kind of endpoint there is to ask.
const BROKERS: i8 = 1;

pub async fn handle(broker: &Broker, session: &Session, version: i16, request: DescribeClusterRequest) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default().with_cluster_id(StrBytes::from_string(broker.cluster_id.to_string()));
    if version >= 1 && request.endpoint_type != BROKERS {
        let message = StrBytes::from_static_str("ask for the endpoints of brokers; controllers are not reached by clients");
        return response.with_error_code(ErrorCode::MismatchedEndpointType.code()).with_error_message(Some(message));
    }
    let asker = broker.asker(session);
    let live = broker.raft.live_nodes();
    // A node that is not heard of is what Kafka calls fenced.
    let shown = asker.image.nodes.values().filter(|node| live.contains(&node.id) || (version >= 2 && request.include_fenced_brokers));
    let brokers = shown.map(|node| {
        DescribeClusterBroker::default()
            .with_broker_id(node_id(node.id))
            .with_host(StrBytes::from_string(node.host.clone()))
            .with_port(i32::from(node.port))
            .with_rack(node.rack.clone().map(StrBytes::from_string))
            .with_is_fenced(!live.contains(&node.id))
    });
    let operations = if request.include_cluster_authorized_operations { cluster_operations(&asker) } else { OPERATIONS_UNASKED };
    response
        .with_controller_id(broker.controller.leader().map_or(BrokerId(-1), node_id))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(operations)
}
