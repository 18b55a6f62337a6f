//! The words that the control plane, the edge runtimes and `edgectl` share.
//!
//! ```text
//!  deployment (TOML) ──► desired (per node, MQTT + HTTPS) ──► edge runtime
//!                        reported, presence, health (MQTT) ◄──┘
//!  frame (binary, disk = wire) ──► archive ──► watermark ──► edge runtime
//! ```
//!
//! Only data and its checks live here: no I/O, no clock, no async.

/// In the OpenAPI document, a type that travels as text is a string.
#[cfg(feature = "openapi")]
macro_rules! text_schema {
    ($name:ty) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }
        impl utoipa::ToSchema for $name {}
    };
}
#[cfg(not(feature = "openapi"))]
macro_rules! text_schema {
    ($name:ty) => {};
}
pub(crate) use text_schema;

/// What is pushed: handlers and models.
pub mod artifact;
/// What an operator applies.
pub mod deployment;
/// What a node shall run.
pub mod desired;
/// What happens on a node.
pub mod event;
/// The files that an ONNX model keeps its weights in.
pub mod external_data;
/// The binary frame of device records.
pub mod frame;
/// What a node measures about itself.
pub mod health;
/// Identifiers that cannot hold a bad value.
pub mod ids;
/// Labels and the selectors over them.
pub mod labels;
/// How a model runs on a node.
pub mod model;
/// What a model has beside it: card, labels, golden outputs, external data.
pub mod model_files;
/// A node's birth and death on MQTT.
pub mod presence;
/// Recorded ranges run through another version of a processor.
pub mod replay;
/// What a node runs.
pub mod reported;
/// Bodies of the control plane's REST API.
pub mod rest;
/// Where a handler serves.
pub mod route;
/// Where a node gets records from by itself.
pub mod source;
/// TOML that refuses unknown keys, all at once and with their lines.
pub mod strict;
/// Join tokens.
pub mod token;
/// MQTT topic names.
pub mod topic;
/// Byte sizes and durations as people write them.
pub mod units;
