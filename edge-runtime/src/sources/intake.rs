use std::time::Duration;

use fleet_api::ids::StreamName;
use tokio_util::sync::CancellationToken;

use super::report::Report;
use crate::backoff::Backoff;
use crate::streams::{AppendError, Mark, NewRecord, Streams};

/// Shortest and longest wait before a stream that took nothing is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A source's way into its stream.
#[derive(Clone)]
pub(super) struct Intake {
    pub streams: Streams,
    pub stream: StreamName,
    pub report: Report,
    pub stop: CancellationToken,
}

/// Why records are not in the stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The source is to stop; what it holds is read again after the next start.
    #[error("the source stops")]
    Stopped,
    /// The stream never takes them.
    #[error(transparent)]
    Refused(AppendError),
}

impl Intake {
    /// Makes `records` durable in order, and waits as long as the stream takes nothing.
    ///
    /// # Errors
    /// [`IntakeError::Refused`] if a record can never be stored; then none is.
    pub(super) async fn store(&self, records: Vec<NewRecord>) -> Result<(), IntakeError> {
        self.store_marked(records, None).await
    }

    /// As [`Intake::store`], with a mark in the same commit.
    ///
    /// # Errors
    /// As [`Intake::store`].
    pub(super) async fn store_marked(
        &self,
        records: Vec<NewRecord>,
        mark: Option<Mark>,
    ) -> Result<(), IntakeError> {
        let stream = self.stream.as_str();
        let mut pause = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let appended = tokio::select! {
                () = self.stop.cancelled() => return Err(IntakeError::Stopped),
                appended = self.streams.append_marked(stream, records.clone(), mark.clone()) => appended,
            };
            let Err(error) = appended else {
                self.report.stored(records.len());
                return Ok(());
            };
            if !may_pass(&error) {
                return Err(IntakeError::Refused(error));
            }
            self.report.waits(&error.to_string());
            tokio::select! {
                () = self.stop.cancelled() => return Err(IntakeError::Stopped),
                () = tokio::time::sleep(pause.next()) => {}
            }
        }
    }

    /// As [`Intake::store`], without waiting for a stream that is full.
    ///
    /// # Errors
    /// What the stream says.
    pub(super) async fn offer(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        let count = records.len();
        self.streams.append(self.stream.as_str(), records).await?;
        self.report.stored(count);
        Ok(())
    }

    /// Makes those of `records` durable that can be, with `mark` in the commit of the last one,
    /// and counts the others as lost.
    ///
    /// # Errors
    /// [`IntakeError::Stopped`] alone.
    pub(super) async fn store_what_fits(
        &self,
        records: Vec<NewRecord>,
        mark: Option<Mark>,
    ) -> Result<(), IntakeError> {
        match self.store_marked(records.clone(), mark.clone()).await {
            Err(IntakeError::Refused(_)) if records.len() > 1 => {}
            Err(IntakeError::Refused(error)) => {
                self.report.lost(records.len() as u64, &error.to_string());
                return Ok(());
            }
            other => return other,
        }
        let last = records.len() - 1;
        for (i, record) in records.into_iter().enumerate() {
            let mark = mark.clone().filter(|_| i == last);
            match self.store_marked(vec![record], mark).await {
                Err(IntakeError::Refused(error)) => self.report.lost(1, &error.to_string()),
                other => other?,
            }
        }
        Ok(())
    }
}

/// Whether the same records may be taken later. A missing stream may come with a deployment.
pub(super) fn may_pass(error: &AppendError) -> bool {
    error.is_retryable()
        || matches!(
            error,
            AppendError::Unknown { .. } | AppendError::Removed { .. }
        )
}
