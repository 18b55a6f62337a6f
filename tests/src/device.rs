use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::checkout::Checkout;
use crate::http;

/// A measured series: one JSON text per record.
#[derive(Debug, Clone)]
pub struct Series(Arc<Vec<String>>);

impl Series {
    /// Reads a series of `artifacts/data/`.
    ///
    /// # Errors
    /// If it is not there or empty.
    pub fn load(name: &str) -> Result<Self> {
        let text = std::fs::read_to_string(Checkout::artifact(&format!("data/{name}"))?)?;
        let lines: Vec<_> = text
            .lines()
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect();
        anyhow::ensure!(!lines.is_empty(), "the series {name} is empty");
        Ok(Self(Arc::new(lines)))
    }

    /// The record of a position; the series repeats.
    pub fn record(&self, position: u64) -> &str {
        let at = position % self.0.len() as u64;
        &self.0[usize::try_from(at).expect("below the length of a vector")]
    }

    /// How many records it has before it repeats.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none; never true.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The place of a record in a stream of a node: epoch and sequence.
pub type Place = (u64, u64);

/// What a node answers to records.
#[derive(Debug, Deserialize)]
struct Accepted {
    epoch: u64,
    first_seq: u64,
    last_seq: u64,
}

/// A device beside one node. It sends a series in batches, one after the other, sends a batch
/// again until it is acknowledged, and remembers under which sequence each record was.
#[derive(Debug, Clone)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    series: Series,
    batch: u64,
    http: reqwest::Client,
    /// By place, the position in the series.
    acknowledged: Mutex<BTreeMap<Place, u64>>,
    count: AtomicU64,
    failures: AtomicU64,
}

impl Device {
    /// A device that sends `series` to the stream at `url`, `batch` records at a time.
    ///
    /// # Errors
    /// If no HTTP client can be built.
    pub fn new(url: String, series: Series, batch: u64) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            url,
            series,
            batch,
            http: http::plain()?,
            acknowledged: Mutex::default(),
            count: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })))
    }

    /// Sends until `stop`; `pause` lies between two batches.
    pub async fn send(&self, pause: std::time::Duration, stop: CancellationToken) {
        let mut position = 0;
        while !stop.is_cancelled() {
            if self.send_batch(position).await.is_ok() {
                position += self.0.batch;
            } else {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sends the batch that begins at a position of the series, once.
    ///
    /// # Errors
    /// If it is not acknowledged.
    pub async fn send_batch(&self, position: u64) -> Result<()> {
        let inner = &*self.0;
        let records: Vec<_> = (position..position + inner.batch)
            .map(|p| inner.series.record(p))
            .collect();
        let request = inner
            .http
            .post(&inner.url)
            .header("content-type", "application/x-ndjson");
        let response = request.body(records.join("\n")).send().await?;
        let (status, body) = (response.status(), response.bytes().await?);
        anyhow::ensure!(
            status == 200,
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        let accepted: Accepted = serde_json::from_slice(&body).context("the acknowledgement")?;
        let count = accepted.last_seq + 1 - accepted.first_seq;
        anyhow::ensure!(
            count == inner.batch,
            "{count} of {} records were acknowledged",
            inner.batch
        );
        let mut all = inner.acknowledged.lock().await;
        for (seq, position) in (accepted.first_seq..=accepted.last_seq).zip(position..) {
            let before = all.insert((accepted.epoch, seq), position);
            anyhow::ensure!(before.is_none(), "sequence {seq} was given to two records");
        }
        inner.count.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Records that have been acknowledged so far.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Batches that were not acknowledged and were sent again.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Whether the sequences have the order in which the records were acknowledged.
    pub async fn is_in_order(&self) -> bool {
        let all = self.0.acknowledged.lock().await;
        all.values().is_sorted_by(|one, next| one < next)
    }

    /// Under which place each record was acknowledged, with its text.
    pub async fn acknowledged(&self) -> BTreeMap<Place, String> {
        let all = self.0.acknowledged.lock().await;
        all.iter()
            .map(|(place, at)| (*place, self.0.series.record(*at).to_owned()))
            .collect()
    }
}
