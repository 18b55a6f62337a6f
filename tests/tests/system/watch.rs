use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use fleet_tests::{Checkout, Serve, http, until};

const RELOADS: u8 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Each new form of a component takes over while requests run; none of them fails,
/// and a form that cannot be served changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_served_anew_without_a_failed_request() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("hello.wasm");
    let hello = std::fs::read(Checkout::module("hello")?)?;
    std::fs::write(&file, &hello)?;
    let serve = Serve::start(&["--watch", &file.display().to_string()]).await?;

    let (stop, answers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load = tokio::spawn(requests(serve.url.clone(), stop.clone(), answers.clone()));
    for number in 1..=RELOADS {
        put(&file, &form(&hello, number))?;
        reached(&serve, "reloaded hello ", number.into()).await?;
    }
    put(&file, b"no component")?;
    reached(&serve, "not reloaded", 1).await?;
    let before = answers.load(Relaxed);
    until("answers of the version before", PATIENCE, async || {
        let more = answers.load(Relaxed) - before;
        if more > 100 {
            Ok(())
        } else {
            Err(format!("{more} answers"))
        }
    })
    .await?;
    put(&file, &form(&hello, RELOADS + 1))?;
    reached(&serve, "reloaded hello ", u64::from(RELOADS) + 1).await?;
    stop.store(true, Relaxed);
    load.await??;
    assert!(answers.load(Relaxed) > 100);
    Ok(())
}

async fn requests(url: String, stop: Arc<AtomicBool>, answers: Arc<AtomicU64>) -> Result<()> {
    let http = http::plain()?;
    while !stop.load(Relaxed) {
        let answer = http.get(&url).send().await?;
        anyhow::ensure!(answer.status() == 200, "{}", answer.status());
        anyhow::ensure!(answer.text().await?.contains("hello"));
        answers.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// The same component with another digest: a custom section more.
fn form(component: &[u8], number: u8) -> Vec<u8> {
    let section = [0, 3, 1, b'n', number];
    [component, &section].concat()
}

/// As a build does it: the file is replaced by another.
fn put(file: &Path, bytes: &[u8]) -> Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(beside, file)?;
    Ok(())
}

async fn reached(serve: &Serve, line: &str, count: u64) -> Result<()> {
    until(line, PATIENCE, async || {
        let output = serve.process.output();
        let lines = output.lines().filter(|l| l.starts_with(line)).count();
        if lines as u64 == count {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await
}
