//! A model whose versions are exchanged by deployments while clients use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_tests::http;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::node::{Node, entry};
use super::workload::{Body, Form, JSON_LENGTH, MODELS};
use crate::program::{resident_kib, settled_mib};
use crate::report::Report;

const SWAPS: u32 = 10;
/// Clients, and the pause of each between two requests.
const CLIENTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(40);
const DRAIN: Duration = Duration::from_secs(1);

/// Ten new versions under load; memory after the first and after the last.
pub(super) async fn measure(report: &mut Report) -> Result<()> {
    let model = MODELS[1].name;
    let node = Node::start().await?;
    let deploy = async |version: u32| -> Result<()> {
        let version = version.to_string();
        node.push(model, &version, model).await?;
        let mut deployment = String::new();
        entry(&mut deployment, model, &version, "");
        node.deploy(&deployment).await
    };
    deploy(0).await?;
    let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let url = format!("{}/v2/models/{model}/infer", node.url());
    let body = Body::new(MODELS[1].shape, Form::Binary);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let load = requests(url.clone(), body.clone(), stop.clone(), Arc::clone(&count));
        clients.spawn(load);
    }
    let pid = node.pid().context("the node runs")?;
    let mut under_load = Vec::new();
    for version in 1..=SWAPS {
        deploy(version).await?;
        // Under load memory never settles; by then the version before has gone.
        tokio::time::sleep(DRAIN).await;
        under_load.push(resident_kib(pid)? as f64 / 1024.0);
    }
    stop.cancel();
    let mut failed = 0;
    while let Some(client) = clients.join_next().await {
        failed += client??;
    }
    let settled = settled_mib(pid).await?;
    let (first, last) = (under_load[0], under_load[under_load.len() - 1]);
    let requests = count.load(Relaxed) as f64;
    report.add("model swaps under load: requests", "", vec![requests]);
    report.add(
        "model swaps under load: failed requests",
        "",
        vec![failed.into()],
    );
    report.add("memory after the first swap", "MiB", vec![first]);
    report.add("memory after ten swaps", "MiB", vec![last]);
    report.add(
        "memory after ten swaps to the first",
        "x",
        vec![last / first],
    );
    report.add("memory after the load", "MiB", vec![settled]);
    ensure!(failed == 0, "{failed} requests failed");
    node.finish().await
}

/// One client on one connection; how many of its requests failed.
async fn requests(
    url: String,
    body: Body,
    stop: CancellationToken,
    count: Arc<AtomicU64>,
) -> Result<u32> {
    let http = http::plain()?;
    let length = body.json_length.context("a binary body")?.to_string();
    let mut failed = 0;
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let request = http.post(&url).header(JSON_LENGTH, &length);
        let answered = match request.body(body.content.clone()).send().await {
            Ok(answer) => {
                answer.status() == 200 && answer.bytes().await.is_ok_and(|b| !b.is_empty())
            }
            Err(_) => false,
        };
        count.fetch_add(1, Relaxed);
        failed += u32::from(!answered);
    }
    Ok(failed)
}
