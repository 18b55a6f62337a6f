//! What a model version counts, and how it is shown: Prometheus text with Triton's names, the protocol's statistics,
//! and the node's health.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
    via: [AtomicU64; Via::ALL.len()],
    pub(crate) runs: AtomicU64,
    pub(crate) queue_ns: AtomicU64,
    pub(crate) input_ns: AtomicU64,
    pub(crate) infer_ns: AtomicU64,
    pub(crate) output_ns: AtomicU64,
    last_ms: AtomicU64,
    /// From a request's arrival in the queue to its result; requests that were answered.
    pub(crate) latency: Histogram,
    /// The engine's run alone.
    pub(crate) run: Histogram,
    pub(crate) recent: RecentWindow,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            success: AtomicU64::default(),
            success_ns: AtomicU64::default(),
            failure: Default::default(),
            failure_ns: AtomicU64::default(),
            via: Default::default(),
            runs: AtomicU64::default(),
            queue_ns: AtomicU64::default(),
            input_ns: AtomicU64::default(),
            infer_ns: AtomicU64::default(),
            output_ns: AtomicU64::default(),
            last_ms: AtomicU64::default(),
            latency: Histogram::default(),
            run: Histogram::default(),
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

    fn label(self) -> &'static str {
        match self {
            FailureReason::Rejected => "REJECTED",
            FailureReason::Canceled => "CANCELED",
            FailureReason::Backend => "BACKEND",
            FailureReason::Other => "OTHER",
        }
    }

    pub(crate) fn of(error: &ModelError) -> FailureReason {
        match error {
            ModelError::QueueFull { .. } => FailureReason::Rejected,
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

    /// A run ended well.
    pub(crate) fn ran(&self, queued: Duration, ran: &Ran) {
        self.runs.fetch_add(1, Relaxed);
        self.queue_ns.fetch_add(ns(queued), Relaxed);
        self.input_ns.fetch_add(ns(ran.input), Relaxed);
        self.infer_ns.fetch_add(ns(ran.infer), Relaxed);
        self.output_ns.fetch_add(ns(ran.output), Relaxed);
        self.run.record(ran.infer);
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

/// One model version to show.
pub(crate) struct Shown<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) waiting: usize,
    pub(crate) sessions: usize,
    pub(crate) stats: &'a Stats,
}

impl Shown<'_> {
    fn labels(&self) -> String {
        // Names and versions hold no character that needs an escape.
        format!("model=\"{}\",version=\"{}\"", self.name, self.version)
    }
}

/// Writes all series in Prometheus's text format.
pub(crate) fn render(out: &mut String, models: &[Shown<'_>]) {
    write_all(out, models).expect("writing to a String cannot fail");
}

fn write_all(out: &mut String, models: &[Shown<'_>]) -> std::fmt::Result {
    type Value = fn(&Shown<'_>) -> u64;
    type Part = fn(&Stats) -> &Histogram;
    fn us(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed) / 1000
    }
    let plain: [(&str, &str, &str, Value); 10] = [
        (
            "nv_inference_request_success",
            "counter",
            "Requests answered",
            |m| m.stats.success.load(Relaxed),
        ),
        (
            "nv_inference_count",
            "counter",
            "Inferences, a batch counted by its size",
            |m| m.stats.runs.load(Relaxed),
        ),
        (
            "nv_inference_exec_count",
            "counter",
            "Runs of the model",
            |m| m.stats.runs.load(Relaxed),
        ),
        (
            "nv_inference_request_duration_us",
            "counter",
            "Time of answered requests, queue included",
            |m| us(&m.stats.success_ns),
        ),
        (
            "nv_inference_queue_duration_us",
            "counter",
            "Time that requests waited",
            |m| us(&m.stats.queue_ns),
        ),
        (
            "nv_inference_compute_input_duration_us",
            "counter",
            "Time to hand inputs over",
            |m| us(&m.stats.input_ns),
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "counter",
            "Time of runs",
            |m| us(&m.stats.infer_ns),
        ),
        (
            "nv_inference_compute_output_duration_us",
            "counter",
            "Time to take outputs back",
            |m| us(&m.stats.output_ns),
        ),
        (
            "nv_inference_pending_request_count",
            "gauge",
            "Requests that wait or run",
            |m| m.waiting as u64,
        ),
        (
            "edge_inference_sessions",
            "gauge",
            "Sessions of the model",
            |m| m.sessions as u64,
        ),
    ];
    for (name, kind, help, value) in plain {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for model in models {
            writeln!(out, "{name}{{{}}} {}", model.labels(), value(model))?;
        }
    }
    let name = "nv_inference_request_failure";
    writeln!(
        out,
        "# HELP {name} Requests that failed\n# TYPE {name} counter"
    )?;
    for model in models {
        for reason in FailureReason::ALL {
            let count = model.stats.failures(reason);
            writeln!(
                out,
                "{name}{{{},reason=\"{}\"}} {count}",
                model.labels(),
                reason.label()
            )?;
        }
    }
    let name = "edge_inference_requests_total";
    writeln!(
        out,
        "# HELP {name} Requests by the way they came\n# TYPE {name} counter"
    )?;
    for model in models {
        for via in Via::ALL {
            let count = model.stats.via[via as usize].load(Relaxed);
            writeln!(
                out,
                "{name}{{{},via=\"{}\"}} {count}",
                model.labels(),
                via.label()
            )?;
        }
    }
    let histograms: [(&str, &str, Part); 2] = [
        (
            "edge_inference_request_duration_seconds",
            "Latency of answered requests, queue included",
            |s| &s.latency,
        ),
        (
            "edge_inference_run_duration_seconds",
            "Duration of the engine's runs",
            |s| &s.run,
        ),
    ];
    for (name, help, histogram) in histograms {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        for model in models {
            histogram(model.stats)
                .snapshot()
                .render(out, name, &model.labels());
        }
    }
    Ok(())
}
