//! Figures of one handler version.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_api::health::HandlerHealth;
use fleet_api::ids::{Name, Version};

use crate::latency::{Histogram, RecentWindow};

const WINDOW: Duration = Duration::from_secs(60);

/// What is kept of a fault's text: names in its stack are the guest's and of any length.
const FAULT_BYTES: usize = 16 << 10;
/// What goes into each health message.
const SHORT_FAULT_BYTES: usize = 2 << 10;

/// Statuses that are counted, each for itself; a stranger one counts as the nearest.
const STATUSES: RangeInclusive<u16> = 100..=599;

/// How a call ended, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With this HTTP status; a batch counts as 200 or 500.
    Status(u16),
    /// The client went away first.
    Cancelled,
}

#[derive(Debug)]
pub(super) struct Stats {
    /// One counter for each status from 100 to 599.
    by_status: Box<[AtomicU64]>,
    cancelled: AtomicU64,
    refused: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    cpu_limits: AtomicU64,
    memory_limits: AtomicU64,
    node_memory: AtomicU64,
    response_bodies: AtomicU64,
    cpu_ns: AtomicU64,
    peak_memory: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    instances: AtomicU64,
    latency: Histogram,
    recent: RecentWindow,
    last_fault: Mutex<Option<String>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            by_status: STATUSES.map(|_| AtomicU64::new(0)).collect(),
            cancelled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            cpu_limits: AtomicU64::new(0),
            memory_limits: AtomicU64::new(0),
            node_memory: AtomicU64::new(0),
            response_bodies: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            peak_memory: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            instances: AtomicU64::new(0),
            latency: Histogram::default(),
            recent: RecentWindow::new(WINDOW),
            last_fault: Mutex::new(None),
        }
    }
}

/// What kind of fault stopped a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    Trap,
    Timeout,
    Cpu,
    Memory,
    /// The memory of all guests of the node is taken.
    NodeMemory,
    ResponseBody,
}

/// An instance that lives, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Alive(Arc<Stats>);

impl Alive {
    pub(super) fn new(stats: &Arc<Stats>) -> Self {
        stats.instances.fetch_add(1, Relaxed);
        Self(Arc::clone(stats))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Relaxed);
    }
}

