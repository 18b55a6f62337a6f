use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::until;

/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 25;

/// A child process in a group of its own; the group is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with both its outputs in `log`, behind what is there already.
    ///
    /// # Errors
    /// If the program cannot be started or the log not written.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .env_remove("RUST_BACKTRACE")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it as a power cut would: SIGKILL to the whole group.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.has_ended() {
            bail!(
                "{} should have run, but has ended with {status}\n{}",
                self.name,
                self.tail()
            );
        }
        self.signal(Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end with SIGTERM and wants exit code 0.
    ///
    /// # Errors
    /// If it does not end within `limit`, or with another code.
    pub async fn terminate(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.ended(limit).await?;
        if !status.success() {
            bail!(
                "{} ended with {status} after SIGTERM\n{}",
                self.name,
                self.tail()
            );
        }
        Ok(())
    }

    /// Sends it, and what it has started, a signal.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn send(&self, signal: Signal) -> Result<()> {
        self.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        until(&what, limit, async || {
            self.has_ended().ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// Reads a JSON file that the process writes once it serves.
    ///
    /// # Errors
    /// If the process ends before, or does not write it within `limit`.
    pub async fn announced(&mut self, file: &Path, limit: Duration) -> Result<serde_json::Value> {
        let (pid, what) = (self.id(), format!("start of {}", self.name));
        let waited = until(&what, limit, async || {
            if let Some(status) = self.has_ended() {
                return Ok(Err(status));
            }
            let text = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
            let value: serde_json::Value =
                serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", file.display()))?;
            // A killed predecessor leaves its file behind.
            if value["pid"] == pid {
                Ok(Ok(value))
            } else {
                Err(format!("not yet its own: {value}"))
            }
        })
        .await
        .with_context(|| self.tail())?;
        waited.map_err(|status| {
            anyhow::anyhow!(
                "{} ended with {status} at its start\n{}",
                self.name,
                self.tail()
            )
        })
    }

    /// All that it has printed, over all starts with the same log.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log, for people.
    pub fn tail(&self) -> String {
        tail(&self.name, &self.log)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child has a positive id")?;
        kill_process_group(pid, signal)
            .with_context(|| format!("{} cannot be signalled", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The end of a log, with a heading.
pub fn tail(name: &str, log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    format!("--- end of {name}'s log\n{}\n---", lines[from..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &tempfile::TempDir, script: &str) -> Process {
        let log = dir.path().join("log");
        Process::start("shell", Path::new("/bin/sh"), ["-c", script], &[], &log).expect("starts")
    }

    #[tokio::test]
    async fn a_dropped_process_takes_its_children_with_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let process = shell(&dir, "sleep 1000 & echo $!; wait");
        let child = until("the child's id", Duration::from_secs(5), async || {
            process
                .output()
                .trim()
                .parse::<i32>()
                .map_err(|e| e.to_string())
        })
        .await
        .expect("printed");
        drop(process);
        let gone = || std::fs::read_to_string(format!("/proc/{child}/stat"));
        until(
            "end of the child",
            Duration::from_secs(5),
            async || match gone() {
                Err(_) => Ok(()),
                Ok(stat) if stat.contains(") Z ") => Ok(()),
                Ok(stat) => Err(stat),
            },
        )
        .await
        .expect("is killed");
    }

    #[tokio::test]
    async fn an_early_end_shows_the_log() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut process = shell(&dir, "echo the reason >&2; exit 3");
        let error = process
            .announced(&dir.path().join("endpoint.json"), Duration::from_secs(5))
            .await
            .expect_err("ended")
            .to_string();
        assert!(
            error.contains("the reason") && error.contains('3'),
            "{error}"
        );
    }
}
