//! Packages of Debian and its kin.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{command, pins::Pins, progress};

/// An install that is cut off by a busy mirror succeeds when it is run again.
const TRIES: usize = 3;

/// Installs the packages that are missing, or says which command would.
pub(crate) fn ensure(what: &str, packages: &[String]) -> Result<()> {
    let missing: Vec<&String> = packages.iter().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        progress::in_place(what);
        return Ok(());
    }
    let list = missing
        .iter()
        .map(|p| p.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    if !command::on_path("apt-get") {
        bail!(
            "{what}: there is no apt-get here; install what Debian calls `{list}`, then run `cargo xtask setup` again"
        );
    }
    if !is_root() {
        bail!(
            "{what}: not root, so run `sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}`, then `cargo xtask setup` again"
        );
    }
    progress::step(&format!("{what}: installing {list}"), || {
        let mut result = Ok(());
        for _ in 0..TRIES {
            result = install(&missing);
            if result.is_ok() {
                break;
            }
        }
        result
    })
}

/// Python with pip and venv: by whatever way it is there, else Debian's.
pub(crate) fn ensure_python(pins: &Pins) -> Result<()> {
    let modules = "import ensurepip, pip, venv";
    if command::succeeds(Command::new("python3").args(["-c", modules])) {
        progress::in_place("Python");
        return Ok(());
    }
    ensure("Python", &pins.debian.python)
}

/// Whether a package is installed.
pub(crate) fn is_installed(package: &str) -> bool {
    command::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn is_root() -> bool {
    command::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn install(packages: &[&String]) -> Result<()> {
    command::output(Command::new("apt-get").args(["update", "-q"]))?;
    command::output(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages),
    )?;
    Ok(())
}
