//! Packages of Debian and its kin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    pins::{Beside, Pins},
    progress,
};

/// Debian's keys, in every Debian.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
        retried(|| install(&missing))
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

/// Unpacks packages of another suite of the machine's own archive into a folder. Nothing is installed; apt checks the
/// archive's signature with the machine's keys.
pub(crate) fn unpack(beside: &Beside, folder: &Path) -> Result<()> {
    let work = folder.with_extension("apt");
    for part in ["lists/partial", "archives/partial", "packages"] {
        fs::create_dir_all(work.join(part))?;
    }
    let archives = command::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mut archives = archives.lines();
    let archive = archives
        .find(|address| !address.contains("security"))
        .context("apt knows no archive")?;
    let sources = work.join("sources.list");
    let line = format!("deb [signed-by={KEYS}] {archive} {} main\n", beside.suite);
    fs::write(&sources, line)?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        apt.arg("-q")
            .args(["-o", &option("Dir::Etc::sourcelist", sources.clone())])
            .args(["-o", "Dir::Etc::sourceparts=-"])
            .args(["-o", &option("Dir::State::lists", work.join("lists"))])
            .args(["-o", &option("Dir::Cache::archives", work.join("archives"))])
            .args(["-o", "Dir::Cache::pkgcache="])
            .args(["-o", "Dir::Cache::srcpkgcache="])
            .args(["-o", "Acquire::Languages=none"])
            .args([
                "-o",
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            ])
            .args(["-o", "APT::Sandbox::User="]);
        apt
    };
    let packages = work.join("packages");
    retried(|| {
        command::output(apt().arg("update"))?;
        let mut download = apt();
        download.arg("download").args(&beside.packages);
        command::output(download.current_dir(&packages))
    })?;
    for package in fs::read_dir(&packages)? {
        let mut unpack = Command::new("dpkg-deb");
        command::output(unpack.arg("--extract").arg(package?.path()).arg(folder))?;
    }
    Ok(fs::remove_dir_all(&work)?)
}

/// Whether packages can be taken from Debian's archive.
pub(crate) fn has_archive() -> bool {
    Path::new(KEYS).exists() && command::on_path("apt-get") && command::on_path("dpkg-deb")
}

fn retried<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        if let Ok(done) = work() {
            return Ok(done);
        }
    }
    work()
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
