use std::path::Path;

use anyhow::{Result, bail};

use crate::checkout::Checkout;

/// Which program's file operations are logged, and what happens to them.
#[derive(Debug, Clone, Default)]
pub struct Shim {
    env: Vec<(String, String)>,
}

impl Shim {
    /// Looks at everything below `dir`.
    ///
    /// # Errors
    /// Says how to build the library if it is not there.
    pub fn of(dir: &Path) -> Result<Self> {
        let library = Checkout::beside("libfleet_shim.so")?;
        if !library.exists() {
            bail!(
                "{} is not there: run `cargo build --workspace`",
                library.display()
            );
        }
        Ok(Self::default()
            .with("LD_PRELOAD", &library.display().to_string())
            .with("FLEET_SHIM_DIR", &dir.display().to_string()))
    }

    /// Logs every change and sync.
    #[must_use]
    pub fn log(self, log: &Path) -> Self {
        self.with("FLEET_SHIM_LOG", &log.display().to_string())
    }

    /// Swallows syncs: `fdatasync` or `all`.
    #[must_use]
    pub fn swallow(self, which: &str) -> Self {
        self.with("FLEET_SHIM_SWALLOW", which)
    }

    /// Makes a call fail: `CALL:N:ERROR[:on]`.
    #[must_use]
    pub fn fail(self, what: &str) -> Self {
        self.with("FLEET_SHIM_FAIL", what)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The environment of the program.
    pub fn env(&self) -> Vec<(&str, &str)> {
        let pairs = self.env.iter();
        pairs.map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }
}
