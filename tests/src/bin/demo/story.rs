mod outage;
mod proof;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fleet_api::rest::ArchiveStream;
use fleet_tests::device::Series;
use fleet_tests::{Checkout, Device, Fleet, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cameras::Pictures;
use crate::report::Report;

/// The nodes and their labels.
const NODES: [(&str, &[&str]); 3] = [
    ("line-1", &["site=plant-07", "role=vision"]),
    ("line-2", &["site=plant-07", "role=vision"]),
    ("press-1", &["site=plant-12", "role=vision"]),
];
const VICTIM: &str = "line-1";
/// Records in a batch, and the time between two batches of a device.
const BATCH: u64 = 8;
const PAUSE: Duration = Duration::from_millis(25);
const LIMIT: Duration = Duration::from_secs(45);

/// The fleet with its devices and cameras.
pub(crate) struct Story {
    fleet: Fleet,
    devices: Vec<(&'static str, Device)>,
    senders: JoinSet<()>,
    stop: CancellationToken,
}

impl Story {
    /// Tells the whole story; the fleet is still up at its end.
    pub(crate) async fn tell(report: &mut Report) -> Result<Self> {
        let pictures = Pictures::load()?;
        let series = Series::load("vibration.ndjson")?;
        let mut fleet = None;
        report
            .step("a control plane starts", async {
                let new = fleet.insert(Fleet::start().await?);
                Ok(format!(
                    "{} and mqtt {}",
                    new.control.url(),
                    new.control.mqtt()
                ))
            })
            .await?;
        let fleet = fleet.expect("the step before has succeeded");
        let mut story = Self {
            fleet,
            devices: Vec::new(),
            senders: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        report
            .step("three nodes on two sites join", story.join())
            .await?;
        report
            .step("handlers and models are pushed", story.push())
            .await?;
        report
            .step(
                "deployments are applied and every node has committed",
                story.deploy(),
            )
            .await?;
        story.start_devices(&series)?;
        report
            .step("devices stream a measured series", story.stream())
            .await?;
        report
            .step("cameras send pictures", story.show(&pictures))
            .await?;
        report
            .step("a processor scores the series on the node", story.scored())
            .await?;
        story.table(report).await?;
        report
            .step(
                "a node is killed with SIGKILL during ingest and comes back",
                story.kill_node(),
            )
            .await?;
        report
            .step(
                "the control plane stops, the nodes serve, infer and buffer on",
                story.cut_off(&pictures),
            )
            .await?;
        report
            .step(
                "the control plane is back, the backlog drains",
                story.drain(),
            )
            .await?;
        report
            .step(
                "a new version goes live under load",
                story.update_under_load(),
            )
            .await?;
        report
            .step(
                "every acknowledged record is in the Parquet files exactly once",
                story.count(),
            )
            .await?;
        story.table(report).await?;
        Ok(story)
    }

    async fn join(&mut self) -> Result<String> {
        for (id, labels) in NODES {
            self.fleet.add(id, labels).await?;
        }
        let api = self.fleet.api()?;
        until("all nodes online", LIMIT, async || {
            let nodes = api.nodes().await.map_err(|e| format!("{e:#}"))?;
            let online = nodes.iter().filter(|n| n.online).count();
            if online == NODES.len() {
                Ok(())
            } else {
                Err(format!("{online} online"))
            }
        })
        .await?;
        Ok(NODES
            .map(|(id, labels)| format!("{id} ({})", labels.join(",")))
            .join(", "))
    }

    async fn push(&mut self) -> Result<String> {
        let mut bytes = 0;
        for (reference, name) in [
            ("hello:1.0.0", "hello"),
            ("inspect:1.0.0", "inspect"),
            ("vibration:1.0.0", "vibration"),
        ] {
            self.fleet.push_handler(reference, name).await?;
            bytes += Checkout::module(name)?.metadata()?.len();
        }
        for (reference, name) in [
            ("orientation:1", "orientation"),
            ("vibration:1", "vibration"),
        ] {
            self.fleet.push_model(reference, name).await?;
            bytes += Checkout::model(name)?.metadata()?.len();
        }
        Ok(format!(
            "3 handlers, 2 models, {}",
            indicatif::BinaryBytes(bytes)
        ))
    }

    async fn deploy(&mut self) -> Result<String> {
        let files = Checkout::root().join("examples/demo").display().to_string();
        self.fleet.edgectl.ok(["apply", "-f", &files]).await?;
        self.fleet.committed().await?;
        for edge in self.fleet.edges.values() {
            edge.serves("/hello", LIMIT).await?;
        }
        Ok(format!("3 deployments on {} nodes", NODES.len()))
    }

    fn start_devices(&mut self, series: &Series) -> Result<()> {
        for (id, _) in NODES {
            let url = format!("{}/streams/vibration", self.fleet.edge(id)?.url());
            let device = Device::new(url, series.clone(), BATCH)?;
            self.senders.spawn({
                let (device, stop) = (device.clone(), self.stop.clone());
                async move { device.send(PAUSE, stop).await }
            });
            self.devices.push((id, device));
        }
        Ok(())
    }

    fn acknowledged(&self) -> u64 {
        self.devices.iter().map(|(_, device)| device.count()).sum()
    }

    /// Waits until each device has so many acknowledgements more than now.
    async fn after(&self, more: u64) -> Result<()> {
        for (id, device) in &self.devices {
            let goal = device.count() + more;
            until(
                &format!("acknowledgements of {id}"),
                LIMIT,
                async || match device.count() {
                    count if count >= goal => Ok(()),
                    count => Err(format!("{count} of {goal}, {} failures", device.failures())),
                },
            )
            .await?;
        }
        Ok(())
    }

    async fn stream(&mut self) -> Result<String> {
        let start = Instant::now();
        self.after(400).await?;
        let rate = self.acknowledged() as f64 / start.elapsed().as_secs_f64();
        Ok(format!(
            "{} records durable and acknowledged, {rate:.0}/s",
            self.acknowledged()
        ))
    }

    async fn show(&mut self, pictures: &Pictures) -> Result<String> {
        let mut times = Vec::new();
        for edge in self.fleet.edges.values() {
            times.extend(pictures.show_to(edge).await?);
        }
        times.sort_by(f64::total_cmp);
        Ok(format!(
            "{} pictures judged on {} nodes, p50 {:.1} ms",
            pictures.count(),
            NODES.len(),
            times[times.len() / 2]
        ))
    }

    async fn scored(&mut self) -> Result<String> {
        let mut batches = 0;
        for edge in self.fleet.edges.values() {
            let what = format!("scores on {}", edge.id());
            batches += until(&what, LIMIT, async || {
                let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
                let done = health
                    .handlers
                    .iter()
                    .find(|h| h.name.as_str() == "vibration")
                    .map_or(0, |h| h.requests);
                let infers = health
                    .models
                    .iter()
                    .find(|m| m.name.as_str() == "vibration")
                    .map_or(0, |m| m.requests);
                if done > 0 && infers > 0 {
                    Ok(done)
                } else {
                    Err(format!("{done} batches, {infers} inferences"))
                }
            })
            .await?;
        }
        Ok(format!("{batches} batches"))
    }

    async fn table(&mut self, report: &Report) -> Result<()> {
        let archived = self.fleet.api()?.archive().await?;
        let mut rows = Vec::new();
        for (id, device) in &self.devices {
            let health = self.fleet.edges[*id].status().await?;
            let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.sum::<u64>().to_string();
            let forwarded = |stream: &str| {
                let of = |a: &&ArchiveStream| a.node.as_str() == *id && a.stream.as_str() == stream;
                archived
                    .iter()
                    .find(of)
                    .map_or(0, |a| a.watermark)
                    .to_string()
            };
            rows.push([
                (*id).to_owned(),
                sum(&mut health.handlers.iter().map(|h| h.requests)),
                sum(&mut health.models.iter().map(|m| m.requests)),
                device.count().to_string(),
                sum(&mut health.streams.iter().map(|s| s.depth)),
                forwarded("vibration"),
                forwarded("alerts"),
                sum(&mut health.handlers.iter().map(|h| h.errors)),
            ]);
        }
        let header = [
            "NODE",
            "SERVED",
            "INFERRED",
            "ACKNOWLEDGED",
            "BUFFERED",
            "FORWARDED",
            "ALERTS",
            "ERRORS",
        ];
        report.table(header, rows);
        Ok(())
    }

    /// Tells how to look around, and keeps the devices sending.
    pub(crate) async fn stay_up(&mut self, report: &mut Report) -> Result<()> {
        self.stop = CancellationToken::new();
        for (_, device) in self.devices.clone() {
            let stop = self.stop.clone();
            self.senders
                .spawn(async move { device.send(PAUSE, stop).await });
        }
        let rows = self
            .fleet
            .edges
            .values()
            .map(|e| [e.id().to_owned(), e.url(), e.admin_url()]);
        report.table(["NODE", "HTTP", "ADMIN"], rows.collect());
        let folder = self.fleet.control.data_dir().display();
        let edgectl = Checkout::program("edgectl")?;
        println!(
            "\ncontrol plane {}, its token is in {folder}/admin-token",
            self.fleet.control.url()
        );
        println!(
            "log in:       {} login --data-dir {folder}",
            edgectl.display()
        );
        println!("then try:     edgectl nodes, edgectl node {VICTIM}, edgectl deployments");
        let first = self
            .fleet
            .edges
            .values()
            .next()
            .context("there are nodes")?;
        println!("ask a node:   curl {}/hello", first.url());
        println!("Ctrl-C ends everything and removes it.");
        Ok(())
    }

    /// Ends everything in order.
    pub(crate) async fn finish(self) -> Result<String> {
        self.stop.cancel();
        let Self {
            fleet, mut senders, ..
        } = self;
        while senders.join_next().await.is_some() {}
        let processes = fleet.edges.len() + 1;
        fleet.finish().await?;
        Ok(format!("{processes} processes"))
    }
}
