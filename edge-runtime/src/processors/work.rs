//! The work of one stream's processor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_api::artifact::Reference;
use fleet_api::event::EventKind;
use fleet_api::ids::StreamName;
use tokio_util::sync::CancellationToken;

use super::dead_letters;
use super::figures::Figures;
use super::pace::{Pace, Verdict};
use crate::backoff::Backoff;
use crate::causes::chain;
use crate::handlers::{HandlerError, Handlers, ProcessRecord};
use crate::keyvalue::Batch;
use crate::streams::{AppendError, NewRecord, Row, Streams};

/// Shortest and longest wait before a batch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// The same for outputs that find no room.
const ROOM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) struct Work {
    pub stream: StreamName,
    pub processor: Reference,
    pub handlers: Handlers,
    pub streams: Streams,
    pub figures: Arc<Figures>,
    /// Ends the work at the end of a batch.
    pub stop: CancellationToken,
}

/// What a step came to.
enum Step {
    Advanced,
    Idle,
    /// The batch is to be tried again, at once or after a wait.
    Again,
    Later,
    Stopped,
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
    /// busy, an output stream that nobody has deployed and a full buffer are the operator's to
    /// mend, however long that takes.
    fn is_of_the_batch(&self) -> bool {
        match self {
            Self::Handler(error) => matches!(error, HandlerError::Call { .. }),
            Self::Buffer(error) => matches!(
                error,
                AppendError::LargerThanQuota { .. } | AppendError::ValueTooLarge { .. }
            ),
        }
    }
}

