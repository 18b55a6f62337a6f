//! Clients that take minutes to build: only for `cargo xtask test --all`.

use anyhow::Result;

use crate::{checkout::Checkout, command, pins::Pins, progress, stamp::Stamp};

/// Builds `wkg` and `cargo-deny` into `artifacts/tools/bin`.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    for (name, version) in [
        ("wkg", &pins.tools.wkg),
        ("cargo-deny", &pins.tools.cargo_deny),
    ] {
        let what = format!("{name} {version}");
        let stamp = Stamp::of(checkout, name);
        if stamp.holds(version) && checkout.artifact(format!("tools/bin/{name}")).exists() {
            progress::in_place(&what);
            continue;
        }
        progress::step(&what, || {
            command::output(
                command::cargo(
                    checkout.root(),
                    ["install", name, "--locked", "--quiet", "--version"],
                )
                .arg(version)
                .arg("--root")
                .arg(checkout.artifact("tools"))
                .env("CARGO_TARGET_DIR", checkout.target().join("tools")),
            )?;
            stamp.set(version)
        })?;
    }
    Ok(())
}
