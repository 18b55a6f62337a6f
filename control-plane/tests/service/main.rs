//! The control plane as its clients see it: over HTTPS and MQTT, on free ports.
#![expect(clippy::unwrap_used, reason = "tests")]

mod archive;
mod broker;
mod fleet;
mod foreign_readers;
mod frames_in_python;
mod identity;
mod merged_files;
mod object_storage;
mod registry;
mod sparkplug;
mod start;
mod support;
