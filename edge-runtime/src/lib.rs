//! placeholder

mod buffer;
pub mod latency;
pub mod models;
pub mod streams;
pub mod uplink;
