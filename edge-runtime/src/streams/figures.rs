use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fleet_api::health::BufferHealth;

use super::budget::Budget;
use super::state::Shared;
use crate::buffer::{Opened, Space};
use crate::latency::Histogram;

/// What is measured about the buffer as a whole.
pub(super) struct Figures {
    space: Space,
    open_time: Duration,
    quarantines: u64,
    pub disk_limit: u64,
    limit: AtomicU64,
    commits: Histogram,
    gaps: AtomicU64,
}

impl Figures {
    pub(super) fn new(opened: &Opened, disk_limit: u64) -> Self {
        Self {
            space: opened.space.clone(),
            open_time: opened.open_time,
            quarantines: opened.quarantines,
            disk_limit,
            limit: AtomicU64::new(Budget::new(disk_limit).limit()),
            commits: Histogram::default(),
            gaps: AtomicU64::new(0),
        }
    }

    /// Notes a durable commit.
    pub(super) fn committed(&self, took: Duration) {
        self.commits.record(took);
    }

    pub(super) fn limited(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// A gap was made.
    pub(super) fn add_gap(&self) {
        self.gaps.fetch_add(1, Relaxed);
    }
}

impl Shared {
    pub(super) fn buffer_health(&self) -> BufferHealth {
        let figures = &self.figures;
        let live_bytes = self
            .published()
            .states
            .values()
            .map(|s| s.all_bytes())
            .sum();
        let commits = figures.commits.snapshot();
        let micros = |q| u64::try_from(commits.quantile(q).as_micros()).unwrap_or(u64::MAX);
        let disk_bytes = self.store.disk_bytes();
        BufferHealth {
            epoch: self.epoch,
            live_bytes,
            limit_bytes: figures.limit.load(Relaxed),
            disk_bytes,
            max_bytes: figures.disk_limit,
            disk_ratio: if live_bytes == 0 {
                0.0
            } else {
                disk_bytes as f64 / live_bytes as f64
            },
            blobs: self.store.blobs(),
            free_bytes: figures.space.free_bytes(),
            open_ms: u64::try_from(figures.open_time.as_millis()).unwrap_or(u64::MAX),
            commits: figures.commits.count(),
            commit_p50_us: micros(0.5),
            commit_p99_us: micros(0.99),
            gaps: figures.gaps.load(Relaxed),
            quarantines: figures.quarantines,
            failed: self.failed.get().cloned(),
        }
    }
}
