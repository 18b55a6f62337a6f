use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::power_cut::Entry;
use crate::promise::{Promised, Verdict};
use crate::shim::Shim;

/// Does some work in `dir` under the shim; what it says goes to `said`.
///
/// # Errors
/// If it cannot be started.
pub fn work(
    dir: &Path,
    log: &Path,
    commands: u64,
    seed: u64,
    shim: &Shim,
) -> Result<(ExitStatus, String)> {
    let output = Command::new(Checkout::program("stream-work")?)
        .arg("append")
        .args([dir, log])
        .args(["--commands", &commands.to_string()])
        .args(["--seed", &seed.to_string()])
        .env_remove("RUST_BACKTRACE")
        .envs(shim.env())
        .output()
        .context("stream-work cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status, said))
}

/// What a log's acknowledgements come to, beside what was promised before.
///
/// # Errors
/// If one is not understood.
pub fn promised_in(entries: &[Entry], mut promised: Promised) -> Result<Promised> {
    for entry in entries {
        if let Entry::Ack(text) = entry {
            promised.add(text)?;
        }
    }
    Ok(promised)
}

/// A process that opens folders and compares them with what was promised.
#[derive(Debug)]
pub struct Auditor {
    process: Option<Running>,
    promised: PathBuf,
    damaged: bool,
}

#[derive(Debug)]
struct Running {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Auditor {
    /// An auditor that may write below `dir`, which it does not examine.
    pub fn new(dir: &Path) -> Self {
        Self {
            process: None,
            promised: dir.join("promised.json"),
            damaged: false,
        }
    }

    /// One that takes gap records and a new epoch for what is missing.
    pub fn of_damage(dir: &Path) -> Self {
        Self {
            damaged: true,
            ..Self::new(dir)
        }
    }

    /// Takes a new process for the next examination, as a restart of the node would be.
    pub fn restart(&mut self) {
        self.process = None;
    }

    /// Examines a folder. The process ending is a verdict, too.
    ///
    /// # Errors
    /// If the examination cannot be started.
    pub fn verdict(&mut self, dir: &Path, promised: &Promised) -> Result<Verdict> {
        std::fs::write(&self.promised, serde_json::to_vec(promised)?)?;
        let running = match &mut self.process {
            Some(running) => running,
            none => none.insert(start(self.damaged)?),
        };
        let ask = format!("{}\t{}\n", dir.display(), self.promised.display());
        let mut answer = String::new();
        let asked = running.asks.write_all(ask.as_bytes());
        let answered = asked.and_then(|()| running.answers.read_line(&mut answer));
        match answered {
            Ok(1..) => Ok(serde_json::from_str(&answer)?),
            other => {
                let ended = self.process.take().map(|mut running| running.child.wait());
                Ok(Verdict {
                    unopenable: Some(format!("the examination ended: {other:?} {ended:?}")),
                    ..Verdict::default()
                })
            }
        }
    }
}

fn start(damaged: bool) -> Result<Running> {
    let mut child = Command::new(Checkout::program("stream-work")?)
        .arg("audit")
        .args(damaged.then_some("--damaged"))
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Panics that are caught inside are told here; the verdict has the outcome.
        .stderr(Stdio::null())
        .spawn()
        .context("stream-work cannot be started")?;
    let asks = child.stdin.take().context("it has an input")?;
    let answers = BufReader::new(child.stdout.take().context("it has an output")?);
    Ok(Running {
        child,
        asks,
        answers,
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
