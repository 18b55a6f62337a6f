//! The whole system, as its users meet it: real processes, real modules and models.
//!
//! One binary, so that it is linked once; a module per story.
#![expect(clippy::unwrap_used, reason = "tests")]

mod backlog;
mod bad_links;
mod brokers;
mod changed_artifact;
mod damaged_disk;
mod events;
mod failing_disk;
mod file_tail;
mod first_handler;
mod fixtures;
mod foreign_guests;
mod full_disk;
mod inference;
mod joining;
mod kept_values;
mod killed;
mod missing_library;
mod modbus_devices;
mod model_files;
mod model_versions;
mod mqtt_devices;
mod offline;
mod opcua_servers;
mod operator_cases;
mod pictures;
mod power_cuts;
mod processors;
mod refused_artifacts;
mod refused_deployments;
mod refused_starts;
mod registry_clients;
mod relay;
mod repeated_requests;
mod replays;
mod silence;
mod timed_runs;
mod triton_clients;
mod watch;
mod whole_way;
