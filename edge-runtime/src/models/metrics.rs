//! The models' figures in Prometheus's text format, with Triton's names where it has one, so that its dashboards work.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Via;
use super::shadow::Mirror;
use super::stats::{FailureReason, Stage, Stats};

/// Upper bounds of the batch-size histogram.
const BATCH_BOUNDS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// One model version to show.
pub(crate) struct Shown<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// Requests that wait, and runs under way.
    pub(crate) pending: usize,
    pub(crate) sessions: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) stats: &'a Stats,
    /// If it is a candidate that runs beside the default version.
    pub(crate) mirror: Option<&'a Mirror>,
}

impl Shown<'_> {
    fn labels(&self) -> String {
        // Names and versions hold no character that needs an escape.
        format!("model=\"{}\",version=\"{}\"", self.name, self.version)
    }
}

/// Writes all series.
pub(crate) fn render(out: &mut String, models: &[Shown<'_>]) {
    write_all(out, models).expect("writing to a String cannot fail");
}

/// One number for each model.
type Value = fn(&Shown<'_>) -> u64;

const PLAIN: [(&str, &str, &str, Value); 11] = [
    (
        "nv_inference_request_success",
        "counter",
        "Requests answered",
        |m| m.stats.success.load(Relaxed),
    ),
    (
        "nv_inference_count",
        "counter",
        "Inferences, a batch counted by its rows",
        |m| m.stats.rows.load(Relaxed),
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
        |m| m.stats.stage_ns(Stage::Queue) / 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "counter",
        "Time to hand inputs over",
        |m| m.stats.stage_ns(Stage::Input) / 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "counter",
        "Time of runs",
        |m| m.stats.stage_ns(Stage::Compute) / 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "counter",
        "Time to take outputs back",
        |m| m.stats.stage_ns(Stage::Output) / 1000,
    ),
    (
        "nv_inference_pending_request_count",
        "gauge",
        "Requests that wait or run",
        |m| m.pending as u64,
    ),
    (
        "edge_inference_sessions",
        "gauge",
        "Sessions of the model",
        |m| m.sessions as u64,
    ),
    (
        "edge_inference_memory_bytes",
        "gauge",
        "Memory of the model, as measured when it was loaded",
        |m| m.memory_bytes,
    ),
];

fn us(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed) / 1000
}

fn write_all(out: &mut String, models: &[Shown<'_>]) -> fmt::Result {
    for (name, kind, help, value) in PLAIN {
        head(out, name, kind, help)?;
        for model in models {
            writeln!(out, "{name}{{{}}} {}", model.labels(), value(model))?;
        }
    }
    let name = "nv_inference_request_failure";
    head(out, name, "counter", "Requests that failed")?;
    for model in models {
        for reason in FailureReason::ALL {
            let (labels, count) = (model.labels(), model.stats.failures(reason));
            writeln!(
                out,
                "{name}{{{labels},reason=\"{}\"}} {count}",
                reason.label()
            )?;
        }
    }
    let name = "edge_inference_requests_total";
    head(out, name, "counter", "Requests by the way they came")?;
    for model in models {
        for via in Via::ALL {
            let (labels, count) = (model.labels(), model.stats.via[via as usize].load(Relaxed));
            writeln!(out, "{name}{{{labels},via=\"{}\"}} {count}", via.label())?;
        }
    }
    let name = "edge_inference_request_duration_seconds";
    head(
        out,
        name,
        "histogram",
        "Latency of answered requests, queue included",
    )?;
    for model in models {
        let latency = model.stats.latency.snapshot();
        latency.render(out, name, &model.labels());
    }
    let name = "edge_inference_stage_duration_seconds";
    head(
        out,
        name,
        "histogram",
        "Where requests' time goes: queue, input, compute, output",
    )?;
    for model in models {
        for stage in Stage::ALL {
            let labels = format!("{},stage=\"{}\"", model.labels(), stage.label());
            model.stats.stages[stage as usize]
                .snapshot()
                .render(out, name, &labels);
        }
    }
    let name = "edge_inference_batch_rows";
    head(out, name, "histogram", "Rows of a run")?;
    for model in models {
        batch_sizes(out, name, model)?;
    }
    shadows(out, models)
}

fn shadows(out: &mut String, models: &[Shown<'_>]) -> fmt::Result {
    let mirrors: Vec<_> = models
        .iter()
        .filter_map(|model| {
            let mirror = model.mirror?;
            let labels = format!("{},of=\"{}\"", model.labels(), mirror.of());
            Some((labels, mirror))
        })
        .collect();
    if mirrors.is_empty() {
        return Ok(());
    }
    let name = "edge_inference_shadow_requests_total";
    head(
        out,
        name,
        "counter",
        "Requests copied to a candidate, by what came of them",
    )?;
    for (labels, mirror) in &mirrors {
        let figures = &mirror.figures;
        for (outcome, count) in [
            ("mirrored", &figures.mirrored),
            ("skipped", &figures.skipped),
            ("failed", &figures.failed),
            ("exact", &figures.exact),
            ("within_tolerance", &figures.within),
            ("top1_agree", &figures.top1),
        ] {
            let count = count.load(Relaxed);
            writeln!(out, "{name}{{{labels},outcome=\"{outcome}\"}} {count}")?;
        }
    }
    type Reading = fn(&Mirror) -> f64;
    let gauges: [(&str, &str, &str, Reading); 3] = [
        (
            "edge_inference_shadow_cpu_seconds_total",
            "counter",
            "Processor time of a candidate's runs",
            |m| m.figures.cpu_us.load(Relaxed) as f64 / 1e6,
        ),
        (
            "edge_inference_shadow_max_abs_diff",
            "gauge",
            "Largest difference of an element",
            Mirror::max_abs_diff,
        ),
        (
            "edge_inference_shadow_drift",
            "gauge",
            "Distance of the outputs' distributions",
            Mirror::drift,
        ),
    ];
    for (name, kind, help, reading) in gauges {
        head(out, name, kind, help)?;
        for (labels, mirror) in &mirrors {
            let value = reading(mirror);
            let value = if value.is_infinite() {
                "+Inf".to_owned()
            } else {
                value.to_string()
            };
            writeln!(out, "{name}{{{labels}}} {value}")?;
        }
    }
    Ok(())
}

fn batch_sizes(out: &mut String, name: &str, model: &Shown<'_>) -> fmt::Result {
    let (labels, batches) = (model.labels(), model.stats.batches());
    let up_to = |bound: usize| {
        batches
            .range(..=bound)
            .map(|(_, figures)| figures.runs)
            .sum::<u64>()
    };
    for bound in BATCH_BOUNDS {
        writeln!(
            out,
            "{name}_bucket{{{labels},le=\"{bound}\"}} {}",
            up_to(bound)
        )?;
    }
    let (all, rows) = (
        up_to(usize::MAX),
        batches
            .iter()
            .map(|(rows, figures)| *rows as u64 * figures.runs)
            .sum::<u64>(),
    );
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}")?;
    writeln!(
        out,
        "{name}_sum{{{labels}}} {rows}\n{name}_count{{{labels}}} {all}"
    )
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}
