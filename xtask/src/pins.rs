//! What set-up brings in: the table `xtask/pins.toml`.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The whole table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    /// Python version whose wheels are taken.
    pub(crate) python: String,
    #[serde(rename = "wheel")]
    pub(crate) wheels: Vec<Wheel>,
    pub(crate) local: Vec<Local>,
    pub(crate) made: Vec<Made>,
    pub(crate) venv: Venv,
    #[serde(rename = "builder")]
    pub(crate) builders: Vec<Builder>,
    pub(crate) tools: Tools,
    pub(crate) debian: Debian,
}

/// A Python package from which files are taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    pub(crate) package: String,
    pub(crate) version: String,
    /// Only on machines of this kind; on all if it is not set.
    pub(crate) arch: Option<String>,
    /// Platform tag of the wheel; `any` if it is not set.
    pub(crate) platform: Option<String>,
    #[serde(rename = "file", default)]
    pub(crate) files: Vec<File>,
    #[serde(rename = "folder", default)]
    pub(crate) folders: Vec<Folder>,
}

/// A file in a wheel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) from: String,
    /// Below `artifacts/`.
    pub(crate) to: String,
    pub(crate) sha256: String,
}

/// A folder in a wheel, with all that lies in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    pub(crate) from: String,
    /// Below `artifacts/`.
    pub(crate) to: String,
    /// Of the whole wheel.
    pub(crate) sha256: String,
}

/// A file of the repository that has its place in `artifacts/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Local {
    pub(crate) from: String,
    /// Below `artifacts/`.
    pub(crate) to: String,
}

/// Files that a script of ours makes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Made {
    pub(crate) script: String,
    pub(crate) args: Vec<String>,
    /// Below `artifacts/`.
    pub(crate) inputs: Vec<String>,
    /// Below `artifacts/`.
    pub(crate) outputs: Vec<String>,
}

/// The Python test clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Venv {
    pub(crate) requirements: Vec<String>,
}

/// A Python package that brings what builds guests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Builder {
    pub(crate) package: String,
    pub(crate) version: String,
    /// Of its wheels, one for each kind of machine.
    pub(crate) sha256: Vec<String>,
}

/// Versions of the slow clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tools {
    pub(crate) wkg: String,
}

/// Names of Debian packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Debian {
    pub(crate) wasm: Vec<String>,
    pub(crate) python: Vec<String>,
    pub(crate) clients: Vec<String>,
    pub(crate) beside: Beside,
    pub(crate) brokers: Beside,
}

/// Packages of one Debian that are unpacked, not installed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Beside {
    pub(crate) suite: String,
    pub(crate) packages: Vec<String>,
}

impl Pins {
    /// The table that this program was built with.
    pub(crate) fn load() -> Result<Self> {
        toml::from_str(include_str!("../pins.toml")).context("failed to read xtask/pins.toml")
    }

    /// The builder of this name.
    pub(crate) fn builder(&self, package: &str) -> Result<&Builder> {
        let found = self.builders.iter().find(|b| b.package == package);
        found.with_context(|| format!("xtask/pins.toml has no builder {package}"))
    }

    /// The wheels for this kind of machine.
    pub(crate) fn wheels_here(&self) -> impl Iterator<Item = &Wheel> {
        self.wheels.iter().filter(|wheel| {
            wheel
                .arch
                .as_deref()
                .is_none_or(|arch| arch == std::env::consts::ARCH)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_has_a_whole_digest_and_no_two_the_same_place_on_a_machine() {
        let pins = Pins::load().unwrap();
        for arch in ["x86_64", "aarch64"] {
            let mut places = Vec::new();
            for wheel in &pins.wheels {
                if wheel.arch.as_deref().is_some_and(|a| a != arch) {
                    continue;
                }
                let files = wheel.files.iter().map(|file| (&file.to, &file.sha256));
                let folders = wheel.folders.iter().map(|all| (&all.to, &all.sha256));
                for (to, sha256) in files.chain(folders) {
                    assert_eq!(sha256.len(), 64, "{to}");
                    assert!(!places.contains(&to), "{to} twice");
                    places.push(to);
                }
            }
            assert!(
                places.iter().any(|to| *to == "lib/libonnxruntime.so"),
                "{arch}"
            );
        }
    }

    #[test]
    fn every_requirement_names_one_version() {
        for requirement in Pins::load().unwrap().venv.requirements {
            assert!(requirement.contains("=="), "{requirement}");
        }
    }
}
