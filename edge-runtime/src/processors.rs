//! Handlers that work on streams: one task per stream hands its records to its
//! processor in batches, in order, and commits the outputs with the progress.
//!
//! ```text
//!  buffer ── batch from the cursor ──► handler ── outputs ──► one commit: outputs + cursor
//!     ▲                                   │ the guest fails 5 times
//!     └── batch set aside in <stream>.dead ◄┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::artifact::Reference;
use fleet_api::desired::StreamSpec;
use fleet_api::event::EventKind;
use fleet_api::ids::StreamName;
use fleet_api::units::ByteSize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::causes::chain;
use crate::handlers::{HandlerError, Handlers, ProcessRecord};
use crate::keyvalue::Batch;
use crate::streams::{AppendError, NewRecord, Row, Streams};

/// Most records in a batch.
const BATCH: usize = 256;
/// Tries of a batch before it is set aside.
const ATTEMPTS: u32 = 5;
/// Shortest and longest wait before a batch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
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

    /// Starts the processors of `streams` from where each has got to; those of before end
    /// at the end of their batch.
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
        let mut wait = Backoff::new(RETRY.0, RETRY.1);
        let mut attempts = 0;
        let mut changed = self.streams.changed();
        while !self.stop.is_cancelled() {
            match self.step(attempts).await {
                Ok(Step::Advanced) => {
                    wait.reset();
                    attempts = 0;
                }
                Ok(Step::Idle) => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        more = changed.changed() => if more.is_err() { return },
                    }
                }
                Err(error) => {
                    attempts += u32::from(error.is_of_the_batch());
                    tracing::warn!(
                        stream = %self.stream, processor = %self.processor, attempts,
                        reason = chain(&error), "a batch could not be processed",
                    );
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait.next()) => {}
                    }
                }
            }
        }
    }

    /// One batch: handed over and committed, or set aside after too many tries.
    async fn step(&self, failed_attempts: u32) -> Result<Step, StepError> {
        let stream = self.stream.as_str();
        let processor = self.processor.name.as_str();
        let from = self.streams.cursor(processor, stream) + 1;
        let batch = self.streams.read(stream, from, BATCH).await?;
        let Some(last) = batch.last().map(|row| row.seq) else {
            return Ok(Step::Idle);
        };
        let (outputs, values) = if failed_attempts >= ATTEMPTS {
            tracing::error!(
                stream,
                processor,
                from,
                last,
                "set a batch aside that cannot be processed"
            );
            let text = format!("{processor} cannot process {from} to {last}: set aside");
            let events = self.streams.events();
            events.note(EventKind::DeadLetter, Some(stream), text);
            (self.set_aside(&batch), None)
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
            let processed = self.handlers.process(processor, stream, records).await?;
            let outputs = processed
                .outputs
                .into_iter()
                .map(|output| (output.stream, NewRecord::new(output.encoding, output.value)))
                .collect();
            (outputs, processed.values)
        };
        let notes = values.as_ref().map(Batch::notes).unwrap_or_default();
        self.streams
            .commit_batch(processor, stream, last, outputs, notes)
            .await?;
        if let Some(values) = values {
            values.committed();
        }
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

/// Why a batch has not got further.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error(transparent)]
    Buffer(#[from] AppendError),
}

impl StepError {
    /// Whether the batch or what the guest made of it is at fault. A handler that is missing or
    /// busy and a buffer that is full pass by themselves, however long that takes.
    fn is_of_the_batch(&self) -> bool {
        match self {
            Self::Handler(error) => matches!(error, HandlerError::Call { .. }),
            Self::Buffer(error) => !error.is_retryable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_batch_brings_about_sets_it_aside() {
        let missing = HandlerError::NoProcessor("score".to_owned());
        assert!(!StepError::from(missing).is_of_the_batch());
        assert!(!StepError::from(AppendError::Busy).is_of_the_batch());
        assert!(StepError::from(AppendError::Empty).is_of_the_batch());
    }

    #[test]
    fn a_processed_stream_has_a_place_for_its_failed_batches() {
        let name = |text: &str| StreamName::new(text).expect("valid");
        let mut processed = StreamSpec::named(name("vibration"));
        processed.processor = Some("score:1".parse().expect("valid"));
        let streams = [processed, StreamSpec::named(name("plain"))];
        let all: Vec<_> = with_dead_letters(&streams)
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(
            all,
            [name("vibration"), name("plain"), name("vibration.dead")]
        );
    }
}
