use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_util::sync::CancellationToken;

use crate::archive::{self, Audit};
use crate::device::Series;
use crate::dice::Dice;
use crate::wait::until;
use crate::{Device, Fleet};

/// A stream whose processor makes an alert of every record: no score is above the threshold.
const DEPLOYMENT: &str = r#"
[deployment]
name = "monitoring"
select = "*"
[[handler]]
name = "vibration"
version = "1.0.0"
allow = { models = ["vibration"], streams = ["alerts"] }
config = { threshold = "1000000" }
[[model]]
name = "vibration"
version = "1"
[[stream]]
name = "vibration"
quota = "256MiB"
processor = "vibration:1.0.0"
[[stream]]
name = "alerts"
quota = "256MiB"
priority = 9
"#;
const NODE: &str = "n1";
const BATCH: u64 = 7;
const LIMIT: Duration = Duration::from_secs(60);
/// Time for everything to be archived at the end.
const SETTLE: Duration = Duration::from_secs(300);

/// What kills have come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kills {
    /// Kills of the node.
    pub kills: u64,
    /// Kills of the control plane.
    pub control_plane_kills: u64,
    /// Requests that a kill has met.
    pub failed_requests: u64,
    /// How the archive compares with the acknowledgements.
    pub audit: Audit,
    /// Records of the stream that have no output.
    pub without_output: u64,
    /// Records of the stream that have more than one output.
    pub doubled_outputs: u64,
    /// Whether sequences have the order in which the device was answered.
    pub in_order: bool,
}

impl Kills {
    /// Whether nothing is missing, doubled or out of order.
    pub fn is_good(&self) -> bool {
        let outputs = self.without_output + self.doubled_outputs;
        self.audit.is_exactly_once() && self.in_order && outputs == 0
    }
}

/// Kills a node again and again: a third of the times while it takes records in, forwards and
/// processes them; a third while there is no control plane and records pile up; a third
/// while it drains what has piled up, and the control plane is killed once as well.
///
/// # Errors
/// If a program does not come back, or not all is archived in the end.
pub async fn kills(kills: u64, seed: u64, mut progress: impl FnMut(u64)) -> Result<Kills> {
    let mut dice = Dice::new(seed);
    let mut fleet = Fleet::start().await?;
    fleet.add(NODE, &[]).await?;
    fleet.push_handler("vibration:1.0.0", "vibration").await?;
    fleet.push_model("vibration:1", "vibration").await?;
    fleet.apply(DEPLOYMENT).await?;
    fleet.committed().await?;
    let url = format!("{}/streams/vibration", fleet.edge(NODE)?.url());
    let device = Device::new(url, Series::load("vibration.ndjson")?, BATCH)?;
    let stop = CancellationToken::new();
    let sender = tokio::spawn({
        let (device, stop) = (device.clone(), stop.clone());
        async move { device.send(Duration::ZERO, stop).await }
    });

    let mut done = Kills::default();
    while done.kills < kills {
        // Thirty kills are one round through the three phases.
        let phase = done.kills * 3 / kills.min(30) % 3;
        match (phase, fleet.control.runs()) {
            (1, true) => {
                fleet.control.kill()?;
                done.control_plane_kills += 1;
            }
            (0 | 2, false) => fleet.control.restart().await?,
            _ => {}
        }
        if phase == 2 {
            forwarded(&fleet).await?;
        } else {
            taken(&device, 10 + dice.below(300)).await?;
        }
        let edge = fleet.edge(NODE)?;
        edge.kill()?;
        edge.start().await?;
        done.kills += 1;
        progress(done.kills);
    }
    taken(&device, 50).await?;
    stop.cancel();
    sender.await?;
    if !fleet.control.runs() {
        fleet.control.restart().await?;
    }
    settle(&fleet, &device, &mut done).await?;
    done.failed_requests = device.failures();
    done.in_order = device.is_in_order().await;
    fleet.finish().await?;
    Ok(done)
}

/// Waits until the device has some more acknowledgements.
async fn taken(device: &Device, records: u64) -> Result<()> {
    let goal = device.count() + records;
    until("acknowledgements", LIMIT, async || match device.count() {
        count if count >= goal => Ok(()),
        count => Err(format!("{count} of {goal}, {} failures", device.failures())),
    })
    .await
}

/// Waits until the archive has got some more records.
async fn forwarded(fleet: &Fleet) -> Result<()> {
    let api = fleet.api()?;
    let archived = async || {
        let streams = api.archive().await.map_err(|e| format!("{e:#}"))?;
        Ok::<u64, String>(streams.iter().map(|stream| stream.records).sum())
    };
    let before = archived().await.map_err(anyhow::Error::msg)?;
    until("records that are forwarded", LIMIT, async || {
        let now = archived().await?;
        if now > before {
            Ok(())
        } else {
            Err(format!("{now}"))
        }
    })
    .await
}

/// Waits until everything acknowledged and all outputs are archived, and counts them.
async fn settle(fleet: &Fleet, device: &Device, done: &mut Kills) -> Result<()> {
    let acknowledged = device.acknowledged().await;
    let epochs: std::collections::BTreeSet<_> =
        acknowledged.keys().map(|(epoch, _)| epoch).collect();
    ensure!(
        epochs.len() == 1,
        "the buffer had several epochs: {epochs:?}"
    );
    let data_dir = fleet.control.data_dir();
    let looked = until(
        "all records and outputs in the archive",
        SETTLE,
        async || {
            let text = |e: anyhow::Error| format!("{e:#}");
            let contents = archive::read(data_dir, NODE, "vibration").map_err(text)?;
            let audit = Audit::of(&acknowledged, &contents);
            let outputs =
                outputs(&archive::read(data_dir, NODE, "alerts").map_err(text)?).map_err(text)?;
            let without = contents
                .keys()
                .filter(|(_, seq)| !outputs.contains_key(seq));
            let without = without.count() as u64;
            done.audit = audit;
            done.without_output = without;
            done.doubled_outputs = outputs.values().filter(|count| **count > 1).count() as u64;
            if audit.missing == 0 && without == 0 {
                Ok(())
            } else {
                Err(format!("{audit:?}, {without} without an output"))
            }
        },
    )
    .await;
    // What is missing is told by the figures.
    if let Err(error) = looked {
        eprintln!("{error:#}");
    }
    Ok(())
}

/// How many alerts there are of each record.
fn outputs(alerts: &archive::Contents) -> Result<BTreeMap<u64, u64>> {
    let mut counts = BTreeMap::new();
    for value in alerts.values().flatten() {
        let alert: serde_json::Value = serde_json::from_slice(value)?;
        let seq = alert["sequence"].as_u64().context("an alert's sequence")?;
        *counts.entry(seq).or_default() += 1;
    }
    Ok(counts)
}
