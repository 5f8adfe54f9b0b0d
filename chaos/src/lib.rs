//! How Meridian proves itself. A workload writes down what it did and what it was told ([`history`]); [`check`] holds that against what
//! the mesh promises and names every anomaly.
//!
//! [`scenario`] does that to real processes, with real clients. [`sim`] runs the durable parts in a seeded world without a real clock or disk. Nothing in the checkers talks to a broker: a history can come from any client in any language, one JSON object a line.

pub mod check;
pub mod history;
pub mod scenario;
pub mod sim;
