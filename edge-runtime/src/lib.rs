//! placeholder

mod buffer;
pub mod gateway;
pub mod handlers;
pub mod latency;
pub mod models;
pub mod serve;
pub mod streams;
pub mod uplink;
