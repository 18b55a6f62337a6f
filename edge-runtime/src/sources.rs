//! Sources: how a node gets records by itself, beside what devices post.
//!
//! ```text
//!  devices ── MQTT ─► listener ─────┐
//!  plant broker ── MQTT ────────────┤
//!  PLC ── Modbus TCP, polled ───────┼─► intake ─► stream (durable) ─► PUBACK, position
//!  PLC ── OPC UA, subscribed ───────┤
//!  file ── lines ───────────────────┘     ▲ full: the source waits
//! ```
//!
//! A task per source. Each connects again by itself, says how it does in a
//! [`SourceHealth`], and acknowledges nothing before it is durable.

mod file;
mod intake;
mod modbus;
mod mqtt;
#[cfg(feature = "opcua")]
mod opcua;
mod reading;
mod reconnect;
mod report;
mod secrets;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_api::health::SourceHealth;
use fleet_api::ids::Name;
use fleet_api::source::Source;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::secrets::SourceSecrets;

use self::intake::Intake;
use self::reconnect::Reconnect;
use self::report::Report;
use crate::streams::Streams;

/// How long a source whose task has failed waits before it starts anew.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The sources, as the desired state has them.
#[derive(Clone)]
pub struct Sources {
    wanted: Arc<watch::Sender<Vec<Source>>>,
    reports: Arc<Mutex<BTreeMap<Name, Report>>>,
}

/// What the sources work with.
#[derive(Clone)]
pub struct SourcesConfig {
    /// Who this node is, for brokers.
    pub node: String,
    /// Where secrets lie.
    pub secrets: SourceSecrets,
    /// Folder of the node's key for OPC UA servers, and of the certificates that it trusts.
    pub keys: PathBuf,
}

impl Sources {
    /// Sources that do nothing until [`Sources::configure`]; [`run`] does their work.
    #[expect(
        clippy::new_without_default,
        reason = "sources without their task are no default"
    )]
    pub fn new() -> Self {
        Self {
            wanted: Arc::new(watch::Sender::new(Vec::new())),
            reports: Arc::default(),
        }
    }

    /// Starts `sources`; those that run unchanged go on, those that are gone end.
    pub fn configure(&self, sources: &[Source]) {
        self.wanted.send_replace(sources.to_vec());
    }

    /// Figures per source.
    pub fn health(&self) -> Vec<SourceHealth> {
        self.reports().values().map(Report::health).collect()
    }

    /// Appends figures in Prometheus's text format, one series per source.
    pub fn render_metrics(&self, out: &mut String) {
        type Figure = fn(&SourceHealth) -> u64;
        let figures: [(&str, &str, Figure); 5] = [
            ("edge_source_connected", "gauge", |s| u64::from(s.connected)),
            ("edge_source_records_total", "counter", |s| s.records),
            ("edge_source_errors_total", "counter", |s| s.errors),
            ("edge_source_lost_total", "counter", |s| s.lost),
            ("edge_source_clients", "gauge", |s| s.clients),
        ];
        let sources = self.health();
        for (name, kind, value) in figures {
            writeln!(out, "# TYPE {name} {kind}").expect("writing to a String cannot fail");
            for source in &sources {
                let labels = format!("source=\"{}\",kind=\"{}\"", source.name, source.kind);
                writeln!(out, "{name}{{{labels}}} {}", value(source))
                    .expect("writing to a String cannot fail");
            }
        }
    }

    fn reports(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Running {
    source: Source,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs the sources until `stop`.
pub async fn run(
    sources: Sources,
    config: SourcesConfig,
    streams: Streams,
    stop: CancellationToken,
) {
    let mut wanted = sources.wanted.subscribe();
    let mut running: BTreeMap<Name, Running> = BTreeMap::new();
    loop {
        let plan = wanted.borrow_and_update().clone();
        let goes_on = |running: &Running| plan.contains(&running.source);
        let over: Vec<_> = running.extract_if(.., |_, r| !goes_on(r)).collect();
        end(&sources, over).await;
        for source in plan {
            if running.contains_key(&source.name) {
                continue;
            }
            let stop = stop.child_token();
            let report = Report::new(&source, streams.events().clone());
            sources
                .reports()
                .insert(source.name.clone(), report.clone());
            let context = Context {
                source: source.clone(),
                node: config.node.clone(),
                secrets: config.secrets.clone(),
                #[cfg(feature = "opcua")]
                keys: config.keys.clone(),
                intake: Intake {
                    streams: streams.clone(),
                    stream: source.stream.clone(),
                    report,
                    stop: stop.clone(),
                },
            };
            let name = source.name.clone();
            let task = tokio::spawn(supervise(context));
            running.insert(name, Running { source, stop, task });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = wanted.changed() => if changed.is_err() { break },
        }
    }
    end(&sources, running).await;
}

async fn end(sources: &Sources, over: impl IntoIterator<Item = (Name, Running)>) {
    let over: Vec<_> = over.into_iter().collect();
    for (_, running) in &over {
        running.stop.cancel();
    }
    for (name, running) in over {
        // A panic within was reported by `supervise`.
        let _ = running.task.await;
        sources.reports().remove(&name);
    }
}

/// What a source works with.
#[derive(Clone)]
struct Context {
    source: Source,
    node: String,
    secrets: SourceSecrets,
    #[cfg(feature = "opcua")]
    keys: PathBuf,
    intake: Intake,
}

impl Context {
    fn name(&self) -> &str {
        self.source.name.as_str()
    }
}

/// Keeps a source at work; a mistake in one protocol must not end the node.
async fn supervise(context: Context) {
    let (report, stop) = (context.intake.report.clone(), context.intake.stop.clone());
    loop {
        let ended = tokio::spawn(work(context.clone())).await;
        if stop.is_cancelled() {
            return;
        }
        match ended {
            Ok(()) => report.disconnected("the source ended by itself"),
            Err(error) => {
                tracing::error!(source = context.name(), %error, "a source has failed");
                report.disconnected("the source has failed; the log says how");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AFTER_FAILURE) => {}
        }
    }
}

async fn work(context: Context) {
    let source = &context.source;
    if let Some(mqtt) = &source.mqtt {
        mqtt::run(&context, mqtt).await;
    } else if let Some(modbus) = &source.modbus {
        modbus::run(&context, modbus).await;
    } else if let Some(file) = &source.file {
        file::run(&context, file).await;
    } else {
        #[cfg(feature = "opcua")]
        if let Some(opcua) = &source.opcua {
            return opcua::run(&context, opcua).await;
        }
        let kind = source.kind();
        let reason = format!("this runtime is built without {kind} sources");
        context.intake.report.disconnected(&reason);
        context.intake.stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests;
