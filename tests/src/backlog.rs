//! A backlog that has gathered while the control plane was away, and what it costs in memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::wait::until;

/// Bytes of one record and of one request.
const RECORD_BYTES: usize = 1_000;
const REQUEST_RECORDS: usize = 1_000;

/// What a backlog cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Bytes of records that were acknowledged.
    pub bytes: u64,
    /// Highest resident memory while it was filled, in bytes.
    pub rss_fill: u64,
    /// Highest resident memory at a start with the backlog there.
    pub rss_start: u64,
    /// Highest resident memory while it was drained.
    pub rss_drain: u64,
    /// How long filling took, in milliseconds.
    pub fill_ms: u128,
    /// How long the start took.
    pub start_ms: u128,
    /// How long draining took.
    pub drain_ms: u128,
}

impl Report {
    /// The highest of all.
    pub fn rss(&self) -> u64 {
        self.rss_fill.max(self.rss_start).max(self.rss_drain)
    }
}

/// Fills a node with `bytes` of records while its control plane is away, starts it anew, lets
/// the control plane come back, and waits until the archive has all.
///
/// # Errors
/// If a part cannot be started, a record is not taken, or not all arrives within `drain`.
pub async fn run(bytes: u64, drain: Duration) -> Result<Report> {
    let mut fleet = Fleet::start().await?;
    // A database takes a multiple of what it holds, and the default is a gigabyte.
    let max = (5 * bytes).max(1 << 30);
    fleet
        .join("n1", &[])
        .await?
        .configure(&format!("[buffer]\nmax = \"{max}B\""));
    fleet.edge("n1")?.start().await?;
    let quota = (3 * bytes).max(64 << 20);
    fleet
        .apply(&format!(
            "[deployment]\nname = \"streams\"\nselect = \"*\"\n[[stream]]\nname = \"bulk\"\nquota = \"{quota}B\"\non_full = \"reject\"\n"
        ))
        .await?;
    fleet.committed().await?;
    fleet.control.kill()?;
    let mut report = Report::default();

    let started = Instant::now();
    let edge = fleet.edge("n1")?;
    let mut sent = 0;
    while report.bytes < bytes {
        let mut body = Vec::with_capacity(REQUEST_RECORDS * (RECORD_BYTES + 1));
        for _ in 0..REQUEST_RECORDS {
            let head = format!("{{\"n\":{sent},\"pad\":\"");
            body.extend_from_slice(head.as_bytes());
            // Not the same everywhere, as measured values are not.
            let pad = RECORD_BYTES.saturating_sub(head.len() + 2);
            body.extend((0..pad).map(|at| b'a' + ((at as u64 * 31 + sent) % 26) as u8));
            body.extend_from_slice(b"\"}\n");
            sent += 1;
        }
        let size = body.len() as u64;
        let (status, answer) = edge
            .post("/streams/bulk", "application/x-ndjson", body)
            .await?;
        ensure!(status == 200, "{status}: {answer}");
        report.bytes += size;
    }
    report.fill_ms = started.elapsed().as_millis();
    report.rss_fill = peak(edge.pid())?;

    edge.kill()?;
    let started = Instant::now();
    edge.start().await?;
    report.start_ms = started.elapsed().as_millis();
    report.rss_start = peak(edge.pid())?;

    fleet.control.restart().await?;
    let started = Instant::now();
    let edge = fleet.edge("n1")?;
    until("an empty backlog", drain, async || {
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let bulk = health.streams.iter().find(|s| s.name.as_str() == "bulk");
        match bulk {
            Some(stream) if stream.acked_seq == Some(sent) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    report.drain_ms = started.elapsed().as_millis();
    report.rss_drain = peak(edge.pid())?;
    fleet.finish().await?;
    Ok(report)
}

/// The highest resident memory that a process ever had.
fn peak(pid: Option<u32>) -> Result<u64> {
    let pid = pid.context("the node does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("no VmHWM")?.parse()?;
    Ok(kib * 1024)
}
