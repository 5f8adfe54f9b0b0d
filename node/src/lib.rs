//! The `meridian` binary's rooms. So far: the development mesh's credentials ([`dev`]) and the command line over them ([`cli`]).

pub mod cli;
pub mod dev;
