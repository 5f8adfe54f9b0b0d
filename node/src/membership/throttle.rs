//! How fast this node sends logs to replicas that catch up: as its file says, unless an operator has set another rate for it.

use meridian_raft::node::Node;

use crate::controller::handle::Controller;
use crate::controller::image::Image;
use crate::controller::node_config::SENDING_RATE;

pub async fn follow(node_id: u64, configured_bytes_per_s: u64, raft: Node, controller: Controller) {
    let mut images = controller.watch();
    let mut in_force = configured_bytes_per_s;
    raft.set_catch_up_rate(in_force);
    loop {
        let wanted = set_rate(node_id, &images.borrow_and_update()).unwrap_or(configured_bytes_per_s);
        if wanted != in_force {
            tracing::info!(bytes_per_s = wanted, "replicas that catch up are sent to at another rate");
            raft.set_catch_up_rate(wanted);
            in_force = wanted;
        }
        if images.changed().await.is_err() {
            return;
        }
    }
}

fn set_rate(node_id: u64, image: &Image) -> Option<u64> {
    image.node_configs.get(&node_id)?.get(SENDING_RATE)?.parse().ok()
}
