//! Who is asking, and what they may do. Pure decisions: the clock, the keys and the rules are passed in; nothing here does I/O.
//!
//! [`jwt`] turns a token into a [`principal::Principal`]; [`certificate`] does the same for nodes; [`acl`] decides whether a principal may
//! do an operation on a resource.

pub mod acl;
pub mod certificate;
pub mod jwt;
pub mod principal;
