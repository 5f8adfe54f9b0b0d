//! One file per API, named by it: its versions, its request's shape, and its handler.
//!
//! A handler of an API that is not hot is
//! `pub async fn handle(broker: &Broker, session: &Session, version: i16, request: XRequest) -> XResponse`, beside
//! `pub const SHAPE: &[Field]`. Refusals are error codes in the response; a handler never fails as a whole.

pub mod alter_configs;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_configs;
pub mod incremental_alter_configs;
