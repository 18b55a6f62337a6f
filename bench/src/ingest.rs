use std::time::{Duration, Instant};

use anyhow::Result;
use fleet_tests::Device;
use fleet_tests::device::Series;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::program::{Served, hello};
use crate::report::Report;

const DEVICES: usize = 16;
const LENGTH: Duration = Duration::from_secs(5);

/// Records per second, each on disk before its answer, from devices that wait for every answer.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    for (batch, what) in [
        (1, "durable ingest, 16 devices, 1 record a request"),
        (20, "durable ingest, 16 devices, 20 records a request"),
    ] {
        let mut rates = Vec::new();
        for _ in 0..rounds {
            rates.push(round(batch).await?);
        }
        report.add(what, "records/s", rates);
    }
    Ok(())
}

async fn round(batch: u64) -> Result<f64> {
    let served =
        Served::edge_runtime(&["--stream", "vibration", &hello()?], "/streams/vibration").await?;
    let url = format!("{}/streams/vibration", served.url);
    let series = Series::load("vibration.ndjson")?;
    let stop = CancellationToken::new();
    let (mut devices, mut senders) = (Vec::new(), JoinSet::new());
    let begun = Instant::now();
    for _ in 0..DEVICES {
        let device = Device::new(url.clone(), series.clone(), batch)?;
        devices.push(device.clone());
        let stop = stop.clone();
        senders.spawn(async move { device.send(Duration::ZERO, stop).await });
    }
    tokio::time::sleep(LENGTH).await;
    stop.cancel();
    while senders.join_next().await.is_some() {}
    let took = begun.elapsed().as_secs_f64();
    anyhow::ensure!(
        devices.iter().all(|d| d.failures() == 0),
        "some records were not taken"
    );
    let records: u64 = devices.iter().map(Device::count).sum();
    Ok(records as f64 / took)
}
