//! What a model version counts. `metrics.rs` shows it as Prometheus text, `http.rs` as the protocol's statistics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Via;
use super::backend::Ran;
use super::error::ModelError;
use crate::latency::{Histogram, RecentWindow};

/// How far p50 and p99 in the health look back, at most twice.
const RECENT: Duration = Duration::from_secs(60);

/// Counters of one model version.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) success: AtomicU64,
    pub(crate) success_ns: AtomicU64,
    failure: [AtomicU64; FailureReason::ALL.len()],
    pub(crate) failure_ns: AtomicU64,
    pub(crate) via: [AtomicU64; Via::ALL.len()],
    /// Runs of the model.
    pub(crate) runs: AtomicU64,
    /// Requests that were part of a run.
    pub(crate) ran_requests: AtomicU64,
    /// Rows of all runs, 1 for each request that is not batched.
    pub(crate) rows: AtomicU64,
    /// Times of all requests' stages; a request has the whole times of the run that it was part of.
    stage_ns: [AtomicU64; Stage::ALL.len()],
    pub(crate) stages: [Histogram; Stage::ALL.len()],
    /// Whether runs are told apart by their rows.
    batched: bool,
    batches: Mutex<BTreeMap<usize, BatchFigures>>,
    last_ms: AtomicU64,
    /// From a request's arrival in the queue to its result; requests that were answered.
    pub(crate) latency: Histogram,
    pub(crate) recent: RecentWindow,
}

/// Runs on the same number of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BatchFigures {
    pub(crate) runs: u64,
    pub(crate) input_ns: u64,
    pub(crate) infer_ns: u64,
    pub(crate) output_ns: u64,
}

/// Where a request's time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// From its arrival to its run.
    Queue,
    /// Handing the inputs to the engine.
    Input,
    /// The engine's run.
    Compute,
    /// Taking the outputs back.
    Output,
}

impl Stage {
    pub(crate) const ALL: [Stage; 4] = [Stage::Queue, Stage::Input, Stage::Compute, Stage::Output];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Input => "input",
            Stage::Compute => "compute",
            Stage::Output => "output",
        }
    }
}

impl Stats {
    /// `batched`: whether requests of the model are put together.
    pub(crate) fn new(batched: bool) -> Self {
        Self {
            success: AtomicU64::default(),
            success_ns: AtomicU64::default(),
            failure: Default::default(),
            failure_ns: AtomicU64::default(),
            via: Default::default(),
            runs: AtomicU64::default(),
            ran_requests: AtomicU64::default(),
            rows: AtomicU64::default(),
            stage_ns: Default::default(),
            stages: Default::default(),
            batched,
            batches: Mutex::default(),
            last_ms: AtomicU64::default(),
            latency: Histogram::default(),
            recent: RecentWindow::new(RECENT),
        }
    }
}

/// Why a request failed, in Triton's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureReason {
    /// Not taken: the queue was full.
    Rejected,
    /// Deadline, or the client went away.
    Canceled,
    /// The engine refused or failed.
    Backend,
    /// A request that does not fit the model.
    Other,
}

impl FailureReason {
    pub(crate) const ALL: [FailureReason; 4] = [
        FailureReason::Rejected,
        FailureReason::Canceled,
        FailureReason::Backend,
        FailureReason::Other,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            FailureReason::Rejected => "REJECTED",
            FailureReason::Canceled => "CANCELED",
            FailureReason::Backend => "BACKEND",
            FailureReason::Other => "OTHER",
        }
    }

    pub(crate) fn of(error: &ModelError) -> FailureReason {
        match error {
            ModelError::QueueFull { .. }
            | ModelError::TooBusy { .. }
            | ModelError::NotLoaded { .. } => FailureReason::Rejected,
            ModelError::Deadline { .. } => FailureReason::Canceled,
            ModelError::Refused { .. } | ModelError::Failed { .. } => FailureReason::Backend,
            _ => FailureReason::Other,
        }
    }
}

impl Via {
    pub(crate) const ALL: [Via; 3] = [Via::Http, Via::Grpc, Via::Wasm];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Via::Http => "http",
            Via::Grpc => "grpc",
            Via::Wasm => "wasm",
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Stats {
    /// A request came in.
    pub(crate) fn came(&self, via: Via) {
        self.via[via as usize].fetch_add(1, Relaxed);
    }

    /// A run on `rows` rows ended well. `queued` has an entry for each of its requests: how long it had waited.
    pub(crate) fn ran(&self, queued: &[Duration], rows: usize, ran: &Ran) {
        self.runs.fetch_add(1, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
        self.ran_requests.fetch_add(queued.len() as u64, Relaxed);
        for queued in queued {
            let times = [*queued, ran.input, ran.infer, ran.output];
            for (stage, time) in Stage::ALL.into_iter().zip(times) {
                self.stage_ns[stage as usize].fetch_add(ns(time), Relaxed);
                self.stages[stage as usize].record(time);
            }
        }
        if self.batched {
            let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
            let figures = batches.entry(rows).or_default();
            figures.runs += 1;
            figures.input_ns += ns(ran.input);
            figures.infer_ns += ns(ran.infer);
            figures.output_ns += ns(ran.output);
        }
    }

    /// The time that all requests spent in a stage, in nanoseconds.
    pub(crate) fn stage_ns(&self, stage: Stage) -> u64 {
        self.stage_ns[stage as usize].load(Relaxed)
    }

    /// Runs by their number of rows.
    pub(crate) fn batches(&self) -> BTreeMap<usize, BatchFigures> {
        if self.batched {
            return self
                .batches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
        }
        let single = BatchFigures {
            runs: self.runs.load(Relaxed),
            input_ns: self.stage_ns(Stage::Input),
            infer_ns: self.stage_ns(Stage::Compute),
            output_ns: self.stage_ns(Stage::Output),
        };
        if single.runs == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(1, single)])
        }
    }

    /// Rows in a run, on average; 1 before the first.
    pub(crate) fn batch_mean(&self) -> f64 {
        match self.runs.load(Relaxed) {
            0 => 1.0,
            runs => self.rows.load(Relaxed) as f64 / runs as f64,
        }
    }

    /// A request was answered.
    pub(crate) fn succeeded(&self, took: Duration) {
        self.success.fetch_add(1, Relaxed);
        self.success_ns.fetch_add(ns(took), Relaxed);
        self.latency.record(took);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last_ms
            .store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A request failed.
    pub(crate) fn failed(&self, reason: FailureReason, took: Duration) {
        self.failure[reason as usize].fetch_add(1, Relaxed);
        self.failure_ns.fetch_add(ns(took), Relaxed);
    }

    /// Requests that failed for `reason`.
    pub(crate) fn failures(&self, reason: FailureReason) -> u64 {
        self.failure[reason as usize].load(Relaxed)
    }

    /// Requests that failed.
    pub(crate) fn all_failures(&self) -> u64 {
        FailureReason::ALL
            .into_iter()
            .map(|reason| self.failures(reason))
            .sum()
    }

    /// The last answer, in milliseconds since the Unix epoch; 0 for never.
    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms.load(Relaxed)
    }
}
