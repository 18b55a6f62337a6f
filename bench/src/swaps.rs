//! Versions that change under load: failed requests, and how long a change takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fleet_tests::{http, until};
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::program::{Served, hello};
use crate::report::Report;

const SWAPS: usize = 100;
/// Clients, and the pause of each between two requests: 2,000 requests a second.
const CLIENTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// Swaps two versions to and fro while requests come in at a steady rate.
pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("swapped.wasm");
    let component = std::fs::read(hello()?)?;
    let forms = [1, 2].map(|number| [&component[..], &[0, 3, 1, b'n', number]].concat());
    std::fs::write(&file, &forms[0])?;
    let path = file.display().to_string();
    let served = Served::edge_runtime_in(dir.path(), &["--watch", &path], "/").await?;
    // Both are in the cache from here on.
    for form in [&forms[1], &forms[0]] {
        swap(&served, &file, form).await?;
    }
    let before = served.settled_mib().await?;
    let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CLIENTS {
        clients.spawn(requests(
            served.url.clone(),
            stop.clone(),
            Arc::clone(&count),
        ));
    }
    let progress = ProgressBar::new(SWAPS as u64);
    let mut times = Vec::new();
    for number in 0..SWAPS {
        times.push(swap(&served, &file, &forms[(number + 1) % 2]).await?);
        progress.inc(1);
    }
    let rate = count.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    stop.cancel();
    let mut failed = 0;
    while let Some(client) = clients.join_next().await {
        failed += client??;
    }
    progress.finish_and_clear();
    let requests = count.load(Relaxed) as f64;
    let after = served.settled_mib().await?;
    report.add("swaps under load: requests", "", vec![requests]);
    report.add("swaps under load: rate", "requests/s", vec![rate]);
    report.add(
        "swaps under load: failed requests",
        "",
        vec![f64::from(failed)],
    );
    report.add("swap of a cached component, read to switch", "ms", times);
    report.add(
        "memory after 100 swaps under load to idle before",
        "x",
        vec![after / before],
    );
    ensure!(failed == 0, "{failed} requests failed");
    Ok(())
}

/// Puts `form` in the file's place; the time that the runtime says it took.
async fn swap(served: &Served, file: &Path, form: &[u8]) -> Result<f64> {
    let line = "reloaded ";
    let seen = served.output().matches(line).count();
    let beside = file.with_extension("new");
    std::fs::write(&beside, form)?;
    std::fs::rename(beside, file)?;
    let last = until("the swap", PATIENCE, async || {
        let output = served.output();
        let mut lines = output.lines().filter(|l| l.starts_with(line));
        let last = lines.nth(seen).map(str::to_owned);
        last.ok_or(output)
    })
    .await?;
    let ms = last
        .rsplit(" in ")
        .next()
        .and_then(|end| end.strip_suffix(" ms"));
    Ok(ms.context("the time of a swap")?.parse()?)
}

/// One client on one connection; how many of its requests failed.
async fn requests(url: String, stop: CancellationToken, count: Arc<AtomicU64>) -> Result<u32> {
    let http = http::plain()?;
    let mut failed = 0;
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let answered = match http.get(&url).send().await {
            Ok(answer) => {
                answer.status() == 200 && answer.text().await.is_ok_and(|t| !t.is_empty())
            }
            Err(_) => false,
        };
        count.fetch_add(1, Relaxed);
        failed += u32::from(!answered);
    }
    Ok(failed)
}
