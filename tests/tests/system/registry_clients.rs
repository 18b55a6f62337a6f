use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::model_files::FileRole;
use fleet_api::rest::ArtifactSummary;
use fleet_tests::{Checkout, Fleet, Serve, http};
use tokio::process::Command;

use crate::fixtures::{scaling_model, weights};
use crate::model_files::golden;

/// A tool that the long run builds; the short run goes without.
fn wkg() -> Option<PathBuf> {
    let named = std::env::var_os("FLEET_WKG").map(PathBuf::from);
    named.or_else(|| Checkout::artifact("tools/bin/wkg").ok())
}

async fn run(command: &mut Command) -> Result<String> {
    let output = command.output().await?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    anyhow::ensure!(
        output.status.success(),
        "{command:?} ended with {}: {text}",
        output.status
    );
    Ok(text)
}

async fn is_listed(fleet: &Fleet, name: &str, version: &str) -> Result<()> {
    let all: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    let found = all
        .iter()
        .any(|a| a.name.as_str() == name && a.version.as_str() == version);
    anyhow::ensure!(found, "{name}:{version} is not among {all:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_and_pulls_a_handler_and_a_model() -> Result<()> {
    let fleet = Fleet::start().await?;
    let python = Checkout::artifact("venv/bin/python")?;
    let registry = fleet
        .control
        .url()
        .rsplit('/')
        .next()
        .context("HOST:PORT")?
        .to_owned();
    let ca = fleet.control.ca();
    let script = Checkout::root().join("tests/clients/oras_push_pull.py");
    let token = fleet.api()?.token().to_owned();
    for (kind, name, file) in [
        ("handlers", "hello", Checkout::module("hello")?),
        ("models", "vibration", Checkout::model("vibration")?),
    ] {
        let out = fleet.dir().join(name);
        std::fs::create_dir(&out)?;
        run(Command::new(&python)
            .arg(&script)
            .arg(&registry)
            .arg(&ca)
            .args([&token, kind, name])
            .arg(&file)
            .arg(&out))
        .await?;
        is_listed(&fleet, name, "1.0.0-oras").await?;
        let pulled = std::fs::read_dir(&out)?
            .next()
            .context("something was pulled")??
            .path();
        assert_eq!(std::fs::read(pulled)?, std::fs::read(&file)?);
    }
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_oras_pushes_with_its_files_and_pulls_serves_from_the_folder() -> Result<()> {
    let fleet = Fleet::start().await?;
    let url = fleet.control.url();
    let registry = url.rsplit('/').next().context("HOST:PORT")?;
    let folder = fleet.dir().join("net");
    let out = fleet.dir().join("pulled");
    std::fs::create_dir(&folder)?;
    std::fs::create_dir(&out)?;
    let golden = golden(2.0).to_string().into_bytes();
    let files = [
        (FileRole::Labels, "net.labels.txt", b"a\nb\nc\nd\n".to_vec()),
        (FileRole::Golden, "net.golden.json", golden),
        (FileRole::Data, "scale.bin", weights(2.0)),
    ];
    let model = folder.join("net.onnx");
    std::fs::write(&model, scaling_model("scale.bin"))?;
    let mut command = Command::new(Checkout::artifact("venv/bin/python")?);
    command
        .arg(Checkout::root().join("tests/clients/oras_push_pull.py"))
        .args([registry.as_ref(), fleet.control.ca().as_os_str()])
        .args([fleet.api()?.token(), "models", "net"])
        .args([&model, &out]);
    for (role, name, content) in &files {
        let file = folder.join(name);
        std::fs::write(&file, content)?;
        command.arg(format!("{}:{}", file.display(), role.media_type()));
    }
    run(&mut command).await?;
    let pushed: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    let known = pushed[0].files.iter().map(|f| (f.role, f.name.as_str()));
    let sent = files.iter().map(|(role, name, _)| (*role, *name));
    assert!(known.eq(sent), "{:?}", pushed[0].files);

    for (_, name, content) in &files {
        assert_eq!(std::fs::read(out.join(name))?, *content, "{name}");
    }
    let model = format!("net={}", out.join("net.onnx").display());
    let mut serve = Serve::start(&["--model", &model]).await?;
    let ready = format!("{}/v2/models/net/ready", serve.url);
    assert_eq!(http::plain()?.get(ready).send().await?.status(), 200);
    serve.process.terminate(Duration::from_secs(20)).await?;
    // What the golden values ask for is looked at here as well.
    std::fs::write(out.join("scale.bin"), weights(3.0))?;
    let refused = Serve::start(&["--model", &model]).await;
    let refused = format!("{:#}", refused.err().context("it serves")?);
    assert!(refused.contains("golden case 1"), "{refused}");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wkg_pushes_and_pulls_a_handler() -> Result<()> {
    let Some(wkg) = wkg() else {
        eprintln!("SKIPPED: wkg is not there; `cargo xtask test --all` builds it");
        return Ok(());
    };
    let fleet = Fleet::start().await?;
    let registry = fleet
        .control
        .registry()
        .rsplit('/')
        .next()
        .context("HOST:PORT")?
        .to_owned();
    let reference = format!("{registry}/handlers/hello:1.0.0-wkg");
    let module = Checkout::module("hello")?;
    let token = fleet.api()?.token().to_owned();
    let pulled = fleet.dir().join("pulled.wasm");
    let wkg = |args: &[&str]| {
        let mut command = Command::new(&wkg);
        command.args(["oci"]).args(args).args([
            "--insecure",
            &registry,
            "-u",
            "admin",
            "-p",
            &token,
        ]);
        command
    };
    run(wkg(&["push", &reference, &module.display().to_string()]).env("HOME", fleet.dir())).await?;
    is_listed(&fleet, "hello", "1.0.0-wkg").await?;
    let out = pulled.display().to_string();
    run(wkg(&["pull", &reference, "-o", &out]).env("HOME", fleet.dir())).await?;
    assert_eq!(std::fs::read(pulled)?, std::fs::read(module)?);
    // What edgectl has pushed can be pulled by others.
    fleet.push_handler("hello:1.0.0", "hello").await?;
    let reference = format!("{registry}/handlers/hello:1.0.0");
    run(wkg(&["pull", &reference, "-o", &out]).env("HOME", fleet.dir())).await?;
    fleet.finish().await
}
