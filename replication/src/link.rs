//! QUIC sessions between nodes of two regions.
