use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tempfile::TempDir;

use crate::{Checkout, Process, until};

const START: Duration = Duration::from_secs(60);

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
        let dir = tempfile::tempdir()?;
        let data_dir = dir.path().join("data").display().to_string();
        let own = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir];
        let program = Checkout::program("edge-runtime")?;
        let log = dir.path().join("log");
        let all = own.iter().chain(args);
        let mut process = Process::start("serve", &program, all, &[], &log)?;
        let url = until("the address of serve", START, async || {
            if let Some(status) = process.has_ended() {
                return Ok(Err(anyhow!(
                    "serve ended with {status}\n{}",
                    process.tail()
                )));
            }
            let output = process.output();
            let line = output.lines().find_map(|l| l.strip_prefix("serving "));
            line.map(|url| Ok(url.to_owned())).ok_or(output.clone())
        })
        .await??;
        Ok(Self { process, url, dir })
    }

    /// A folder that goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
