//! A view of the fleet for SCADA systems that speak Sparkplug B: each node is an edge node, each
//! stream a device of it.
//!
//! ```text
//!  archive (durable) ─► SparkplugTask ─► one task and one connection per node ─► the plant's broker
//!                            ▲ who is online                  ▲ NCMD: rebirth
//! ```
//!
//! Sparkplug has no acknowledgement, so this is a view and not a way for data: what the plant's
//! broker misses is in the archive all the same, and nothing waits for it.

mod client;
mod edge_node;
mod payload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleet_api::frame::Record;
use fleet_api::ids::{NodeId, StreamName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::SparkplugConfig;
use crate::fleet::FleetHandle;
use client::NodeTask;

/// Batches of records that wait, for all nodes and again for each.
const WAITING: usize = 256;
/// How often it is asked who is online.
const ASK: Duration = Duration::from_secs(2);

/// Why there is no view for Sparkplug.
#[derive(Debug, thiserror::Error)]
pub enum SparkplugError {
    /// A file cannot be read.
    #[error("read {what} of the plant's broker {}: {source}", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file has no certificates.
    #[error("read the CA of the plant's broker {}: it holds no certificate in PEM form", .0.display())]
    Ca(PathBuf),
}

/// Records that have become durable.
struct Update {
    node: NodeId,
    stream: StreamName,
    records: Vec<Record>,
}

/// What a node's task hears.
enum NodeEvent {
    Records(StreamName, Vec<Record>),
    Online(bool),
}

/// Takes what is durable to the view.
#[derive(Clone)]
pub(crate) struct SparkplugHandle {
    streams: Arc<[String]>,
    updates: mpsc::Sender<Update>,
    /// Records that the view could not keep up with.
    dropped: Arc<AtomicU64>,
}

/// The view's task.
pub(crate) struct SparkplugTask {
    config: Arc<SparkplugConfig>,
    fleet: FleetHandle,
    updates: mpsc::Receiver<Update>,
    dropped: Arc<AtomicU64>,
}

impl SparkplugHandle {
    /// Shows records, if their stream is one to show. Never waits.
    pub(crate) fn show(&self, node: &NodeId, stream: &StreamName, records: &[Record]) {
        if !self
            .streams
            .iter()
            .any(|s| s == "*" || s == stream.as_str())
        {
            return;
        }
        let update = Update {
            node: node.clone(),
            stream: stream.clone(),
            records: records.to_vec(),
        };
        if self.updates.try_send(update).is_err() {
            count(&self.dropped, records.len());
        }
    }
}

fn count(dropped: &AtomicU64, records: usize) {
    let before = dropped.fetch_add(records as u64, Ordering::Relaxed);
    if before == 0 {
        tracing::warn!(
            "the view for Sparkplug cannot keep up; it leaves records out, the archive has them"
        );
    }
}

impl SparkplugTask {
    /// A view as the configuration says.
    ///
    /// # Errors
    /// [`SparkplugError`] if a file that the configuration names cannot be used.
    pub(crate) fn new(
        config: SparkplugConfig,
        fleet: FleetHandle,
    ) -> Result<(Self, SparkplugHandle), SparkplugError> {
        client::check(&config)?;
        let (updates, inbox) = mpsc::channel(WAITING);
        let handle = SparkplugHandle {
            streams: config.streams.clone().into(),
            updates,
            dropped: Arc::default(),
        };
        let task = Self {
            config: Arc::new(config),
            fleet,
            updates: inbox,
            dropped: Arc::clone(&handle.dropped),
        };
        Ok((task, handle))
    }

    /// Shows what comes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut nodes: BTreeMap<NodeId, mpsc::Sender<NodeEvent>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut ask = tokio::time::interval(ASK);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Update { node, stream, records }) = self.updates.recv() => {
                    let events = nodes.entry(node.clone()).or_insert_with(|| {
                        let (events, inbox) = mpsc::channel(WAITING);
                        let task = NodeTask::new(Arc::clone(&self.config), node, inbox);
                        tasks.spawn(task.run(stop.clone()));
                        events
                    });
                    let told = records.len();
                    if events.try_send(NodeEvent::Records(stream, records)).is_err() {
                        count(&self.dropped, told);
                    }
                }
                _ = ask.tick() => {
                    let Ok(known) = self.fleet.nodes().await else { continue };
                    let is_online = |id: &NodeId| known.iter().any(|n| n.id == *id && n.online);
                    for (node, events) in &nodes {
                        // Where the queue is full, the next question comes soon.
                        let _ = events.try_send(NodeEvent::Online(is_online(node)));
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}
