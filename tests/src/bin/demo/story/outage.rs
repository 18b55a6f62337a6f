use std::time::Instant;

use anyhow::Result;
use fleet_tests::{Device, until};

use super::{BATCH, LIMIT, Story, VICTIM};
use crate::cameras::Pictures;

impl Story {
    /// SIGKILL to a node during ingest, and its return.
    pub(super) async fn kill_node(&mut self) -> Result<String> {
        self.after(40).await?;
        let device = self.device(VICTIM);
        let before = device.count();
        let edge = self.fleet.edge(VICTIM)?;
        edge.kill()?;
        let start = Instant::now();
        edge.start().await?;
        edge.serves("/hello", LIMIT).await?;
        let back = start.elapsed();
        until("the device's next acknowledgement", LIMIT, async || {
            if device.count() > before + BATCH {
                Ok(())
            } else {
                Err(format!("{} as before", device.count()))
            }
        })
        .await?;
        Ok(format!(
            "killed after {before} records, serves again after {:.0} ms, {} requests tried again",
            back.as_secs_f64() * 1e3,
            device.failures()
        ))
    }

    fn device(&self, id: &str) -> Device {
        let found = self.devices.iter().find(|(node, _)| *node == id);
        found.expect("each node has a device").1.clone()
    }

    async fn depth(&self) -> Result<u64> {
        let mut depth = 0;
        for edge in self.fleet.edges.values() {
            depth += edge
                .status()
                .await?
                .streams
                .iter()
                .map(|s| s.depth)
                .sum::<u64>();
        }
        Ok(depth)
    }

    /// A stop of the control plane, with everything local going on.
    pub(super) async fn cut_off(&mut self, pictures: &Pictures) -> Result<String> {
        self.fleet.control.stop().await?;
        let before = self.depth().await?;
        let acknowledged = self.acknowledged();
        let start = Instant::now();
        let mut judged = 0;
        for edge in self.fleet.edges.values() {
            let (status, body) = edge.get("/hello").await?;
            anyhow::ensure!(status == 200, "{} answers {status}: {body}", edge.id());
            judged += pictures.show_to(edge).await?.len();
        }
        self.after(400).await?;
        let grown = self.depth().await?;
        anyhow::ensure!(
            grown >= before + 3 * 400,
            "the buffers should have grown by 1200 records, but went from {before} to {grown}"
        );
        Ok(format!(
            "{judged} pictures judged and {} records acknowledged in {:.0} s alone, buffered {before} to {grown}",
            self.acknowledged() - acknowledged,
            start.elapsed().as_secs_f64()
        ))
    }

    /// The control plane's return, until the archive has all that was acknowledged before it.
    pub(super) async fn drain(&mut self) -> Result<String> {
        let backlog = self.depth().await?;
        // Sequences count from 1 or 0; what the device counts is a number of records.
        let goals: Vec<_> = self
            .devices
            .iter()
            .map(|(id, d)| (*id, d.count()))
            .collect();
        self.fleet.control.restart().await?;
        let api = self.fleet.api()?;
        let start = Instant::now();
        until("the backlog in the archive", LIMIT, async || {
            let archive = api.archive().await.map_err(|e| format!("{e:#}"))?;
            let late: Vec<_> = goals
                .iter()
                .map(|(id, goal)| {
                    let of = archive
                        .iter()
                        .find(|a| a.node.as_str() == *id && a.stream.as_str() == "vibration");
                    (id, of.map_or(0, |a| a.watermark), goal)
                })
                .filter(|(_, watermark, goal)| watermark < goal)
                .map(|(id, watermark, goal)| format!("{id} {watermark} of {goal}"))
                .collect();
            if late.is_empty() {
                Ok(())
            } else {
                Err(late.join(", "))
            }
        })
        .await?;
        let took = start.elapsed().as_secs_f64();
        let left = until("small buffers", LIMIT, async || {
            let depth = self.depth().await.map_err(|e| format!("{e:#}"))?;
            if depth < backlog / 5 {
                Ok(depth)
            } else {
                Err(depth.to_string())
            }
        })
        .await?;
        Ok(format!(
            "buffered {backlog} to {left}, archived in {took:.1} s"
        ))
    }
}
