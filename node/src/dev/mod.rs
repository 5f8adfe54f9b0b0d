//! The development mesh: regions of real nodes on one machine, and what they need so that nothing has to be configured and nothing is insecure.
//!
//! [`mesh`] runs it; `layout` says who lives where, [`authority`] and [`issuer`] make certificates and tokens, `process` keeps a node running,
//! [`wan`] puts distance between regions and [`control`] cuts it,
//! `document` and `client_files` tell others how to connect.

pub mod authority;
mod client_files;
pub mod control;
pub mod document;
mod files;
pub mod issuer;
pub mod layout;
pub mod mesh;
mod ports;
mod process;
mod rtt;
pub mod wan;
