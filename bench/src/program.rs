use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fleet_tests::{Checkout, Process, http, until};
use tempfile::TempDir;
use tokio::process::Command;

/// The version that the runtime is built on.
const WASMTIME: &str = "48.0.8";
/// What `serve` needs; all features take twice as long to build.
const WASMTIME_FEATURES: &str = "serve,run,compile,cranelift,cache,pooling-allocator,parallel-compilation,component-model,component-model-async,wasi-http,wasi-config";
const START: Duration = Duration::from_secs(60);

/// A program that serves one component over HTTP.
#[derive(Debug)]
pub(crate) struct Served {
    process: Process,
    /// Its address.
    pub(crate) url: String,
    /// From its start to its first answer with 200.
    pub(crate) first_answer: Duration,
    _dir: Option<TempDir>,
}

impl Served {
    /// Starts `edge-runtime serve`; streams and their disk are in a new folder.
    pub(crate) async fn edge_runtime(args: &[&str], probe: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut new = Self::edge_runtime_in(dir.path(), args, probe).await?;
        new._dir = Some(dir);
        Ok(new)
    }

    /// The same with its data in `dir`, where an earlier start has left what it compiled.
    pub(crate) async fn edge_runtime_in(dir: &Path, args: &[&str], probe: &str) -> Result<Self> {
        let address = free_address()?;
        let data_dir = dir.join("data").display().to_string();
        let mut all = vec!["serve", "--listen", &address, "--data-dir", &data_dir];
        all.extend(args);
        let program = Checkout::program("edge-runtime")?;
        Self::start(&program, &all, &[], &address, probe, &dir.join("log")).await
    }

    /// Starts another server, which answers at `address`, with its files in `dir`.
    pub(crate) async fn other(
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        address: &str,
        probe: &str,
        dir: TempDir,
    ) -> Result<Self> {
        let log = dir.path().join("log");
        let mut new = Self::start(program, args, env, address, probe, &log).await?;
        new._dir = Some(dir);
        Ok(new)
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// Starts `wasmtime serve`, if it is there.
    pub(crate) async fn wasmtime(args: &[&str], probe: &str) -> Result<Option<Self>> {
        let Some(program) = wasmtime() else {
            eprintln!("wasmtime is not there to compare with: run again with --with-wasmtime");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let address = free_address()?;
        let mut all = vec!["serve", "--addr", &address, "-S", "cli,config"];
        all.extend(args);
        let mut new = Self::start(
            &program,
            &all,
            &[],
            &address,
            probe,
            &dir.path().join("log"),
        )
        .await?;
        new._dir = Some(dir);
        Ok(Some(new))
    }

    /// Starts the server without guests, this program itself.
    pub(crate) async fn native() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let address = free_address()?;
        let program = std::env::current_exe()?;
        let args = ["native", &address];
        let mut new =
            Self::start(&program, &args, &[], &address, "/", &dir.path().join("log")).await?;
        new._dir = Some(dir);
        Ok(new)
    }

    async fn start(
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        address: &str,
        probe: &str,
        log: &Path,
    ) -> Result<Self> {
        let url = format!("http://{address}");
        let http = http::plain()?;
        let begun = Instant::now();
        let mut process = Process::start("server", program, args, env, log)?;
        loop {
            if let Ok(answer) = http.get(format!("{url}{probe}")).send().await
                && answer.status() == 200
            {
                break;
            }
            if let Some(status) = process.has_ended() {
                bail!(
                    "{} ended with {status}\n{}",
                    program.display(),
                    process.tail()
                );
            }
            if begun.elapsed() > START {
                bail!("{} does not answer\n{}", program.display(), process.tail());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Self {
            process,
            url,
            first_answer: begun.elapsed(),
            _dir: None,
        })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory of it and its children once it no longer changes, in MiB.
    pub(crate) async fn settled_mib(&self) -> Result<f64> {
        settled_mib(self.process.id()).await
    }
}

/// Resident memory of a process and its children once it no longer changes, in MiB.
pub(crate) async fn settled_mib(pid: u32) -> Result<f64> {
    let mut last = 0;
    until("settled memory", Duration::from_secs(30), async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = tree_kib(pid).map_err(|e| format!("{e:#}"))?;
        let before = std::mem::replace(&mut last, now);
        if now == before {
            Ok(now as f64 / 1024.0)
        } else {
            Err(format!("{now} KiB"))
        }
    })
    .await
}

fn tree_kib(pid: u32) -> Result<u64> {
    let mut sum = resident_kib(pid)?;
    // Children that a thread other than the first has started are listed with that thread.
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace() {
            sum += tree_kib(child.parse()?)?;
        }
    }
    Ok(sum)
}

/// Resident memory of a process at this moment, in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .to_string())
}

/// The component that is served.
pub(crate) fn hello() -> Result<String> {
    Ok(Checkout::module("hello")?.display().to_string())
}

fn wasmtime() -> Option<PathBuf> {
    Checkout::artifact("tools/bin/wasmtime").ok()
}

/// Builds wasmtime into `artifacts/tools` if it is not there.
pub(crate) async fn install_wasmtime() -> Result<()> {
    if wasmtime().is_some() {
        return Ok(());
    }
    let root = Checkout::root().join("artifacts/tools");
    eprintln!("building wasmtime {WASMTIME} into {}", root.display());
    let status = Command::new("cargo")
        .args([
            "install",
            "wasmtime-cli",
            "--version",
            WASMTIME,
            "--locked",
            "--no-default-features",
            "--features",
            WASMTIME_FEATURES,
            "--root",
        ])
        .arg(&root)
        .status()
        .await?;
    if !status.success() {
        bail!("cargo install wasmtime-cli ended with {status}");
    }
    Ok(())
}
