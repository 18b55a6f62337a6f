//! Records over a link whose mood changes all the time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::archive::{self, Audit};
use crate::chaos::{Chaos, Mood};
use crate::device::{Device, Series};
use crate::fleet::Fleet;
use crate::wait::until;

/// The longest that a mood lasts.
const MOOD: u64 = 2_500;
/// How long the link may take to bring all when it is good again.
const DRAIN: Duration = Duration::from_secs(120);

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What the archive has of what was acknowledged.
    pub audit: Audit,
    /// How often the link changed its mood.
    pub moods: u64,
    /// Connections that it broke.
    pub broken: u64,
    /// Connections that the node opened.
    pub opened: u64,
    /// Frames that were sent again.
    pub resent: u64,
}

/// Sends records through a node whose link to the control plane changes its mood by `seed` for
/// the given time, then waits until the archive has all of them.
///
/// # Errors
/// If a part cannot be started, or not all comes in time.
pub async fn run(seed: u64, time: Duration) -> Result<Report> {
    let mut fleet = Fleet::start().await?;
    let broker: SocketAddr = fleet.control.mqtt().parse()?;
    let chaos = Chaos::start(broker, seed).await?;
    let edge = fleet.join("n1", &["site=test"]).await?;
    edge.configure(&format!(
        "[uplink]\nbroker = \"mqtts://{}\"\n",
        chaos.address()
    ));
    edge.start().await?;
    fleet
        .apply(
            "[deployment]\nname = \"streams\"\nselect = \"*\"\n[[stream]]\nname = \"vibration\"\n",
        )
        .await?;
    fleet.committed().await?;
    let url = format!("{}/streams/vibration", fleet.edge("n1")?.url());
    let device = Device::new(url, Series::load("vibration.ndjson")?, 20)?;
    let stop = CancellationToken::new();
    let sending = {
        let (device, stop) = (device.clone(), stop.clone());
        tokio::spawn(async move { device.send(Duration::from_millis(20), stop).await })
    };

    let end = Instant::now() + time;
    let mut moods = 0;
    while Instant::now() < end {
        let mood = chaos.any();
        chaos.set(mood);
        moods += 1;
        sleep(Duration::from_millis(200 + chaos.random(MOOD))).await;
    }
    chaos.set(Mood::Good);
    stop.cancel();
    sending.await?;

    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", DRAIN, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        if audit.missing == 0 {
            Ok(audit)
        } else {
            Err(format!("{audit:?}"))
        }
    })
    .await
    .with_context(|| format!("seed {seed}"))?;
    let resent = fleet.edge("n1")?.status().await?.uplink.resent;
    let (broken, opened) = chaos.count();
    fleet.finish().await?;
    Ok(Report {
        audit,
        moods,
        broken,
        opened,
        resent,
    })
}