impl Work {
    pub(super) async fn run(self) {
        let mut wait = Backoff::new(RETRY.0, RETRY.1);
        let mut pace = Pace::default();
        let mut changed = self.streams.changed();
        while !self.stop.is_cancelled() {
            match self.step(&mut pace).await {
                Step::Advanced => wait.reset(),
                Step::Again => {}
                Step::Idle => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        more = changed.changed() => if more.is_err() { return },
                    }
                }
                Step::Later => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait.next()) => {}
                    }
                }
                Step::Stopped => return,
            }
        }
    }

    /// One batch: handed over and committed, narrowed down, or set aside.
    async fn step(&self, pace: &mut Pace) -> Step {
        let start = Instant::now();
        let batch = match self.read(pace).await {
            Ok(batch) => batch,
            Err(error) => return self.wait_for(&error.into()),
        };
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Step::Idle;
        };
        let (first, last) = (first.seq, last.seq);
        let read = start.elapsed();
        match self.work_on(&batch, last, read).await {
            Ok(None) => Step::Stopped,
            Ok(Some(call)) => {
                pace.succeeded(batch.len(), last, call);
                Step::Advanced
            }
            Err(error) if !error.is_of_the_batch() => self.wait_for(&error),
            Err(error) => {
                let reason = chain(&error);
                self.figures.change(&self.stream, |counts| {
                    counts.failures += 1;
                    counts.last_failure = Some(reason.clone());
                });
                let verdict = pace.failed(batch.len(), first, last);
                tracing::warn!(
                    stream = %self.stream, processor = %self.processor, first, last, ?verdict,
                    reason, "a batch could not be processed",
                );
                match verdict {
                    Verdict::Wait => Step::Later,
                    Verdict::Narrower => Step::Again,
                    Verdict::SetAside { attempts } => {
                        self.set_aside(pace, &batch[0], &reason, attempts).await
                    }
                }
            }
        }
    }

    async fn read(&self, pace: &Pace) -> Result<Vec<Row>, AppendError> {
        let (stream, processor) = (self.stream.as_str(), self.processor.name.as_str());
        let from = self.streams.cursor(processor, stream) + 1;
        let mut batch = self.streams.read(stream, from, pace.size()).await?;
        // A batch that has failed may have been evicted since; then what follows is another.
        if batch.first().is_some_and(|row| row.seq <= pace.last()) {
            batch.retain(|row| row.seq <= pace.last());
        }
        Ok(batch)
    }

    /// Calls the handler and commits what it makes of the batch. Gives the time of the call, none
    /// if it is time to stop.
    async fn work_on(
        &self,
        batch: &[Row],
        last: u64,
        read: Duration,
    ) -> Result<Option<Duration>, StepError> {
        let start = Instant::now();
        let records = batch.iter().map(|row| ProcessRecord {
            sequence: row.seq,
            time_ms: row.record.time_ms,
            encoding: row.record.encoding,
            value: row.record.value.clone(),
        });
        let (stream, processor) = (self.stream.as_str(), self.processor.name.as_str());
        let made = self.handlers.process(processor, stream, records.collect());
        let made = made.await?;
        let call = start.elapsed();
        let outputs: Vec<_> = made
            .outputs
            .into_iter()
            .map(|output| (output.stream, NewRecord::new(output.encoding, output.value)))
            .collect();
        let count = outputs.len() as u64;
        if !self.commit(last, outputs, made.values).await? {
            return Ok(None);
        }
        let commit = start.elapsed() - call;
        self.figures.change(&self.stream, |counts| {
            counts.batches += 1;
            counts.records_in += batch.len() as u64;
            counts.records_out += count;
            counts.waits_for = None;
            for (sum, took) in counts.stages.iter_mut().zip([read, call, commit]) {
                *sum += took;
            }
        });
        Ok(Some(call))
    }

    /// Commits progress, outputs and values together. Where there is no room it waits, and so
    /// do the records behind; false if it is time to stop before there was room.
    async fn commit(
        &self,
        last: u64,
        outputs: Vec<(String, NewRecord)>,
        values: Option<Batch>,
    ) -> Result<bool, AppendError> {
        let (stream, processor) = (self.stream.as_str(), self.processor.name.as_str());
        let mut wait = Backoff::new(ROOM.0, ROOM.1);
        loop {
            let notes = values.as_ref().map(Batch::notes).unwrap_or_default();
            let outputs = outputs.clone();
            let committed = self
                .streams
                .commit_batch(processor, stream, last, outputs, notes);
            match committed.await {
                Ok(()) => {
                    if let Some(values) = values {
                        values.committed();
                    }
                    return Ok(true);
                }
                Err(error) if error.wants_room() => {
                    let reason = error.to_string();
                    self.figures.change(&self.stream, |counts| {
                        if counts.waits_for.as_ref() != Some(&reason) {
                            tracing::warn!(stream, processor, reason, "a batch waits for room");
                        }
                        counts.waits_for = Some(reason);
                    });
                    tokio::select! {
                        () = self.stop.cancelled() => return Ok(false),
                        () = tokio::time::sleep(wait.next()) => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn set_aside(&self, pace: &mut Pace, row: &Row, reason: &str, attempts: u32) -> Step {
        let letter = dead_letters::letter(&self.stream, row, &self.processor, reason, attempts);
        // A deployment with a name that leaves no room for it is refused.
        let outputs = self.stream.dead_letters().into_iter();
        let outputs = outputs.map(|name| (name.to_string(), letter.clone()));
        match self.commit(row.seq, outputs.collect(), None).await {
            Ok(false) => Step::Stopped,
            Ok(true) => {
                tracing::error!(
                    stream = %self.stream, processor = %self.processor, seq = row.seq, attempts,
                    reason, "set a record aside that cannot be processed",
                );
                let text = format!("{} cannot process {}: {reason}", self.processor, row.seq);
                let events = self.streams.events();
                events.note(EventKind::DeadLetter, Some(self.stream.as_str()), text);
                self.figures.change(&self.stream, |counts| {
                    counts.dead_letters += 1;
                    counts.waits_for = None;
                });
                pace.set_aside(row.seq);
                Step::Advanced
            }
            Err(error) => self.wait_for(&error.into()),
        }
    }

    /// Notes what keeps the batch from getting further, through no fault of its own.
    fn wait_for(&self, error: &StepError) -> Step {
        let reason = chain(error);
        self.figures.change(&self.stream, |counts| {
            if counts.waits_for.as_ref() != Some(&reason) {
                tracing::warn!(
                    stream = %self.stream, processor = %self.processor, reason,
                    "a batch has to wait",
                );
            }
            counts.waits_for = Some(reason);
        });
        Step::Later
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
        let undeployed = AppendError::Removed {
            stream: "alerts".to_owned(),
        };
        assert!(!StepError::from(undeployed).is_of_the_batch());
        let large = AppendError::ValueTooLarge { bytes: 1 << 30 };
        assert!(StepError::from(large).is_of_the_batch());
    }
}
