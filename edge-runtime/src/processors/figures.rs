//! What processors have done since the runtime started.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fleet_api::artifact::Reference;
use fleet_api::health::ProcessorHealth;
use fleet_api::ids::StreamName;

/// Counters by stream; they outlive a change of the processor.
#[derive(Debug, Default)]
pub(super) struct Figures(Mutex<BTreeMap<StreamName, Counts>>);

/// What one stream's processor has done.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub batches: u64,
    pub records_in: u64,
    pub records_out: u64,
    pub failures: u64,
    pub dead_letters: u64,
    pub last_failure: Option<String>,
    /// Why it waits although there are records.
    pub waits_for: Option<String>,
    /// Time spent to read, to call and to commit.
    pub stages: [Duration; 3],
}

impl Figures {
    pub(super) fn change(&self, stream: &StreamName, change: impl FnOnce(&mut Counts)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(stream.clone()).or_default());
    }

    fn of(&self, stream: &StreamName) -> Counts {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(stream).cloned().unwrap_or_default()
    }

    pub(super) fn health(
        &self,
        stream: &StreamName,
        processor: &Reference,
        lag: u64,
    ) -> ProcessorHealth {
        let counts = self.of(stream);
        let us = |stage: Duration| u64::try_from(stage.as_micros()).unwrap_or(u64::MAX);
        ProcessorHealth {
            stream: stream.clone(),
            processor: processor.clone(),
            lag,
            batches: counts.batches,
            records_in: counts.records_in,
            records_out: counts.records_out,
            failures: counts.failures,
            dead_letters: counts.dead_letters,
            last_failure: counts.last_failure,
            waits_for: counts.waits_for,
            read_us: us(counts.stages[0]),
            call_us: us(counts.stages[1]),
            commit_us: us(counts.stages[2]),
        }
    }
}

/// Appends the figures in Prometheus's text format.
pub(crate) fn render_metrics(all: &[ProcessorHealth], out: &mut String) {
    type Figure = fn(&ProcessorHealth) -> u64;
    let figures: [(&str, &str, Figure); 6] = [
        ("edge_processor_lag_records", "gauge", |p| p.lag),
        ("edge_processor_batches_total", "counter", |p| p.batches),
        ("edge_processor_records_in_total", "counter", |p| {
            p.records_in
        }),
        ("edge_processor_records_out_total", "counter", |p| {
            p.records_out
        }),
        ("edge_processor_failures_total", "counter", |p| p.failures),
        ("edge_processor_dead_letters_total", "counter", |p| {
            p.dead_letters
        }),
    ];
    for (name, kind, value) in figures {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for p in all {
            let name_of = &p.processor.name;
            let _ = writeln!(
                out,
                "{name}{{stream=\"{}\",processor=\"{name_of}\"}} {}",
                p.stream,
                value(p)
            );
        }
    }
}
