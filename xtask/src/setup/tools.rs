//! Clients that take minutes to build: only for `cargo xtask test --all`.

use anyhow::Result;

use crate::{checkout::Checkout, command, pins::Pins, progress, stamp::Stamp};

/// Builds `wkg` into `artifacts/tools/bin`.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    let version = &pins.tools.wkg;
    let what = format!("wkg {version}");
    let stamp = Stamp::of(checkout, "wkg");
    if stamp.holds(version) && checkout.artifact("tools/bin/wkg").exists() {
        progress::in_place(&what);
        return Ok(());
    }
    progress::step(&what, || {
        let arguments = ["install", "wkg", "--locked", "--quiet", "--version"];
        command::output(
            command::cargo(checkout.root(), arguments)
                .arg(version)
                .arg("--root")
                .arg(checkout.artifact("tools"))
                .env("CARGO_TARGET_DIR", checkout.target().join("tools")),
        )?;
        stamp.set(version)
    })
}
