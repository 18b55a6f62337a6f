//! Builds the guests of modules/ into artifacts/modules/, all in one call, so
//! that what they share is compiled once.

pub(crate) mod foreign;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    checkout::Checkout,
    command,
    pins::Pins,
    progress,
    setup::wasm::{self, TARGET, Toolchain},
    stamp::{self, Stamp},
};

/// What a guest is compiled from.
const SOURCES: [&str; 3] = ["modules", "guest-sdk", "wit"];

/// Variables of the host's build that do not hold for the guests'.
const HOST_ONLY: [&str; 9] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// Builds the guests, unless they are there and their sources are as they were.
pub(crate) fn build(checkout: &Checkout) -> Result<()> {
    progress::heading("modules: the guests, into artifacts/modules/");
    let toolchain = wasm::ensure(&Pins::load()?)?;
    let digest = stamp::digest_of(checkout, &SOURCES, &[toolchain.name()])?;
    let stamp = Stamp::of(checkout, "modules");
    let names = names(checkout)?;
    let place = |name: &str| checkout.artifact(format!("modules/{name}.wasm"));
    if stamp.holds(&digest) && names.iter().all(|name| place(name).exists()) {
        progress::in_place(&names.join(", "));
        return Ok(());
    }
    let what = format!("{} for {TARGET}", names.join(", "));
    let target = checkout
        .root()
        .join("modules/target")
        .join(toolchain.name());
    progress::step(&what, || {
        let mut cargo = cargo(checkout, toolchain, &target)?;
        cargo.args(["build", "--release", "--locked", "--target", TARGET]);
        if toolchain == Toolchain::Debian {
            cargo.arg("-Zbuild-std=std,panic_abort");
        }
        command::output(&mut cargo)?;
        for name in &names {
            let built = built(&target.join(TARGET).join("release"), name);
            let bytes =
                fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
            stamp::write(&place(name), &bytes)?;
        }
        stamp.set(&digest)
    })
}

/// The guests: each folder of modules/ with a manifest.
fn names(checkout: &Checkout) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(checkout.root().join("modules"))? {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            names.extend(
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

/// Cargo names a program's file as the package, a library's with underscores.
fn built(folder: &Path, name: &str) -> PathBuf {
    let library = folder.join(format!("{}.wasm", name.replace('-', "_")));
    if library.exists() {
        library
    } else {
        folder.join(format!("{name}.wasm"))
    }
}

fn cargo(checkout: &Checkout, toolchain: Toolchain, target: &Path) -> Result<Command> {
    let folder = checkout.root().join("modules");
    let mut cargo = match toolchain {
        Toolchain::Rustup => {
            let mut cargo = command::cargo::<&str>(&folder, []);
            cargo
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
            cargo
        }
        Toolchain::Debian => {
            let mut cargo = Command::new("/usr/bin/cargo");
            cargo.current_dir(&folder);
            for name in HOST_ONLY {
                cargo.env_remove(name);
            }
            cargo
                .env("PATH", debian_path(checkout)?)
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTFLAGS", "-L /usr/lib/wasm32-wasi");
            cargo
        }
    };
    cargo.env("CARGO_TARGET_DIR", target);
    Ok(cargo)
}

/// Debian's compiler asks for `wasm-ld`; its linker goes by a versioned name.
/// `/usr/bin` comes first for the guests' build only.
fn debian_path(checkout: &Checkout) -> Result<OsString> {
    let bin = checkout.artifact("toolchain/bin");
    fs::create_dir_all(&bin)?;
    let link = bin.join("wasm-ld");
    if !link.exists() {
        let linker = debian_linker()?;
        std::os::unix::fs::symlink(&linker, &link).with_context(|| {
            format!("failed to link {} to {}", link.display(), linker.display())
        })?;
    }
    let mut folders = vec![bin, PathBuf::from("/usr/bin")];
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    Ok(std::env::join_paths(folders)?)
}

fn debian_linker() -> Result<PathBuf> {
    let mut found: Vec<_> = fs::read_dir("/usr/bin")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| name.starts_with("wasm-ld-"))
        })
        .collect();
    found.sort();
    found
        .pop()
        .context("no wasm-ld-NN in /usr/bin; run `apt-get install lld-22`")
}
