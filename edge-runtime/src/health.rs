//! What the node measures about itself, gathered for MQTT, `/status`,
//! `/readyz` and `/metrics`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use fleet_api::health::{BufferHealth, Health, StreamHealth};
use fleet_api::ids::NodeId;
use fleet_api::reported::{ArtifactState, Reported};
use tokio::sync::watch;

use crate::agent::Workload;
use crate::clock::unix_ms;
use crate::disk::free_bytes;
use crate::gateway::Status;
use crate::processors;
use crate::uplink::UplinkHandle;

/// Where the control connection gets its figures from.
pub trait HealthSource: Send + Sync {
    /// The figures of this moment.
    fn health(&self) -> Health;
}

/// Looks at all parts of a running node.
pub struct NodeHealth {
    node: NodeId,
    data_dir: PathBuf,
    started: Instant,
    workload: Workload,
    reported: watch::Receiver<Reported>,
    uplink: UplinkHandle,
    processor_time: Mutex<(Instant, f64)>,
}

impl NodeHealth {
    /// Looks at the parts given; `data_dir` tells which disk counts.
    pub fn new(
        node: NodeId,
        data_dir: PathBuf,
        workload: Workload,
        reported: watch::Receiver<Reported>,
        uplink: UplinkHandle,
    ) -> Self {
        let now = Instant::now();
        Self {
            node,
            data_dir,
            started: now,
            workload,
            reported,
            uplink,
            processor_time: Mutex::new((now, process_seconds())),
        }
    }

    /// Share of one core since the last call, 1.0 is a whole core.
    fn cpu(&self) -> f64 {
        let mut last = self
            .processor_time
            .lock()
            .expect("nothing panics while it holds the lock");
        let (now, seconds) = (Instant::now(), process_seconds());
        let elapsed = now.duration_since(last.0).as_secs_f64();
        let share = if elapsed > 0.0 {
            (seconds - last.1) / elapsed
        } else {
            0.0
        };
        *last = (now, seconds);
        share
    }
}

impl HealthSource for NodeHealth {
    fn health(&self) -> Health {
        Health {
            v: 1,
            node: self.node.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            cpu: self.cpu(),
            rss_bytes: resident_bytes(),
            disk_free_bytes: free_bytes(&self.data_dir).unwrap_or(0),
            not_ready: self.not_ready(),
            handlers: self.workload.handlers.health(),
            models: self.workload.models.health(),
            streams: self.workload.streams.health(),
            processors: self.workload.processors.health(&self.workload.streams),
            sources: self.workload.sources.health(),
            buffer: Some(self.workload.streams.buffer_health()),
            uplink: self.uplink.health(),
            time_ms: unix_ms(),
        }
    }
}

impl Status for NodeHealth {
    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "health": self.health(),
            "last_faults": self.workload.handlers.last_faults(),
            "reported": *self.reported.borrow(),
        })
    }

    fn not_ready(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self.workload.models.engine_error().into_iter().collect();
        reasons.extend(self.workload.streams.failed());
        let reported = self.reported.borrow();
        if reported.serving_generation == reported.generation {
            let failed = reported
                .artifacts
                .iter()
                .filter(|a| a.state == ArtifactState::Failed);
            reasons.extend(failed.map(|report| {
                let reason = report.reason.as_deref().unwrap_or("no reason given");
                format!("{} does not serve: {reason}", report.artifact)
            }));
        }
        reasons
    }

    fn metrics(&self, out: &mut String) {
        self.workload.handlers.render_metrics(out);
        self.workload.models.render_metrics(out);
        stream_metrics(&self.workload.streams.health(), out);
        processors::render_metrics(
            &self.workload.processors.health(&self.workload.streams),
            out,
        );
        self.workload.sources.render_metrics(out);
        buffer_metrics(&self.workload.streams.buffer_health(), out);
        process_metrics(self.started, out);
        let uplink = self.uplink.health();
        let generation = self.reported.borrow().serving_generation;
        let figures: [(&str, &str, f64); 4] = [
            (
                "edge_uplink_connected",
                "gauge",
                f64::from(u8::from(uplink.connected)),
            ),
            (
                "edge_uplink_published_frames_total",
                "counter",
                uplink.published as f64,
            ),
            (
                "edge_uplink_resent_frames_total",
                "counter",
                uplink.resent as f64,
            ),
            ("edge_serving_generation", "gauge", generation as f64),
        ];
        for (name, kind, value) in figures {
            figure(out, name, kind, value);
        }
    }
}

