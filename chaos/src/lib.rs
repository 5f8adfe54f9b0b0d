//! How Meridian proves itself. A workload writes down what it did and what it was told ([`history`]); [`check`] holds that against what
//! the mesh promises and names every anomaly.
//!
//! Nothing here talks to a broker: a history can come from any client in any language, one JSON object a line.

pub mod check;
pub mod history;
