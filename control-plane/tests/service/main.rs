//! The control plane as its clients see it: over HTTPS and MQTT, on free ports.
#![expect(clippy::unwrap_used, reason = "tests")]

mod archive;
mod broker;
mod fleet;
mod foreign_readers;
mod identity;
mod registry;
mod start;
mod support;
