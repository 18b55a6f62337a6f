use std::time::Duration;

use anyhow::Result;
use fleet_tests::archive::{self, Audit};
use fleet_tests::{Device, until};

use crate::fixtures::{self, greeting};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_from_its_disk_with_no_control_plane_in_reach() -> Result<()> {
    let mut fleet = fixtures::one_node_with_hello().await?;
    fleet.push_model("vibration:1", "vibration").await?;
    let stream = fixtures::VIBRATION_STREAM;
    fleet
        .apply(&format!(
            "{stream}[[model]]\nname = \"vibration\"\nversion = \"1\"\n"
        ))
        .await?;
    fleet.committed().await?;
    fleet.edge("n1")?.kill()?;
    fleet.control.stop().await?;

    let edge = fleet.edge("n1")?;
    edge.start().await?;
    edge.serves("/hello", LIMIT).await?;
    assert_eq!(greeting(edge).await?, "one");
    edge.serves("/v2/models/vibration/ready", LIMIT).await?;
    let device = Device::new(
        format!("{}/streams/vibration", edge.url()),
        fixtures::series()?,
        5,
    )?;
    for batch in 0..10 {
        device.send_batch(batch * 5).await?;
    }
    let health = edge.status().await?;
    assert!(
        !health.uplink.connected && health.uplink.reason.is_some(),
        "{:?}",
        health.uplink
    );
    let (status, rows) = edge.get("/streams/vibration?limit=1000").await?;
    assert_eq!((status, rows.lines().count()), (200, 50));

    fleet.control.restart().await?;
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        if audit.missing == 0 {
            Ok(audit)
        } else {
            Err(format!("{audit:?}"))
        }
    })
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    fleet.reaches("n1", "ok").await?;
    fleet.finish().await
}
