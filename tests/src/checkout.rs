use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where the programs and their inputs lie.
#[derive(Debug, Clone, Copy)]
pub struct Checkout;

impl Checkout {
    /// The repository's root.
    pub fn root() -> PathBuf {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        own.parent()
            .expect("the crate lies in the repository")
            .to_owned()
    }

    /// A program of the workspace, built in the same profile as this one.
    ///
    /// # Errors
    /// Says how to build it if it is not there.
    pub fn program(name: &str) -> Result<PathBuf> {
        let path = Self::beside(name)?;
        if !path.exists() {
            bail!(
                "{} is not there: run `cargo build --workspace --bins`",
                path.display()
            );
        }
        Ok(path)
    }

    /// Where a file lies that is built in the same profile as this program.
    ///
    /// # Errors
    /// If this program's own place is not known.
    pub fn beside(name: &str) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let mut folder = own.parent().expect("an executable lies in a folder");
        if folder.ends_with("deps") {
            folder = folder.parent().expect("deps lies in a profile's folder");
        }
        Ok(folder.join(name))
    }

    /// A file below `artifacts/`, which set-up fills.
    ///
    /// # Errors
    /// Says how to get it if it is not there.
    pub fn artifact(path: &str) -> Result<PathBuf> {
        let path = Self::root().join("artifacts").join(path);
        if !path.exists() {
            bail!("{} is not there: run `cargo xtask setup`", path.display());
        }
        Ok(path)
    }

    /// A component that set-up built.
    ///
    /// # Errors
    /// Says how to get it if it is not there.
    pub fn module(name: &str) -> Result<PathBuf> {
        Self::artifact(&format!("modules/{name}.wasm"))
    }

    /// A model that set-up fetched or trained.
    ///
    /// # Errors
    /// Says how to get it if it is not there.
    pub fn model(name: &str) -> Result<PathBuf> {
        Self::artifact(&format!("models/{name}.onnx"))
    }
}
