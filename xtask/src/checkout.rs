//! Where things lie in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How a program was built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// For daily work, tests and the demo.
    Dev,
    /// For benchmarks and gateways.
    Release,
}

/// The repository that the chores work on.
pub(crate) struct Checkout {
    root: PathBuf,
}

impl Checkout {
    /// The checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the repository")?;
        anyhow::ensure!(
            root.join("xtask").is_dir(),
            "{} is gone; build xtask again from the checkout",
            root.display()
        );
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The repository's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below `artifacts/`, which git ignores.
    pub(crate) fn artifact(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("artifacts").join(path)
    }

    /// The Python of the test clients.
    pub(crate) fn venv_python(&self) -> PathBuf {
        self.artifact("venv/bin/python")
    }

    /// Cargo's target folder for everything but the guests.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.root.join("target"),
        }
    }

    /// A program of the workspace.
    pub(crate) fn program(&self, profile: Profile, name: &str) -> PathBuf {
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        };
        self.target().join(folder).join(name)
    }
}
