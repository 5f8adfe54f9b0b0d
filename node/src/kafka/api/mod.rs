//! One file per API, named by it: its versions, its request's shape, and its handler.
//!
//! A handler of an API that is not hot is
//! `pub async fn handle(broker: &Broker, session: &Session, version: i16, request: XRequest) -> XResponse`, beside
//! `pub const SHAPE: &[Field]`. Refusals are error codes in the response; a handler never fails as a whole.
