use std::time::Duration;

use anyhow::Result;
use fleet_tests::archive::{self, Audit};
use fleet_tests::trial::io_errors;
use fleet_tests::{Device, Dice, Shim, until};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn nothing_that_was_acknowledged_is_lost_whichever_call_to_the_disk_fails() -> Result<()> {
    let seed = Dice::seed("FLEET_IO_SEED", 2);
    let tally = io_errors(false, seed, |_| {})?;
    assert!(tally.is_good(), "{tally:#?}");
    // How many calls a run makes differs a little from run to run.
    assert!(tally.trials > 60, "{tally:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_ends_with_a_reason_and_has_everything_after_a_restart()
-> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.apply(fixtures::VIBRATION_STREAM).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    edge.stop().await?;
    let shim = Shim::of(&edge.data_dir().canonicalize()?)?.fail("sync:200:EIO:on");
    for (name, value) in shim.env() {
        edge.env(name, value);
    }
    edge.start().await?;
    let url = format!("{}/streams/vibration", edge.url());
    let device = Device::new(url, fixtures::series()?, 5)?;
    let mut sent = 0;
    let said = until("a refusal", LIMIT, async || {
        let batch = device.send_batch(sent).await;
        sent += 5;
        match batch {
            Ok(()) => Err(format!("{sent} were taken")),
            Err(error) => Ok(format!("{error:#}")),
        }
    })
    .await?;
    assert!(said.contains("503") && said.contains("buffer"), "{said}");
    let edge = fleet.edge("n1")?;
    let status = edge.ended(LIMIT).await?;
    assert!(!status.success(), "{status}");
    let log = std::fs::read_to_string(edge.log())?;
    assert!(log.contains("the buffer has failed"), "{log}");
    assert!(log.contains("start the node again"), "{log}");
    assert!(device.count() > 0, "nothing was taken before");

    edge.clear_env();
    edge.start().await?;
    device.send_batch(sent).await?;
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        (audit.missing == 0)
            .then_some(audit)
            .ok_or_else(|| format!("{audit:?}"))
    })
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    fleet.finish().await
}
