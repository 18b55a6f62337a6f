use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tempfile::TempDir;

use crate::{Checkout, Process, until};

/// Long enough to compile a whole language within a component on a busy machine.
const START: Duration = Duration::from_secs(180);

/// `edge-runtime serve` on a free port, with a data folder of its own.
#[derive(Debug)]
pub struct Serve {
    /// The program.
    pub process: Process,
    /// Where the data plane is reached.
    pub url: String,
    dir: TempDir,
}

impl Serve {
    /// Starts it with further arguments and waits for its address.
    ///
    /// # Errors
    /// If it does not come up; its log is shown.
    pub async fn start(args: &[&str]) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, args).await
    }

    /// Ends it and starts it with other arguments on the same data; what was compiled is there.
    ///
    /// # Errors
    /// If it does not end or not come up; its log is shown.
    pub async fn restart(mut self, args: &[&str]) -> Result<Self> {
        self.process.terminate(START).await?;
        Self::start_in(self.dir, args).await
    }

    /// Starts it again with `args` on the same data after its process was killed.
    ///
    /// # Errors
    /// If it does not come up; its log is shown.
    pub async fn start_again(self, args: &[&str]) -> Result<Self> {
        Self::start_in(self.dir, args).await
    }

    /// Kills it as a power cut would and starts it again with `args` on the same data.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn kill_and_restart(mut self, args: &[&str]) -> Result<Self> {
        self.process.kill()?;
        Self::start_in(self.dir, args).await
    }

    async fn start_in(dir: TempDir, args: &[&str]) -> Result<Self> {
        let data_dir = dir.path().join("data").display().to_string();
        let own = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir];
        let program = Checkout::program("edge-runtime")?;
        let log = dir.path().join("log");
        std::fs::write(&log, "")?;
        let all = own.iter().chain(args);
        let mut process = Process::start("serve", &program, all, &[], &log)?;
        let url = printed(&mut process, "serving ", START).await?;
        Ok(Self { process, url, dir })
    }

    /// A folder that goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// What a server prints behind `label` once it serves.
///
/// # Errors
/// If it ends before, or does not print it within `limit`; its log is shown.
pub async fn printed(process: &mut Process, label: &str, limit: Duration) -> Result<String> {
    until("the address of a server", limit, async || {
        if let Some(status) = process.has_ended() {
            return Ok(Err(anyhow!("it ended with {status}\n{}", process.tail())));
        }
        let output = process.output();
        let line = output.lines().find_map(|l| l.strip_prefix(label));
        line.map(|url| Ok(url.to_owned())).ok_or(output.clone())
    })
    .await?
}
