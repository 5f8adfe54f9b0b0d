//! The Kafka listener from outside: who gets in, what comes back, and how long a connection lasts.

mod entrance;
mod groups;
mod harness;
mod records;
mod repetition;