/// Figures of the buffer, one series per stream.
fn stream_metrics(streams: &[StreamHealth], out: &mut String) {
    type Figure = fn(&StreamHealth) -> u64;
    let figures: [(&str, &str, Figure); 7] = [
        ("edge_stream_records", "gauge", |s| s.depth),
        ("edge_stream_bytes", "gauge", |s| s.bytes),
        ("edge_stream_retained_records", "gauge", |s| s.retained),
        ("edge_stream_retained_bytes", "gauge", |s| s.retained_bytes),
        ("edge_stream_oldest_age_ms", "gauge", |s| {
            s.oldest_age_ms.unwrap_or(0)
        }),
        ("edge_stream_evicted_records_total", "counter", |s| {
            s.evicted
        }),
        ("edge_stream_next_sequence", "counter", |s| s.next_seq),
    ];
    for (name, kind, value) in figures {
        writeln!(out, "# TYPE {name} {kind}").expect("writing to a String cannot fail");
        for stream in streams {
            writeln!(
                out,
                "{name}{{stream=\"{}\"}} {}",
                stream.name,
                value(stream)
            )
            .expect("writing to a String cannot fail");
        }
    }
}

/// Figures of the buffer under the streams.
fn buffer_metrics(buffer: &BufferHealth, out: &mut String) {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let figures: [(&str, &str, f64); 13] = [
        ("edge_buffer_live_bytes", "gauge", buffer.live_bytes as f64),
        (
            "edge_buffer_limit_bytes",
            "gauge",
            buffer.limit_bytes as f64,
        ),
        ("edge_buffer_disk_bytes", "gauge", buffer.disk_bytes as f64),
        ("edge_buffer_max_bytes", "gauge", buffer.max_bytes as f64),
        ("edge_buffer_disk_ratio", "gauge", buffer.disk_ratio),
        ("edge_buffer_free_bytes", "gauge", buffer.free_bytes as f64),
        ("edge_buffer_blobs", "gauge", buffer.blobs as f64),
        (
            "edge_buffer_open_seconds",
            "gauge",
            buffer.open_ms as f64 / 1e3,
        ),
        (
            "edge_buffer_commits_total",
            "counter",
            buffer.commits as f64,
        ),
        ("edge_buffer_gaps_total", "counter", buffer.gaps as f64),
        (
            "edge_buffer_quarantines",
            "gauge",
            buffer.quarantines as f64,
        ),
        (
            "edge_buffer_failed",
            "gauge",
            f64::from(u8::from(buffer.failed.is_some())),
        ),
        ("edge_buffer_epoch", "gauge", buffer.epoch as f64),
    ];
    for (name, kind, value) in figures {
        figure(out, name, kind, value);
    }
    let name = "edge_buffer_commit_seconds";
    writeln!(out, "# TYPE {name} summary").expect("writing to a String cannot fail");
    for (quantile, micros) in [
        ("0.5", buffer.commit_p50_us),
        ("0.99", buffer.commit_p99_us),
    ] {
        writeln!(out, "{name}{{quantile=\"{quantile}\"}} {}", seconds(micros))
            .expect("writing to a String cannot fail");
    }
}

/// Figures of the process itself, by Prometheus' usual names.
pub(crate) fn process_metrics(started: Instant, out: &mut String) {
    figure(
        out,
        "process_resident_memory_bytes",
        "gauge",
        resident_bytes() as f64,
    );
    figure(
        out,
        "process_cpu_seconds_total",
        "counter",
        process_seconds(),
    );
    figure(
        out,
        "process_uptime_seconds",
        "gauge",
        started.elapsed().as_secs_f64(),
    );
}

fn figure(out: &mut String, name: &str, kind: &str, value: f64) {
    writeln!(out, "# TYPE {name} {kind}\n{name} {value}").expect("writing to a String cannot fail");
}

/// Resident memory (`/proc/self/statm`, second field, in pages).
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Processor time of the process, user and system, in seconds (`clock_gettime(2)`).
fn process_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
