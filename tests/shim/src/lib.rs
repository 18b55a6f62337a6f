//! A preloaded library that stands between a program and its disk.
//!
//! ```text
//!  program ─ write, fsync, rename .. ─► shim ─► kernel
//!                                        ├─► log: every change and every sync, in one order
//!                                        └─► instead: EIO, ENOSPC, half a write, no sync
//! ```
//!
//! `LD_PRELOAD` names it. It looks only at what lies below `FLEET_SHIM_DIR`:
//!
//! - `FLEET_SHIM_LOG`: file to which [`kinds`] of entries are appended.
//! - `FLEET_SHIM_FAIL`: `CALL:N:ERROR`, the `N`th call of a kind fails; `CALL` is
//!   `write`, `sync`, `open`, `rename`, `unlink`, `resize` or `mkdir`, `ERROR` is
//!   `EIO`, `ENOSPC` or `short`; with `:on` behind it all later ones fail too.
//! - `FLEET_SHIM_SWALLOW`: `fdatasync` or `all`; such syncs do nothing and succeed.
//!
//! All real work is done by raw system calls, as the library's own are replaced.
#![expect(
    unsafe_code,
    reason = "the C library's functions are replaced and system calls made"
)]

mod config;
mod files;
#[expect(dead_code, reason = "readers of the log use the rest")]
mod kinds;
mod log;
mod names;
mod syncs;
mod writes;
