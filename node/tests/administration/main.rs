//! The administrative APIs against real nodes: what is made is there, what is refused leaves no trace, and who may not is told nothing.

mod authorization;
mod configs;
mod harness;
mod readiness;
mod rules;
mod shapes;
mod topics;
