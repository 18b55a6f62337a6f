//! What a power cut leaves of a folder, from the log of the preloaded shim.
//!
//! ```text
//!  program + shim ─► log ─► Disk: what is written, what of it is synced
//!                             └─ at a random entry: synced pages, a random part of the
//!                                others, names up to a random point ─► a folder, to be opened
//! ```
//!
//! Names and sizes become durable in the order in which they were changed, as the journals
//! of ext4 and XFS keep them; content in pages of 4 KiB, in any order.

mod disk;
#[expect(dead_code, reason = "the shim uses the rest")]
#[path = "../shim/src/kinds.rs"]
mod kinds;
mod log;

pub use disk::{Cache, Disk};
pub use log::{Entry, acknowledge, read};
