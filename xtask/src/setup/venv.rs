//! The Python test clients, in a virtual environment of their own.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{checkout::Checkout, command, pins::Pins, progress, stamp::Stamp};

/// Makes `artifacts/venv` if it is not there with just the pinned packages.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    let what = "Python test clients";
    let version = command::output(Command::new("python3").arg("--version"))?;
    let wanted = format!("{version}{}", pins.venv.requirements.join("\n"));
    let stamp = Stamp::of(checkout, "venv");
    let python = checkout.venv_python();
    if stamp.holds(&wanted) && python.exists() {
        progress::in_place(what);
        return Ok(());
    }
    progress::step(what, || {
        let folder = checkout.artifact("venv");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        command::output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        command::output(
            Command::new(&python)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(["--no-deps", "--only-binary=:all:"])
                .args(&pins.venv.requirements),
        )?;
        stamp.set(&wanted)
    })
}
