//! The development mesh: what it makes for itself so that nothing has to be configured, and nothing is insecure.

pub mod issuer;
