//! Mirrors: one partition's way from the leader at its home to the leader of its copy in another region.

pub(crate) mod source;
pub(crate) mod target;
