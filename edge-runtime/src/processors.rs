//! Handlers that work on streams: one task per stream hands its records to its
//! processor in batches, in order, and commits the outputs with the progress.
//!
//! ```text
//!  buffer ── batch from the cursor ──► handler ── outputs ──► one commit: outputs + cursor
//!     ▲                                   │ fails 5 times
//!     └── batch set aside in <stream>.dead ◄┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::artifact::Reference;
use fleet_api::desired::StreamSpec;
use fleet_api::ids::StreamName;
use fleet_api::units::ByteSize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{Backoff, chain};
use crate::handlers::{Handlers, ProcessRecord};
use crate::streams::{NewRecord, Row, Streams};

/// Most records in a batch.
const BATCH: usize = 256;
/// Tries of a batch before it is set aside.
const ATTEMPTS: u32 = 5;
/// What the stream of failed batches may hold.
const DEAD_LETTER_QUOTA: ByteSize = ByteSize(16 << 20);

type Plan = BTreeMap<StreamName, Reference>;

/// The processors of all streams, as the desired state has them.
#[derive(Clone)]
pub struct Processors {
    plan: Arc<watch::Sender<Plan>>,
}

impl Processors {
    /// Processors that do nothing until [`Processors::configure`]; [`run`] does their work.
    #[expect(
        clippy::new_without_default,
        reason = "a processor set without its task is no default"
    )]
    pub fn new() -> Self {
        Self {
            plan: Arc::new(watch::Sender::new(Plan::new())),
        }
    }

    /// Ends all processors at the end of their batch.
    pub(crate) fn pause(&self) {
        self.plan.send_replace(Plan::new());
    }

    /// Starts the processors of `streams` from where each has got to.
    pub(crate) fn configure(&self, streams: &[StreamSpec]) {
        let plan = streams
            .iter()
            .filter_map(|s| Some((s.name.clone(), s.processor.clone()?)))
            .collect();
        self.plan.send_replace(plan);
    }
}

/// The streams as desired and, for each with a processor, the stream of its failed batches.
pub(crate) fn with_dead_letters(streams: &[StreamSpec]) -> Vec<StreamSpec> {
    let mut all = streams.to_vec();
    for stream in streams.iter().filter(|stream| stream.processor.is_some()) {
        let Some(name) = dead_letters(&stream.name) else {
            continue;
        };
        if !all.iter().any(|known| known.name == name) {
            all.push(StreamSpec {
                quota: DEAD_LETTER_QUOTA,
                ..StreamSpec::named(name)
            });
        }
    }
    all
}

/// `<stream>.dead`; none where that would be too long for a name.
fn dead_letters(stream: &StreamName) -> Option<StreamName> {
    StreamName::new(format!("{stream}.dead")).ok()
}

/// Runs the processors until `stop`; each plan's tasks end before the next plan's begin.
pub async fn run(
    processors: Processors,
    handlers: Handlers,
    streams: Streams,
    stop: CancellationToken,
) {
    let mut plan = processors.plan.subscribe();
    loop {
        let current = plan.borrow_and_update().clone();
        let round = stop.child_token();
        let mut tasks = JoinSet::new();
        for (stream, processor) in current {
            let work = Work {
                stream,
                processor,
                handlers: handlers.clone(),
                streams: streams.clone(),
                stop: round.clone(),
            };
            tasks.spawn(work.run());
        }
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            changed = plan.changed() => changed.is_err(),
        };
        round.cancel();
        while let Some(joined) = tasks.join_next().await {
            if let Err(error) = joined {
                tracing::error!(%error, "a processor's task has failed");
            }
        }
        if ended {
            return;
        }
    }
}

struct Work {
    stream: StreamName,
    processor: Reference,
    handlers: Handlers,
    streams: Streams,
    stop: CancellationToken,
}

impl Work {
    async fn run(self) {
        let mut wait = Backoff::new();
        let mut attempts = 0;
        let mut changed = self.streams.changed();
        while !self.stop.is_cancelled() {
            match self.step(attempts).await {
                Ok(Step::Advanced) => {
                    wait = Backoff::new();
                    attempts = 0;
                }
                Ok(Step::Idle) => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        more = changed.changed() => if more.is_err() { return },
                    }
                }
                Err(reason) => {
                    attempts += 1;
                    tracing::warn!(
                        stream = %self.stream, processor = %self.processor, attempts, reason,
                        "a batch could not be processed",
                    );
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait.next().min(Duration::from_secs(5))) => {}
                    }
                }
            }
        }
    }

    /// One batch: handed over and committed, or set aside after too many tries.
    async fn step(&self, failed_attempts: u32) -> Result<Step, String> {
        let stream = self.stream.as_str();
        let processor = self.processor.name.as_str();
        let from = self.streams.cursor(processor, stream) + 1;
        let batch = self
            .streams
            .read(stream, from, BATCH)
            .await
            .map_err(|error| chain(&error))?;
        let Some(last) = batch.last().map(|row| row.seq) else {
            return Ok(Step::Idle);
        };
        let outputs = if failed_attempts >= ATTEMPTS {
            tracing::error!(
                stream,
                processor,
                from,
                last,
                "set a batch aside that cannot be processed"
            );
            self.set_aside(&batch)
        } else {
            let records = batch
                .into_iter()
                .map(|row| ProcessRecord {
                    sequence: row.seq,
                    time_ms: row.record.time_ms,
                    encoding: row.record.encoding,
                    value: row.record.value,
                })
                .collect();
            let outputs = self
                .handlers
                .process(processor, stream, records)
                .await
                .map_err(|error| chain(&error))?;
            outputs
                .into_iter()
                .map(|output| (output.stream, NewRecord::new(output.encoding, output.value)))
                .collect()
        };
        self.streams
            .commit_processed(processor, stream, last, outputs)
            .await
            .map_err(|error| chain(&error))?;
        Ok(Step::Advanced)
    }

    fn set_aside(&self, batch: &[Row]) -> Vec<(String, NewRecord)> {
        let Some(name) = dead_letters(&self.stream) else {
            return Vec::new();
        };
        let copy = |row: &Row| NewRecord::new(row.record.encoding, row.record.value.clone());
        batch
            .iter()
            .map(|row| (name.to_string(), copy(row)))
            .collect()
    }
}

enum Step {
    Advanced,
    Idle,
}
