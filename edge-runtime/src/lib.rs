//! The agent on a gateway.
//!
//! ```text
//!  control plane ── desired ─► control ─► agent ─► handlers, models, streams
//!  control plane ◄─ reported, presence, health ─┘        (prepared beside, switched at once)
//!
//!  clients ── HTTP ─► gateway ─┬─► handlers ◄─ wasi:nn ─► models
//!                              ├─► models (Open Inference Protocol)
//!                              └─► streams ─► buffer (sled) ─► uplink ── MQTT ─► archive
//!                                    ▲  └──► processors ─┐
//!                                    └───────────────────┘
//!  devices ── MQTT, Modbus, OPC UA, files ─► sources ─► streams
//! ```

pub mod cli;
pub mod config;
pub mod data_dir;
pub mod identity;
pub mod log;

pub mod app;
pub mod serve;

pub mod agent;
pub mod control;

pub mod gateway;
pub mod handlers;
pub mod keyvalue;
pub mod models;
pub mod processors;
pub mod replays;
pub mod sources;

mod buffer;
pub mod buffer_command;
pub mod events;
pub mod streams;
pub mod uplink;

pub mod health;
pub mod latency;

mod backoff;
mod causes;
mod clock;
mod disk;
mod idle_code;
mod sealed;

pub use causes::chain;

/// Bodies of the fuzz targets, for fuzz/ alone.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::gateway::fuzzing::Connections;
    pub use crate::handlers::fuzzing::{Preparation, origins, routes};
    pub use crate::models::fuzzing::{infer_binary, infer_json, infer_picture, inflate};
}
