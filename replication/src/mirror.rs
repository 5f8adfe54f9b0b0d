//! Sending and receiving a partition's committed batches.
