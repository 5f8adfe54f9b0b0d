//! What regions tell each other, and the links that carry it.

pub mod catalogue;
pub mod link;
