//! placeholder

pub mod latency;
pub mod models;
