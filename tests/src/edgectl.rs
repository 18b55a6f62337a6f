use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::checkout::Checkout;

/// The operator's command line, logged in or not.
#[derive(Debug, Clone)]
pub struct Edgectl {
    config: PathBuf,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Edgectl {
    /// A command line that keeps its login in `config`.
    pub fn new(config: &Path) -> Self {
        Self {
            config: config.to_owned(),
        }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        let output = Command::new(Checkout::program("edgectl")?)
            .args(args)
            .env("EDGECTL_CONFIG", &self.config)
            .env_remove("EDGECTL_URL")
            .env_remove("EDGECTL_TOKEN")
            .env_remove("EDGECTL_CA")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed; answers its standard output.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub async fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let ran = self.run(&args).await?;
        if ran.code != 0 {
            bail!(
                "edgectl {} ended with {}: {}",
                args.join(OsStr::new(" ")).display(),
                ran.code,
                ran.stderr
            );
        }
        Ok(ran.stdout)
    }

    /// Runs a command with `-o json` that must succeed; answers its document.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub async fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let stdout = self.ok(args.iter().chain(&["-o", "json"])).await?;
        Ok(serde_json::from_str(&stdout)?)
    }

    /// Runs a command that must fail with exit code 1; answers its standard error.
    ///
    /// # Errors
    /// If it ends in another way.
    pub async fn refused<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let ran = self.run(args).await?;
        if ran.code != 1 {
            bail!(
                "should have been refused, but ended with {}: {}{}",
                ran.code,
                ran.stdout,
                ran.stderr
            );
        }
        Ok(ran.stderr)
    }
}
