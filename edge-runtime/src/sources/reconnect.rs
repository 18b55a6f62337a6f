use std::error::Error;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::report::Report;
use crate::backoff::Backoff;
use crate::causes::chain;

/// Shortest and longest pause between two connections.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// How long a session may take to end once the source stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs sessions one after the other, with growing pauses.
pub(super) struct Reconnect {
    report: Report,
    stop: CancellationToken,
    pause: Backoff,
}

impl Reconnect {
    pub(super) fn new(intake: &Intake) -> Self {
        Self {
            report: intake.report.clone(),
            stop: intake.stop.clone(),
            pause: Backoff::new(PAUSE.0, PAUSE.1),
        }
    }

    /// Runs a session until it fails, or for a moment longer than the source is to run. True if the next one
    /// is to follow; a session that ends without an error is over for good.
    pub(super) async fn after<E: Error + 'static>(
        &mut self,
        session: impl Future<Output = Result<(), E>>,
    ) -> bool {
        let started = Instant::now();
        let overdue = async {
            self.stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let reason = tokio::select! {
            () = overdue => return false,
            ended = session => match ended {
                Ok(()) => return false,
                Err(error) => chain(&error),
            },
        };
        self.report.disconnected(&reason);
        // A connection that stood for a while was a good one.
        if started.elapsed() > PAUSE.1 {
            self.pause.reset();
        }
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(self.pause.next()) => true,
        }
    }
}
