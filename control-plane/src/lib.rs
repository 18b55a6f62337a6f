//! The control plane: what shall run where, and what comes back.
//!
//! ```text
//!  publisher ─► http ─► registry ─► inspect          objects (blobs, archive)
//!                          │                              ▲
//!  operator ──► http ─► fleet: store ─► planner       archive ◄──┐
//!                          │ reconcile     ▲ ingest       │      │
//!                          ▼               │              ▼      │
//!                       broker: desired  reported      watermark frames
//!                          ▼               ▲              ▼      ▲
//!                       edge runtimes, each held to its own topics
//! ```
//!
//! `app` puts the parts together; every other module knows only what it is given.

mod app;
mod archive;
mod authority;
mod broker;
mod cli;
mod clock;
mod config;
mod data_dir;
mod fleet;
mod http;
mod inspect;
mod members;
mod objects;
mod registry;
mod secret;
mod sparkplug;
mod tls;

pub use app::{App, AppError, Endpoint, shutdown_signal};
pub use cli::Cli;
pub use config::{
    ArchiveConfig, CertificatesConfig, Config, ConfigError, LimitsConfig, ObjectsConfig,
    SparkplugConfig,
};

/// Body of a fuzz target, for fuzz/ alone.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    /// Describes a component or refuses it; it must not panic.
    pub fn describe_component(bytes: &[u8]) {
        let handler = fleet_api::artifact::ArtifactKind::Handler;
        let _ = crate::inspect::describe(handler, bytes, &[]);
    }
}
