//! Admin HTTP: health, readiness and metrics in the clear; everything with content over TLS with a bearer token. Both on one port.

pub mod status;
