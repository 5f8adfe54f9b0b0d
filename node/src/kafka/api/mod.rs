//! One file per Kafka API, named by it.
