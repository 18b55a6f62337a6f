use std::time::Duration;

use anyhow::Result;
use fleet_tests::archive::{self, Audit};
use fleet_tests::trial::kills;
use fleet_tests::{Device, Dice, Fleet, until};
use tokio_util::sync::CancellationToken;

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the device has some more acknowledgements.
async fn progress(device: &Device, records: u64) -> Result<()> {
    let goal = device.count() + records;
    until("acknowledgements", LIMIT, async || match device.count() {
        count if count >= goal => Ok(()),
        count => Err(format!("{count} of {goal}, {} failures", device.failures())),
    })
    .await
}

async fn all_exactly_once(fleet: &Fleet, device: &Device) -> Result<Audit> {
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until(
        "all acknowledged records in the archive",
        LIMIT,
        async || {
            let contents =
                archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
            let audit = Audit::of(&acknowledged, &contents);
            if audit.missing == 0 {
                Ok(audit)
            } else {
                Err(format!("{audit:?}"))
            }
        },
    )
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    assert!(audit.acknowledged > 0);
    Ok(audit)
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_kills_in_ingest_processing_and_drain_lose_and_double_nothing() -> Result<()> {
    let seed = Dice::seed("FLEET_KILL_SEED", 1);
    let done = kills(30, seed, |_| {}).await?;
    assert!(done.is_good(), "{done:#?}");
    assert!(done.failed_requests > 0, "no kill has met a request");
    assert!(done.audit.acknowledged > 2_000, "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_killed_archives_every_record_once() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.apply(fixtures::VIBRATION_STREAM).await?;
    fleet.committed().await?;
    let url = format!("{}/streams/vibration", fleet.edge("n1")?.url());
    let device = Device::new(url, fixtures::series()?, 7)?;
    let stop = CancellationToken::new();
    let sender = tokio::spawn({
        let (device, stop) = (device.clone(), stop.clone());
        async move { device.send(Duration::from_millis(2), stop).await }
    });
    for _ in 0..3 {
        progress(&device, 200).await?;
        fleet.control.kill()?;
        progress(&device, 100).await?;
        fleet.control.restart().await?;
        let (data_dir, goal) = (fleet.control.data_dir(), device.count());
        until("an archive that goes on", LIMIT, async || {
            let contents =
                archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
            if contents.len() as u64 >= goal {
                Ok(())
            } else {
                Err(format!("{} of {goal}", contents.len()))
            }
        })
        .await?;
    }
    stop.cancel();
    sender.await?;
    assert_eq!(
        device.failures(),
        0,
        "the node takes records with no control plane"
    );
    all_exactly_once(&fleet, &device).await?;
    fleet.finish().await
}
