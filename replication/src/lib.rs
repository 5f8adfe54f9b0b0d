//! The half of Meridian that crosses oceans. So far: the [`catalogue`], what one region tells another of its topics and ACLs.
//!
//! Links and mirrors come next.

pub mod catalogue;