impl Stats {
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, ending: Ending, took: Duration, cpu: Duration) {
        self.in_flight.fetch_sub(1, Relaxed);
        match ending {
            Ending::Status(status) => {
                let (first, last) = (*STATUSES.start(), *STATUSES.end());
                let place = status.clamp(first, last) - first;
                self.by_status[usize::from(place)].fetch_add(1, Relaxed);
                self.latency.record(took);
            }
            Ending::Cancelled => {
                self.cancelled.fetch_add(1, Relaxed);
            }
        }
        let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_ns.fetch_add(cpu, Relaxed);
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn memory(&self, bytes: usize) {
        self.peak_memory.fetch_max(bytes as u64, Relaxed);
    }

    pub(super) fn fault(&self, kind: FaultKind, text: String) {
        let counter = match kind {
            FaultKind::Trap => &self.traps,
            FaultKind::Timeout => &self.timeouts,
            FaultKind::Cpu => &self.cpu_limits,
            FaultKind::Memory => &self.memory_limits,
            FaultKind::NodeMemory => &self.node_memory,
            FaultKind::ResponseBody => &self.response_bodies,
        };
        counter.fetch_add(1, Relaxed);
        *self
            .last_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(cut(text, FAULT_BYTES));
    }

    /// The last fault with the guest's stack, if there was one.
    pub(super) fn last_fault(&self) -> Option<String> {
        self.last_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn waiting(&self) -> &AtomicU64 {
        &self.waiting
    }

    /// Calls that ended, by status.
    fn statuses(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = self.by_status.iter().map(|count| count.load(Relaxed));
        STATUSES.zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Calls that were stopped, by kind. The first five are the guest's own doing.
    fn faults(&self) -> [(&'static str, u64); 8] {
        [
            ("trap", &self.traps),
            ("timeout", &self.timeouts),
            ("cpu", &self.cpu_limits),
            ("memory", &self.memory_limits),
            ("response-body", &self.response_bodies),
            ("node-memory", &self.node_memory),
            ("cancelled", &self.cancelled),
            ("busy", &self.refused),
        ]
        .map(|(kind, count)| (kind, count.load(Relaxed)))
    }

    pub(super) fn health(&self, name: Name, version: Version) -> HandlerHealth {
        let recent = self.recent.look(&self.latency, Instant::now());
        let us = |q| u64::try_from(recent.quantile(q).as_micros()).unwrap_or(u64::MAX);
        let statuses: BTreeMap<_, _> = self.statuses().collect();
        let faults = self.faults();
        HandlerHealth {
            name,
            version,
            requests: statuses.values().sum(),
            errors: statuses.range(500..).map(|(_, count)| count).sum(),
            traps: faults[..5].iter().map(|(_, count)| count).sum(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            memory_bytes: self.peak_memory.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            instances: self.instances.load(Relaxed),
            cpu_ms: self.cpu_ns.load(Relaxed) / 1_000_000,
            statuses,
            faults: faults
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| (kind.to_owned(), count))
                .collect(),
            last_fault: self.last_fault().map(|text| cut(text, SHORT_FAULT_BYTES)),
        }
    }
}

fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

/// A figure without labels of its own: name, kind, help, value.
type Plain<'a> = (&'a str, &'a str, &'a str, &'a dyn Fn(&Stats) -> f64);

/// Writes the figures of all handlers in Prometheus's text format.
pub(super) fn render(out: &mut String, handlers: &[(String, &Stats)]) {
    let mut family = |name: &str, kind: &str, help: &str, series: &dyn Fn(&mut String)| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        series(out);
    };
    family(
        "edge_handler_requests_total",
        "counter",
        "Calls that ended, by status.",
        &|out| {
            for (labels, stats) in handlers {
                for (status, count) in stats.statuses() {
                    let _ = writeln!(
                        out,
                        "edge_handler_requests_total{{{labels},status=\"{status}\"}} {count}"
                    );
                }
            }
        },
    );
    family(
        "edge_handler_faults_total",
        "counter",
        "Calls that were stopped, by kind.",
        &|out| {
            for (labels, stats) in handlers {
                for (kind, count) in stats.faults() {
                    let _ = writeln!(
                        out,
                        "edge_handler_faults_total{{{labels},kind=\"{kind}\"}} {count}"
                    );
                }
            }
        },
    );
    let seconds = |counter: &AtomicU64| counter.load(Relaxed) as f64 / 1e9;
    let plain: [Plain<'_>; 5] = [
        (
            "edge_handler_cpu_seconds_total",
            "counter",
            "CPU time of the handler's calls.",
            &|s| seconds(&s.cpu_ns),
        ),
        (
            "edge_handler_peak_memory_bytes",
            "gauge",
            "Highest memory of an instance.",
            &|s| s.peak_memory.load(Relaxed) as f64,
        ),
        (
            "edge_handler_in_flight",
            "gauge",
            "Calls under way.",
            &|s| s.in_flight.load(Relaxed) as f64,
        ),
        (
            "edge_handler_waiting",
            "gauge",
            "Calls that wait for their turn.",
            &|s| s.waiting.load(Relaxed) as f64,
        ),
        (
            "edge_handler_instances",
            "gauge",
            "Instances that live, at work or warm.",
            &|s| s.instances.load(Relaxed) as f64,
        ),
    ];
    for (name, kind, help, value) in plain {
        family(name, kind, help, &|out| {
            for (labels, stats) in handlers {
                let _ = writeln!(out, "{name}{{{labels}}} {}", value(stats));
            }
        });
    }
    family(
        "edge_handler_request_seconds",
        "histogram",
        "Time from a request to the end of its answer.",
        &|out| {
            for (labels, stats) in handlers {
                stats
                    .latency
                    .snapshot()
                    .render(out, "edge_handler_request_seconds", labels);
            }
        },
    );
}
