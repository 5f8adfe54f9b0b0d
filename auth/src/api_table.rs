//! Which operation on which resource each Kafka API needs, as data.
