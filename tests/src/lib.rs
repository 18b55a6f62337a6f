//! Whole-system tests: real processes on loopback, driven the way an operator and a device do.
//!
//! ```text
//!  Fleet ─┬─ ControlPlane ─ Process        Edgectl ─ Api   (operator)
//!         └─ Edge ──────── Process         Device          (sends records, counts acknowledgements)
//!                                          archive         (reads the Parquet files)
//! ```
//!
//! Everything waits for a condition with a deadline, never for a time to pass.

/// The REST API, as a program would use it.
pub mod api;
/// What lies in the archive's Parquet files.
pub mod archive;
/// A backlog and its memory.
pub mod backlog;
/// Brokers that are not ours, each from its package.
pub mod brokers;
/// A TCP proxy that does what bad links do.
pub mod chaos;
/// Where the programs and their inputs lie.
pub mod checkout;
/// The control plane's process.
pub mod control_plane;
/// A device that sends records and counts what was acknowledged.
pub mod device;
/// Random numbers from a seed.
pub mod dice;
/// An edge runtime's process.
pub mod edge;
/// The operator's command line.
pub mod edgectl;
/// A control plane, its nodes and its operator.
pub mod fleet;
/// HTTP clients.
pub mod http;
/// The whole way over a bad link.
pub mod links;
/// Power cuts by preload: what one leaves of a folder.
pub mod power_cut;
/// Child processes that never outlive their owner.
pub mod process;
/// What a data folder has to hold.
pub mod promise;
/// `edge-runtime serve`.
pub mod serve;
/// The preloaded library between a program and its disk.
pub mod shim;
/// Work that is cut short, and what is left of it.
pub mod trial;
/// Waiting for a condition.
pub mod wait;

pub use brokers::Broker;
pub use checkout::Checkout;
pub use control_plane::ControlPlane;
pub use device::Device;
pub use dice::Dice;
pub use edge::Edge;
pub use edgectl::Edgectl;
pub use fleet::Fleet;
pub use process::Process;
pub use serve::Serve;
pub use shim::Shim;
pub use wait::until;
