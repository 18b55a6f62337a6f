use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fleet_tests::{Checkout, Fleet, Process, serve::printed, until};
use tokio::process::Command;

const PAGE: &str = "docs/first-handler.md";
const PATIENCE: Duration = Duration::from_secs(60);
/// A component that holds a whole language takes its time to compile.
const START: Duration = Duration::from_secs(180);
/// The target of guests, and how Debian's Rust builds it where rustup has none.
const TARGET: &str = "wasm32-wasip2";
const DEBIAN_CARGO: &str = r#"#!/bin/sh
case " $* " in *" --target wasm32-wasip2 "*)
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-L /usr/lib/wasm32-wasi"
  exec /usr/bin/cargo "$@" -Zbuild-std=std,panic_abort;;
esac
PATH="${PATH#*:}" exec cargo "$@"
"#;

/// The page for newcomers, word by word.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_the_first_handler_holds() -> Result<()> {
    let text = std::fs::read_to_string(Checkout::root().join(PAGE))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let text = text.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let mut fleet = Fleet::start().await?;
    fleet.add("n1", &[]).await?;
    let mut terminal = Terminal::open(&mut fleet).await?;
    let mut serving = None;
    let mut printed = String::new();
    let mut run = 0;
    for (kind, block) in blocks(&text) {
        match kind {
            "text" => ensure!(
                printed.trim_end() == block.trim_end(),
                "printed {printed:?}, not {block:?}"
            ),
            "sh serve" => {
                // As Ctrl-C would end it: the next one needs its port.
                drop(serving.take());
                serving = Some(terminal.serve(block).await?);
            }
            "sh" | "sh reloaded" | "sh fleet" | "sh deployed" => {
                if kind == "sh reloaded" {
                    let serving: &Process = serving.as_ref().context("nothing serves")?;
                    until("reloaded", PATIENCE, async || {
                        let output = serving.output();
                        if output.contains("reloaded greeter") {
                            Ok(())
                        } else {
                            Err(output)
                        }
                    })
                    .await?;
                }
                if kind == "sh deployed" {
                    fleet.committed().await?;
                }
                printed = terminal.run(block).await?;
                run += 1;
            }
            other => bail!("{PAGE} has a block of kind {other:?}, which this test does not know"),
        }
    }
    assert_eq!(run, 20, "blocks that were run");
    fleet.finish().await?;
    Ok(())
}

/// Fenced blocks with what stands behind the fence.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap_or((block, "")))
}

/// Runs blocks one after the other, each where the one before ended.
struct Terminal {
    dir: tempfile::TempDir,
    at: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Terminal {
    async fn open(fleet: &mut Fleet) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let programs = Checkout::program("edgectl")?;
        let programs = programs.parent().context("a program lies in a folder")?;
        let mut path = vec![programs.to_owned()];
        path.extend(cargo_for_guests(dir.path()).await?);
        path.extend(Checkout::artifact("tools/bin-node").ok());
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let path = std::env::join_paths(path)?.to_string_lossy().into_owned();
        let kept = |folder: &str| Checkout::artifact(folder).map(|path| path.display().to_string());
        let config = fleet.dir().join("edgectl.toml").display().to_string();
        let gateway = fleet.edge("n1")?.url();
        let env = vec![
            ("PATH", path),
            ("EDGECTL_CONFIG", config),
            ("GATEWAY", gateway),
            // What set-up has fetched is all that a new project needs.
            ("npm_config_cache", kept("npm")?),
            ("npm_config_offline", "true".to_owned()),
            ("PIP_FIND_LINKS", kept("wheels")?),
            ("PIP_NO_INDEX", "1".to_owned()),
        ];
        let at = dir.path().to_owned();
        Ok(Self { dir, at, env })
    }

    async fn run(&mut self, block: &str) -> Result<String> {
        let place = self.dir.path().join("place");
        let script = format!("set -eu\n{block}\npwd > {}", place.display());
        let mut shell = Command::new("bash");
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO") && name != "CARGO_HOME")
        {
            shell.env_remove(name);
        }
        let output = shell
            .args(["-c", &script])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("RUSTUP_TOOLCHAIN")
            .current_dir(&self.at)
            .kill_on_drop(true)
            .output()
            .await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{block}\nended with {}\n{stderr}",
            output.status
        );
        self.at = std::fs::read_to_string(place)?.trim().into();
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn serve(&self, block: &str) -> Result<Process> {
        let script = format!("cd {} && exec {block}", self.at.display());
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let log = self.dir.path().join("serve.log");
        std::fs::write(&log, "")?;
        let args = ["-c", &script];
        let mut process =
            Process::start("second terminal", Path::new("/bin/bash"), args, &env, &log)?;
        printed(&mut process, "serving ", START).await?;
        Ok(process)
    }
}

/// A folder with a cargo that builds guests, where the usual one cannot.
async fn cargo_for_guests(dir: &Path) -> Result<Option<PathBuf>> {
    let args = ["--print", "target-libdir", "--target", TARGET];
    let output = Command::new("rustc").args(args).output().await?;
    let folder = String::from_utf8(output.stdout)?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(None);
    }
    let bin = dir.join("bin");
    std::fs::create_dir(&bin)?;
    let cargo = bin.join("cargo");
    std::fs::write(&cargo, DEBIAN_CARGO)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&cargo, executable)?;
    let linker = Checkout::artifact("toolchain/bin/wasm-ld")?;
    std::os::unix::fs::symlink(linker, bin.join("wasm-ld"))?;
    Ok(Some(bin))
}
