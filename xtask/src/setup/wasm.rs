//! A Rust that compiles for `wasm32-wasip2`: rustup's target where rustup can
//! download it, else Debian's compiler for the web, which builds `std` itself.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::debian;
use crate::{command, pins::Pins, progress};

/// The target of all guests.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// How guests are compiled on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The host's own Rust with the target added.
    Rustup,
    /// Debian's `rustc-web` with `-Zbuild-std`.
    Debian,
}

impl Toolchain {
    /// Its name in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }
}

/// Finds or installs the guests' toolchain.
pub(crate) fn ensure(pins: &Pins) -> Result<Toolchain> {
    if let Some(toolchain) = find(pins) {
        progress::in_place(&format!("Wasm target ({})", toolchain.name()));
        return Ok(toolchain);
    }
    if command::on_path("rustup") {
        let added = progress::step("Wasm target: rustup target add", || {
            command::output(Command::new("rustup").args(["target", "add", TARGET]))
        });
        match added {
            Ok(_) if has_rustup_target() => return Ok(Toolchain::Rustup),
            Ok(_) => eprintln!(
                "  rustup added the target to another toolchain than {}",
                rustc()
            ),
            Err(error) => eprintln!("  {}", error.to_string().trim()),
        }
    }
    debian::ensure("Wasm target (debian)", &pins.debian.wasm).with_context(|| {
        format!("failed to install a Rust for {TARGET}; where rustup can download, `rustup target add {TARGET}` is enough")
    })?;
    Ok(Toolchain::Debian)
}

fn find(pins: &Pins) -> Option<Toolchain> {
    if has_rustup_target() {
        Some(Toolchain::Rustup)
    } else if pins
        .debian
        .wasm
        .iter()
        .all(|package| debian::is_installed(package))
    {
        Some(Toolchain::Debian)
    } else {
        None
    }
}

fn has_rustup_target() -> bool {
    command::output(Command::new(rustc()).args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}
